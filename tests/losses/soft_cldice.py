"""The truth about centre lines: minima and maxima of neighbours, one pixel after the other."""

from itertools import product

import torch
from proofs import Bars, Example, RowProof, Variant


class Line:
    """A number and its slopes by the pixels of the prediction: what has a minimum has the slopes of the least."""

    def __init__(self, value, slopes):
        self.value, self.slopes = value, slopes

    def of(self, value, *parts):
        """A function of lines with this value, whose slopes by them are given."""
        slopes = {}
        for line, factor in parts:
            for pixel, slope in line.slopes.items():
                slopes[pixel] = slopes.get(pixel, 0) + factor * slope
        return Line(value, slopes)

    def __add__(self, other):
        return self.of(self.value + other.value, (self, 1), (other, 1))

    def __sub__(self, other):
        return self.of(self.value - other.value, (self, 1), (other, -1))

    def __mul__(self, other):
        return self.of(self.value * other.value, (self, other.value), (other, self.value))

    def __truediv__(self, other):
        share = self.value / other.value
        return self.of(share, (self, 1 / other.value), (other, -share / other.value))


def positive(line):
    return line if line.value > 0 else Line(0 * line.value, {})


def neighbours(image, i, j, cross):
    rows, columns = len(image), len(image[0])
    for a, b in product((-1, 0, 1), repeat=2):
        if (not (cross and a and b)) and 0 <= i + a < rows and 0 <= j + b < columns:
            yield image[i + a][j + b]


def every(image, function):
    return [[function(i, j) for j in range(len(image[0]))] for i in range(len(image))]


def ridges(image):
    less = every(image, lambda i, j: min(neighbours(image, i, j, True), key=lambda line: line.value))
    opened = every(less, lambda i, j: max(neighbours(less, i, j, False), key=lambda line: line.value))
    return every(image, lambda i, j: positive(image[i][j] - opened[i][j])), less


def skeleton(image, iters):
    found, image = ridges(image)
    for _ in range(iters):
        own, image = ridges(image)
        found = every(found, lambda i, j: found[i][j] + positive(own[i][j] - found[i][j] * own[i][j]))
    return found


def of_class(p, t, one, smooth):
    total = lambda image: sum((line for row in image for line in row), Line(0 * one, {}))
    s, q, extra = skeleton(p, 3), skeleton(t, 3), Line(smooth, {})
    inside = every(p, lambda i, j: s[i][j] * t[i][j])
    found = every(p, lambda i, j: q[i][j] * p[i][j])
    precision = (total(inside) + extra) / (total(s) + extra)
    recall = (total(found) + extra) / (total(q) + extra)
    return Line(one, {}) - Line(2 * one, {}) * precision * recall / (precision + recall)


def exact(m, input, target, iters=3, smooth=1.0):
    assert iters == 3
    name = lambda which, image, c: every(image, lambda i, j: Line(image[i][j], {(which, c, i, j): m.one}))
    loss, classes = Line(m.zero, {}), Line(m.one * len(input), {})
    for c, (p, t) in enumerate(zip(input, target, strict=True)):
        loss = loss + of_class(name(0, p, c), name(1, t, c), m.one, m.one * smooth) / classes
    gradients = {
        which: [every(x, lambda i, j, c=c: loss.slopes.get((which, c, i, j), m.zero)) for c, x in enumerate(image)]
        for which, image in enumerate((input, target))
    }
    return (loss.value,), gradients


def apart(g, *shape):
    """Numbers between 0 and 1 of which those of a plane differ, also in bfloat16: where some are alike, no gradient is
    the true one."""
    pixels = shape[-2] * shape[-1]
    places = torch.rand(*shape[:-2], pixels, generator=g).argsort(-1).view(shape)
    return (places + 0.25 * torch.rand(shape, generator=g, dtype=torch.float64)) / (pixels + 1)


def masks(n, g):
    """Probabilities, of two classes, and true ones."""
    return tuple(apart(g, n, 2, 5, 6) for _ in range(2))


def lines(n, g):
    """Lines, blurred."""
    x, y = (0.125 * apart(g, n, 1, 6, 5) for _ in range(2))
    x[:, :, 2] += 0.75
    y[:, :, :, 3] += 0.75
    return x, y


proof = RowProof(
    name="soft_cldice_loss",
    exact=exact,
    # A pixel's gradient is the sum of those of many ridges, of either sign.
    bars=Bars(value=3.2, gradient=15.2, eager_value=3.2, eager_gradient=15.2),
    variants=[
        Variant("masks", masks, gradients=(0, 1)),
        Variant("lines", lines, {"iters": 3, "smooth": 0.125}, gradients=(0, 1)),
    ],
    example=Example(
        data="""target = torch.zeros(2, 1, 32, 32)
target[:, :, 15:18] = 1.0  # a horizontal vessel
output = (0.9 * target).index_fill(3, torch.arange(14, 18), 0.0)  # with a gap""",
        by_hand="""pool = torch.nn.functional.max_pool2d


def erode(x):
    return torch.minimum(-pool(-x, (3, 1), 1, (1, 0)), -pool(-x, (1, 3), 1, (0, 1)))


def skeleton(x):
    lines = (x - pool(erode(x), 3, 1, 1)).relu()
    for _ in range(3):
        x = erode(x)
        more = (x - pool(erode(x), 3, 1, 1)).relu()
        lines = lines + (more - lines * more).relu()
    return lines


dims = (2, 3)
precision = ((skeleton(output) * target).sum(dims) + 1) / (skeleton(output).sum(dims) + 1)
sensitivity = ((skeleton(target) * output).sum(dims) + 1) / (skeleton(target).sum(dims) + 1)
by_hand = (1 - 2 * precision * sensitivity / (precision + sensitivity)).mean(1)""",
        operands="output, target",
    ),
)
