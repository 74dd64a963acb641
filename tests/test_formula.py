"""The formula language: what a trace keeps, what it prints, what it derives, and which declarations it refuses."""

import math
import textwrap

import mpmath
import pytest
import samples
import torch

import losskit
from losskit import formula
from losskit.calculus import derivative, truth
from losskit.display import Writer
from losskit.errors import DeclarationError
from losskit.formula import PRIMITIVES
from losskit.graph import Trace
from losskit.kernels import codegen
from losskit.printing import function, print_expr, print_statements

# Arguments at which every primitive is compared in all its spellings.
POINTS = {
    "where": [(True, 1.5, 2.5), (False, 1.5, math.nan)],
    "clamp": [(-1.0, 0.0, 2.0), (1.0, 0.0, 2.0), (3.0, 0.0, 2.0)],
    "times": [(0.0, math.inf), (2.0, 3.0), (0.0, math.nan)],
    "mute": [(0.0, math.inf), (math.inf, 0.0), (2.0, 3.0), (0.0, math.nan), (math.nan, 0.0)],
    "xlogy": [(0.0, 0.0), (2.0, 3.0)],
    "log": [(2.5,), (0.0,)],
    "lgamma": [(0.5,), (3.7,)],
    "digamma": [(0.5,), (3.7,)],
    "trigamma": [(0.5,), (3.7,)],
    "expm1m": [(-1.3,), (1e-9,), (-0.9,), (0.5,), (1.1,), (31.0,)],
    "minus_log1p": [(-0.6,), (-0.4,), (0.0,), (1e-9,), (0.9,), (1.1,), (31.0,)],
    "log1mexp": [(0.0,), (1e-9,), (0.7,), (31.0,)],
    "acos": [(-1.0,), (-0.3,), (1e-9,), (1.0,), (1.5,)],
    "sqrt": [(0.0,), (2.25,)],
    "log1p": [(1e-9,), (-0.5,)],
    "power": [(2.0, 0.5), (0.3, 3.0)],
    "logaddexp": [(0.1, 0.7), (3.0, 3.0)],
}
DEFAULT_POINTS = {1: [(-1.3,), (0.0,), (1e-9,), (2.2,), (31.0,)], 2: [(0.7, 0.7), (-1.2, 0.4), (2.0, -3.0)]}
EDGES = {("acos", (x,)) for x in (-1.0, 1.0, 1.5)}
CONDITIONS = {"lt", "le", "gt", "ge", "eq", "ne", "both", "either"}
PUBLIC = sorted(set(PRIMITIVES) - CONDITIONS - {"add", "sub", "mul", "div", "neg"})


def points(name):
    return POINTS.get(name, DEFAULT_POINTS.get(PRIMITIVES[name].arity, []))


def call(name, args):
    return getattr(formula, name)(*args)


@pytest.mark.parametrize("name", PUBLIC)
def test_tensors_and_numbers_and_mpmath_agree(name):
    accuracy = 1e-9 if name == "trigamma" else 1e-13  # torch's polygamma is no better
    for args in points(name):
        tensors = [torch.tensor(x, dtype=torch.bool if isinstance(x, bool) else torch.float64) for x in args]
        by_torch = call(name, tensors).item()
        by_number = call(name, args)
        with mpmath.workdps(40):
            by_mpmath = PRIMITIVES[name].mpmath(*[x if isinstance(x, bool) else mpmath.mpf(x) for x in args])
            expected = float(by_mpmath)
        assert by_torch == pytest.approx(expected, rel=accuracy, nan_ok=True), args
        assert by_number == pytest.approx(expected, rel=accuracy, nan_ok=True), args


@pytest.mark.parametrize("name", PUBLIC)
def test_every_primitive_has_every_spelling_and_a_docstring(name):
    row = PRIMITIVES[name]
    places = [f"{{{i}}}" for i in range(row.arity)]
    for language in ("cpp", "triton", "latex", "javascript"):
        assert all(place in getattr(row, language) for place in places), language
    assert getattr(formula, name).__doc__


@pytest.mark.parametrize("name", sorted({name for name in PUBLIC if PRIMITIVES[name].derivative} - {"where", "stop"}))
def test_derivative_is_the_slope(name):
    arity = PRIMITIVES[name].arity
    names = ["a", "b", "c"][:arity]
    trace = Trace()
    root = call(name, [trace.variable(n) for n in names])
    with mpmath.workdps(60):
        for args in points(name):
            if not all(map(math.isfinite, args)) or 0.0 in args or len(set(args)) < arity or (name, args) in EDGES:
                continue  # limits and kinks are tested with the losses that have them
            for i, variable in enumerate(names):
                rule = truth(derivative(root, trace.variable(variable)), dict(zip(names, args, strict=True)))

                def along(x, i=i, args=args):
                    moved = [*args[:i], x, *args[i + 1 :]]
                    return truth(root, dict(zip(names, moved, strict=True)))

                slope = (along(mpmath.mpf(args[i]) + mpmath.mpf("1e-25")) - along(mpmath.mpf(args[i]))) / mpmath.mpf(
                    "1e-25"
                )
                assert abs(rule - slope) < mpmath.mpf("1e-15") * (1 + abs(slope)), (args, variable)


def test_digamma_chain():
    trace = Trace()
    root = formula.lgamma(trace.variable("x"))
    second = derivative(derivative(root, trace.variable("x")), trace.variable("x"))
    assert print_expr(second, "python") == "trigamma(x)"


def test_the_authors_order_is_kept():
    trace = Trace()
    x, t, s = map(trace.variable, "xts")
    assert print_expr(((x - t) / s) * ((x - t) / s), "python") == "(x - t) / s * ((x - t) / s)"
    assert print_expr(x + (t + s), "python") == "x + (t + s)"
    assert print_expr(x - (t - s), "cpp") == "x - (t - s)"
    assert print_expr(2.0 * x / (t * s), "javascript") == "2.0 * x / (t * s)"
    assert print_expr(-(x + t), "cpp") == "-(x + t)"
    assert print_expr((x < t) & (t > 1), "python") == "(x < t) & (t > 1.0)"
    assert print_expr(x**2, "cpp") == "x * x"


def test_shared_parts_are_named_once():
    trace = Trace()
    x, t = trace.variable("x"), trace.variable("t")
    d = x - t
    lines, results = print_statements([d * d, 2.0 * d], "cpp")
    assert lines == ["const T difference = x - t;"]
    assert results == ["difference * difference", "T(2.0) * difference"]


def test_a_formula_that_is_long_when_written_out():
    """Parts that are used twice at every step: temporaries are short where one expression would have 2^60 parts."""
    trace = Trace()
    x = trace.variable("x")
    for _ in range(60):
        x = x * x + 0.5 * x
    assert print_expr(x, "latex") == r"\dots"
    assert len(print_statements([x], "cpp")[0]) < 200
    assert function(x, ["x"])(0.1) == pytest.approx(0.0, abs=1e-15)


def test_latex_and_javascript_of_a_loss():
    huber = losskit.HuberLoss._formulas[()]
    assert (
        Writer(losskit.HuberLoss, huber).write(huber.gradients[0]).latex
        == r"\operatorname{clamp}\left(x - t,\, -\delta,\, \delta\right)"
    )
    assert print_expr(huber.gradients[0], "javascript") == "lk.clamp(input - target, -delta, delta)"
    assert print_expr(huber.gradients[0], "triton") == "lk.clamp(input - target, -delta, delta)"
    assert r"\begin{cases}" in print_expr(huber.value, "latex")


@pytest.mark.parametrize("setup", samples.everything("elements: the printed formula of every loss"))
def test_printed_python_is_the_formula(setup):
    """What is printed computes what the author's own function computes."""
    operands = setup.operands((50,))
    traced = setup.formula
    given = {name: setup.params.get(name, setup.loss.params[name].default) for name in traced.numbers}
    numbers = {name: torch.tensor(x, dtype=torch.float64) for name, x in given.items()}  # Python divides by no 0
    operands += [torch.full((50,), setup.params[name]) for name in traced.operands if name in setup.loss.params]
    printed = function(traced.value, [*traced.operands, *numbers])(*operands, *numbers.values())
    arguments = dict(zip(traced.operands, operands, strict=True)) | numbers
    words = [name for name, p in setup.loss.params.items() if p.kind in ("bool", "choice")]
    arguments |= {name: setting for name, setting in traced.switches.items() if name in words}
    try:
        torch.set_default_dtype(torch.float64)  # that of a choice between two numbers
        own = setup.loss.value(**{
            name: arguments.get(name) if name in arguments else None
            for name in setup.loss.value.__code__.co_varnames[: setup.loss.value.__code__.co_argcount]
        })  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(printed, own)


def test_kernels_are_found_by_their_source():
    """Every built-in formula has its kernel in the package's library: the committed C++ is not stale."""
    for loss in samples.built_in():
        for traced in loss._formulas.values():
            symbol, source = codegen.cpp(traced)
            assert symbol in source
            assert losskit.kernels.library.find(traced), symbol


class TestRefusedDeclarations:
    """Mistakes in a declaration are one sentence, when the class is made."""

    def declare(self, body, doc='"""Doc."""', base="PointwiseLoss"):
        scope = {**vars(losskit), **{name: getattr(formula, name) for name in PUBLIC}, "math": math}
        text = f"class Wrong({base}):\n    {doc}\n" + textwrap.indent(textwrap.dedent(body), "    ")
        exec(text, scope)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (
                "@staticmethod\ndef value(input, target):\n    return input if input > target else target",
                "cannot branch on a traced value",
            ),
            ("@staticmethod\ndef value(input, target):\n    return math.exp(input)", "cannot turn a traced value"),
            ("@staticmethod\ndef value(input, target):\n    return input > target", "must return a number"),
            ("@staticmethod\ndef value(input, target):\n    return 'x'", "works on numbers"),
            ("@staticmethod\ndef value(input, target):\n    return input.pow(2)", "must use the primitives"),
            (
                "a: float = param(default=1.0, doc='')\n@staticmethod\ndef value(input, target):\n    return input",
                "`value` does not take the parameter a",
            ),
            ("def value(input, target):\n    return input", "value must be a @staticmethod"),
            ("pass", "a static method `value`"),
            ("@staticmethod\ndef value(input, new):\n    return input", "cannot be called new in C++"),
            ("@staticmethod\ndef value(input_):\n    return input_", "cannot be called input_"),
            ("@staticmethod\ndef value():\n    return 1.0", "must take 1 to 8 tensors, got 0"),
            ("@staticmethod\ndef value(a, b, c, d, e, f, g, h, k):\n    return a", "must take 1 to 8 tensors, got 9"),
            (
                "".join(f"a{i}: float = param(default=1.0, doc='')\n" for i in range(9))
                + f"@staticmethod\ndef value(input, {', '.join(f'a{i}' for i in range(9))}):\n    return input",
                "a loss may have 8 numbers, got 9",
            ),
            (
                "@staticmethod\ndef value(input, target):\n    return input\n"
                "@staticmethod\ndef grad(input):\n    return input",
                "`grad` must take the arguments of `value`: input, target",
            ),
            (
                "@staticmethod\ndef value(input):\n    return input\n"
                "@staticmethod\ndef grad(input):\n    return input, input",
                "`grad` returns more entries than there are operands",
            ),
            (
                "a: list = param(default=1, doc='')\n@staticmethod\ndef value(input, a):\n    return input",
                "annotate a with float, int, bool, str, Tensor",
            ),
            (
                "a: float = param(default=-1.0, domain=positive, doc='')\n"
                "@staticmethod\ndef value(input, a):\n    return input",
                "a must be positive, got -1.0",
            ),
            (
                "name = 'mse_loss'\n@staticmethod\ndef value(input):\n    return input",
                "a built-in loss is called mse_loss",
            ),
            (
                "a: float = param(default=1.0, doc='')\narguments = 'reduction'\n"
                "@staticmethod\ndef value(input, a):\n    return input",
                "`arguments` leaves out a",
            ),
        ],
    )  # fmt: skip
    def test_refused(self, body, message):
        before = losskit.list_losses()
        with pytest.raises((DeclarationError, ValueError)) as caught:
            self.declare(body)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert losskit.list_losses() == before

    def test_no_docstring(self):
        with pytest.raises(DeclarationError, match="Wrong: a loss needs a docstring"):
            self.declare("@staticmethod\ndef value(input):\n    return input", doc="pass")

    def test_no_inheritance_from_a_loss(self):
        with pytest.raises(DeclarationError, match="cannot inherit from the loss MSELoss"):
            self.declare("@staticmethod\ndef value(input, target):\n    return input - target", base="MSELoss")
