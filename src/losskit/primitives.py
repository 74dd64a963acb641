"""The table of primitives: a row for each, with derivative, implementations and spelling in every target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.graph import Expr
from losskit.implementations import (
    expm1m_torch,
    log1mexp_torch,
    minus_log1p_torch,
    mp,
    mp_acos,
    mp_divide,
    mp_erfc,
    mp_expm1m,
    mp_floor,
    mp_log,
    mp_log1mexp,
    mp_minus_log1p,
    mp_mute,
    mp_pick,
    mp_sigmoid,
    mp_sign,
    mp_softplus,
    mp_times,
    mute_torch,
    sigmoid_torch,
    softplus_torch,
    times_finite,
    times_torch,
)
from losskit.language import (
    PRIMITIVES,
    Primitive,
    absolute,
    cos,
    digamma,
    exp,
    expm1,
    hypot,
    log,
    power,
    sigmoid,
    sign,
    sin,
    sqrt,
    times,
    trigamma,
    where,
)

# ---------------------------------------------------------------------------------------------------------
# Derivative rules are written with these, which leave out what is structurally zero or one.
#
# The chain rule multiplies, and where a function has a corner or an end it multiplies 0 by infinity, which IEEE calls
# NaN. What such a product is:
#
# 1. A tangent of 0 silences an infinite slope: sqrt(d * d), power(absolute(d), 0.5) and log(1 + d * d - 1) do not move
#    where d does not. At a corner this is the convention of `absolute`: 0.
# 2. A slope of 0 silences an infinite tangent only where the function dies away faster than its argument grows: exp,
#    tanh and the like of anything but logarithms; log, log1p and quotients of what grows as powers do (`_TAME`). In
#    exp(log(x)) at 0 and log(1 + exp(x)) beyond the largest exponential the limit is neither, and NaN says so.
# 3. A factor of 0 silences the infinite tangent of the other: x * sqrt(x) at 0.
# 4. The root of a sum of squares has bounded slopes, whatever its sides are (see `losskit.calculus`).

_LOGARITHMS = frozenset({"log", "log1p", "xlogy", "lgamma", "digamma", "trigamma", "log1mexp", "minus_log1p"})
_SINGULAR = _LOGARITHMS | {"div", "power"}
_TAME = frozenset(
    "add sub mul neg absolute sign where maximum minimum clamp hypot sqrt times mute sigmoid tanh erf erfc sin cos "
    "acos atan2 floor stop "
    "lt le gt ge eq ne both either".split()
)


def _is(x: Expr | None, number: float) -> bool:
    return x is not None and x.op == "constant" and x.value == number


def chain(slope: Expr, tangent: Expr | None, *, decays: bool = False) -> Expr | None:
    """slope * tangent, 0 where the tangent is 0 and, if the function `decays`, where the slope is."""
    if tangent is None or _is(tangent, 0.0) or _is(slope, 0.0):
        return None
    if _is(tangent, 1.0):
        return slope
    if _is(slope, 1.0):
        return tangent
    if _is(tangent, -1.0):
        return -slope
    by_tangent = not (slope.bounded or tangent.nonzero)
    by_slope = decays and not (tangent.bounded or slope.nonzero)
    if by_tangent and by_slope:
        return slope.trace.node("mute", (slope, tangent))
    if by_tangent:
        return times(tangent, slope)
    return times(slope, tangent) if by_slope else slope * tangent


def total(a: Expr | None, b: Expr | None) -> Expr | None:
    """a + b; None is 0."""
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


def _unsigned(x: Expr) -> Expr:
    """x where a zero of it has no sign: 1 / -0 is minus infinity, on the other side of the limit."""
    positive = x.op in ("absolute", "exp", "sigmoid", "add") or (x.op == "constant" and x.value != 0.0)
    return x if positive else x + 0.0


def _unary(
    rule: Callable[[Expr, Expr], Expr], decays: Callable[[Expr], bool] = lambda x: False
) -> Callable[..., Expr | None]:
    """The chain rule around `rule(x, out)`, the derivative of a function of one argument."""
    return lambda args, tangents, out: chain(rule(args[0], out), tangents[0], decays=decays(args[0]))


def _no_logarithm(x: Expr) -> bool:
    return x.ops.isdisjoint(_LOGARITHMS)


def _tame(x: Expr) -> bool:
    return x.ops <= _TAME


def ratio(side: Expr, root: Expr) -> Expr:
    """The slope of the root of a sum of squares by a side: 0 where all are 0, 1 where the side is infinite."""
    # One comparison a choice: GCC does not vectorise a loop whose choice asks two things.
    return where(absolute(side) == math.inf, sign(side), where(root == 0.0, sign(side), side / root))


def _d_product(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    """Of `mul`, `times` and `mute`."""
    a, b = args
    if a is b:
        return chain(2.0 * a, tangents[0], decays=True)
    return total(chain(b, tangents[0], decays=True), chain(a, tangents[1], decays=True))


def _d_quotient(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    decays = args[1].ops.isdisjoint(_SINGULAR)
    if tangents[0] is None:
        return _difference(None, chain(out / args[1], tangents[1], decays=decays))
    numerator = _difference(tangents[0], chain(out, tangents[1], decays=decays))
    return None if numerator is None else numerator / args[1]


def _d_power(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    base, exponent = args
    by_base = chain(_slope_of_power(base, exponent), tangents[0]) if tangents[0] is not None else None
    by_exponent = chain(times(out, log(base)), tangents[1]) if tangents[1] is not None else None
    return total(by_base, by_exponent)


def _slope_of_power(base: Expr, exponent: Expr) -> Expr:
    """exponent * base ** (exponent - 1), and 0 where the exponent is 0, at base 0 too."""
    if exponent.op != "constant":
        return times(exponent, power(base, exponent - 1.0))
    less = exponent.value - 1.0
    lower = base if less == 1.0 else base.trace.constant(1.0) if less == 0.0 else power(base, less)
    slope = chain(exponent, lower)
    return base.trace.constant(0.0) if slope is None else slope


def _d_xlogy(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    x, y = args
    by_x = None if tangents[0] is None else chain(log(y), tangents[0])
    if tangents[1] is None:
        return by_x
    nothing = (x == 0.0) & (y == 0.0)
    return total(by_x, chain(where(nothing, 0.0, x / _unsigned(y)), tangents[1]))


def _d_logaddexp(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    a, b = args
    even = (a == b) & (absolute(a) == math.inf)  # the limit along the diagonal
    apart = where(even, 0.0, a - b)
    return total(chain(sigmoid(apart), tangents[0]), chain(sigmoid(-apart), tangents[1]))


def _d_hypot(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    a, b = args
    return total(chain(ratio(a, out), tangents[0]), chain(ratio(b, out), tangents[1]))


def _d_atan2(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    y, x = args
    radius = hypot(y, x)

    def slope(
        side: Expr,
    ) -> Any:  # side / radius^2 without overflow; 0 at infinity and at the origin, which has no angle
        # One comparison a choice: GCC does not vectorise those that ask two things of `radius`.
        return where(radius > 0.0, where(absolute(side) < math.inf, side, 0.0) / radius / radius, 0.0)

    return total(chain(slope(x), tangents[0]), chain(-slope(y), tangents[1]))


def _slope_of_minus_log1p(x: Expr, out: Expr) -> Any:
    return where(x == math.inf, 1.0, x / _unsigned(1.0 + x))


def _d_clamp(args: Sequence[Expr], tangents: Sequence[Expr | None], out: Expr) -> Expr | None:
    x, low, high = args
    return _select(x < low, tangents[1], _select(x > high, tangents[2], tangents[0]))


# ---------------------------------------------------------------------------------------------------------
# The table


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
        mpmath=mp(mpmath_) if isinstance(mpmath_, str) else mpmath_,
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


PRIMITIVES.update([
    # name, arity or symbol, torch, mpmath, LaTeX, derivative [, C++] [, Triton] [, JavaScript]
    _operator("add", "+", torch.add, lambda a, b: a + b, "{0} + {1}", lambda a, d, o: total(d[0], d[1])),
    _operator("sub", "-", torch.sub, lambda a, b: a - b, "{0} - {1}", lambda a, d, o: _difference(d[0], d[1])),
    _operator("mul", "*", torch.mul, lambda a, b: a * b, r"{0} \, {1}", _d_product),
    _operator("div", "/", torch.div, mp_divide, r"\frac{{{0}}}{{{1}}}", _d_quotient, triton="lk.divide({0}, {1})"),
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
         r"\begin{{cases}} {1} & {0} \\ {2} \end{{cases}}",
         lambda a, d, o: _select(a[0], d[1], d[2]), triton="tl.where({0}, {1}, {2})",
         javascript="({0} ? {1} : {2})"),
    _row("absolute", 1, torch.abs, lambda x: abs(x), r"\left|{0}\right|", _unary(lambda x, o: sign(x)),
         triton="tl.abs({0})", javascript="Math.abs({0})"),
    _row("sign", 1, lambda x: torch.where(x == x, torch.sign(x), x), mp_sign,
         r"\operatorname{{sign}}\left({0}\right)", lambda a, d, o: None, javascript="Math.sign({0})"),
    _row("sqrt", 1, torch.sqrt, "sqrt", r"\sqrt{{{0}}}", _unary(lambda x, o: 0.5 / _unsigned(o)),
         triton="lk.sqrt({0})", javascript="Math.sqrt({0})"),
    _row("exp", 1, torch.exp, "exp", r"e^{{{0}}}", _unary(lambda x, o: o, _no_logarithm),
         triton="libdevice.exp({0})",
         javascript="Math.exp({0})"),
    _row("expm1", 1, torch.expm1, "expm1", r"\left(e^{{{0}}} - 1\right)", _unary(lambda x, o: exp(x), _no_logarithm),
         triton="libdevice.expm1({0})", javascript="Math.expm1({0})"),
    _row("log", 1, torch.log, mp_log, r"\log\left({0}\right)", _unary(lambda x, o: 1.0 / _unsigned(x), _tame),
         triton="libdevice.log({0})", javascript="Math.log({0})"),
    _row("log1p", 1, torch.log1p, lambda x: mp_log(1 + x), r"\log\left(1 + {0}\right)",
         _unary(lambda x, o: 1.0 / (1.0 + x), _tame), triton="libdevice.log1p({0})", javascript="Math.log1p({0})"),
    _row("softplus", 1, softplus_torch, mp_softplus, r"\operatorname{{softplus}}\left({0}\right)",
         _unary(lambda x, o: sigmoid(x), _no_logarithm)),
    _row("sigmoid", 1, sigmoid_torch, mp_sigmoid, r"\sigma\left({0}\right)",
         _unary(lambda x, o: o * sigmoid(-x), _no_logarithm)),
    _row("log_sigmoid", 1, lambda x: -softplus_torch(-x), lambda x: -mp_softplus(-x),
         r"\log\sigma\left({0}\right)", _unary(lambda x, o: sigmoid(-x), _no_logarithm)),
    _row("tanh", 1, torch.tanh, "tanh", r"\tanh\left({0}\right)",
         _unary(lambda x, o: 4.0 * (sigmoid(2.0 * x) * sigmoid(-2.0 * x)), _no_logarithm),  # 1 - o * o cancels
         triton="libdevice.tanh({0})", javascript="Math.tanh({0})"),
    _row("erf", 1, torch.erf, "erf", r"\operatorname{{erf}}\left({0}\right)",
         _unary(lambda x, o: (2.0 / math.sqrt(math.pi)) * exp(-(x * x)), _no_logarithm), triton="libdevice.erf({0})"),
    _row("erfc", 1, torch.erfc, mp_erfc, r"\operatorname{{erfc}}\left({0}\right)",
         _unary(lambda x, o: (-2.0 / math.sqrt(math.pi)) * exp(-(x * x)), _no_logarithm),
         triton="libdevice.erfc({0})"),
    _row("expm1m", 1, expm1m_torch, mp_expm1m, r"\left(e^{{{0}}} - 1 - \left({0}\right)\right)",
         _unary(lambda x, o: expm1(x))),
    _row("minus_log1p", 1, minus_log1p_torch, mp_minus_log1p,
         r"\left({0} - \log\left(1 + {0}\right)\right)", _unary(_slope_of_minus_log1p)),
    _row("log1mexp", 1, log1mexp_torch, mp_log1mexp, r"\log\left(1 - e^{{-\left({0}\right)}}\right)",
         _unary(lambda x, o: exp(-x) / _unsigned(-expm1(-x)), _no_logarithm)),
    _row("sin", 1, torch.sin, "sin", r"\sin\left({0}\right)", _unary(lambda x, o: cos(x)),
         triton="libdevice.sin({0})", javascript="Math.sin({0})"),
    _row("cos", 1, torch.cos, "cos", r"\cos\left({0}\right)", _unary(lambda x, o: -sin(x)),
         triton="libdevice.cos({0})", javascript="Math.cos({0})"),
    _row("acos", 1, torch.acos, mp_acos, r"\arccos\left({0}\right)",
         _unary(lambda x, o: -1.0 / sqrt((1.0 - x) * (1.0 + x))),
         triton="libdevice.acos({0})", javascript="Math.acos({0})"),
    _row("atan2", 2, torch.atan2, "atan2", r"\operatorname{{atan2}}\left({0},\, {1}\right)", _d_atan2,
         triton="libdevice.atan2({0}, {1})", javascript="Math.atan2({0}, {1})"),
    _row("floor", 1, torch.floor, mp_floor, r"\left\lfloor {0} \right\rfloor", lambda a, d, o: None,
         triton="libdevice.floor({0})", javascript="Math.floor({0})"),
    _row("stop", 1, lambda x: x.detach(), lambda x: x, r"\operatorname{{stop}}\left({0}\right)",
         lambda a, d, o: None),
    _row("lgamma", 1, torch.lgamma, lambda x: mp("loggamma")(x).real, r"\log\Gamma\left({0}\right)",
         _unary(lambda x, o: digamma(x)), triton="libdevice.lgamma({0})"),
    _row("digamma", 1, torch.digamma, "digamma", r"\psi\left({0}\right)", _unary(lambda x, o: trigamma(x))),
    _row("trigamma", 1, lambda x: torch.special.polygamma(1, x), lambda x: mp("psi")(1, x),
         r"\psi'\left({0}\right)", None),
    _row("maximum", 2, torch.maximum, mp_pick(lambda a, b: a >= b), r"\max\left({0},\, {1}\right)",
         lambda a, d, o: _select(a[0] >= a[1], d[0], d[1]), javascript="Math.max({0}, {1})"),
    _row("minimum", 2, torch.minimum, mp_pick(lambda a, b: a <= b), r"\min\left({0},\, {1}\right)",
         lambda a, d, o: _select(a[0] <= a[1], d[0], d[1]), javascript="Math.min({0}, {1})"),
    _row("clamp", 3, lambda x, low, high: torch.clamp(x, low, high),
         lambda x, low, high: low if x < low else high if x > high else x,
         r"\operatorname{{clamp}}\left({0},\, {1},\, {2}\right)", _d_clamp),
    _row("times", 2, times_torch, mp_times, r"{0} \cdot {1}", _d_product),
    _row("xlogy", 2, torch.xlogy, lambda x, y: mp_times(x, mp_log(y)), r"{0} \log\left({1}\right)", _d_xlogy),
    _row("logaddexp", 2, torch.logaddexp, lambda a, b: a + mp_softplus(b - a) if a != b else a + mp("log")(2),
         r"\log\left(e^{{{0}}} + e^{{{1}}}\right)", _d_logaddexp),
    _row("hypot", 2, torch.hypot, "hypot", r"\sqrt{{{0}^2 + {1}^2}}",
         _d_hypot, javascript="Math.hypot({0}, {1})"),
    _row("power", 2, torch.pow, lambda a, b: a**b, r"{0}^{{{1}}}", _d_power,
         javascript="Math.pow({0}, {1})"),
    _row("mute", 2, mute_torch, mp_mute, r"{0} \, {1}", _d_product),
])  # fmt: skip

# Where torch differentiates: spellings of which torch knows the derivative at 0, too, and which ONNX has.
PLAIN: dict[str, Callable[..., Tensor]] = {
    "softplus": lambda x: -torch.nn.functional.logsigmoid(-x),
    "sigmoid": torch.sigmoid,
    "log_sigmoid": torch.nn.functional.logsigmoid,
    "times": times_finite,
}
