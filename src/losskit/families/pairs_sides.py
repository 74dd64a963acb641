"""Who looks for whom in the pairs family: rows, columns, and where the columns of a row's label are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Side(NamedTuple):
    """Rows that look for their pairs among columns."""

    rows: Tensor
    columns: Tensor
    row_labels: Tensor
    column_labels: Tensor
    order: Tensor  # of the columns by label
    first: Tensor  # for each row, where the columns of its label begin in this order
    last: Tensor  # and end
    own: bool  # whether column i is row i


def by_labels(rows: Tensor, columns: Tensor, row_labels: Tensor, column_labels: Tensor, own: bool) -> Side:
    """Rows and columns of one label belong together."""
    ordered, order = torch.sort(column_labels, stable=True)
    row_labels = row_labels.contiguous()
    first = torch.searchsorted(ordered, row_labels)
    last = torch.searchsorted(ordered, row_labels, right=True)
    return Side(rows, columns, row_labels, column_labels, order, first, last, own)


def diagonal(rows: Tensor, columns: Tensor) -> Side:
    """Row and column of the same place belong together."""
    count, places = len(rows), torch.arange(len(columns) + 1, device=rows.device)
    order, first, last = places[:-1], places[:count], places[1 : count + 1]
    return Side(rows, columns, first, order, order, first, last, False)
