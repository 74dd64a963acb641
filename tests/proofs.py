"""What a proof is: all that is known about a loss without losskit, in one file of tests/losses/ for each loss.

The declaration in src/losskit/losses/huber.py says what the loss is; the proof in tests/losses/huber.py says what is
true about it, and the suite compares the two. A proof is written from the literature and from torch's documentation.
It imports nothing of losskit, so that a mistake in a declaration cannot hide in its proof; a test reads the imports.

To prove a new loss, copy a neighbour of the same family. An element-wise loss needs a `PointwiseProof`, a loss of rows
a `RowProof`: name, formula, variants, bars and example; most need no more.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from reference import Result, RowResult

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


Point = tuple[tuple[torch.Tensor, ...], dict[str, Any]]  # operands for some rows, parameters
Row = Sequence[Any]  # the operands of one row, by position: numbers and (nested) lists of numbers


def _as_it_is(what: str | int, largest: Any, row: Row, given: Numbers, dtype: torch.dtype) -> Any:
    return largest


def _all_decided(m: Any, row: Row, given: Numbers, dtype: torch.dtype) -> Sequence[str | int]:
    return ()


@dataclass(frozen=True, kw_only=True)
class RowProof(Proof):
    """The truth about a loss whose unreduced value is one number per row.

    exact: the textbook formula of one row. It takes a vocabulary `m`, the operands by position and the parameters by
        torch's names; those that a variant does not set have torch's defaults here. An operand is a list of numbers, or
        one number, as the row has it. It returns the terms of the value, as an element-wise formula does, and for each
        operand with a gradient, by its position, the entries: a number, or a tuple of terms that cancel, for each number
        of the operand.
    bars: how far from that losskit may be: a gradient in ULP of its largest entry, or of the largest term of one.
    variants: ways to call it; together they set every parameter.

    The rest is for losses with something special. `m`, `row` and `given`, the parameters, are what `exact` takes; `what`
    is "value" or the position of the operand of a gradient.

    each: the error of an entry of the fused gradient in ULP of itself or its largest term, where a loss promises that, too.
    points: rows where trouble is, by the name of the trouble: operands and parameters, for a dtype. The kernel keeps its
        bars there.
    formula_at: at which of the points the eager formula is right, too, and how far value and gradient may be off.
    least: an error too small to count, however small the truth is.
    scale: the magnitude in whose ULP errors count, where it is more than the largest term.
    undecided: the quantities that jump within the rounding of an intermediate result: either side is right there.
    """

    exact: Callable[..., RowResult]
    bars: Bars
    variants: Sequence[Variant]
    each: float | None = None
    points: Mapping[str, Callable[[torch.dtype], Iterable[Point]]] = field(default_factory=dict)
    formula_at: Mapping[str, float] = field(default_factory=dict)
    least: float = 0.0
    scale: Callable[[str | int, Any, Row, Numbers, torch.dtype], Any] = _as_it_is
    undecided: Callable[[Any, Row, Numbers, torch.dtype], Sequence[str | int]] = _all_decided


@dataclass(frozen=True, kw_only=True)
class PairsProof(Proof):
    """The truth about a loss of all pairs of a batch, whose rows have no loss without each other.

    exact: the textbook formula of a whole batch. It takes a vocabulary `m`, the operands by position and the parameters
        by torch's names, and returns the losses of the rows, and for each operand with a gradient, by its position, the
        rows of the gradient of their sum.
    bars: how far from that losskit may be: a loss in ULP of itself or, where that is larger, of the largest similarity
        of the batch; a gradient in ULP of its largest entry, times that similarity where it is above 1: as similarities
        are rounded, so are the exponentials of which gradients are made.
    variants: ways to call it; together they set every parameter.
    """

    exact: Callable[..., tuple[list[Any], dict[int, list[list[Any]]], Any]]
    bars: Bars
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


@cache
def of_pairs() -> dict[str, PairsProof]:
    """Those of the losses of pairs."""
    return {name: proof for name, proof in every().items() if isinstance(proof, PairsProof)}
