"""A call of the sequence family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `sequence.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.domains import log_probability, shortest
from losskit.errors import error
from losskit.families.lattice_plan import NEVER, LatticePlan, log_sum, reachable, wide_of
from losskit.kernels import eager, fused, search, wire
from losskit.kernels.torch_internals import hidden
from losskit.kernels.wire import SequenceViolation as Violation
from losskit.plan import Arguments, Dims, Found
from losskit.reduction import both, counting, reduce_eagerly
from losskit.validation import check_extras, check_floating, check_tensor, unravel

_LOG_PROBABILITIES = "log-probabilities (at most 0)"
_FROM_SCORES = " Pass log_softmax(scores, dim=-1), or from_scores=True."


class SequencePlan(LatticePlan):
    """A loss of alignments with its parameters fixed."""

    op = "ctc"
    gradients = 1

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        self.blank, self.zero_infinity = parameters["blank"], parameters["zero_infinity"]
        self.scores = parameters["from_scores"]
        self.exact = parameters["exact_gradient"] or self.scores
        family = wire.CTC.family.pack(
            from_scores=self.scores, exact_gradient=self.exact, zero_infinity=self.zero_infinity
        )
        given = wire.CTC.given(blank=self.blank)
        super().__init__(loss, reduction, fused.pack(reduction, family=family), loss._call_operands(), given)
        self.refused_by_torch = frozenset({Violation.LABEL, Violation.INPUT_LENGTH, Violation.TARGET_LENGTH})

    # -- validation ---------------------------------------------------------------------------------------

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        log_probs, targets, input_lengths, target_lengths = operands
        check_tensor(self.name, "log_probs", log_probs, "log_probs", log_probs)
        check_floating(self.name, "log_probs", log_probs)
        if log_probs.ndim not in (2, 3) or log_probs.shape[-1] == 0:
            raise self._wrong(
                "log_probs", "of shape (T, N, C) or (T, C) with at least one class", f"shape {tuple(log_probs.shape)}"
            )
        classes, batch = log_probs.shape[-1], log_probs.shape[1:-1]
        if self.blank >= classes:
            raise self._wrong("blank", f"a class in [0, {classes})", self.blank)
        check_tensor(self.name, "targets", targets, "log_probs", log_probs)
        if targets.dtype not in dtypes.INTEGERS:
            raise self._wrong("targets", "integer labels", targets.dtype)
        allowed = f"of shape ({batch[0]}, S) or, one after another, (L,)" if batch else "of shape (S,)"
        if targets.ndim not in ((1, 2) if batch else (1,)) or (targets.ndim == 2 and targets.shape[0] != batch[0]):
            raise self._wrong(
                "targets", f"{allowed}, for log_probs {tuple(log_probs.shape)}", f"shape {tuple(targets.shape)}"
            )
        lengths = [
            self._lengths(name, x, batch)
            for name, x in (("input_lengths", input_lengths), ("target_lengths", target_lengths))
        ]
        normalizer = check_extras(self, log_probs, batch, None, (), sample_weight, mask, normalizer)
        return Arguments([log_probs, targets, *lengths], None, sample_weight, mask, normalizer)

    # -- the loss in torch operations ---------------------------------------------------------------------

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        (log_probs, targets, *lengths_given), _, sample_weight, mask, normalizer, _ = arguments
        operands = [log_probs, targets, *(x.to(log_probs.device) for x in lengths_given)]
        dtype = log_probs.dtype
        x = log_probs.to(wide_of(log_probs))
        if x.ndim == 2:
            x = x.unsqueeze(1)
        frames, samples, _ = x.shape
        counts = None if mask is None else mask.reshape(-1).expand(samples)
        labels, inputs, lengths, wrong, _ = self._read(operands, counts)
        bad: Tensor | None = wrong
        if checks != "off":
            sought = wrong | self._total(operands) if checks == "raise" else wrong
            sought = sought | self._above(log_probs, inputs, counts).any(2).any(0)
            bad = self._checked(sought, operands, mask, checks)
        mask, normalizer = counting(
            self.reduction, log_probs.shape[1:-1], x, sample_weight=sample_weight, mask=mask, normalizer=normalizer
        )
        counts = None if mask is None else mask.reshape(-1).expand(samples)
        used = torch.arange(frames, device=x.device).unsqueeze(1) < inputs
        used = both(used, counts)
        everything = x if counts is None else torch.where(counts.unsqueeze(1), x, 0.0)
        x = torch.where(used.unsqueeze(2), x, 0.0)
        lp = x.log_softmax(2) if self.scores else x
        loss = -self._alignments(lp, labels, inputs, lengths)
        possible = loss < -0.5 * NEVER
        if not self.exact:
            wanted = (used & (possible | loss.isnan())).unsqueeze(2)
            mass = torch.where(wanted, torch.where(wanted, x, 0.0).exp(), 0.0).sum((0, 2))
            loss = loss + (mass - mass.detach())
        nan = (lp if self.scores else x).isnan().any(2).any(0)
        loss = torch.where(possible, loss, 0.0 if self.zero_infinity else float("inf"))
        loss = torch.where(nan, eager.nan_where(x.sum((0, 2)), nan), loss)
        if bad is not None:
            loss = torch.where(bad, eager.nan_where(everything.sum((0, 2)), bad), loss)
        if self.reduction == "mean":
            loss = loss / lengths.clamp(min=1)
        if log_probs.ndim == 2:
            loss = loss.squeeze(0)
        result = reduce_eagerly(
            loss, self.reduction, weight=None, weight_in_mean=False, sample_weight=sample_weight, mask=mask,
            normalizer=normalizer,
        )  # fmt: skip
        return result.to(dtypes.autocast(dtype, result.device))

    def _alignments(self, lp: Tensor, labels: Tensor, inputs: Tensor, lengths: Tensor) -> Tensor:
        """The logarithm of the sum over all alignments, NEVER or less where there is none."""
        frames, samples, _ = lp.shape
        lp = reachable(lp)
        blank = lp[:, :, self.blank].unsqueeze(2)
        of_labels = lp.gather(2, labels.unsqueeze(0).expand(frames, -1, -1))
        # after[j]: paths that end in the blank after label j (j = 0: before all labels); on[j]: those that end on it.
        never = lp.new_full((samples, 1), NEVER)
        after = torch.cat([torch.zeros_like(never), never.expand(-1, labels.shape[1])], 1)
        on = never.expand(-1, labels.shape[1])
        if labels.shape[1] > 0:
            again = torch.cat([torch.ones_like(labels[:, :1], dtype=torch.bool), labels[:, 1:] == labels[:, :-1]], 1)
        for t in range(frames):
            runs = (t < inputs).unsqueeze(1)
            new_after = log_sum(after, torch.cat([never, on], 1)) + blank[t]
            if labels.shape[1] > 0:
                skipping = torch.where(again, NEVER, torch.cat([never, on[:, :-1]], 1))
                new_on = log_sum(on, after[:, :-1], skipping) + of_labels[t]
                on = torch.where(runs, new_on, on)
            after = torch.where(runs, new_after, after)
        end = lengths.unsqueeze(1)
        return log_sum(after, torch.cat([never, on], 1)).gather(1, end).squeeze(1)

    def _read(self, operands: Sequence[Tensor], counts: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Labels (N, S), lengths of inputs and targets, all made harmless; which samples and labels are bad."""
        log_probs, targets, input_lengths, target_lengths = operands
        frames, classes = log_probs.shape[0], log_probs.shape[-1]
        inputs, lengths = (x.reshape(-1).to(torch.int64) for x in (input_lengths, target_lengths))
        if log_probs.ndim == 2:
            targets = targets.unsqueeze(0)
        size = targets.shape[-1]
        if targets.ndim == 2:
            fits = (lengths >= 0) & (lengths <= size)
        else:
            ends = lengths.clamp(-1, size + 1).cumsum(0)
            fits = ((lengths >= 0) & (lengths <= size) & (ends <= size)).to(torch.int64).cumprod(0) > 0
        good = fits & (inputs >= 0) & (inputs <= frames)
        lengths = torch.where(fits, lengths, 0)
        inputs = torch.where(good, inputs, 0)
        if targets.ndim == 2:
            labels = targets.to(torch.int64)
        else:
            longest = _longest(lengths, size)
            place = (ends - lengths).unsqueeze(1) + torch.arange(longest, device=targets.device)
            known = targets.to(torch.int64)
            labels = known[place.clamp(0, max(size - 1, 0))] if size else known.new_zeros(len(lengths), 0)
        used = torch.arange(labels.shape[1], device=labels.device) < lengths.unsqueeze(1)
        wrong = used & ((labels < 0) | (labels >= classes) | (labels == self.blank))
        bad = ~good | wrong.any(1)
        if counts is not None:
            bad, wrong = bad & counts, wrong & counts.unsqueeze(1)
        return torch.where(used & ~wrong, labels.clamp(0, classes - 1), self.blank), inputs, lengths, bad, wrong

    def _above(self, log_probs: Tensor, inputs: Tensor, counts: Tensor | None) -> Tensor:
        """Where used frames have a value that is no log-probability, (T, N, C)."""
        x = log_probs.detach() if log_probs.ndim == 3 else log_probs.detach().unsqueeze(1)
        if self.scores:
            return torch.zeros_like(x, dtype=torch.bool)
        used = torch.arange(x.shape[0], device=x.device).unsqueeze(1) < inputs
        used = both(used, counts)
        return log_probability.outside(x) & used.unsqueeze(2)

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        log_probs, _, input_lengths, _ = arguments.operands
        batch = log_probs.shape[1:-1]
        frames = torch.arange(log_probs.shape[0]).reshape(-1, *[1 for _ in batch])
        used = frames < input_lengths.cpu().reshape(batch)
        used = used if arguments.mask is None else used & arguments.mask.cpu()
        return [used.unsqueeze(-1), None, None, None]

    def _total(self, operands: Sequence[Tensor]) -> Tensor:
        """Whether lengths of concatenated targets do not add up to their number, under checks that raise."""
        log_probs, targets, _, target_lengths = operands
        if log_probs.ndim == 2 or targets.ndim == 2:
            return torch.zeros((), dtype=torch.bool, device=log_probs.device)
        return target_lengths.to(torch.int64).sum() != targets.shape[0]

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        return operands[0].shape[1:-1]

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        log_probs, targets = arguments.operands[:2]
        if log_probs.ndim == 2 or targets.ndim == 1:  # where a label is depends on the samples before it
            return [(None,) * x.ndim if isinstance(x, Tensor) else () for x in tensors]
        lengths: list[Dims] = [(0,) if isinstance(x, Tensor) and x.ndim else () for x in tensors[2:4]]
        return [(None, 0, None), (0, None), *lengths, ()]

    # -- refusals -----------------------------------------------------------------------------------------

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        log_probs, targets, input_lengths, target_lengths = operands
        frames, classes = log_probs.shape[0], log_probs.shape[-1]
        samples = log_probs.shape[1] if log_probs.ndim == 3 else 1
        counts = torch.ones(samples, dtype=torch.bool) if mask is None else mask.reshape(-1).expand(samples)
        size = targets.shape[-1]
        if targets.ndim > log_probs.ndim - 1 or samples not in (input_lengths.numel(), target_lengths.numel()):
            raise self._wrong("targets", f"labels in [0, {classes}), of lengths that fit", "others in a vmap over them")
        inputs, lengths = (x.reshape(-1).to(torch.int64) for x in (input_lengths, target_lengths))
        for violation, given, most in (
            (Violation.INPUT_LENGTH, inputs, frames), (Violation.TARGET_LENGTH, lengths, size)
        ):  # fmt: skip
            outside = ((given < 0) | (given > most)) & counts
            if bool(outside.any()):
                sample = int(outside.nonzero()[0])
                return violation, sample, int(given[sample])
        if bool(self._total(operands)):
            return Violation.TARGET_LENGTH, samples, int(lengths.sum())
        _, inputs, lengths, _, wrong = self._read(operands, counts)
        if bool(wrong.any()):
            sample, position = (int(i) for i in wrong.nonzero()[0])
            if targets.ndim == 1 and log_probs.ndim == 3:
                at = int(lengths[:sample].sum()) + position
                return Violation.LABEL, search.place((sample, position, at), (samples, size, size)), int(targets[at])
            row = targets.reshape(-1, size)[sample]
            return Violation.LABEL, sample * size + position, int(row[position])
        above = self._above(log_probs, inputs, counts)
        if not bool(above.any()):  # they are not shown
            raise self._wrong("log_probs", _LOG_PROBABILITIES, "scores", _FROM_SCORES)
        index = tuple(int(i) for i in above.nonzero()[0])
        value = (log_probs if log_probs.ndim == 3 else log_probs.unsqueeze(1))[index]
        return Violation.LOG_PROBABILITY, search.place(index, above.shape), float(value)

    def shapes(self, operands: Sequence[Tensor]) -> tuple[int, ...]:
        return (*operands[0].shape, *operands[1].shape)

    def _label(self, label: int, classes: int, index: tuple[int, ...], sample: int | None, position: int) -> Exception:
        """The error of a label, with its sample if labels are concatenated."""
        inside = 0 <= label < classes
        expected = f"labels other than the blank, {self.blank}" if inside else f"labels in [0, {classes})"
        hint = "" if sample is None else f" It is label {position} of sample {sample}."
        return self._outside("targets", expected, label, index, hint)

    def _no_log_probability(self, index: tuple[int, ...], value: float) -> Exception:
        return error("domain", loss=self.name, argument="log_probs", expected=_LOG_PROBABILITIES, got=shortest(value),
                     index=index, hint=_FROM_SCORES)  # fmt: skip

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        """As in the base class; `shape` is that of log_probs, then that of targets: see `shapes`.

        The place of a length is its sample, that of their total the number of samples. The place of a label among
        concatenated targets tells its sample and its position there, too.
        """
        batched = len(shape) > 3
        frames, classes, size = shape[0], shape[2 if batched else 1], shape[-1]
        samples = shape[1] if batched else 1
        if operand == Violation.LOG_PROBABILITY:
            return self._no_log_probability(unravel(place, shape[: 3 if batched else 2]), value)
        got = int(value)
        if operand == Violation.TARGET_LENGTH and place == samples:
            return self._wrong("target_lengths", f"lengths that add up to {size}, the number of targets", got)
        if operand != Violation.LABEL:
            of_targets = "the width of targets" if len(shape) == 5 else "the number of targets"
            most, what = (frames, "the number of frames") if operand == Violation.INPUT_LENGTH else (size, of_targets)
            where = (place,) if batched else ()
            return self._outside(self.names[operand - 1], f"in [0, {most}], {what}", got, where)
        if len(shape) != 4:
            return self._label(got, classes, unravel(place, shape[3:] or shape[2:]), None, place)
        sample, position, place = unravel(place, (samples, size, size))
        return self._label(got, classes, (place,), sample, position)


def _longest(lengths: Tensor, size: int) -> int:
    """How many labels a sample may have; the number of all labels where lengths may not be looked at."""
    if hidden(lengths) or lengths.numel() == 0:
        return size
    return min(size, int(lengths.max()))
