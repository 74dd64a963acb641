"""For test suites: `check_loss` audits a loss and fails where it finds a fault."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from losskit.audit import Audit, audit


def check_loss(
    loss: Callable[..., Any],
    *example: Any,
    allow: Collection[str] = (),
    strict: bool = False,
    quick: bool = False,
    **operands: Any,
) -> Audit:
    """Audit a loss as `losskit.audit` does, and raise where there is a fault.

    Choose it as the one test of a loss of your own. Prefer `losskit.audit` to look at what it finds.

    Args:
        loss: A loss, a module or a function of tensors, or its class.
        example: Operands of a call.
        allow: The names of checks whose findings are known and meant. They are not run.
        strict: Raise where there is a warning, too.
        quick: Leave out the slow checks: compile, export, threads, cost.
        operands: More operands, by keyword.

    Returns:
        The audit.

    Raises:
        AssertionError: There is a fault; its text is the report.
        ValueError: The loss cannot be called with the example.

    Example:
        >>> import losskit.testing
        >>> losskit.testing.check_loss(losskit.HuberLoss(delta=2.0), quick=True).sound
        True
    """
    __tracebackhide__ = True
    found = audit(loss, *example, skip=allow, quick=quick, **operands)
    if found.faults or (strict and found.warnings):
        raise AssertionError(str(found))
    return found
