"""The truth about a Dirichlet distribution: the log of the label's expected probability, the divergence from none."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, labels, normal


def exact(m, input, target, reg_weight=0.0):
    n = len(input)
    total, own = m.sum(input) + n, input[target] + 1
    others = [x for c, x in enumerate(input) if c != target]
    rest = m.sum(others)
    wrong = rest + n
    parts = [m.log_gamma(wrong), -rest * m.digamma(wrong), -m.log_gamma(m.one * n)]
    parts += [x * m.digamma(x + 1) - m.log_gamma(x + 1) for x in others]
    value = m.log1p((rest + n - 1) / own), reg_weight * m.sum(parts)

    def slope(x):
        return 1 / total, reg_weight * x * m.trigamma(x + 1), -reg_weight * rest * m.trigamma(wrong)

    by_input = [-(rest + n - 1) / own / total if c == target else slope(x) for c, x in enumerate(input)]
    return value, {0: by_input}


def evidence(n, g):
    return normal(n, CLASSES, g=g).abs() * 3.0, labels(n, g=g)


def spread(dtype):
    """Hardly any evidence, and a great deal."""
    for scale in (1e-3, 1.0, 1e3, 1e6):
        x, target = evidence(12, torch.Generator().manual_seed(3))
        yield (x * scale, target), {"reg_weight": 0.5}


proof = RowProof(
    name="evidential_classification_loss",
    exact=exact,
    # In float64: of much evidence, functions of the evidence are four times as large as what they add up to.
    bars=Bars(value=20.0, gradient=3.7, eager_value=5.8, eager_gradient=3.2),
    points={"spread": spread},
    formula_at={"spread": 20.0},
    variants=[
        Variant("plain", evidence),
        Variant("regularised", evidence, {"reg_weight": 0.25}),
    ],
    example=Example(
        data="""evidence = torch.nn.functional.softplus(torch.randn(10, 4))
target = torch.randint(0, 4, (10,))
reg_weight = 0.25""",
        by_hand="""alpha = evidence + 1
misleading = alpha.scatter(1, target.unsqueeze(1), 1.0)
none = torch.distributions.Dirichlet(torch.ones(10, 4))
divergence = torch.distributions.kl_divergence(
    torch.distributions.Dirichlet(misleading), none
)
own = alpha.gather(1, target.unsqueeze(1)).squeeze(1)
by_hand = alpha.sum(1).log() - own.log() + reg_weight * divergence""",
        operands="evidence, target",
        arguments="reg_weight=reg_weight, ",
    ),
)
