"""The graph of a traced formula: nodes that Python's operators make, each stored once.

Nodes are interned by their `Trace`, so that identity is structural equality: what an author writes twice is computed
once, and `==` is free to mean the comparison that the author of a formula writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from losskit.errors import DeclarationError


class Expr:
    """A node: a constant, a variable, or a primitive applied to nodes."""

    __slots__ = ("args", "op", "trace", "value")

    def __init__(self, trace: Trace, op: str, args: tuple[Expr, ...], value: Any = None) -> None:
        self.trace, self.op, self.args, self.value = trace, op, args, value

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise DeclarationError(
            "a formula cannot branch on a traced value with `if`, `and`, `or` or `not`; "
            "use where(condition, a, b), and & or | between conditions"
        )

    def __float__(self) -> float:
        raise DeclarationError(
            "a formula cannot turn a traced value into a number; use the primitives of losskit.formula "
            "(exp, log, ...) instead of those of math or numpy"
        )

    __int__ = __index__ = __float__

    def __add__(self, other: Any) -> Expr:
        return self.trace.node("add", (self, other))

    def __radd__(self, other: Any) -> Expr:
        return self.trace.node("add", (other, self))

    def __sub__(self, other: Any) -> Expr:
        return self.trace.node("sub", (self, other))

    def __rsub__(self, other: Any) -> Expr:
        return self.trace.node("sub", (other, self))

    def __mul__(self, other: Any) -> Expr:
        return self.trace.node("mul", (self, other))

    def __rmul__(self, other: Any) -> Expr:
        return self.trace.node("mul", (other, self))

    def __truediv__(self, other: Any) -> Expr:
        return self.trace.node("div", (self, other))

    def __rtruediv__(self, other: Any) -> Expr:
        return self.trace.node("div", (other, self))

    def __pow__(self, other: Any) -> Expr:
        square = not isinstance(other, Expr) and other == 2
        return self.trace.node("mul", (self, self)) if square else self.trace.node("power", (self, other))

    def __neg__(self) -> Expr:
        return self.trace.node("neg", (self,))

    def __abs__(self) -> Expr:
        return self.trace.node("absolute", (self,))

    def __lt__(self, other: Any) -> Expr:
        return self.trace.node("lt", (self, other))

    def __le__(self, other: Any) -> Expr:
        return self.trace.node("le", (self, other))

    def __gt__(self, other: Any) -> Expr:
        return self.trace.node("gt", (self, other))

    def __ge__(self, other: Any) -> Expr:
        return self.trace.node("ge", (self, other))

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]  # a condition, not a truth value
        return self.trace.node("eq", (self, other))

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]
        return self.trace.node("ne", (self, other))

    def __and__(self, other: Any) -> Expr:
        return self.trace.node("both", (self, other))

    def __or__(self, other: Any) -> Expr:
        return self.trace.node("either", (self, other))

    def __repr__(self) -> str:
        from losskit.printing import print_expr

        return print_expr(self, "python")

    @property
    def is_condition(self) -> bool:
        return self.op in CONDITIONS


CONDITIONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "both", "either"})


class Trace:
    """The nodes of one traced formula, each stored once."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], Expr] = {}
        self.functions: dict[Any, Callable[..., Any]] = {}

    def variable(self, name: str) -> Expr:
        return self._intern("variable", (), name)

    def constant(self, number: float) -> Expr:
        return self._intern("constant", (), float(number))

    def node(self, op: str, args: Sequence[Any]) -> Expr:
        return self._intern(op, tuple(self.lift(arg) for arg in args))

    def lift(self, arg: Any) -> Expr:
        if isinstance(arg, Expr):
            if arg.trace is not self:
                raise DeclarationError("a formula mixes values of two different traces")
            return arg
        if isinstance(arg, int | float):
            return self.constant(arg)
        raise DeclarationError(f"a formula works on numbers and its own arguments, got {type(arg).__name__}")

    def _intern(self, op: str, args: tuple[Expr, ...], value: Any = None) -> Expr:
        # repr tells -0.0 from 0.0, which == does not.
        key = (op, repr(value), *map(id, args))
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Expr(self, op, args, value)
        return node


def topological(roots: Sequence[Expr]) -> list[Expr]:
    """The nodes below `roots`, arguments first, each once, in the order of the author."""
    order: list[Expr] = []
    seen: set[Expr] = set()

    def visit(node: Expr) -> None:
        if node in seen:
            return
        seen.add(node)
        for arg in node.args:
            visit(arg)
        order.append(node)

    for root in roots:
        visit(root)
    return order
