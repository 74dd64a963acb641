"""SoftDTWLoss: the cost of aligning two series, over all alignments softly."""

import torch
from torch.nn.functional import pad

from losskit.declaration import Case, Operand, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss


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
        loss = _aligned(x, y, gamma)
        if normalize:
            loss = loss - 0.5 * (_aligned(x, x, gamma) + _aligned(y, y, gamma))
        loss = loss.to(input.dtype)
        return loss if has_loss is None else (loss, has_loss)

    @staticmethod
    def value_and_grad(input, target, input_lengths, target_lengths, gamma, normalize):
        series, has_loss = _read(input, target, input_lengths, target_lengths)
        x, y = series
        loss, by_x, by_y = _aligned_by_gradients(x, y, gamma)
        if normalize:
            for one, gradient in ((x, by_x), (y, by_y)):
                own, by_first, by_second = _aligned_by_gradients(one, one, gamma)
                loss.sub_(own, alpha=0.5)
                gradient.sub_(by_first.add_(by_second), alpha=0.5)
        loss = loss.to(input.dtype)
        gradients = {"input": by_x.to(input.dtype), "target": by_y.to(target.dtype)}
        return loss if has_loss is None else (loss, has_loss), gradients

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


def _distances(x, y):
    """Squared, from differences, so that series far from 0 keep their digits; by rows, which need little memory."""
    return torch.stack([(row.unsqueeze(1) - y).square().sum(-1) for row in x.unbind(1)], 1)


def _diagonals(rows, columns):
    """Anti-diagonals d = i + j after the first, and their first row and the one after their last."""
    return [(d, max(0, d - columns + 1), min(rows, d + 1)) for d in range(1, rows + columns - 1)]


def _aligned(one, other, gamma):
    """The loss of each pair of series.

    A diagonal has a cost for each row, infinite where it has no cell, after one for the row before the first.
    """
    if one[0].shape[1] > other[0].shape[1]:
        return _aligned(other, one, gamma)
    (x, m), (y, n) = one, other
    rows, columns = x.shape[1], y.shape[1]
    i = torch.arange(rows, device=x.device).unsqueeze(1)
    j = (torch.arange(rows + columns - 1, device=x.device) - i).clamp(0, columns - 1)
    costs = _distances(x, y).gather(2, j.expand(x.shape[0], -1, -1)).unbind(2)
    before = torch.full_like(costs[0][:, :1], torch.inf).expand(-1, rows + 1)
    found = [pad(costs[0][:, :1], (1, rows - 1), value=torch.inf)]
    for d, low, high in _diagonals(rows, columns):
        last = found[-1]
        ways = torch.stack([last[:, low:high], last[:, low + 1 : high + 1], before[:, low:high]])
        least = ways.detach().amin(0).clamp(max=1e30)  # where distances are infinite, all are
        softly = least - gamma * ((least - ways) / gamma).logsumexp(0)
        before = last
        found.append(pad(costs[d][:, low:high] + softly, (low + 1, rows - high), value=torch.inf))
    ends = (m + n - 2) * (rows + 1) + m
    return torch.stack(found, 1).flatten(1).gather(1, ends.unsqueeze(1)).squeeze(1)


def _aligned_by_gradients(one, other, gamma):
    """The loss of each pair of series, and its gradients by both.

    As above, with all diagonals in one tensor, of which a view has the cells in rows and columns. Backwards, a cell
    hands its probability on to the three before it, by their shares in its soft minimum.
    """
    if one[0].shape[1] > other[0].shape[1]:
        loss, by_other, by_one = _aligned_by_gradients(other, one, gamma)
        return loss, by_one, by_other
    (x, m), (y, n) = one, other
    samples, rows, columns = *x.shape[:2], y.shape[1]
    diagonal = samples * (rows + 1)
    cells = (samples, rows, columns), (rows + 1, diagonal + 1, diagonal), diagonal + 1
    costs = x.new_full((rows + columns, samples, rows + 1), torch.inf)
    costs.as_strided(*cells).copy_(_distances(x, y))
    shares = {}
    for d, low, high in _diagonals(rows, columns):
        ways = torch.stack([costs[d, :, low:high], costs[d, :, low + 1 : high + 1], costs[d - 1, :, low:high]])
        least = ways.amin(0).clamp_(max=torch.finfo(x.dtype).max)
        share = torch.sub(least, ways, out=ways).div_(gamma).exp_()
        total = share.sum(0)
        shares[d] = share.div_(total)
        costs[d + 1, :, low + 1 : high + 1].add_(least).sub_(total.log_(), alpha=gamma)
    ends = m + n - 1, torch.arange(samples, device=x.device), m
    alignment = torch.zeros_like(costs)
    alignment[ends] = 1.0
    for d, low, high in reversed(_diagonals(rows, columns)):
        here, share = alignment[d + 1, :, low + 1 : high + 1], shares[d]
        alignment[d, :, low:high].addcmul_(share[0], here)
        alignment[d, :, low + 1 : high + 1].addcmul_(share[1], here)
        alignment[d - 1, :, low:high].addcmul_(share[2], here)
    at = alignment.as_strided(*cells)
    middle = x.mean(1, keepdim=True)  # far from 0 the products would cancel
    x, y = x - middle, y - middle
    by_x = at.sum(2).unsqueeze(2).mul(x).sub_(at @ y).mul_(2.0)
    by_y = at.sum(1).unsqueeze(2).mul(y).sub_(at.mT @ x).mul_(2.0)
    return costs[ends], by_x, by_y
