"""The sequence family: frames of class scores, a shorter sequence of labels, and every alignment between the two.

1. What the loss sums over is not a formula of numbers: the lattice is written by hand, in C++ and here. A declaration
   gives names and parameters only, and there is no `value`.
2. The eager form runs the same recursion over blanks and labels in log space, all samples and labels at once, frame by
   frame, in float64 where the device has it: in float32, log space loses four digits of the gradient.
3. The logarithm of an impossible path is -1e30, not -inf: derivatives of any order then stay finite, times weight 0.
4. torch defines the gradient by `log_probs` as exp(log_probs) - posterior: right where a log-softmax comes before the
   loss, whose own backward takes the first term out again. It is kept, as the derivative of a term whose value is 0.
5. Frames beyond a sample's length, labels beyond its target's length, and masked samples are never read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from losskit.declaration import param
from losskit.display import Written, symbol
from losskit.draw import Draw
from losskit.families.lattice import LatticeLoss, probability_of
from losskit.families.sequence_plan import SequencePlan
from losskit.reduction import Reduction
from losskit_guide.card import Equation

_EQUATIONS = [
    Equation(
        "loss",
        r"\ell = -\log \sum_{\pi} \prod_{t=1}^{T} y_{t, \pi_t}",
        "ℓ = −log Σ(π) Π(t = 1…T) y[t, π(t)]",
    ),
    Equation(
        "gradient by the scores",
        r"\frac{\partial \ell}{\partial x_{t, k}} = y_{t, k} - \gamma_{t, k}",
        "∂ℓ/∂x[t, k] = y[t, k] − γ[t, k]",
    ),
    Equation(
        "with exact_gradient",
        r"\frac{\partial \ell}{\partial \log y_{t, k}} = -\gamma_{t, k}",
        "∂ℓ/∂(log y[t, k]) = −γ[t, k]",
    ),
]
_SYMBOLS = [
    symbol("log_probs", "probability of class k in frame t; `log_probs` holds its logarithm",
           Written("y_{t, k}", "y[t, k]")),
    symbol("scores", "score of class k in frame t, of which the log-softmax gives `log_probs`",
           Written("x_{t, k}", "x[t, k]")),
    symbol("π", "an alignment: a class for each frame, which gives the labels with repeats merged and blanks dropped",
           Written(r"\pi", "π")),
    symbol("γ", "share of the alignments, by probability, that have class k in frame t",
           Written(r"\gamma_{t, k}", "γ[t, k]")),
    symbol("input_lengths", "frames of the sample", Written("T", "T")),
    symbol("target_lengths", "labels of the sample", Written("S", "S")),
]  # fmt: skip


class SequenceLoss(LatticeLoss, abstract=True):
    """A loss over all alignments of a sequence of labels with a longer sequence of frames.

    Instances are called with `log_probs` (T, N, C) or (T, C), `targets` (N, S), concatenated (L,) or (S,),
    `input_lengths` and `target_lengths`, tensors or lists of integers; by keyword with `sample_weight`, `mask` (both of
    the unreduced loss, one number for each sample) and `normalizer`.
    """

    reduction: Reduction = param(
        default="mean",
        doc="'none': a loss per sample; 'mean': the mean of losses divided by target lengths; 'sum': their sum.",
    )

    _statistics = (probability_of("labels"),)
    _equations, _symbols = _EQUATIONS, _SYMBOLS
    _curve_label = "probability of the labels: the sum over all alignments"
    _plan_class = SequencePlan

    _label = "sequences"
    _usual_shape = (50, 16, 20)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        frames, samples, labels = shape
        length = max(1, frames // 4)
        lengths = torch.full((samples,), length)
        targets = draw.integers(1, max(2, labels), samples, length)
        return [draw.normal(*shape).log_softmax(-1), targets, torch.full((samples,), frames), lengths]

    @classmethod
    def _means(cls) -> list[Equation]:
        latex = r"L = \frac{1}{N} \sum_i \frac{\ell_i}{\max(1, S_i)}"
        return [super()._means()[0], Equation("mean", latex, "L = 1/N · Σᵢ ℓᵢ / max(1, Sᵢ)")]

    @classmethod
    def _call_operands(cls) -> list[str]:
        return ["log_probs", "targets", "input_lengths", "target_lengths"]
