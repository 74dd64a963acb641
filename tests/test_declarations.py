"""Odd declarations: what the fused kernel takes, every other path computes alike; the rest is refused in a sentence."""

import math
import textwrap

import numpy as np
import pytest
import torch
from torch.func import grad, hessian, vmap

import losskit
from losskit import formula
from losskit.errors import DeclarationError
from losskit.formula import PRIMITIVES
from losskit.graph import LARGEST
from losskit.kernels import compiler
from losskit.names import RESERVED
from losskit.traced import MAX_OPERATIONS

SCOPE = {
    **{name: getattr(losskit, name)
       for name in ("PointwiseLoss", "ClassScoresLoss", "EmbeddingsLoss", "MarginsLoss", "TwoRowsLoss")},
    **{name: getattr(losskit, name) for name in ("param", "positive", "nonnegative", "Operand", "Tensor")
       if hasattr(losskit, name)},
    **{name: getattr(formula, name) for name in PRIMITIVES if hasattr(formula, name)},
    "math": math, "np": np, "torch": torch, "formula": formula,
}  # fmt: skip


def declare(body, base="PointwiseLoss", name="OddLoss"):
    """A class from its source, as an author writes it."""
    scope = dict(SCOPE)
    text = f'class {name}({base}):\n    """Odd."""\n' + textwrap.indent(textwrap.dedent(body), "    ")
    exec(text, scope)
    return scope[name]


def formula_body(
    result, arguments="input, target, q", first="q: float = param(default=0.1, domain=positive, doc='Q.')"
):
    return f"{first}\n@staticmethod\ndef value({arguments}):\n    return {result}"


ODD = {
    "an operand itself": formula_body("input"),
    "the other operand": formula_body("target"),
    "a product of operands": formula_body("input * target"),
    "a constant": formula_body("1.0"),
    "a parameter": formula_body("q"),
    "a function of parameters": formula_body("log(1.0 - q)"),
    "a choice between numbers": formula_body("where(input > target, 1 - q, q) * (input - target) ** 2"),
    "a choice between constants": formula_body("where(input > target, 0.1, 0.7) * input"),
    "nested choices of numbers": formula_body("where(input > 0.0, where(target > 0.0, 0.1, q), 0.3) + input"),
    "a choice between numbers alone": formula_body("where(input > target, 0.1, q)"),
    "a constant condition": formula_body("where(True, input * input, target)"),
    "a constant condition that picks a number": formula_body("input + where(False, input * input, 0.1)"),
    "a condition of parameters": formula_body("where(q > 0.5, input, target * target) * 2"),
    "a condition of parameters that picks a number": formula_body("input * where(q > 0.5, input, 0.1)"),
    "a condition of both": formula_body("where((q < 0.5) & (input > 0.0), input, 0.3 * target)"),
    "the larger of two numbers": formula_body("maximum(q, 0.05) * input + minimum(q, 0.3) * target"),
    "limits of numbers": formula_body("clamp(q, 0.3, 0.7) * input"),
    "equal operands": formula_body("where(input == target, 1.0, input)"),
    "a number to a power": formula_body("2.0 ** input + (+target)"),
    "a parameter-only subexpression": formula_body("input * log(1.0 - q) + target / (q * q - 3.0)"),
    "more of them": formula_body(
        " + ".join(f"log({i}.0 + q) * power(absolute(input), q * {i}.5)" for i in range(1, 7))
    ),
    "a division by a parameter": formula_body("input / (q - 0.1)"),
    "an integer parameter": formula_body("input * (k * 0.3)", "input, k", "k: int = param(default=3, doc='K.')"),
    "a switch as condition": formula_body(
        "where(on & (input > 0.0), input, 0.5)", "input, on", "on: bool = param(default=True, doc='On.')"
    ),
    "numbers of NumPy": formula_body("np.float64(0.1) * input + np.float32(0.5) - target * np.float64(2.0)"),
    "names of temporaries": formula_body(
        "(difference - ratio) ** 2 + absolute(difference - ratio)", "difference, ratio", first=""
    ),
    "a name that JavaScript keeps": formula_body("input * var", "input, var", ""),
    "many terms": formula_body(" + ".join(["input * target"] * 200 + [f"{i}.5 * input" for i in range(1, 200)])),
    "very deep": "@staticmethod\ndef value(input):\n    for _ in range(300):\n        input = 0.5 * input + 0.1\n"
                 "    return input",
    "an infinite constant": formula_body("minimum(input, math.inf) * 1"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick_kernels(tmp_path, monkeypatch):
    """Kernels are compiled for one instruction set, quickly: what is compared is no timing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = [flag for flag in compiler.FLAGS if flag != "-O3"]
    monkeypatch.setattr(compiler, "FLAGS", [*flags, "-O1", "-DLOSSKIT_CLONES="])


def paths(loss, operands):
    """Value and gradients of each path that a call can take."""
    count = len(operands)

    def of(call):
        leaves = [x.clone().requires_grad_() for x in operands]
        loss = call(*leaves)
        return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves, materialize_grads=True)]

    fused = of(loss)
    ones = torch.ones(1, dtype=operands[0].dtype, requires_grad=True)
    found = {"eager": of(lambda *x: loss(*x, sample_weight=ones))}
    each = vmap(grad(lambda *x: loss(*x).sum(), argnums=tuple(range(count))))(*operands)
    found["vmap of grad"] = [fused[0], *each]
    leaves = [x.clone().requires_grad_() for x in operands]
    first = torch.autograd.grad(loss(*leaves).sum(), leaves, create_graph=True)
    found["with a graph"] = [fused[0], *(x.detach() for x in first)]
    return fused, found


def second(loss, operands):
    """The diagonal of the second derivative by the first operand, by torch.func and by double backward."""
    x, *rest = operands
    by_func = hessian(lambda x: loss(x, *rest).sum())(x).diagonal()
    leaves = [y.clone().requires_grad_() for y in operands]
    (first,) = torch.autograd.grad(loss(*leaves).sum(), leaves[:1], create_graph=True)
    if not first.requires_grad:
        return by_func, torch.zeros_like(x)
    (again,) = torch.autograd.grad(first.sum(), leaves[:1], allow_unused=True, materialize_grads=True)
    return by_func, again


@pytest.mark.parametrize("what", ODD)
def test_every_path_computes_the_same(what):
    cls = declare(ODD[what])
    loss = cls("none")
    for dtype in (torch.float64, torch.float32):
        generator = torch.Generator().manual_seed(3)
        operands = [torch.randn(9, generator=generator, dtype=torch.float64).to(dtype) for _ in cls._call_operands()]
        assert losskit.why(loss, *operands).implementation == "fused CPU kernel"
        fused, others = paths(loss, operands)
        tolerance = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}
        for path, results in others.items():
            for got, want in zip(results, fused):
                assert got.dtype == dtype and got.shape == want.shape, path
                torch.testing.assert_close(got, want, **tolerance, equal_nan=True, msg=f"{path}: {got} {want}")
        by_func, by_backward = second(loss, operands)
        torch.testing.assert_close(by_func, by_backward, **tolerance, equal_nan=True)


def test_numbers_take_the_dtype_of_the_operands():
    loss = declare(ODD["a choice between numbers"])("none")
    x, t = torch.tensor([1.9], dtype=torch.float64), torch.tensor([1.3804], dtype=torch.float64)
    want = 0.9 * (x - t) ** 2
    for results in [paths(loss, [x, t])[0], *paths(loss, [x, t])[1].values()]:
        torch.testing.assert_close(results[0], want, rtol=1e-15, atol=0)
        torch.testing.assert_close(results[1], 1.8 * (x - t), rtol=1e-15, atol=0)


@pytest.mark.parametrize("what", ["a choice between numbers", "a condition of both", "a function of parameters"])
def test_defaults_of_torch_do_not_matter(what):
    loss = declare(ODD[what])("none")
    x, t = torch.randn(4), torch.randn(4)
    ones = torch.ones(1, requires_grad=True)
    want = loss(x, t, sample_weight=ones)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        got = declare(ODD[what])("none")(x, t, sample_weight=ones)
        there = loss(torch.empty(4), torch.empty(4))
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert got.dtype == torch.float32 and torch.equal(got, want)
    assert there.device.type == "meta" and there.dtype == torch.float64


@pytest.mark.parametrize("e", [0.5, 0.99, 0.999999, 1e-6, 0.1])
def test_what_only_parameters_decide_is_computed_in_double(e):
    """In float32 log(1 - e) loses hundreds of ULP to the rounding of e alone."""
    loss = declare(formula_body("input * log(1.0 - q) + 0.0 * target"))("none", q=e)
    x, t = torch.ones(3, requires_grad=True), torch.zeros(3)
    exact = torch.tensor(math.log1p(-e), dtype=torch.float64).float().item()
    for weight in ({}, {"sample_weight": torch.ones(1, requires_grad=True)}):
        value = loss(x, t, **weight)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert value.tolist() == gradient.tolist() == [exact] * 3


def test_nan_reaches_every_gradient():
    loss = declare(formula_body("where(input > target, q * (input - target), (1 - q) * (target - input))"))("none")
    nan, one = torch.tensor([math.nan]), torch.ones(1)
    for operands in ([nan, one], [one, nan]):
        fused, others = paths(loss, operands)
        for results in [fused, *others.values()]:
            assert all(x.isnan().all() for x in results)
        assert all(x.isnan().all() for x in second(loss, operands))


FOCAL = """
gamma: float = param(default=2.0, domain=nonnegative, doc="Focus.")

@staticmethod
def value(log_probability, gamma):
    return power(-expm1(log_probability), gamma) * -log_probability
"""


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_focal_loss_at_a_certain_row(gamma):
    loss = declare(FOCAL, "ClassScoresLoss", "OddFocalLoss")(gamma=gamma)
    scores, label = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True), torch.tensor([0])
    for weight in ({}, {"sample_weight": torch.ones(1, requires_grad=True)}):
        (gradient,) = torch.autograd.grad(loss(scores, label, **weight), scores)
        assert gradient.tolist() == [[0.0, 0.0, 0.0]]
    assert hessian(lambda x: loss(x, label))(scores.detach()).abs().max() == 0.0


@pytest.mark.parametrize(
    ("statistics", "operands"),
    [
        ("distance", ["input1", "input2"]),
        ("cosine, target", ["input1", "input2", "target"]),
        ("positive_distance, negative_distance", ["anchor", "positive", "negative"]),
    ],
)
def test_embeddings_need_no_operands(statistics, operands):
    first = statistics.split(",")[0]
    cls = declare(f"@staticmethod\ndef value({statistics}):\n    return log1p({first} * {first})", "EmbeddingsLoss")
    assert cls._call_operands() == operands
    tensors = [torch.ones(4) if name == "target" else torch.randn(4, 3) for name in operands]
    assert cls()(*tensors).isfinite()
    assert losskit.explain(cls).operands[0]["name"] == operands[0]


# ---------------------------------------------------------------------------------------------------------
# Refused, when the class is made, in one sentence

PLAIN = "@staticmethod\ndef value(input, target):\n    return "
REFUSED = [
    # what a formula returns
    ("@staticmethod\ndef value(input, target):\n    input - target", "must return one number, got nothing: end it with `return`"),
    (PLAIN + "input, target", "must return one number, got 2 in a tuple; the gradients go into `grad`"),
    (PLAIN + "[input, target]", "must return one number, got 2 in a list"),
    (PLAIN + "torch.zeros(3)", "must return one number, got a torch.Tensor"),
    (PLAIN + "exp", "must return one number, got a function"),
    (PLAIN + "input > target", "it must return a number, got a condition; write where(condition, 1.0, 0.0)"),
    # conditions and numbers
    (PLAIN + "where(input > 0, target > 0, target < 0)", "the condition target > 0.0 is no number; write where(target > 0.0, 1.0, 0.0)"),
    (PLAIN + "where(input, target, 0.0)", "the first argument of where must be a condition such as x > 0.0, got the number input"),
    (PLAIN + "where(1.0, input, target)", "the first argument of where must be a condition"),
    (PLAIN + "(input > 0) * target", "the condition input > 0.0 is no number"),
    (PLAIN + "where((input > 0) == (target > 0), 1.0, 0.0)", "& and | between conditions"),
    (PLAIN + "where(input & target, 1.0, 0.0)", "what & and | combine must be a condition"),
    (PLAIN + "where(~(input > 0), 1.0, 0.0)", "a formula has no ~condition; write the opposite comparison"),
    (PLAIN + "where(0.0 < input < 1.0, 1.0, 0.0)", "cannot branch on a traced value"),
    (PLAIN + "input if input > target else target", "use where(condition, a, b)"),
    # other people's functions
    (PLAIN + "input.abs()", "a value of a formula has no .abs; write absolute(x) of losskit.formula"),
    (PLAIN + "input.pow(2)", "write power(x, y) of losskit.formula"),
    (PLAIN + "input.clamp(0, 1)", "write clamp(x, low, high) of losskit.formula"),
    (PLAIN + "input.softpluss()", "write softplus(x) of losskit.formula"),
    (PLAIN + "torch.log1p(input)", "cannot use torch's log1p; write log1p(x) of losskit.formula"),
    (PLAIN + "torch.nn.functional.logsigmoid(input)", "write log_sigmoid(x) of losskit.formula"),
    (PLAIN + "torch.where(input > target, input, target)", "write where(condition, a, b) of losskit.formula"),
    (PLAIN + "np.exp(input)", "cannot use numpy's exp; write exp(x) of losskit.formula"),
    (PLAIN + "np.abs(input)", "write absolute(x) of losskit.formula"),
    (PLAIN + "math.exp(input)", "cannot turn a traced value into a number; use the primitives of losskit.formula"),
    (PLAIN + "math.lgamma(input)", "write lgamma(x) of losskit.formula"),
    (PLAIN + "max(input, target)", "write maximum(x, y) of losskit.formula"),
    (PLAIN + "sofplus(input)", "name 'sofplus' is not defined; write softplus(x) of losskit.formula"),
    (PLAIN + "formula.logsumexp(input, target)", "has no attribute 'logsumexp'"),
    ("@staticmethod\ndef value(input):\n    from losskit.formula import sigmoyd\n    return input", "write sigmoid(x) of losskit.formula"),
    (PLAIN + "input // 2", "unsupported operand type"),
    (PLAIN + "1 / 0 * input", "must use the primitives of losskit.formula: division by zero"),
    (PLAIN + "input + None", "works on numbers and its own arguments, got NoneType"),
    # numbers
    (PLAIN + "10**400 * input", "the largest number is 3.402823e+38; got 1000000000000000000"),
    (PLAIN + "1e300 * input", "the largest number is 3.402823e+38; got 1e+300"),
    (PLAIN + "input + 10.0**39", "the largest number is 3.402823e+38"),
    # size
    ("@staticmethod\ndef value(input):\n    for i in range(2000):\n        input = input + i\n    return input",
     f"a formula may have {MAX_OPERATIONS} operations, got"),
    # signatures
    ("@staticmethod\ndef value(input, **kw):\n    return input", "must name its operands and parameters, one argument each; got **kw"),
    ("@staticmethod\ndef value(*args):\n    return args[0]", "one argument each; got *args"),
    ("@staticmethod\ndef value(input, /):\n    return input", "one argument each; got input"),
    ("@staticmethod\ndef value(input, scale=2.0):\n    return input", "scale cannot have a default; a parameter is declared as scale: float = param(default=2.0, doc=...)"),
    ("value = staticmethod(3)", "OddLoss.value must be a function, got 3"),
    # parameters
    ("scale: float = 1.0\n" + PLAIN + "input", "scale is no parameter yet; write scale: float = param(default=1.0, doc=...)"),
    ("scale: float\n" + PLAIN + "input", "write scale: float = param(default=..., doc=...)"),
    ("scale: 'float' = 1.0\n@staticmethod\ndef value(input, scale):\n    return input * scale", "write scale: float = param("),
    ("scale = 1.0\n@staticmethod\ndef value(input, scale):\n    return input * scale", "write scale: float = param(default=1.0, doc=...)"),
    ("forward: float = param(default=1.0, doc='')\n" + PLAIN + "input", "a parameter cannot be called forward, which every module has"),
    ("name = 'x y'\n" + PLAIN + "input", "`name` is the name of a function"),
    ("name = 'lambda'\n" + PLAIN + "input", "`name` is the name of a function"),
    ("name = 'call'\n" + PLAIN + "input", "`name` is the name of a function"),
    ("name = ''\n" + PLAIN + "input", "`name` is the name of a function"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_refused(body, message):
    before = losskit.losses()
    with pytest.raises(DeclarationError) as caught:
        declare(body)
    assert message in str(caught.value)
    assert str(caught.value).startswith("OddLoss") and "\n" not in str(caught.value)
    assert losskit.losses() == before


# Words of which none may be an operand: each would end a kernel, a call or the explorer.
WORDS = (
    "concept requires co_await co_yield co_return char8_t nullptr mutable typename consteval constinit xor bitand "
    "compl not_eq NAN INFINITY M_PI HUGE_VAL FLT_MAX INT_MAX UINT64_MAX FP_NAN errno NULL EOF std losskit "
    "int64_t let function instanceof typeof undefined NaN Infinity Math arguments eval debugger tl lk libdevice "
    "run call plan plan_of Loss legacy_reduction reduction sample_weight mask normalizer exp where softplus inf nan x_ "
    "__x__ _Bool T template new delete operator"
).split()


@pytest.mark.parametrize("name", WORDS)
def test_names_that_cannot_be_printed(name):
    with pytest.raises(DeclarationError, match=rf"an argument of `value` cannot be called {name}"):
        declare(f"@staticmethod\ndef value(input, {name}):\n    return input * {name}")


def test_the_compilers_own_words_are_known():
    """Every macro that the kernels' headers define here is refused as a name."""
    import re
    import subprocess

    from losskit.kernels.library import FOLDER
    from losskit.names import _MACROS

    command = [compiler.compiler(), "-std=c++20", f"-I{FOLDER}", "-dM", "-E", "-x", "c++", "-"]
    text = '#include "kernel.h"\n#include "each.h"\n'
    printed = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    macros = set(re.findall(r"#define ([A-Za-z]\w*)", printed))
    assert len(macros) > 100
    assert not [x for x in macros if x not in RESERVED and not _MACROS.fullmatch(x) and not x.endswith("_")]


def test_largest_is_that_of_float32():
    assert torch.finfo(torch.float32).max == LARGEST
