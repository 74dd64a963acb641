"""Heads of DTensors: who has which rows and which classes is said by the placements of features and weights.

Each rank computes its rows, or its classes of them, in chunks of plain tensors. DTensor's redistribution moves features
and gradients to the ranks that need them. Ranks that share classes add up a few numbers for each row, as in
`shared_heads.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.errors import error
from losskit.kernels.ranks import Agreement, Part, told
from losskit.kernels.sharded import local_part, mesh_of, ranks_of, sharded_over, span, stand_in
from losskit.kernels.torch_internals import observed
from losskit.layers import heads
from losskit.layers.head_calls import Term, flattened


def takes(input: Any, weight: Any, others: Sequence[Any]) -> bool:
    """Whether a rank can compute its part in chunks; else DTensors compute all scores."""
    if torch.compiler.is_compiling() or observed() or weight.ndim != 2 or input.ndim < 2:
        return False
    wanted = [x for x in others if isinstance(x, Tensor) and x.requires_grad]
    return not (wanted and torch.is_grad_enabled())


def run(
    loss: str, terms: list[Term], cap: float | None, input: Any, weight: Any, bias: Any, operands: Sequence[Any],
    extras: Sequence[Any],
) -> Tensor:  # fmt: skip
    """The loss of arguments among which a DTensor is, as a DTensor."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    names = ["input", "linear_weight", "linear_bias", *terms[0].plan.names[1 : 1 + len(operands)]]
    if isinstance(weight, DTensor) and not isinstance(input, DTensor):
        raise error("features", loss=loss)
    given = [input, weight, bias, *operands, *extras]
    mesh = mesh_of(loss, zip([*names, "sample_weight", "mask", "normalizer"], given, strict=True))
    whole: list[Any] = [stand_in(x) for x in given]
    every = len(whole[1])
    lead = flattened(loss, terms, cap, whole[0], whole[1], whole[2], whole[3:-3], *whole[-3:])[2]

    over_classes = [i for i in range(mesh.ndim) if sharded_over(weight, i) == 0]
    rows: list[int | None] = [None if i in over_classes else _row(input, i) for i in range(mesh.ndim)]
    over_rows = [i for i, dim in enumerate(rows) if dim is not None]
    everywhere = [Replicate()] * mesh.ndim
    of_rows = [Replicate() if dim is None else Shard(dim) for dim in rows]
    of_classes: list[Any] = [Shard(0) if i in over_classes else Replicate() for i in range(mesh.ndim)]
    by_input = [Partial() if i in over_classes else of_rows[i] for i in range(mesh.ndim)]
    by_weight = [of_classes[i] if dim is None else Partial() for i, dim in enumerate(rows)]

    input = local_part(input, mesh, of_rows, by_input)
    weight, bias = (x if x is None else local_part(x, mesh, of_classes, by_weight) for x in (weight, bias))
    here = {dim: span(mesh, [i for i in over_rows if rows[i] == dim], lead[dim]) for dim in rows if dim is not None}
    starts = {dim: start for dim, (start, _) in here.items()}

    def own(x: Any, full: Sequence[int]) -> Any:
        """This rank's rows of a tensor with an entry for each row, or for each class of a row."""
        if x is None:
            return x
        x = x.full_tensor() if isinstance(x, DTensor) else x
        x = x.expand(full)
        for dim, (start, size) in here.items():
            x = x.narrow(dim, start, size)
        return x

    classes = span(mesh, over_classes, every)
    taken = []
    for x in operands:
        soft = x.is_floating_point() and x.ndim > len(lead)
        x = own(x, x.shape if soft else lead)
        taken.append(x.narrow(-1, *classes) if soft and over_classes else x)
    sample_weight, mask = (own(x, lead) for x in extras[:2])
    normalizer = extras[2].full_tensor() if isinstance(extras[2], DTensor) else extras[2]

    on_host = mesh.device_type == "cpu"
    agreed = Agreement(loss, ranks_of(mesh, [*over_rows, *over_classes]), on_host, partial(_told, starts))
    of_class = Agreement(loss, ranks_of(mesh, over_classes), on_host, told)
    part = Part(of_class.ranks, *classes, every, of_class) if over_classes else None
    local = terms, cap, input, weight, bias, taken, sample_weight, mask, normalizer, part
    call, head, _ = agreed(lambda: flattened(loss, *local))
    widest = every
    for i in over_classes:
        widest = -(-widest // mesh.size(i))
    call = replace(call, widest=widest)
    dtype = dtypes.autocast(dtypes.result_dtype([input, *taken[:1]]), input.device)
    ranks = ranks_of(mesh, over_rows)
    if over_rows and call.reduction != "none":
        call = replace(call, told=torch.float64 if dtype == torch.float64 else torch.float32)
        if call.reduction == "mean" and call.normalizer is None:
            count = torch.as_tensor(heads.denominator_of(call, len(head.input), head.input.device))
            call = replace(call, normalizer=ranks.reduced(count.to(torch.float64), "SUM"))
    of_rank = Agreement(loss, ranks, on_host, partial(_told, starts))
    result = of_rank(lambda: heads.run(call, head))
    if call.reduction != "none":
        result = ranks.sum(result) if over_rows else result
        return DTensor.from_local(result.to(dtype), mesh, everywhere, run_check=False)
    result = result.reshape(input.shape[:-1])
    strides = torch.empty(lead, device="meta").stride()
    return DTensor.from_local(result, mesh, of_rows, run_check=False, shape=torch.Size(lead), stride=strides)


def _row(input: Any, mesh_dim: int) -> int | None:
    """The dimension of rows that is sharded over a dimension of the mesh; features are exchanged for whole rows."""
    dim = sharded_over(input, mesh_dim)
    return None if dim == input.ndim - 1 else dim


def _told(starts: dict[int, int], problem: Exception) -> tuple[str | None, Any]:
    """The kind and context of an error, its index that of the whole tensor."""
    kind, context = told(problem)
    if kind is not None and "index" in context:
        index = tuple(place + starts.get(dim, 0) for dim, place in enumerate(context["index"]))
        context = {**context, "index": index}
    return kind, context
