"""How the operands of a loss are spread over ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

OF_ONE_DIMENSION = [[Shard(0)], [Shard(1)], [Replicate()], [Partial()], [Shard(2)]]
OF_TWO = [
    [Shard(0), Shard(1)], [Shard(1), Shard(0)], [Replicate(), Shard(0)], [Shard(0), Shard(0)], [Shard(1), Shard(1)],
    [Partial(), Shard(0)],
]  # fmt: skip
# reduction, what else is given, whether only the first operand is a DTensor, whether every float wants a gradient
VARIANTS = [
    ("mean", "extras", False, False), ("sum", "", True, False), ("none", "normalizer", False, True),
    ("mean", "", False, True), ("none", "extras", True, False), ("mean", "normalizer", True, False),
    ("sum", "extras", False, True), ("mean", "extras", True, True), ("none", "", False, False),
]  # fmt: skip


def spread(x: Tensor, mesh: DeviceMesh, placements: Sequence[Any]) -> DTensor:
    """A whole tensor as a DTensor."""
    everywhere = [Replicate()] * mesh.ndim
    known = [p if isinstance(p, Shard) and p.dim < x.ndim else Replicate() for p in placements]
    result = DTensor.from_local(x, mesh, everywhere, run_check=False).redistribute(mesh, known).detach()
    if not x.is_floating_point():
        return result
    parts = result.to_local()
    for i, p in enumerate(placements):
        parts = parts / mesh.size(i) if isinstance(p, Partial) else parts
    known = [p if isinstance(p, Partial) else k for p, k in zip(placements, known)]
    return DTensor.from_local(parts, mesh, known, shape=x.shape, stride=x.stride())


def whole(x: Any) -> Any:
    return x.full_tensor() if isinstance(x, DTensor) else x


def backward(loss: Tensor) -> None:
    """With a gradient for each entry that differs."""
    c = torch.linspace(1.0, 2.0, max(loss.numel(), 1)).reshape(loss.shape).to(loss.dtype)
    loss.backward(spread(c, loss.device_mesh, loss.placements) if isinstance(loss, DTensor) else c)


def message(call: Callable[[], Any]) -> str:
    """What a call raises: the kind of error and the sentence."""
    try:
        call()
    except Exception as problem:
        return f"{type(problem).__name__} {vars(problem).get('kind')}: {problem}"
    return "nothing"
