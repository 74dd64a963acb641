"""SoftDTWLoss: the cost of aligning two series, over all alignments softly."""

import torch

from losskit.declaration import Case, Operand, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss
from losskit.families.warping import aligned, alignment_of, parts


class SoftDTWLoss(ComposedLoss):
    """Soft dynamic time warping: the soft minimum, over all alignments of two series, of the squared distances.

    Choose it to forecast, average or compare series that may run faster or slower, or start earlier or later.
    Prefer MSELoss where steps belong to each other by their number; CTCLoss where the target is labels.

    The loss may be negative, and is not smallest where both series are the same. `normalize` subtracts half of each
    series' loss against itself: this divergence is 0 there and positive elsewhere, and costs three times as much.
    Time and memory grow with T times U. A series of length 0 has no loss: its sample is left out of the mean, like a
    masked one.
    """

    gamma: float = param(default=1.0, domain=positive, doc="Softness; near 0 only the best alignment counts.")
    normalize: bool = param(default=False, doc="Whether to give the divergence, which is 0 for equal series.")

    name = "soft_dtw_loss"
    arguments = "gamma normalize reduction"
    operands = {
        "input": Operand("Series (N, T, D): of each sample T steps of D numbers.", shape="(N, T, D)"),
        "target": Operand("Series (N, U, D) to align with; U may be another number of steps.", shape="(N, U, D)"),
        "input_lengths": Operand("Steps of each series of `input`, where they are not all T.", shape="(N,)",
                                 index="T", places=1, optional=True, differentiable=False),
        "target_lengths": Operand("Steps of each series of `target`, where they are not all U.", shape="(N,)",
                                  index="U", places=1, optional=True, differentiable=False),
    }  # fmt: skip
    unit = "(N,)"
    _usual_shape = (32, 64, 8)

    @staticmethod
    def value(input, target, input_lengths, target_lengths, gamma, normalize):
        series, has_loss = _read(input, target, input_lengths, target_lengths)
        x, y = series
        loss = aligned(x, y, gamma)
        if normalize:
            loss = loss - 0.5 * (aligned(x, x, gamma) + aligned(y, y, gamma))
        loss = loss.to(input.dtype)
        return loss if has_loss is None else (loss, has_loss)

    @staticmethod
    def value_and_grad(input, target, input_lengths, target_lengths, gamma, normalize):
        series, has_loss = _read(input, target, input_lengths, target_lengths)
        x, y = series
        loss, by_x, by_y = _by_gradients(x, y, gamma)
        if normalize:
            for one, gradient in ((x, by_x), (y, by_y)):
                own, by_first, by_second = _by_gradients(one, one, gamma)
                loss.sub_(own, alpha=0.5)
                gradient.sub_(by_first.add_(by_second), alpha=0.5)
        loss = loss.to(input.dtype)
        gradients = {"input": by_x.to(input.dtype), "target": by_y.to(target.dtype)}
        return loss if has_loss is None else (loss, has_loss), gradients

    parts = staticmethod(parts)
    equations = {
        "loss": (
            r"\ell = R_{TU}, \quad R_{ij} = \lVert x_i - y_j \rVert^2 "
            r"+ \mathrm{min}^\gamma(R_{i-1,j}, R_{i,j-1}, R_{i-1,j-1})",
            "ℓ = R(T, U), Rᵢⱼ = |xᵢ − yⱼ|² + minᵞ(Rᵢ₋₁,ⱼ, Rᵢ,ⱼ₋₁, Rᵢ₋₁,ⱼ₋₁)",
        ),
        "where": (
            r"\mathrm{min}^\gamma(a) = -\gamma \log \sum_k e^{-a_k / \gamma}",
            "minᵞ(a) = −γ log Σₖ exp(−aₖ / γ)",
        ),
        "normalized": (
            r"\ell(x, y) - \tfrac{1}{2} \ell(x, x) - \tfrac{1}{2} \ell(y, y)",
            "ℓ(x, y) − ½ ℓ(x, x) − ½ ℓ(y, y)",
        ),
        "gradient by input": (
            r"\frac{\partial \ell}{\partial x_i} = 2 \sum_j E_{ij} (x_i - y_j)",
            "∂ℓ/∂xᵢ = 2 Σⱼ Eᵢⱼ (xᵢ − yⱼ)",
        ),
    }
    letters = {
        "input": ("x_i", "xᵢ", "step i of the series `input`"),
        "target": ("y_j", "yⱼ", "step j of the series `target`"),
        "input_lengths": ("T", "T", ""),
        "target_lengths": ("U", "U", ""),
        "gamma": (r"\gamma", "γ", ""),
        "R": ("R_{ij}", "Rᵢⱼ", "soft cost of aligning the first i steps with the first j"),
        "E": ("E_{ij}", "Eᵢⱼ", "probability that an alignment has step i at step j, if its cost is an energy"),
    }

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=None, symmetric=True)
    cases = [
        Case(input=[[[0.0], [1.0], [2.0]]], target=[[[0.0], [2.0]]], value=0.1226542, source="mpmath, all alignments",
             grad=[[[-0.0304688], [0.0], [0.0304688]]]),
        Case(input=[[[0.0], [1.0], [2.0]]], target=[[[0.0], [2.0]]], gamma=0.1, value=0.930683,
             source="mpmath, all alignments"),
    ]  # fmt: skip
    aliases = "soft_dynamic_time_warping dtw_loss soft_dtw_divergence"
    task = "sequence"
    best_for = "Series of numbers that may run faster or slower than each other."
    not_for = "Series of thousands of steps; series in which the time of a step matters."
    reference = (
        "Cuturi, M. and Blondel, M. (2017). Soft-DTW: a differentiable loss function for time-series. ICML. "
        "arXiv:1703.01541. Divergence: Blondel, M., Mensch, A. and Vert, J.-P. (2021). Differentiable divergences "
        "between time series. AISTATS. arXiv:2010.08354."
    )


def _read(input, target, input_lengths, target_lengths):
    """Both series with their lengths, 0 beyond these, and which samples have a loss (None: all).

    In float64: a cost is a sum over a whole alignment, and what it is rounded by counts as much as gamma.
    """
    given = [(input, input_lengths), (target, target_lengths)]
    lengths = [x.new_full(x.shape[:1], x.shape[1], dtype=torch.int64) if n is None else n for x, n in given]
    wide = [x if x.device.type == "mps" else x.double() for x, _ in given]
    if input_lengths is None and target_lengths is None:
        return list(zip(wide, lengths, strict=True)), None
    has_loss = (lengths[0] > 0) & (lengths[1] > 0)
    series = []
    for x, n in zip(wide, lengths, strict=True):
        there = torch.arange(x.shape[1], device=x.device) < (n * has_loss).unsqueeze(1)
        series.append((torch.where(there.unsqueeze(2), x, 0.0), n.clamp(min=1)))
    return series, has_loss


def _by_gradients(one, other, gamma):
    """The loss of each pair of series, and its gradients by both."""
    loss, at = alignment_of(one, other, gamma)
    (x, _), (y, _) = one, other
    middle = x.mean(1, keepdim=True)  # far from 0 the products would cancel
    x, y = x - middle, y - middle
    by_x = at.sum(2).unsqueeze(2).mul(x).sub_(at @ y).mul_(2.0)
    by_y = at.sum(1).unsqueeze(2).mul(y).sub_(at.mT @ x).mul_(2.0)
    return loss, by_x, by_y
