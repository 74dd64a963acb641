"""Ranking lists for the tests of the losses of lists, and the truth about their pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ITEMS = 7


def graded(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    """Scores, and relevance in four grades; the last list has no pair."""
    grades = torch.randint(0, 4, (n, ITEMS), generator=g).double()
    grades[n - 1 :] = 2.0
    return torch.randn(n, ITEMS, generator=g, dtype=torch.float64) * 2.0, grades


def tied(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    """Scores that are often equal, and relevance of any size."""
    scores = torch.randint(-2, 3, (n, ITEMS), generator=g).double()
    return scores, torch.rand(n, ITEMS, generator=g, dtype=torch.float64) * 4.0


def padded(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    """Lists of several lengths, nothing among them. What is padded would be the best, by score and by relevance."""
    scores, grades = graded(n, g)
    there = torch.rand(n, ITEMS, generator=g) < 0.7
    there[:1] = False
    return torch.where(there, scores, 50.0), torch.where(there, grades, 9.0), there


def ranks(scores: Sequence[Any], there: Sequence[bool]) -> dict[int, int]:
    """The rank of each item that is there: by score, of equal ones by place."""
    order = sorted((i for i in range(len(scores)) if there[i]), key=lambda i: -scores[i])
    return {i: rank for rank, i in enumerate(order, 1)}


def of_pairs(
    m: Any, scores: Sequence[Any], relevance: Sequence[Any], there: Sequence[bool] | None, sigma: Any, k: int | None,
    weigh: Callable[..., Any], averaged: bool,
) -> Any:  # fmt: skip
    """The logistic losses of the pairs of a list; weigh: of two items, by their places and all ranks."""
    there = there or [True] * len(scores)
    of_item = ranks(scores, there)
    shown = [i for i, rank in of_item.items() if k is None or rank <= k]
    pairs = [(i, j) for i in shown for j in shown if relevance[i] > relevance[j]]
    share = 1 / m.sum([m.one] * len(pairs)) if averaged and pairs else m.one
    value, up, down = [], [[m.zero] for _ in scores], [[m.zero] for _ in scores]
    for i, j in pairs:
        weight = share * weigh(i, j, of_item)
        loses = -sigma * (scores[i] - scores[j])
        value.append(weight * m.softplus(loses))
        up[i].append(-sigma * weight * m.sigmoid(loses))
        down[j].append(sigma * weight * m.sigmoid(loses))
    # What pushes an item up and what pushes it down may cancel.
    return (m.sum(value),), {0: [(m.sum(up[i]), m.sum(down[i])) for i in range(len(scores))]}
