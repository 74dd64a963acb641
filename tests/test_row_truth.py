"""Values and gradients of every loss of rows against the textbook formula of its proof with 66 digits, in ULP.

The rows are ordinary ones, for every variant, and the points of the proof, where trouble is; see `row_truth.py`.
"""

import math

import proofs
import pytest
import row_samples
import row_truth
import torch
from grids import HALVES
from row_samples import SAMPLES
from tiers import full, rest

import losskit

WIDE = (torch.float64, torch.float32)
HALF_BAR = 0.51
PATHS = pytest.mark.parametrize("path", ["fused", "eager"])
POINTS = [
    pytest.param(next(s for s in SAMPLES if s.name == name), label, id=f"{name}-{label}")
    for name, proof in proofs.of_rows().items()
    for label in proof.points
]
AT_FORMULAS = [
    pytest.param(next(s for s in SAMPLES if s.name == name), label, id=f"{name}-{label}")
    for name, proof in proofs.of_rows().items()
    for label in proof.formula_at
]
# Seven has no divisor in common with the sizes of grids, so some of everything is there.
SHARE = pytest.mark.parametrize("every", [7, pytest.param(1, marks=full("rows: every point of the proofs' grids"))])


def proof_of(sample):
    return proofs.of_rows()[sample.name]


@PATHS
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("sample", row_samples.everything())
def test_accuracy(sample, dtype, path):
    found = row_truth.measure(sample, None, dtype, path == "eager")
    assert not (bad := found.above(proof_of(sample), path == "eager")), "\n".join(bad)


@SHARE
@pytest.mark.parametrize("dtype", rest(WIDE, [torch.float32], "rows: float64 at the proofs' points"), ids=str)
@pytest.mark.parametrize(("sample", "label"), POINTS)
def test_points(sample, label, dtype, every):
    """No error of the kernel above its bar, no infinity and no NaN where the truth is finite."""
    found = row_truth.measure(sample, label, dtype, False, every=every)
    assert not (bad := found.above(proof_of(sample), False)), "\n".join(bad)


@SHARE
@pytest.mark.parametrize("dtype", rest(WIDE, [torch.float32], "rows: float64 at the proofs' points"), ids=str)
@pytest.mark.parametrize(("sample", "label"), AT_FORMULAS)
def test_points_of_the_formula(sample, label, dtype, every):
    found = row_truth.measure(sample, label, dtype, True, every=every)
    assert max(found.value, found.gradient) <= proof_of(sample).formula_at[label], found.where


@pytest.mark.parametrize("path", rest(["fused", "eager"], ["fused"], "rows: bfloat16, and halves of the eager formula"))
@pytest.mark.parametrize(
    "dtype", rest(HALVES, [torch.float16], "rows: bfloat16, and halves of the eager formula"), ids=str
)
@pytest.mark.parametrize("sample", row_samples.everything())
def test_halves(sample, dtype, path):
    """Values and gradients are the rounded truth."""
    found = row_truth.measure(sample, None, dtype, path == "eager")
    assert found.largest <= HALF_BAR, found.where


@full("rows: halves at the proofs' points")
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("sample", "label"), POINTS)
def test_halves_at_points(sample, label, dtype):
    found = row_truth.measure(sample, label, dtype, False)
    assert found.largest <= HALF_BAR, found.where
    if label in proof_of(sample).formula_at:
        found = row_truth.measure(sample, label, dtype, True)
        assert found.largest <= HALF_BAR, found.where


@pytest.mark.parametrize(("sample", "label"), AT_FORMULAS)
def test_points_are_on_both_sides_of_a_hinge(sample, label):
    """Rows that cost something, and rows that do not."""
    if issubclass(sample.loss, losskit.MarginsLoss | losskit.EmbeddingsLoss):
        sides = [row_truth.run(sample, *point)[0] > 0 for point in row_truth.points(sample, label, torch.float64, 1)]
        assert torch.cat(sides).unique().tolist() == [False, True]


@full("rows: whether the bars of proofs say anything")
@pytest.mark.parametrize("name", proofs.of_rows())
def test_bars_are_tight(name):
    """A bar that is far above the errors found says nothing."""
    proof, seen = proofs.of_rows()[name], [0.0] * 4
    samples = [sample for sample in SAMPLES if sample.name == name]
    each = 0.0
    for dtype in WIDE:
        for sample, label in [
            *((sample, None) for sample in samples),
            *((samples[0], label) for label in proof.points),
        ]:
            for eager in (False, True):
                if not (eager and label):
                    found = row_truth.measure(sample, label, dtype, eager)
                    seen[2 * eager] = max(seen[2 * eager], found.value)
                    seen[2 * eager + 1] = max(seen[2 * eager + 1], found.gradient)
                    each = max(each, 0.0 if eager else found.each)
    other = [0.0, 0.0, row_truth.OTHER_PROCESSORS, row_truth.OTHER_PROCESSORS, 0.0]
    for bar, error, more in zip([*proof.bars, proof.each or 0.0], [*seen, each], other, strict=True):
        assert bar <= max(error + 0.5, 1.2 * error) + more, f"{proof.bars}, {proof.each}; worst {seen}, {each}"


@pytest.mark.parametrize("sample", row_samples.everything("rows: whether errors in ULP of every loss are seen"))
def test_errors_are_counted(sample):
    """The measure itself: values and gradients that are moved, infinite, NaN or 0 are seen."""
    for dtype in (torch.float32, torch.bfloat16):
        eps = torch.finfo(dtype).eps
        # Where gradients are exact, a bar is 0; elsewhere it takes more to be seen.
        bars = proof_of(sample).bars
        step = 2 * (max(bars.value, bars.gradient, 2.0) if dtype == torch.float32 else 2.0)
        for change in (
            lambda x: x * (1 + step * eps), lambda x: x * math.nan, lambda x: x + math.inf, torch.zeros_like, torch.neg,
        ):  # fmt: skip

            def of_value(sample, operands, given, change=change):
                value, gradients = row_truth.run(sample, operands, given)
                return change(value), gradients

            def of_gradients(sample, operands, given, change=change):
                value, gradients = row_truth.run(sample, operands, given)
                return value, {i: change(gradient) for i, gradient in gradients.items()}

            for compute in (of_value, of_gradients):
                found = row_truth.measure(sample, None, dtype, False, compute)
                bad = found.above(proof_of(sample), False) if dtype == torch.float32 else found.largest > HALF_BAR
                assert bad, (dtype, compute)
