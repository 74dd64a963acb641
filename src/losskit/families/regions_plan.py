"""A call of the regions family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `regions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.domains import probability, shortest, slack_of
from losskit.errors import error
from losskit.families.regions_statistics import activated, sums_of
from losskit.kernels import eager, fused, search, wire
from losskit.kernels.wire import RegionsViolation as Violation
from losskit.plan import Arguments, Dims, Found, Kernel, Plan
from losskit.reduction import both, counting, reduce_eagerly
from losskit.spaces import like_sigmoids, like_softmax
from losskit.traced import Formula
from losskit.validation import (
    check_extras,
    check_floating,
    check_stretches,
    check_tensor,
    class_weight,
    no_class,
    outside_classes,
    same_shape,
    shape_hint,
    unravel,
)


class RegionsPlan(Plan):
    """A loss of regions with its parameters fixed."""

    op = "regions"
    gradients = 1
    telling = 2
    weight_in_mean = True
    late = True

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.activation, self.batch = parameters.get("activation", "sigmoid"), parameters.get("batch", False)
        self.first = 0 if parameters.get("include_background", True) else 1  # of the classes with a loss
        self.ignored = parameters.get("ignore_index", -100)
        self.squares = bool(loss.squares and parameters[loss.squares])
        self.smaller = parameters.get("soft_label", False) and not self.squares
        self.masked = parameters["pixel_mask"]
        self.pooled = loss.weigh is not None
        self.weighing = {name: parameters[name] for name in loss._weighing()}
        self.direct = not self.pooled  # the weights of classes have to be made first
        family = wire.REGIONS.family.pack(
            statistics=formula.operands, activation=wire.Activation[self.activation.upper()], squares=self.squares,
            batch=self.batch, background=self.first == 0, masked=self.masked, pooled=self.pooled,
            smaller=self.smaller,
        )  # fmt: skip
        code = fused.pack(reduction, weight_in_mean=True, family=family)
        given = wire.REGIONS.given(map(float, numbers.values()), ignore_index=float(self.ignored))
        names = loss._call_operands() if self.masked else loss._call_operands()[:2]
        super().__init__(loss, reduction, code, names, given)
        self.formula: Formula = formula
        self.differentiable = formula.differentiable(numbers)

    # -- the arguments ------------------------------------------------------------------------------------

    def passes(self, arguments: Arguments) -> str:
        return "two passes"

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        operands = [x for i, x in enumerate(operands) if i < 2 or x is not None]
        for name, x in zip(self.names, operands, strict=True):
            check_tensor(self.name, name, x, "input", operands[0])
        input, target, *pixel_mask = operands
        check_floating(self.name, "input", input, target, "scores")
        if input.ndim < 2:
            raise self._wrong("input", "of shape (N, C, ...)", f"shape {tuple(input.shape)}")
        self._check_target(input, target)
        classes, pixels = input.shape[1], input.shape[:1] + input.shape[2:]
        if classes == 1 and (self.first or self.activation == "softmax"):
            name, one = ("include_background", "True") if self.first else ("activation", "'sigmoid' or 'none'")
            got = repr(self.activation) if not self.first else "False"
            raise error("parameter", loss=self.name, argument=name, expected=f"{one} for an input of one class",
                        got=got)  # fmt: skip
        for i, x in enumerate(pixel_mask):
            if x.dtype != torch.bool:
                raise error("parameter_type", loss=self.name, argument="pixel_mask", got=x.dtype,
                            expected="boolean (True = counts)", hint=" Use pixel_mask.bool().")  # fmt: skip
            check_stretches(self.name, "pixel_mask", x, pixels)
            pixel_mask[i] = x if same_shape(x.shape, pixels) else x.expand(pixels)
        weight = class_weight(self, weight, input, classes)
        shape = self.unreduced_shape(operands)
        normalizer = check_extras(self, input, shape, None, (), sample_weight, mask, normalizer)
        return Arguments([input, target, *pixel_mask], weight, sample_weight, mask, normalizer)

    def _check_target(self, input: Tensor, target: Tensor) -> None:
        """Refuse what is neither a number for each score nor a class index for each pixel."""
        if same_shape(target.shape, input.shape):
            if self.ignored >= 0:
                raise error("ignored_probabilities", loss=self.name, got=self.ignored)
            return
        classes, pixels = input.shape[1], input.shape[:1] + input.shape[2:]
        if same_shape(target.shape, pixels) and target.dtype in dtypes.INTEGERS and classes > 1:
            return
        hint = shape_hint("target", target.shape, input.shape)
        if same_shape(target.shape, pixels):
            hint = " Did you mean target.unsqueeze(1)?" if classes == 1 else " Use target.long() for class indices."
        elif tuple(target.shape) == (*pixels[:1], 1, *pixels[1:]):
            hint = " Did you mean target.squeeze(1)?"
        elif tuple(target.shape) == (*pixels, classes):
            hint = " The classes are dimension 1: did you mean target.movedim(-1, 1)?"
        elif input.ndim > 2 and target.shape == input.shape[:-1]:
            hint = " The classes are dimension 1: did you mean input.movedim(-1, 1)?"
        raise error("class_probabilities", loss=self.name, rows=tuple(pixels), input=tuple(input.shape),
                    dtype=target.dtype, got=tuple(target.shape), hint=hint)  # fmt: skip

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        samples, classes = operands[0].shape[:2]
        of_classes = [] if self.pooled else [classes - self.first]
        return torch.Size([*([] if self.batch else [samples]), *of_classes])

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        input, target, *pixel_mask, _ = tensors
        rest = (None,) * (input.ndim - 2)
        sample = None if self.batch else 0
        apart = target.ndim == input.ndim and self.activation != "softmax" and not (self.pooled or self.first)
        of_class = (0 if self.batch else 1) if apart else None
        of_input: Dims = (sample, of_class, *rest)
        of_pixels: Dims = (sample, *rest)
        of_masks = [(*(None,) * (x.ndim - len(of_pixels)), *of_pixels[len(of_pixels) - x.ndim :]) for x in pixel_mask]
        return [of_input, of_input if target.ndim == input.ndim else of_pixels, *of_masks, (of_class,)]

    # -- the eager formula --------------------------------------------------------------------------------

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        operands, weight, sample_weight, mask, normalizer, told = arguments
        input, target = operands[:2]
        dtype, wide = told or dtypes.result_dtype([input, target]), dtypes.compute_dtype([input, target])
        shape = self.unreduced_shape(operands)
        weight = None if weight is None else weight[self.first :].to(wide)
        kept = self._kept(operands)
        shares = self._shares(target, input, wide)
        pool = self._pool(operands)
        counts = self._counts(kept, pool, input.shape)
        mask = both(mask, counts)
        bad = self._bad(operands, kept, mask, checks)
        mask, normalizer = counting(
            self.reduction, shape, input.new_empty((), dtype=wide), weight=weight, sample_weight=sample_weight,
            mask=mask, normalizer=normalizer,
        )  # fmt: skip
        scores, softmax = _flat(input.to(wide)), self.activation == "softmax"
        scores = scores if softmax else scores[:, self.first :]
        read = self._read(kept, mask, shape)
        if read is not None:  # a NaN that does not count must not reach the gradient as 0 * NaN
            scores, shares = torch.where(read, scores, 0.0), torch.where(read, shares, 0.0)
        p, missing = activated(scores, self.activation)
        if softmax and self.first:
            p, missing = p[:, 1:], missing[:, 1:]
        if read is not None:
            p, missing = torch.where(read, p, 0.0), torch.where(read, missing, 0.0)
        smaller = self.smaller and target.ndim == input.ndim
        sums = sums_of(p, missing, shares, self.formula.operands, self.batch, squares=self.squares, smaller=smaller)
        if pool is not None:
            sums = [(pool * x).sum(-1) for x in sums]
        values = eager.apply(self.differentiable, sums)
        loss = reduce_eagerly(
            eager.nan_where(values, bad), self.reduction, weight=weight, weight_in_mean=True,
            sample_weight=sample_weight, mask=mask, normalizer=normalizer,
        )  # fmt: skip
        return loss.to(dtypes.autocast(dtype, loss.device))

    def _kept(self, operands: Sequence[Tensor]) -> Tensor | None:
        """Which pixels count, (N, 1, pixels); None: all of them."""
        input, target, *others = operands
        kept = others[0].unsqueeze(1) if self.masked else None
        if target.ndim < input.ndim:
            known = target.long().unsqueeze(1) != self.ignored  # a target of bytes would take -100 for 156
            kept = both(kept, known)
        return None if kept is None else _flat(kept)

    def _shares(self, target: Tensor, input: Tensor, wide: torch.dtype) -> Tensor:
        """How much of each pixel is of each class that has a loss."""
        if target.ndim == input.ndim:
            return _flat(target)[:, self.first :].to(wide)
        classes = torch.arange(self.first, input.shape[1], device=target.device)
        return (_flat(target.long().unsqueeze(1)) == classes.unsqueeze(-1)).to(wide)

    def _pool(self, operands: Sequence[Tensor]) -> Tensor | None:
        """The weights with which the sums of the classes are added; None: they are not."""
        if not self.pooled:
            return None
        input, target = operands[:2]
        mask = _flat(operands[2].unsqueeze(1)) if self.masked else None
        wide = dtypes.compute_dtype([input, target])
        if target.ndim == input.ndim:
            shares = self._shares(target, input, wide)
            shares = shares if mask is None else torch.where(mask, shares, 0.0)
            (actual,) = sums_of(shares, shares, shares, ["predicted"], self.batch)
        else:
            counts = _pixels_of_classes(target, input.shape[1], self.ignored, mask)[:, self.first :]
            actual = (counts.sum(0) if self.batch else counts).to(wide)
        made: Tensor = self.loss.weigh(actual, **self.weighing)
        return made

    def _counts(self, kept: Tensor | None, pool: Tensor | None, shape: Sequence[int]) -> Tensor | None:
        """Which regions can have a loss: those with a pixel and, of pooled classes, a weight. None: all of them."""
        counts = None
        if kept is not None:
            counts = kept.any(-1)
            counts = counts.any(0) if self.batch else counts
        elif prod(shape[2:]) == 0 or (self.batch and shape[0] == 0):
            device = None if pool is None else pool.device
            counts = torch.zeros((1,) if self.batch else (1, 1), dtype=torch.bool, device=device)
        if pool is None:
            return counts
        weighs = (pool != 0).any(-1)
        return weighs if counts is None else weighs & counts.squeeze(-1)

    def _read(self, kept: Tensor | None, mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
        """Which numbers reach the loss, for classes that have one, (N, C, pixels); None: all of them."""
        if mask is None:
            return kept
        units = mask.expand(shape)
        units = units.unsqueeze(0) if self.batch else units
        units = units.unsqueeze(-1) if self.pooled else units
        if self.activation == "softmax":  # which needs all classes for one
            units = units.any(1, keepdim=True)
        return both(units.unsqueeze(-1), kept)

    def _bad(self, operands: Sequence[Tensor], kept: Tensor | None, mask: Tensor | None, checks: str) -> Tensor | None:
        """The regions with a value that is not allowed; an index that is no class is bad in every mode."""
        input, target = operands[:2]
        found = []
        if self.activation == "none" and checks != "off":
            found.append(_flat(probability.outside(input.detach(), slack_of(input.dtype)))[:, self.first :])
        if target.ndim < input.ndim:
            found.append(_flat(outside_classes(target, input.shape[1], self.ignored).unsqueeze(1)))
            checks = "nan" if checks == "off" else checks
        elif checks != "off":
            found.append(_flat(probability.outside(target.detach(), slack_of(target.dtype)))[:, self.first :])
        if not found:
            return None
        bad, *others = (both(x, kept).any(-1) for x in found)
        for x in others:
            bad = bad | x
        bad = bad.any(0) if self.batch else bad
        bad = bad.any(-1) if self.pooled else bad
        bad = both(bad, mask)
        return eager.apply_checks(self, bad, operands, mask, checks)

    # -- what kernels and others ask ----------------------------------------------------------------------

    def fused(self, kernel: Kernel, arguments: Arguments, result: torch.dtype | None = None) -> Tensor | None:
        if self.pooled:
            with torch.no_grad():
                pool = self._pool(arguments.operands)
            assert pool is not None
            arguments = arguments._replace(operands=[*arguments.operands, pool])
        return kernel(self, arguments, result)

    def of_saved(self, operands: Sequence[Tensor | None], *extras: Any) -> Arguments:
        return super().of_saved(operands[:-1] if self.pooled else operands, *extras)

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        operands, weight, _, mask, *_ = arguments
        counts = self._counts(self._kept(operands), self._pool(operands), operands[0].shape)
        mask = both(mask, counts)
        return [] if weight is None else [weight[self.first :]], mask

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        operands = arguments.operands
        shape = operands[0].shape
        read = self._read(self._kept(operands), arguments.mask, self.unreduced_shape(operands))
        if read is None:
            return [None for _ in operands]
        if self.first and read.shape[1] > 1:  # class 0 is not read
            read = torch.nn.functional.pad(read, (0, 0, 1, 0))
        whole = read.expand(*shape[:2], prod(shape[2:])).reshape(shape)
        return [whole if x.ndim == len(shape) else None for x in operands]

    def spaces(self, operands: Sequence[Tensor], mask: Tensor | None) -> list[Exception]:
        input = operands[0].detach()
        if self.activation == "softmax":
            return [error("probabilities", loss=self.name)] if like_softmax(input, 1) else []
        if self.activation == "sigmoid" and like_sigmoids(input):
            return [error("sigmoid", loss=self.name, argument="input")]
        return []

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        counted = self.counting(Arguments(list(operands), None, None, mask, None))[0]
        input, target = (x.detach() for x in operands[:2])
        counted = torch.ones((), dtype=torch.bool) if counted is None else counted
        counted = counted.expand(input.shape)
        if self.first:
            counted = counted & (torch.arange(input.shape[1]) > 0).reshape(-1, *(1,) * (input.ndim - 2))
        tensors = {Violation.PROBABILITY: input} if self.activation == "none" else {}
        if target.ndim == input.ndim:
            tensors[Violation.TARGET] = target
        for which, x in tensors.items():
            index = search.first(lambda y, kept: probability.outside(y, slack_of(y.dtype)) & kept, [x, counted])
            if index is not None:
                return which, search.place(index, x.shape), x[index].item()
        pixels = counted.any(1)
        index = search.first(lambda y, kept: outside_classes(y, input.shape[1], self.ignored) & kept, [target, pixels])
        assert index is not None
        return Violation.CLASS_INDEX, search.place(index, target.shape), int(target[index])

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        """shape: the input's; operand: a violation."""
        if operand == Violation.CLASS_INDEX:
            index = unravel(place, (*shape[:1], *shape[2:]))
            return no_class(self.name, index, int(value), shape[1], skips="pixels")
        of_input = operand == Violation.PROBABILITY
        hint = " Pass activation='sigmoid' or 'softmax' for scores." if of_input else ""
        return error("domain", loss=self.name, argument="input" if of_input else "target", hint=hint,
                     expected=probability.description, got=shortest(value), index=unravel(place, shape))  # fmt: skip


def _flat(x: Tensor) -> Tensor:
    """(N, C, ...) with the pixels in one dimension."""
    return x.reshape(*x.shape[:2], prod(x.shape[2:]))


def _pixels_of_classes(target: Tensor, classes: int, ignored: int, mask: Tensor | None) -> Tensor:
    """How many pixels that count each class of each sample has, (N, C), of class indices: never one-hot."""
    label = _flat(target.long().unsqueeze(1))
    place = label.clamp(-1, classes)  # -1 and C: of no class
    if 0 <= ignored < classes:
        place = torch.where(label == ignored, -1, place)
    if mask is not None:
        place = torch.where(mask, place, -1)
    none = place.new_zeros(*place.shape[:2], classes + 2)
    return none.scatter_add(-1, place + 1, place.new_ones(1).expand(place.shape))[:, 0, 1:-1]
