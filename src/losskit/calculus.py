"""What can be done with a formula's graph: its derivatives, of any order, and its value to any precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from losskit.errors import DeclarationError
from losskit.formula import PRIMITIVES
from losskit.graph import Expr, topological
from losskit.printing import function


def derivative(root: Expr, variable: Expr) -> Expr:
    """The derivative of `root` with respect to `variable`, as another formula of the same trace."""
    tangents: dict[Expr, Expr | None] = {}
    for node in topological([root]):
        if node is variable:
            tangents[node] = root.trace.constant(1.0)
            continue
        arg_tangents = [tangents[arg] for arg in node.args]
        if node.is_condition or all(tangent is None for tangent in arg_tangents):
            tangents[node] = None
            continue
        rule = PRIMITIVES[node.op].derivative
        if rule is None:
            raise DeclarationError(f"{node.op} has no derivative rule; write the gradient by hand in `grad`")
        tangents[node] = rule(node.args, arg_tangents, node)
    tangent = tangents[root]
    return root.trace.constant(0.0) if tangent is None else tangent


class Differentiable:
    """A formula with its parameters fixed, as a function of its operands, and its derivatives as far as asked for.

    Derivatives of every order are formulas too, so a branch not taken cannot make a second derivative NaN, which
    is what torch's own derivative of `where` does.
    """

    def __init__(
        self, root: Expr, operands: Sequence[str], parameters: dict[str, float], gradients: Sequence[Expr] = ()
    ) -> None:
        self.root, self.operands, self.parameters, self.roots = root, operands, parameters, gradients
        self.derivatives: list[Differentiable] | None = None
        functions = root.trace.functions
        if root not in functions:
            functions[root] = function(root, [*operands, *parameters])
        self.function, self.values = functions[root], list(parameters.values())
        self.plain_function: Callable[..., Any] | None = None

    def __call__(self, *operands: Any) -> Any:
        try:
            return self.function(*operands, *self.values)
        except ZeroDivisionError:  # Python numbers raise where tensors give infinity
            return self.function(*operands, *(torch.tensor(x, dtype=torch.float64) for x in self.values))

    def plain(self, *operands: Any) -> Any:
        """The formula as torch's own operators, which torch differentiates: for graphs that have to run without losskit."""
        assert self.plain_function is not None
        return self.plain_function(*operands, *self.values)

    def gradients(self) -> list[Differentiable]:
        """The derivative by each operand."""
        if self.derivatives is None:
            roots = self.roots or [derivative(self.root, self.root.trace.variable(name)) for name in self.operands]
            self.derivatives = [Differentiable(root, self.operands, self.parameters) for root in roots]
        return self.derivatives


def guarded(root: Expr, harmless: Mapping[str, float]) -> Expr:
    """The same formula, where a branch that is not taken is computed at a harmless point.

    torch differentiates both branches of a `where`, and multiplies the derivative of the one not taken by 0, which gives
    NaN where that derivative is infinite. `harmless` are values of the variables that stand in for it.
    """
    trace = root.trace
    memo: dict[tuple[Any, ...], Expr] = {}

    def build(node: Expr, path: tuple[tuple[Expr, bool], ...]) -> Expr:
        key = (node, path)
        if key in memo:
            return memo[key]
        if node.op == "variable":
            result = node
            for condition, holds in path if node.value in harmless else ():
                point = trace.constant(harmless[node.value])
                result = trace.node("where", (condition, result, point) if holds else (condition, point, result))
        elif node.op == "where":
            condition = node.args[0]
            branches = (build(branch, (*path, (condition, i == 0))) for i, branch in enumerate(node.args[1:]))
            result = trace.node("where", (condition, *branches))
        else:
            result = trace.node(node.op, [build(arg, path) for arg in node.args]) if node.args else node
        memo[key] = result
        return result

    return build(root, ())


def truth(root: Expr, variables: dict[str, Any]) -> Any:
    """The value of `root` in mpmath's working precision; only the branch taken of a `where` is computed."""
    import mpmath

    memo: dict[Expr, Any] = {}

    def compute(node: Expr) -> Any:
        if node in memo:
            return memo[node]
        if node.op == "constant":
            result = mpmath.mpf(node.value)
        elif node.op == "variable":
            result = mpmath.mpf(variables[node.value])
        elif node.op == "where":
            result = compute(node.args[1] if compute(node.args[0]) else node.args[2])
        else:
            result = PRIMITIVES[node.op].mpmath(*map(compute, node.args))
        memo[node] = result
        return result

    return compute(root)
