"""What tests of accuracy, facts and mutants share: grids of extreme points, the truth on them, errors in ULP.

A check is a function that raises AssertionError; tests call it on losskit, `test_mutants.py` on broken versions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

import mpmath
import numpy as np
import proofs
import reference
import torch
from reference import ulp
from samples import Setup

import losskit
from losskit import probability, signs
from losskit.domains import Interval, Signs
from losskit.plan import Arguments, Plan
from losskit.plans import plan_of
from losskit.traced import Formula

INF, NAN = math.inf, math.nan
HALVES = (torch.bfloat16, torch.float16)
Compute = Callable[[Sequence[torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]]

# ---------------------------------------------------------------------------------------------------------
# A setup, taken apart


def proof_of(setup: Setup) -> proofs.PointwiseProof:
    """What is known about the loss of a setup without its declaration."""
    name = setup.loss.name
    if name not in proofs.pointwise():
        stem = setup.loss.__module__.rsplit(".", 1)[-1]
        raise LookupError(f"{name} has no proof: write tests/losses/{stem}.py, see tests/proofs.py")
    return proofs.pointwise()[name]


def formula_of(setup: Setup) -> Formula:
    """The traced formula that the switches of a setup select."""
    return setup.loss._formulas[tuple(bool(setting(setup, name)) for name in setup.loss._switches())]


def setting(setup: Setup, name: str) -> Any:
    """The value of a parameter; numbers stand for tensor parameters that are there, False for those that are not."""
    declared = setup.loss.params[name]
    value = setup.params.get(name, declared.default)
    return False if value is None else value


def parameters(setup: Setup, dtype: torch.dtype) -> dict[str, Any]:
    """Numbers and switches of a setup, numbers as rounded to the compute type of `dtype`."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    found = {}
    for name, declared in setup.loss.params.items():
        if declared.kind == "bool":
            found[name] = setting(setup, name)
        elif declared.kind == "float":
            found[name] = torch.tensor(setting(setup, name), dtype=wide).item()
    return found


def plan_for(setup: Setup, reduction: str = "none") -> Plan:
    """The plan of a setup."""
    declared = [p for p in setup.loss.params.values() if p.name != "weight"]
    values = [setting(setup, p.name) for p in declared]
    return plan_of(setup.loss, reduction, *(bool(v) if p.kind == "tensor" else v for p, v in zip(declared, values)))


# ---------------------------------------------------------------------------------------------------------
# Grids


def magnitudes(dtype: torch.dtype) -> list[float]:
    """Positive numbers from the smallest subnormal to the largest, most of them between 1e-30 and 1e30."""
    info = torch.finfo(dtype)
    ordinary = [10.0**k for k in range(-30, 31, 5)] + [0.5, 2.0, 3.0, 17.0, 50.0, 80.0, 90.0, 104.0, 700.0]
    return [info.smallest_normal * info.eps, info.smallest_normal, *ordinary, info.max]


def anchors(domain: Interval | Signs, dtype: torch.dtype, kinks: Iterable[float], infinite: bool) -> list[float]:
    """Where trouble is: the ends of the domain, kinks with both neighbours, all magnitudes, infinities."""
    if isinstance(domain, Signs):
        return domain.edges()
    points = [0.0, *domain.edges()]
    points += [sign * x for x in magnitudes(dtype) for sign in (1, -1)]
    if domain.high == 1.0:
        points += [0.5, 0.25, 0.9, 1 - 1e-3]
    if infinite:
        points += [INF, -INF]
    kinks = [sign * kink for kink in [*kinks, domain.low, domain.high] for sign in (1, -1) if math.isfinite(kink)]
    rounded = torch.tensor([*points, *kinks], dtype=torch.float64).to(dtype)
    near = rounded[len(points) :]
    up, down = (torch.nextafter(near, torch.full_like(near, end)) for end in (INF, -INF))
    found = sorted({float(x) for x in torch.cat([rounded, up, down])})
    return [x for x in found if domain.includes(x)]


def _on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose new tensors are the CPU's, where the truth is computed; the GPU's tests call it, too."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return called


def kinks(setup: Setup, dtype: torch.dtype) -> list[float]:
    """Where formulas change course: at their parameters, and at 1 (counts, probabilities)."""
    numbers = [x for x in parameters(setup, dtype).values() if not isinstance(x, bool)]
    return [0.0, 1.0, *numbers]


@cache
@_on_cpu
def grid(setup_id: str, dtype: torch.dtype, size: int = 900, seed: int = 5) -> dict[str, torch.Tensor]:
    """Operands of a setup: extreme points, points around kinks of differences, and ordinary ones."""
    setup = _SETUPS[setup_id]
    formula = formula_of(setup)
    rng = np.random.default_rng(seed)
    columns = []
    for position, (name, domain) in enumerate(zip(formula.operands, formula.domains)):
        infinite = position == 0 or name in proof_of(setup).infinite or domain.everything
        columns.append(anchors(domain, dtype, kinks(setup, dtype), infinite))
    rows = list(itertools.product(*columns)) if math.prod(map(len, columns)) < 200_000 else None
    if rows is None or len(rows) > size:
        picks = [rng.choice(column, size) for column in columns]
        # Every anchor at least once.
        for pick, column in zip(picks, columns):
            where = rng.permutation(size)[: len(column)]
            pick[where] = column[: len(where)]
        rows = list(zip(*picks))
    corners = itertools.product(*(sorted({column[0], column[-1], *_innermost(column)}) for column in columns))
    generator = torch.Generator().manual_seed(seed)
    ordinary = torch.stack([d.sample((size,), generator).to(dtype) for d in formula.domains], 1)
    extreme = torch.tensor([*rows, *corners], dtype=torch.float64).to(dtype)
    more = [x.to(dtype) for x in proof_of(setup).points(parameters(setup, dtype), dtype)]
    points = torch.cat([extreme, ordinary, *_near_kinks(setup, formula, dtype, ordinary), *more])
    inside = ~torch.stack([d.outside(points[:, i]) for i, d in enumerate(formula.domains)]).any(0)
    points = points[inside]
    return {name: points[:, i].contiguous() for i, name in enumerate(formula.operands)}


def _innermost(column: list[float]) -> list[float]:
    """Zero, the smallest and the largest finite numbers of either sign."""
    finite = [x for x in column if math.isfinite(x)]
    above, below = [x for x in finite if x > 0], [x for x in finite if x < 0]
    ends = [above[0], above[-1]] if above else []
    return [*ends, *([below[0], below[-1]] if below else []), *([0.0] if 0.0 in finite else [])]


def _near_kinks(setup: Setup, formula: Formula, dtype: torch.dtype, ordinary: torch.Tensor) -> list[torch.Tensor]:
    """Ordinary points whose first two operands differ by a kink exactly, or by one ULP more or less."""
    if len(formula.operands) < 2 or isinstance(formula.domains[1], Signs):
        return []
    found = []
    for kink in kinks(setup, dtype):
        for sign in (1, -1):
            base = ordinary[:40].clone()
            base[:, 0] = base[:, 1] + sign * kink
            for end in (None, INF, -INF):
                moved = base.clone()
                if end is not None:
                    moved[:, 0] = torch.nextafter(base[:, 0], torch.full_like(base[:, 0], end))
                found.append(moved)
    return found


PROBABILITIES, SIGNS, REALS = [0.0, 1.0, 0.5, 0.1], [1.0, -1.0], [0.0, 1.0, -3.0, 1000.0]


def others(setup: Setup) -> dict[str, Sequence[float]]:
    """The operands after the first, by name, each a list of numbers: the proof's, or such as fit the target."""
    names, found = formula_of(setup).operands[1:], proof_of(setup).others
    if found is None:
        domain = setup.loss.operands["target"].domain
        found = {"target": SIGNS if domain is signs else PROBABILITIES if domain is probability else REALS}
    return {name: found[name] for name in names}


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
@_on_cpu
def truth(setup_id: str, dtype: torch.dtype) -> dict[str, Quantity]:
    """The truth on the grid of a setup: "value", and the gradient of every operand by its name."""
    setup = _SETUPS[setup_id]
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


_SETUPS: dict[str, Setup] = {}


def known(setup: Setup) -> str:
    """The name under which the caches know a setup."""
    _SETUPS[str(setup)] = setup
    return str(setup)


# ---------------------------------------------------------------------------------------------------------
# Implementations, as functions of the operands


def fused(setup: Setup) -> Compute:
    """The public function with reduction "none": the fused kernel."""

    def compute(operands: Sequence[torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        formula = formula_of(setup)
        # A class per row, so that the mean over classes is that of one element.
        leaves = [x.detach().clone().reshape(-1, *[1] * setup.loss.rows).requires_grad_() for x in operands]
        calls = len(setup.loss._call_operands())
        tensors = dict(zip(formula.operands[calls:], leaves[calls:]))
        loss = setup.loss.functional(*leaves[:calls], **{**setup.params, **tensors}, reduction="none")
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

    formula, calls = formula_of(setup), len(setup.loss._call_operands())

    def with_gradients(operands: Sequence[torch.Tensor], differentiable: int) -> Any:
        leaves = [x.detach().clone().reshape(-1, *[1] * setup.loss.rows) for x in operands]
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


REGIONS = ("ordinary", "tiny", "subnormal", "huge", "infinite")


@cache
def regions(setup_id: str, dtype: torch.dtype) -> np.ndarray:
    """The region of each point of a grid, by its most extreme operand, as an index into `REGIONS`.

    tiny: below the ULP of 1. subnormal: an operand is, or a product of two operands, or the exponential of one.
    huge: squares overflow.
    """
    info = torch.finfo(dtype)
    columns = [column.to(torch.float64).numpy() for column in grid(setup_id, dtype).values()]
    size = [np.abs(column) for column in columns]
    with np.errstate(all="ignore"):
        small = [*size, *(a * b for a, b in itertools.combinations(size, 2) if len(size) > 2)]
        small += [x for s, x in zip(size, map(np.exp, np.negative(size))) if not _bounded(s)]
        found = np.zeros(len(columns[0]), int)
        found[np.any([(x > 0) & (x < info.eps) for x in size], 0)] = REGIONS.index("tiny")
        found[np.any([(x != 0) & (x < info.smallest_normal) for x in small], 0)] = REGIONS.index("subnormal")
        found[np.any([x > math.sqrt(info.max) for x in size], 0)] = REGIONS.index("huge")
        found[np.any([np.isinf(x) for x in size], 0)] = REGIONS.index("infinite")
    return found


def _bounded(size: np.ndarray) -> bool:
    return bool(size.max() <= 1.0)


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


# ---------------------------------------------------------------------------------------------------------
# Behaviour around the formula: weights, masks, denominators, checks, the hand-over of gradients. Each check computes
# what is right by hand and takes both implementations: the kernel, and the eager formula (made to run by a gradient
# that is wanted by a sample weight).

X = torch.tensor([3.0, -1.0, 0.5, 2.0])
T = torch.tensor([1.0, 1.0, 0.0, -2.0])
W = torch.tensor([0.5, 2.0, 1.0, 3.0])
KEEP = torch.tensor([True, False, True, True])


def _equal(got: torch.Tensor, want: Any) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    assert torch.allclose(got.detach(), want, rtol=1e-6, atol=0.0, equal_nan=True), f"got {got}, want {want}"


def both_ways(call: Callable[..., torch.Tensor], want: Any, **extra: Any) -> None:
    """The result of the kernel, and of the eager formula."""
    _equal(call(**extra), want)
    ones = extra.pop("sample_weight", None)
    ones = torch.ones(()) if ones is None else ones
    _equal(call(**extra, sample_weight=ones.clone().requires_grad_()), want)


def check_reductions_differ() -> None:
    """Mean, sum and none of a squared error."""
    squares = (X - T) ** 2
    for reduction, want in (("none", squares), ("sum", squares.sum()), ("mean", squares.mean())):
        both_ways(lambda reduction=reduction, **k: losskit.functional.mse_loss(X, T, reduction=reduction, **k), want)


def check_sample_weight() -> None:
    """Sample weights multiply the losses and make the denominator."""
    squares = (X - T) ** 2 * W
    call = losskit.functional.mse_loss
    for reduction, want in (("none", squares), ("sum", squares.sum()), ("mean", squares.sum() / W.sum())):
        both_ways(lambda reduction=reduction, **k: call(X, T, reduction=reduction, **k), want, sample_weight=W)


def check_mask() -> None:
    """Masked elements count nowhere, whatever stands in them."""
    x = X.masked_fill(~KEEP, NAN)
    squares = (X - T) ** 2 * KEEP
    call = losskit.functional.mse_loss
    for reduction, want in (("none", squares), ("sum", squares.sum()), ("mean", squares.sum() / 3)):
        both_ways(lambda reduction=reduction, **k: call(x, T, reduction=reduction, mask=KEEP, **k), want)


def check_masked_gradient() -> None:
    """The gradient of a masked element is an exact zero."""
    for weight in (None, torch.ones((), requires_grad=True)):
        x = X.masked_fill(~KEEP, NAN).requires_grad_()
        losskit.functional.mse_loss(x, T, mask=KEEP, sample_weight=weight).backward()
        _equal(x.grad, torch.where(KEEP, 2 * (X - T) / 3, 0.0))


def check_weight_in_the_denominator() -> None:
    """mse divides by the sum of `weight`, huber by the number of elements, as torch does."""
    squares, line = (X - T) ** 2, torch.nn.functional.huber_loss(X, T, reduction="none")
    both_ways(lambda **k: losskit.functional.mse_loss(X, T, weight=W, **k), (squares * W).sum() / W.sum())
    both_ways(lambda **k: losskit.functional.huber_loss(X, T, weight=W, **k), (line * W).mean())


def check_normalizer() -> None:
    """`normalizer` is the denominator, of the value and of the gradient."""
    squares = (X - T) ** 2
    both_ways(lambda **k: losskit.functional.mse_loss(X, T, normalizer=10.0, **k), squares.sum() / 10)
    x = X.clone().requires_grad_()
    losskit.functional.mse_loss(x, T, normalizer=10.0).backward()
    _equal(x.grad, 2 * (X - T) / 10)


def check_empty_rule() -> None:
    """The mean over nothing is NaN, or 0 when asked for; the sum is 0."""
    nothing = torch.empty(0)
    none = torch.zeros(4, dtype=torch.bool)
    call = losskit.functional.mse_loss
    both_ways(lambda **k: call(nothing, nothing, **k), NAN)
    both_ways(lambda **k: call(X, T, mask=none, **k), NAN)
    both_ways(lambda **k: call(nothing, nothing, reduction="sum", **k), 0.0)
    with losskit.empty("zero"):
        both_ways(lambda **k: call(nothing, nothing, **k), 0.0)
        both_ways(lambda **k: call(X, T, mask=none, **k), 0.0)


def check_rows() -> None:
    """A row's loss is the mean over its classes."""
    x, t = torch.stack([X, W, T]), torch.eye(3, 4)
    want = torch.nn.functional.multilabel_soft_margin_loss(x, t, reduction="none")
    call = losskit.functional.multilabel_soft_margin_loss
    for reduction, expected in (("none", want), ("sum", want.sum()), ("mean", want.mean())):
        both_ways(lambda reduction=reduction, **k: call(x, t, reduction=reduction, **k), expected)


def check_batchmean() -> None:
    """KL's batchmean divides by the batch, not by the elements."""
    x, t = torch.log_softmax(torch.stack([X, W]), -1), torch.softmax(torch.stack([T, X]), -1)
    total = (t * (t.log() - x)).sum()
    both_ways(lambda **k: losskit.functional.kl_div(x, t, reduction="batchmean", **k), total / 2)


def check_upstream_gradient() -> None:
    """The gradient is scaled by what comes from above."""
    for weight in (None, torch.ones((), requires_grad=True)):
        for reduction, scale in (("mean", 0.25), ("sum", 1.0), ("none", 1.0)):
            x = X.clone().requires_grad_()
            loss = losskit.functional.mse_loss(x, T, reduction=reduction, sample_weight=weight)
            (3.0 * loss).sum().backward()
            _equal(x.grad, 3.0 * 2 * (X - T) * scale)


def check_two_backward_passes() -> None:
    """A second backward pass gives the same gradient again, in memory of its own."""
    x = X.clone().requires_grad_()
    loss = losskit.functional.mse_loss(x, T)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    first.zero_()
    (second,) = torch.autograd.grad(3.0 * loss, x, retain_graph=True)
    (third,) = torch.autograd.grad(loss, x)
    _equal(second, 3.0 * 2 * (X - T) / 4)
    _equal(third, 2 * (X - T) / 4)


def check_double_backward() -> None:
    """The gradient is itself differentiable: that of x**4 through a squared error, and the upstream gradient's."""
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(5.0 * losskit.functional.mse_loss(x, T, reduction="sum"), x, create_graph=True)
    _equal(gradient, 10 * (X - T))
    (second,) = torch.autograd.grad((gradient * W).sum(), x)
    _equal(second, 10 * W)


def _refused(call: Callable[[], Any], *words: str) -> None:
    try:
        call()
    except ValueError as problem:
        assert all(word in str(problem) for word in words), f"{problem} does not name {words}"
        return
    raise AssertionError(f"not refused: {words}")


def check_domains_are_refused() -> None:
    """A value outside its domain raises, and the message names its argument and place; by both implementations."""
    probability = torch.tensor([0.5, 0.25])
    for weight in (None, torch.ones((), requires_grad=True)):
        call = losskit.functional.binary_cross_entropy
        wrong_target, wrong_input = torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 0.5])
        _refused(lambda w=weight, t=wrong_target: call(probability, t, sample_weight=w), "target", "(1,)")
        _refused(lambda w=weight, x=wrong_input: call(x, probability, sample_weight=w), "input", "(0,)")
        hinge = losskit.functional.hinge_embedding_loss
        _refused(lambda w=weight: hinge(X[:2], torch.tensor([1.0, 0.0]), sample_weight=w), "target", "(1,)")
        hinge(torch.tensor([5.0, -7.0]), torch.tensor([1.0, -1.0]), sample_weight=weight)  # the input may be anything


def check_masked_values_are_not_refused() -> None:
    """What is masked may be outside its domain."""
    x = torch.tensor([0.5, 7.0, 0.5, 0.5])
    t = torch.zeros(4)
    both_ways(lambda **k: losskit.functional.binary_cross_entropy(x, t, mask=KEEP, **k), math.log(2))


def check_nan_mode() -> None:
    """Under checks("nan") a bad value is NaN and its neighbours are not."""
    x, t = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 2.0])
    with losskit.checks("nan"):
        call = losskit.functional.binary_cross_entropy
        both_ways(lambda **k: call(x, t, reduction="none", **k), torch.tensor([math.log(2), NAN]))


def check_off_mode() -> None:
    """Under checks("off") the formula runs on anything."""
    x, t = torch.tensor([0.5]), torch.tensor([2.0])
    with losskit.checks("off"):
        call = losskit.functional.binary_cross_entropy
        both_ways(lambda **k: call(x, t, **k), -(2 * math.log(0.5) - math.log(0.5)))


def check_shapes_are_refused() -> None:
    """Shapes that would broadcast are refused."""
    _refused(lambda: losskit.functional.mse_loss(X, T[:, None]), "target")
    _refused(lambda: losskit.functional.mse_loss(X[:, None], T[None, :]), "target")
    _refused(lambda: losskit.functional.mse_loss(X, T[:1]), "target")


def check_dtypes() -> None:
    """A loss of float32 and float64 is float64, of halves a half; under autocast halves give float32."""
    call = losskit.functional.mse_loss
    assert call(X, T.double()).dtype == torch.float64
    assert call(X.half(), T.half()).dtype == torch.float16
    assert call(X.double(), T.double(), sample_weight=torch.ones((), requires_grad=True)).dtype == torch.float64
    with torch.autocast(X.device.type, dtype=torch.bfloat16):
        assert call(X.bfloat16(), T.bfloat16()).dtype == torch.float32


def check_parameters() -> None:
    """Parameters reach the formula, each under its own name."""
    huber = losskit.functional.huber_loss
    both_ways(lambda **k: huber(X, T, delta=0.5, reduction="none", **k), torch.tensor([0.875, 0.875, 0.125, 1.875]))
    call = losskit.functional.poisson_nll_loss
    t = torch.tensor([2.0])
    both_ways(lambda **k: call(torch.tensor([3.0]), t, log_input=False, eps=1.0, **k), 3.0 - 2.0 * math.log(4.0))


def check_positional_reduction() -> None:
    """torch's deprecated arguments mean what they say; a string in their place is the reduction."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _equal(losskit.functional.mse_loss(X, T, False), ((X - T) ** 2).sum())
        _equal(losskit.functional.mse_loss(X, T, None, False), (X - T) ** 2)
        _equal(losskit.functional.mse_loss(X, T, True), ((X - T) ** 2).mean())


def behaviours() -> dict[str, Callable[[], None]]:
    """Every check of this section, by name."""
    return {name: check for name, check in globals().items() if name.startswith("check_")}
