"""The pairs family on a GPU: torch makes blocks of similarities, and evaluates the formula on them."""

from __future__ import annotations

from typing import Any

from losskit.plan import Arguments


def why_not(plan: Any, arguments: Arguments) -> str | None:
    """Why there is no kernel for this call."""
    return f"the formula runs on blocks: {plan.passes(arguments)}"
