"""The truth about cross entropy and its reverse, in which a class without probability has a finite logarithm."""

from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, WEIGHT, indices, normal

from losses.cross_entropy import certain, scores


def exact(m, input, target, alpha=None, beta=1, log_zero=-4, weight=None, ignore_index=-100, label_smoothing=0.0):
    alpha = m.one / 10 if alpha is None else alpha
    classes = len(input)
    by_class = isinstance(target, int)
    if by_class and target == ignore_index:
        return (m.zero,), {0: [m.zero] * classes}
    right = [m.one if c == target else m.zero for c in range(classes)] if by_class else target
    weight = weight or [m.one] * classes
    share = [w * ((1 - label_smoothing) * t + label_smoothing / classes) for w, t in zip(weight, right)]
    p, missing, log_p = m.softmax(input)
    # The reverse of a class: minus the sum over the other classes of their probability times log 0.
    cost = [m.times(alpha, -log_p(c)) - beta * log_zero * missing(c) for c in range(classes)]
    pull = [s * (alpha - beta * log_zero * p[c]) for c, s in enumerate(share)]
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
    name="symmetric_cross_entropy",
    exact=exact,
    # The sum of two terms, each good to 1 or 2 ULP. Eager: sums of exponentials that are subnormal.
    bars=Bars(value=2.4, gradient=3.1, eager_value=2.0, eager_gradient=3.1),
    points={"scores": scores, "certain": certain},
    formula_at={"scores": 190.0, "certain": 5.2},
    variants=[
        Variant("indices", indices),
        Variant("shares", indices, {"alpha": 6.0, "beta": 0.1, "log_zero": -9.0}),
        Variant("weight_smoothing", indices, {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.2}),
        Variant("probabilities", probabilities, {"alpha": 0.5}, gradients=(0, 1)),
    ],
    example=Example(
        data="""logits = torch.randn(10, 5)  # (B, C): a score for each of 5 classes
target = torch.randint(0, 5, (10,))
alpha, beta, log_zero = 0.1, 1.0, -4.0""",
        by_hand="""p = logits.softmax(dim=1)
right = torch.nn.functional.one_hot(target, 5).bool()
entropy = -p[right].log()
reverse = -torch.where(right, 0.0, log_zero * p).sum(dim=1)  # log 1 is 0, log 0 is log_zero
by_hand = alpha * entropy + beta * reverse""",
        operands="logits, target",
        arguments="alpha=alpha, beta=beta, log_zero=log_zero, ",
    ),
)
