"""Facts: properties of a loss that users ask for and that the test suite measures instead of believing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Mathematical properties of the unreduced loss as a function of its first prediction, targets fixed.

    convex: the value lies under every chord.
    smooth: the gradient has no jumps.
    lipschitz: the largest magnitude of the gradient, a number or the name of a parameter; None: unbounded.
    minimum: the smallest value over all predictions and targets; None: none, or it depends on the target.
    symmetric: exchanging input and target changes nothing.
    robust: the gradient stays bounded for far outliers, so no single sample can dominate.
    """

    convex: bool
    smooth: bool
    lipschitz: float | str | None
    minimum: float | None
    symmetric: bool

    @property
    def robust(self) -> bool:
        return self.lipschitz is not None
