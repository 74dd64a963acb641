"""How often the elements of a row count in the denominator of a mean, where a declaration says so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from losskit import dtypes
from losskit.calculus import Differentiable
from losskit.declaration import POSITION
from losskit.domains import Domain, Interval


def of_elements(counts: Differentiable, names: Sequence[str], operands: Sequence[Tensor]) -> Tensor:
    """How often each element counts. What that does not depend on is not read."""
    operands = [x.detach() for x in operands]
    first, wide, used = operands[0], dtypes.compute_dtype(operands), counts.root.variables
    places = [torch.arange(first.shape[-1], device=first.device)] if POSITION in names else []
    own = [x[..., :1] if x.stride(-1) == 0 else x for x in (*operands, *places)]  # not stretched along the row
    named = zip(names, own, strict=True)
    return counts(*(x.to(wide) if name in used else x for name, x in named)).expand(first.shape)


def of_rows(
    counts: Differentiable, names: Sequence[str], operands: Sequence[Tensor], places: Sequence[tuple[int, Domain]]
) -> Tensor | None:
    """How often each row counts, of shape (..., 1), where that depends on one place in the row alone, else None.

    It is looked up in a table of all places, if the table is smaller than the operands: three passes over the operands
    would take longer than the loss. places: the operands that are places, and what they may be.
    """
    read = [i for i, name in enumerate(names) if name in counts.root.variables and name != POSITION]
    allowed = dict(places).get(read[0]) if len(read) == 1 else None
    if not isinstance(allowed, Interval):
        return None
    x = operands[read[0]].detach()
    width, beyond = x.shape[-1], int(allowed.high) + 1  # one more on each side, for all that are outside
    if x.is_floating_point() or x.stride(-1) != 0 or (beyond + 2) * width > x.numel():
        return None
    wide = dtypes.compute_dtype(operands)
    rows = torch.arange(-1, beyond + 1, dtype=wide, device=x.device).unsqueeze(-1)
    given = [rows if i == read[0] else y for i, y in enumerate(operands)]
    if POSITION in names:
        given.append(torch.arange(width, dtype=wide, device=x.device))
    table = counts(*given).expand(len(rows), width).sum(-1, dtype=torch.float64)
    return table[x[..., :1].to(torch.int64).clamp(-1, beyond) + 1]
