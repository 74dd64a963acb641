"""VICRegLoss: two views of the same samples agree, every feature varies, and no two say the same."""

import torch

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss
from losskit.families.views import covariances, parts


class VICRegLoss(ComposedLoss):
    """Self-supervised: the squared distance of two views, a hinge on each feature's deviation, and the covariances.

    Choose it to learn features without labels, negative pairs or normalisation; its terms are of each view alone, so
    that the two branches may differ in architecture or in modality.
    Prefer BarlowTwinsLoss for two views by one network: it has one weight in place of three.

    The authors' code halves the two terms of variance, and so do other libraries; the paper adds them. On several
    devices gather the features first, since variances and covariances are those of the whole batch.
    """

    invariance: float = param(default=25.0, domain=nonnegative, doc="Weight of the distance between the views.")
    variance: float = param(default=25.0, domain=nonnegative, doc="Weight of the hinge on deviations below 1.")
    covariance: float = param(default=1.0, domain=nonnegative, doc="Weight of the squared covariances.")
    eps: float = param(default=1e-4, domain=positive, doc="Added to each variance, which divides by N - 1.")

    name = "vicreg_loss"
    arguments = "invariance variance covariance eps reduction"
    operands = {
        "input1": Operand("Features of one view (N, D); dimensions before make several batches.", shape="(..., N, D)"),
        "input2": Operand("Features of the other view, of the same samples in the same order.", shape="(..., N, D)"),
    }
    unit = "(...)"

    @staticmethod
    def least():
        return {"N": 2}

    @staticmethod
    def value(input1, input2, invariance, variance, covariance, eps):
        loss = invariance * (input1 - input2).square().mean((-2, -1))
        for x in (input1, input2):
            n, d = x.shape[-2:]
            centred = x - x.mean(-2, keepdim=True)
            variances = centred.square().sum(-2) / (n - 1)
            loss = loss + 0.5 * variance * (1.0 - (variances + eps).sqrt()).clamp(min=0.0).mean(-1)
            products, fewer = _products(centred)
            if fewer:  # rows have fewer products than columns, and their squares the same sum
                off = products.square().sum((-2, -1)) - variances.square().sum(-1)
            else:
                off = (products - torch.diag_embed(variances)).square().sum((-2, -1))
            loss = loss + covariance / d * off
        return loss

    @staticmethod
    def value_and_grad(input1, input2, invariance, variance, covariance, eps):
        found = covariances(input1, input2, invariance, variance, covariance, eps)
        if found is not None:
            return found
        n, d = input1.shape[-2:]
        difference = input1 - input2
        loss = invariance / (n * d) * torch.linalg.vector_norm(difference, dim=(-2, -1)).square()
        difference.mul_(2.0 * invariance / (n * d))
        gradients = []
        for x in (input1, input2):
            centred = x - x.mean(-2, keepdim=True)
            variances = centred.square().sum(-2) / (n - 1)
            deviation = (variances + eps).sqrt()
            loss += 0.5 * variance * (1.0 - deviation).clamp_(min=0.0).mean(-1)
            own = torch.where(deviation < 1.0, -0.5 * variance / ((n - 1) * d) / deviation, 0.0)
            products, fewer = _products(centred)
            if fewer:
                off = torch.linalg.vector_norm(products, dim=(-2, -1)).square() - variances.square().sum(-1)
                own -= 4.0 * covariance / ((n - 1) * d) * variances
                along = products.mul_(4.0 * covariance / ((n - 1) * d)) @ centred
            else:
                products.diagonal(dim1=-2, dim2=-1).zero_()
                off = torch.linalg.vector_norm(products, dim=(-2, -1)).square()
                along = centred @ products.mul_(4.0 * covariance / ((n - 1) * d))
            loss += covariance / d * off
            gradients.append(along.add_(centred.mul_(own.unsqueeze(-2))))
        return loss, {"input1": gradients[0].add_(difference), "input2": gradients[1].sub_(difference)}

    parts = staticmethod(parts)
    equations = {
        "loss": (
            r"\ell = \frac{\lambda}{N D} \sum_{n, i} (a_{ni} - b_{ni})^2 + \sum_{z \in \{a, b\}} \Big( \frac{\mu}{2 D} "
            r"\sum_i \max(0, 1 - s_i(z)) + \frac{\nu}{D} \sum_{i \ne j} C_{ij}(z)^2 \Big)",
            "ℓ = λ/(ND) Σₙᵢ (aₙᵢ − bₙᵢ)² + Σ(z = a, b) (μ/(2D) Σᵢ max(0, 1 − sᵢ(z)) + ν/D Σ(i ≠ j) Cᵢⱼ(z)²)",
        ),
        "where": (
            r"s_i = \sqrt{C_{ii} + \varepsilon}, \quad "
            r"C(z) = \frac{1}{N - 1} (z - \bar{z})^\top (z - \bar{z})",
            "sᵢ = √(Cᵢᵢ + ε), C(z) = (z − z̄)ᵀ(z − z̄) / (N − 1)",
        ),
        "gradient by input1": (
            r"\frac{\partial \ell}{\partial a} = \frac{2 \lambda}{N D} (a - b) - \frac{\mu}{2 (N - 1) D} [s < 1] "
            r"\frac{a - \bar{a}}{s} + \frac{4 \nu}{(N - 1) D} (a - \bar{a}) \, C_{\mathrm{off}}",
            "∂ℓ/∂a = 2λ/(ND) (a − b) − μ/(2(N − 1)D) [s < 1] (a − ā)/s + 4ν/((N − 1)D) (a − ā) C without its diagonal",
        ),
    }
    letters = {
        "input1": ("a", "a", ""),
        "input2": ("b", "b", ""),
        "invariance": (r"\lambda", "λ", ""),
        "variance": (r"\mu", "μ", ""),
        "covariance": (r"\nu", "ν", ""),
        "s": ("s_i", "sᵢ", "deviation of feature i of a view over the batch"),
        "C": ("C_{ij}", "Cᵢⱼ", "covariance of features i and j of a view"),
    }

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input1=[[0.1, 0.0], [0.0, 0.2], [0.2, 1.0]], input2=[[0.1, 0.1], [0.0, 0.2], [0.3, 0.0]], value=23.7311,
             source="mpmath"),
        Case(input1=[[1.0, 0.0], [0.0, 2.0], [2.0, 1.0], [1.0, -1.0]], source="mpmath",
             input2=[[1.0, 1.0], [0.0, 2.0], [3.0, 0.0], [0.5, -1.0]], value=11.7541525397),
    ]  # fmt: skip
    peers = [
        Peer("lightly", "lightly.loss.VICRegLoss()(input1, input2)", "vicreg_loss(input1, input2)"),
    ]
    task = "metric learning"
    best_for = "Self-supervised features from two branches that may differ."
    not_for = "Batches of a few samples: their covariances are noise."
    reference = (
        "Bardes, A., Ponce, J. and LeCun, Y. (2022). VICReg: variance-invariance-covariance regularization for "
        "self-supervised learning. ICLR. arXiv:2105.04906."
    )


def _products(centred):
    """The covariances of columns, or the same of rows if there are so few of these that it costs less; which of them.

    With half as many rows as columns or fewer, the covariances off the diagonal cannot all be small: their squares, the
    difference of two sums then, do not cancel.
    """
    n, d = centred.shape[-2:]
    fewer = 2 * n <= d
    return (centred @ centred.mT if fewer else centred.mT @ centred) / (n - 1), fewer
