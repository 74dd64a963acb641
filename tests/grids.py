"""Grids of extreme points for element-wise losses, made from their declarations: where trouble is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache, wraps
from typing import Any

import numpy as np
import proofs
import torch
from samples import Setup

from losskit import probability, signs
from losskit.domains import Interval, Signs
from losskit.plan import Plan
from losskit.plans import plan_of
from losskit.traced import Formula

INF = math.inf
HALVES = (torch.bfloat16, torch.float16)

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
    return setup.formula


def parameters(setup: Setup, dtype: torch.dtype) -> dict[str, Any]:
    """Numbers and switches of a setup, numbers as rounded to the compute type of `dtype`."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    found = {}
    for name, declared in setup.loss.params.items():
        value = setup.setting(name)
        if declared.kind in ("bool", "choice") or value is None:
            found[name] = value
        elif declared.kind == "float":
            found[name] = torch.tensor(value, dtype=wide).item()
    return found


def plan_for(setup: Setup, reduction: str = "none") -> Plan:
    """The plan of a setup."""
    declared = [p for p in setup.loss.params.values() if p.name != "weight"]
    there = [name in setup.names for name in setup.loss._optional_operands()]
    return plan_of(setup.loss, reduction, *(setup.setting(p.name) for p in declared), *there)


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


def on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose new tensors are the CPU's, where the truth is computed; the GPU's tests call it, too."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return called


def kinks(setup: Setup, dtype: torch.dtype) -> list[float]:
    """Where formulas change course: at their parameters, and at 1 (counts, probabilities)."""
    numbers = [x for x in parameters(setup, dtype).values() if isinstance(x, float)]
    return [0.0, 1.0, *numbers]


@cache
@on_cpu
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


_SETUPS: dict[str, Setup] = {}


def setup_of(setup_id: str) -> Setup:
    """The setup of that name."""
    return _SETUPS[setup_id]


def known(setup: Setup) -> str:
    """The name under which the caches know a setup."""
    _SETUPS[str(setup)] = setup
    return str(setup)
