"""The ordered family on a GPU: rows whose elements are put into an order, of which each depends on those after it.

1. torch sorts: a kernel before it writes integers that compare as what is sorted does, and the stable order of these is
   the order of the row. So one sort serves every dtype, both directions, and both zeros.
2. Elements that do not count stay where the sort puts them, and add nothing to any sum.
3. Rows are computed in float64, as on a CPU: along a row of a million elements floats would lose their digits.
4. `lists` has scores in the order of a key, `classes` the running sums of a softmax, and `errors` the pixels in the
   order of their errors, which `pixels` makes, and whose slopes it takes through the softmax.
"""

from __future__ import annotations

from typing import Any

from losskit.kernels import wire
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.ordered import classes, errors, lists
from losskit.plan import Arguments


def why_not(plan: Any, arguments: Arguments) -> str | None:
    """Why there is no kernel for this call."""
    told, input = _told(plan), arguments.operands[0]
    softmax = _kind(told) is classes or told["classes"]
    number = input.shape[1 if told["classes"] else -1] if softmax else 0
    if number > classes.LONGEST:
        return f"the softmax of an ordered loss is taken for up to {classes.LONGEST} classes"
    return None


def passes(plan: Any) -> str:
    """How the kernels go over the operands, in words."""
    return "one pass" if _kind(_told(plan)) is classes else "a sort and several passes"


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradient."""
    told = _told(frame.call.plan)
    return _kind(told).run(frame, wanted, told)


def _told(plan: Any) -> dict[str, Any]:
    """What the family says about its rows."""
    return wire.ORDERED.family.unpack(wire.OPTIONS.unpack(plan.code)["family"])


def _kind(told: dict[str, Any]) -> Any:
    """The module of these rows."""
    first = told["statistics"][0]
    return {wire.OrderedStatistic.LOG_SHARE: lists, wire.OrderedStatistic.SCAN: classes}.get(first, errors)
