"""Ranks that compute one loss together: sums, maxima and gradients over them, and the part of the classes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from losskit.errors import error
from losskit.policy import state

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Ranks:
    """The ranks along some dimensions of a mesh."""

    def __init__(self, groups: Sequence[ProcessGroup]) -> None:
        self.groups = groups

    def reduced(self, x: Tensor, op: str) -> Tensor:
        """The sum, maximum or minimum ("SUM", "MAX", "MIN") over the ranks, without a gradient."""
        import torch.distributed as dist

        x = x.detach().clone(memory_format=torch.contiguous_format)
        for group in self.groups:
            dist.all_reduce(x, getattr(dist.ReduceOp, op), group)
        return x

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the ranks, which counts once."""
        return _Sum.apply(x, self) if self.groups else x

    def copy(self, x: Tensor) -> Tensor:
        """A number that is the same on all ranks, for computations that differ between them."""
        return _Copy.apply(x, self) if self.groups else x


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.reduced(x, "SUM")

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return _Copy.apply(upstream, ctx.ranks), None


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return _Sum.apply(upstream, ctx.ranks), None


class Agreement:
    """Runs what may find a bad value, and raises on all ranks what it raises on one."""

    def __init__(
        self, loss: str, ranks: Ranks, on_host: bool, told: Callable[[Exception], tuple[str | None, Any]]
    ) -> None:
        """told: the kind and context of an error of losskit, or None and what an error of others says."""
        self.loss, self.ranks, self.on_host, self.told = loss, ranks, on_host, told
        # A compiled graph cannot branch on what ranks agree on: there a bad value is NaN, on all of them.
        mode = "raise" if state.checks == "torch" else state.checks
        traced = torch.compiler.is_compiling() and ranks.groups and mode == "raise"
        self.checks = "nan" if traced else mode
        self.needed = ranks.groups and self.checks == "raise" and on_host  # else nothing is raised

    def __call__(self, check: Callable[[], Any]) -> Any:
        if not self.needed:
            return check()
        result, problem = None, None
        try:
            result = check()
        except Exception as found:  # whatever it is, the others must not wait for this rank
            problem = found
        if int(self.ranks.reduced(torch.tensor(int(problem is not None)), "MAX")):
            self.refuse(problem)
        return result

    def refuse(self, problem: Exception | None) -> NoReturn:
        """Raise what the first rank with a problem found."""
        import torch.distributed as dist

        own = dist.get_rank()
        found: list[Any] = [] if problem is None else [(own, *self.told(problem))]
        for group in self.ranks.groups:
            parts: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(parts, found, group=group)
            found = [one for part in parts for one in part]
        rank, kind, context = min(found, key=lambda one: one[0])
        if kind is not None:
            raise error(kind, **context)
        if problem is not None:
            raise problem
        raise error("elsewhere", loss=self.loss, rank=rank, got=context)


def told(problem: Exception) -> tuple[str | None, Any]:
    """The kind and context of an error of losskit; else None and what it says."""
    kind, context = vars(problem).get("kind"), vars(problem).get("context")
    if kind is None or context is None:
        return None, f"{type(problem).__name__}: {problem}"
    return kind, context


class Defined(torch.autograd.Function):
    """The same tensor; its gradient is zero where a kernel gives none, which DTensor's redistribution cannot take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return upstream


class Part(NamedTuple):
    """The classes that this rank has: from `start` on, `size` of `total`; `ranks` have the others."""

    ranks: Ranks
    start: int
    size: int
    total: int
    agreed: Agreement

    def own(self, x: Tensor) -> Tensor:
        """The entries of these classes, of a vector with one for each class."""
        return self.ranks.copy(x)[self.start : self.start + self.size]

    def pick(self, x: Tensor, index: Tensor) -> Tensor:
        """The entry of a class (last dimension) of each row, whichever rank has it; 0 for an index that is none."""
        if self.size == 0:
            return self.ranks.sum(x.sum(-1, keepdim=True))
        place = index - self.start
        found = (place >= 0) & (place < self.size)
        return self.ranks.sum(torch.where(found, x.gather(-1, place.clamp(0, self.size - 1)), 0.0))

    def placed(self, x: Tensor, dim: int, index: Tensor, made: Tensor) -> Tensor:
        """The entries of these classes (dimension `dim`), with `made`, the same on all ranks, for the class `index`."""
        made = self.ranks.copy(made)
        if self.size == 0:
            return x + made.sum() * 0.0  # its gradient is added up over all ranks
        place = index - self.start
        found, place = (place >= 0) & (place < self.size), place.clamp(0, self.size - 1)
        return x.scatter(dim, place, torch.where(found, made, x.gather(dim, place)))

    def largest(self, x: Tensor) -> Tensor:
        """The first of the classes (last dimension) with the largest entry, of each row."""
        if self.size:
            own, place = x.amax(-1, keepdim=True), self.start + x.argmax(-1, keepdim=True)
        else:
            own = x.new_full((*x.shape[:-1], 1), float("-inf"))
            place = torch.full_like(own, self.total, dtype=torch.int64)
        return self.ranks.reduced(torch.where(own == self.ranks.reduced(own, "MAX"), place, self.total), "MIN")

    def total_of(self, x: Tensor) -> Tensor:
        """The sum over all classes (last dimension)."""
        return self.ranks.sum(x.sum(-1, keepdim=True))
