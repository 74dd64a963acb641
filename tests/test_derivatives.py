"""Derivatives at the ends of every primitive's domain: the limit where there is one, and NaN where an operand is NaN.

The limits are written down by hand, and compared with slopes that mpmath takes near the end. What computes them is the
printed Python of tensors and of numbers and, compiled in one library, the printed C++.
"""

import ctypes
import math
import subprocess
from pathlib import Path

import mpmath
import pytest
import samples
import torch

from losskit import formula
from losskit.calculus import Differentiable, derivative, guarded
from losskit.formula import (
    absolute,
    exp,
    expm1,
    log,
    log1p,
    power,
    sqrt,
    where,
)
from losskit.graph import Trace
from losskit.printing import print_statements
from losskit_guide import scalar

ROOT = Path(__file__).resolve().parent.parent
INF, NAN = math.inf, math.nan
NAMES = ("a", "b", "c")

# primitive, arguments, the argument that moves, a point nearby, first and second derivative by it.
# A second derivative of None has no limit, or another from either side: it must only not be NaN.
ENDS = [
    ("sqrt", (0.0,), 0, (1e-30,), INF, -INF),
    ("sqrt", (-0.0,), 0, (1e-30,), INF, -INF),
    ("sqrt", (INF,), 0, (1e30,), 0.0, 0.0),
    ("exp", (-INF,), 0, (-1e3,), 0.0, 0.0),
    ("exp", (INF,), 0, (1e3,), INF, INF),
    ("expm1", (-INF,), 0, (-1e3,), 0.0, 0.0),
    ("expm1", (INF,), 0, (1e3,), INF, INF),
    ("log", (0.0,), 0, (1e-30,), INF, -INF),
    ("log", (-0.0,), 0, (1e-30,), INF, -INF),
    ("log", (INF,), 0, (1e30,), 0.0, 0.0),
    ("log1p", (-1.0,), 0, (mpmath.mpf(-1) + mpmath.mpf(2) ** -50,), INF, -INF),
    ("log1p", (INF,), 0, (1e30,), 0.0, 0.0),
    ("softplus", (-INF,), 0, (-1e3,), 0.0, 0.0),
    ("softplus", (INF,), 0, (1e3,), 1.0, 0.0),
    ("sigmoid", (-INF,), 0, (-1e3,), 0.0, 0.0),
    ("sigmoid", (INF,), 0, (1e3,), 0.0, 0.0),
    ("log_sigmoid", (-INF,), 0, (-1e3,), 1.0, 0.0),
    ("log_sigmoid", (INF,), 0, (1e3,), 0.0, 0.0),
    ("tanh", (-INF,), 0, (-1e3,), 0.0, 0.0),
    ("tanh", (INF,), 0, (1e3,), 0.0, 0.0),
    ("erf", (-INF,), 0, (-1e2,), 0.0, 0.0),
    ("erf", (INF,), 0, (1e2,), 0.0, 0.0),
    ("erf", (1e30,), 0, (1e2,), 0.0, 0.0),
    ("erfc", (-INF,), 0, (-1e2,), 0.0, 0.0),
    ("erfc", (INF,), 0, (1e2,), 0.0, 0.0),
    ("expm1m", (0.0,), 0, (1e-30,), 0.0, 1.0),
    ("expm1m", (-INF,), 0, (-1e3,), -1.0, 0.0),
    ("expm1m", (INF,), 0, (1e3,), INF, INF),
    ("minus_log1p", (0.0,), 0, (1e-30,), 0.0, 1.0),
    ("minus_log1p", (-1.0,), 0, (mpmath.mpf(-1) + mpmath.mpf(2) ** -50,), -INF, INF),
    ("minus_log1p", (INF,), 0, (1e30,), 1.0, 0.0),
    ("log1mexp", (0.0,), 0, (1e-30,), INF, -INF),
    ("log1mexp", (-0.0,), 0, (1e-30,), INF, -INF),
    ("log1mexp", (INF,), 0, (1e3,), 0.0, 0.0),
    ("sin", (0.0,), 0, (0.0,), 1.0, 0.0),
    ("cos", (0.0,), 0, (0.0,), 0.0, -1.0),
    ("acos", (1.0,), 0, (1 - mpmath.mpf(2) ** -50,), -INF, -INF),
    ("acos", (-1.0,), 0, (mpmath.mpf(2) ** -50 - 1,), -INF, INF),
    ("acos", (0.0,), 0, (0.0,), -1.0, 0.0),
    ("atan2", (0.0, 0.0), 0, None, 0.0, 0.0),
    ("atan2", (0.0, 0.0), 1, None, 0.0, 0.0),
    ("atan2", (0.0, 2.0), 0, (0.0, 2.0), 0.5, 0.0),
    ("atan2", (2.0, 0.0), 1, (2.0, 0.0), -0.5, 0.0),
    ("atan2", (1.0, INF), 0, (1.0, 1e30), 0.0, 0.0),
    ("atan2", (1e-30, 1e-30), 0, None, 5e29, None),
    ("atan2", (3e30, 4e30), 1, None, -1.2e-31, None),
    ("floor", (2.0,), 0, None, 0.0, 0.0),
    ("floor", (INF,), 0, None, 0.0, 0.0),
    ("stop", (2.0,), 0, None, 0.0, 0.0),
    ("stop", (INF,), 0, None, 0.0, 0.0),
    ("lgamma", (0.0,), 0, (1e-20,), -INF, INF),
    ("lgamma", (INF,), 0, None, INF, 0.0),
    ("digamma", (0.0,), 0, (1e-20,), INF, None),
    ("digamma", (INF,), 0, (1e20,), 0.0, None),
    ("absolute", (0.0,), 0, None, 0.0, 0.0),
    ("absolute", (-INF,), 0, (-1e30,), -1.0, 0.0),
    ("sign", (0.0,), 0, None, 0.0, 0.0),
    ("sign", (INF,), 0, (1e30,), 0.0, 0.0),
    ("maximum", (INF, 1.0), 0, (1e30, 1.0), 1.0, 0.0),
    ("maximum", (INF, 1.0), 1, (1e30, 1.0), 0.0, 0.0),
    ("maximum", (1.0, 1.0), 0, None, 1.0, 0.0),
    ("minimum", (-INF, 1.0), 0, (-1e30, 1.0), 1.0, 0.0),
    ("minimum", (1.0, 1.0), 1, None, 0.0, 0.0),
    ("clamp", (INF, 0.0, 1.0), 0, (1e30, 0.0, 1.0), 0.0, 0.0),
    ("clamp", (1.0, 0.0, 1.0), 0, None, 1.0, 0.0),
    ("times", (0.0, INF), 1, (0.0, 1e30), 0.0, 0.0),
    ("times", (0.0, INF), 0, None, INF, 0.0),
    ("xlogy", (0.0, 0.0), 0, (1e-30, mpmath.mpf("1e-3000")), -INF, None),
    ("xlogy", (0.0, 0.0), 1, (0.0, 1e-30), 0.0, 0.0),
    ("xlogy", (0.0, 2.0), 1, (0.0, 2.0), 0.0, 0.0),
    ("xlogy", (1.0, 0.0), 1, (1.0, 1e-30), INF, -INF),
    ("xlogy", (1.0, -0.0), 1, (1.0, 1e-30), INF, -INF),
    ("xlogy", (1.0, INF), 1, (1.0, 1e30), 0.0, 0.0),
    ("logaddexp", (INF, INF), 0, (1e3, 1e3), 0.5, None),
    ("logaddexp", (-INF, -INF), 0, (-1e3, -1e3), 0.5, None),
    ("logaddexp", (INF, -INF), 0, (1e3, -1e3), 1.0, 0.0),
    ("logaddexp", (INF, -INF), 1, (1e3, -1e3), 0.0, 0.0),
    ("logaddexp", (3.0, 3.0), 0, (3.0, 3.0), 0.5, 0.25),
    ("hypot", (0.0, 0.0), 0, None, 0.0, None),
    ("hypot", (INF, 1.0), 0, (1e30, 1.0), 1.0, 0.0),
    ("hypot", (INF, 1.0), 1, (1e30, 1.0), 0.0, 0.0),
    ("hypot", (-INF, 1.0), 0, (-1e30, 1.0), -1.0, 0.0),
    ("hypot", (3.0, 0.0), 1, (3.0, 0.0), 0.0, 1 / 3),
    ("power", (0.0, 0.0), 0, (1e-30, 0.0), 0.0, 0.0),
    ("power", (0.0, 0.5), 0, (1e-30, 0.5), INF, -INF),
    ("power", (-0.0, 0.5), 0, (1e-30, 0.5), INF, -INF),
    ("power", (0.0, 1.0), 0, (1e-30, 1.0), 1.0, 0.0),
    ("power", (0.0, 1.5), 0, (1e-30, 1.5), 0.0, INF),
    ("power", (0.0, 2.0), 0, (1e-30, 2.0), 0.0, 2.0),
    ("power", (0.0, 3.0), 0, (1e-30, 3.0), 0.0, 0.0),
    ("power", (0.0, -1.0), 0, (1e-30, -1.0), -INF, INF),
    ("power", (INF, 0.0), 0, (1e30, 0.0), 0.0, 0.0),
    ("power", (INF, 0.5), 0, (1e30, 0.5), 0.0, 0.0),
    ("power", (INF, 1.0), 0, (1e30, 1.0), 1.0, 0.0),
    ("power", (INF, 2.0), 0, (1e30, 2.0), INF, 2.0),
    ("power", (INF, -1.0), 0, (1e30, -1.0), 0.0, 0.0),
    ("power", (0.0, 2.0), 1, (1e-30, 2.0), 0.0, 0.0),
    ("power", (0.0, 0.0), 1, (mpmath.mpf("1e-3000"), 0.0), -INF, INF),
    ("power", (INF, -1.0), 1, (1e30, -1.0), 0.0, 0.0),
    ("mute", (0.0, INF), 1, (0.0, 1e30), 0.0, 0.0),
    ("div", (1.0, INF), 0, (1.0, 1e30), 0.0, 0.0),
    ("div", (1.0, INF), 1, (1.0, 1e30), 0.0, 0.0),
    ("div", (1.0, 0.0), 1, (1.0, 1e-30), -INF, INF),
    ("div", (1e30, 1e30), 1, (1e30, 1e30), -1e-30, 2e-60),
    ("mul", (0.0, INF), 1, None, 0.0, 0.0),
    ("add", (INF, 1.0), 1, (1e30, 1.0), 1.0, 0.0),
    ("sub", (INF, 1.0), 1, (1e30, 1.0), -1.0, 0.0),
    ("neg", (INF,), 0, (1e30,), -1.0, 0.0),
]  # fmt: skip
PLACES = {"add": "__add__", "sub": "__sub__", "mul": "__mul__", "div": "__truediv__", "neg": "__neg__"}


def applied(name, args):
    return getattr(args[0], PLACES[name])(*args[1:]) if name in PLACES else getattr(formula, name)(*args)


def traced(name, arity):
    """A primitive of variables, its first derivatives and their derivatives by the same variable."""
    trace = Trace()
    variables = [trace.variable(x) for x in NAMES[:arity]]
    root = applied(name, variables)
    first = [derivative(root, x) for x in variables]
    return root, first, variables


def second_of(first, variable):
    """None where the derivative of trigamma would be asked for, which nothing gives."""
    return None if "trigamma" in first.ops else derivative(first, variable)


def by_tensor(root, names, args, dtype=torch.float64):
    result = Differentiable(root, names, {})(*(torch.tensor(x, dtype=dtype) for x in args))
    return float(result)


def by_number(root, names, args):
    lines, (result,) = print_statements([root], "python", names)
    return scalar.evaluate([*lines, result], names)(*args)


def agrees(got, want):
    if want is None:
        return not math.isnan(got)
    return got == want if want in (0.0, INF, -INF) else got == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(("name", "args", "which", "near", "first", "second"), ENDS)
def test_the_written_limits_are_those_of_mpmath(name, args, which, near, first, second):
    if near is None:
        return  # a corner, where the convention of the primitive's docstring holds, or a limit reached too slowly
    row = formula.PRIMITIVES[name]
    with mpmath.workdps(4000 if any(0 < abs(x) < 1e-300 for x in near) else 400):
        point = [mpmath.mpf(x) for x in near]
        step = mpmath.mpf(10) ** -(mpmath.mp.dps // 2 - 20)

        def along(x):
            return row.mpmath(*point[:which], x, *point[which + 1 :])

        at = point[which]
        slope = (along(at + step) - along(at - step)) / (2 * step)
        if abs(first) == INF:
            assert mpmath.sign(slope) == math.copysign(1, first) and abs(slope) > 60
        elif first == 0:
            assert abs(slope) < 1e-12
        else:
            assert abs(slope / first - 1) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("name", "args", "which", "near", "first", "second"), ENDS)
def test_the_formula_has_the_limits(name, args, which, near, first, second, dtype):
    _, firsts, variables = traced(name, len(args))
    names = NAMES[: len(args)]
    assert agrees(by_tensor(firsts[which], names, args, dtype), first)
    root = second_of(firsts[which], variables[which])
    if root is not None and not (dtype == torch.float32 and second == 2e-60):
        assert agrees(by_tensor(root, names, args, dtype), second)


@pytest.mark.parametrize(("name", "args", "which", "near", "first", "second"), ENDS)
def test_so_have_numbers(name, args, which, near, first, second):
    _, firsts, variables = traced(name, len(args))
    names = NAMES[: len(args)]
    assert agrees(by_number(firsts[which], names, args), first)
    root = second_of(firsts[which], variables[which])
    if root is not None:
        assert agrees(by_number(root, names, args), second)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Every derivative of the table as a function of doubles, of one compiled library."""
    folder = tmp_path_factory.mktemp("derivatives")
    lines, seen = ['#include "primitives.h"', "namespace lk = losskit;", "using T = double;"], set()
    for name, args, *_ in ENDS:
        if name in seen:
            continue
        seen.add(name)
        _, firsts, variables = traced(name, len(args))
        for i, (root, variable) in enumerate(zip(firsts, variables)):
            for order, x in enumerate((root, second_of(root, variable)), 1):
                if x is None:
                    continue
                statements, (result,) = print_statements([x], "cpp", NAMES)
                taken = ", ".join(f"double {v}" for v in NAMES)
                lines += [f'extern "C" double {name}_{i}_{order}({taken}) {{', *statements, f"return {result}; }}"]
    (folder / "all.cpp").write_text("\n".join(lines) + "\n")
    flags = ["-std=c++20", "-O1", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["g++", *flags, str(folder / "all.cpp"), "-o", str(folder / "all.so")], check=True)
    return ctypes.CDLL(str(folder / "all.so"))


@pytest.mark.parametrize(("name", "args", "which", "near", "first", "second"), ENDS)
def test_so_has_the_kernel(name, args, which, near, first, second, compiled):
    for order, want in ((1, first), (2, second)):
        try:
            function = compiled[f"{name}_{which}_{order}"]
        except AttributeError:
            assert order == 2 and name == "digamma"
            continue
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double] * 3
        assert agrees(function(*args, *[0.0] * (3 - len(args))), want), order


@pytest.mark.parametrize("x", [0.1, 1.0, 20.0, 300.0])
def test_the_slope_of_tanh_keeps_its_digits(x):
    _, (first,), (variable,) = traced("tanh", 1)
    want = float(mpmath.sech(mpmath.mpf(x)) ** 2)
    assert by_tensor(first, NAMES[:1], (x,)) == pytest.approx(want, rel=1e-14)
    more = float(-2 * mpmath.tanh(x) * mpmath.sech(x) ** 2)
    assert by_tensor(derivative(first, variable), NAMES[:1], (x,)) == pytest.approx(more, rel=1e-13)


# ---------------------------------------------------------------------------------------------------------
# What people write: at the exact fit, far away, at NaN

LOSSES = {
    # a function of one number: slopes at 0, infinity and minus infinity (None: the value itself is no number there)
    "p-norm 1": (lambda d: power(absolute(d), 1.0), 0.0, 1.0, -1.0),
    "p-norm 1.5": (lambda d: power(absolute(d), 1.5), 0.0, INF, -INF),
    "p-norm 2": (lambda d: power(absolute(d), 2.0), 0.0, INF, -INF),
    "p-norm 0.5": (lambda d: power(absolute(d), 0.5), 0.0, 0.0, 0.0),
    "root of the magnitude": (lambda d: sqrt(absolute(d)), 0.0, 0.0, 0.0),
    "root of the square": (lambda d: sqrt(d * d), 0.0, 1.0, -1.0),
    "Charbonnier": (lambda d: sqrt(d * d + 1e-6), 0.0, 1.0, -1.0),
    "pseudo-Huber": (lambda d: sqrt(1.0 + (d / 2.0) ** 2) - 1.0, 0.0, 0.5, -0.5),
    "Cauchy": (lambda d: log1p(0.5 * d * d), 0.0, 0.0, 0.0),
    "Welsch": (lambda d: 1.0 - exp(-0.5 * d * d), 0.0, 0.0, 0.0),
    "Geman-McClure": (lambda d: 1.0 - 1.0 / (1.0 + d * d), 0.0, 0.0, 0.0),
    "Geman-McClure as a quotient": (lambda d: d * d / (1.0 + d * d), 0.0, None, None),
    "log of the square": (lambda d: log(1.0 + d * d), 0.0, 0.0, 0.0),
    "pinball": (lambda d: where(d > 0.0, 0.1 * d, -0.9 * d), -0.9, 0.1, -0.9),
    "hinge": (lambda d: formula.maximum(1.0 - d, 0.0), -1.0, 0.0, -1.0),
    "clamped": (lambda d: formula.clamp(d, -1.0, 1.0), 1.0, 0.0, 0.0),
    "line": (lambda d: 3.0 * d, 3.0, 3.0, 3.0),
    "tanh": (lambda d: formula.tanh(d * d), 0.0, 0.0, 0.0),
    "generalised cross entropy": (lambda d: (1.0 - exp(0.7 * d)) / 0.7, -1.0, None, 0.0),
    "focal 0": (lambda d: power(-expm1(d), 0.0) * -d, -1.0, None, -1.0),
    "focal 0.5": (lambda d: power(-expm1(d), 0.5) * -d, 0.0, None, -1.0),
    "focal 1": (lambda d: power(-expm1(d), 1.0) * -d, 0.0, None, -1.0),
    "focal 2": (lambda d: power(-expm1(d), 2.0) * -d, 0.0, None, -1.0),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_people_write(name, dtype):
    function, *wanted = LOSSES[name]
    trace = Trace()
    d = trace.variable("a")
    root = function(d)
    first = guarded(derivative(root, d), root, ["a"])
    second = guarded(derivative(first, d), first, ["a"])
    for x, want in zip((0.0, INF, -INF), wanted):
        if want is not None:
            assert agrees(by_tensor(first, ["a"], [x], dtype), want), x
            assert agrees(by_number(first, ["a"], [x]), want), x
    assert not math.isnan(by_tensor(second, ["a"], [0.0], dtype))
    for root in (first, second):
        assert math.isnan(by_tensor(root, ["a"], [NAN], dtype))
        assert math.isnan(by_number(root, ["a"], [NAN]))


@pytest.mark.parametrize(("name", "arity"), sorted({(name, len(args)) for name, args, *_ in ENDS}))
def test_nan_gives_nan(name, arity):
    """In every derivative, by whatever operand, wherever the value is NaN."""
    root, firsts, _ = traced(name, arity)
    names = NAMES[:arity]
    for nan in range(arity):
        args = [NAN if i == nan else 0.5 * i + 0.25 for i in range(arity)]
        if not math.isnan(by_tensor(root, names, args)):
            continue  # a limit of clamp that is NaN limits nothing
        for first in firsts:
            assert math.isnan(by_tensor(guarded(first, root, names), names, args))


# Operands in which a loss is linear: its gradient by them does not speak of them.
LINEAR = {
    "binary_cross_entropy": "target", "binary_cross_entropy_with_logits": "target", "kl_div": "input",
    "poisson_nll_loss": "target", "multilabel_soft_margin_loss": "target", "hinge_embedding_loss": "target",
    "asymmetric_loss": "target", "kto_loss": "target", "cpo_loss": "nll", "boundary_loss": "input",
}  # fmt: skip


@pytest.mark.parametrize("path", ["fused", "eager"])
@pytest.mark.parametrize("setup", samples.setups(), ids=str)
def test_nan_in_an_operand_is_nan_in_the_gradient_by_it(setup, path):
    operands = setup.operands((3, 2), torch.float64)
    for i, name in enumerate(setup.names):
        if LINEAR.get(setup.loss.name) == name or not setup.loss.operands[name].differentiable:
            continue
        leaves = [torch.full_like(x, NAN) if j == i else x.clone() for j, x in enumerate(operands)]
        leaves = [x.requires_grad_() for x in leaves]
        weight = torch.ones((), dtype=torch.float64, requires_grad=True)
        extras = {} if path == "fused" else {"sample_weight": weight}
        loss = setup(*leaves, reduction="sum", **extras)
        assert loss.isnan()
        assert torch.autograd.grad(loss, leaves[i])[0].isnan().all(), name


def test_nan_that_an_author_took_out_stays_out():
    trace = Trace()
    x, t = trace.variable("x"), trace.variable("t")
    root = where(t == t, (x - t) * (x - t), 0.0)
    gradient = guarded(derivative(root, x), root, ["x", "t"])
    assert by_tensor(gradient, ["x", "t"], [1.0, NAN]) == 0.0
    assert math.isnan(by_tensor(gradient, ["x", "t"], [NAN, 1.0]))
