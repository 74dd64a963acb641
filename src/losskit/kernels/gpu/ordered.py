"""Ordered rows on a GPU: there is no kernel yet. torch's own sort and the eager formula's passes run there."""

from __future__ import annotations

from losskit.plan import Arguments, Plan


def why_not(plan: Plan, arguments: Arguments) -> str:
    """Why there is no kernel for this call."""
    return "there is no GPU kernel for rows that are sorted"
