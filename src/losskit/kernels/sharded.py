"""Losses of DTensors: each rank computes its part of the rows with the kernels of plain tensors.

1. Operands are brought to one placement of the rows (what the unreduced loss has an entry for): that of the first
   operand that is sharded by rows. What has no such dimension, or is 1 wide there, stays whole on every rank. A
   dimension inside of a row (features, frames) is exchanged for rows, since a formula speaks of whole rows.
2. Class scores sharded by class stay so: their family works with maxima and sums over ranks (`Part`).
3. The mean divides by what counts on all ranks. Each rank computes its share of this mean, with the gradient in the
   same pass, and the shares are added up: the result is the same number on every rank, and so is its gradient 1.
4. A number that is the same on all ranks and counts once has the gradient of one rank: a sum over ranks hands its
   upstream gradient on as it is (`_Sum`). Where ranks go on to compute different things with it, their gradients are
   added up (`_Copy`). Each is the other's derivative, so all orders of derivative are right.
5. A value that only one rank finds bad must not leave the others waiting: ranks agree before they go on, and all of
   them raise the same sentence. So collectives run in the same order on every rank, whatever the values are.

torch.distributed.tensor is imported when a DTensor arrives.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from losskit import dtypes
from losskit.errors import error
from losskit.kernels.choice import from_kernel, why_eager
from losskit.kernels.ranks import Agreement, Defined, Part, Ranks, told
from losskit.plan import Arguments, Dims, Plan

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def involved(*given: Any) -> bool:
    """Whether a DTensor is among the arguments of a call."""
    unusual = [x for x in given if isinstance(x, Tensor) and type(x) not in _PLAIN]
    if not unusual:
        return False  # without a look at modules, which torch.compile would guard
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and any(isinstance(x, loaded.DTensor) for x in unusual)


# ---------------------------------------------------------------------------------------------------------
# Where everything lies


class Layout(NamedTuple):
    """How a call is spread over the ranks of a mesh."""

    mesh: DeviceMesh
    whole: Arguments  # validated stand-ins of the whole tensors: shapes and dtypes, no numbers
    tensors: list[Any]  # what was given: operands (lists made tensors), weight, sample weight, mask
    dims: list[Dims]  # of these tensors
    rows: list[int | None]  # for each dimension of the mesh, the dimension of the loss that is sharded over it
    classes: list[int]  # the dimensions of the mesh that classes are sharded over
    class_dim: int  # of the first operand
    shape: tuple[int, ...]  # of the unreduced loss

    @property
    def over_rows(self) -> list[int]:
        """The dimensions of the mesh that rows are sharded over."""
        return [i for i, dim in enumerate(self.rows) if dim is not None]

    def ranks(self, mesh_dims: Sequence[int]) -> Ranks:
        """The ranks that differ in these dimensions of the mesh."""
        return ranks_of(self.mesh, mesh_dims)

    def rows_here(self, dim: int) -> tuple[int, int]:
        """Where this rank's part of a dimension of the loss begins, and its size."""
        return span(self.mesh, [i for i, over in enumerate(self.rows) if over == dim], self.shape[dim])

    def classes_here(self) -> tuple[int, int]:
        """The first of this rank's classes, and how many there are."""
        return span(self.mesh, self.classes, self.tensors[0].shape[self.class_dim])

    def has_classes(self, number: int) -> bool:
        """Whether a tensor is sharded by class: the first operand, and probabilities of its shape."""
        x = self.tensors[number]
        return bool(self.classes) and (number == 0 or (number == 1 and x.shape == self.tensors[0].shape))

    def local(self, number: int) -> Any:
        """This rank's part of a tensor, whose gradient finds its way back."""
        from torch.distributed.tensor import Partial, Replicate, Shard

        x = self.tensors[number]
        if not isinstance(x, Tensor):
            return x
        placements: list[Any] = []
        gradients: list[Any] = []
        for i, row in enumerate(self.rows):
            own = [j for j, dim in enumerate(self.dims[number]) if dim is not None and dim == row]
            own = [j for j in own if x.shape[j] == self.shape[self.dims[number][j] or 0]]
            if i in self.classes and self.has_classes(number):
                own = [self.class_dim]
            placements.append(Shard(own[0]) if own else Replicate())
            gradients.append(Shard(own[0]) if own else Replicate() if row is None else Partial())
        return local_part(x, self.mesh, placements, gradients)


def ranks_of(mesh: DeviceMesh, mesh_dims: Sequence[int]) -> Ranks:
    """The ranks that differ in these dimensions of a mesh."""
    return Ranks([mesh.get_group(i) for i in mesh_dims if mesh.size(i) > 1])


def span(mesh: DeviceMesh, mesh_dims: Sequence[int], size: int) -> tuple[int, int]:
    """Where this rank's part of a dimension begins, and its size: that of torch.chunk, again for each mesh_dim."""
    place = mesh.get_coordinate() or [0] * mesh.ndim
    start = 0
    for i in mesh_dims:
        step = -(-size // mesh.size(i))
        first = min(place[i] * step, size)
        start, size = start + first, min(step, size - first)
    return start, size


def local_part(x: Tensor, mesh: DeviceMesh, placements: Sequence[Any], gradients: Sequence[Any]) -> Tensor:
    """This rank's part of a tensor, whose gradient, of these placements, finds its way back."""
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = [Replicate()] * mesh.ndim
    if not isinstance(x, DTensor):
        if placements == everywhere and (gradients == everywhere or not x.requires_grad):
            return x
        x = DTensor.from_local(x, mesh, everywhere, run_check=False)
    local = x.redistribute(mesh, placements).to_local(grad_placements=gradients)
    return Defined.apply(local) if local.requires_grad else local


def layout_of(plan: Plan, operands: Sequence[Any], *extras: Any) -> Layout:
    """How a call is to be spread; or the error that whole tensors would give, the same on every rank.

    extras: the weight, sample weight, mask and normalizer.
    """
    given = [*operands, *extras]
    names = [*plan.names, "weight", "sample_weight", "mask", "normalizer"]
    mesh = mesh_of(plan.name, zip(names, given, strict=True))
    count = len(operands)
    stand_ins = [stand_in(x) for x in given]
    try:
        whole = plan.validated(stand_ins[:count], *stand_ins[count:])
    except ValueError as problem:
        if vars(problem).get("kind") in _OF_SHAPES and not all(involved(x) for x in given if isinstance(x, Tensor)):
            raise error("part", problem=problem) from None
        raise
    taken = [of if isinstance(x, list | tuple) else x for x, of in zip(operands, whole.operands, strict=True)]
    tensors = [*taken, *extras[:3]]
    shape = tuple(plan.unreduced_shape(whole.operands))
    dims = plan.dims_of_rows([stand_in(x) for x in tensors[: count + 1]], whole)
    dims += [() if x is None else trailing(x.ndim, len(shape)) for x in extras[1:3]]
    class_dim = plan.class_dimension(tensors[0].ndim)
    rows: list[int | None] = [None] * mesh.ndim
    classes = []
    for i in range(mesh.ndim):
        for number, (x, of) in enumerate(zip(tensors, dims, strict=True)):
            over = sharded_over(x, i)
            if over is None:
                continue
            if number == 0 and over == class_dim:
                classes.append(i)
                break
            dim = of[over]
            if dim is None and number == 0:
                dim = next((d for d in of if d is not None), None)
            elif dim is not None and not 1 < shape[dim] == x.shape[over]:
                dim = None
            if dim is not None:
                rows[i] = dim
                break
    return Layout(mesh, whole, tensors, dims, rows, classes, class_dim, shape)


# Kinds of errors that describe a rank's part of a tensor, and must be told of the whole.
_OF_SHAPES = {"shapes", "not_broadcastable", "not_one_per_row", "class_indices", "class_probabilities", "parameter"}


def mesh_of(loss: str, named: Iterable[tuple[str, Any]]) -> DeviceMesh:
    """The mesh that all DTensors are on."""
    from torch.distributed.tensor import DTensor

    found = [(name, x.device_mesh) for name, x in named if isinstance(x, DTensor)]
    first, mesh = found[0]
    for name, other in found[1:]:
        if other != mesh:
            raise error("mesh", loss=loss, argument=name, first=first)
    return mesh


def sharded_over(x: Any, mesh_dim: int) -> int | None:
    """The dimension of a tensor that is sharded over a dimension of the mesh."""
    from torch.distributed.tensor import DTensor, Shard

    placement = x.placements[mesh_dim] if isinstance(x, DTensor) else None
    return placement.dim if type(placement) is Shard else None


def trailing(ndim: int, full: int) -> Dims:
    """The dimensions of a tensor that broadcasts to another with `full` of them."""
    return tuple(range(full - ndim, full))


def stand_in(x: Any, shape: Sequence[int] | None = None) -> Any:
    """A tensor of the same dtype and device that takes no memory; what is no dense tensor as it is."""
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        return x
    stand_in = torch.zeros((), dtype=x.dtype, device=x.device).expand(x.shape if shape is None else shape)
    return stand_in.requires_grad_(x.requires_grad)


# ---------------------------------------------------------------------------------------------------------
# An error on one rank is raised on all


def _whole_index(plan: Plan, layout: Layout, problem: Exception) -> tuple[str | None, Any]:
    """The kind and context of an error of losskit, its index that of the whole tensor; else what it says."""
    kind, context = told(problem)
    if kind is None:
        return kind, context
    index = context.get("index", ())
    name = context.get("argument", "target")
    number = plan.names.index(name) if name in plan.names else 0
    if len(layout.dims[number]) != len(index):
        number = 0  # the index of an operand that broadcasts is told in the shape of the first
    if len(layout.dims[number]) == len(index):
        starts = [0 if dim is None else layout.rows_here(dim)[0] for dim in layout.dims[number]]
        if number == 1 and layout.has_classes(1):
            starts[layout.class_dim] = layout.classes_here()[0]
        context = {**context, "index": tuple(i + start for i, start in zip(index, starts, strict=True))}
    return kind, context


# ---------------------------------------------------------------------------------------------------------
# Running


def run(plan: Plan, operands: Sequence[Any], *extras: Any) -> Tensor:
    """The loss of arguments among which a DTensor is, as a DTensor. extras: weight, sample weight, mask, normalizer."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    layout = layout_of(plan, operands, *extras)
    arguments = _local_arguments(plan, layout, extras[3])
    ranks = layout.ranks([*layout.over_rows, *layout.classes])
    agreed = Agreement(plan.name, ranks, layout.mesh.device_type == "cpu", partial(_whole_index, plan, layout))
    rows = layout.ranks(layout.over_rows)
    # Ranks add up their shares of a sum in the compute type, so that the sum is rounded once.
    wide = dtypes.compute_dtype(layout.whole.operands) if layout.over_rows and plan.reduction != "none" else None
    if layout.classes:
        start, size = layout.classes_here()
        ranks, total = layout.ranks(layout.classes), layout.tensors[0].shape[layout.class_dim]
        part = Part(ranks, start, size, total, agreed)
        result = plan.eager_part(_widened(arguments, wide), agreed.checks, part)
    else:
        result = agreed(lambda: _computed(plan, arguments, wide, agreed.checks))
    told = layout.whole.result or dtypes.result_dtype(layout.whole.operands[: plan.telling])
    dtype = dtypes.autocast(told, result.device)
    everywhere: list[Any] = [Replicate()] * layout.mesh.ndim
    if plan.reduction != "none":
        result = rows.sum(result.to(torch.float64)) if layout.over_rows else result
        return DTensor.from_local(result.to(dtype), layout.mesh, everywhere, run_check=False)
    placements = [Replicate() if row is None else Shard(row) for row in layout.rows]
    strides = tuple(prod(layout.shape[i + 1 :]) for i in range(len(layout.shape)))
    if not strides:
        return DTensor.from_local(result.to(dtype), layout.mesh, everywhere, run_check=False)
    return DTensor.from_local(
        result.to(dtype), layout.mesh, placements, run_check=False, shape=torch.Size(layout.shape), stride=strides
    )


def _local_arguments(plan: Plan, layout: Layout, normalizer: Any) -> Arguments:
    """This rank's part of the arguments, with a denominator for all ranks."""
    from torch.distributed.tensor import DTensor

    count = len(plan.names)
    parts = [layout.local(number) for number in range(len(layout.tensors))]
    weight = parts[count]
    if weight is not None and layout.whole.weight is not None:
        weight = weight.to(layout.whole.weight.dtype)
    if normalizer is None:
        normalizer = layout.whole.normalizer
    elif isinstance(normalizer, DTensor):
        normalizer = normalizer.full_tensor()
    arguments = layout.whole._replace(
        operands=parts[:count], weight=weight, sample_weight=parts[count + 1], mask=parts[count + 2],
        normalizer=normalizer,
    )  # fmt: skip
    if plan.reduction != "mean" or not layout.over_rows:
        return arguments
    ranks = layout.ranks(layout.over_rows)
    if normalizer is None:
        normalizer = _counted(plan, layout, arguments, ranks)
    if isinstance(normalizer, Tensor) and normalizer.requires_grad:
        normalizer = ranks.copy(normalizer)
    return arguments._replace(normalizer=normalizer)


def _counted(plan: Plan, layout: Layout, arguments: Arguments, ranks: Ranks) -> Tensor | float:
    """The denominator of the mean over all ranks."""
    weights, kept = plan.counted(arguments)
    weights = [w for w in (*weights, arguments.sample_weight) if w is not None]
    if not weights and kept is None:
        return float(prod(layout.shape))
    device = arguments.operands[0].device
    counts = torch.ones((), dtype=torch.float64, device=device)
    for w in weights:
        counts = counts * w.to(torch.float64)
    if kept is not None:
        counts = torch.where(kept, counts, 0.0)
    here = [layout.rows_here(dim)[1] for dim in range(len(layout.shape))]
    return ranks.sum(counts.broadcast_to(here).sum())


def _computed(plan: Plan, arguments: Arguments, wide: torch.dtype | None, checks: str) -> Tensor:
    """This rank's share of the loss, of dtype `wide` if that is given."""
    args = plan.validated(*arguments[:5])
    result = plan.fused(from_kernel, args, wide) if why_eager(plan, args) is None else None
    return plan.eager(_widened(args, wide), checks) if result is None else result


def _widened(arguments: Arguments, wide: torch.dtype | None) -> Arguments:
    """Arguments whose eager loss is of dtype `wide`."""
    if wide is None:
        return arguments
    first, *others = arguments.operands
    return arguments._replace(operands=[first.to(wide), *others], result=None)


def why(plan: Plan, operands: Sequence[Any], *extras: Any) -> tuple[str | None, str]:
    """The reason why the eager formula runs on each rank (None: it does not), and how ranks come together."""
    layout = layout_of(plan, operands, *extras)
    if layout.classes:
        return (
            "each rank has a part of the classes",
            "maxima, sums and the score of the right class, one number a row, are reduced over the ranks",
        )
    sizes = [layout.rows_here(dim)[1] for dim in range(len(layout.shape))]
    local = []
    for x, dims in zip(layout.tensors, layout.dims, strict=True):
        shape = x.shape if isinstance(x, Tensor) else ()
        parts = [sizes[d] if d is not None and n == layout.shape[d] else n for d, n in zip(dims, shape, strict=False)]
        local.append(stand_in(x, parts) if isinstance(x, Tensor) else x)
    count = len(operands)
    weight, sample_weight, mask = local[count:]
    args = plan.validated(local[:count], weight, sample_weight, mask, layout.whole.normalizer)
    if not layout.over_rows:
        return why_eager(plan, args), "every rank computes all rows"
    return why_eager(plan, args), "each rank computes its part of the rows of a DTensor"
