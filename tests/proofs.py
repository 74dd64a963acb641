"""What a proof is: all that is known about a loss without losskit, in one file of tests/losses/ for each loss.

The declaration in src/losskit/losses/huber.py says what the loss is; the proof in tests/losses/huber.py says what is
true about it, and the suite compares the two. A proof is written from the literature and from torch's documentation.
It imports nothing of losskit, so that a mistake in a declaration cannot hide in its proof; a test reads the imports.

To prove a new loss, copy a neighbour of the same family. An element-wise loss needs a `PointwiseProof`: name, formula,
variants, bars and example; most need no more. A loss of rows needs a `RowProof`; its truth is in the family's tests.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from reference import Result

Numbers = Mapping[str, Any]  # operands, or parameters, by torch's names


class Bars(NamedTuple):
    """The largest errors allowed in float64 and float32, in ULP: the worst seen, rounded up.

    The fused kernel's value and gradient, and the eager formula's. Above 2 for a value and 4 for a gradient there is
    a reason, in a comment. A test refuses bars that are more than 0.5 above what is seen.
    """

    value: float
    gradient: float
    eager_value: float
    eager_gradient: float


@dataclass(frozen=True)
class Example:
    """The worked example of the loss's page: made-up data, the loss by hand in plain torch, and losskit's call.

    It is what a reader would write after reading the formula. tools/site/worked.py puts the parts together.
    """

    data: str
    by_hand: str  # makes `by_hand`, the unreduced loss
    operands: str
    arguments: str = ""  # of the constructor, before `reduction`
    mean: str = "by_hand.mean()"
    more: str = ""  # what else is worth trying, with asserts of its own


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What every proof has: the function name of the loss, and the worked example of its page."""

    name: str
    example: Example


def _no_points(given: Numbers, dtype: torch.dtype) -> list[torch.Tensor]:
    return []


def _nothing(*_: Any) -> float:
    return 0.0


def _decided(operands: Numbers, given: Numbers, dtype: torch.dtype) -> Sequence[str]:
    return ()


@dataclass(frozen=True, kw_only=True)
class PointwiseProof(Proof):
    """The truth about a loss of single elements.

    exact: the textbook formula. It takes a vocabulary `m`, the operands and the parameters by torch's names, and
        returns the terms of the value and of the gradient by each operand; tests/reference.py says how.
    bars: how far from that losskit may be.
    variants: settings of the parameters worth testing beside the defaults; together they change every parameter.
    others: what the operands after the first are, one list of numbers each, while the first runs through all numbers.
        Without it: numbers that fit the domain of the target.
    infinite: operands after the first that may be infinite, besides those that may be any real number.

    The rest are functions for losses with something special. `operands` and `given`, the parameters, are numbers by
    name; `what` is "value" or the operand of a gradient.

    points: more points to test at, one column for each operand, that no grid of magnitudes has.
    scale: a magnitude, beside those of the terms, of which a result may show the rounding.
    subnormal_factor: what multiplies an intermediate result that may be subnormal, and with it that result's rounding.
    undecided: the quantities that jump within the rounding of an intermediate result: either side is right there.
    """

    exact: Callable[..., Result]
    bars: Bars
    variants: Sequence[Numbers] = ()
    others: Mapping[str, Sequence[float]] | None = None
    infinite: tuple[str, ...] = ()
    points: Callable[[Numbers, torch.dtype], list[torch.Tensor]] = _no_points
    scale: Callable[[str, Numbers, Numbers], Any] = _nothing
    subnormal_factor: Callable[[str, Numbers], float] = _nothing
    undecided: Callable[[Numbers, Numbers, torch.dtype], Sequence[str]] = _decided


@dataclass(frozen=True)
class Variant:
    """A way to call a loss of rows: a label for the names of tests, operands for a number of rows, parameters.

    gradients: the positions of the operands whose gradients are tested.
    batch: the batch dimension of each operand.
    """

    label: str
    make: Callable[[int, torch.Generator], tuple[torch.Tensor, ...]]
    params: dict[str, Any] = field(default_factory=dict)
    gradients: tuple[int, ...] = (0,)
    batch: tuple[int, ...] = (0, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class RowProof(Proof):
    """The variants of a loss whose unreduced value is one number per row; together they set every parameter.

    The exact formula and the bars are in the tests of the family, with the statistics that its losses share.
    """

    variants: Sequence[Variant]


@cache
def files() -> dict[str, Proof]:
    """The proofs by the name of their file."""
    package = importlib.import_module("losses")
    stems = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return {stem: importlib.import_module(f"losses.{stem}").proof for stem in stems}


@cache
def every() -> dict[str, Proof]:
    """The proofs by the function name of their loss."""
    return {proof.name: proof for proof in files().values()}


@cache
def pointwise() -> dict[str, PointwiseProof]:
    """Those of the element-wise losses."""
    return {name: proof for name, proof in every().items() if isinstance(proof, PointwiseProof)}


@cache
def of_rows() -> dict[str, RowProof]:
    """Those of the losses of rows."""
    return {name: proof for name, proof in every().items() if isinstance(proof, RowProof)}
