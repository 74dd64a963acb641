"""The formula language: ordinary Python functions that compute, differentiate and print themselves.

A formula is written once with the primitives of this file and runs on four kinds of arguments:

1. torch tensors: it computes, eagerly, on any device and dtype;
2. mpmath numbers: it is the truth that tests compare with;
3. Python numbers: it computes in float64;
4. traced symbols (`Expr`): it becomes a graph, which is differentiated and printed as C++, Triton, LaTeX
   and JavaScript.

The graph keeps the author's order of operations, which is the floating-point order: `((x - t) / s) ** 2`
must not become `(x - t) ** 2 / s ** 2`, which overflows. The only thing that tracing adds is sharing: equal
subexpressions are one node, printed as one temporary.

`PRIMITIVES`, at the end, is the whole vocabulary: a row per primitive with its spelling in every target and
its derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losskit.graph import Expr


@dataclass(frozen=True)
class Primitive:
    """One row of the table: how a primitive computes, prints and differentiates.

    `derivative(args, tangents, out)` is the forward-mode rule; a tangent that is None is zero. Forward mode
    keeps `where(c, a, b)` a selection of derivatives, so the branch not taken cannot contaminate the result
    with 0 * inf.
    """

    name: str
    arity: int
    torch: Callable[..., Tensor]
    mpmath: Callable[..., Any]
    cpp: str
    triton: str
    latex: str
    javascript: str
    derivative: Callable[[Sequence[Expr], Sequence[Expr | None], Expr], Expr | None] | None


def _apply(name: str, *args: Any) -> Any:
    """Apply the primitive `name` to tensors, mpmath numbers, plain numbers or symbols."""
    for arg in args:
        if isinstance(arg, Expr):
            return arg.trace.node(name, args)
    primitive = PRIMITIVES[name]
    like = next((arg for arg in args if isinstance(arg, Tensor) and arg.dtype != torch.bool), None)
    if like is not None or any(isinstance(arg, Tensor) for arg in args):
        return primitive.torch(*(_as_tensor(arg, like) for arg in args))
    if any(type(arg).__module__.startswith("mpmath") for arg in args):
        return primitive.mpmath(*args)
    if name in _ARITHMETIC:
        return primitive.mpmath(*args)
    result = primitive.torch(*(torch.tensor(arg, dtype=torch.float64) for arg in args))
    return result.item()


# What mpmath's spelling computes on Python numbers just as well, also while torch.compile traces.
_ARITHMETIC = frozenset("add sub mul div neg lt le gt ge eq ne both either where absolute".split())


def _as_tensor(arg: Any, like: Tensor | None) -> Tensor:
    if isinstance(arg, Tensor):
        return arg
    if isinstance(arg, bool):  # a comparison of parameters
        return torch.tensor(arg)
    reference = like if like is not None else torch.empty(0)
    return torch.full((), float(arg), dtype=reference.dtype, device=reference.device)


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, `b` elsewhere; the branch not taken has no influence at all."""
    return _apply("where", condition, a, b)


def absolute(x: Any) -> Any:
    """Magnitude of x; its derivative at 0 is 0."""
    return _apply("absolute", x)


def sign(x: Any) -> Any:
    """-1, 0 or 1; NaN for NaN."""
    return _apply("sign", x)


def sqrt(x: Any) -> Any:
    """Square root."""
    return _apply("sqrt", x)


def exp(x: Any) -> Any:
    """e to the power x."""
    return _apply("exp", x)


def expm1(x: Any) -> Any:
    """exp(x) - 1, accurate near 0."""
    return _apply("expm1", x)


def log(x: Any) -> Any:
    """Natural logarithm; -inf at 0, NaN below."""
    return _apply("log", x)


def log1p(x: Any) -> Any:
    """log(1 + x), accurate near 0."""
    return _apply("log1p", x)


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), accurate in both tails."""
    return _apply("softplus", x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), accurate in both tails. Write sigmoid(-x), never 1 - sigmoid(x)."""
    return _apply("sigmoid", x)


def log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x)), accurate in both tails."""
    return _apply("log_sigmoid", x)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return _apply("tanh", x)


def erf(x: Any) -> Any:
    """Error function."""
    return _apply("erf", x)


def lgamma(x: Any) -> Any:
    """Logarithm of the absolute value of the gamma function."""
    return _apply("lgamma", x)


def digamma(x: Any) -> Any:
    """Derivative of lgamma."""
    return _apply("digamma", x)


def trigamma(x: Any) -> Any:
    """Derivative of digamma."""
    return _apply("trigamma", x)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two; NaN if either is NaN. At a tie the derivative is that of `a`."""
    return _apply("maximum", a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two; NaN if either is NaN. At a tie the derivative is that of `a`."""
    return _apply("minimum", a, b)


def clamp(x: Any, low: Any, high: Any) -> Any:
    """x limited to [low, high]; at the limits the derivative is still that of x."""
    return _apply("clamp", x, low, high)


def times(weight: Any, x: Any) -> Any:
    """weight * x where a zero weight silences an infinite x: 0 * inf is 0. NaN stays NaN."""
    return _apply("times", weight, x)


def xlogy(x: Any, y: Any) -> Any:
    """x * log(y), and 0 where x is 0."""
    return _apply("xlogy", x, y)


def logaddexp(a: Any, b: Any) -> Any:
    """log(exp(a) + exp(b)) without overflow."""
    return _apply("logaddexp", a, b)


def hypot(a: Any, b: Any) -> Any:
    """sqrt(a*a + b*b) without overflow."""
    return _apply("hypot", a, b)


def power(a: Any, b: Any) -> Any:
    """a to the power b. Write x * x for a square."""
    return _apply("power", a, b)


# ---------------------------------------------------------------------------------------------------------
# Derivative rules are written with these, which leave out what is structurally zero or one.


def _is(x: Expr | None, number: float) -> bool:
    return x is not None and x.op == "constant" and x.value == number


def _mul(factor: Expr, tangent: Expr | None) -> Expr | None:
    if tangent is None or _is(tangent, 0.0) or _is(factor, 0.0):
        return None
    if _is(tangent, 1.0):
        return factor
    if _is(factor, 1.0):
        return tangent
    if _is(tangent, -1.0):
        return -factor
    return factor * tangent


def _sum(a: Expr | None, b: Expr | None) -> Expr | None:
    if a is None or b is None:
        return a if b is None else b
    if b.op == "neg":
        return a - b.args[0]
    return a + b


def _difference(a: Expr | None, b: Expr | None) -> Expr | None:
    if b is None:
        return a
    if a is None:
        return b.trace.constant(-1.0) if _is(b, 1.0) else -b
    return a - b


def _select(condition: Expr, a: Expr | None, b: Expr | None) -> Expr | None:
    if a is b:
        return a
    zero = condition.trace.constant(0.0)
    return where(condition, zero if a is None else a, zero if b is None else b)


def _unary(rule: Callable[[Expr, Expr], Expr]) -> Callable[..., Expr | None]:
    """The chain rule around `rule(x, out)`, the derivative of a function of one argument."""
    return lambda args, tangents, out: _mul(rule(args[0], out), tangents[0])


def _d_quotient(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    numerator = _difference(tangents[0], _mul(out, tangents[1]))
    return None if numerator is None else numerator / args[1]


def _d_power(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    base, exponent = args
    by_base = _mul(exponent * power(base, exponent - 1.0), tangents[0]) if tangents[0] is not None else None
    return _sum(by_base, _mul(times(out, log(base)), tangents[1]) if tangents[1] is not None else None)


def _d_times(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    weight, x = args
    by_x = tangents[1] if tangents[1] is None or _is(tangents[1], 1.0) else times(weight, tangents[1])
    return _sum(_mul(x, tangents[0]), weight if _is(by_x, 1.0) else by_x)


def _d_xlogy(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    x, y = args
    by_x = None if tangents[0] is None else _mul(log(y), tangents[0])
    return _sum(by_x, None if tangents[1] is None else _mul(x / y, tangents[1]))


def _d_logaddexp(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    a, b = args
    return _sum(_mul(sigmoid(a - b), tangents[0]), _mul(sigmoid(b - a), tangents[1]))


def _d_clamp(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    x, low, high = args
    return _select(x < low, tangents[1], _select(x > high, tangents[2], tangents[0]))


# ---------------------------------------------------------------------------------------------------------
# torch and mpmath implementations that need more than a name


def _softplus_torch(x: Tensor) -> Tensor:
    # F.softplus switches to the identity at 20, which is wrong by 580,105 ULP there in float64.
    return torch.maximum(x, torch.zeros_like(x)) + torch.log1p(torch.exp(-x.abs()))


def _sigmoid_torch(x: Tensor) -> Tensor:
    e = torch.exp(-x.abs())  # torch.sigmoid flushes subnormal results to 0
    return torch.where(x >= 0, torch.ones_like(e), e) / (1.0 + e)


def _times_torch(weight: Tensor, x: Tensor) -> Tensor:
    return torch.where((weight == 0) & (x == x), torch.zeros_like(weight * x), weight * x)


def _mp(name: str) -> Callable[..., Any]:
    def function(*args: Any) -> Any:
        import mpmath

        return getattr(mpmath, name)(*args)

    return function


def _mp_divide(a: Any, b: Any) -> Any:
    import mpmath

    if b != 0:
        return a / b
    return mpmath.nan if a == 0 or mpmath.isnan(a) else a * mpmath.inf


def _mp_log(x: Any) -> Any:
    import mpmath

    return mpmath.nan if x < 0 or mpmath.isnan(x) else mpmath.log(x)


def _mp_softplus(x: Any) -> Any:
    import mpmath

    if mpmath.isnan(x):
        return x
    return max(x, mpmath.mpf(0)) + mpmath.log1p(mpmath.exp(-abs(x)))


def _mp_sigmoid(x: Any) -> Any:
    import mpmath

    e = mpmath.exp(-abs(x))
    return (1 if x >= 0 else e) / (1 + e)


def _mp_times(weight: Any, x: Any) -> Any:
    return weight if weight == 0 and x == x else weight * x


def _mp_pick(first: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    return lambda a, b: a if a != a or (b == b and first(a, b)) else b


def _mp_sign(x: Any) -> Any:
    import mpmath

    return x if x != x else mpmath.sign(x)


def _row(
    name: str,
    arity: int,
    torch_: Callable[..., Tensor],
    mpmath_: Callable[..., Any] | str,
    latex: str,
    derivative_: Callable[..., Expr | None] | None,
    *,
    cpp: str = "",
    triton: str = "",
    javascript: str = "",
) -> tuple[str, Primitive]:
    """One row; C++, Triton and JavaScript default to a call of a helper with the primitive's own name."""
    arguments = ", ".join(f"{{{i}}}" for i in range(arity))
    row = Primitive(
        name=name,
        arity=arity,
        torch=torch_,
        mpmath=_mp(mpmath_) if isinstance(mpmath_, str) else mpmath_,
        cpp=cpp or f"lk::{name}({arguments})",  # qualified: ::exp(double) would win over a template
        triton=triton or cpp or f"lk.{name}({arguments})",
        latex=latex,
        javascript=javascript or cpp or f"lk.{name}({arguments})",
        derivative=derivative_,
    )
    return name, row


def _operator(
    name: str,
    symbol: str,
    torch_: Callable[..., Tensor],
    mpmath_: Callable[..., Any],
    latex: str,
    derivative_: Callable[..., Expr | None] | None,
    javascript: str = "",
    triton: str = "",
) -> tuple[str, Primitive]:
    """A row for an infix operator, spelt alike in most languages."""
    return _row(name, 2, torch_, mpmath_, latex, derivative_, cpp=f"{{0}} {symbol} {{1}}", triton=triton,
                javascript=javascript)  # fmt: skip


PRIMITIVES: dict[str, Primitive] = dict([
    # name, arity or symbol, torch, mpmath, LaTeX, derivative [, C++] [, Triton] [, JavaScript]
    _operator("add", "+", torch.add, lambda a, b: a + b, "{0} + {1}", lambda a, d, o: _sum(d[0], d[1])),
    _operator("sub", "-", torch.sub, lambda a, b: a - b, "{0} - {1}", lambda a, d, o: _difference(d[0], d[1])),
    _operator("mul", "*", torch.mul, lambda a, b: a * b, r"{0} \, {1}",
              lambda a, d, o: _mul(2.0 * a[0], d[0]) if a[0] is a[1] else _sum(_mul(a[1], d[0]), _mul(a[0], d[1]))),
    _operator("div", "/", torch.div, _mp_divide, r"\frac{{{0}}}{{{1}}}", _d_quotient, triton="lk.divide({0}, {1})"),
    _row("neg", 1, torch.neg, lambda a: -a, "-{0}", lambda a, d, o: _difference(None, d[0]), cpp="-{0}"),
    _operator("lt", "<", torch.lt, lambda a, b: a < b, "{0} < {1}", None),
    _operator("le", "<=", torch.le, lambda a, b: a <= b, r"{0} \le {1}", None),
    _operator("gt", ">", torch.gt, lambda a, b: a > b, "{0} > {1}", None),
    _operator("ge", ">=", torch.ge, lambda a, b: a >= b, r"{0} \ge {1}", None),
    _operator("eq", "==", torch.eq, lambda a, b: a == b, "{0} = {1}", None, "{0} === {1}"),
    _operator("ne", "!=", torch.ne, lambda a, b: a != b, r"{0} \ne {1}", None, "{0} !== {1}"),
    _operator("both", "&", torch.logical_and, lambda a, b: a and b, r"{0} \wedge {1}", None, "{0} && {1}"),
    _operator("either", "|", torch.logical_or, lambda a, b: a or b, r"{0} \vee {1}", None, "{0} || {1}"),
    _row("where", 3, torch.where, lambda c, a, b: a if c else b,
         r"\begin{{cases}} {1} & {0} \\ {2} & \text{{otherwise}} \end{{cases}}",
         lambda a, d, o: _select(a[0], d[1], d[2]), triton="tl.where({0}, {1}, {2})",
         javascript="({0} ? {1} : {2})"),
    _row("absolute", 1, torch.abs, lambda x: abs(x), r"\left|{0}\right|", _unary(lambda x, o: sign(x)),
         triton="tl.abs({0})", javascript="Math.abs({0})"),
    _row("sign", 1, lambda x: torch.where(x == x, torch.sign(x), x), _mp_sign,
         r"\operatorname{{sign}}\left({0}\right)", lambda a, d, o: None, javascript="Math.sign({0})"),
    _row("sqrt", 1, torch.sqrt, "sqrt", r"\sqrt{{{0}}}", _unary(lambda x, o: 0.5 / o),
         triton="lk.sqrt({0})", javascript="Math.sqrt({0})"),
    _row("exp", 1, torch.exp, "exp", r"e^{{{0}}}", _unary(lambda x, o: o), triton="libdevice.exp({0})",
         javascript="Math.exp({0})"),
    _row("expm1", 1, torch.expm1, "expm1", r"\left(e^{{{0}}} - 1\right)", _unary(lambda x, o: exp(x)),
         triton="libdevice.expm1({0})", javascript="Math.expm1({0})"),
    _row("log", 1, torch.log, _mp_log, r"\log\left({0}\right)", _unary(lambda x, o: 1.0 / x),
         triton="libdevice.log({0})", javascript="Math.log({0})"),
    _row("log1p", 1, torch.log1p, lambda x: _mp_log(1 + x), r"\log\left(1 + {0}\right)",
         _unary(lambda x, o: 1.0 / (1.0 + x)), triton="libdevice.log1p({0})", javascript="Math.log1p({0})"),
    _row("softplus", 1, _softplus_torch, _mp_softplus, r"\operatorname{{softplus}}\left({0}\right)",
         _unary(lambda x, o: sigmoid(x))),
    _row("sigmoid", 1, _sigmoid_torch, _mp_sigmoid, r"\sigma\left({0}\right)",
         _unary(lambda x, o: o * sigmoid(-x))),
    _row("log_sigmoid", 1, lambda x: -_softplus_torch(-x), lambda x: -_mp_softplus(-x),
         r"\log\sigma\left({0}\right)", _unary(lambda x, o: sigmoid(-x))),
    _row("tanh", 1, torch.tanh, "tanh", r"\tanh\left({0}\right)", _unary(lambda x, o: 1.0 - o * o),
         triton="libdevice.tanh({0})", javascript="Math.tanh({0})"),
    _row("erf", 1, torch.erf, "erf", r"\operatorname{{erf}}\left({0}\right)",
         _unary(lambda x, o: (2.0 / math.sqrt(math.pi)) * exp(-(x * x))), triton="libdevice.erf({0})"),
    _row("lgamma", 1, torch.lgamma, lambda x: _mp("loggamma")(x).real, r"\log\Gamma\left({0}\right)",
         _unary(lambda x, o: digamma(x)), triton="libdevice.lgamma({0})"),
    _row("digamma", 1, torch.digamma, "digamma", r"\psi\left({0}\right)", _unary(lambda x, o: trigamma(x))),
    _row("trigamma", 1, lambda x: torch.special.polygamma(1, x), lambda x: _mp("psi")(1, x),
         r"\psi'\left({0}\right)", None),
    _row("maximum", 2, torch.maximum, _mp_pick(lambda a, b: a >= b), r"\max\left({0},\, {1}\right)",
         lambda a, d, o: _select(a[0] >= a[1], d[0], d[1]), javascript="Math.max({0}, {1})"),
    _row("minimum", 2, torch.minimum, _mp_pick(lambda a, b: a <= b), r"\min\left({0},\, {1}\right)",
         lambda a, d, o: _select(a[0] <= a[1], d[0], d[1]), javascript="Math.min({0}, {1})"),
    _row("clamp", 3, lambda x, low, high: torch.clamp(x, low, high),
         lambda x, low, high: low if x < low else high if x > high else x,
         r"\operatorname{{clamp}}\left({0},\, {1},\, {2}\right)", _d_clamp),
    _row("times", 2, _times_torch, _mp_times, r"{0} \cdot {1}", _d_times),
    _row("xlogy", 2, torch.xlogy, lambda x, y: _mp_times(x, _mp_log(y)), r"{0} \log\left({1}\right)", _d_xlogy),
    _row("logaddexp", 2, torch.logaddexp, lambda a, b: a + _mp_softplus(b - a) if a != b else a + _mp("log")(2),
         r"\log\left(e^{{{0}}} + e^{{{1}}}\right)", _d_logaddexp),
    _row("hypot", 2, torch.hypot, "hypot", r"\sqrt{{{0}^2 + {1}^2}}",
         lambda a, d, o: _sum(_mul(a[0] / o, d[0]), _mul(a[1] / o, d[1])), javascript="Math.hypot({0}, {1})"),
    _row("power", 2, torch.pow, lambda a, b: a**b, r"\left({0}\right)^{{{1}}}", _d_power,
         javascript="Math.pow({0}, {1})"),
])  # fmt: skip

# Where torch differentiates: spellings of which torch knows the derivative at 0, too, and which ONNX has.
PLAIN: dict[str, Callable[..., Tensor]] = {
    "softplus": lambda x: -torch.nn.functional.logsigmoid(-x),
    "sigmoid": torch.sigmoid,
    "log_sigmoid": torch.nn.functional.logsigmoid,
}
