"""Layer "truth": values and gradients of every loss against its textbook formula with 66 digits, in ULP.

The points are those of `grids.grid`: ends of domains, kinks with both neighbours, all magnitudes, subnormals,
infinities, ordinary numbers. An error is judged in ULP of the truth or of the largest term of the formula, where
terms cancel; see `pointwise_truth.hidden_scale`. The halves run over all their 65,536 numbers. Formulas and bars are those of
the proofs in tests/losses/.
"""

import itertools
import math
from fractions import Fraction

import grids
import numpy as np
import pointwise_truth
import proofs
import pytest
import reference
import samples
import torch
from grids import HALVES, INF, REGIONS
from tiers import full, rest

import losskit

WIDE = (torch.float64, torch.float32)

HALF_BAR = 0.51


# ---------------------------------------------------------------------------------------------------------
# float64 and float32, fused and eager


def implementation(setup, path):
    return pointwise_truth.fused(setup) if path == "fused" else pointwise_truth.eagerly(setup)


def bar(setup, path, what):
    """The bar of a value or gradient."""
    own = grids.proof_of(setup).bars[(path == "eager") * 2 + (what != "value")]
    return own + (pointwise_truth.OTHER_PROCESSORS if path == "eager" else 0.0)


def check_accuracy(setup, dtype, path, region=None, compute=None):
    """No error above its bar; no infinity and no NaN where the truth is finite."""
    found = pointwise_truth.measure(setup, dtype, compute or implementation(setup, path), region)
    bad = [str(worst) for worst in found if not worst.error <= bar(setup, path, worst.what)]
    assert not bad, f"{setup}, {dtype}, {path}:\n" + "\n".join(bad)


# A constant with too few digits shows in float64 alone, an overflow in float32 first; either shows in the kernel, and the
# formula is the same in torch.
FIRST = {
    *itertools.product([torch.float32], ["fused"], REGIONS),
    *itertools.product(WIDE, ["fused", "eager"], ["ordinary"]),
}
FIRST.add((torch.float32, "eager", "infinite"))
CHOICES = [
    pytest.param(
        *choice,
        id="-".join(map(str, choice)),
        marks=[]
        if choice in FIRST
        else full("elements: accuracy of every loss in float64 and of the eager formula at extreme points"),
    )
    for choice in itertools.product(WIDE, ["fused", "eager"], REGIONS)
]


@pytest.mark.parametrize(("dtype", "path", "region"), CHOICES)
@pytest.mark.parametrize("setup", samples.everything())
def test_accuracy(setup, dtype, path, region):
    check_accuracy(setup, dtype, path, region)


def test_the_fused_path_is_the_kernel():
    """The public function would fall back to the eager formula silently; the figures above would be its."""
    for setup in samples.setups():
        loss = setup.loss(**setup.kwargs(torch.zeros(1, 1)), reduction="none")
        operands = setup.operands((1, 1), torch.float32)
        assert losskit.why(loss, *operands).implementation == "fused CPU kernel", setup


@pytest.mark.parametrize("name", proofs.pointwise())
def test_bars_are_tight(name):
    """A bar that is far above the errors found says nothing: each is within 0.5 ULP of the worst of its region, but for
    what processors differ by."""
    proof, seen = proofs.pointwise()[name], [0.0] * 4
    for setup in (s for s in samples.setups() if s.loss.name == name):
        for dtype in WIDE:
            for position, path in enumerate(("fused", "eager")):
                for worst in pointwise_truth.measure(setup, dtype, implementation(setup, path), "ordinary"):
                    i = 2 * position + (worst.what != "value")
                    seen[i] = max(seen[i], worst.error)
    above = [0.5, 0.5, *[0.5 + pointwise_truth.OTHER_PROCESSORS] * 2]
    assert all(allowed - error <= most for allowed, error, most in zip(proof.bars, seen, above)), (
        f"{name}: {proof.bars}, worst {seen}"
    )


# ---------------------------------------------------------------------------------------------------------
# Halves: every number there is


def every_number(dtype):
    """All bit patterns of a half, NaN included."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def halves(setup, dtype):
    """Operands: the first runs through its whole domain once per choice of the others."""
    formula = grids.formula_of(setup)
    first = every_number(dtype)
    first = first[~formula.domains[0].outside(first.to(torch.float32))]
    choices = grids.others(setup)
    count = len(next(iter(choices.values())))
    columns = [first.repeat(count)]
    columns += [torch.tensor(x, dtype=dtype).repeat_interleave(len(first)) for x in choices.values()]
    return columns


def half_errors(terms, extra, got, dtype):
    """Errors in ULP of the half, less 8 ULP of float32 of the largest term: what remains is one rounding."""
    with np.errstate(all="ignore"):
        terms = [np.broadcast_to(term, got.shape) for term in terms]
        truth = sum(terms[1:], terms[0])
        info = torch.finfo(dtype)
        exponent = np.frexp(np.where(np.isfinite(truth), truth, 0.0))[1]
        smallest = math.frexp(info.smallest_normal)[1]
        unit = np.ldexp(info.eps, np.maximum(exponent, smallest) - 1)
        limit = info.max * (1 + info.eps / 4)  # half a ULP above the largest: infinity from there
        want = np.where(np.abs(truth) > limit, np.sign(truth) * INF, truth)
        slack = 8 * np.maximum(np.max(np.abs(terms), 0), extra) * 2.0**-24
        error = (np.abs(got - want) - np.where(np.isfinite(slack), slack, 0.0)) / unit
        same = (got == want) | (np.isnan(got) & np.isnan(want)) | (np.abs(np.abs(truth) / limit - 1) < 1e-4)
        return np.where(same, 0.0, np.where(np.isnan(error), INF, error))


def check_halves(setup, dtype, compute=None):
    """Values and gradients are the rounded truth; infinite and NaN exactly where it is."""
    columns = halves(setup, dtype)
    names = grids.formula_of(setup).operands
    exact = {name: x.to(torch.float64).numpy() for name, x in zip(names, columns)}
    given = grids.parameters(setup, dtype)
    proof = grids.proof_of(setup)
    terms, gradients = reference.wide(proof.exact, exact, given)
    value, got = (compute or pointwise_truth.fused(setup))(columns)
    bad = []
    for what, result in {"value": value, **got}.items():
        assert result.dtype == dtype
        own = terms if what == "value" else gradients[what]
        errors = half_errors(own, proof.scale(what, exact, given), result.double().numpy(), dtype)
        if what != "value":  # a gradient at NaN, or at an infinity without a limit, may be anything
            with np.errstate(all="ignore"):
                unset = np.isnan(sum(np.broadcast_to(t, errors.shape) for t in own))
            errors = np.where(unset, 0.0, errors)
        i = int(errors.argmax())
        if errors[i] > HALF_BAR:
            at = ", ".join(f"{name}={float(x[i])!r}" for name, x in exact.items())
            count = int((errors > HALF_BAR).sum())
            bad.append(f"{what}: {errors[i]:.4g} ULP at {at}: got {result[i].item()!r} ({count} points)")
    assert not bad, f"{setup}, {dtype}:\n" + "\n".join(bad)


@pytest.mark.parametrize("dtype", rest(HALVES, [torch.float16], "elements: every bfloat16 number"), ids=str)
@pytest.mark.parametrize("setup", samples.everything())
def test_halves(setup, dtype):
    check_halves(setup, dtype)


# ---------------------------------------------------------------------------------------------------------
# NaN in, NaN out


def check_nan(setup, dtype, compute):
    """A NaN in any operand makes the value NaN, whatever the other operands are."""
    columns = grids.grid(grids.known(setup), dtype)
    for name in columns:
        poisoned = {**columns, name: torch.full_like(columns[name], math.nan)}
        value, _ = compute(list(poisoned.values()))
        assert value.isnan().all(), f"{setup}, {dtype}: {name}=nan gives {value[~value.isnan()][0]}"


@pytest.mark.parametrize("path", ["fused", "eager"])
@pytest.mark.parametrize("dtype", rest(samples.DTYPES, [torch.float32], "elements: NaN in every dtype"), ids=str)
@pytest.mark.parametrize("setup", samples.everything())
def test_nan_in_nan_out(setup, dtype, path):
    check_nan(setup, dtype, implementation(setup, path))


# ---------------------------------------------------------------------------------------------------------
# Reductions


def leaves(setup, size, dtype):
    shape = (size, 1) if setup.loss.rows else (size,)
    return [x.requires_grad_() for x in setup.operands(shape, dtype)]


def ulps(got, want, dtype):
    """The error of a float against a Fraction, in ULP."""
    return float(
        abs(Fraction(got) - want)
        / Fraction(float(reference.ulp(reference.mpf(want.numerator) / want.denominator, dtype)))
    )


def check_reduction(setup, dtype, reduction, size=5003):
    """The mean and the sum are those of the element losses, to 2 ULP."""
    operands = leaves(setup, size, dtype)
    elements = setup(*operands, reduction="none").double().flatten().tolist()
    exact = sum(map(Fraction, elements)) / (size if reduction == "mean" else 1)
    error = ulps(setup(*operands, reduction=reduction).item(), exact, dtype)
    assert error <= 2, f"{setup}, {dtype}, {reduction}: {error} ULP"


def check_mean_gradient(setup, dtype, size=1031):
    """The gradient of the mean is that of the element losses by N: one more rounding, and that of 1/N."""
    operands = leaves(setup, size, dtype)
    constant = [name in setup.loss.operands and not setup.loss.operands[name].differentiable for name in setup.names]
    wanted = [x for x, given in itertools.zip_longest(operands, constant) if not given]
    of_mean = torch.autograd.grad(setup(*operands, reduction="mean"), wanted)
    of_sum = torch.autograd.grad(setup(*operands, reduction="sum"), wanted)
    elements = setup(*operands, reduction="none")
    of_each = torch.autograd.grad(elements, wanted, torch.ones_like(elements))
    for mean, total, each in zip(of_mean, of_sum, of_each):
        assert torch.equal(total, each), f"{setup}, {dtype}: the gradient of the sum is not that of the elements"
        errors = [
            ulps(got, Fraction(want) / size, dtype)
            for got, want in zip(mean.flatten().tolist(), each.flatten().tolist())
        ]
        assert max(errors) <= 1.5, f"{setup}, {dtype}: {max(errors)} ULP"


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("setup", samples.everything("elements: reductions of every loss, which one loop serves"))
def test_reductions(setup, dtype, reduction):
    check_reduction(setup, dtype, reduction)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("setup", samples.everything("elements: reductions of every loss, which one loop serves"))
def test_gradient_of_the_mean(setup, dtype):
    check_mean_gradient(setup, dtype)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_long_sums(dtype):
    """A million elements of either sign cost no digit."""
    check_reduction(samples.Setup(losskit.GaussianNLLLoss), dtype, "sum", size=200_003)


# ---------------------------------------------------------------------------------------------------------
# What the declarations claim: worked cases, and differences from torch


def evaluate(function, loss, arguments, of, dtype):
    """The value of a function of one-element tensors, or its gradient by an operand."""
    names = [*loss._call_operands(), *(name for name, p in loss.params.items() if p.kind == "tensor")]
    arguments = {k: v for k, v in arguments.items() if v is not None or k in loss.params}
    shape = (1, 1) if loss.rows else (1,)
    tensors = {k: torch.full(shape, v, dtype=dtype) for k, v in arguments.items() if k in names}
    if of != "value":
        tensors[of].requires_grad_()
    rest = {k: v for k, v in arguments.items() if k not in names}
    result = function(**tensors, **rest)
    result = result if of == "value" else torch.autograd.grad(result, tensors[of])[0]
    return result.item()


def close(got, want, relative):
    """Equal to some relative error; infinities and NaN exactly."""
    if math.isnan(want) or math.isinf(want):
        return repr(got) == repr(float(want))
    return math.isclose(got, want, rel_tol=relative, abs_tol=0.0)


def check_case(loss, case):
    """The worked example, value and gradient, in float64 and float32."""
    for dtype, relative in ((torch.float64, 1e-14), (torch.float32, 4e-7)):
        got = evaluate(loss.functional, loss, case.arguments, "value", dtype)
        assert close(got, case.value, relative), f"{loss.name} {case}: value {got!r} in {dtype}"
        if case.grad is not None:
            got = evaluate(loss.functional, loss, case.arguments, loss._call_operands()[0], dtype)
            assert close(got, case.grad, relative), f"{loss.name} {case}: gradient {got!r} in {dtype}"


def check_deviation(loss, deviation):
    """torch gives the number of torch, losskit its own, and they differ."""
    dtype = getattr(torch, deviation.dtype)
    relative = 1e-6 if dtype == torch.float32 else 1e-3
    theirs = evaluate(getattr(torch.nn.functional, loss.name), loss, deviation.arguments, deviation.of, dtype)
    ours = evaluate(loss.functional, loss, deviation.arguments, deviation.of, dtype)
    assert close(theirs, deviation.torch, relative), f"{loss.name}: torch gives {theirs!r}: {deviation}"
    assert close(ours, deviation.losskit, relative), f"{loss.name}: losskit gives {ours!r}: {deviation}"
    assert not close(theirs, ours, relative), f"{loss.name}: no difference: {deviation}"


def declared(what):
    """Every case or deviation of every loss, as parameters of a test."""
    return [
        pytest.param(loss, item, id=f"{loss.name}-{i}")
        for loss in samples.built_in()
        for i, item in enumerate(getattr(loss, what))
    ]


@pytest.mark.parametrize(("loss", "case"), declared("cases"))
def test_cases(loss, case):
    check_case(loss, case)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")  # torch's, of kl_div
@pytest.mark.parametrize(("loss", "deviation"), declared("deviations"))
def test_deviations(loss, deviation):
    check_deviation(loss, deviation)


def test_every_loss_is_here():
    """A loss without a proof or a case would be tested by nothing."""
    assert {loss.name for loss in samples.built_in()} == set(proofs.pointwise())
    assert all(loss.cases for loss in samples.built_in())
