"""The chain family: a tag for each step, scores of tags and of pairs of neighbours, and every chain of tags.

1. The chain is written by hand, in C++ and here, as the lattice of CTC (`sequence.py`). A declaration gives names and
   parameters only.
2. Transitions and the scores of both ends are those of all samples, or each sample has its own.
3. The eager form runs in log space, all samples and tags of a step at once, in float64 where the device has it.
4. Steps beyond a sample's length are never read. A sample of no steps has no loss: it counts as masked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.declaration import param
from losskit.display import Written, symbol
from losskit.draw import Draw
from losskit.families.chain_plan import ChainPlan
from losskit.families.lattice import LatticeLoss, probability_of
from losskit.reduction import Reduction
from losskit_guide.card import Equation

_EQUATIONS = [
    Equation("loss", r"\ell = \log \sum_{y'} e^{s(y')} - s(y)", "ℓ = log Σ(y′) exp(s(y′)) − s(y)"),
    Equation(
        "score",
        r"s(y) = b_{y_1} + \sum_{t=1}^{T} e_{t, y_t} + \sum_{t=2}^{T} A_{y_{t-1}, y_t} + c_{y_T}",
        "s(y) = b[y₁] + Σ(t = 1…T) e[t, yₜ] + Σ(t = 2…T) A[yₜ₋₁, yₜ] + c[y(T)]",
    ),
    Equation(
        "gradient by the emissions",
        r"\frac{\partial \ell}{\partial e_{t, k}} = P(y'_t = k) - [y_t = k]",
        "∂ℓ/∂e[t, k] = P(y′ₜ = k) − [yₜ = k]",
    ),
]
_SYMBOLS = [
    symbol("emissions", "score of tag k at step t", Written("e_{t, k}", "e[t, k]")),
    symbol("target", "the tags that are right", Written("y", "y")),
    symbol("chains", "any chain of T tags", Written("y'", "y′")),
    symbol("transitions", "score of tag k after tag j", Written("A_{j, k}", "A[j, k]")),
    symbol("start", "score of the first tag; 0 without it", Written("b", "b")),
    symbol("end", "score of the last tag; 0 without it", Written("c", "c")),
    symbol("lengths", "steps of the sample", Written("T", "T")),
]


class ChainLoss(LatticeLoss, abstract=True):
    """A loss of a chain of tags against all chains.

    Instances are called with `emissions` (N, T, K) or (T, K), `target` (N, T) or (T,), `transitions` (K, K) or one for
    each sample, (N, K, K), and, where they are wanted, `start` and `end` (K,) or (N, K) and `lengths` (N,); by keyword
    with `sample_weight`, `mask` (both of the unreduced loss, one number for each sample) and `normalizer`.
    """

    reduction: Reduction = param(default="mean", doc="'none': a loss per sample; 'mean': their mean; 'sum': their sum.")

    _statistics = (probability_of("tags"),)
    _equations, _symbols = _EQUATIONS, _SYMBOLS
    _curve_label = "probability of the tags among all chains"
    _plan_class = ChainPlan

    _label = "chains"
    _usual_shape = (64, 100, 16)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        samples, steps, tags = shape
        sides = [draw.normal(tags) for _ in range(2)]
        lengths = torch.full((samples,), steps)
        return [draw.normal(*shape), draw.integers(0, tags, samples, steps), draw.normal(tags, tags), *sides, lengths]

    @classmethod
    def _call_operands(cls) -> list[str]:
        return ["emissions", "target", "transitions", "start", "end", "lengths"]

    @classmethod
    def _settings(cls) -> dict[str, tuple[Any, ...]]:
        """No formula is selected: what may be missing is 0."""
        return {}
