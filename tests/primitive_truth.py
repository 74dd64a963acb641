"""What each function of csrc/primitives.h and special.h promises, by mpmath, and the points at which it is asked for."""

import math

import mpmath
import numpy as np
from mpmath import mp, mpf

TYPES = {"float": np.float32, "double": np.float64}
INF, NAN = math.inf, math.nan
ln2 = math.log(2)

# name: (truth, largest error in ULP, lower end of the domain); a NaN is expected below. Two numbers: of float and double.
ONE = {
    "exp": (mp.exp, 1.0, -INF),
    "expm1": (mp.expm1, 1.5, -INF),
    "log": (mp.log, 1.0, 0),
    "log1p": (mp.log1p, 1.0, -1),
    "softplus": (lambda x: mp.log1p(mp.exp(x)), 1.8, -INF),
    "log_sigmoid": (lambda x: -mp.log1p(mp.exp(-x)), 1.8, -INF),
    "sigmoid": (lambda x: 1 / (1 + mp.exp(-x)), 2.0, -INF),
    "tanh": (mp.tanh, 2.0, -INF),
    "sqrt": (mp.sqrt, 0.5, 0),
    "absolute": (abs, 0.0, -INF),
    "sign": (mp.sign, 0.0, -INF),
    "erf": (mp.erf, 1.5, -INF),
    "erfc": (lambda x: mp.erfc(max(min(x, 1000), -1000)), (1.0, 3.5), -INF),
    "expm1m": (lambda x: mp.expm1(x) - x if abs(x) > 1e-9 else x * x / 2 + x**3 / 6 + x**4 / 24, (2.0, 2.5), -INF),
    "minus_log1p": (lambda x: x - mp.log1p(x) if abs(x) > 1e-9 else x * x / 2 - x**3 / 3 + x**4 / 4, 3.5, -1),
    "log1mexp": (lambda x: mp.log(-mp.expm1(-x)) if x < 1 else mp.log1p(-mp.exp(-x)), (1.0, 2.0), 0),
    "acos": (mp.acos, (1.0, 2.0), -1),
    "floor": (mp.floor, 0.0, -INF),
}
ANGLES = {"sin": mp.sin, "cos": mp.cos}
TWO = {
    "hypot": (mp.hypot, 2.0),
    "logaddexp": (lambda a, b: max(a, b) + mp.log1p(mp.exp(-abs(a - b))), 1.7),
    "xlogy": (lambda x, y: x * mp.log(y), 2.0),
    "power": (mp.power, 1.0),
    "atan2": (mp.atan2, (1.0, 2.5)),
}
SELECT = ["maximum", "minimum", "times", "mute"]
# name: (truth, largest error in ULP for positive numbers), at the roots too.
GAMMA = {
    "lgamma": (mp.loggamma, (1.0, 4.0)),
    "digamma": (mp.digamma, (1.0, 4.0)),
    "trigamma": (lambda x: mp.psi(1, x), (1.0, 3.0)),
}


def bar_of(bar, kind):
    return bar if isinstance(bar, float) else bar[list(TYPES).index(kind)]


def points(kind):
    """All magnitudes, the usual arguments, and the neighbours of places where a function changes course."""
    t = TYPES[kind]
    info, rng = np.finfo(t), np.random.default_rng(1)
    e = rng.integers(info.minexp - info.nmant, info.maxexp, 600)
    x = [np.ldexp(rng.uniform(1, 2, 600), e), np.exp(rng.uniform(-9, 7, 600)), rng.uniform(0, 2, 600)]
    x += [rng.uniform(0, 30, 200), rng.uniform(0.1, 0.4, 200)]
    breaks = [0.25, 0.35, 0.5, 0.55, 0.75, 1, 1.5, 2, 0.5**0.5, 2**0.5, 10, 0.5 * ln2, 1.5 * ln2]
    breaks += [-math.log(info.tiny), -math.log(info.smallest_subnormal), math.log(float(info.max))]
    breaks += [info.tiny, 2.0**-30, 2.0**-60, 0.5 * info.eps, info.eps, info.max / 2]
    up = down = np.array(breaks, t)
    for _ in range(4):
        x += [up, down]
        up, down = np.nextafter(up, t(INF)), np.nextafter(down, t(0))
    x = np.concatenate([np.asarray(v, t) for v in x])
    x = x[np.isfinite(x)]
    return np.concatenate([x, -x])


def error_in_ulp(y, truth, kind, size=None):
    """|y - truth| in units of the last place of the larger of truth and size; infinite where truth is."""
    info = np.finfo(TYPES[kind])
    y = float(y)
    if abs(truth) >= mpf(float(info.max)) * (1 + mpf(2) ** (-info.nmant - 2)):
        return 0.0 if y == math.copysign(INF, truth) else INF
    if not math.isfinite(y):
        return INF
    size = max(abs(truth), abs(size or 0))
    exponent = int(mpmath.frexp(size)[1]) - 1 if size else info.minexp
    return float(abs(mpf(y) - truth) / mpf(2) ** (max(exponent, info.minexp) - info.nmant))


def worst(errors, *args):
    i = int(np.argmax(errors))
    return errors[i], [a[i].item() for a in args]


TRUTH = {}  # shared by the targets


def truth_of(name, kind, function, *args):
    key = name, kind
    if key not in TRUTH:
        TRUTH[key] = [function(*map(mpf, map(float, a))) for a in zip(*args)]
    return TRUTH[key]
