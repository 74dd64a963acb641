"""Batches of embeddings for losses of pairs, and their truth: all pairs, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

WIDTH = 6
Rows = Sequence[Sequence[Any]]
# The loss of a row from the similarities of its positives and its negatives, and its derivatives by both.
OfRow = Callable[[list[Any], list[Any]], tuple[Any, list[Any], list[Any]]]


def normal(n: int, g: torch.Generator, like: torch.Tensor | None = None) -> torch.Tensor:
    """Embeddings, or some near to others."""
    drawn = torch.randn(n, WIDTH, generator=g, dtype=torch.float64)
    return drawn if like is None else like + 0.7 * drawn


def pairs(n: int, g: torch.Generator) -> tuple[torch.Tensor, ...]:
    """As many rows as columns."""
    first = normal(n, g)
    return first, normal(n, g, first)


def queued(n: int, g: torch.Generator) -> tuple[torch.Tensor, ...]:
    """More columns than rows."""
    first, second = pairs(n, g)
    return first, torch.cat([second, normal(5, g)])


def views(n: int, g: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Two views of half as many examples, so that there are n rows."""
    return pairs(n // 2, g)


def views_and_negatives(n: int, g: torch.Generator) -> tuple[torch.Tensor, ...]:
    return *views(n, g), normal(4, g)


def labelled(n: int, g: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Rows of three labels; the last row of some is alone with its own."""
    target = torch.randint(0, 3, (n,), generator=g)
    if n > 5:
        target[-1] = 5
    return normal(n, g), target


def remembered(n: int, g: torch.Generator) -> tuple[torch.Tensor, ...]:
    """More columns with labels."""
    return *labelled(n, g), normal(5, g), torch.randint(0, 6, (5,), generator=g)


def _measured(m: Any, x: Sequence[Any], y: Sequence[Any], measure: str) -> tuple[Any, list[Any], list[Any]]:
    """The similarity of two rows, and its gradients by both."""
    product = m.sum(a * b for a, b in zip(x, y))
    if measure == "dot":
        return product, list(y), list(x)
    if measure == "distance":
        length = m.sqrt(m.sum((a - b) ** 2 for a, b in zip(x, y)))
        away = [(a - b) / length if length else m.zero for a, b in zip(x, y)]
        return length, away, [-a for a in away]
    of_x, of_y = (m.sqrt(m.sum(a * a for a in z)) for z in (x, y))
    if not of_x or not of_y:
        return m.zero, [m.zero] * len(x), [m.zero] * len(x)
    cosine = product / of_x / of_y
    by_x = [(b / of_y - cosine * a / of_x) / of_x for a, b in zip(x, y)]
    by_y = [(a / of_x - cosine * b / of_y) / of_y for a, b in zip(x, y)]
    return cosine, by_x, by_y


def batch(
    m: Any, rows: Rows, columns: Rows, sets: Callable[[int], tuple[list[int], list[int]] | None], of_row: OfRow,
    measure: str = "cosine", scale: Any = 1, bias: Any = 0,
) -> tuple[list[Any], list[list[Any]], list[list[Any]], Any]:  # fmt: skip
    """The losses of rows, the gradients of their sum by rows and columns, and the largest similarity.

    sets: the columns that are positives and negatives of a row; None: it has no loss.
    """
    by_rows, by_columns = ([[m.zero] * len(z) for z in many] for many in (rows, columns))
    values, largest = [], m.zero
    for i, x in enumerate(rows):
        chosen = sets(i)
        if chosen is None:
            values.append(m.zero)
            continue
        found = {j: _measured(m, x, columns[j], measure) for j in (*chosen[0], *chosen[1])}
        known = {j: scale * s + bias for j, (s, _, _) in found.items()}
        largest = max([largest, *(abs(s) for s in known.values())])
        value, *slopes = of_row(*([known[j] for j in side] for side in chosen))
        values.append(value)
        for side, by in zip(chosen, slopes):
            for j, slope in zip(side, by):
                _, by_x, by_y = found[j]
                by_rows[i] = [a + slope * scale * b for a, b in zip(by_rows[i], by_x)]
                by_columns[j] = [a + slope * scale * b for a, b in zip(by_columns[j], by_y)]
    return values, by_rows, by_columns, largest


def added(x: Rows, y: Rows) -> list[list[Any]]:
    return [[a + b for a, b in zip(*both)] for both in zip(x, y)]


def by_label(rows: Sequence[int], columns: Sequence[int], needs: str) -> Callable[[int], Any]:
    """The sets of rows with labels, which are the first columns themselves."""

    def sets(i: int) -> tuple[list[int], list[int]] | None:
        positives = [j for j, label in enumerate(columns) if label == rows[i] and j != i]
        negatives = [j for j, label in enumerate(columns) if label != rows[i]]
        lacks = (needs != "nothing" and not positives) or (needs == "both" and not negatives)
        return None if lacks else (positives, negatives)

    return sets


def of_labels(
    m: Any, of_row: OfRow, needs: str, input: Rows, target: list[int], memory: Rows = (), labels: Sequence[int] = (),
    measure: str = "cosine", scale: Any = 1,
) -> Any:  # fmt: skip
    """The truth about a batch with labels, and perhaps a memory."""
    n = len(input)
    sets = by_label(target, [*target, *labels], needs)
    values, by_rows, by_columns, largest = batch(m, input, [*input, *memory], sets, of_row, measure, scale)
    return values, {0: added(by_rows, by_columns[:n]), 2: by_columns[n:]}, largest


def of_diagonal(
    m: Any, of_row: OfRow, first: Rows, second: Rows, both: bool, measure: str, scale: Any, bias: Any = 0
) -> Any:
    """The truth about rows that belong to the columns of the same place."""
    n, c = len(first), len(second)
    sets = lambda i: ([i], [j for j in range(c) if j != i])
    values, by_first, by_second, largest = batch(m, first, second, sets, of_row, measure, scale, bias)
    if not both:
        return values, {0: by_first, 1: by_second}, largest
    sets = lambda i: ([i], [j for j in range(n) if j != i])
    turned, again_second, again_first, _ = batch(m, second, first, sets, of_row, measure, scale, bias)
    halved = lambda rows: [[x / 2 for x in row] for row in rows]
    gradients = {0: halved(added(by_first, again_first)), 1: halved(added(by_second, again_second))}
    return [(a + b) / 2 for a, b in zip(values, turned)], gradients, largest


def contrastive(m: Any) -> OfRow:
    """The mean over the positives of -log of their share of all exponentials."""

    def of_row(positives: list[Any], negatives: list[Any]) -> Any:
        every = [*positives, *negatives]
        top = max(every)
        powers = [m.exp(s - top) for s in every]
        total = m.sum(powers)
        value = m.sum(top + m.log(total) - s for s in positives) / len(positives)
        shares = [x / total for x in powers]
        n = len(positives)
        return value, [x - m.one / n for x in shares[:n]], shares[n:]

    return of_row
