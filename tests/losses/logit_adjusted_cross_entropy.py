"""The truth about cross entropy of scores to which the logarithms of the classes' frequencies are added."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, WEIGHT, indices, normal

from losses.cross_entropy import exact as cross_entropy
from losses.cross_entropy import scores as of_cross_entropy

PRIOR = torch.linspace(1.0, 9.0, CLASSES, dtype=torch.float64)


def exact(m, input, target, prior=None, tau=1, **given):
    if prior is None:
        return cross_entropy(m, input, target, **given)
    total = m.sum(prior)
    return cross_entropy(m, [x + tau * m.log(share / total) for x, share in zip(input, prior)], target, **given)


def probabilities(n, g):
    """Scores, and a probability for each class."""
    return normal(n, CLASSES, g=g), normal(n, CLASSES, g=g).softmax(1)


def scores(dtype):
    """Those of cross entropy; classes of which a few are frequent, and most are rare."""
    for (x, target), _ in of_cross_entropy(dtype):
        rare = torch.full((x.shape[1],), 2.0**-6, dtype=torch.float64)
        rare[:2] = 0.5
        yield (x, target), {"prior": rare}


def scale(what, largest, row, given, dtype):
    """The sum of a score and a logarithm is rounded before its exponential is taken; that of floats is a double."""
    input, _ = row
    apart = max(input) - min(x for x in input if x > -1e300)
    return largest * max(1, apart) if dtype == torch.float64 else largest


proof = RowProof(
    name="logit_adjusted_cross_entropy",
    exact=exact,
    # The logarithm of a share, and the sum with a score, are rounded before the logarithm of the sum.
    bars=Bars(value=3.8, gradient=4.0, eager_value=2.0, eager_gradient=1.7),
    points={"scores": scores},
    formula_at={"scores": 64.0},
    scale=scale,
    variants=[
        Variant("prior", indices, {"prior": PRIOR}),
        Variant("tau", indices, {"prior": PRIOR, "tau": 1.5}),
        Variant("plain", indices),
        Variant(
            "weight_smoothing", indices, {"prior": PRIOR, "weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.2}
        ),
        Variant("probabilities", probabilities, {"prior": PRIOR, "tau": 0.5}, gradients=(0, 1)),
    ],
    example=Example(
        data="""logits = torch.randn(10, 5)  # (B, C): a score for each of 5 classes
target = torch.randint(0, 5, (10,))
counts = torch.tensor([800.0, 100.0, 50.0, 40.0, 10.0])  # training samples of each class
tau = 1.0""",
        by_hand="""adjusted = logits + tau * (counts / counts.sum()).log()
log_p = adjusted - adjusted.exp().sum(dim=1, keepdim=True).log()
by_hand = -log_p[torch.arange(10), target]""",
        operands="logits, target",
        arguments="prior=counts, tau=tau, ",
    ),
)
