"""The truth about (1 - p ** q) / q, p the probability of the right class."""

from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, WEIGHT, indices, normal

from losses.cross_entropy import certain, scores


def exact(m, input, target, q=None, weight=None, ignore_index=-100, label_smoothing=0.0):
    q = m.one * 7 / 10 if q is None else q
    classes = len(input)
    by_class = isinstance(target, int)
    if by_class and target == ignore_index:
        return (m.zero,), {0: [m.zero] * classes}
    right = [m.one if c == target else m.zero for c in range(classes)] if by_class else target
    weight = weight or [m.one] * classes
    share = [w * ((1 - label_smoothing) * t + label_smoothing / classes) for w, t in zip(weight, right)]
    p, missing, log_p = m.softmax(input)
    cost = [-m.expm1(q * log_p(c)) / q for c in range(classes)]
    pull = [s * p[c] ** q for c, s in enumerate(share)]
    every = m.sum(pull)
    by_score = [((every - pull[c]) * p[c], -pull[c] * missing(c)) for c in range(classes)]
    value = (m.sum(s * x for s, x in zip(share, cost)),)
    if by_class:
        return value, {0: by_score}
    return value, {0: by_score, 1: [(1 - label_smoothing) * w * x for w, x in zip(weight, cost)]}


def probabilities(n, g):
    """Scores, and a probability for each class."""
    return normal(n, CLASSES, g=g), normal(n, CLASSES, g=g).softmax(1)


def scale(what, largest, row, given, dtype):
    """The log-probability is rounded before the exponential of its multiple is taken.

    The gradient of a row that is wrong by far loses as many ULP as that is large.
    """
    input, target = row
    right = input[target] if isinstance(target, int) else min(x for x in input if x > -1e300)
    return largest * max(1, given.get("q", 0.7) * (max(input) - right)) if what == 0 else largest


proof = RowProof(
    name="generalized_cross_entropy",
    exact=exact,
    # Eager: sums of more than a hundred exponentials that are subnormal, each of them rounded.
    bars=Bars(value=2.0, gradient=3.2, eager_value=1.6, eager_gradient=2.6),
    points={"scores": scores, "certain": certain},
    formula_at={"scores": 44.0, "certain": 1.7},
    scale=scale,
    variants=[
        Variant("indices", indices),
        Variant("one", indices, {"q": 1.0}),
        Variant("weight_smoothing", indices, {"q": 0.1, "weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.2}),
        Variant("probabilities", probabilities, {"q": 0.5}, gradients=(0, 1)),
    ],
    example=Example(
        data="""logits = torch.randn(10, 5)  # (B, C): a score for each of 5 classes
target = torch.randint(0, 5, (10,))
q = 0.7""",
        by_hand="""p = logits.softmax(dim=1)[torch.arange(10), target]  # the probability of the right class
by_hand = (1 - p**q) / q""",
        operands="logits, target",
        arguments="q=q, ",
    ),
)
