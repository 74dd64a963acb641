"""The kernel of a smooth sorting: NeuralSort, Sinkhorn's steps, and the gradient of the discounted gain.

The kernel (`csrc/soft_sorting.cpp`) works on one list at a time, whose matrix stays in a cache, where torch's
operations take all lists through each step.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from losskit.families.soft_ranks import called
from losskit.kernels.choice import helps


def missed_by_kernel(scores: Tensor, gains: Tensor, counts: Tensor | None, temperature: float, steps: int) -> Any:
    """What `called` gives, of the ranks of a smooth sorting after so many steps of Sinkhorn."""
    return called("soft_sorting", scores, gains, counts, temperature, steps)


def parts(input: Tensor, *_: Any) -> str:
    """Where lists are sorted, in words; "" if torch does."""
    return "sorting, Sinkhorn's steps and the gradient of them in a fused CPU kernel" if helps(input) else ""
