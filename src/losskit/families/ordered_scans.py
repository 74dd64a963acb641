"""What formulas of ordered rows speak of, in torch operations: the order, running sums, the steps of a Jaccard loss.

All of it works along the last dimension, under every transform, and takes the logarithm of the number of elements in
passes: what runs along a row is added up by doubling, since torch's cumulative sums of exponentials have no second
derivative, and overflow or lose what is far below the largest.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from losskit.kernels.torch_internals import exporting
from losskit.reduction import both

_NEVER = -1e30  # the logarithm of nothing: derivatives of any order stay finite


def order_of(key: Tensor, descending: bool, counts: Tensor | None) -> Tensor:
    """The stable order by a key; what does not count comes last."""
    if not key.is_floating_point():
        key = key.to(torch.int64)
    if counts is not None:
        key = torch.where(counts, key, torch.zeros_like(key))
    if exporting():
        return _order_without_stable_sorts(key, descending, counts)
    order = torch.argsort(key, dim=-1, descending=descending, stable=True)
    if counts is None:
        return order
    left_out = (~counts).to(torch.uint8).gather(-1, order)
    return order.gather(-1, torch.argsort(left_out, dim=-1, stable=True))


def _order_without_stable_sorts(key: Tensor, descending: bool, counts: Tensor | None) -> Tensor:
    """For ONNX, which has none: what is tied is sorted once more, by its place."""
    found = torch.sort(key, dim=-1, descending=descending)
    size, group = key.shape[-1], _groups(found.values, None)
    if counts is not None:
        group = group + (~counts).gather(-1, found.indices).to(torch.int64) * size
    return found.indices.gather(-1, torch.sort(group * size + found.indices, dim=-1).indices)


def log_shares(x: Tensor, key: Tensor | None, events: Tensor | None, counts: Tensor | None, efron: bool) -> Tensor:
    """The logarithm of each element's share in the sum of exponentials from it on; of elements in order.

    key: where it is the same, elements are tied, and each has the whole tie in its sum; None: there are no ties.
    events: which elements have a share that is asked for, all if None; that of the others is 0.
    efron: of d tied events the one at place l has l/d of the exponentials of all d taken out of its sum.

    Nothing is subtracted: an element's own exponential is left out of the sum of the others, so that a share near 1
    keeps its digits.
    """
    known = x if counts is None else torch.where(counts, x, _NEVER)
    after = _exclusive(known.flip(-1)).flip(-1)
    if key is None:
        shares = logsigmoid(x - after)
        return shares if counts is None else torch.where(counts, shares, 0.0)
    group = _groups(key, counts)
    events = torch.ones_like(key, dtype=torch.bool) if events is None else events
    events = both(events, counts)
    last = _last_of(group)
    of_events, of_others = torch.where(events, known, _NEVER), torch.where(events, _NEVER, known)
    rest = _sum(after.gather(-1, last), _running(of_others, group).gather(-1, last))
    tied = _sum(_exclusive(of_events, group), _exclusive(of_events.flip(-1), group.flip(-1)).flip(-1))
    kept = torch.zeros_like(x)
    if efron:
        number = _count(events, group)
        place, many = number - events.to(number.dtype), number.gather(-1, last).clamp(min=1.0)
        kept = torch.log1p(-torch.where(events, place / many, 0.0).to(x.dtype))
    others = _sum(rest, tied + kept)
    return torch.where(events, logsigmoid(x + kept - others) - kept, 0.0)


def jaccard_steps(labels: Tensor, counts: Tensor | None, dtype: torch.dtype) -> Tensor:
    """How much the Jaccard loss of a set grows with each of its elements, which come in order: True is in the set.

    From one element to the next, the intersection loses one, or the union gains one. The differences are written out:
    those of neighbouring fractions would lose all digits in a long row.
    """
    there = torch.ones_like(labels) if counts is None else counts
    positive, negative = (labels & there).to(torch.int64), (~labels & there).to(torch.int64)
    total = positive.sum(-1, keepdim=True)
    before = (negative.cumsum(-1) - negative + total).to(dtype)  # the union without this element
    left = (total - positive.cumsum(-1)).to(dtype)  # the intersection, of which a negative takes nothing
    alone = before == 0  # the first mistake where the set is empty
    union = torch.where(alone, 1.0, before)
    grown = torch.where(alone, 1.0, left / union / (union + 1.0))
    steps = torch.where(labels, 1.0 / union, grown)
    return steps if counts is None else torch.where(counts, steps, 0.0)


def cumulated(scores: Tensor, target: Tensor) -> Tensor:
    """The running sums of a softmax, less those of a target: a class that is certain, or probabilities.

    From a class that is certain on, it is minus the sum of the classes above. Both sums are those of exponentials on
    one side against the other: in a softmax and its derivative, what is near 1 would swallow the rest.
    """
    up_to, above = _running(scores), _exclusive(scores.flip(-1)).flip(-1)
    below = torch.exp(logsigmoid(up_to - above))  # torch's sigmoid has the derivative y (1 - y), without digits near 1
    if target.is_floating_point():
        return below - target.cumsum(-1)
    places = torch.arange(scores.shape[-1], device=scores.device)
    return torch.where(places < target.unsqueeze(-1), below, -torch.exp(logsigmoid(above - up_to)))


def _sum(*logs: Tensor) -> Tensor:
    return torch.stack(logs).logsumexp(0)


def _earlier(x: Tensor, step: int, fill: float) -> Tensor:
    """The element `step` places before each."""
    return pad(x[..., :-step], (step, 0), value=fill)


def _running(x: Tensor, group: Tensor | None = None) -> Tensor:
    """The logarithm of the sum of exponentials up to each element, of those in its group."""
    step = 1
    while step < x.shape[-1]:
        before = _earlier(x, step, _NEVER)
        if group is not None:
            before = torch.where(_earlier(group, step, -1) == group, before, _NEVER)
        x = _sum(x, before)
        step *= 2
    return x


def _exclusive(x: Tensor, group: Tensor | None = None) -> Tensor:
    """As `_running`, without the element itself."""
    if x.shape[-1] == 0:
        return x
    before = _earlier(x, 1, _NEVER) if x.shape[-1] > 1 else torch.full_like(x, _NEVER)
    if group is not None:
        again = _earlier(group, 1, -1) if x.shape[-1] > 1 else torch.full_like(group, -1)
        before = torch.where(again == group, before, _NEVER)
    return _running(before, group)


def _groups(key: Tensor, counts: Tensor | None) -> Tensor:
    """The number of the tie that each element belongs to; what does not count, which comes last, is one of its own."""
    if key.shape[-1] < 2:
        return torch.zeros_like(key, dtype=torch.int64)
    new = key[..., 1:] != key[..., :-1]
    if counts is not None:
        new = (counts[..., 1:] & new) | (~counts[..., 1:] & counts[..., :-1])
    return pad(new.to(torch.int64).cumsum(-1), (1, 0))


def _last_of(group: Tensor) -> Tensor:
    """The place of the last element of each element's group."""
    size = group.shape[-1]
    if size == 0:
        return group
    places = torch.arange(size, device=group.device).expand(group.shape)
    ends = torch.where(pad(group[..., 1:], (0, 1), value=-1) != group, places, size)
    step = 1
    while step < size:
        ends = torch.minimum(ends, pad(ends[..., step:], (0, step), value=size))
        step *= 2
    return ends


def _count(events: Tensor, group: Tensor) -> Tensor:
    """The number of events up to each element, of those in its group."""
    found = events.to(torch.float64 if events.device.type != "mps" else torch.float32)
    step = 1
    while step < found.shape[-1]:
        before = _earlier(found, step, 0.0)
        found = found + torch.where(_earlier(group, step, -1) == group, before, 0.0)
        step *= 2
    return found
