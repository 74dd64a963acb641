"""The truth about element-wise losses on grids of extreme points, the errors of an implementation in ULP.

The truth is the formula of the proof, with 66 digits; an implementation is a function of the operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import mpmath
import numpy as np
import reference
import torch
from grids import INF, REGIONS, formula_of, grid, known, on_cpu, parameters, plan_for, proof_of, regions, setup_of
from reference import ulp
from samples import Setup

from losskit.plan import Arguments, Plan
from losskit.traced import Formula

NAN = math.nan
# ULP. The eager formula calls torch's functions, which call MKL's. The bars of proofs were measured on Intel's processors:
# on AMD's, MKL has other functions, and the last elements of a tensor may take yet others. 1.4 more and 0.9 less were seen.
OTHER_PROCESSORS = 2.0
Compute = Callable[[Sequence[torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]]

# ---------------------------------------------------------------------------------------------------------
# Truth and errors


@dataclass
class Quantity:
    """The truth of a value or gradient on a grid, ready for subtraction.

    near: the nearest float64; rest: what it misses, in units; unit: a ULP of the larger of the truth and its largest
    term. Where `near` is NaN there is no truth.
    """

    near: np.ndarray
    rest: np.ndarray
    unit: np.ndarray

    def errors(self, got: torch.Tensor) -> np.ndarray:
        """Errors in ULP; infinite where the result is infinite or NaN and the truth is not, or vice versa."""
        x = got.detach().to(torch.float64).numpy()
        with np.errstate(all="ignore"):
            error = np.abs((x - self.near) / self.unit - self.rest)
        error[x == self.near] = np.abs(self.rest[x == self.near])
        error = np.where(np.isnan(error), INF, error)
        return np.where(np.isnan(self.near), 0.0, error)


def quantity(terms: Sequence[Any], extra: float, dtype: torch.dtype) -> tuple[float, float, float]:
    """One point of a `Quantity`."""
    truth = sum(terms[1:], terms[0])
    if mpmath.isnan(truth):
        return NAN, 0.0, 1.0
    unit = ulp(max([abs(truth), *map(abs, terms), extra]), dtype)
    info = torch.finfo(dtype)
    largest, few = mpmath.mpf(info.max), 4 * mpmath.mpf(info.eps)
    if largest * (1 - few) < abs(truth) < largest * (1 + few) and abs(truth) != largest:
        return NAN, 0.0, 1.0  # a ULP decides between a number and infinity
    if abs(truth) > largest:
        return (INF if truth > 0 else -INF), 0.0, 1.0
    near = float(truth)
    return near, float((truth - near) / unit), float(unit)


def hidden_scale(
    setup: Setup, what: str, operands: dict[str, float], given: dict[str, Any], dtype: torch.dtype
) -> float:
    """A magnitude, beside those of the terms, of which a result may show the rounding.

    It is the proof's `scale`, or a subnormal intermediate result times its factor. Terms that may cancel need none:
    the proof's formula tells them apart.
    """
    proof = proof_of(setup)
    factor = proof.subnormal_factor(what, operands)
    of_subnormals = factor * torch.finfo(dtype).smallest_normal if math.isfinite(factor) else 0.0
    return max(proof.scale(what, operands, given), of_subnormals)


@cache
@on_cpu
def truth(setup_id: str, dtype: torch.dtype) -> dict[str, Quantity]:
    """The truth on the grid of a setup: "value", and the gradient of every operand by its name."""
    setup = setup_of(setup_id)
    proof, given = proof_of(setup), parameters(setup, dtype)
    columns = grid(setup_id, dtype)
    found: dict[str, list[tuple[float, float, float]]] = {"value": [], **{name: [] for name in columns}}
    with mpmath.workdps(reference.DIGITS):
        for point in zip(*(column.tolist() for column in columns.values())):
            operands = dict(zip(columns, point))
            value, gradients = reference.exact(proof.exact, operands, given)
            undecided = proof.undecided(operands, given, dtype)
            for name, terms in {"value": value, **gradients}.items():
                entry = quantity(terms, hidden_scale(setup, name, operands, given, dtype), dtype)
                found[name].append((NAN, 0.0, 1.0) if name in undecided else entry)
    return {what: Quantity(*np.array(entries).T.copy()) for what, entries in found.items()}


# ---------------------------------------------------------------------------------------------------------
# Implementations, as functions of the operands


def fused(setup: Setup) -> Compute:
    """The public function with reduction "none": the fused kernel."""

    def compute(operands: Sequence[torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        formula = formula_of(setup)
        # A class per row, so that the mean over classes is that of one element.
        leaves = [x.detach().clone().reshape(-1, *[1] * bool(setup.loss.rows)).requires_grad_() for x in operands]
        given = {k: v for k, v in setup.params.items() if k in setup.loss.params} | dict(zip(formula.operands, leaves))
        loss = setup.loss.functional(**given, reduction="none")
        return _with_gradients(formula, loss.reshape(-1), leaves)

    return compute


def eagerly(setup: Setup, plan: Plan | None = None) -> Compute:
    """The eager formula."""

    def compute(operands: Sequence[torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        chosen = (plan or plan_for(setup)).elementwise()
        leaves = [x.detach().clone().requires_grad_() for x in operands]
        loss = chosen.eager(Arguments(leaves, None, None, None, None), "raise")
        return _with_gradients(chosen.formula, loss, leaves)

    return compute


def torchs(setup: Setup) -> Compute | None:
    """torch's own function, where there is one and it has the parameters."""
    function = getattr(torch.nn.functional, setup.loss.name, None)
    known_there = {k: v for k, v in setup.params.items() if k != "stirling"}
    if function is None or "stirling" in setup.params:
        return None

    formula, calls = formula_of(setup), len(setup.names)

    def with_gradients(operands: Sequence[torch.Tensor], differentiable: int) -> Any:
        leaves = [x.detach().clone().reshape(-1, *[1] * bool(setup.loss.rows)) for x in operands]
        leaves = [x.requires_grad_(i < differentiable) for i, x in enumerate(leaves)]
        given = {**known_there, **dict(zip(formula.operands[calls:], leaves[calls:], strict=True))}
        loss = function(*leaves[:calls], **given, reduction="none")
        return _with_gradients(formula, loss.reshape(-1), leaves)

    def compute(operands: Sequence[torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        for differentiable in range(calls, 1, -1):
            try:
                return with_gradients(operands, differentiable)
            except RuntimeError:  # some of torch's have no gradient by the target
                continue
        return with_gradients(operands, 1)

    return compute


def _with_gradients(formula: Formula, loss: torch.Tensor, leaves: list[torch.Tensor]) -> Any:
    wanted = {name: x for name, x in zip(formula.operands, leaves, strict=True) if x.requires_grad}
    inputs = list(wanted.values())
    gradients = torch.autograd.grad(loss, inputs, torch.ones_like(loss), allow_unused=True, materialize_grads=True)
    return loss.detach(), {name: g.reshape(-1) for name, g in zip(wanted, gradients)}


# ---------------------------------------------------------------------------------------------------------
# Measuring


@dataclass
class Worst:
    """The largest error of a quantity and the point where it is."""

    what: str
    error: float
    point: dict[str, float]
    got: float
    want: float

    def __str__(self) -> str:
        at = ", ".join(f"{name}={x!r}" for name, x in self.point.items())
        return f"{self.what}: {self.error:.4g} ULP at {at}: got {self.got!r}, truth {self.want!r}"


def measure(setup: Setup, dtype: torch.dtype, compute: Compute, region: str | None = None) -> list[Worst]:
    """The worst error of the value and of each gradient on the grid, or on one region of it."""
    columns, exact = grid(known(setup), dtype), truth(known(setup), dtype)
    counts = np.ones(len(exact["value"].near), bool)
    if region is not None:
        counts = regions(known(setup), dtype) == REGIONS.index(region)
    value, gradients = compute(list(columns.values()))
    found = []
    for what, got in {"value": value, **gradients}.items():
        errors = np.where(counts, exact[what].errors(got), -1.0)
        i = int(errors.argmax())
        point = {name: float(column[i]) for name, column in columns.items()}
        found.append(Worst(what, float(errors[i]), point, float(got[i]), float(exact[what].near[i])))
    return found
