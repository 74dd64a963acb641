"""The regions family on a GPU: there is no kernel; torch's operations make the sums and spread the derivatives."""

from __future__ import annotations

from losskit.plan import Arguments, Plan


def why_not(plan: Plan, arguments: Arguments) -> str:
    """Why there is no kernel for a call."""
    return "losses of regions have no kernel for GPUs"
