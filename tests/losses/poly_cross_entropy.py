"""The truth about cross entropy plus a multiple of the missing probability."""

from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, WEIGHT, indices, normal

from losses.cross_entropy import certain, scores


def exact(m, input, target, epsilon=1, weight=None, ignore_index=-100, label_smoothing=0.0):
    classes = len(input)
    by_class = isinstance(target, int)
    if by_class and target == ignore_index:
        return (m.zero,), {0: [m.zero] * classes}
    right = [m.one if c == target else m.zero for c in range(classes)] if by_class else target
    weight = weight or [m.one] * classes
    share = [w * ((1 - label_smoothing) * t + label_smoothing / classes) for w, t in zip(weight, right)]
    p, missing, log_p = m.softmax(input)
    cost = [epsilon * missing(c) - log_p(c) for c in range(classes)]
    pull = [s * (1 + epsilon * p[c]) for c, s in enumerate(share)]
    every = m.sum(pull)
    by_score = [((every - pull[c]) * p[c], -pull[c] * missing(c)) for c in range(classes)]
    value = (m.sum(m.times(s, x) if s else m.zero for s, x in zip(share, cost)),)
    if by_class:
        return value, {0: by_score}
    return value, {0: by_score, 1: [(1 - label_smoothing) * w * x for w, x in zip(weight, cost)]}


def probabilities(n, g):
    """Scores, and a probability for each class."""
    return normal(n, CLASSES, g=g), normal(n, CLASSES, g=g).softmax(1)


proof = RowProof(
    name="poly_cross_entropy",
    exact=exact,
    # The sum of two terms that cancel, each good to 1 or 2 ULP. Eager: sums of exponentials that are subnormal.
    bars=Bars(value=2.2, gradient=3.0, eager_value=2.3, eager_gradient=2.3),
    points={"scores": scores, "certain": certain},
    formula_at={"scores": 88.0, "certain": 2.6},
    variants=[
        Variant("indices", indices),
        Variant("negative", indices, {"epsilon": -0.9}),
        Variant(
            "weight_smoothing", indices, {"epsilon": 2.0, "weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.2}
        ),
        Variant("probabilities", probabilities, {"epsilon": -1.0}, gradients=(0, 1)),
    ],
    example=Example(
        data="""logits = torch.randn(10, 5)  # (B, C): a score for each of 5 classes
target = torch.randint(0, 5, (10,))
epsilon = 1.0""",
        by_hand="""p = logits.softmax(dim=1)[torch.arange(10), target]  # the probability of the right class
by_hand = -p.log() + epsilon * (1 - p)""",
        operands="logits, target",
        arguments="epsilon=epsilon, ",
    ),
)
