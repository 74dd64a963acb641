"""Bad values on a GPU: a value outside its domain makes its results NaN, and the first one is recorded on the device.

What is recorded is which call, operand, index and value. `losskit.last_violation` reads it, and waits then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from losskit.kernels import node
from losskit.plan import Plan


@triton.jit
def report(record, which, found, index, number):
    """Record the first bad value of a block, unless one is recorded. which: 0, or the operand that is bad."""
    if tl.max(which, 0) > 0:
        first = tl.min(tl.where(which > 0, index.to(tl.int64), 9223372036854775807), 0)
        if tl.atomic_cas(record, tl.full((), 0, tl.int64), number.to(tl.int64)) == 0:
            here = (index == first) & (which > 0)
            tl.store(record + 1, tl.max(tl.where(here, which, 0), 0).to(tl.int64))
            tl.store(record + 2, first)
            value = tl.sum(tl.where(here, found.to(tl.float64), 0.0), 0)
            tl.store(record + 3, value.to(tl.int64, bitcast=True))


class Sighting(NamedTuple):
    """A recorded violation: the operand's number, its place in the flattened operand, and the value."""

    plan: Plan
    shape: tuple[int, ...]
    operand: int
    place: int
    value: float


MOST = 4096  # calls that are known by their ids

_records: dict[torch.device, Tensor] = {}
_calls: OrderedDict[tuple[str, tuple[int, ...]], tuple[int, Plan]] = OrderedDict()  # by the ids in records
_next = 1
_forgotten = 0


def record_of(device: torch.device) -> Tensor:
    """Where kernels on a device record a violation: four int64, the first 0 as long as there is none."""
    found = _records.get(device)
    if found is None:
        found = _records[device] = torch.zeros(4, dtype=torch.int64, device=device)
    return found


def number_of(plan: Plan, shape: Sequence[int]) -> int:
    """The id that stands for this call in a violation record. Ids start at 2: a record of 0 is empty, and Triton may
    compile a kernel of its own for the value 1."""
    global _next, _forgotten
    key = (plan.key, tuple(shape))
    known = _calls.get(key)
    if known is None:
        _next += 1
        known = _calls[key] = (_next, plan)
        if len(_calls) > MOST:
            _calls.popitem(last=False)
            _forgotten += 1
            node.forget()
    return known[0]


def forgotten() -> int:
    """How many ids no longer stand for a call; who has kept an id must ask for it again when this changes."""
    return _forgotten


def sightings() -> list[Sighting]:
    """The violations recorded on all devices since this was last asked; waits for the devices."""
    found = []
    for record in _records.values():
        number, operand, index, bits = record.tolist()
        if number == 0:
            continue
        record.zero_()
        value = torch.tensor(bits, dtype=torch.int64).view(torch.float64).item()
        for (_, shape), (known, plan) in _calls.items():
            if known == number:
                found.append(Sighting(plan, shape, operand, index, value))
    return found
