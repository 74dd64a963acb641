"""A call of the transducer family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `transducer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit import dtypes
from losskit.domains import log_probability, shortest
from losskit.families.lattice_plan import (
    NEVER,
    LatticePlan,
    log_sum,
    reachable,
    steered,
    wide_of,
)
from losskit.kernels import eager, fused, search, wire
from losskit.kernels.wire import SequenceViolation as Violation
from losskit.plan import Arguments, Dims, Found
from losskit.reduction import both, counting, reduce_eagerly
from losskit.validation import check_extras, check_floating, check_tensor, unravel

_LOG_PROBABILITIES = "log-probabilities (at most 0)"
_FROM_SCORES = " Pass log_softmax(scores, dim=-1), or fused_log_softmax=True."


class _Read(NamedTuple):
    """Labels (N, U) and lengths (N,), all made harmless; which samples and labels are bad."""

    labels: Tensor
    frames: Tensor
    lengths: Tensor
    bad: Tensor
    wrong: Tensor


class TransducerPlan(LatticePlan):
    """A loss of all ways through a lattice of frames and labels with its parameters fixed."""

    op = "rnnt"
    gradients = 1

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        self.blank, self.scores = parameters["blank"], parameters["fused_log_softmax"]
        self.clamp, self.emission = parameters["clamp"], 1.0 + parameters["fastemit_lambda"]
        family = wire.RNNT.family.pack(from_scores=self.scores)
        given = wire.RNNT.given(blank=self.blank, clamp=self.clamp, fastemit_lambda=parameters["fastemit_lambda"])
        super().__init__(loss, reduction, fused.pack(reduction, family=family), loss._call_operands(), given)

    # -- validation ---------------------------------------------------------------------------------------

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        logits, targets, logit_lengths, target_lengths = operands
        check_tensor(self.name, "logits", logits, "logits", logits)
        check_floating(self.name, "logits", logits)
        if logits.ndim not in (3, 4) or logits.shape[-1] == 0 or logits.shape[-2] == 0:
            raise self._wrong(
                "logits", "of shape (N, T, U + 1, C) or (T, U + 1, C) with at least one class",
                f"shape {tuple(logits.shape)}",
            )  # fmt: skip
        columns, classes = logits.shape[-2:]
        batch = logits.shape[:-3]
        if not -classes <= self.blank < classes:
            raise self._wrong("blank", f"a class in [{-classes}, {classes})", self.blank)
        check_tensor(self.name, "targets", targets, "logits", logits)
        if targets.dtype not in dtypes.INTEGERS:
            raise self._wrong("targets", "integer labels", targets.dtype)
        if targets.ndim != len(batch) + 1 or targets.shape != (*batch, columns - 1):
            raise self._wrong(
                "targets", f"of shape {(*batch, columns - 1)}, for logits {tuple(logits.shape)}",
                f"shape {tuple(targets.shape)}",
            )  # fmt: skip
        lengths = [
            self._lengths(name, x, batch)
            for name, x in (("logit_lengths", logit_lengths), ("target_lengths", target_lengths))
        ]
        normalizer = check_extras(self, logits, batch, None, (), sample_weight, mask, normalizer)
        return Arguments([logits, targets, *lengths], None, sample_weight, mask, normalizer)

    # -- the loss in torch operations ---------------------------------------------------------------------

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        (logits, targets, *lengths_given), _, sample_weight, mask, normalizer, _ = arguments
        operands = [logits, targets, *(x.to(logits.device) for x in lengths_given)]
        batch = logits.shape[:-3]
        x = logits.to(wide_of(logits))
        x = x if batch else x.unsqueeze(0)
        samples, frames, columns, _ = x.shape
        some = operands[2] != 0  # a sample without frames has no loss
        mask = both(mask, some.reshape(batch))
        counts = mask.reshape(-1).expand(samples)
        read = self._read(operands, counts)
        bad: Tensor | None = read.bad
        if checks != "off":
            sought = read.bad | self._above(logits, read, counts).flatten(1).any(1)
            bad = self._checked(sought, operands, mask, checks)
        mask, normalizer = counting(
            self.reduction, batch, x, sample_weight=sample_weight, mask=mask, normalizer=normalizer
        )
        counts = counts if mask is None else mask.reshape(-1).expand(samples)
        inside = self._inside(read, frames, columns, counts)
        everything = torch.where(counts.reshape(-1, 1, 1, 1), x, 0.0)
        x = torch.where(inside.unsqueeze(3), x, 0.0)
        loss = self._ways(x, read, inside)
        nan = x.isnan().flatten(1).any(1)
        if self.scores:  # of nothing, or of an infinite score, there is no log-softmax
            nan = nan | x.amax(3).isinf().flatten(1).any(1)
        loss = torch.where(loss < -0.5 * NEVER, loss, float("inf"))
        loss = torch.where(nan, eager.nan_where(x.flatten(1).sum(1), nan), loss)
        if bad is not None:
            loss = torch.where(bad, eager.nan_where(everything.flatten(1).sum(1), bad), loss)
        result = reduce_eagerly(
            loss if batch else loss.squeeze(0), self.reduction, weight=None, weight_in_mean=False,
            sample_weight=sample_weight, mask=mask, normalizer=normalizer,
        )  # fmt: skip
        return result.to(dtypes.autocast(logits.dtype, result.device))

    def _ways(self, x: Tensor, read: _Read, inside: Tensor) -> Tensor:
        """Minus the logarithm of the sum over all ways, -NEVER or more where there is none."""
        samples, frames, columns, _ = x.shape
        if frames == 0:
            return x.flatten(1).sum(1)
        places = read.labels.reshape(samples, 1, columns - 1, 1).expand(-1, frames, -1, -1)
        lp = reachable(x.log_softmax(3) if self.scores else x)
        no_label = lp.new_full((samples, frames, 1), NEVER)
        label = torch.cat([lp[:, :, :-1].gather(3, places).squeeze(3), no_label], 2)
        # Entry u of diagonal d is the node (d - u, u).
        u = torch.arange(columns, device=x.device)
        t = torch.arange(frames + columns - 1, device=x.device).unsqueeze(1) - u
        there = (t >= 0) & (t < frames)
        t = t.clamp(0, frames - 1)
        blanks, labels = (torch.where(there, _rows(y, t * columns + u), NEVER) for y in (lp[..., self.blank], label))
        never = lp.new_full((samples, 1), NEVER)
        alpha = torch.cat([torch.zeros_like(never), never.expand(-1, columns - 1)], 1)
        alphas = [alpha]
        for d in range(1, len(t)):
            alpha = log_sum(alpha + blanks[:, d - 1], torch.cat([never, (alpha + labels[:, d - 1])[:, :-1]], 1))
            alphas.append(alpha)
        end = (read.frames - 1).clamp(min=0), read.lengths  # the node whose blank ends
        ended = torch.stack(alphas, 1) + blanks
        total = ended.gather(1, (end[0] + end[1]).reshape(-1, 1, 1).expand(-1, 1, columns)).squeeze(1)
        total = total.gather(1, end[1].unsqueeze(1)).squeeze(1)
        if self.clamp <= 0 and self.emission == 1.0:
            return -total
        last = (t == end[0].reshape(-1, 1, 1)) & (u == end[1].reshape(-1, 1, 1)) & there
        used = _rows(inside, t * columns + u) & there
        beta = never.expand(-1, columns)
        of_blanks, of_labels = [], []
        for d in reversed(range(len(t))):
            on_blank = blanks[:, d] + torch.where(last[:, d], 0.0, beta)
            on_label = labels[:, d] + torch.cat([beta[:, 1:], never], 1)
            of_blanks.append((alphas[d] + on_blank - total.unsqueeze(1)).exp())
            of_labels.append((alphas[d] + on_label - total.unsqueeze(1)).exp())
            beta = torch.where(used[:, d], log_sum(on_blank, torch.where(last[:, d], NEVER, on_label)), NEVER)
        places = (torch.arange(frames, device=x.device).unsqueeze(1) + u) * columns + u
        blank, label = (
            torch.where(inside, _rows(torch.stack(y[::-1], 1), places), 0.0).unsqueeze(3)
            for y in (of_blanks, of_labels)
        )
        label = self.emission * label
        one_hot = torch.arange(x.shape[3], device=x.device)
        of_blank = one_hot == self.blank % x.shape[3]
        all_labels = torch.cat([read.labels, read.labels.new_full((samples, 1), -1)], 1)
        of_label = one_hot == all_labels.reshape(samples, 1, columns, 1)
        slope = -(torch.where(of_blank, blank, 0.0) + torch.where(of_label, label, 0.0))
        if self.scores:
            slope = slope + x.softmax(3) * (blank + label)
        slope = torch.where((total > 0.5 * NEVER).reshape(-1, 1, 1, 1), slope, 0.0)
        if self.clamp > 0:
            slope = slope.clamp(-self.clamp, self.clamp)
        return steered(-total, x, slope)

    def _read(self, operands: Sequence[Tensor], counts: Tensor) -> _Read:
        logits, targets, logit_lengths, target_lengths = operands
        frames, columns, classes = logits.shape[-3:]
        inputs, lengths = (x.reshape(-1).to(torch.int64) for x in (logit_lengths, target_lengths))
        labels = targets.reshape(len(inputs), columns - 1).to(torch.int64)
        fits = (lengths >= 0) & (lengths < columns)
        good = fits & (inputs >= 0) & (inputs <= frames)
        lengths = torch.where(fits, lengths, 0)
        used = torch.arange(columns - 1, device=labels.device) < lengths.unsqueeze(1)
        wrong = used & ((labels < 0) | (labels >= classes) | (labels == self.blank % classes))
        wrong = wrong & counts.unsqueeze(1)
        bad = (~good & counts) | wrong.any(1)
        return _Read(torch.where(used & ~wrong, labels.clamp(0, classes - 1), 0), torch.where(good, inputs, 0),
                     lengths, bad, wrong)  # fmt: skip

    def _inside(self, read: _Read, frames: int, columns: int, counts: Tensor) -> Tensor:
        """The nodes of samples that count, (N, T, U + 1)."""
        t = torch.arange(frames, device=counts.device).unsqueeze(1)
        u = torch.arange(columns, device=counts.device)
        ends = (x.reshape(-1, 1, 1) for x in (read.frames, read.lengths, counts))
        of_frames, of_labels, counted = ends
        return (t < of_frames) & (u <= of_labels) & counted

    def _above(self, logits: Tensor, read: _Read, counts: Tensor) -> Tensor:
        """Where used nodes have a value that is no log-probability, (N, T, U + 1, C)."""
        x = logits.detach() if logits.ndim == 4 else logits.detach().unsqueeze(0)
        if self.scores:
            return torch.zeros_like(x, dtype=torch.bool)
        return log_probability.outside(x) & self._inside(read, x.shape[1], x.shape[2], counts).unsqueeze(3)

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        logits, targets, *lengths = arguments.operands
        batch = logits.shape[:-3]
        samples = batch[0] if batch else 1
        mask = torch.ones((), dtype=torch.bool) if arguments.mask is None else arguments.mask.cpu()
        counts = mask.reshape(-1).expand(samples)
        operands = [logits.detach(), *(x.cpu() for x in (targets, *lengths))]
        read = self._read(operands, counts)
        used = self._inside(read, logits.shape[-3], logits.shape[-2], counts)
        return [(used if batch else used.squeeze(0)).unsqueeze(-1), None, None, None]

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        return operands[0].shape[:-3]

    def spread(self, upstream: Tensor, ndim: int) -> Tensor:
        return upstream.reshape(*upstream.shape, 1, 1, 1)

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        if arguments.operands[0].ndim == 3:
            return [(None,) * x.ndim if isinstance(x, Tensor) else () for x in tensors]
        lengths: list[Dims] = [(0,) if isinstance(x, Tensor) and x.ndim else () for x in tensors[2:4]]
        return [(0, None, None, None), (0, None), *lengths, ()]

    # -- refusals -----------------------------------------------------------------------------------------

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        logits, targets, logit_lengths, target_lengths = operands
        frames, columns, classes = logits.shape[-3:]
        samples = logits.shape[0] if logits.ndim == 4 else 1
        counts = torch.ones(samples, dtype=torch.bool) if mask is None else mask.reshape(-1).expand(samples)
        if targets.numel() != samples * (columns - 1) or samples not in (logit_lengths.numel(), target_lengths.numel()):
            raise self._wrong("targets", f"labels in [0, {classes}), of lengths that fit", "others in a vmap over them")
        inputs, lengths = (x.reshape(-1).to(torch.int64) for x in (logit_lengths, target_lengths))
        for violation, given, most in (
            (Violation.INPUT_LENGTH, inputs, frames), (Violation.TARGET_LENGTH, lengths, columns - 1)
        ):  # fmt: skip
            outside = ((given < 0) | (given > most)) & counts
            if bool(outside.any()):
                sample = int(outside.nonzero()[0])
                return violation, sample, int(given[sample])
        read = self._read(operands, counts)
        if bool(read.wrong.any()):
            sample, position = (int(i) for i in read.wrong.nonzero()[0])
            place = sample * (columns - 1) + position
            return Violation.LABEL, place, int(targets.reshape(-1)[place])
        above = self._above(logits, read, counts)
        if not bool(above.any()):  # they are not shown
            raise self._wrong("logits", _LOG_PROBABILITIES, "scores", _FROM_SCORES)
        index = tuple(int(i) for i in above.nonzero()[0])
        value = (logits if logits.ndim == 4 else logits.unsqueeze(0))[index]
        return Violation.LOG_PROBABILITY, search.place(index, above.shape), float(value)

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        """As in the base class; the place of a length is its sample."""
        frames, columns, classes = shape[-3:]
        batched = len(shape) == 4
        if operand == Violation.LOG_PROBABILITY:
            index = unravel(place, shape)
            return self._outside("logits", _LOG_PROBABILITIES, shortest(value), index, _FROM_SCORES)
        got = int(value)
        if operand == Violation.LABEL:
            index = unravel(place, (shape[0], columns - 1) if batched else (columns - 1,))
            inside = 0 <= got < classes
            blank = self.blank % classes
            expected = f"labels other than the blank, {blank}" if inside else f"labels in [0, {classes})"
            return self._outside("targets", expected, got, index)
        of_frames = operand == Violation.INPUT_LENGTH
        most, what = (frames, "the number of frames") if of_frames else (columns - 1, "the width of targets")
        return self._outside(self.names[operand - 1], f"in [0, {most}], {what}", got, (place,) if batched else ())


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Of each sample the entries at places of its flattened numbers; vmap knows no derivative of x[:, t, u]."""
    return x.flatten(1).index_select(1, places.flatten()).reshape(-1, *places.shape)
