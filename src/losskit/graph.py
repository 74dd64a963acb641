"""The graph of a traced formula: nodes that Python's operators make, each stored once.

Nodes are interned by their `Trace`, so that identity is structural equality: what an author writes twice is computed
once, and `==` is free to mean the comparison that the author of a formula writes.

A node knows a few facts about its values, worked out from its arguments when it is made. Derivatives, and the choice
of constants to take out of loops, rest on these facts.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Container, Mapping, Sequence
from numbers import Real
from typing import Any

from losskit.errors import DeclarationError

LARGEST = (2.0 - 2.0**-23) * 2.0**127  # of float32, in which a formula may be computed
CONDITIONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "both", "either"})
_BOUNDED = frozenset({"sign", "sigmoid", "tanh", "erf", "erfc", "sin", "cos", "acos", "atan2"})
_KEEP_BOUNDS = frozenset("neg absolute add sub mul times mute where maximum minimum clamp floor stop".split())
# What torch and NumPy call the primitives whose names differ.
ALIASES = {
    "abs": "absolute", "fabs": "absolute", "pow": "power", "float_power": "power", "clip": "clamp", "max": "maximum",
    "min": "minimum", "fmax": "maximum", "fmin": "minimum", "logsigmoid": "log_sigmoid", "expit": "sigmoid",
    "log_expit": "log_sigmoid", "gammaln": "lgamma", "psi": "digamma", "sgn": "sign", "relu": "maximum",
    "square": "x * x", "reciprocal": "1.0 / x", "select": "where", "copysign": "sign",
    "arccos": "acos", "arctan2": "atan2", "detach": "stop",
    "stop_gradient": "stop",
}  # fmt: skip
_OPERATORS = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv,
    "true_divide": operator.truediv, "power": operator.pow, "less": operator.lt, "less_equal": operator.le,
    "greater": operator.gt, "greater_equal": operator.ge, "equal": operator.eq, "not_equal": operator.ne,
}  # fmt: skip


PUBLIC: dict[str, int] = {}  # the primitives that authors may write, with their arities; `formula` fills it in


class Expr:
    """A node: a constant, a variable, or a primitive applied to nodes.

    variables: the names that it depends on.
    carries: those of them whose NaN certainly makes it NaN.
    ops: the primitives below it; "div" only where the denominator may be anything.
    bounded, nonzero: whether it is certainly never infinite, never 0 (rounding aside).
    size: how many nodes it has when it is written out as one expression.
    """

    __slots__ = ("args", "bounded", "carries", "nonzero", "op", "ops", "size", "trace", "value", "variables")

    def __init__(self, trace: Trace, op: str, args: tuple[Expr, ...], value: Any = None) -> None:
        self.trace, self.op, self.args, self.value = trace, op, args, value
        self.variables: frozenset[str] = frozenset().union(*(arg.variables for arg in args))
        self.carries: frozenset[str] = _carried(op, args)
        below = frozenset[str]().union(*(arg.ops for arg in args))
        self.ops: frozenset[str] = below if not args or (op == "div" and args[1].bounded) else below | {op}
        self.size: int = 1 + sum(arg.size for arg in args)
        numbers = args[1:] if op == "where" else args
        self.bounded: bool = op in _BOUNDED or (op in _KEEP_BOUNDS and all(arg.bounded for arg in numbers))
        self.nonzero: bool = op in ("neg", "absolute", "mul") and all(arg.nonzero for arg in args)
        if op == "div":
            self.bounded = args[0].bounded and args[1].op == "constant" and args[1].nonzero
            self.nonzero = args[0].nonzero and (args[1].bounded or args[1].nonzero)
        elif op == "constant":
            self.bounded, self.nonzero = math.isfinite(value), value != 0.0
        elif op == "variable":
            self.variables = self.carries = frozenset({value})
            self.bounded, self.nonzero = value in trace.numbers, trace.numbers.get(value, False)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise DeclarationError(
            "a formula cannot branch on a traced value with `if`, `and`, `or`, `not`, min or max; "
            "use where(condition, a, b), & and | between conditions, minimum and maximum"
        )

    def __float__(self) -> float:
        raise DeclarationError(
            "a formula cannot turn a traced value into a number; use the primitives of losskit.formula "
            "(exp, log, ...) instead of those of math or numpy"
        )

    __int__ = __index__ = __float__

    def __getattr__(self, name: str) -> Any:
        hint = "" if name.startswith("__") else f"; {spelling(name)}"
        raise AttributeError(f"a value of a formula has no .{name}{hint}", name=name, obj=self)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "?")
        raise DeclarationError(f"a formula cannot use torch's {name}; {spelling(name)}")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "__call__" and not kwargs and ufunc.__name__ in _OPERATORS:  # a NumPy number on the left
            return _OPERATORS[ufunc.__name__](*(x if isinstance(x, Expr) else float(x) for x in inputs))
        raise DeclarationError(f"a formula cannot use numpy's {ufunc.__name__}; {spelling(ufunc.__name__)}")

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

    def __rpow__(self, other: Any) -> Expr:
        return self.trace.node("power", (other, self))

    def __neg__(self) -> Expr:
        return self.trace.node("neg", (self,))

    def __pos__(self) -> Expr:
        return self

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

    def __and__(self, other: Any) -> Any:
        if isinstance(other, bool) and self.is_condition:  # a switch
            return self if other else False
        return self.trace.node("both", (self, other))

    def __or__(self, other: Any) -> Any:
        if isinstance(other, bool) and self.is_condition:
            return True if other else self
        return self.trace.node("either", (self, other))

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> Expr:
        raise DeclarationError("a formula has no ~condition; write the opposite comparison, or swap a where's branches")

    @property
    def is_condition(self) -> bool:
        return self.op in CONDITIONS


def _carried(op: str, args: tuple[Expr, ...]) -> frozenset[str]:
    """The variables whose NaN certainly makes a node NaN."""
    if op == "where":
        return args[1].carries & args[2].carries
    if op == "clamp":
        return args[0].carries
    if op == "power":  # 1 to the power NaN and NaN to the power 0 are 1
        base, exponent = args
        fixed = exponent.op == "constant" and exponent.value != 0.0
        return (
            base.carries if fixed else exponent.carries if base.op == "constant" and base.value != 1.0 else frozenset()
        )
    if op == "hypot" or op in CONDITIONS:  # an infinite side makes it infinite, even beside a NaN
        return frozenset()
    return frozenset().union(*(arg.carries for arg in args))


def spelling(name: str) -> str:
    """What to write in a formula instead of what torch, NumPy or Python call `name`."""
    public = list(PUBLIC)
    meant = ALIASES.get(name) or name.removesuffix("_")
    if meant not in public and meant not in ALIASES.values():
        close = difflib.get_close_matches(name, [*public, *ALIASES], n=1)
        meant = ALIASES.get(close[0], close[0]) if close else ""
    if not meant:
        return "write it with the primitives of losskit.formula"
    if meant not in public:
        return f"write {meant}"
    places = {"where": "condition, a, b", "clamp": "x, low, high"}.get(meant)
    places = places or ", ".join(["x", "y"][: PUBLIC[meant]])
    return f"write {meant}({places}) of losskit.formula"


class Trace:
    """The nodes of one traced formula, each stored once.

    numbers: the variables that are parameters, and whether they are certainly not 0. Parameters are finite.
    """

    def __init__(self, numbers: Mapping[str, bool] | None = None) -> None:
        self.numbers = dict(numbers or {})
        self._nodes: dict[tuple[Any, ...], Expr] = {}
        self.functions: dict[Any, Callable[..., Any]] = {}

    def variable(self, name: str) -> Expr:
        return self._intern("variable", (), name)

    def constant(self, number: Any) -> Expr:
        try:
            value = float(number)
        except OverflowError:  # of an integer
            value = 2.0 * LARGEST
        if LARGEST < abs(value) < math.inf:
            raise DeclarationError(
                f"a formula is computed in float32 too, where the largest number is {LARGEST:.7g}; "
                f"got {str(number)[:20]}"
            )
        return self._intern("constant", (), value)

    def node(self, op: str, args: Sequence[Any]) -> Expr:
        lifted = tuple(self.lift(arg) for arg in args)
        _check_kinds(op, lifted)
        return self._intern(op, lifted)

    def lift(self, arg: Any) -> Expr:
        if isinstance(arg, Expr):
            if arg.trace is not self:
                raise DeclarationError("a formula mixes values of two different traces")
            return arg
        if isinstance(arg, Real):
            return self.constant(arg)
        raise DeclarationError(f"a formula works on numbers and its own arguments, got {type(arg).__name__}")

    def parametric(self, node: Expr) -> bool:
        """Whether a node is a number that only parameters decide."""
        return bool(node.variables) and node.variables <= self.numbers.keys()

    def _intern(self, op: str, args: tuple[Expr, ...], value: Any = None) -> Expr:
        # repr tells -0.0 from 0.0, which == does not.
        key = (op, repr(value), *map(id, args))
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Expr(self, op, args, value)
        return node


def _check_kinds(op: str, args: tuple[Expr, ...]) -> None:
    """Refuse a condition in place of a number, and the reverse: not every language could print it."""
    for position, arg in enumerate(args):
        wanted = op in ("both", "either") or (op == "where" and position == 0)
        if wanted and not arg.is_condition:
            place = "the first argument of where" if op == "where" else "what & and | combine"
            raise DeclarationError(f"{place} must be a condition such as x > 0.0, got the number {_short(arg)}")
        if arg.is_condition and not wanted:
            raise DeclarationError(
                f"the condition {_short(arg)} is no number; write where({_short(arg)}, 1.0, 0.0) for one, "
                f"& and | between conditions"
            )


def _short(node: Expr) -> str:
    return repr(node) if node.size < 12 else "..."


def topological(roots: Sequence[Expr], leaves: Container[Expr] = ()) -> list[Expr]:
    """The nodes below `roots`, arguments first, each once, in the order of the author; not those below `leaves`."""
    order: list[Expr] = []
    seen: set[Expr] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:  # not recursive: a formula may be deeper than Python's stack
        node, complete = stack.pop()
        if complete:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [] if node in leaves else [(arg, False) for arg in reversed(node.args)]
    return order
