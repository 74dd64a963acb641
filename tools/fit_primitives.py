"""Refits the constants of csrc/primitives.h and prints them as they stand there.

Run `python tools/fit_primitives.py` (mpmath only, some seconds).  Each polynomial is a weighted least-squares
fit at Chebyshev points, which lies within a factor of about two of the best one; its coefficients are
rounded one after another, lowest first, and the rest refitted, so that the later ones absorb the rounding.
The weight turns an error of the polynomial into a relative error of the function it serves; the figure
printed is the largest of these over the interval, in units of the type's epsilon/2 (about one half ULP).
"""

from textwrap import fill

from mpmath import atanh, cos, digamma, exp, findroot, floor, ldexp, log, lu_solve, matrix, mp, mpf, pi

mp.dps = 60
BITS = {"float": 24, "double": 53}
DIGITS = {"float": 9, "double": 17}  # enough decimal digits to name every number of the type


def rounded(x, bits):
    """x to the nearest number with `bits` significant bits."""
    if x == 0:
        return mpf(0)
    e = int(floor(log(abs(x), 2))) + 1 - bits
    return ldexp(mpf(int(mp.nint(ldexp(x, -e)))), e)


def fit(function, lo, hi, count, weight, bits):
    """Coefficients c of sum c[i] x^i near function on [lo, hi], rounded to bits, and the weighted error."""
    points = 4 * count
    xs = [(lo + hi) / 2 + (hi - lo) / 2 * cos(pi * (2 * i + 1) / (2 * points)) for i in range(points)]
    ys = [function(x) for x in xs]
    ws = [weight(x) for x in xs]
    c = []
    while len(c) < count:
        left = [y - sum(a * x**i for i, a in enumerate(c)) for x, y in zip(xs, ys)]
        rows = matrix([[w * x**i for i in range(len(c), count)] for x, w in zip(xs, ws)])
        c.append(rounded(lu_solve(rows, matrix([w * y for w, y in zip(ws, left)]))[0], bits))
    error = max(abs(w * (y - sum(a * x**i for i, a in enumerate(c)))) for x, y, w in zip(xs, ys, ws))
    return c, error


def show(name, numbers, kind, error=None):
    note = "" if error is None else f"  (error {mp.nstr(error * 2 ** BITS[kind], 2)} of epsilon/2)"
    suffix = "f" if kind == "float" else ""
    print(f"{name}, {kind}{note}")
    text = ", ".join(mp.nstr(x, DIGITS[kind], min_fixed=-1, max_fixed=1) + suffix for x in numbers)
    print(fill(text, 100, initial_indent="    ", subsequent_indent="    "))


ln2 = log(mpf(2))
for kind, bits in BITS.items():
    # n * ln2_hi must be exact for |n| <= 150 (float: 8 bits) or 1075 (double: 11 bits); lo takes the rest.
    hi = rounded(ln2, bits - {"float": 8, "double": 11}[kind])
    show("ln2_hi, ln2_lo, log2(e)", [hi, rounded(ln2 - hi, bits), rounded(1 / ln2, bits)], kind)

    # exp(r) = 1 + r + r^2 P(r), |r| <= ln2/2 and a little for the rounding of n;
    # the weight is expm1's, which asks for more than exp's near 0.
    edge = ln2 / 2 * mpf("1.0001")
    c, error = fit(
        lambda r: (exp(r) - 1 - r) / r**2,
        -edge,
        edge,
        {"float": 5, "double": 10}[kind],
        lambda r: r**2 / abs(exp(r) - 1),
        bits,
    )
    show("reduce", c, kind, error)

    # log(1 + f) = f - (h - s (h + z P(z))), h = f^2/2, s = f/(2 + f), z = s^2;
    # -1/4 <= f <= 1/2 makes z <= 1/25.
    c, error = fit(
        lambda z: (2 * atanh(z**0.5) / z**0.5 - 2) / z,
        mpf(0),
        mpf("0.0401"),
        {"float": 3, "double": 8}[kind],
        lambda z: z / 2,
        bits,
    )
    show("log_sum", c, kind, error)

# log1p(e) = e + e^2 P(e), 0 <= e <= 1, for float: fewer operations than a division and log_sum.
c, error = fit(
    lambda e: (log(1 + e) - e) / e**2,
    mpf(0),
    mpf(1),
    9,
    lambda e: e**2 / log(1 + e),
    BITS["float"],
)
show("log1p_unit", c, "float", error)

# digamma(x) = (x - root) P(x - 3/2), 1 <= x <= 2; the root in two parts.
root = findroot(digamma, mpf("1.4616"))
hi = rounded(root, 53)
show("root", [hi, rounded(root - hi, 53)], "double")
c, error = fit(
    lambda t: digamma(t + 1.5) / (t + 1.5 - root),
    mpf(-0.5),
    mpf(0.5),
    24,
    lambda t: (t + 1.5 - root) / digamma(t + 1.5),
    53,
)
show("digamma", c, "double", error)
