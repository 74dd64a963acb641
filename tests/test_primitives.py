"""csrc/primitives.h and special.h against mpmath: the accuracy each function promises, its special values, its vector code.

The header is compiled into a small library of loops, once for plain x86-64 (no fused multiply-add) and, where
this machine has it, once for x86-64-v3 (with), and called through ctypes.
"""

import ctypes
import itertools
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mpmath import mp, mpf
from primitive_truth import (
    ANGLES,
    GAMMA,
    INF,
    NAN,
    ONE,
    SELECT,
    TWO,
    TYPES,
    bar_of,
    error_in_ulp,
    ln2,
    points,
    truth_of,
    worst,
)

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    "-O3",
    "-std=c++20",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Werror",
]
FLAGS += ["-fopt-info-vec-optimized", "-DLOSSKIT_CLONES="]
SOME = [0.0, -0.0, 1.0, -1.0, 2.0, INF, -INF, NAN]
BLOCKS = ("exp", "log", "log1p")  # functions that take a block at once
POWERS = {"root": 0.5, "first_power": 1.0, "square": 2.0}  # of exponents that need no logarithm


def source():
    lines = [f'#include "{ROOT}/csrc/each.h"']
    loop = 'extern "C" void {f}_{t}({args}, {t}* __restrict y, long n) '
    loop += "{{ for (long i = 0; i < n; i++) y[i] = {call}; }}"
    for t in TYPES:
        a, b, c = (f"const {t}* __restrict {v}" for v in "abc")
        for f in [*ONE, *GAMMA, *ANGLES]:
            lines.append(loop.format(f=f, t=t, args=a, call=f"losskit::{f}<{t}>(a[i])"))
        for f in BLOCKS:
            lines.append(f'extern "C" void {f}_each_{t}({a}, {t}* y, long n) {{ losskit::{f}_each(n, a, y); }}')
        for f in [*TWO, *SELECT]:
            lines.append(loop.format(f=f, t=t, args=f"{a}, {b}", call=f"losskit::{f}<{t}>(a[i], b[i])"))
        for f in POWERS:
            lines.append(loop.format(f=f, t=t, args=a, call=f"losskit::{f}<{t}>(a[i], 0)"))
        lines.append(loop.format(f="powers", t=t, args=f"{a}, {t} b", call=f"losskit::power<{t}>(a[i], b)"))
        args = f"{a}, {b}, {c}"
        lines.append(loop.format(f="clamp", t=t, args=args, call=f"losskit::clamp<{t}>(a[i], b[i], c[i])"))
        lines.append(loop.format(f="where", t=t, args=args, call="losskit::where(a[i] != 0, b[i], c[i])"))
    return "\n".join(lines) + "\n"


class Library:
    def __init__(self, folder, flags):
        self.plain = not flags
        text = source()
        (folder / "loops.cpp").write_text(text)
        command = ["g++", *FLAGS, *flags, str(folder / "loops.cpp"), "-o", str(folder / "loops.so")]
        notes = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        self.vectorised = set()
        for number in set(re.findall(r"loops\.cpp:(\d+):\d+: optimized: loop vectorized", notes)):
            self.vectorised.add(re.search(r"void (\w+)\(", text.splitlines()[int(number) - 1])[1])
        self.loops = ctypes.CDLL(str(folder / "loops.so"))

    def __call__(self, name, kind, *args):
        args = [np.ascontiguousarray(a, TYPES[kind]) for a in args]
        y = np.empty_like(args[0])
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*args, y)]
        getattr(self.loops, f"{name}_{kind}")(*pointers, ctypes.c_long(y.size))
        return y


def targets():
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        words = set()
    return ["plain"] + (["x86-64-v3"] if {"avx2", "fma", "bmi2"} <= words else [])


@pytest.fixture(scope="module", params=targets())
def library(request, tmp_path_factory):
    flags = [] if request.param == "plain" else [f"-march={request.param}"]
    return Library(tmp_path_factory.mktemp("primitives"), flags)


@pytest.fixture(autouse=True, scope="module")
def precision():
    with mp.workprec(200):
        yield


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ONE)
def test_accuracy(library, name, kind):
    function, bar, lowest = ONE[name]
    x = points(kind)
    y = library(name, kind, x)
    assert np.isnan(y[x < lowest]).all()
    inside = (x > lowest) & ((name != "acos") | (x <= 1))
    assert np.isnan(y[~inside & (x != lowest)]).all()
    x, y = x[inside], y[inside]
    errors = [error_in_ulp(v, t, kind) for v, t in zip(y, truth_of(name, kind, function, x))]
    error, where = worst(errors, x)
    print(f"{name} {kind}: {error:.3f} ULP at {where}")
    assert error <= bar_of(bar, kind), where


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_at_once(library, name, kind):
    """The bits of the function of one number, whatever stands beside it."""
    x = points(kind)
    usual = x[(x > 1e-30) & (x < 80)]
    assert 500 < len(usual) < len(x)
    for block in (usual, -usual[usual < 0.9], x, *np.split(x, range(1, len(x)))):
        got, want = library(f"{name}_each", kind, block), library(name, kind, block)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(np.signbit(got[got == got]), np.signbit(want[want == want]))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", TWO)
def test_accuracy_of_two(library, name, kind):
    function, bar = TWO[name]
    rng = np.random.default_rng(2)
    a = rng.permutation(points(kind))[:2000]
    b = rng.permutation(points(kind))[:2000]
    if name == "hypot":  # also sides of like size
        b[::2] = a[::2] * rng.uniform(0.2, 1, 1000)
    if name == "atan2":
        b[::2] = a[::2] * rng.uniform(0.2, 1, 1000)
        a[::4], b[::4] = b[::4].copy(), a[::4].copy()
    if name == "logaddexp":
        b[::2] = a[::2] + rng.uniform(-3, 3, 1000)
    if name == "xlogy":
        b = abs(b)
    if name == "power":
        a, b = abs(a), np.clip(b, -50, 50)
    y = library(name, kind, a, b)
    # log(e^a + e^b) is a sum, of opposite signs for negative a and b, and takes the rounded a - b.
    sizes = np.zeros(len(a))
    if name == "logaddexp":
        d = abs(np.float64(a) - b)
        sizes = np.maximum(abs(np.maximum(a, b)), d * np.exp(-d))
    truths = truth_of(name, kind, function, a, b)
    errors = [error_in_ulp(v, t, kind, float(s)) for v, t, s in zip(y, truths, sizes)]
    error, where = worst(errors, a, b)
    print(f"{name} {kind}: {error:.3f} ULP at {where}")
    assert error <= bar_of(bar, kind), where


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ANGLES)
def test_angles(library, name, kind):
    """Up to 1.6e6, next to the roots, too; the sine is in [-1, 1] at any angle."""
    t, rng = TYPES[kind], np.random.default_rng(6)
    x = points(kind)
    far = library(name, kind, x)
    assert (abs(far) <= 1).all()
    turns = np.concatenate([np.arange(-40, 40), rng.integers(-1000000, 1000000, 2000)])
    x = np.concatenate([x[abs(x) < 1.5e6], (turns * (math.pi / 2)).astype(t), rng.uniform(-20, 20, 1000).astype(t)])
    truths = truth_of(name, kind, ANGLES[name], x)
    error, where = worst([error_in_ulp(v, t, kind) for v, t in zip(library(name, kind, x), truths)], x)
    print(f"{name} {kind}: {error:.3f} ULP at {where}")
    assert error <= (1.0 if kind == "float" else 1.5), where


@pytest.mark.parametrize("kind", TYPES)
def test_power_over_the_whole_range(library, kind):
    """Exponents that lead anywhere between the smallest and the largest number, from bases next to 1, too."""
    info, rng = np.finfo(TYPES[kind]), np.random.default_rng(3)
    near = 1 + rng.uniform(-1, 1, 1500) * 10.0 ** rng.uniform(math.log10(info.eps), -1, 1500)
    a = np.concatenate([near.astype(info.dtype), np.abs(rng.permutation(points(kind))[:1500])])
    a = a[(a != 1) & (a > 0)]
    result = rng.uniform(math.log(info.smallest_subnormal), math.log(info.max), len(a))
    b = (result / np.log(a.astype(np.float64))).astype(info.dtype)
    y = library("power", kind, a, b)
    error, where = worst([error_in_ulp(*x, kind) for x in zip(y, truth_of("range", kind, mp.power, a, b))], a, b)
    print(f"power {kind}: {error:.3f} ULP at {where}")
    assert error <= 2.0, where


@pytest.mark.parametrize("kind", TYPES)
def test_power_is_pow_at_the_ends(library, kind):
    info = np.finfo(TYPES[kind])
    some = [*SOME, 0.5, 3, -3, 1e10, 1e10 + 1, 2**24 + 2, info.max, info.tiny, info.smallest_subnormal]
    some += [2.0**53 - 1, 2.0**52 + 1, 2.0**23 - 1, 2.0**24 - 1, 1 + info.eps, 1 - info.eps]
    some = np.array([*some, *(-v for v in some)], info.dtype)
    a, b = np.array(list(itertools.product(some, some)), info.dtype).T
    with np.errstate(all="ignore"):
        want = np.array([numpy_power(*x) for x in zip(a, b)], info.dtype)
    got = library("power", kind, a, b)
    np.testing.assert_allclose(got, want, rtol=2 * info.eps, atol=2 * info.smallest_subnormal)
    np.testing.assert_array_equal(np.signbit(got[want == want]), np.signbit(want[want == want]))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", POWERS)
def test_powers_without_a_logarithm(library, name, kind):
    """They are what C's pow gives, signs of zeros too, rounded correctly."""
    x = np.concatenate([np.array(SOME, TYPES[kind]), points(kind)])
    with np.errstate(all="ignore"):
        exponents = np.full(x.shape, POWERS[name], np.longdouble)  # an array: by a number numpy takes roots
        exact = np.power(x.astype(np.longdouble), exponents)
        want = exact.astype(x.dtype)
    got = library(name, kind, x)
    np.testing.assert_array_equal(got[: len(SOME)], want[: len(SOME)])
    np.testing.assert_array_equal(np.signbit(got[got == got]), np.signbit(want[want == want]))
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[~finite], want[~finite])
    assert (abs(got[finite] - exact[finite]) <= 0.51 * np.spacing(abs(want[finite]))).all()


def numpy_power(a, b):
    return np.float64(a) ** np.float64(b)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", GAMMA)
def test_gamma(library, name, kind):
    function, bar = GAMMA[name]
    t, rng = TYPES[kind], np.random.default_rng(4)
    x = np.abs(points(kind))[::4]
    roots = np.repeat([1, 2, 1.4616321449683622], 100) + rng.uniform(-1, 1, 300) * 10.0 ** rng.uniform(-8, -1, 300)
    x = np.concatenate([x, np.linspace(0.01, 30, 300, dtype=t), roots.astype(t)])
    x = x[(x > (1e-15 if kind == "float" else 1e-30)) & (x < 1e30)]
    truths = truth_of(name, kind, function, x)
    error, where = worst([error_in_ulp(v, t, kind) for v, t in zip(library(name, kind, x), truths)], x)
    print(f"{name} {kind}: {error:.3f} ULP at {where}")
    assert error <= bar_of(bar, kind), where


# What is added left of 0, by t, the distance from the next whole number.
REFLECTED = {
    "lgamma": lambda t: abs(math.log(abs(math.sin(math.pi * t)) / math.pi)),
    "digamma": lambda t: abs(math.pi / math.tan(math.pi * t)),
    "trigamma": lambda t: (math.pi / math.sin(math.pi * t)) ** 2,
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", GAMMA)
def test_gamma_left_of_zero(library, name, kind):
    """Down to -40. Near the roots the error is that of the two terms which cancel."""
    x = -np.concatenate([np.abs(points(kind))[::8] % 40, np.linspace(0, 40, 401, dtype=TYPES[kind])])
    x, function, eps = x[x < -1e-15], GAMMA[name][0], np.finfo(x.dtype).eps
    pole = {"lgamma": INF, "digamma": NAN, "trigamma": INF}[name]
    for v, got in zip(x, library(name, kind, x)):
        if v % 1 == 0:
            np.testing.assert_equal(got, pole)
        else:
            t, mirrored = float(v - round(v)), 1 - mpf(float(v))
            size = 1 + REFLECTED[name](t) + abs(function(mirrored))  # 1: 1 - x is rounded
            want = mp.re(function(mpf(float(v))))
            assert abs(float(got) - want) <= 4 * eps * size, (v, got, want)


SPECIAL = [
    ("exp", [(0.0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (NAN, NAN), (1e30, INF), (-1e30, 0)]),
    ("expm1", [(0.0, 0), (-0.0, -0.0), (INF, INF), (-INF, -1), (NAN, NAN), (1e30, INF), (-1e30, -1)]),
    ("log", [(0.0, -INF), (-0.0, -INF), (1, 0), (INF, INF), (-INF, NAN), (-1, NAN), (NAN, NAN)]),
    ("log1p", [(0.0, 0), (-0.0, -0.0), (-1, -INF), (INF, INF), (-INF, NAN), (-1.5, NAN), (NAN, NAN)]),
    ("softplus", [(0.0, ln2), (-0.0, ln2), (INF, INF), (-INF, 0), (NAN, NAN), (1e30, 1e30)]),
    ("log_sigmoid", [(0.0, -ln2), (INF, 0), (-INF, -INF), (NAN, NAN), (-1e30, -1e30)]),
    ("sigmoid", [(0.0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0), (NAN, NAN)]),
    ("tanh", [(0.0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (NAN, NAN), (1e30, 1)]),
    ("sqrt", [(0.0, 0), (INF, INF), (-1, NAN), (NAN, NAN)]),
    ("absolute", [(-0.0, 0.0), (-INF, INF), (NAN, NAN), (-2, 2)]),
    ("sign", [(0.0, 0), (INF, 1), (-INF, -1), (NAN, NAN)]),
    ("erf", [(0.0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (NAN, NAN)]),
    ("erfc", [(0.0, 1), (-0.0, 1), (INF, 0), (-INF, 2), (NAN, NAN)]),
    ("expm1m", [(0.0, 0), (-0.0, 0), (INF, INF), (-INF, INF), (NAN, NAN), (1e30, INF), (-1e30, 1e30)]),
    ("minus_log1p", [(0.0, 0), (-0.0, 0), (-1, INF), (INF, INF), (-INF, NAN), (-1.5, NAN), (NAN, NAN)]),
    ("log1mexp", [(0.0, -INF), (-0.0, -INF), (INF, 0), (-INF, NAN), (-1, NAN), (NAN, NAN), (1e30, 0)]),
    ("sin", [(0.0, 0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (NAN, NAN)]),
    ("cos", [(0.0, 1), (-0.0, 1), (INF, NAN), (-INF, NAN), (NAN, NAN)]),
    ("acos", [(1, 0), (-1, math.pi), (0.0, math.pi / 2), (1.5, NAN), (INF, NAN), (-INF, NAN), (NAN, NAN)]),
    ("floor", [(0.0, 0), (-0.0, -0.0), (-0.5, -1), (2.5, 2), (INF, INF), (-INF, -INF), (NAN, NAN), (1e30, 1e30)]),
    ("lgamma", [(0.0, INF), (1, 0), (2, 0), (INF, INF), (-INF, INF), (-1, INF), (NAN, NAN)]),
    ("digamma", [(0.0, -INF), (-0.0, INF), (INF, INF), (-INF, NAN), (-1, NAN), (-40, NAN), (NAN, NAN)]),
    ("trigamma", [(0.0, INF), (-0.0, INF), (INF, 0), (-INF, NAN), (-1, INF), (-40, INF), (NAN, NAN)]),
]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("name", "values"), SPECIAL, ids=[name for name, _ in SPECIAL])
def test_special_values(library, name, values, kind):
    x, want = np.array(values).astype(TYPES[kind]).T
    got = library(name, kind, x)
    np.testing.assert_array_equal(got, want)
    if name in ("expm1", "log1p", "tanh", "absolute", "erf", "sin", "floor"):  # the sign of zero counts
        np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(want[want == 0]))


def reference_times(w, v):
    return 0.0 if w == 0 and not math.isnan(v) else w * v


def reference_xlogy(x, y):
    log = NAN if math.isnan(y) or y < 0 else -INF if y == 0 else math.log(y)
    return 0.0 if x == 0 and not math.isnan(y) else x * log


@pytest.mark.parametrize("kind", TYPES)
def test_selection(library, kind):
    a, b = np.array(list(itertools.product(SOME, SOME)), TYPES[kind]).T
    same = lambda name, want: np.testing.assert_array_equal(library(name, kind, a, b), want, err_msg=name)
    same("maximum", np.maximum(a, b))
    same("minimum", np.minimum(a, b))
    same("times", [reference_times(float(w), float(v)) for w, v in zip(a, b)])
    same(
        "mute",
        [reference_times(float(w), float(v)) if w == 0 else reference_times(float(v), float(w)) for w, v in zip(a, b)],
    )
    same("xlogy", np.array([reference_xlogy(float(x), float(y)) for x, y in zip(a, b)], a.dtype))
    same("hypot", np.array([math.hypot(x, y) for x, y in zip(a, b)], a.dtype))
    with np.errstate(invalid="ignore"):
        close = np.logaddexp(a, b)
    np.testing.assert_allclose(library("logaddexp", kind, a, b), close, rtol=2 * np.finfo(a.dtype).eps)
    lo, hi = np.full_like(a, -1), np.full_like(a, 1.5)
    np.testing.assert_array_equal(library("clamp", kind, a, lo, hi), np.clip(a, -1, 1.5))
    angles = np.array([math.atan2(x, y) for x, y in zip(a, b)], a.dtype)
    np.testing.assert_allclose(library("atan2", kind, a, b), angles, rtol=2 * np.finfo(a.dtype).eps)
    np.testing.assert_array_equal(
        np.signbit(library("atan2", kind, a, b)[angles == angles]), np.signbit(angles[angles == angles])
    )
    np.testing.assert_array_equal(library("where", kind, a, b, lo), np.where(a != 0, b, lo))


def test_vectorised(library):
    names = [*ONE, *GAMMA, *ANGLES, *TWO, *POWERS, "powers", *SELECT, "clamp", "where"]
    names.remove("first_power")  # a copy
    # 64-bit masks need SSE4; on plain x86-64 a selection of doubles is a scalar loop.
    masked = ("where", "times", "mute", "maximum", "minimum", "clamp", "logaddexp", "xlogy", "erf", "root")
    masked += ("expm1m", "minus_log1p")
    in_double = (
        "power",
        "powers",
        "erfc",
        *GAMMA,
        *ANGLES,
        "log1mexp",
        "acos",
        "atan2",
        "floor",
    )
    left_out = {f"{name}_double" for name in masked} | {f"{n}_{t}" for n in in_double for t in TYPES}
    left_out = left_out if library.plain else set()
    assert {f"{n}_{t}" for n in names for t in TYPES} - left_out <= library.vectorised


def test_constants_have_provenance():
    """Every constant that tools/fit_primitives.py fits stands in the header as printed."""
    tool = [sys.executable, str(ROOT / "tools" / "fit_primitives.py")]
    printed = subprocess.run(tool, check=True, capture_output=True, text=True).stdout
    number = r"-?\d\.\d*e[+-]?\d+f?|-?\d\.\d+f?"
    numbers = re.findall(number, "".join(line for line in printed.splitlines() if line.startswith("    ")))
    header = "".join((ROOT / "csrc" / name).read_text() for name in ("primitives.h", "special.h"))
    assert len(numbers) > 50
    missing = [n for n in numbers if n not in header]
    assert set(missing) <= {"1.44269502f", "5.0e-1f"}, missing  # the double's, cast; and 0.5
