"""Cosines for the proofs of losses with a margin, and the cross entropy of scores of which the own class's is changed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from losses.cross_entropy import exact as cross_entropy
from proofs import Numbers, Row
from row_operands import CLASSES, labels
from torch import Tensor

SCALES = (0.5, 10.0, 64.0)


def cosines(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    """Cosines to each class, and the own class of each row."""
    return torch.rand(n, CLASSES, generator=g, dtype=torch.float64) * 2.0 - 1.0, labels(n, g=g)


def of_changed(
    m: Any, input: Row, target: int, scale: Any, change: Callable[[Any], tuple[Any, Any]], **given: Any
) -> tuple[Any, dict[int, list[Any]], tuple[Any, ...]]:
    """Cross entropy where `change` gives the own class's score and its slope: value, gradients, the one by the scale."""
    if target == given.get("ignore_index", -100):
        return (m.zero,), {0: [m.zero] * len(input)}, (m.zero,)
    own, slope = change(input[target])
    changed = [own if c == target else x for c, x in enumerate(input)]
    value, slopes = cross_entropy(m, [scale * x for x in changed], target, **given)
    factors = [scale * slope if c == target else scale for c in range(len(input))]
    by_input = [tuple(m.times(f, x) for x in terms) for f, terms in zip(factors, slopes[0])]
    by_scale = tuple(m.times(score, x) for score, terms in zip(changed, slopes[0]) for x in terms)
    return value, {0: by_input}, by_scale


def near(points: Iterable[float], dtype: torch.dtype) -> list[float]:
    """Cosines at some places and on both sides of them."""
    at = torch.tensor(list(points), dtype=torch.float64).to(dtype)
    sides = [at, *(torch.nextafter(at, torch.full_like(at, end)) for end in (math.inf, -math.inf))]
    return sorted({float(x) for x in torch.cat(sides) if -1 <= x <= 1})


def rows(own: Sequence[float], dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """Every one of some cosines to the own class, beside those to the others; the own class is in every place."""
    others = [(0.0, 0.0), (1.0, -1.0), (0.3, 0.25), (-1.0, -0.99), (1.0, 1.0)]
    made = torch.tensor([(x, *more) for x, more in itertools.product(own, others)], dtype=torch.float64)
    for place in range(3):
        yield made.roll(place, 1), torch.full((len(made),), place)


def scale(what: Any, largest: Any, row: Row, given: Numbers, dtype: torch.dtype, by: Any, most: float = 1.0) -> Any:
    """Scores of a double are rounded once more, and their exponentials show it: as many ULP as their size."""
    return largest * max(1, by * most) if dtype == torch.float64 else largest
