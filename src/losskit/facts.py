"""Facts: properties of a loss that users ask for and that the test suite measures instead of believing."""

from __future__ import annotations

from dataclasses import dataclass

from losskit.errors import DeclarationError


@dataclass(frozen=True)
class Facts:
    """Mathematical properties of the unreduced loss as a function of its first prediction, targets fixed.

    convex: the value lies under every chord between predictions; the name of an operand: only as a function of it, and
        not of all predictions together (a mean and a variance).
    smooth: the gradient has no jumps.
    lipschitz: the largest magnitude of the gradient, a number or the name of a parameter; None: unbounded.
    minimum: the smallest value over all predictions and targets; None: none, or it depends on the target.
    symmetric: exchanging input and target changes nothing.
    robust: no target, however wrong, can dominate. For targets that are numbers: the pull of a far one is bounded. For
        labels: the loss of a wrong one is bounded; a bounded gradient alone does not make it so.
    """

    convex: bool | str
    smooth: bool
    lipschitz: float | str | None
    minimum: float | None
    symmetric: bool
    robust: bool = False

    def __post_init__(self) -> None:
        if self.robust and self.lipschitz is None:
            raise DeclarationError("facts: a loss whose gradient is unbounded (lipschitz=None) is not robust")
