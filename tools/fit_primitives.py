"""Refits the constants of csrc/primitives.h and prints them as they stand there.

Run `python tools/fit_primitives.py` (mpmath only, some seconds).  Each polynomial is a weighted least-squares
fit at Chebyshev points, which lies within a factor of about two of the best one; its coefficients are
rounded one after another, lowest first, and the rest refitted, so that the later ones absorb the rounding.
The weight turns an error of the polynomial into a relative error of the function it serves; the figure
printed is the largest of these over the interval, in units of the type's epsilon/2 (about one half ULP).
"""

from textwrap import fill

from mpmath import (
    atan,
    atanh,
    cos,
    digamma,
    erf,
    erfc,
    exp,
    findroot,
    floor,
    ldexp,
    log,
    loggamma,
    lu_solve,
    matrix,
    mp,
    mpf,
    pi,
    polygamma,
    sin,
)

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
    lambda z: (2 * atanh(z**0.5) / z**0.5 - 2) / z, mpf(0), mpf("0.0401"), 8, lambda z: z / 2, BITS["double"]
)
show("log_parts", c, "double", error)

# log(1 + f) = f - f^2/2 + f^3 P(f), -1/4 <= f <= 1/2, for float: fewer operations than the division.
c, error = fit(
    lambda f: (log(1 + f) - f + f * f / 2) / f**3,
    mpf("-0.25"),
    mpf("0.5"),
    8,
    lambda f: abs(f) ** 3 / abs(log(1 + f)),
    BITS["float"],
)
show("log_sum", c, "float", error)

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


# ---------------------------------------------------------------------------------------------------------
# csrc/special.h. Results of float are computed in double, but with fewer terms.

# 3 atanh(s)/s = 3 + z + z^2 P(z), z = s^2, for the logarithm in two words.
c, error = fit(
    lambda z: (3 * atanh(z**0.5) / z**0.5 - 3 - z) / z**2, mpf("1e-9"), mpf("0.0401"), 7, lambda z: z**2 / 3, 53
)
show("log_two", c, "double", error)


def show_both(name, function, lo, hi, counts, weight):
    """Fits for float and double results, computed in double; the error is that of the type's epsilon/2."""
    for kind, count in zip(BITS, counts):
        c, error = fit(function, mpf(lo), mpf(hi), count, weight, 53)
        print(f"{name} for {kind}  (error {mp.nstr(error * 2 ** BITS[kind], 2)} of epsilon/2)")
        text = ", ".join(mp.nstr(x, 17, min_fixed=-1, max_fixed=1) for x in c)
        print(fill(text, 100, initial_indent="    ", subsequent_indent="    "))


# erf(x) = x + x P(x^2), |x| <= 1.
show_both("erf", lambda z: erf(z**0.5) / z**0.5 - 1, "1e-9", 1, (7, 12), lambda z: z**0.5 / erf(z**0.5))


# erfc(x) = e^(-x^2) P(q) / (1 + 2 x), q = (x - k)/(x + k), from x = 1/2 to where erfc is 0.
def scaled(q):
    x = 3.75 * (1 + q) / (1 - q)
    return (1 + 2 * x) * exp(x * x) * erfc(x)


show_both("erfc", scaled, "-0.7648", "0.76", (11, 21), lambda q: 1 / scaled(q))


# lgamma(x) = (x - 1)(x - 2) P(x - 3/2), 1 <= x <= 2.
def lgamma_by_roots(t):
    return loggamma(t + 1.5) / ((t + 0.5) * (t - 0.5))


show_both("lgamma", lgamma_by_roots, "-0.49999", "0.49999", (10, 21), lambda t: 1 / lgamma_by_roots(t))
# From 8: lgamma(x) = (x - 1/2)(log(x) - 1) + (log(2 pi) - 1)/2 + P(z)/x, z = 1/x^2.
half = (log(2 * pi) - 1) / 2
show("lgamma's constant", [half], "double")
show_both(
    "lgamma from 8",
    lambda z: (loggamma(z**-0.5) - (z**-0.5 - 0.5) * (log(z**-0.5) - 1) - half) * z**-0.5,
    "1e-6", 1 / 64, (2, 6), lambda z: z**0.5 / loggamma(z**-0.5),
)  # fmt: skip

# digamma(x) = (x - root) P(x - 3/2), 1 <= x <= 2; the root in two parts.
root = findroot(digamma, mpf("1.4616"))
hi = rounded(root, 53)
show("root", [hi, rounded(root - hi, 53)], "double")
show_both(
    "digamma",
    lambda t: digamma(t + 1.5) / (t + 1.5 - root),
    -0.5, 0.5, (11, 24), lambda t: (t + 1.5 - root) / digamma(t + 1.5),
)  # fmt: skip
# From 8: digamma(x) = log(x) - 1/(2x) - z P(z), z = 1/x^2.
show_both(
    "digamma from 8",
    lambda z: (log(z**-0.5) - z**0.5 / 2 - digamma(z**-0.5)) / z,
    "1e-6", 1 / 64, (2, 6), lambda z: z / digamma(z**-0.5),
)  # fmt: skip
# trigamma(x) = 1/x + z/2 + z P(z)/x.
show_both(
    "trigamma from 8",
    lambda z: (polygamma(1, z**-0.5) - z**0.5 - z / 2) / z**1.5,
    "1e-6", 1 / 64, (3, 7), lambda z: z**1.5 / polygamma(1, z**-0.5),
)  # fmt: skip
# sin(pi x)/pi = x + x z P(z), z = x^2, |x| <= 1/2.
show_both("sinpi", lambda z: (sin(pi * z**0.5) / (pi * z**0.5) - 1) / z, "1e-9", "0.25", (4, 8), lambda z: z * 1.6)
# As log_sum, in double for powers of floats.
c, error = fit(lambda z: (2 * atanh(z**0.5) / z**0.5 - 2) / z, mpf("1e-9"), mpf("0.0401"), 5, lambda z: z / 2, 53)
show("log_float", c, "double", error)
# e^q - 1 - q = q^2 P(q), |q| <= ln2/2, with a relative error.
c, error = fit(lambda r: (exp(r) - 1 - r) / r**2, -edge, edge, 6, lambda r: r**2 / (exp(r) - 1 - r), 24)
show("expm1m", c, "float", error)
c, error = fit(lambda r: (exp(r) - 1 - r) / r**2, -edge, edge, 12, lambda r: r**2 / (exp(r) - 1 - r), 53)
show("expm1m", c, "double", error)


# f - log(1 + f) = h - s (h + z P(z)), h = f^2/2, s = f/(2 + f), z = s^2, -1/4 <= f <= 1/2.
def share(z):
    f = 2 * z**0.5 / (1 - z**0.5)
    return z**1.5 / (f - log(1 + f))


c, error = fit(lambda z: (2 * atanh(z**0.5) / z**0.5 - 2) / z, mpf("1e-9"), mpf("0.04"), 4, share, 24)
show("minus_log1p", c, "float", error)
# The first two words leave room for n, of up to 20 bits.
words = [rounded(pi / 2, 33)]
words.append(rounded(pi / 2 - words[0], 33))
words.append(rounded(pi / 2 - words[0] - words[1], 53))
show("half pi in three words, 2/pi", [*words, rounded(2 / pi, 53)], "double")
# sin(x) = x + x z P(z), cos(x) = 1 - z/2 + z^2 P(z), z = x^2, |x| <= pi/4.
show_both("sin", lambda z: (sin(z**0.5) / z**0.5 - 1) / z, "1e-9", "0.62", (3, 7), lambda z: z * 1.1)
show_both("cos", lambda z: (cos(z**0.5) - 1 + z / 2) / z**2, "1e-6", "0.62", (3, 6), lambda z: z**2 * 1.4)
# atan(x) = x + x z P(z), z = x^2, |x| <= tan(pi/8).
show_both("atan", lambda z: (atan(z**0.5) / z**0.5 - 1) / z, "1e-9", "0.1716", (5, 11), lambda z: z * 1.06)
