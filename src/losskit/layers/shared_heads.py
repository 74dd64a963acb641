"""Heads whose classes ranks share: each rank has the weights of some classes, and makes the scores of these.

1. A row needs a few numbers of the other ranks: the largest score, the sum of exponentials, the score of its own class.
   The family's formula adds them up (`kernels/ranks.py`), so every loss of class scores is shared, one's own included.
2. Each rank has a part of the gradient by the features; the parts are added up. The gradient by the weights is the
   rank's own, and stays there.
3. Ranks that call with what does not belong together would wait for each other without an end. So they exchange what
   they were called with: on a CPU each time, elsewhere, where the host would have to wait, once for each kind of call.
4. All ranks have the whole loss.

torch.distributed is imported when ranks share something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from losskit.errors import error
from losskit.kernels.ranks import Agreement, Part, Ranks, told
from losskit.layers import heads
from losskit.layers.head_calls import Term, flattened
from losskit.policy import state
from losskit.validation import broadcasts, check_tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Shares(NamedTuple):
    """What the ranks of a group have: their rows (of the first dimension) and classes, in their order."""

    group: ProcessGroup
    rank: int
    rows: list[int]
    classes: list[int]

    def begin(self, of: list[int]) -> int:
        """Where this rank's begin."""
        return sum(of[: self.rank])


_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SIZES = {2: "rows", 3: "features"}  # by their columns in what ranks exchange
_met: dict[Any, Shares] = {}  # kinds of calls on devices for which the host does not wait


def over_group(
    loss: str, terms: list[Term], cap: float | None, input: Tensor, weight: Tensor, bias: Tensor | None,
    operands: Sequence[Tensor], extras: Sequence[Any], group: ProcessGroup, sequence_parallel: bool,
) -> Tensor:  # fmt: skip
    """The loss where each rank of a group has the weights of some classes, and all rows or, in sequences, some."""
    ranks = Ranks([group])
    agreed = Agreement(loss, ranks, isinstance(input, Tensor) and input.is_cpu, told)
    shares = _exchanged(loss, terms, cap, input, weight, bias, operands, extras, agreed, sequence_parallel)
    part = Part(ranks, shares.begin(shares.classes), shares.classes[shares.rank], sum(shares.classes), agreed)
    if sequence_parallel:
        lead = input.shape[:-1]
        operands = [_gathered(x.expand(lead), shares) for x in operands]
        extras = [*(x if x is None else _gathered(x.expand(lead), shares) for x in extras[:2]), extras[2]]
        input = _Gathered.apply(input, shares)
    else:
        input = ranks.copy(input)
    taken = terms, cap, input, weight, bias, operands, *extras, part
    call, head, rows = agreed(lambda: flattened(loss, *taken))
    result = heads.run(replace(call, widest=max(shares.classes)), head)
    if call.reduction != "none":
        return result
    result = result.reshape(rows)
    if sequence_parallel:
        result = _Own.apply(result, shares)
    return result


def _exchanged(
    loss: str, terms: list[Term], cap: float | None, input: Tensor, weight: Tensor, bias: Tensor | None,
    operands: Sequence[Tensor], extras: Sequence[Any], agreed: Agreement, sequence_parallel: bool,
) -> Shares:  # fmt: skip
    """What the ranks of a group have, after they have told each other what they were called with."""
    import torch.distributed as dist

    (group,) = agreed.ranks.groups
    rank, size, problem = dist.get_rank(group), dist.get_world_size(group), None
    own = [1, 0, 0, 0, 0, 0]
    try:
        for name, x in (("input", input), ("linear_weight", weight)):
            check_tensor(loss, name, x, "input", input)
        settings = [
            *((term.plan.key, term.weight is None, len(term.slots)) for term in terms), cap, bias is None,
            *((x.dtype, x.ndim) for x in operands), *(x is None for x in extras), sequence_parallel, state.checks,
            torch.is_grad_enabled(), *(x is not None and x.requires_grad for x in (input, weight, bias)),
            tuple(input.shape[1:-1]),
        ]  # fmt: skip
        if sequence_parallel:
            _check_rows(loss, input, operands, extras)
        code = crc32(repr(settings).encode())
        own = [0, weight.shape[0], input.shape[0], input.shape[-1], _DTYPES.index(input.dtype), code]
    except Exception as found:  # whatever it is, the others must not wait for this rank
        problem = found
    key = group, *own
    if not sequence_parallel and key in _met:  # a rank does not know when the rows of another one change
        return _met[key]
    device = torch.device("cpu") if agreed.on_host else torch.device("cuda", torch.cuda.current_device())
    table = torch.zeros(size, len(own), dtype=torch.int64, device=device)
    table[rank] = torch.tensor(own)
    told_by: list[list[int]] = agreed.ranks.reduced(table, "SUM").tolist()  # a line of each rank
    if any(line[0] for line in told_by):
        agreed.refuse(problem)
    for other, line in enumerate(told_by):
        for column, what in _SIZES.items():
            if line[column] != told_by[0][column] and not (column == 2 and sequence_parallel):
                raise error("ranks", loss=loss, rank=other, what=what, got=line[column], expected=told_by[0][column])
        if line[4:] != told_by[0][4:]:
            raise error("settings", loss=loss, rank=other)
    shares = Shares(group, rank, [line[2] for line in told_by], [line[1] for line in told_by])
    if not (agreed.on_host or sequence_parallel):
        _met[key] = shares
    return shares


def _check_rows(loss: str, input: Tensor, operands: Sequence[Tensor], extras: Sequence[Any]) -> None:
    """Refuse targets, weights and masks that do not fit this rank's rows, before another rank waits for them."""
    rows = tuple(input.shape[:-1])
    for i, x in enumerate([*operands, *extras[:2]]):
        if i == 0 and x.is_floating_point():
            raise error("sequences", loss=loss)
        if x is not None and (tuple(x.shape) != rows if i == 0 else not broadcasts(x.shape, rows)):
            argument = ["sample_weight", "mask"][i - len(operands)] if i >= len(operands) else "target"
            raise error("head", loss=loss, argument=argument, expected=rows, got=tuple(x.shape),
                        first="input", input=tuple(input.shape))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------
# Sequences: each rank has some rows


def _gathered(x: Tensor, shares: Shares) -> Tensor:
    """The rows of all ranks, without a gradient."""
    import torch.distributed as dist

    most = max(shares.rows)
    padded = x.new_zeros((most, *x.shape[1:]))
    padded[: len(x)] = x.detach()
    parts = [torch.empty_like(padded) for _ in shares.rows]
    dist.all_gather(parts, padded, shares.group)
    return torch.cat([part[:rows] for part, rows in zip(parts, shares.rows, strict=True)])


class _Gathered(torch.autograd.Function):
    """The rows of all ranks; each rank has a part of their gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Shares) -> Tensor:
        ctx.shares = shares
        return _gathered(x, shares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        begin = ctx.shares.begin(ctx.shares.rows)
        whole = Ranks([ctx.shares.group]).reduced(upstream, "SUM")
        return whole[begin : begin + ctx.shares.rows[ctx.shares.rank]], None


class _Own(torch.autograd.Function):
    """This rank's rows of what all ranks have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Shares) -> Tensor:
        ctx.shares = shares
        begin = shares.begin(shares.rows)
        return x[begin : begin + shares.rows[shares.rank]].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return _gathered(upstream, ctx.shares), None
