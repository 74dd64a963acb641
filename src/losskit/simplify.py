"""Derivatives as people write them: shorter, and equal wherever both are finite. For display, never for computing.

1. What only NaN, infinities and signs of zeros need is left out.
2. Choices come first: `where` inside of a sum becomes a sum in each case, and what is known in a case is used there.
3. Each case is simplified by sympy, which comes with torch; the shortest of its forms is taken.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from losskit.formula import PRIMITIVES, where
from losskit.graph import Expr, topological
from losskit.printing import print_expr

_LARGEST = 150  # nodes of a formula written out: sympy takes seconds for longer ones, and nobody reads them
_OPPOSITE = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le", "eq": "ne", "ne": "eq"}
_TURNED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}


def simplified(root: Expr, names: Sequence[str] = (), signs: Iterable[str] = ()) -> Expr:
    """A formula as people write it; names: its variables, those that come first; signs: those that are -1 or 1."""
    root = _settled(root)
    condition = _first_condition(root, signs)
    if condition is None:
        return root if root.size > _LARGEST or _is_fitted(root) else _shortest(root, names, signs)
    if root.size > 4 * _LARGEST:
        return root
    yes, no = (simplified(_assumed(root, condition, truth, signs), names, signs) for truth in (True, False))
    if yes is no:
        return yes
    if yes.op == "constant" and yes.value == 0.0:  # what happens comes first
        condition, yes, no = root.trace.node(_OPPOSITE[condition.op], condition.args), no, yes
    if condition.op in _TURNED and condition.args[0].op == "constant":
        condition = root.trace.node(_TURNED[condition.op], condition.args[::-1])
    result: Expr = where(condition, yes, no)
    return result


def _first_condition(root: Expr, signs: Iterable[str]) -> Expr | None:
    """The comparison that decides first: that of a label, else the outermost."""
    choices = [node.args[0] for node in reversed(topological([root])) if node.op == "where"]
    found = [node for choice in choices for node in topological([choice]) if node.op in _OPPOSITE]
    labels = [x for x in found if x.op in ("eq", "ne") and x.args[0].op == "variable" and x.args[1].op == "constant"]
    if labels and labels[0].args[0].value in signs:
        return root.trace.node("eq", (labels[0].args[0], 1.0))
    return next(iter(labels + found), None)


def with_powers(root: Expr) -> Expr:
    """A formula in which `a * x * x` is a times the square of x, which people see at once."""

    def change(node: Expr, new: list[Any]) -> Any:
        if node.op != "mul" or new[0].op != "mul" or new[0].args[1] is not new[1] or new[1].op == "constant":
            return None
        rest, x = new[0].args
        return node.trace.node("power", (x, 3.0)) if rest is x else rest * (x * x)

    return rebuilt(root, change)


def rebuilt(root: Expr, change: Callable[[Expr, list[Any]], Any]) -> Expr:
    """A formula with nodes exchanged: `change` gets a node and its new arguments, and returns what replaces it."""
    found: dict[Expr, Any] = {}
    for node in topological([root]):
        arguments = [found[arg] for arg in node.args]
        new = change(node, arguments)
        found[node] = new if new is not None else root.trace.node(node.op, arguments) if node.args else node
    result: Expr = root.trace.lift(found[root])
    return result


def _settled(root: Expr) -> Expr:
    """Without choices that ordinary numbers always decide alike."""

    return rebuilt(root, _decided)


def _decided(node: Expr, new: list[Any]) -> Any:
    """What a choice or a condition comes to, of which parts are known to hold or not to hold."""
    if node.op == "where" and isinstance(new[0], bool):
        return new[1] if new[0] else new[2]
    if node.op in ("both", "either") and any(isinstance(x, bool) for x in new):
        known, other = new if isinstance(new[0], bool) else new[::-1]
        return other if known == (node.op == "both") else known
    if node.op not in _OPPOSITE:
        return None
    a, b = new
    if a is b:
        return node.op in ("le", "ge", "eq")
    if a.op == b.op == "constant":
        return bool(getattr(operator, node.op)(a.value, b.value))
    if b.op == "constant" and math.isinf(b.value):  # ordinary numbers are finite
        return node.op == "ne" or node.op in (("lt", "le") if b.value > 0 else ("gt", "ge"))
    if node.op == "gt" and a.op == "maximum" and b.op == "constant" and any(x is b for x in a.args):
        return node.trace.node("gt", (a.args[0] if a.args[1] is b else a.args[1], b))
    return None


def _assumed(root: Expr, condition: Expr, truth: bool, signs: Iterable[str]) -> Expr:
    """A formula where a condition is known to hold, or not to hold."""
    same = condition.op if truth else _OPPOSITE[condition.op]
    a, b = condition.args
    known: dict[Expr, Any] = {condition: truth, root.trace.node(_OPPOSITE[condition.op], (a, b)): not truth}
    if a.op == "variable" and b.op == "constant":
        if same == "eq":
            known[a] = b
        elif same == "ne" and a.value in signs:
            known[a] = root.trace.constant(-b.value)

    def change(node: Expr, new: list[Any]) -> Any:
        if node in known:
            return known[node]
        decided = _decided(node, new)
        if decided is not None:
            return decided
        if (
            node.op in ("maximum", "minimum")
            and set(map(id, node.args)) == {id(a), id(b)}
            and same in ("lt", "le", "gt", "ge")
        ):
            return a if (same in ("gt", "ge")) == (node.op == "maximum") else b
        return None

    return _settled(rebuilt(root, change))


def _is_fitted(root: Expr) -> bool:
    """Whether it has the coefficients of a fitted polynomial: nobody reads it, and sympy factors it for hours."""
    return sum(node.op == "constant" and not _is_small(node.value) for node in topological([root])) > 6


# ---------------------------------------------------------------------------------------------------------
# One case, by sympy


def _shortest(root: Expr, names: Sequence[str], signs: Iterable[str]) -> Expr:
    import sympy

    try:
        start = _to_sympy(root)
        forms = [start, *(form(start) for form in (sympy.simplify, sympy.factor, sympy.cancel, sympy.expand))]
        squares = {symbol**2: 1 for symbol in start.free_symbols if symbol.name in signs}
        forms = [form for each in forms for form in (each, sympy.factor_terms(each.subs(squares)))]
    except (_UnknownError, sympy.PolynomialError, NotImplementedError, RecursionError, ZeroDivisionError):
        return root
    others = (node.value for node in topological([root]) if node.op == "variable")
    order = {name: place for place, name in enumerate(dict.fromkeys([*names, *others]))}
    found = [root]
    for form in dict.fromkeys(forms):
        try:
            found.append(_from_sympy(form, root, order))
        except _UnknownError:
            continue
    return min(found, key=lambda expr: len(print_expr(expr, "plain")))


class _UnknownError(Exception):
    """Something that sympy, or the formula language, has no word for."""


def _to_sympy(root: Expr) -> Any:
    import sympy

    functions: Mapping[str, Callable[..., Any]] = {
        "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "times": lambda a, b: a * b,
        "mute": lambda a, b: a * b, "div": lambda a, b: a / b, "neg": lambda a: -a, "power": lambda a, b: a**b,
        "absolute": sympy.Abs, "sign": sympy.sign, "sqrt": sympy.sqrt, "exp": sympy.exp, "log": sympy.log,
        "expm1": lambda a: sympy.exp(a) - 1, "log1p": lambda a: sympy.log(1 + a),
        "xlogy": lambda a, b: a * sympy.log(b), "sigmoid": _sigmoid,
        "maximum": sympy.Function("maximum"), "minimum": sympy.Function("minimum"),
    }  # fmt: skip
    found: dict[Expr, Any] = {}
    for node in topological([root]):
        if node.op == "constant":
            found[node] = _exact(node.value)
        elif node.op == "variable":
            found[node] = sympy.Symbol(node.value, real=True, positive=root.trace.numbers.get(node.value) or None)
        elif node.op in ("where", *_OPPOSITE, "both", "either"):
            raise _UnknownError(node.op)
        else:
            function = functions.get(node.op) or sympy.Function(node.op, real=True)
            found[node] = function(*(found[arg] for arg in node.args))
    return found[root]


def _exact(value: float) -> Any:
    """A number as a fraction where it is one of small numbers."""
    import sympy

    if not math.isfinite(value):
        raise _UnknownError(str(value))
    return sympy.Rational(int(value * 64), 64) if _is_small(value) else sympy.Float(value)


def _is_small(value: float) -> bool:
    """Whether a number is a fraction of small numbers."""
    return float(value * 64).is_integer() and abs(value) < 1e6


def _sigmoid(x: Any) -> Any:
    """The sigmoid, of -x as 1 less that of x, so that both are one symbol."""
    import sympy

    function = sympy.Function("sigmoid", real=True)
    return 1 - function(-x) if x.could_extract_minus_sign() else function(x)


def _from_sympy(form: Any, root: Expr, order: Mapping[str, int]) -> Expr:
    """A form of sympy's in the formula language; positive terms first, variables in the author's order."""
    import sympy

    trace = root.trace
    last = len(order)

    def place(term: Any) -> tuple[bool, int, str]:
        places = [order.get(str(symbol), last) for symbol in term.free_symbols]
        return term.could_extract_minus_sign(), min(places, default=-1), str(term)

    def factors(x: Any) -> list[Any]:
        return sorted(sympy.Mul.make_args(x), key=lambda f: (not f.is_Number, not f.is_Symbol, place(f)[1:]))

    def product(parts: list[Any]) -> Any:
        made = [convert(part) for part in parts if part != 1]
        return functools.reduce(operator.mul, made) if made else 1.0

    def convert(x: Any) -> Any:
        if x.is_Number:
            return trace.lift(float(x.p)) / float(x.q) if x.is_Rational and x.q not in (1, 2, 4) else float(x)
        if x.is_Symbol:
            return trace.variable(str(x))
        if x.is_Add:
            first, *rest = sorted(x.args, key=place)
            result = convert(first)
            for term in rest:
                minus = term.could_extract_minus_sign()
                result = result - convert(-term) if minus else result + convert(term)
            return result
        if x.is_Mul:
            number, rest = x.as_coeff_Mul()
            if number == -1:
                return -trace.lift(convert(rest))
            top, bottom = sympy.fraction(rest)
            if top.is_Add and bottom.is_Add and min(top.args, key=lambda y: place(y)[1]).could_extract_minus_sign():
                top, bottom = -top, -bottom
            halves = not number.is_Rational or number.q in (1, 2, 4)
            above = [sympy.S(number if halves else number.p), *factors(top)]
            below = [sympy.S(1 if halves else number.q), *factors(bottom)]
            quotient = product(above)
            return quotient if bottom == 1 and halves else trace.lift(quotient) / product(below)
        return _applied(x, convert, trace)

    return trace.lift(convert(form))


def _applied(x: Any, convert: Callable[[Any], Any], trace: Any) -> Any:
    """A power or a function of sympy's."""
    import sympy

    names = {sympy.Abs: "absolute", sympy.sign: "sign", sympy.exp: "exp", sympy.log: "log"}
    if isinstance(x, sympy.Pow):
        if x.base is sympy.E:
            return trace.node("exp", [convert(x.exp)])
        if x.exp.is_Number and x.exp < 0:
            return 1.0 / trace.lift(convert(x.base ** (-x.exp)))
        if x.exp == sympy.Rational(1, 2):
            return trace.node("sqrt", [convert(x.base)])
        base = trace.lift(convert(x.base))
        return base * base if x.exp == 2 else trace.node("power", [base, convert(x.exp)])
    name = names.get(x.func) or getattr(x.func, "__name__", "")
    if name == "log":
        for argument, way in ((x.args[0], 1), (1 - x.args[0], -1)):
            if getattr(argument.func, "__name__", "") == "sigmoid":
                return trace.node("log_sigmoid", [convert(way * argument.args[0])])
    if name not in PRIMITIVES or PRIMITIVES[name].arity != len(x.args):
        raise _UnknownError(name)
    return trace.node(name, [convert(arg) for arg in x.args])
