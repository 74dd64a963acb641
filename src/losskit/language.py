"""The words of the formula language: each applies a primitive to whatever it is given.

That is torch tensors, mpmath numbers, Python numbers, or symbols (`Expr`), which become a graph. `PRIMITIVES` says how
each kind is computed, printed and differentiated; `losskit.primitives` fills it in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losskit.graph import Expr
from losskit_guide import scalar


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


PRIMITIVES: dict[str, Primitive] = {}  # the whole vocabulary, by name


def _apply(name: str, *args: Any) -> Any:
    """Apply the primitive `name` to tensors, mpmath numbers, plain numbers or symbols."""
    if name == "where" and isinstance(args[0], bool):  # a switch, or a comparison of parameters
        return _chosen(*args)
    for arg in args:
        if isinstance(arg, Expr):
            return arg.trace.node(name, args)
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if tensors:
        like = next((x for x in tensors if x.dtype != torch.bool), tensors[0])
        return PRIMITIVES[name].torch(*(_as_tensor(arg, like) for arg in args))
    if any(type(arg).__module__.startswith("mpmath") for arg in args):
        return PRIMITIVES[name].mpmath(*args)
    return float(getattr(scalar, name)(*args))


def _as_tensor(arg: Any, like: Tensor) -> Tensor:
    """A number as a tensor of the dtype and the device of `like`; where that is a condition, of the default dtype."""
    if isinstance(arg, Tensor):
        return arg
    if isinstance(arg, bool):
        return torch.full((), arg, dtype=torch.bool, device=like.device)
    dtype = torch.get_default_dtype() if like.dtype == torch.bool else like.dtype
    return torch.full((), float(arg), dtype=dtype, device=like.device)


def number_like(x: Any, number: Any) -> Any:
    """A number as a tensor like the operand `x`, where that is one: the dtype of a choice between two numbers."""
    return _as_tensor(number, x) if isinstance(x, Tensor) else number


def _chosen(condition: bool, a: Any, b: Any) -> Any:
    chosen, other = (a, b) if condition else (b, a)
    return _as_tensor(chosen, other) if isinstance(other, Tensor) else chosen


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


def expm1m(x: Any) -> Any:
    """exp(x) - 1 - x, accurate near 0."""
    return _apply("expm1m", x)


def log1p(x: Any) -> Any:
    """log(1 + x), accurate near 0."""
    return _apply("log1p", x)


def minus_log1p(x: Any) -> Any:
    """x - log(1 + x), accurate near 0."""
    return _apply("minus_log1p", x)


def log1mexp(x: Any) -> Any:
    """log(1 - exp(-x)) for x > 0, accurate in both tails; -inf at 0, NaN below."""
    return _apply("log1mexp", x)


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


def erfc(x: Any) -> Any:
    """1 - erf(x), accurate where erf(x) is nearly 1."""
    return _apply("erfc", x)


def lgamma(x: Any) -> Any:
    """Logarithm of the absolute value of the gamma function."""
    return _apply("lgamma", x)


def digamma(x: Any) -> Any:
    """Derivative of lgamma."""
    return _apply("digamma", x)


def trigamma(x: Any) -> Any:
    """Derivative of digamma."""
    return _apply("trigamma", x)


def sin(x: Any) -> Any:
    """Sine. On the CPU it loses digits from angles of a million on."""
    return _apply("sin", x)


def cos(x: Any) -> Any:
    """Cosine; as sine."""
    return _apply("cos", x)


def acos(x: Any) -> Any:
    """Inverse cosine; NaN outside of [-1, 1], at whose ends its slope is -inf."""
    return _apply("acos", x)


def atan2(y: Any, x: Any) -> Any:
    """The angle of the point (x, y); at the origin its derivatives are 0."""
    return _apply("atan2", y, x)


def floor(x: Any) -> Any:
    """The whole number at or below x; its derivative is 0."""
    return _apply("floor", x)


def stop(x: Any) -> Any:
    """x, taken for a constant when the formula is differentiated."""
    return _apply("stop", x)


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


def mute(a: Any, b: Any) -> Any:
    """a * b where a zero factor of either side silences an infinite one; derivatives are written with it."""
    return _apply("mute", a, b)
