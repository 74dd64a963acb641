"""The transducer family: frames and labels in a lattice with class scores at each node, and every way through it.

1. The lattice is written by hand, in C++ and here, as that of CTC (`sequence.py`). A declaration gives names and
   parameters only.
2. A node (t, u) has seen t frames and u labels. A blank leads to the next frame, a label to the next label; the blank
   of the last node ends.
3. The eager form runs over anti-diagonals t + u, all samples and nodes of a diagonal at once, in float64 where the
   device has it. Where a clamp or FastEmit changes the gradient, it is a formula of its own: derivatives of it
   are those of the gradient that a first backward gives.
4. Nodes beyond the lengths of a sample are never read. A sample without frames has no loss: it counts as masked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from losskit.declaration import param
from losskit.display import Written, symbol
from losskit.draw import Draw
from losskit.families.lattice import LatticeLoss, probability_of
from losskit.families.transducer_plan import TransducerPlan
from losskit.reduction import Reduction
from losskit_guide.card import Equation

_EQUATIONS = [
    Equation(
        "loss",
        r"\ell = -\log \sum_{\pi} \prod_{(t, u, k) \in \pi} y_{t, u, k}",
        "ℓ = −log Σ(π) Π((t, u, k) ∈ π) y[t, u, k]",
    ),
    Equation(
        "gradient by the scores",
        r"\frac{\partial \ell}{\partial x_{t, u, k}} = y_{t, u, k} \sum_j \gamma_{t, u, j} - \gamma_{t, u, k}",
        "∂ℓ/∂x[t, u, k] = y[t, u, k] · Σ(j) γ[t, u, j] − γ[t, u, k]",
    ),
    Equation(
        "without fused_log_softmax",
        r"\frac{\partial \ell}{\partial \log y_{t, u, k}} = -\gamma_{t, u, k}",
        "∂ℓ/∂(log y[t, u, k]) = −γ[t, u, k]",
    ),
]
_SYMBOLS = [
    symbol("logits", "probability of class k after t frames and u labels: the softmax of the scores x",
           Written("y_{t, u, k}", "y[t, u, k]")),
    symbol("scores", "score of class k after t frames and u labels", Written("x_{t, u, k}", "x[t, u, k]")),
    symbol("π", "a way through the lattice: at each node a blank, to the next frame, or the next label",
           Written(r"\pi", "π")),
    symbol("γ", "share of the ways, by probability, that emit class k there; of labels times 1 + fastemit_lambda",
           Written(r"\gamma_{t, u, k}", "γ[t, u, k]")),
    symbol("logit_lengths", "frames of the sample", Written("T", "T")),
    symbol("target_lengths", "labels of the sample", Written("U", "U")),
]  # fmt: skip


class TransducerLoss(LatticeLoss, abstract=True):
    """A loss over all ways to emit labels while frames pass.

    Instances are called with `logits` (N, T, U + 1, C) or (T, U + 1, C), `targets` (N, U) or (U,), `logit_lengths` and
    `target_lengths`, tensors or lists of integers; by keyword with `sample_weight`, `mask` (both of the unreduced loss,
    one number for each sample) and `normalizer`.
    """

    reduction: Reduction = param(default="mean", doc="'none': a loss per sample; 'mean': their mean; 'sum': their sum.")

    _statistics = (probability_of("labels"),)
    _equations, _symbols, _curve_label = (
        _EQUATIONS,
        _SYMBOLS,
        "probability of the labels: the sum over all ways through the lattice",
    )
    _plan_class = TransducerPlan

    _label = "transducers"
    _usual_shape = (16, 60, 16, 64)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        samples, frames, columns, classes = shape
        targets = draw.integers(0, max(1, classes - 1), samples, columns - 1)
        return [draw.normal(*shape), targets, torch.full((samples,), frames), torch.full((samples,), columns - 1)]

    @classmethod
    def _call_operands(cls) -> list[str]:
        return ["logits", "targets", "logit_lengths", "target_lengths"]
