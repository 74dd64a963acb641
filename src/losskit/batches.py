"""The present batch under a loss, row by row: what `losskit.explain(criterion, input, target)` shows.

1. A row is what the unreduced loss has a number for: an element, a row of class scores, a pair of embeddings. Losses
   and pulls are those of `losskit.autopsy`; nothing is computed a second time.
2. Operands and parameters are copied to the CPU in float64, without their graphs: what is shown does not depend on the
   dtype of the training, and the user's tensors and their gradients stay as they are.
3. The live page computes by itself what it draws. It is offered where a line of a table can hold a row of the loss.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from losskit.autopsy import Autopsy, derived, lengths, told, unreduced
from losskit.errors import error
from losskit.loss import Loss
from losskit_guide import batches as shown
from losskit_guide.batches import Table
from losskit_guide.card import Card

LARGE = 1 << 25  # numbers of the predictions, 256 MiB in float64: of a larger batch some rows are computed, evenly
EXTRAS = ("sample_weight", "mask", "normalizer")
FEW = 5  # numbers of a row that are all written out


@dataclass
class Batch(Autopsy):
    """One batch under a loss, as `losskit.explain` gives it: `print` it, or let a notebook show it.

    value, reduction: the loss of the batch, and how its rows become it. notes: sentences about what is left out or not
    finite. table: rows as the live page takes them, or None. Its rows, losses and pulls are those of an `Autopsy`.
    """

    card: Card = field(kw_only=True)
    value: float = field(kw_only=True)
    reduction: str = field(kw_only=True)
    notes: list[str] = field(kw_only=True)
    table: Table | None = field(kw_only=True)

    def __str__(self) -> str:
        return shown.text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return shown.html_of(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any] | None:
        """The live page, where anywidget is installed; IPython adds the text and the picture."""
        live = shown.widget(self)
        return None if live is None else dict(live)


class Cells(Sequence[Any]):
    """What rows have of an operand, written when it is asked for: a number, a few, or what is known of many."""

    def __init__(self, rows: Tensor, right: Tensor | None = None) -> None:
        self.rows, self.right = rows, right

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        row = self.rows[i]
        if row.ndim == 0:
            return row.item()
        if len(row) <= FEW:
            return ", ".join(f"{x:.4g}" for x in row.tolist())
        if self.right is None:
            return f"{len(row)} numbers, length {float(row.double().norm()):.4g}"
        best, own = int(row.argmax()), int(self.right[i])
        known = f"right {float(row[own]):.4g}; " if 0 <= own < len(row) else ""
        return f"{known}highest {float(row[best]):.4g} (class {best})"


def explained(loss: Loss, card: Card, operands: Sequence[Any], named: Mapping[str, Any]) -> Batch:
    """The batch of one call; card: that of the loss."""
    cls: Any = type(loss)
    given = _named(cls, operands, named)
    first = next(iter(given))
    rows, step = _rows(cls.name, first, given[first])
    given = {name: _host(_some(x, rows, step)) for name, x in given.items()}
    own = _copied(loss)
    if own.reduction == "none":
        own.reduction = "mean"
    names = [name for name in cls._call_operands() if name in given]
    extras = {name: given[name] for name in given if name not in names}
    losses, (gradient,), whole = derived(own, [given[name] for name in names], (0,), extras)
    layout = _layout(own, [given[name] for name in names], extras, losses.shape)
    # A number, such as a variance, is one of every row.
    tensors = {name: torch.as_tensor(x, dtype=None if isinstance(x, Tensor) else torch.float64)
               for name in names if isinstance(x := given[name], Tensor | int | float)}  # fmt: skip
    columns = {name: layout.rows(x) for name, x in tensors.items()}
    counts = _counts(own, given, losses.shape)
    counted = layout.each(counts.double()).bool()
    found = Batch(
        told(loss), layout.each(losses), lengths([layout.whole(gradient)]), _cells(columns), card=card,
        value=float(whole), reduction=own.reduction, notes=[], table=None,
    )  # fmt: skip
    if step > 1:
        found.notes.append(f"One in {step} of {rows} rows is computed and shown: the batch is too large for all.")
    if not bool(counted.all()):
        out = int((~counted).sum())
        found.notes.append(f"{out} {_are(out)} masked, ignored or of weight 0: what is left out has no pull.")
    for what, numbers in (("loss", found.losses), ("gradient", found.pulls)):
        if wrong := int((~numbers.isfinite()).sum()):
            found.notes.append(f"{wrong} {'rows have' if wrong > 1 else 'row has'} a {what} that is not finite.")
    found.table = _table(own, card, layout, columns, counted, [name for name in extras if name == "sample_weight"])
    return found


def _are(count: int) -> str:
    return "rows are" if count > 1 else "row is"


def _named(cls: Any, operands: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The operands and extras of the call by name."""
    names, optional = cls._call_operands(), cls._optional_operands()
    if len(operands) > len(names):
        raise error("by_keyword", loss=cls.name, expected=", ".join(names), got=len(operands))
    given = dict(zip(names, operands, strict=False))
    for name, x in named.items():
        if name in given:
            raise error("arguments", loss=cls.name, problem=f"{name} is given twice, by position and by name", hint="")
        if name not in (*names, *EXTRAS):
            hint = f" A batch is {', '.join(names)}; sample_weight, mask and normalizer go by keyword."
            raise error("arguments", loss=cls.name, problem=f"got an unexpected keyword argument {name!r}", hint=hint)
        given[name] = x
    missing = [name for name in names if name not in given and name not in optional]
    if missing:
        hint = f" A batch is {', '.join(name for name in names if name not in optional)}."
        raise error("arguments", loss=cls.name, problem=f"{' and '.join(missing)} must be given, too", hint=hint)
    first = given[names[0]]
    if not isinstance(first, Tensor):
        raise error("not_a_tensor", loss=cls.name, argument=names[0], got=type(first).__name__)
    if not first.is_floating_point():
        raise error("not_floating", loss=cls.name, argument=names[0], got=first.dtype)
    return {name: x for name, x in given.items() if x is not None}


def _rows(name: str, argument: str, x: Tensor) -> tuple[int, int]:
    """How many rows there are, and which are computed: every so manieth."""
    if not x.numel():
        expected, got = "a batch of at least one row", f"shape {tuple(x.shape)}"
        raise error("parameter", loss=name, argument=argument, expected=expected, got=got)
    rows = len(x) if x.ndim else 1
    return rows, min(rows, math.ceil(x.numel() / LARGE))


def _some(x: Any, rows: int, step: int) -> Any:
    """Every so manieth row of what has as many rows as the batch."""
    return x[::step] if step > 1 and isinstance(x, Tensor) and x.ndim and len(x) == rows else x


def _host(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    here = x.detach().to("cpu")
    return here.double() if here.is_floating_point() else here


def _copied(loss: Any) -> Any:
    """The loss with its tensors on the CPU, in float64; the user's stays as it is."""
    own = copy.copy(loss)
    own._buffers = {name: _host(x) for name, x in loss._buffers.items()}
    own._parameters = {name: x if x is None else nn.Parameter(_host(x)) for name, x in loss._parameters.items()}
    own.reduction = loss.reduction  # also lets it forget what it remembers of the others
    return own


@dataclass
class _Layout:
    """How tensors become rows: losses is the shape of the unreduced losses, first that of the first operand.

    elements: each number is a row. classes: the first operand has classes in its dimension 1. batch: the dimension of
    the first operand in which a row is an index; what else a row of losses has is averaged.
    """

    losses: torch.Size
    first: torch.Size
    elements: bool
    classes: bool
    batch: int | None

    def each(self, x: Tensor) -> Tensor:
        """A number for each row, of what has the shape of the losses."""
        return x.reshape(-1) if self.batch is None else x.reshape(len(x), -1).mean(1)

    def whole(self, x: Tensor) -> Tensor:
        """Rows of the first operand, or of what has its shape."""
        if self.classes:
            return x.movedim(1, -1).flatten(0, -2)
        if self.batch is not None:
            return x.movedim(self.batch, 0).flatten(1)
        return x.reshape(self.losses.numel(), -1)

    def rows(self, x: Tensor) -> Tensor | None:
        """What rows have of an operand; None: it is not one thing for each."""
        if self.elements:
            fits = all(a in (1, b) for a, b in zip(reversed(x.shape), reversed(self.losses), strict=False))
            return x.expand(self.losses).reshape(-1) if fits and x.ndim <= len(self.losses) else None
        if x.shape == self.first:
            return self.whole(x)
        if self.batch is None and x.shape == self.losses:
            return x.reshape(-1)
        if not x.ndim or x.shape[0] != self.losses[:1].numel() or len(self.losses) != 1:
            return None
        return x if x.ndim == 1 else x.flatten(1)


def _layout(loss: Any, operands: Sequence[Any], extras: Mapping[str, Any], losses: torch.Size) -> _Layout:
    """The layout of a call whose unreduced losses have that shape."""
    one, whole = tuple(losses), tuple(operands[0].shape)
    if one == whole:
        return _Layout(losses, operands[0].shape, elements=True, classes=False, batch=None)
    classes = bool(one) and len(whole) == len(one) + 1 and whole[:1] + whole[2:] == one
    if classes or (whole[: len(one)] == one and (len(one) > 1 or len(whole) == 1)):
        return _Layout(losses, operands[0].shape, elements=False, classes=classes, batch=None)
    places = [place for place, size in enumerate(whole) if one[:1] == (size,)]
    if not places:
        raise error(
            "parameter", loss="explain", argument="loss", got=f"{type(loss).name}, a result of shape {one}",
            expected=f"a loss that gives a number for each of {whole[0]} rows",
            hint=" losskit.explain(loss) tells of the loss alone.",
        )  # fmt: skip
    if len(places) > 1:  # such as of as many frames as sequences
        x = operands[0].clone().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(unreduced(loss)(x, *operands[1:], **extras).reshape(one[0], -1)[0].sum(), x)
        places.sort(key=lambda place: bool(slope.movedim(place, 0)[1:].any()))
    return _Layout(losses, operands[0].shape, elements=False, classes=False, batch=places[0])


def _counts(loss: Any, given: Mapping[str, Any], shape: torch.Size) -> Tensor:
    """Which of the unreduced losses count."""
    counts = torch.ones(shape, dtype=torch.bool)
    for name in ("mask", "sample_weight"):
        if isinstance(given.get(name), Tensor):
            counts = counts & (given[name] != 0)
    target = given.get("target")
    if "ignore_index" in type(loss).params and isinstance(target, Tensor) and target.shape == shape:
        counts = counts & (target != loss.ignore_index)
    return counts


def _cells(columns: Mapping[str, Tensor | None]) -> dict[str, Sequence[Any]]:
    target = columns.get("target")
    right = target if target is not None and target.ndim == 1 and not target.is_floating_point() else None
    return {name: Cells(rows, right if rows.ndim > 1 else None) for name, rows in columns.items() if rows is not None}


def _table(
    loss: Any, card: Card, layout: _Layout, columns: Mapping[str, Tensor | None], counted: Tensor, extras: list[str]
) -> Table | None:
    """The rows as the live page takes them, or None where a line cannot hold one."""
    own: dict[str, Tensor] = {}
    if card.rows is not None:
        scores, target = (columns.get(name) for name in ("input", "target"))
        if not layout.classes or scores is None or target is None or target.ndim > 1 or target.is_floating_point():
            return None
        stem = "score" if card.rows.softmax or card.rows.terms == "pairs" else "logp"
        own = {f"{stem}{k}": scores[:, k] for k in range(scores.shape[1])} | {"class": target}
    elif card.curve is not None and layout.elements and card.curve.variable in columns:
        own = {name: x for name, x in columns.items() if x is not None}
        if len(own) < len(columns):
            return None
    if not own or (card.rows is not None and (card.rows.several or not 3 <= len(own) <= shown.COLUMNS)):
        return None
    finite = torch.stack([x.isfinite() for x in own.values()]).all(0)
    kept = (counted & finite).nonzero().flatten()
    step = max(1, math.ceil(len(kept) / shown.rows_of(len(own))))
    params = {name: getattr(loss, name) for name in type(loss).params}
    single = {name: float(x) for name, x in params.items() if isinstance(x, Tensor) and x.numel() == 1}
    present = [name for name in type(loss)._optional_operands() if name in own]
    made = shown.table(card, params | single, present, extras)
    if made is None or not len(kept) or not shown.includes(card, {name: x[kept] for name, x in own.items()}):
        return None
    made.rows = kept[::step].tolist()
    made.columns = {name: (x.int() if x.dtype == torch.bool else x)[kept[::step]].tolist() for name, x in own.items()}
    if step > 1:
        made.notes.append(f"The page and the picture have one in {step} of {len(kept)} rows: they cannot hold all.")
    if left := int((counted & ~finite).sum()):
        made.notes.append(f"{left} {_are(left)} left out of page and picture: an operand is not finite.")
    return made
