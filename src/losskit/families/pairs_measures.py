"""What the pairs family compares rows by: unit vectors, distances, and which pairs are positive or negative."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Similarities(NamedTuple):
    """Some rows of a matrix of similarities, and what is known of its pairs."""

    matrix: Tensor  # (R, C)
    row_labels: Tensor
    column_labels: Tensor
    begin: int | None  # the column that is the first row itself, which is no pair; None: rows are no columns
    kept: Tensor | None  # (C,), which columns take part

    def sides(self) -> tuple[Tensor, Tensor]:
        """Which pairs are positive, and which negative."""
        alike = self.row_labels.unsqueeze(1) == self.column_labels.unsqueeze(0)
        positive, negative = alike, ~alike
        if self.begin is not None:
            places = torch.arange(self.matrix.shape[1], device=alike.device)
            rows = torch.arange(self.matrix.shape[0], device=alike.device) + self.begin
            positive = positive & (rows.unsqueeze(1) != places.unsqueeze(0))
        if self.kept is None:
            return positive, negative
        return positive & self.kept, negative & self.kept


def unit(x: Tensor) -> Tensor:
    """Rows divided by their lengths; a row of zeros stays, and has no gradient."""
    if x.shape[-1] == 0:
        return x
    most = x.detach().abs().amax(-1, keepdim=True)
    x = x / torch.where((most > 0) & (most < float("inf")), most, 1.0)  # a constant to autograd, since it cancels
    square = (x * x).sum(-1, keepdim=True)
    zero = square == 0
    return torch.where(zero, 0.0, x / torch.where(zero, 1.0, square).sqrt())


class _Distances(torch.autograd.Function):
    """Euclidean distances from differences, which no order of derivative makes larger than the matrix."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return _exact(x, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        x, y = ctx.saved_tensors
        shares = upstream * inverse(distances(x, y))
        return by_distances(x, y, shares)

    @staticmethod
    def jvp(ctx: Any, along_x: Tensor | None, along_y: Tensor | None) -> Tensor:
        x, y = ctx.saved_tensors
        found: Any = 0.0
        if along_x is not None:
            found = found + (x * along_x).sum(-1, keepdim=True) - along_x @ y.mT
        if along_y is not None:
            found = found + (y * along_y).sum(-1) - x @ along_y.mT
        return inverse(distances(x, y)) * found


def _exact(x: Tensor, y: Tensor) -> Tensor:
    """Distances from differences, whatever the scale of the numbers."""
    most = torch.maximum(_largest(x), _largest(y))
    found = torch.cdist(x / most, y / most, compute_mode="donot_use_mm_for_euclid_dist")
    return found * most


def _largest(x: Tensor) -> Tensor:
    """The largest magnitude, or 1 where it is 0 or not finite."""
    most = x.detach().abs().amax() if x.numel() else x.new_ones(())
    return torch.where((most > 0) & (most < float("inf")), most, 1.0)


def inverse(distance: Tensor) -> Tensor:
    """1 / distance, 0 where that is 0: there is no direction."""
    return torch.where(distance == 0, 0.0, 1.0 / torch.where(distance == 0, 1.0, distance))


def by_distances(x: Tensor, y: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by rows and columns from gradients by distances, each divided by its distance."""
    by_x = x * shares.sum(-1, keepdim=True) - shares @ y
    return by_x, y * shares.sum(-2).unsqueeze(-1) - shares.mT @ x


def distances(x: Tensor, y: Tensor) -> Tensor:
    """The Euclidean distance of each row of x to each of y, differentiable to any order."""
    if torch.compiler.is_compiling():  # Dynamo traces no function with forward-mode AD
        return _exact(x, y)
    return _Distances.apply(x, y)
