"""BarlowTwinsLoss: two views of the same samples agree, and no two features say the same."""

import torch

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss
from losskit.families.views import correlations, parts


class BarlowTwinsLoss(ComposedLoss):
    """Self-supervised: the cross-correlation matrix of the features of two views should be the identity.

    Choose it to learn features without labels and without negative pairs: small batches do, and many features help.
    Prefer VICRegLoss where the two branches differ, in architecture or in modality.

    The features are standardised over the batch inside of the loss: give it the projector's output as it is. On several
    devices gather the features first, since the correlation is that of the whole batch.
    """

    lambd: float = param(default=5e-3, domain=nonnegative, doc="Weight of the entries off the diagonal.")
    eps: float = param(default=1e-5, domain=positive, doc="Added to each variance, which divides by N.")

    arguments = "lambd eps reduction"
    operands = {
        "input1": Operand(
            "Features (N, D) of one view; dimensions before them are of other batches.", shape="(..., N, D)"
        ),
        "input2": Operand("Features of the other view, of the same samples in the same order.", shape="(..., N, D)"),
    }
    unit = "(...)"

    @staticmethod
    def least():
        return {"N": 2}

    @staticmethod
    def value(input1, input2, lambd, eps):
        (a, of_a), (b, of_b) = (_standardised(x, eps) for x in (input1, input2))
        missing = _missing(a, b, of_a, of_b, eps)
        if 2 * a.shape[-2] <= a.shape[-1]:
            off = ((a @ a.mT) * (b @ b.mT)).sum((-2, -1)) - (1.0 - missing).square().sum(-1)
        else:
            correlation = a.mT @ b
            off = (correlation - torch.diag_embed(correlation.diagonal(dim1=-2, dim2=-1))).square().sum((-2, -1))
        return missing.square().sum(-1) + lambd * off

    @staticmethod
    def value_and_grad(input1, input2, lambd, eps):
        found = correlations(input1, input2, lambd, eps)
        if found is not None:
            return found
        n, d = input1.shape[-2:]
        a, of_a = _standardised(input1, eps)
        b, of_b = _standardised(input2, eps)
        missing = _missing(a, b, of_a, of_b, eps)
        if 2 * n <= d:  # rows have fewer products than columns, and theirs give the same sum
            of_rows_a, of_rows_b = a @ a.mT, b @ b.mT
            off = (of_rows_a * of_rows_b).sum((-2, -1)) - (1.0 - missing).square().sum(-1)
            on = (-2.0 * missing - 2.0 * lambd * (1.0 - missing)).unsqueeze(-2)
            by_a = (of_rows_b.mul_(2.0 * lambd) @ a).addcmul_(b, on)
            by_b = (of_rows_a.mul_(2.0 * lambd) @ b).addcmul_(a, on)
        else:
            slope = a.mT @ b
            diagonal = slope.diagonal(dim1=-2, dim2=-1)
            diagonal.zero_()
            off = torch.linalg.vector_norm(slope, dim=(-2, -1)).square_()
            slope.mul_(2.0 * lambd)
            torch.mul(missing, -2.0, out=diagonal)
            by_a, by_b = b @ slope.mT, a @ slope
        loss = torch.linalg.vector_norm(missing, dim=-1).square_().add_(off, alpha=lambd)
        return loss, {"input1": _unstandardised(by_a, a, of_a), "input2": _unstandardised(by_b, b, of_b)}

    parts = staticmethod(parts)
    equations = {
        "loss": (
            r"\ell = \sum_i (C_{ii} - 1)^2 + \lambda \sum_{i \ne j} C_{ij}^2",
            "ℓ = Σᵢ (Cᵢᵢ − 1)² + λ Σ(i ≠ j) Cᵢⱼ²",
        ),
        "where": (
            r"C = \frac{1}{N} \hat{a}^\top \hat{b}, \quad "
            r"\hat{a}_{ni} = \frac{a_{ni} - \bar{a}_i}{\sqrt{\frac{1}{N} \sum_m (a_{mi} - \bar{a}_i)^2 + \varepsilon}}",
            "C = âᵀb̂ / N, âₙᵢ = (aₙᵢ − āᵢ) / √(1/N Σₘ (aₘᵢ − āᵢ)² + ε)",
        ),
        "gradient by the standardised features": (
            r"\frac{\partial \ell}{\partial \hat{a}} = \frac{1}{N} \hat{b} K^\top, \quad "
            r"K_{ii} = 2 (C_{ii} - 1), \; K_{ij} = 2 \lambda C_{ij}",
            "∂ℓ/∂â = b̂Kᵀ / N, Kᵢᵢ = 2(Cᵢᵢ − 1), Kᵢⱼ = 2λCᵢⱼ",
        ),
    }
    letters = {
        "input1": ("a", "a", ""),
        "input2": ("b", "b", ""),
        "lambd": (r"\lambda", "λ", ""),
        "C": ("C_{ij}", "Cᵢⱼ", "correlation of feature i of one view with feature j of the other"),
    }

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=True, robust=False)
    cases = [
        Case(input1=[[1.0, 0.0], [0.0, 2.0], [2.0, 1.0]], input2=[[1.0, 1.0], [0.0, 2.0], [3.0, 0.0]],
             value=0.255868, source="mpmath"),
        Case(input1=[[1.0, 0.0], [0.0, 2.0], [2.0, 1.0], [1.0, -1.0]], lambd=0.1, source="mpmath",
             input2=[[1.0, 1.0], [0.0, 2.0], [3.0, 0.0], [0.5, -1.0]], value=0.0849527891),
    ]  # fmt: skip
    peers = [
        Peer(
            "lightly",
            "lightly.loss.BarlowTwinsLoss(lambda_param=5e-3)(input1, input2)",
            "barlow_twins_loss(input1, input2)",
            agrees=1e-12,
        ),
        Peer(
            "monai",
            "monai.losses.BarlowTwinsLoss(lambd=5e-3)(input1, input2)",
            "barlow_twins_loss(input1, input2)",
            differs=0.08,
            gradient_differs=0.1,
            why="MONAI divides by the unbiased deviation and by N, so that the diagonal cannot reach 1.",
        ),
    ]
    aliases = "barlow"
    task = "metric learning"
    best_for = "Self-supervised features from two views of each sample, without negatives."
    not_for = "Batches of a few samples: the correlations are then noise."
    reference = (
        "Zbontar, J., Jing, L., Misra, I., LeCun, Y. and Deny, S. (2021). Barlow Twins: self-supervised learning via "
        "redundancy reduction. ICML. arXiv:2103.03230."
    )


def _standardised(x, eps):
    """Columns of mean 0 and length 1, less what eps adds to it, and their length before: products are correlations."""
    centred = x - x.mean(-2, keepdim=True)
    # The squares of large numbers overflow in float32; a power of two changes no digit.
    less = torch.where(centred.detach().abs().amax(-2, keepdim=True) > 2.0**50, 2.0**-100, 1.0).to(x.dtype)
    length = (centred * less).square().sum(-2, keepdim=True).add(less.square() * (x.shape[-2] * eps)).sqrt() / less
    return centred / length, length


def _missing(a, b, of_a, of_b, eps):
    """What the diagonal of the correlation misses to 1, as a sum in which nothing cancels."""
    short = (of_a.square().reciprocal() + of_b.square().reciprocal()).squeeze(-2)
    return torch.add((a - b).square().sum(-2), short, alpha=a.shape[-2] * eps).mul(0.5)


def _unstandardised(gradient, standardised, length):
    """The gradient by what was standardised. That of its mean is 0: the columns of both views add up to 0."""
    along = (gradient * standardised).sum(-2, keepdim=True)
    return gradient.addcmul_(standardised, along, value=-1.0).div_(length)
