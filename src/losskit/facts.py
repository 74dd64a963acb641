"""Facts: properties of a loss that users ask for and that the test suite measures instead of believing."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass

from losskit.errors import DeclarationError

_FUNCTIONS = {"max": max, "min": min, "sqrt": math.sqrt, "exp": math.exp}
_ARITHMETIC = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.operator,
    ast.unaryop,
    ast.Constant,
    ast.Name,
    ast.Load,
    ast.Call,
)


@dataclass(frozen=True)
class Facts:
    """Mathematical properties of the unreduced loss as a function of its first prediction, targets fixed.

    convex: the value lies under every chord between predictions; the name of an operand: only as a function of it, and
        not of all predictions together (a mean and a variance).
    smooth: the gradient has no jumps.
    lipschitz: the largest magnitude of the gradient: a number, or a formula of the parameters ("delta", "c / 2",
        "max(q, 1 - q)"); None: unbounded.
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

    def check(self, loss: str, parameters: Mapping[str, object]) -> None:
        """Refuse a `lipschitz` that is no formula of the parameters of a loss."""
        if isinstance(self.lipschitz, str):
            known = {*parameters, *_FUNCTIONS}
            try:
                nodes = list(ast.walk(ast.parse(self.lipschitz, mode="eval")))
            except SyntaxError:
                nodes = [ast.Pass()]
            names = {node.id for node in nodes if isinstance(node, ast.Name)}
            if not all(isinstance(node, _ARITHMETIC) for node in nodes) or names - known:
                raise DeclarationError(
                    f"{loss}: lipschitz must be a number, None, or a formula of its parameters and "
                    f"{', '.join(_FUNCTIONS)}, got {self.lipschitz!r}; parameters: {', '.join(parameters) or 'none'}"
                )

    def steepest(self, parameters: Mapping[str, float]) -> float | None:
        """The largest magnitude of the gradient with these parameters; None if it is unbounded."""
        if not isinstance(self.lipschitz, str):
            return self.lipschitz
        return float(eval(self.lipschitz, {"__builtins__": {}}, {**_FUNCTIONS, **parameters}))  # `check` has read it
