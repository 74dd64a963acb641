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

The words are in `losskit.language`, the table of primitives, a row for each with its spelling in every target and its
derivative, in `losskit.primitives`.
"""

from losskit.graph import PUBLIC
from losskit.language import (
    PRIMITIVES,
    Primitive,
    absolute,
    acos,
    atan2,
    clamp,
    cos,
    digamma,
    erf,
    erfc,
    exp,
    expm1,
    expm1m,
    floor,
    hypot,
    lgamma,
    log,
    log1mexp,
    log1p,
    log_sigmoid,
    logaddexp,
    maximum,
    minimum,
    minus_log1p,
    mute,
    number_like,
    power,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    stop,
    tanh,
    times,
    trigamma,
    where,
    xlogy,
)
from losskit.primitives import PLAIN, chain, ratio, total

__all__ = [
    "PLAIN",
    "PRIMITIVES",
    "Primitive",
    "absolute",
    "acos",
    "atan2",
    "chain",
    "clamp",
    "cos",
    "digamma",
    "erf",
    "erfc",
    "exp",
    "expm1",
    "expm1m",
    "floor",
    "hypot",
    "lgamma",
    "log",
    "log1mexp",
    "log1p",
    "log_sigmoid",
    "logaddexp",
    "maximum",
    "minimum",
    "minus_log1p",
    "mute",
    "number_like",
    "power",
    "ratio",
    "sigmoid",
    "sign",
    "sin",
    "softplus",
    "sqrt",
    "stop",
    "tanh",
    "times",
    "total",
    "trigamma",
    "where",
    "xlogy",
]

PUBLIC.update({name: p.arity for name, p in PRIMITIVES.items() if name in globals() and name != "mute"})
