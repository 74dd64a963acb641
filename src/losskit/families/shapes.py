"""Shapes as declarations write them: "(N, D)", "(N, C, ...) or (C,)".

A letter is a size, the same in all operands of a call; dots are any number of dimensions, the same ones everywhere.
Where there are several shapes, with "or" between them, the operands of a call all have the first, or all the second.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from losskit.errors import error

DOTS = "..."
_SHAPE = re.compile(r"\(((\w+|\.\.\.), ?)*(\w+|\.\.\.)?\)")


class Shape:
    """A declared shape, or several of which a call has one."""

    def __init__(self, text: str) -> None:
        self.text = text
        parts = text.split(" or ")
        if not all(_SHAPE.fullmatch(part) and part.count(DOTS) <= 1 for part in parts):
            raise ValueError(f"{text!r} is no shape like '(N, C, ...) or (C,)'")
        self.forms = [tuple(re.findall(r"\w+|\.\.\.", part)) for part in parts]

    def form(self, which: int) -> tuple[str, ...]:
        """The form that goes with this one of the first operand; a shape with one form goes with all."""
        return self.forms[which if len(self.forms) > 1 else 0]

    def fitting(self, ndim: int) -> int | None:
        """The first form that a tensor of so many dimensions has."""
        fits = (i for i, form in enumerate(self.forms) if len(form) == ndim or (DOTS in form and ndim >= len(form) - 1))
        return next(fits, None)


def named(form: Sequence[str], ndim: int) -> list[str]:
    """A name for each of so many dimensions: letters, and "...0", "...1" for dots."""
    if DOTS not in form:
        return list(form)
    at, more = form.index(DOTS), ndim - len(form) + 1
    return [*form[:at], *(f"{DOTS}{i}" for i in range(more)), *form[at + 1 :]]


def filled(form: Sequence[str], dots: int) -> list[str]:
    """The names of the dimensions of a form where dots stand for so many."""
    return named(form, len(form) - 1 + dots) if DOTS in form else list(form)


def arranged(x: Tensor, own: Sequence[str], as_in: Sequence[str]) -> Tensor:
    """A tensor with its dimensions in the order of other names, of size 1 where it has none of that name."""
    x = x.permute([own.index(name) for name in as_in if name in own])
    for i, name in enumerate(as_in):
        if name not in own:
            x = x.unsqueeze(i)
    return x


def together(loss: str, names: Sequence[str], shapes: Sequence[torch.Size]) -> torch.Size:
    """The shape that all stretch to."""
    dims = max(len(shape) for shape in shapes)
    known = [(1,) * (dims - len(shape)) + tuple(shape) for shape in shapes]
    # A set would fix the sizes of a graph that is traced, and to Dynamo they are of type int, too: there torch's own
    # function is called. Elsewhere it would take 20 us.
    if not torch.compiler.is_compiling() and all(type(n) is int for shape in known for n in shape):
        of_dims = [{n for n in sizes if n != 1} or {1} for sizes in zip(*known, strict=True)]
        if all(len(sizes) == 1 for sizes in of_dims):
            return torch.Size(n for sizes in of_dims for n in sizes)
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        told = ", ".join(f"{name} {tuple(x)}" for name, x in zip(names, shapes, strict=True))
        raise error("apart", loss=loss, got=told) from None
