"""Print the table of losses/_partition.py: python tools/partition.py (about a minute, needs mpmath).

Polynomials through Chebyshev's points of each piece, computed with 60 digits.
"""

from __future__ import annotations

import itertools

import mpmath
from mpmath import mpf

EDGES = [
    -40.0,
    -26.0,
    -18.0,
    -13.0,
    -10.0,
    -8.0,
    -6.5,
    -5.5,
    -4.5,
    -3.5,
    -2.5,
    -1.75,
    -1.0,
    0.0,
    1.0,
    2.0,
    3.5,
    6.0,
    10.0,
    16.0,
    26.0,
    40.0,
]  # of v = log(alpha / (2 - alpha))
DEGREE = 12


def log_partition(alpha: mpf, beyond: mpf) -> mpf:
    """log Z of alpha, with 2 - alpha apart; the sum of a trapezoidal rule, exact where steps are small enough."""
    step, total = mpf(1) / 24, mpf(1) / 2
    for i in range(1, 6000):
        cosh = mpmath.cosh(i * step)
        grown = mpmath.expm1(alpha * mpmath.log(cosh)) / alpha if alpha else mpmath.log(cosh)
        term = mpmath.exp(-beyond * grown) * cosh
        total += term
        if term < mpf(10) ** -50:
            break
    return mpmath.log(2 * mpmath.sqrt(beyond) * step * total)


def slope(v: mpf) -> mpf:
    """How far log Z is from that of the nearer end, over the distance to it."""
    alpha, beyond = 2 / (1 + mpmath.exp(-v)), 2 / (1 + mpmath.exp(v))
    if v < 0:
        return (log_partition(alpha, beyond) - mpmath.log(mpmath.pi * mpmath.sqrt(2))) / alpha
    return (log_partition(alpha, beyond) - mpmath.log(2 * mpmath.pi) / 2) / beyond


def polynomial(low: float, high: float) -> list[float]:
    """The coefficients, highest first, of a polynomial in the place in a piece from -1 to 1."""
    nodes = [mpmath.cos(mpmath.pi * (i + mpf(1) / 2) / (DEGREE + 1)) for i in range(DEGREE + 1)]
    middle, half = (mpf(low) + high) / 2, (mpf(high) - low) / 2
    matrix = mpmath.matrix([[x ** (DEGREE - k) for k in range(DEGREE + 1)] for x in nodes])
    return [float(x) for x in mpmath.lu_solve(matrix, mpmath.matrix([slope(middle + half * x) for x in nodes]))]


if __name__ == "__main__":
    mpmath.mp.dps = 60
    for low, high in itertools.pairwise(EDGES):
        print(f"    {polynomial(low, high)},  # {low:g} to {high:g}".replace("[", "(").replace("]", ")"), flush=True)
