"""What tests of accuracy, facts and mutants share: grids of extreme points, the truth on them, errors in ULP.

A check is a function that raises AssertionError; tests call it on losskit, `test_mutants.py` on broken versions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import mpmath
import numpy as np
import reference
import torch
from samples import Setup

from losskit import probability, signs
from losskit.domains import Interval, Signs
from losskit.families.pointwise import Formula, plan_of
from losskit.kernels import eager
from losskit.kernels.dispatch import Plan

INF, NAN = math.inf, math.nan
HALVES = (torch.bfloat16, torch.float16)
Compute = Callable[[Sequence[torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]]

# ---------------------------------------------------------------------------------------------------------
# A setup, taken apart


def formula_of(setup: Setup) -> Formula:
    """The traced formula that the switches of a setup select."""
    return setup.loss.formulas[tuple(bool(setting(setup, name)) for name in setup.loss._switches())]


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


def kinks(setup: Setup, dtype: torch.dtype) -> list[float]:
    """Where formulas change course: at their parameters, and at 1 (counts, probabilities)."""
    numbers = [x for x in parameters(setup, dtype).values() if not isinstance(x, bool)]
    return [0.0, 1.0, *numbers]


@cache
def grid(setup_id: str, dtype: torch.dtype, size: int = 900, seed: int = 5) -> dict[str, torch.Tensor]:
    """Operands of a setup: extreme points, points around kinks of differences, and ordinary ones."""
    setup = _SETUPS[setup_id]
    formula = formula_of(setup)
    rng = np.random.default_rng(seed)
    columns = []
    for position, (name, domain) in enumerate(zip(formula.operands, formula.domains)):
        infinite = position == 0 or name in ("var", "input2") or domain.everything
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
    points = torch.cat([extreme, ordinary, *_near_kinks(setup, formula, dtype, ordinary)])
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


OTHERS = {  # what the operands after the first are, while the first runs through everything
    "binary_cross_entropy": {"target": [0.0, 1.0, 0.5, 0.1]},
    "binary_cross_entropy_with_logits": {"target": [0.0, 1.0, 0.5, 0.1], "pos_weight": [2.5, 2.5, 1.0, 0.3]},
    "gaussian_nll_loss": {"target": [0.0, 1.0, -30.0, 0.1], "var": [1.0, 0.0, 4.0, 0.01]},
    "kl_div": {"target": [0.0, 1.0, 0.3, 2.5]},
    "margin_ranking_loss": {"input2": [0.0, 1.0, -3.0, 0.1], "target": [1.0, -1.0, 1.0, -1.0]},
    "poisson_nll_loss": {"target": [0.0, 1.0, 3.0, 40.0]},
}
SIGNED = {"target": [1.0, -1.0]}
REAL = {"target": [0.0, 1.0, -3.0, 1000.0]}


def others(setup):
    """The operands after the first, by name, each a list of numbers."""
    second = setup.loss.operands["target"].domain
    plain = SIGNED if second is signs else REAL
    found = OTHERS.get(setup.loss.name, OTHERS["binary_cross_entropy"] if second is probability else plain)
    return {name: found[name] for name in formula_of(setup).operands[1:]}


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


def ulp(x: Any, dtype: torch.dtype) -> Any:
    """The spacing of a dtype at a real number."""
    info = torch.finfo(dtype)
    smallest = math.frexp(info.smallest_normal)[1]
    exponent = smallest if x == 0 or not mpmath.isfinite(x) else mpmath.frexp(x)[1]
    return mpmath.ldexp(mpmath.mpf(info.eps), int(min(max(exponent, smallest), 1024 if info.bits == 64 else 128)) - 1)


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


def scale(setup: Setup, what: str, operands: dict[str, Any], given: dict[str, Any]) -> Any:
    """A magnitude, beside those of the terms, of which a result may show the rounding.

    Terms that may cancel are told apart in `reference.py`: the logarithm and the square of the Gaussian, the rate and
    its logarithm of Poisson's, log t and the input of KL, both labels of a soft target. Beyond those, Poisson's loss
    rounds two sums before it takes a function of them:

    1. The rate `input + eps`. The result is exact for a slightly different eps, a number without a meaning of its own,
       but that is worth half a ULP of the target.
    2. `target + 1`, the argument of the gamma function, unless the target is a count.
    """
    if setup.loss.name != "poisson_nll_loss" or what == "input":
        return 0.0
    of_rate = 0.0 if given["log_input"] else operands["target"] if what == "value" else 1.0
    return of_rate + (1.0 if given["full"] and not given["stirling"] else 0.0)


def _undecided(setup: Setup, operands: dict[str, float], given: dict[str, Any], dtype: torch.dtype) -> list[str]:
    """Quantities that jump within the rounding of an intermediate result: either side is right there.

    1. The gradients of margin_ranking, where the rounded difference of the scores is on the other side of the margin.
    2. KL of an impossible event (input -inf) whose probability exp(target) rounds to 0, and BCE of an infinitely
       wrong score whose weight rounds to 0: 0 or inf.
    """
    name = setup.loss.name
    if name == "margin_ranking_loss" and given["margin"] != 0.0:
        d = mpmath.mpf(operands["input1"]) - mpmath.mpf(operands["input2"])
        excess = given["margin"] - operands["target"] * d
        near = excess != 0 and abs(excess) <= ulp(max(abs(d), given["margin"]), dtype)
        return ["input1", "input2", "target"] if near else []
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    if name == "kl_div" and given["log_target"] and operands["input"] == -INF:
        return ["value", "target"] if mpmath.exp(operands["target"]) < smallest else []
    if operands.get("pos_weight") and operands["input"] == -INF:
        return ["value"] if mpmath.mpf(operands["pos_weight"]) * operands["target"] < smallest else []
    return []


@cache
def truth(setup_id: str, dtype: torch.dtype) -> dict[str, Quantity]:
    """The truth on the grid of a setup: "value", and the gradient of every operand by its name."""
    setup = _SETUPS[setup_id]
    given = parameters(setup, dtype)
    columns = grid(setup_id, dtype)
    found: dict[str, list[tuple[float, float, float]]] = {"value": [], **{name: [] for name in columns}}
    with mpmath.workdps(reference.DIGITS):
        for point in zip(*(column.tolist() for column in columns.values())):
            operands = dict(zip(columns, point))
            value, gradients = reference.exact(setup.loss.name, operands, given)
            undecided = _undecided(setup, operands, given, dtype)
            for name, terms in {"value": value, **gradients}.items():
                entry = quantity(terms, scale(setup, name, operands, given), dtype)
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
        calls = len(setup.loss.call_operands())
        tensors = dict(zip(formula.operands[calls:], leaves[calls:]))
        loss = setup.loss.functional(*leaves[:calls], **{**setup.params, **tensors}, reduction="none")
        return _with_gradients(formula, loss.reshape(-1), leaves)

    return compute


def eagerly(setup: Setup, plan: Plan | None = None) -> Compute:
    """The eager formula."""

    def compute(operands: Sequence[torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        chosen = (plan or plan_for(setup)).elementwise()
        leaves = [x.detach().clone().requires_grad_() for x in operands]
        loss = eager.run(chosen, leaves, None, None, None, None)
        return _with_gradients(chosen.formula, loss, leaves)

    return compute


def torchs(setup: Setup) -> Compute | None:
    """torch's own function, where it has the parameters."""
    function = getattr(torch.nn.functional, setup.loss.name)
    known_there = {k: v for k, v in setup.params.items() if k != "stirling"}
    if "stirling" in setup.params:
        return None

    def compute(operands: Sequence[torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        formula = formula_of(setup)
        leaves = [x.detach().clone().reshape(-1, *[1] * setup.loss.rows).requires_grad_() for x in operands]
        calls = len(setup.loss.call_operands())
        given = {**known_there, **dict(zip(formula.operands[calls:], leaves[calls:]))}
        loss = function(*leaves[:calls], **given, reduction="none")
        return _with_gradients(formula, loss.reshape(-1), leaves)

    return compute


def _with_gradients(formula: Formula, loss: torch.Tensor, leaves: list[torch.Tensor]) -> Any:
    gradients = torch.autograd.grad(loss, leaves, torch.ones_like(loss), allow_unused=True, materialize_grads=True)
    return loss.detach(), {name: g.reshape(-1) for name, g in zip(formula.operands, gradients)}


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
