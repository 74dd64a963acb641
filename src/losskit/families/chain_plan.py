"""A call of the chain family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `chain.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.families.lattice_plan import NEVER, LatticePlan, reachable, wide_of
from losskit.kernels import eager, fused, wire
from losskit.kernels.wire import ChainViolation as Violation
from losskit.plan import Arguments, Dims, Found
from losskit.reduction import both, counting, reduce_eagerly
from losskit.validation import check_extras, check_floating, check_tensor, unravel

_OPTIONAL = ("start", "end", "lengths")


class ChainPlan(LatticePlan):
    """A loss of chains of tags with its parameters fixed."""

    op = "crf"
    telling = 1

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        self.there = {name: bool(parameters[name]) for name in _OPTIONAL}
        names = [name for name in loss._call_operands() if self.there.get(name, True)]
        family = wire.CRF.family.pack(**self.there)
        super().__init__(loss, reduction, fused.pack(reduction, family=family), names, wire.CRF.given())
        floating = [name not in ("target", "lengths") for name in names]
        self.gradients = sum(1 << i for i, own in enumerate(floating) if own)

    # -- validation ---------------------------------------------------------------------------------------

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        emissions, target, transitions, *more = operands
        check_tensor(self.name, "emissions", emissions, "emissions", emissions)
        check_floating(self.name, "emissions", emissions)
        if emissions.ndim not in (2, 3) or emissions.shape[-1] == 0 or emissions.shape[-2] == 0:
            raise self._wrong(
                "emissions", "of shape (N, T, K) or (T, K) with at least one step and one tag",
                f"shape {tuple(emissions.shape)}",
            )  # fmt: skip
        batch, tags = emissions.shape[:-2], emissions.shape[-1]
        check_tensor(self.name, "target", target, "emissions", emissions)
        if target.dtype not in dtypes.INTEGERS:
            raise self._wrong("target", "integer tags", target.dtype)
        self._shaped("target", target, [emissions.shape[:-1]])
        given: dict[str, Any] = dict(zip(self.names[2:], (transitions, *more), strict=True))
        lengths = [self._lengths("lengths", given.pop("lengths"), batch)] if self.there["lengths"] else []
        for name, x in given.items():
            check_tensor(self.name, name, x, "emissions", emissions)
            check_floating(self.name, name, x)
            own = (tags, tags) if name == "transitions" else (tags,)
            self._shaped(name, x, [torch.Size(own), *([torch.Size((*batch, *own))] if batch else [])])
            # A loss for each sample has a gradient for each: what samples share is added up by autograd.
            if (
                self.reduction == "none"
                and batch
                and x.ndim == len(own)
                and torch.is_grad_enabled()
                and x.requires_grad
            ):
                given[name] = x.expand(*batch, *own)
        normalizer = check_extras(self, emissions, batch, None, (), sample_weight, mask, normalizer)
        return Arguments([emissions, target, *given.values(), *lengths], None, sample_weight, mask, normalizer)

    def _shaped(self, name: str, x: Tensor, allowed: list[torch.Size]) -> None:
        if not any(x.ndim == len(shape) and x.shape == shape for shape in allowed):
            expected = " or ".join(str(tuple(shape)) for shape in allowed)
            raise self._wrong(name, f"of shape {expected}", f"shape {tuple(x.shape)}")

    # -- the loss in torch operations ---------------------------------------------------------------------

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        operands, _, sample_weight, mask, normalizer, _ = arguments
        emissions, target = operands[:2]
        given = dict(zip(self.names, operands, strict=True))
        batch, steps = emissions.shape[:-2], emissions.shape[-2]
        x = emissions.to(wide_of(emissions))
        x = x if batch else x.unsqueeze(0)
        samples, _, tags = x.shape
        lengths = self._lengths_of(given, emissions)
        mask = both(mask, (lengths != 0).reshape(batch))
        counts = mask.reshape(-1).expand(samples)
        fits, wrong = self._wrong_tags(target, lengths, counts, steps, tags)
        sought = (~fits & counts) | wrong.any(1)
        bad = sought if checks == "off" else self._checked(sought, operands, mask, checks)
        mask, normalizer = counting(
            self.reduction, batch, x, sample_weight=sample_weight, mask=mask, normalizer=normalizer
        )
        counts = counts if mask is None else mask.reshape(-1).expand(samples)
        everything = torch.where(counts.reshape(-1, 1, 1), x, 0.0)
        lengths = torch.where(counts & fits, lengths, 0)
        used = torch.arange(steps, device=x.device) < lengths.unsqueeze(1)
        x = torch.where(used.unsqueeze(2), x, 0.0)
        labels = torch.where(used & ~wrong, target.reshape(samples, steps).to(torch.int64), 0).clamp(0, tags - 1)
        parts = [self._of_samples(given, name, x, counts) for name in ("transitions", "start", "end")]
        rest = torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)
        parts[0] = torch.where((lengths > 1).reshape(-1, 1, 1), parts[0], 0.0)  # of one step there is none
        loss = self._chains(x, labels, lengths, used, *parts)
        nan = torch.stack([part.isnan().flatten(1).any(1) | (part == float("inf")).flatten(1).any(1)
                           for part in (x, *parts)]).any(0)  # fmt: skip
        mass = x.flatten(1).sum(1) + torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)
        loss = torch.where(nan, eager.nan_where(mass, nan), loss)
        if bad is not None:
            loss = torch.where(bad, eager.nan_where(everything.flatten(1).sum(1) + rest, bad), loss)
        result = reduce_eagerly(
            loss if batch else loss.squeeze(0), self.reduction, weight=None, weight_in_mean=False,
            sample_weight=sample_weight, mask=mask, normalizer=normalizer,
        )  # fmt: skip
        return result.to(dtypes.autocast(emissions.dtype, result.device))

    def _of_samples(self, given: dict[str, Tensor], name: str, x: Tensor, counts: Tensor) -> Tensor:
        """Scores of transitions, or of a side, with a dimension of samples; 0 where they are left out."""
        own = 2 if name == "transitions" else 1
        if name not in given:
            return x.new_zeros(len(x), *[x.shape[2]] * own)
        part = given[name].to(x.dtype)
        part = part if part.ndim > own else part.unsqueeze(0)
        return torch.where(counts.reshape(-1, *[1] * own), part, 0.0)

    def _chains(
        self, x: Tensor, labels: Tensor, lengths: Tensor, used: Tensor, moves: Tensor, start: Tensor, end: Tensor
    ) -> Tensor:
        """The logarithm of the sum over all chains of tags, less the score of the right one."""
        x, moves, start, end = (reachable(part) for part in (x, moves, start, end))
        _, steps, tags = x.shape
        alpha = start + x[:, 0]
        for t in range(1, steps):
            new = (alpha.unsqueeze(2) + moves).logsumexp(1) + x[:, t]
            alpha = torch.where(used[:, t].unsqueeze(1), new, alpha)
        every = (alpha + end).logsumexp(1)
        chosen = torch.where(used, x.gather(2, labels.unsqueeze(2)).squeeze(2), 0.0).sum(1)
        pairs = moves.flatten(1).gather(1, labels[:, :-1] * tags + labels[:, 1:])
        chosen = chosen + torch.where(used[:, 1:], pairs, 0.0).sum(1) + start.gather(1, labels[:, :1]).squeeze(1)
        last = labels.gather(1, (lengths - 1).clamp(min=0).unsqueeze(1))
        chosen = chosen + end.gather(1, last).squeeze(1)
        return torch.where(chosen > 0.5 * NEVER, every - chosen, float("inf"))

    def _lengths_of(self, given: dict[str, Tensor], emissions: Tensor) -> Tensor:
        samples = emissions.shape[0] if emissions.ndim == 3 else 1
        if "lengths" in given:
            return given["lengths"].to(emissions.device).reshape(-1).to(torch.int64)
        return torch.full((samples,), emissions.shape[-2], device=emissions.device)

    def _wrong_tags(
        self, target: Tensor, lengths: Tensor, counts: Tensor, steps: int, tags: int
    ) -> tuple[Tensor, Tensor]:
        """Which lengths fit, and which tags that count are none."""
        fits = (lengths >= 0) & (lengths <= steps)
        used = torch.arange(steps, device=target.device) < torch.where(fits, lengths, 0).unsqueeze(1)
        labels = target.reshape(-1, steps)
        return fits, used & ((labels < 0) | (labels >= tags)) & counts.unsqueeze(1)

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        emissions = arguments.operands[0]
        given = dict(zip(self.names, arguments.operands, strict=True))
        lengths = self._lengths_of(given, emissions).cpu()
        used = torch.arange(emissions.shape[-2]) < lengths.unsqueeze(1)
        mask = arguments.mask
        if mask is not None:
            used = used & mask.cpu().reshape(-1, 1)
        found: list[Tensor | None] = [(used if emissions.ndim == 3 else used.squeeze(0)).unsqueeze(-1)]
        for x in arguments.operands[1:]:
            each = mask is not None and mask.ndim == 1 and x.is_floating_point() and x.shape[0] == len(used)
            found.append(mask.reshape(-1, *[1] * (x.ndim - 1)) if mask is not None and each else None)
        return found

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        return operands[0].shape[:-2]

    def spread(self, upstream: Tensor, ndim: int) -> Tensor:
        return upstream.reshape(*upstream.shape, *[1] * (ndim - upstream.ndim))

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        if arguments.operands[0].ndim == 2:
            return [(None,) * x.ndim if isinstance(x, Tensor) else () for x in tensors]
        found: list[Dims] = []
        for name, x in zip(self.names, tensors, strict=False):
            own = {"transitions": 2, "start": 1, "end": 1}.get(name, 0)
            dims = x.ndim if isinstance(x, Tensor) else 0
            each = dims > own
            found.append(((0,) if each else ()) + (None,) * (dims - each))
        return [*found, ()]

    # -- refusals -----------------------------------------------------------------------------------------

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        emissions, target = operands[:2]
        given = dict(zip(self.names, operands, strict=True))
        samples = emissions.shape[0] if emissions.ndim == 3 else 1
        steps, tags = emissions.shape[-2:]
        counts = torch.ones(samples, dtype=torch.bool) if mask is None else mask.reshape(-1).expand(samples)
        lengths = self._lengths_of(given, emissions)
        if target.numel() != samples * steps or lengths.numel() != samples:
            raise self._wrong("target", f"tags in [0, {tags}), of lengths that fit", "others in a vmap over them")
        fits, wrong = self._wrong_tags(target, lengths, counts, steps, tags)
        outside = ~fits & counts
        if bool(outside.any()):
            sample = int(outside.nonzero()[0])
            return Violation.LENGTH, sample, int(lengths[sample])
        sample, position = (int(i) for i in wrong.nonzero()[0])
        place = sample * steps + position
        return Violation.TAG, place, int(target.reshape(-1)[place])

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        """As in the base class; the place of a length is its sample."""
        if operand == Violation.TAG:
            return self._outside("target", f"tags in [0, {shape[-1]})", int(value), unravel(place, shape[:-1]))
        index = (place,) if len(shape) == 3 else ()
        return self._outside("lengths", f"in [0, {shape[-2]}], the number of steps", int(value), index)
