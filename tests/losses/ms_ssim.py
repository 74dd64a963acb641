"""The truth about the similarity of images at several scales."""

from differences import slopes
from image_rows import gaussian, half, pairs, similar
from proofs import Bars, Example, RowProof, Variant

PUBLISHED = "0.0448", "0.2856", "0.3001", "0.2363", "0.1333"


def of_planes(m, x, y, data_range, window_size, sigma, k1, k2, scales):
    """The product of the powers of both planes' similarities."""
    weights, c1, c2 = gaussian(m, window_size, sigma), (k1 * data_range) ** 2, (k2 * data_range) ** 2
    exponents = [m.one * int(w[2:]) / 10000 for w in PUBLISHED[:scales]]
    found = m.one
    for scale, exponent in enumerate(exponents):
        whole, contrast = similar(m, x, y, weights, c1, c2)
        mean = whole if scale == scales - 1 else contrast
        found = found * (mean ** (exponent / m.sum(exponents)) if mean > 0 else 0)
        x, y = half(x), half(y)
    return found


def value(m, input, target, *given):
    return m.sum(1 - of_planes(m, x, y, *given) for x, y in zip(input, target, strict=True)) / len(input)


def exact(m, input, target, data_range=1.0, window_size=11, sigma=1.5, k1=0.01, k2=0.03, scales=5):
    given = data_range, window_size, sigma, k1, k2, scales
    by_input = slopes(lambda x: value(m, x, target, *given), input)
    by_target = slopes(lambda y: value(m, input, y, *given), target)
    return (value(m, input, target, *given),), {0: by_input, 1: by_target}


def images(n, g):
    """Images whose last column no halved one has, alike enough that no similarity is what rounding leaves of it."""
    x, y = pairs(n, g, (1, 4, 5))
    return x, 0.5 * (x + y)


def channels(n, g):
    """Two small channels, dark and with little contrast."""
    x, y = pairs(n, g, (2, 4, 4))
    return 0.125 * x, 0.125 * y


proof = RowProof(
    name="ms_ssim_loss",
    exact=exact,
    # The logarithm and power of means over one or six windows, whose variances are differences of squares.
    bars=Bars(value=6.5, gradient=11.5, eager_value=6.5, eager_gradient=11.5),
    variants=[
        Variant("images", images, {"window_size": 2, "scales": 2}, gradients=(0, 1)),
        Variant(
            "channels",
            channels,
            {"window_size": 2, "sigma": 0.75, "data_range": 2.0, "k1": 0.125, "k2": 0.25, "scales": 2},
            gradients=(0, 1),
        ),
    ],
    example=Example(
        data="""target = torch.rand(2, 1, 64, 64).cumsum(-1).cumsum(-2) / 4096  # smooth images
output = target + 0.05 * torch.randn(2, 1, 64, 64)""",
        by_hand="""k = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
k = (torch.outer(k, k) / k.sum() ** 2)[None, None]
mean = lambda image: torch.nn.functional.conv2d(image, k)
product, x, y = 1.0, output, target
for scale, weight in enumerate((0.0448, 0.2856, 0.3001)):
    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x**2) - mx**2, mean(y**2) - my**2, mean(x * y) - mx * my
    alike = (2 * both + 9e-4) / (vx + vy + 9e-4)
    if scale == 2:
        alike = alike * (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
    product = product * alike.mean((1, 2, 3)).clamp(min=0) ** (
        weight / (0.0448 + 0.2856 + 0.3001)
    )
    x, y = torch.nn.functional.avg_pool2d(x, 2), torch.nn.functional.avg_pool2d(y, 2)
by_hand = 1 - product""",
        operands="output, target",
        arguments="scales=3, ",
    ),
)
