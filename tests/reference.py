"""The truth: the textbook formula of every loss, written from the textbook and torch's documentation.

Nothing here knows the declarations. A formula is written once over a small vocabulary that exists twice: `Exact`
works on mpmath numbers with 66 digits, `Wide` on NumPy arrays in float64, which is truth enough for halves.

1. Inputs are exact floating-point numbers, also the parameters: pass them as rounded to the compute type.
2. A quantity is a tuple of terms; it is their sum. Most have one. Where a formula adds terms of either sign that may
   cancel, it returns them apart, and the size of the largest is the unit in which an error can be judged.
3. Limits: 0 * inf is 0. A quantity without a limit is NaN; nothing is compared there.
4. One-sided conventions at kinks are torch's: |0| has slope 0, a loss exactly at its margin is active, a variance
   below eps passes its gradient straight through, BCE limits the value at -100 but not the gradient.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import torch
from mpmath import mp, mpf

DIGITS = 66
Terms = tuple[Any, ...]
Result = tuple[Terms, dict[str, Terms]]


class Exact:
    """The vocabulary on mpmath numbers."""

    inf = mpf("inf")

    @staticmethod
    def number(x: float) -> mpf:
        return mpf(x)

    @staticmethod
    def where(condition: bool, a: Any, b: Any) -> Any:
        return a if condition else b

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        return a if a >= b or a != a else b

    @staticmethod
    def times(a: Any, b: Any) -> Any:
        return mpf(0) if (a == 0 and b == b) or (b == 0 and a == a) else a * b

    @staticmethod
    def div(a: Any, b: Any) -> Any:
        if b != 0:
            return a / b
        return mp.nan if a == 0 or a != a else a * mp.inf

    @staticmethod
    def log(x: Any) -> Any:
        return mp.nan if x < 0 or x != x else -mp.inf if x == 0 else mp.log(x)

    @staticmethod
    def log1p(x: Any) -> Any:
        return mp.nan if x < -1 or x != x else -mp.inf if x == -1 else mp.log1p(x)

    @staticmethod
    def exp(x: Any) -> Any:
        return mp.exp(x)

    @staticmethod
    def softplus(x: Any) -> Any:
        if x != x:
            return x
        return Exact.maximum(x, mpf(0)) + mp.log1p(mp.exp(-abs(x)))

    @staticmethod
    def sigmoid(x: Any) -> Any:
        if x != x:
            return x
        e = mp.exp(-abs(x))
        return (1 if x >= 0 else e) / (1 + e)

    @staticmethod
    def sign(x: Any) -> Any:
        return x if x != x else mpf(int(mp.sign(x)))

    @staticmethod
    def log_factorial(x: Any) -> Any:
        if x < mpf("1e-18"):  # 1 + x would lose x; log gamma(1 + x) as its series
            return x * (-mp.euler + x * (mp.zeta(2) / 2 - x * mp.zeta(3) / 3))
        return mp.loggamma(1 + x).real

    @staticmethod
    def digamma(x: Any) -> Any:
        return mp.digamma(x)


class Wide:
    """The vocabulary on NumPy arrays in float64."""

    inf = np.inf
    number = staticmethod(float)
    where = staticmethod(np.where)
    maximum = staticmethod(np.maximum)
    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    log1p = staticmethod(np.log1p)
    sign = staticmethod(np.sign)

    @staticmethod
    def times(a: Any, b: Any) -> Any:
        return np.where(((a == 0) & (b == b)) | ((b == 0) & (a == a)), 0.0, a * b)

    @staticmethod
    def div(a: Any, b: Any) -> Any:
        return np.divide(a, b)

    @staticmethod
    def softplus(x: Any) -> Any:
        return np.logaddexp(0.0, x)

    @staticmethod
    def sigmoid(x: Any) -> Any:
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, 1.0, e) / (1.0 + e)

    @staticmethod
    def log_factorial(x: Any) -> Any:
        return torch.lgamma(1.0 + torch.as_tensor(x)).numpy()

    @staticmethod
    def digamma(x: Any) -> Any:
        return torch.digamma(torch.as_tensor(x)).numpy()


# ---------------------------------------------------------------------------------------------------------
# The losses. `m` is the vocabulary; the rest are operands and parameters, by torch's names.


def binary_cross_entropy(m: Any, input: Any, target: Any) -> Result:
    p, t = input, target
    log_p, log_q = m.maximum(m.log(p), -100), m.maximum(m.log1p(-p), -100)
    spread = p * (1 - p)
    certain = m.where(p == t, 1 - 2 * p, (p - t) * 10**12)
    by_input = m.where(spread == 0, certain, m.div(p - t, m.where(spread == 0, 1 + 0 * p, spread)))
    return (-(t * log_p) - (1 - t) * log_q,), {"input": (by_input,), "target": (log_q, -log_p)}


def binary_cross_entropy_with_logits(m: Any, input: Any, target: Any, pos_weight: Any = None) -> Result:
    x, t = input, target
    w = 1 if pos_weight is None else pos_weight
    up, down = m.softplus(x), m.softplus(-x)
    value = m.times(1 - t, up) + m.times(w * t, down)
    gradients: dict[str, Terms] = {
        "input": ((1 - t) * m.sigmoid(x), -(w * t) * m.sigmoid(-x)),
        "target": (-x,) if pos_weight is None else (m.times(w, down), -up),
    }
    if pos_weight is not None:
        gradients["pos_weight"] = (m.times(t, down),)
    return (value,), gradients


def multilabel_soft_margin_loss(m: Any, input: Any, target: Any) -> Result:
    """Of a single class: the mean over one element."""
    return binary_cross_entropy_with_logits(m, input, target)


def gaussian_nll_loss(m: Any, input: Any, target: Any, var: Any, full: bool, eps: Any) -> Result:
    d, v = input - target, m.maximum(var, eps)
    value: Terms = (m.log(v) / 2, d * d / v / 2)
    if full:
        value += (m.log(2 * m.number(mp.pi) if m is Exact else 2 * np.pi) / 2,)
    z = d / v
    return value, {"input": (z,), "target": (-z,), "var": (1 / (2 * v), -z * z / 2)}


def hinge_embedding_loss(m: Any, input: Any, target: Any, margin: Any) -> Result:
    similar = target == 1
    value = m.where(similar, input, m.maximum(margin - input, 0 * target))
    slope = m.where(similar, 1, m.where(input <= margin, -1, 0))
    return (value,), {"input": (m.where(input == input, slope, input) + 0 * target,), "target": (0 * target,)}


def huber_loss(m: Any, input: Any, target: Any, delta: Any) -> Result:
    d = input - target
    inside = abs(d) < delta
    value = m.where(inside, d * d / 2, delta * (abs(d) - delta / 2))
    slope = m.where(inside, d, delta * m.sign(d))
    return (value,), {"input": (slope,), "target": (-slope,)}


def kl_div(m: Any, input: Any, target: Any, log_target: bool) -> Result:
    x, t = input, target
    if not log_target:
        value: Terms = (m.times(t, m.log(t)), -m.times(t, x))
        return value, {"input": (-t,), "target": (m.log(t), -x, 1 + 0 * t)}
    p, never = m.exp(t), t == -m.inf  # what is impossible costs nothing
    cost = m.where(never, 0 * p, m.times(p, t - x))
    return (cost,), {"input": (-p,), "target": (cost, p)}


def l1_loss(m: Any, input: Any, target: Any) -> Result:
    d = input - target
    return (abs(d),), {"input": (m.sign(d),), "target": (-m.sign(d),)}


def margin_ranking_loss(m: Any, input1: Any, input2: Any, target: Any, margin: Any) -> Result:
    d = input1 - input2
    excess = margin - target * d
    active, idle = excess >= 0, 0 * excess  # a NaN where both scores are infinite
    idle = m.where(excess == -m.inf, 0 * target, idle)
    value = (m.where(active, margin + 0 * target, idle), m.where(active, -target * d, idle))
    slope = m.where(active, -target, idle)
    return value, {"input1": (slope,), "input2": (-slope,), "target": (m.where(active, -d, idle),)}


def mse_loss(m: Any, input: Any, target: Any) -> Result:
    d = input - target
    return (d * d,), {"input": (2 * d,), "target": (-2 * d,)}


def poisson_nll_loss(m: Any, input: Any, target: Any, log_input: bool, full: bool, eps: Any, stirling: bool) -> Result:
    x, t = input, target
    rate, log_rate = (m.exp(x), x) if log_input else (x, m.log(x + eps))
    endless = x == m.inf  # the rate outgrows any multiple of its logarithm
    value: Terms = (rate, m.where(endless, 0 * t, -m.times(t, log_rate)))
    by_target: Terms = (-log_rate,)
    if log_input:
        by_input: Terms = (rate, -t)
    else:
        by_input = (1 + 0 * t, -m.where(t == 0, 0 * t, m.div(t, m.where(t == 0, 1 + 0 * x, x + eps))))
    if full and stirling:
        many = t > 1
        n = m.where(many, t, 1 + 0 * t)
        two_pi = 2 * mp.pi if m is Exact else 2 * np.pi
        stirlings = (n * m.log(n), -n, m.log(two_pi * n) / 2)
        value += tuple(m.where(many, term, 0 * t) for term in stirlings)
        by_target += tuple(m.where(many, term, 0 * t) for term in (m.log(n), 1 / (2 * n)))
    if full and not stirling:
        value += (m.log_factorial(t),)
        by_target += (m.digamma(t + 1),)
    return value, {"input": by_input, "target": by_target}


def smooth_l1_loss(m: Any, input: Any, target: Any, beta: Any) -> Result:
    d = input - target
    inside = abs(d) < beta
    width = beta if beta != 0 else 1  # nothing is inside then
    value = m.where(inside, d * d / (2 * width), abs(d) - beta / 2)
    slope = m.where(inside, d / width, m.sign(d))
    return (value,), {"input": (slope,), "target": (-slope,)}


def soft_margin_loss(m: Any, input: Any, target: Any) -> Result:
    wrong = -target * input
    slope = m.sigmoid(wrong)
    return (m.softplus(wrong),), {"input": (-target * slope,), "target": (-m.times(input, slope),)}


FORMULAS = {
    function.__name__: function
    for function in (
        binary_cross_entropy, binary_cross_entropy_with_logits, gaussian_nll_loss, hinge_embedding_loss, huber_loss,
        kl_div, l1_loss, margin_ranking_loss, mse_loss, multilabel_soft_margin_loss, poisson_nll_loss, smooth_l1_loss,
        soft_margin_loss,
    )
}  # fmt: skip


def exact(name: str, operands: dict[str, float], parameters: dict[str, Any]) -> Result:
    """Value and gradients of a loss at one point, each as terms with 66 digits."""
    with mpmath.workdps(DIGITS):
        numbers = {key: mpf(x) for key, x in operands.items()}
        settings = {key: x if isinstance(x, bool) else mpf(x) for key, x in parameters.items()}
        return FORMULAS[name](Exact, **numbers, **settings)


def wide(name: str, operands: dict[str, np.ndarray], parameters: dict[str, Any]) -> Result:
    """The same for float64 arrays, in float64."""
    with np.errstate(all="ignore"):
        return FORMULAS[name](Wide, **operands, **parameters)
