"""The errors of losses of rows against the formulas of their proofs, with 66 digits, in ULP.

The rows are those of a variant, of numbers at ordinary scale, or the points of a proof. As for element-wise losses the
unit is the ULP of the truth or, where terms of the formula cancel, of the largest term; of a gradient by an operand it
is that of the largest entry or term in the row. Gradients are not compared where the loss is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import mpmath
import numpy as np
import proofs
import pytest
import reference
import torch
from grids import on_cpu
from mpmath import mpf
from pointwise_truth import OTHER_PROCESSORS, Quantity, quantity
from row_samples import SAMPLES, Sample, without_kernels
from torch import Tensor

import losskit

ORDINARY = 12  # rows of a variant, and as many with other numbers
Compute = Callable[[Sample, Sequence[Tensor], dict[str, Any]], tuple[Tensor, dict[int, Tensor]]]


def plain(x: Any) -> Any:
    """A tensor as a number or nested lists, anything else as it is."""
    return x.tolist() if isinstance(x, Tensor) else x


def flat(entries: Any) -> Iterator[tuple[Any, ...]]:
    """The entries of nested lists, in order, each as its terms."""
    if isinstance(entries, list):
        for part in entries:
            yield from flat(part)
    else:
        yield entries if isinstance(entries, tuple) else (entries,)


def rows_of(sample: Sample, operands: Sequence[Tensor]) -> Iterator[list[Any]]:
    """The operands of each row, as numbers and lists."""
    for i in range(operands[0].shape[sample.batch[0]]):
        yield [plain(x.select(dim, i)) for x, dim in zip(operands, sample.batch)]


def points(
    sample: Sample, label: str | None, dtype: torch.dtype, every: int
) -> list[tuple[list[Tensor], dict[str, Any]]]:
    """Operands and parameters: the points of a proof under a label, some or all, or the variant's own rows."""
    if label is not None:
        made = [*proofs.of_rows()[sample.name].points[label](dtype)][::every]
    else:
        made = [(sample.operands(ORDINARY, torch.float64, seed), sample.params) for seed in range(2)]
    return [
        (
            [x.to(dtype) if x.is_floating_point() else x for x in operands],
            {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in given.items()},
        )
        for operands, given in made
    ]


NOT_COMPARED = (math.nan, 0.0, 1.0)
Entries = dict[str, list[tuple[float, float, float]]]  # points of a `Quantity`, by its name


def of_one_row(
    proof: proofs.RowProof, sample: Sample, row: Sequence[Any], given: dict[str, Any], dtype: torch.dtype
) -> Entries:
    """The truth of one row: "value", the gradient of an operand by its position, "each i" of an entry by itself."""
    row, given = reference.numbers(row), reference.numbers(given)
    terms, gradients = proof.exact(reference.Exact, *row, **given)
    undecided = proof.undecided(reference.Exact, row, given, dtype)

    def size(what: str | int, many: Sequence[tuple[Any, ...]]) -> Any:
        """The magnitude whose ULP is the unit."""
        every = [abs(x) for part in many for x in (*part, sum(part[1:], part[0])) if mpmath.isfinite(x)]
        return proof.scale(what, max(every, default=mpf(0)), row, given, dtype)

    value = quantity(terms, size("value", [terms]), dtype)
    found: Entries = {"value": [NOT_COMPARED if "value" in undecided else value]}
    for operand in sample.gradients:
        entries = list(flat(gradients[operand]))
        skip = operand in undecided or not math.isfinite(value[0])
        largest = size(operand, entries)
        found[f"{operand}"] = [NOT_COMPARED if skip else quantity(x, largest, dtype) for x in entries]
        if proof.each is not None:
            found[f"each {operand}"] = [NOT_COMPARED if skip else quantity(x, 0.0, dtype) for x in entries]
    return found


@on_cpu
def truth(sample: Sample, operands: Sequence[Tensor], given: dict[str, Any], dtype: torch.dtype) -> dict[str, Quantity]:
    """The truth about some rows."""
    numbers = {k: plain(v) for k, v in given.items()}
    with mpmath.workdps(reference.DIGITS):
        proof = proofs.of_rows()[sample.name]
        rows = [of_one_row(proof, sample, row, numbers, dtype) for row in rows_of(sample, operands)]
    joined = {what: [entry for row in rows for entry in row[what]] for what in rows[0]}
    return {what: Quantity(*np.array(x).reshape(-1, 3).T.copy()) for what, x in joined.items()}


@cache
def truths(key: str, label: str | None, dtype: torch.dtype, every: int) -> list[dict[str, Quantity]]:
    """The truth at each point."""
    sample = _SAMPLES[key]
    return [truth(sample, operands, given, dtype) for operands, given in points(sample, label, dtype, every)]


_SAMPLES: dict[str, Sample] = {}


def run(sample: Sample, operands: Sequence[Tensor], given: dict[str, Any]) -> tuple[Tensor, dict[int, Tensor]]:
    """The losses of rows, and their gradients by the operands that the sample names."""
    leaves = [x.detach().clone().requires_grad_(i in sample.gradients) for i, x in enumerate(operands)]
    with losskit.checks("off"):  # rounded to halves, log-probabilities and probabilities are none any more
        loss = sample.loss.functional(*leaves, **given, reduction="none")
    wanted = [leaves[i] for i in sample.gradients]
    got = torch.autograd.grad(loss, wanted, torch.ones_like(loss), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(sample.gradients, got))


@dataclass
class Errors:
    """The largest error of the value, of a gradient by its largest entry, and of an entry by itself; and where it is."""

    value: float = 0.0
    gradient: float = 0.0
    each: float = 0.0
    where: dict[str, str] = field(default_factory=dict)

    def above(self, proof: proofs.RowProof, eager: bool) -> list[str]:
        """What is above the bars of a proof."""
        more = OTHER_PROCESSORS if eager else 0.0
        bars = {"value": proof.bars[2 * eager] + more, "gradient": proof.bars[2 * eager + 1] + more}
        if proof.each is not None and not eager:
            bars["each"] = proof.each
        return [f"{what}: {self.where[what]}" for what, bar in bars.items() if not getattr(self, what) <= bar]

    @property
    def largest(self) -> float:
        return max(self.value, self.gradient, self.each)

    def count(
        self, sample: Sample, exact: dict[str, Quantity], loss: Tensor, gradients: dict[int, Tensor], at: str
    ) -> None:
        """Take the results for some rows into account."""
        results = {"value": loss}
        for operand, gradient in gradients.items():
            rows = gradient.movedim(sample.batch[operand], 0).flatten()
            results |= {key: rows for key in (f"{operand}", f"each {operand}") if key in exact}
        least = proofs.of_rows()[sample.name].least
        for key, got in results.items():
            what = key if key == "value" else "each" if key.startswith("each") else "gradient"
            errors = (of_halves if torch.finfo(got.dtype).bits == 16 else of_wide)(exact[key], got.cpu(), least)
            i = int(errors.argmax()) if errors.size else 0
            if errors.size and errors[i] > getattr(self, what):
                setattr(self, what, float(errors[i]))
                self.where[what] = (
                    f"{errors[i]:.4g} ULP of {key}, {at}, entry {i}: got {got[i].item()!r}, truth {exact[key].near[i]!r}"
                )


def measure(
    sample: Sample, label: str | None, dtype: torch.dtype, eager: bool, compute: Compute = run, every: int = 1
) -> Errors:
    """The worst errors on the rows of a variant, or on points of its proof, or some of these."""
    _SAMPLES[str(sample)] = sample
    found, made = Errors(), points(sample, label, dtype, every)
    for (operands, given), exact in zip(made, truths(str(sample), label, dtype, every), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            if eager:
                without_kernels(patch)
            loss, gradients = compute(sample, operands, given)
        assert {x.dtype for x in (loss, *gradients.values())} == {dtype}
        found.count(sample, exact, loss, gradients, f"{given}, shapes {[list(x.shape) for x in operands]}")
    return found


def errors_of(
    name: str,
    operands: Sequence[Tensor],
    given: dict[str, Any],
    loss: Tensor,
    gradients: dict[int, Tensor],
    smallest: float = 0.0,
) -> Errors:
    """The errors of results that are there, of a loss with reduction "none", but for what is smaller than `smallest`."""
    sample = replace(next(s for s in SAMPLES if s.name == name), gradients=tuple(gradients))
    found = Errors()
    exact = truth(sample, [x.detach().cpu() for x in operands], given, loss.dtype)
    for right in exact.values():
        right.near[right.unit <= torch.finfo(loss.dtype).eps * smallest] = math.nan
    found.count(sample, exact, loss.detach(), gradients, f"{given}")
    return found


def of_wide(truth: Quantity, got: Tensor, least: float) -> np.ndarray:
    """Errors in ULP, but for those that are too small to count."""
    with np.errstate(all="ignore"):
        return np.where(np.abs(got.double().numpy() - truth.near) <= least, 0.0, truth.errors(got))


def of_halves(truth: Quantity, got: Tensor, least: float) -> np.ndarray:
    """Errors in ULP of the half itself, less 8 ULP of float32 of the largest term: what remains is one rounding."""
    info = torch.finfo(got.dtype)
    with np.errstate(all="ignore"):
        exponent = np.frexp(np.where(np.isfinite(truth.near), truth.near, 0.0))[1]
        unit = np.ldexp(info.eps, np.maximum(exponent, math.frexp(info.smallest_normal)[1]) - 1)
        slack = 8 * 2.0**-24 * 2 * truth.unit / info.eps
        error = np.maximum(np.abs(got.double().numpy() - truth.near) - slack, 0.0) / unit
    same = (got.double().numpy() == truth.near) | np.isnan(truth.near)
    return np.where(same, 0.0, np.where(np.isnan(error), math.inf, error))
