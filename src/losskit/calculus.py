"""What can be done with a formula's graph: its derivatives, of any order, and its value to any precision."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from losskit.errors import DeclarationError
from losskit.formula import PLAIN, PRIMITIVES, chain, ratio, total, where
from losskit.graph import Expr, topological
from losskit.printing import function
from losskit_guide import scalar


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
        of_squares = _of_squares(node, tangents) if node.op == "sqrt" else None
        tangents[node] = rule(node.args, arg_tangents, node) if of_squares is None else of_squares
    tangent = tangents[root]
    return root.trace.constant(0.0) if tangent is None else tangent


def _of_squares(root: Expr, tangents: dict[Expr, Expr | None]) -> Expr | None:
    """The tangent of sqrt(a * a + b * b + ...), None where nothing is squared.

    1 / (2 root) is infinite at 0, and 0 at infinity; the slope a / root is neither.
    """
    terms, squares, result = [root.args[0]], 0, None
    while terms:
        term = terms.pop()
        if term.op == "add":
            terms += term.args
        elif term.op == "mul" and term.args[0] is term.args[1]:
            squares += 1
            side = term.args[0]
            result = total(result, chain(ratio(side, root), tangents[side]))
        else:
            result = total(result, chain(0.5 / root, tangents[term]))
    return result if squares else None


def guarded(gradient: Expr, value: Expr, operands: Sequence[str]) -> Expr:
    """A derived gradient that is NaN where an operand is, and the value with it.

    A comparison with NaN is false and sends a choice into a branch whose slope may be a constant.
    """
    lost = [name for name in operands if name in value.variables and name not in gradient.carries]
    if not lost:
        return gradient
    variables = [value.trace.variable(name) for name in lost]
    nan = variables[0] != variables[0]
    for x in variables[1:]:
        nan = nan | (x != x)
    # A value may be NaN for other reasons (inf - inf), where the slope has a limit; and an author may have taken NaN
    # out of the value, by where(x == x, ..., 0.0).
    return where(nan & (value != value) if set(lost) - value.carries else nan, math.nan, gradient)


def parametric(roots: Sequence[Expr]) -> list[Expr]:
    """The largest parts of formulas that depend on parameters alone, parameters themselves included."""
    trace = roots[0].trace
    order = topological(roots)
    used = {arg for node in order if not trace.parametric(node) for arg in node.args} | set(roots)
    return [node for node in order if node in used and trace.parametric(node)]


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": scalar.divide, "neg": operator.neg,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge, "eq": operator.eq, "ne": operator.ne,
    "both": operator.and_, "either": operator.or_,
}  # fmt: skip


def number(root: Expr, parameters: Mapping[str, float]) -> Any:
    """The value of a part that depends on parameters alone, in float64. Pure Python: torch may be tracing."""
    found: dict[Expr, Any] = {}
    for node in topological([root]):
        if node.op == "constant":
            found[node] = node.value
        elif node.op == "variable":
            found[node] = float(parameters[node.value])
        else:
            result = (_ARITHMETIC.get(node.op) or getattr(scalar, node.op))(*(found[arg] for arg in node.args))
            found[node] = result if node.is_condition else float(result)
    return found[root]


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
        self.function, self.values = self._printed(root, {})
        self.plain_function: tuple[Callable[..., Any], list[Any]] | None = None

    def _printed(self, root: Expr, instead: Mapping[str, Callable[..., Any]]) -> tuple[Callable[..., Any], list[Any]]:
        """A graph as a function, and the values of its parts that depend on parameters alone."""
        functions, numbers = root.trace.functions, parametric([root])
        key = (root, bool(instead))
        if key not in functions:
            names = [x.value if x.op == "variable" else f"number{i}_" for i, x in enumerate(numbers)]
            functions[key] = function(root, [*self.operands, *names], dict(zip(numbers, names, strict=True)), instead)
        return functions[key], [number(x, self.parameters) for x in numbers]

    def __call__(self, *operands: Any) -> Any:
        return self.function(*operands, *self.values)

    def plain(self, *operands: Any) -> Any:
        """The formula as torch's own operators, which torch differentiates: for graphs that run without losskit."""
        assert self.plain_function is not None
        function, values = self.plain_function
        return function(*operands, *values)

    def prepare(self, harmless: Mapping[str, float]) -> None:
        """Make what torch.compile cannot trace the making of; harmless: see `sheltered`."""
        self.gradients()
        self.plain_function = self._printed(sheltered(self.root, harmless), PLAIN)

    def gradients(self) -> list[Differentiable]:
        """The derivative by each operand."""
        if self.derivatives is None:
            roots = self.roots or [
                guarded(derivative(self.root, self.root.trace.variable(name)), self.root, self.operands)
                for name in self.operands
            ]
            self.derivatives = [Differentiable(root, self.operands, self.parameters) for root in roots]
        return self.derivatives


def sheltered(root: Expr, harmless: Mapping[str, float]) -> Expr:
    """The same formula, where a branch that is not taken is computed at a harmless point.

    torch differentiates both branches of a `where` and multiplies the derivative of the one not taken by 0,
    which gives NaN where that derivative is infinite. `harmless` are values of the variables that stand in for it.
    """
    trace = root.trace
    choices = {node: "" for node in topological([root]) if node.op == "where"}
    if len(choices) > 20:  # each choice within a choice doubles the parts to build
        return root
    memo: dict[tuple[Any, ...], Expr] = {}

    def build(root: Expr, path: tuple[tuple[Expr, bool], ...]) -> Expr:
        """A part of the formula that is reached by these conditions; recursive in the depth of choices only."""
        if (root, path) in memo:
            return memo[root, path]
        done: dict[Expr, Expr] = {}
        for node in topological([root], choices):
            if node.op == "where":
                taken, other = (build(x, (*path, (node.args[0], x is node.args[1]))) for x in node.args[1:])
                done[node] = trace.node("where", (node.args[0], taken, other))
            elif node.op == "variable" and node.value in harmless:
                done[node], point = node, trace.constant(harmless[node.value])
                for condition, holds in path:
                    pair = (done[node], point) if holds else (point, done[node])
                    done[node] = trace.node("where", (condition, *pair))
            else:
                done[node] = trace.node(node.op, [done[arg] for arg in node.args]) if node.args else node
        memo[root, path] = done[root]
        return done[root]

    return build(root, ())


def truth(root: Expr, variables: dict[str, Any], instead: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """The value of `root` in mpmath's working precision; only the branch taken of a `where` is computed.

    `instead` replaces primitives by name, and under "constant" what a constant stands for.
    """
    import mpmath

    memo: dict[Expr, Any] = {}

    def compute(node: Expr) -> Any:
        if node in memo:
            return memo[node]
        if node.op == "constant":
            result = (instead or {}).get("constant", mpmath.mpf)(node.value)
        elif node.op == "variable":
            result = mpmath.mpf(variables[node.value])
        elif node.op == "where":
            result = compute(node.args[1] if compute(node.args[0]) else node.args[2])
        else:
            result = ((instead or {}).get(node.op) or PRIMITIVES[node.op].mpmath)(*map(compute, node.args))
        memo[node] = result
        return result

    return compute(root)
