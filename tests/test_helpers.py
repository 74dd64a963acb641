"""What is used beside losses, against mpmath: weights of classes, capped scores."""

import math

import mpmath
import pytest
import torch
from mpmath import mpf
from reference import ulp

import losskit

COUNTS = (5000, 100, 7)


def exact_weights(counts, beta):
    """The weights with 60 digits."""
    with mpmath.workdps(60):
        made = [(1 - mpf(beta)) / (1 - mpf(beta) ** mpf(n)) for n in counts]
        return [w * len(made) / mpmath.fsum(made) for w in made]


# ---------------------------------------------------------------------------------------------------------
# Weights of classes


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 0.9999, 1 - 1e-12, 1 - 2.0**-53])
@pytest.mark.parametrize("counts", [COUNTS, (1, 1), (3,), (1, 10**9), (0.25, 1e-9, 1e9)], ids=str)
def test_weights(counts, beta):
    found = losskit.class_balanced_weights(torch.tensor(counts, dtype=torch.float64), beta)
    assert found.sum().item() == pytest.approx(len(counts), rel=1e-15)
    for got, truth in zip(found.tolist(), exact_weights(counts, beta), strict=True):
        assert abs(got - truth) <= 4 * ulp(truth, torch.float64)


def test_published_weights():
    found = losskit.class_balanced_weights(COUNTS, beta=0.999)
    torch.testing.assert_close(found, torch.tensor([0.0195114, 0.203558, 2.77693]))


def test_ends_of_beta():
    """0 weighs nothing, nearly 1 the inverse of the counts."""
    assert losskit.class_balanced_weights(COUNTS, 0).tolist() == [1.0, 1.0, 1.0]
    inverse = 1.0 / torch.tensor(COUNTS, dtype=torch.float64)
    found = losskit.class_balanced_weights(inverse.reciprocal(), 1 - 1e-15)
    torch.testing.assert_close(found, inverse * 3 / inverse.sum(), rtol=1e-11, atol=0.0)


@pytest.mark.parametrize("made", [list, tuple, torch.tensor, lambda x: torch.tensor(x).numpy(), lambda x: torch.tensor(x, dtype=torch.float32)])  # fmt: skip
def test_kinds_of_counts(made):
    found = losskit.class_balanced_weights(made(COUNTS))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, losskit.class_balanced_weights(COUNTS))


def test_dtypes_of_counts():
    for dtype in (torch.float64, torch.bfloat16):
        assert losskit.class_balanced_weights(torch.tensor(COUNTS, dtype=dtype)).dtype == dtype
    learned = torch.tensor([2.0, 3.0], requires_grad=True)
    assert not losskit.class_balanced_weights(learned).requires_grad


def test_weights_in_a_loss():
    weight = losskit.class_balanced_weights(COUNTS)
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 1])
    found = losskit.CrossEntropyLoss(weight=weight)(x, y)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(x, y, weight))


@pytest.mark.parametrize(
    ("counts", "beta", "told"),
    [
        ((1, 0), 0.9, "samples_per_class must be positive and finite, got 0 at index (1,)."),
        ((-1.5,), 0.9, "samples_per_class must be positive and finite, got -1.5 at index (0,)."),
        ((1.0, math.nan), 0.9, "samples_per_class must be positive and finite, got nan at index (1,)."),
        ((math.inf,), 0.9, "samples_per_class must be positive and finite, got inf at index (0,)."),
        ((), 0.9, "samples_per_class must be a number for each class, got shape (0,)."),
        (((1, 2), (3, 4)), 0.9, "samples_per_class must be a number for each class, got shape (2, 2)."),
        (3, 0.9, "samples_per_class must be a number for each class, got shape ()."),
        ("abc", 0.9, "samples_per_class must be numbers, got str."),
        (None, 0.9, "samples_per_class must be numbers, got NoneType."),
        (torch.tensor([True]), 0.9, "samples_per_class must be numbers, got torch.bool."),
        (torch.tensor([1j]), 0.9, "samples_per_class must be numbers, got torch.complex64."),
        (COUNTS, 1.0, "beta must be in [0, 1), got 1.0."),
        (COUNTS, -0.1, "beta must be in [0, 1), got -0.1."),
        (COUNTS, math.nan, "beta must be in [0, 1), got nan."),
        (COUNTS, "0.9", "beta must be a number, got '0.9'."),
        (COUNTS, None, "beta must be a number, got None."),
    ],
    ids=str,
)
def test_refusals_of_weights(counts, beta, told):
    with pytest.raises(losskit.LossError) as caught:
        losskit.class_balanced_weights(counts, beta)
    assert str(caught.value).startswith(f"class_balanced_weights: {told}")


# ---------------------------------------------------------------------------------------------------------
# Capped scores

CAPS = (30.0, 1.0, 1e-3, 1e20)


def truth(x, cap):
    """The score and its slope; how much the rounding of their quotient shows in the slope."""
    with mpmath.workdps(60):
        q = mpf(x) / mpf(cap)
        return cap * mpmath.tanh(q), mpmath.sech(q) ** 2, max(1, 2 * abs(q))


def scores(dtype, cap):
    """Numbers of every size, and of the cap's."""
    top = min(torch.finfo(dtype).max, 1e30)
    sizes = [1e-30, 1e-5, 0.5, 3.0, 15.0, 300.0, top, *(cap * x for x in (1e-4, 0.3, 1.0, 5.0, 20.0, 40.0))]
    made = torch.tensor([0.0, *(s * x for x in sizes for s in (1, -1))], dtype=torch.float64).to(dtype)
    return made[made.isfinite()]


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("path", ["kernel", "formula"])
def test_capped(path, dtype, cap):
    x = scores(dtype, cap).requires_grad_()
    capped = losskit.soft_cap if path == "kernel" else torch.func.vmap(lambda x: losskit.soft_cap(x, cap))
    made = capped(x, cap) if path == "kernel" else capped(x)
    (slopes,) = torch.autograd.grad(made.sum(), x)
    rounded = torch.tensor(cap, dtype=dtype).item()
    for at, value, slope in zip(x.tolist(), made.tolist(), slopes.tolist(), strict=True):
        exact, steep, shown = truth(at, rounded)
        assert abs(value - exact) <= 2.5 * ulp(exact, dtype), at
        assert abs(slope - steep) <= 3 * shown * ulp(steep, dtype), at


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_capped_halves(dtype):
    """The rounded truth."""
    x = scores(dtype, 30.0).requires_grad_()
    made = losskit.soft_cap(x, 30.0)
    (slopes,) = torch.autograd.grad(made.sum(), x)
    assert made.dtype == slopes.dtype == dtype
    for at, value, slope in zip(x.tolist(), made.tolist(), slopes.tolist(), strict=True):
        exact, steep, _ = truth(at, 30.0)
        assert abs(value - exact) <= 0.51 * ulp(exact, dtype)
        assert abs(slope - steep) <= 0.51 * ulp(steep, dtype)


def test_published_slopes():
    x = torch.tensor([15.0, 300.0], dtype=torch.float64, requires_grad=True)
    made = losskit.soft_cap(x, 30.0)
    (slopes,) = torch.autograd.grad(made.sum(), x)
    torch.testing.assert_close(made.detach(), torch.tensor([13.8635, 30.0], dtype=torch.float64), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(slopes, torch.tensor([0.786448, 8.24461e-9], dtype=torch.float64), rtol=1e-5, atol=0.0)


def test_capped_without_end():
    x = torch.tensor([math.inf, -math.inf, math.nan], requires_grad=True)
    made = losskit.soft_cap(x, 30.0)
    (slopes,) = torch.autograd.grad(made.sum(), x)
    assert made[:2].tolist() == [30.0, -30.0] and slopes[:2].tolist() == [0.0, 0.0]
    assert made[2].isnan() and slopes[2].isnan()


def test_no_cap():
    x = torch.randn(3)
    assert losskit.soft_cap(x, None) is x


def test_derivatives_of_capped():
    x = (torch.randn(2, 5, dtype=torch.float64) * 3).requires_grad_()
    capped = lambda x: losskit.soft_cap(x, 2.0)
    assert torch.autograd.gradcheck(capped, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(capped, x)


def test_one_pass(monkeypatch):
    """The kernel gives value and slope, whatever the layout."""
    x = torch.randn(4, 6, requires_grad=True).t()
    made = losskit.soft_cap(x, 2.0)
    assert made.grad_fn.name() == "FusedBackward"
    assert made.shape == x.shape


def test_capped_in_other_programs():
    """Compiled, a node of an fx graph, of a tensor subclass, empty."""
    x = torch.randn(5)
    expected = losskit.soft_cap(x, 2.0)
    capped = lambda x: losskit.soft_cap(x, 2.0)
    torch.testing.assert_close(torch.compile(capped, fullgraph=True, backend="aot_eager")(x), expected)
    graph = torch.fx.symbolic_trace(capped)
    torch.testing.assert_close(graph(x), expected)
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [losskit.soft_cap]
    assert losskit.soft_cap(torch.empty(0, 3), 2.0).shape == (0, 3)


@pytest.mark.parametrize(
    ("input", "cap", "told"),
    [
        (torch.zeros(1), 0.0, "cap must be positive, got 0.0."),
        (torch.zeros(1), -1, "cap must be positive, got -1."),
        (torch.zeros(1), math.nan, "cap must be positive, got nan."),
        (torch.zeros(1), "30", "cap must be a number, got '30'."),
        (torch.zeros(1, dtype=torch.int64), 30.0, "input must be floating point, got torch.int64."),
        ([0.0], 30.0, "input must be a tensor, got list."),
    ],
    ids=str,
)
def test_refusals_of_capped(input, cap, told):
    with pytest.raises(losskit.LossError) as caught:
        losskit.soft_cap(input, cap)
    assert str(caught.value).startswith(f"soft_cap: {told}")
