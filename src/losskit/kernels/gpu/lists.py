"""Ranking lists on a GPU: there is no kernel yet, so the eager formula runs, with K x K numbers a list."""

from __future__ import annotations

from losskit.plan import Arguments, Plan


def why_not(plan: Plan, arguments: Arguments) -> str:
    """Why no kernel runs."""
    return "there is no GPU kernel for the pairs of lists yet"
