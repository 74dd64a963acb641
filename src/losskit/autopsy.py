"""Who pulls? The rows of one batch by their loss and by their share of the gradient, under one loss and under others.

A row's pull is the length of its part of the gradient: the derivative of the loss of the whole batch, with its weights,
masks and denominator, by the row's predictions. What a model learns from a batch is the sum of these parts, so a few
rows with most of the pull are what it learns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from losskit.errors import error
from losskit.loss import Loss
from losskit.registry import get
from losskit_guide import pulls

Criterion = Callable[..., Tensor]


@dataclass(frozen=True)
class Suspect:
    """A row: its place in the batch, its loss, its pull, and its share of all pulls."""

    row: int
    loss: float
    pull: float
    share: float


@dataclass
class Autopsy:
    """What `losskit.autopsy` has found; `print` it, or `save` it as a page.

    name: the loss. losses, pulls: one number for each row. columns: what else is known of the rows, by name.
    others: the same batch under other losses.
    """

    name: str
    losses: Tensor
    pulls: Tensor
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    others: list[Autopsy] = field(default_factory=list)

    @property
    def shares(self) -> Tensor:
        """Each row's share of the pull; 0 where nothing pulls."""
        total = self.pulls.sum()
        return self.pulls / torch.where(total > 0, total, 1.0)

    def share_of(self, fraction: float) -> float:
        """The share of the rows that pull hardest, a fraction of all rows, at least one row."""
        if not 0.0 < fraction <= 1.0:
            raise error("parameter", loss="share_of", argument="fraction", expected="in (0, 1]", got=repr(fraction))
        count = max(1, round(fraction * len(self.pulls)))
        return float(self.shares.topk(count).values.sum())

    def worst(self, count: int = 10) -> list[Suspect]:
        """The rows that pull hardest, NaN first; of those that pull alike, the ones of the larger loss."""
        by_loss = self.losses.nan_to_num(float("inf")).argsort(descending=True, stable=True)
        pulls = self.pulls[by_loss].nan_to_num(float("inf"))
        order = by_loss[pulls.argsort(descending=True, stable=True)[:count]]
        return [
            Suspect(int(i), float(self.losses[i]), float(self.pulls[i]), float(self.shares[i])) for i in order.tolist()
        ]

    def __str__(self) -> str:
        return pulls.text(self)

    __repr__ = __str__

    def save(self, path: str | Path) -> Path:
        """Write one HTML page, which needs no network; needs matplotlib."""
        place = Path(path)
        place.write_text(pulls.page(self), encoding="utf-8")
        return place


def autopsy(
    criterion: Criterion | str,
    *operands: Any,
    by: Sequence[int] = (0,),
    others: Iterable[Criterion | str] = (),
    columns: Mapping[str, Sequence[Any]] | None = None,
    **extras: Any,
) -> Autopsy:
    """Who pulls: each row's loss and share of the gradient, and the same batch under other losses.

    Choose it when a training does not do what it should: a few wrong labels, an outlier, a class that outweighs all
    others are seen here at once. Prefer `losskit.plot` to see what a loss does in general.

    Args:
        criterion: A loss of losskit or torch, the name of one, or a function of the operands that returns a loss for
            each row (a tensor whose first dimension is the rows).
        operands: What the criterion is called with; the first dimension is the rows.
        by: The positions of the operands that are predictions.
        others: Losses that the same operands go to; names or criteria.
        columns: What else is known of the rows, by name, to be shown beside them.
        extras: Keyword arguments of the call: `mask`, `sample_weight`.

    Returns:
        The rows by their pull. `print` shows the worst ones, `share_of(0.01)` the share of one row in a hundred, `save`
        writes a page.

    Raises:
        ValueError: The criterion gives one number and not one for each row, or the rows do not match.

    Example:
        >>> import losskit, torch
        >>> target = torch.tensor([1.0, 2.0, 3.0, 40.0])
        >>> found = losskit.autopsy("mse_loss", torch.tensor([1.1, 2.2, 2.9, 4.0]), target, others=["l1_loss"])
        >>> found.worst(1)[0].row, round(found.share_of(0.25), 2), round(found.others[0].share_of(0.25), 2)
        (3, 0.99, 0.25)
    """
    own = _one(criterion, operands, by, extras)
    own.columns = dict(columns or {})
    for name, values in own.columns.items():
        if len(values) != len(own.pulls):
            expected, got = f"{len(own.pulls)} values, one for each row", str(len(values))
            raise error("parameter", loss="autopsy", argument=f"columns[{name!r}]", expected=expected, got=got)
    own.others = [_one(other, operands, by, extras) for other in others]
    return own


def _one(criterion: Criterion | str, operands: Sequence[Any], by: Sequence[int], extras: dict[str, Any]) -> Autopsy:
    loss = get(criterion)() if isinstance(criterion, str) else criterion
    for place in by:
        x = operands[place] if -len(operands) <= place < len(operands) else None
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
            expected = "positions of floating-point operands with a dimension of rows"
            raise error("parameter", loss="autopsy", argument="by", expected=expected, got=repr(tuple(by)))
    losses, gradients, _ = derived(loss, operands, by, extras)
    rows = len(operands[by[0]])
    if losses.ndim == 0 or len(losses) != rows:
        raise error(
            "parameter", loss="autopsy", argument="criterion", got=f"a result of shape {tuple(losses.shape)}",
            expected=f"a loss that gives a number for each of {rows} rows", hint=" Return it before the mean.",
        )  # fmt: skip
    of_rows = losses.reshape(rows, -1).mean(1)
    return Autopsy(told(loss), of_rows.cpu(), lengths([g.reshape(rows, -1) for g in gradients]).cpu())


def derived(
    loss: Criterion, operands: Sequence[Any], by: Sequence[int], extras: Mapping[str, Any]
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The unreduced losses, the gradients of the whole loss by some operands, and that loss, all in float64.

    The user's tensors stay as they are: copies are differentiated.
    """
    taken = list(operands)
    for place in by:
        taken[place] = taken[place].detach().clone().requires_grad_()
    predictions = [taken[place] for place in by]
    each = unreduced(loss)
    with torch.enable_grad():
        losses = each(*taken, **extras)
        whole = losses.sum() if each is loss else loss(*taken, **extras).sum()
        gradients = torch.autograd.grad(whole, predictions, allow_unused=True, materialize_grads=True)
    return losses.detach().double(), [g.detach().double() for g in gradients], whole.detach().double()


def lengths(gradients: Sequence[Tensor]) -> Tensor:
    """The lengths of rows of gradients by several operands."""
    return torch.stack([g.square().sum(1) for g in gradients]).sum(0).sqrt()


def unreduced(loss: Criterion) -> Criterion:
    """The loss with reduction 'none', where it has a reduction."""
    if not isinstance(loss, nn.Module) or not isinstance(vars(loss).get("reduction"), str):
        return loss
    each: Any = copy.copy(loss)
    each.reduction = "none"
    of_rows: Criterion = each
    return of_rows


def told(loss: Criterion) -> str:
    """A loss in words: its name and what is not usual about it."""
    if isinstance(loss, Loss):
        params = type(loss).params.values()
        changed = {p.name: getattr(loss, p.name) for p in params if not isinstance(getattr(loss, p.name), Tensor)}
        shown = [f"{p.name}={changed[p.name]}" for p in params if p.name in changed and changed[p.name] != p.default]
        return ":".join(filter(None, [type(loss).name, ",".join(shown)]))
    return str(getattr(loss, "__name__", type(loss).__name__))
