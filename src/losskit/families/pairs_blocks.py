"""The loss of all pairs in blocks of rows by torch's operations, with its gradients, in one pass: on a GPU.

1. A block is some rows against all columns: a matrix product makes its similarities, the formula gives the gradient by
   them, two more products make of it what rows and columns get. Similarities are never stored together. On a CPU the
   op `losskit::pairs` does the same; see csrc/pairs.cpp.
2. What is masked leaves before, so that no number of it is read. Labels become an order of the columns, in which those
   of one label follow each other: the positives of a row are a piece of it.
3. The gradient is made in forward, as everywhere: the denominator of a mean is known from the labels. With 'none', and
   for a second backward, the pass runs again with the upstream gradient.
4. Distances are computed in float64, and come from differences where embeddings are so near each other that products
   have no digits left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.families import pairs_sides
from losskit.families.pairs_measures import Similarities, by_distances, distances, inverse
from losskit.families.pairs_sides import Side
from losskit.kernels.choice import PLAIN
from losskit.kernels.torch_internals import batched, observed
from losskit.plan import Arguments
from losskit.policy import state

_BLOCK = 1 << 28  # bytes


def rows_of_block(rows: int, columns: int, size: int) -> int:
    """The rows of a block; size: of a number in bytes."""
    return max(1, min(rows, _BLOCK // max(1, columns * size)))


def takes(arguments: Arguments) -> bool:
    """Whether blocks serve a call on a device without a kernel: nothing transforms it, and weights want no gradient."""
    tensors = [x for x in (*arguments.operands, *arguments[1:5]) if isinstance(x, Tensor)]
    if torch.compiler.is_compiling() or any(type(x) not in PLAIN for x in tensors) or observed():
        return False
    extras = [x for x in arguments[1:5] if isinstance(x, Tensor)]
    first = arguments.operands[0]
    return not (first.is_cpu or first.is_meta or (torch.is_grad_enabled() and any(x.requires_grad for x in extras)))


def loss(plan: Any, arguments: Arguments, result: torch.dtype | None) -> Tensor:
    """The loss of a call, in the dtype `result` if that is given."""
    operands = arguments.operands
    told = result or arguments.result or dtypes.result_dtype(operands[: len(plan.there)])
    told = dtypes.autocast(told, operands[0].device)
    found: Tensor = _Blocks.apply((plan, tuple(arguments[2:5]), told), *operands)
    return found


def told(plan: Any, arguments: Arguments) -> str:
    """How large the blocks are, in words."""
    given = plan.compared(arguments)
    rows, columns = len(given.rows), len(given.column_labels)
    if given.rows.is_cpu:
        return f"similarities of {rows} rows to {columns} columns, some rows at a time"
    size = rows_of_block(rows, columns, given.rows.element_size())
    return f"similarities of {size} of {rows} rows to {columns} columns at a time"


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: tuple[Any, tuple[Any, ...], torch.dtype], *operands: Tensor) -> Tensor:
        plan, extras, told = call
        ctx.save_for_backward(*operands, *(x for x in extras if isinstance(x, Tensor)))
        ctx.call, wanted = call, ctx.needs_input_grad[1:]
        work = Work(plan, Arguments(list(operands), None, *extras))
        late = plan.reduction == "none"
        ctx.gradients = []
        if not late and any(wanted):
            found, gradients = work.reduced(True)
            ctx.gradients.extend(gradients or ())
        else:
            found = work.each() if late else work.reduced(False)[0]
        return found.to(told)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        plan, extras, _ = ctx.call
        operands, wanted = list(ctx.saved_tensors[: len(ctx.needs_input_grad) - 1]), ctx.needs_input_grad[1:]
        gradients = list(ctx.gradients)
        ctx.gradients.clear()  # handed over once; `kernels/fused.py` says why the list is emptied
        if torch.is_grad_enabled() or batched(upstream):
            return None, *_differentiable(plan, Arguments(operands, None, *extras), upstream, wanted)
        if not gradients:
            gradients = Work(plan, Arguments(operands, None, *extras)).again(upstream)
        elif not upstream.is_cpu or upstream.item() != 1.0:
            gradients = [x * upstream for x in gradients]
        pairs = zip(gradients, operands, wanted, strict=True)
        return None, *(x.to(like.dtype).reshape(like.shape) if want else None for x, like, want in pairs)


def _differentiable(plan: Any, arguments: Arguments, upstream: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
    """Gradients as functions of the operands and the upstream gradient, by the whole matrix."""
    inputs = [x for x, want in zip(arguments.operands, wanted, strict=True) if want]
    with torch.enable_grad():
        loss = plan.whole(arguments)
        found = torch.autograd.grad(
            loss, inputs, upstream.to(loss.dtype), create_graph=True, allow_unused=True, materialize_grads=True
        )
    one = iter(found)
    return [next(one) if want else None for want in wanted]


class Work:
    """A call without gradients of autograd: what is compared, and the gradients that it fills."""

    def __init__(self, plan: Any, arguments: Arguments) -> None:
        self.plan, self.arguments = plan, arguments._replace(operands=[x.detach() for x in arguments.operands])
        operands = self.arguments.operands
        given = self.given = plan.compared(self.arguments)
        wide = given.rows.dtype
        self.double = torch.float32 if given.rows.device.type == "mps" else torch.float64
        compute = self.double if plan.measure == "distance" else wide
        rows, others, more, row_labels, column_labels, mask = given
        self.index = None if mask is None or bool(mask.all()) else mask.nonzero().squeeze(1)
        if self.index is not None:
            spare = torch.arange(len(mask), len(column_labels), device=rows.device)
            places = torch.cat([self.index, spare])
            rows, row_labels, column_labels = rows[self.index], row_labels[self.index], column_labels[places]
            others = None if others is None else others[places]
        parts = [x for x in (rows, others, more) if x is not None]
        self.lengths: list[Tensor | None] = [None] * len(parts)
        self.parts = parts = [x.to(compute).contiguous() for x in parts]
        if plan.measure == "cosine":
            units = [self._unit(x) for x in parts]
            self.parts = parts = [x for x, _ in units]
            self.lengths = [length for _, length in units]
        columns = parts[1] if others is not None else torch.cat(parts) if more is not None else parts[0]
        diagonal = plan.pairing == "diagonal"
        self.side = (
            pairs_sides.diagonal(parts[0], columns) if diagonal
            else pairs_sides.by_labels(parts[0], columns, row_labels, column_labels, given.own)
        )  # fmt: skip
        scale, bias = plan.scale_and_bias(operands, self.double)
        self.scale, self.bias = scale, bias
        self.counts = None if diagonal and plan.needs != "both" else self._counting()
        self.weight = self._per_row(self.arguments.sample_weight)

    def _unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of length 1, and by what they were multiplied; a row of zeros stays."""
        wide = x.to(self.double)
        if x.dtype == self.double and x.numel():  # squares of doubles may overflow
            most = wide.abs().amax(1, keepdim=True)
            most = torch.where((most > 0) & (most < float("inf")), most, 1.0)
            wide = wide / most
        else:
            most = wide.new_ones(())
        length = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        inverse_length = torch.where(length == 0, 0.0, 1.0 / torch.where(length == 0, 1.0, length))
        return (wide * inverse_length).to(x.dtype), inverse_length / most

    def _counting(self) -> Tensor | None:
        """Which rows have the pairs that they need; None: all."""
        if self.plan.needs == "nothing":
            return None
        positives = self.side.last - self.side.first
        counts = positives > int(self.side.own)
        return counts & (positives < len(self.side.columns)) if self.plan.needs == "both" else counts

    def _per_row(self, x: Tensor | None) -> Tensor | None:
        """A weight of each row that is left, in float64."""
        if x is None:
            return None
        shape = tuple(self.plan.unreduced_shape(self.arguments.operands))
        x = x.expand(shape).reshape(-1).to(self.double)
        return x if self.index is None else x[self.index]

    # -- what is asked for ----------------------------------------------------------------------------------

    def reduced(self, wanted: bool) -> tuple[Tensor, list[Tensor] | None]:
        """The loss and, if they are wanted, the gradients by the operands."""
        share, nothing = self._share()
        values, gradients = self._run(share if wanted else None)
        total = self._counted(values * share).sum()
        if nothing is not None:
            total = torch.where(nothing, 0.0 if state.empty == "zero" else float("nan"), total)
        return total, gradients

    def _share(self) -> tuple[Tensor, Tensor | None]:
        """What the losses of rows are multiplied by, and whether a mean divides by 0."""
        rows, normalizer = self.side.rows, self.arguments.normalizer
        mean = self.plan.reduction == "mean"
        if self.counts is None and self.weight is None and normalizer is None and len(rows):
            return rows.new_full((len(rows),), 1.0 / len(rows) if mean else 1.0, dtype=self.double), None
        share = rows.new_ones(len(rows), dtype=self.double) if self.weight is None else self.weight
        share = self._counted(share)
        if not mean:
            return share, None
        denominator = share.sum() if normalizer is None else torch.as_tensor(
            normalizer, dtype=self.double, device=share.device
        ).reshape(())  # fmt: skip
        nothing = denominator == 0
        return torch.where(nothing, 0.0, share / torch.where(nothing, 1.0, denominator)), nothing

    def _counted(self, x: Tensor) -> Tensor:
        """Numbers of rows, 0 where a row does not count."""
        return x.contiguous() if self.counts is None else torch.where(self.counts, x, 0.0)

    def each(self) -> Tensor:
        """The losses of all rows."""
        values, _ = self._run(None)
        if self.weight is not None:
            values = values * self.weight
        return self._whole(self._counted(values)).reshape(tuple(self.plan.unreduced_shape(self.arguments.operands)))

    def again(self, upstream: Tensor) -> list[Tensor]:
        """The gradients, for this upstream gradient."""
        if self.plan.reduction != "none":
            gradients = self.reduced(True)[1]
            assert gradients is not None
            return [x * upstream for x in gradients]
        share = upstream.reshape(-1).to(self.double)
        share = share if self.index is None else share[self.index]
        share = share if self.weight is None else share * self.weight
        gradients = self._run(self._counted(share))[1]
        assert gradients is not None
        return gradients

    def _whole(self, x: Tensor) -> Tensor:
        """Rows that are left among those that are masked, which are 0."""
        if self.index is None:
            return x
        found = x.new_zeros((len(self.given.rows), *x.shape[1:]))
        return found.index_copy_(0, self.index, x)

    # -- blocks ---------------------------------------------------------------------------------------------

    def _run(self, share: Tensor | None) -> tuple[Tensor, list[Tensor] | None]:
        """The losses of the rows that are left and, with a share for each of them, the gradients."""
        side, symmetric = self.side, self.plan.symmetric
        if symmetric and share is not None:
            share = 0.5 * share
        sums = Sums(self, share is not None)
        if not symmetric:
            return self._losses(side, share, sums, sums.by_rows, sums.by_columns), self._of_operands(sums)
        if self.plan.pairing == "diagonal":
            turned = pairs_sides.diagonal(side.columns, side.rows)
        else:
            turned = pairs_sides.by_labels(side.columns, side.rows, side.column_labels, side.row_labels, False)
        values = self._losses(side, share, sums, sums.by_rows, sums.by_columns)
        values = values + self._losses(turned, share, sums, sums.by_columns, sums.by_rows)
        return 0.5 * values, self._of_operands(sums)

    def _losses(
        self, side: Side, share: Tensor | None, sums: Sums, by_rows: Tensor | None, by_columns: Tensor | None
    ) -> Tensor:
        """The losses of rows; what is given for gradients has them added."""
        rows, columns = side.rows, side.columns
        values = rows.new_zeros(len(rows), dtype=self.double)
        size = rows_of_block(len(rows), len(columns), rows.element_size())
        for begin in range(0, len(rows), size):
            end = min(begin + size, len(rows))
            self._block(side, begin, end, values, share, sums, by_rows, by_columns)
        return values

    def _block(
        self, side: Side, begin: int, end: int, values: Tensor, share: Tensor | None, sums: Sums,
        by_rows: Tensor | None, by_columns: Tensor | None,
    ) -> None:  # fmt: skip
        """A block by the formula: its losses, and what it adds to the gradients."""
        plan, own, columns = self.plan, side.rows[begin:end], side.columns
        far = distances(own, columns) if plan.measure == "distance" else own @ columns.t()
        with torch.set_grad_enabled(share is not None):
            s = (far * self.scale + self.bias).requires_grad_(share is not None)
            found, _ = plan.losses(
                Similarities(s, side.row_labels[begin:end], side.column_labels, begin if side.own else None, None)
            )
            values[begin:end] = found.detach()
            if share is None:
                return
            gradient = torch.autograd.grad((found * share[begin:end]).sum(), s)[0]
        if by_rows is None or by_columns is None:
            return
        if sums.of_bias is not None:
            sums.of_bias += gradient.sum(dtype=self.double)
        if sums.of_scale is not None:
            sums.of_scale += (gradient * far).sum(dtype=self.double)
        if plan.measure == "distance":
            parts = by_distances(own, columns, gradient * inverse(far))
        else:
            parts = gradient @ columns, gradient.t() @ own
        by_rows[begin:end] += parts[0]
        by_columns += parts[1]

    # -- gradients ------------------------------------------------------------------------------------------

    def _of_operands(self, sums: Sums) -> list[Tensor] | None:
        """The gradients by the operands of the call, if there are any."""
        if sums.by_rows is None or sums.by_columns is None:
            return None
        by_rows, by_columns = sums.by_rows, sums.by_columns
        parts = [by_rows]
        if self.given.others is not None:
            parts.append(by_columns)
        else:
            by_rows += by_columns[: len(by_rows)]
            if self.given.more is not None:
                parts.append(by_columns[len(by_rows) :])
        by_parts = []
        for gradient, x, factor in zip(parts, self.parts, self.lengths, strict=True):
            if factor is None:
                gradient *= self.scale
            else:
                along = (gradient * x).sum(1, keepdim=True, dtype=self.double)
                gradient = ((gradient - x * along) * (factor * self.scale)).to(x.dtype)
            by_parts.append(gradient)
        return [self._of_operand(name, by_parts, sums) for name in self.plan.names]

    def _of_operand(self, name: str, by_parts: list[Tensor], sums: Sums) -> Tensor:
        """Gradients by embeddings are in the order of the parts; those by parameters are sums."""
        plan, operands = self.plan, self.arguments.operands
        place = plan.names.index(name)
        if name == "temperature":
            return -sums.of_scale * self.scale * self.scale
        if name in plan.opened:
            return sums.of_bias if name == "logit_bias" else sums.of_scale
        if not operands[place].is_floating_point():
            return operands[place]
        if name in ("memory", "negatives"):
            return by_parts[-1]
        if plan.pairing == "diagonal" and place == 1:
            more = len(self.given.others) - len(self.given.rows)
            if self.index is None:
                return by_parts[1]
            left = len(self.index)
            return torch.cat([self._whole(by_parts[1][:left]), by_parts[1][left : left + more]])
        whole = self._whole(by_parts[0])
        return whole.chunk(2)[place] if plan.pairing == "views" else whole


class Sums:
    """What is added up over the blocks: gradients by rows, columns, scale and bias."""

    def __init__(self, work: Work, wanted: bool) -> None:
        side, opened = work.side, work.plan.opened
        zero = side.rows.new_zeros((), dtype=work.double)
        self.by_rows = torch.zeros_like(side.rows) if wanted else None
        self.by_columns = torch.zeros_like(side.columns) if wanted else None
        self.of_scale: Any = zero if wanted and ("temperature" in opened or "logit_scale" in opened) else None
        self.of_bias: Any = zero.clone() if wanted and "logit_bias" in opened else None
