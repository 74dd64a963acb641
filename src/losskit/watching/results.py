"""What is wrong with the loss itself: the mean over nothing, a NaN and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from losskit.watching import probes
from losskit.watching.calls import Call
from losskit.watching.findings import Told
from losskit.watching.site import Site


def of_result(site: Site, call: Call) -> Iterator[Told]:
    """Why the loss is not finite; nothing where it is."""
    result = call.result
    if not isinstance(result, Tensor) or not result.is_floating_point() or bool(result.isfinite().all()):
        return
    nothing = _nothing(call)
    if nothing:
        yield (
            "nothing", f"the loss is {_told(result)}, since {nothing}.",
            'Skip such batches, or use losskit.empty("zero").',
        )  # fmt: skip
        return
    for name in call.operands:
        found = _in_operand(site, call, name)
        if found:
            yield found
            return
    yield _computed(call)


def _told(result: Tensor) -> str:
    return "NaN" if bool(result.isnan().any()) else "infinite"


def _nothing(call: Call) -> str:
    """What the mean is over, if that is nothing."""
    if call.input.numel() == 0:
        return f"{call.input_name} {tuple(call.input.shape)} is empty"
    mask = call.operands.get("mask")
    if mask is not None and not bool(mask.any()):
        return "the mask leaves nothing over"
    if call.role in ("classes", "head"):
        counts = call.counts()
        if not bool(counts.any()):
            return f"all {counts.numel()} targets are ignored"
        weight = call.operands.get("weight", call.settings.get("weight"))
        if isinstance(weight, Tensor) and weight.numel() == call.classes:
            t = call.operands[call.target_name].reshape(-1)[counts]
            if not bool(weight.detach().to(t.device)[t].any()):
                return "the classes of this batch have weight 0"
    weights = call.operands.get("sample_weight")
    return "all sample weights are 0" if weights is not None and not bool(weights.any()) else ""


def _in_operand(site: Site, call: Call, name: str) -> Told | None:
    """The first row of an operand with a number that is not finite."""
    x = call.operands[name]
    if not x.is_floating_point() or not x.numel():
        return None
    bad = x.isnan()
    what = "NaN"
    if not bool(bad.any()):
        bad, what = x.isinf(), "infinite"
        masked = name == call.input_name and call.role == "classes" and not bool((x == math.inf).any())
        if masked or not bool(bad.any()):  # a score of minus infinity is a class that cannot be
            return None
    rows = _rows_of(call, bad)
    count, of = int(rows.sum()), len(rows)
    first = int(rows.to(torch.uint8).argmax())
    if count == of > 1 and name == call.input_name:
        where = f"{name} is {what} in all {of} rows"
        if x.dtype == torch.float16 and site.pulls and site.pulls[-1]["bad"]:
            fix = "Let torch.amp.GradScaler skip such steps and choose the scale."
            return "halves", f"{where}, after a step whose gradient float16 could not hold.", fix
        fix = "The step before has broken the parameters: clip gradients, lower the learning rate, or scale the inputs."
    else:
        where = f"{name} is {what} at row {first}, the first of {count} of {of}"
        fix = f"Look at row {first} of the batch: its data, or a logarithm, root or quotient in the network."
    if x.dtype == torch.float16 and what == "infinite":
        return "halves", f"{where}: float16 ends at 65504.", "Use bfloat16, or scale what overflows."
    return "nan", f"the loss is {_told(call.result)}, since {where}.", fix


def _rows_of(call: Call, bad: Tensor) -> Tensor:
    """Whether a row has one."""
    if call.role in ("classes", "shares") and bad.shape == call.input.shape and bad.ndim > 1:
        return bad.movedim(1, -1).flatten(0, -2).any(1)
    return bad.reshape(len(bad), -1).any(1) if bad.ndim else bad.reshape(1)


def _computed(call: Call) -> Told:
    """A loss that is not finite though all that it is of is."""
    each = probes.of_rows(call)
    where, row = "", None
    if each is not None and not bool(each.isfinite().all()):
        row = int((~each.isfinite()).to(torch.uint8).argmax())
        where = f" at row {row}, the first of {int((~each.isfinite()).sum())} of {len(each)}"
    if call.input.dtype == torch.float16 and probes.finite_in_single(call):
        return (
            "halves", f"the loss is {_told(call.result)} in float16, and its operands are not: it is beyond 65504.",
            "Compute the loss in float32: input.float().",
        )  # fmt: skip
    return (
        "nan", f"{call.name} makes {_told(call.result)} of operands without NaN{where}.",
        f"Look at {'that row' if row is not None else 'the operands'}: a logarithm of 0, a variance of 0, a "
        "target without probability.",
    )  # fmt: skip
