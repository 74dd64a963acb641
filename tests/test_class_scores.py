"""The class-scores family: losses of its own kind, shapes, targets, limits, and what is refused."""

import itertools
import math
import re

import mpmath
import pytest
import torch
import torch.nn.functional as F  # its usual name
from row_samples import without_kernels
from torch import Tensor

import losskit
import losskit.functional as LF
from losskit import ClassScoresLoss, Facts, nonnegative, param
from losskit.formula import expm1, power

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


# ---------------------------------------------------------------------------------------------------------
# Losses that are a formula of the row's statistics: one class each, no kernel of their own


class FocalOfTest(ClassScoresLoss):
    """Cross entropy that counts well-classified rows less."""

    gamma: float = param(default=2.0, domain=nonnegative, doc="How much less.")

    @staticmethod
    def value(log_probability, gamma):
        return power(-expm1(log_probability), gamma) * -log_probability


class PolyOfTest(ClassScoresLoss):
    """Cross entropy and the first term of its series once more."""

    epsilon: float = param(default=1.0, doc="Weight of the term.")

    @staticmethod
    def value(log_probability, epsilon):
        return epsilon * -expm1(log_probability) - log_probability


class GeneralisedOfTest(ClassScoresLoss):
    """Between cross entropy (q = 0) and absolute error (q = 1)."""

    q: float = param(default=0.7, domain=losskit.positive, doc="The exponent.")

    @staticmethod
    def value(log_probability, q):
        return -expm1(q * log_probability) / q


class NormaliserOfTest(ClassScoresLoss):
    """Cross entropy with a penalty on the log of the normaliser (z-loss)."""

    scale: float = param(default=1e-4, domain=nonnegative, doc="Weight of the penalty.")

    @staticmethod
    def value(log_probability, log_sum_exp, scale):
        return scale * log_sum_exp * log_sum_exp - log_probability


class SmoothedOfTest(ClassScoresLoss):
    """Label smoothing written as a formula of the mean over classes."""

    share: float = param(default=0.1, domain=losskit.probability, doc="What is spread over the classes.")

    @staticmethod
    def value(log_probability, mean_log_probability, share):
        return -(1.0 - share) * log_probability - share * mean_log_probability


class AdjustedOfTest(ClassScoresLoss):
    """Cross entropy of scores shifted by the logarithm of the classes' frequencies."""

    prior: Tensor = param(default=None, doc="Frequency of each class.")
    tau: float = param(default=1.0, domain=nonnegative, doc="Strength of the shift.")

    @staticmethod
    def value(log_probability):
        return -log_probability

    @staticmethod
    def shift(prior, tau):
        return tau * torch.log(prior / prior.sum())


CASES = [  # numbers of the papers' formulas, computed with mpmath
    (FocalOfTest, {}, [2.0, 0.0, -1.0], 0, 0.00414426, [-0.0108052, 0.00789925, 0.00290597]),
    (FocalOfTest, {}, [2.0, 0.0, -1.0], 1, 1.70257, [1.03249, -1.08390, 0.0514048]),
    (FocalOfTest, {}, [12.0, 0.0, -5.0], 0, 2.36669e-16, [-7.10003e-16, 7.05251e-16, 4.75195e-18]),
    (PolyOfTest, {}, [2.0, 0.0, -1.0], 0, 0.326051, [-0.288010, 0.210553, 0.0774579]),
    (PolyOfTest, {}, [2.0, 0.0, -1.0], 1, 3.05565, [0.940152, -0.986959, 0.0468074]),
    (AdjustedOfTest, {"prior": torch.tensor([0.7, 0.2, 0.1])}, [2.0, 0.0, -1.0], 2, 4.99067,
     [0.956224, 0.0369745, -0.993199]),
    (AdjustedOfTest, {"prior": torch.tensor([0.7, 0.2, 0.1])}, [0.0, 0.0, 0.0], 0, 0.356675, [-0.3, 0.2, 0.1]),
]  # fmt: skip


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("loss", "params", "scores", "target", "value", "gradient"), CASES)
def test_losses_of_the_family(loss, params, scores, target, value, gradient, fused, monkeypatch):
    if not fused:
        without_kernels(monkeypatch)
    x = torch.tensor([scores] * 3, requires_grad=True)
    criterion = loss(**params, reduction="sum")
    got = criterion(x, torch.full((3,), target))
    got.backward()
    assert losskit.why(criterion, x, torch.full((3,), target)).implementation.startswith("fused") == fused
    torch.testing.assert_close(got.item() / 3, value, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(x.grad[1].tolist(), gradient, rtol=2e-5, atol=0.0)


def textbook(loss, params, z, shares):
    """A custom loss of the family by its definition: the formula of each class, times its share."""
    log_p = z.log_softmax(1)
    formulas = {
        FocalOfTest: lambda: (1 - log_p.exp()) ** params.get("gamma", 2.0) * -log_p,
        PolyOfTest: lambda: (1 - log_p.exp()) * params.get("epsilon", 1.0) - log_p,
        GeneralisedOfTest: lambda: (1 - log_p.exp() ** 0.7) / 0.7,
        NormaliserOfTest: lambda: params["scale"] * z.logsumexp(1, keepdim=True) ** 2 - log_p,
        SmoothedOfTest: lambda: -0.9 * log_p - 0.1 * log_p.mean(1, keepdim=True),
    }
    return (shares * formulas[loss]()).sum(1)


@pytest.mark.parametrize("classes", [2, 5, 20, 300])
@pytest.mark.parametrize(
    ("loss", "params"),
    [(FocalOfTest, {"gamma": 3.0}), (PolyOfTest, {"epsilon": 2.0}), (GeneralisedOfTest, {}),
     (NormaliserOfTest, {"scale": 0.1}), (SmoothedOfTest, {})],
)  # fmt: skip
def test_formulas_with_everything(loss, params, classes):
    """Indices and probabilities, smoothing, class weights, several dimensions: value and gradient."""
    torch.manual_seed(classes)
    for shape, smoothing, weighted, soft in itertools.product(
        ((7, classes), (2, classes, 3, 2)), (0.0, 0.2), (False, True), (False, True)
    ):
        z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        weight = torch.rand(classes, dtype=torch.float64) + 0.5 if weighted else None
        target = torch.randint(0, classes, shape[:1] + shape[2:])
        hard = F.one_hot(target, classes).movedim(-1, 1).double()
        t = torch.randn(shape, dtype=torch.float64).softmax(1).requires_grad_() if soft else hard
        shares = (1 - smoothing) * t + smoothing / classes
        if weighted:
            shares = shares * weight.reshape(-1, *[1] * (z.ndim - 2))
        expected = textbook(loss, params, z, shares)
        given = t if soft else target
        got = loss.functional(z, given, weight=weight, label_smoothing=smoothing, reduction="none", **params)
        what = f"{loss.__name__} {shape} smoothing {smoothing}, weights {weighted}, soft {soft}"
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13, msg=lambda m, w=what: f"{w}: {m}")
        upstream = torch.rand_like(expected)
        leaves = [z, t] if soft else [z]
        for a, b in zip(*(torch.autograd.grad(v, leaves, upstream) for v in (got, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m, w=what: f"{w}: {m}")


def test_smoothing_as_a_formula_is_smoothing_as_an_option():
    z, y = torch.randn(9, 6, dtype=torch.float64), torch.randint(0, 6, (9,))
    torch.testing.assert_close(SmoothedOfTest.functional(z, y), LF.cross_entropy(z, y, label_smoothing=0.1))


class TestDeclarations:
    def refused(self, match, body):
        with pytest.raises(losskit.DeclarationError, match=match):
            type("Broken", (ClassScoresLoss,), {"__doc__": "Broken.", **body})

    def test_unknown_statistic(self):
        self.refused("may speak of log_probability, log_sum_exp", {"value": staticmethod(lambda logit: logit)})

    def test_no_formula(self):
        self.refused("needs a formula", {})

    def test_unused_parameter(self):
        body = {"value": staticmethod(lambda log_probability: log_probability), "__annotations__": {"a": float}}
        self.refused("does not take the parameter a", {**body, "a": param(default=1.0, doc="")})


# ---------------------------------------------------------------------------------------------------------
# Parity in shapes, strides and dtypes


@pytest.mark.filterwarnings("ignore:cross_entropy. input has one class")
@pytest.mark.parametrize("classes", [1, 2, 3, 7, 10, 15, 16, 17, 33, 64, 100, 257, 1500])
def test_shapes_and_strides(classes):
    """(C,), (N, C), (N, C, d...), in every order of memory, against torch in double."""
    torch.manual_seed(0)
    for shape in ((classes,), (5, classes), (40, classes), (3, classes, 7), (2, classes, 3, 5), (2, classes, 1, 2, 3)):
        rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
        target = torch.randint(0, classes, rows)
        for order in itertools.islice(itertools.permutations(range(len(shape))), 12):
            back = [order.index(i) for i in range(len(shape))]
            x = torch.randn([shape[i] for i in order], dtype=torch.float64).permute(back).requires_grad_()
            own, torchs = LF.cross_entropy(x, target), F.cross_entropy(x, target)
            torch.testing.assert_close(own, torchs, rtol=1e-12, atol=1e-13)
            got, expected = (torch.autograd.grad(v, x)[0] for v in (own, torchs))
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)
            sizes = [i for i in range(len(shape)) if shape[i] > 1]
            assert [got.stride(i) for i in sizes] == [x.stride(i) for i in sizes]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 10, 47, 1000])
def test_every_option_is_torchs(dtype, classes):
    """All options at once, in float64 of the same numbers by torch."""
    torch.manual_seed(1)
    eps = torch.finfo(dtype).eps
    for shape, soft, weighted, smoothing, reduction in itertools.product(
        ((12, classes), (3, classes, 5)), (False, True), (False, True), (0.0, 0.3), ("none", "mean", "sum")
    ):
        x = (3 * torch.randn(shape)).to(dtype).requires_grad_()
        rows = shape[:1] + shape[2:]
        target = torch.rand(shape).softmax(1).to(dtype) if soft else torch.randint(0, classes, rows)
        if not soft:
            target.view(-1)[::4] = -100
        weight = (torch.rand(classes) + 0.5).to(dtype) if weighted else None
        options = {"reduction": reduction, "label_smoothing": smoothing}
        got = LF.cross_entropy(x, target, weight, **options)
        wide = x.detach().double().requires_grad_()
        truth = F.cross_entropy(
            wide, target.double() if soft else target, weight.double() if weighted else None, **options
        )
        scale = float(truth.detach().abs().max())
        torch.testing.assert_close(got.double(), truth, rtol=16 * eps, atol=2 * eps * scale)
        upstream = torch.linspace(0.5, 2.0, truth.numel(), dtype=torch.float64).reshape(truth.shape).to(dtype)
        (gradient,) = torch.autograd.grad(got, x, upstream)
        (right,) = torch.autograd.grad(truth, wide, upstream.double())
        largest = float(right.abs().max())
        # The truth is torch's in float64, so float64 is compared with its own errors.
        several = 1000 if dtype == torch.float64 else 1
        torch.testing.assert_close(gradient.double(), right, rtol=8 * several * eps, atol=4 * several * eps * largest)


def test_index_dtypes():
    x = torch.randn(6, 5, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3, 4, 1])
    expected = LF.cross_entropy(x, y)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32):
        assert torch.equal(LF.cross_entropy(x, y.to(dtype)), expected), dtype
        assert torch.equal(LF.nll_loss(x.log_softmax(1), y.to(dtype)), LF.nll_loss(x.log_softmax(1), y)), dtype
    pair = torch.randn(6, 2)
    assert torch.equal(LF.cross_entropy(pair, y > 1), LF.cross_entropy(pair, (y > 1).long()))


def test_ignore_index():
    """Any integer, inside the classes or outside; 255 in uint8; ignored rows are exact zeros, also from NaN."""
    for ignored in (-100, -1, 0, 3, 255, 10**12):
        dtype = torch.uint8 if ignored == 255 else torch.int64
        x = torch.randn(6, 5)
        y = torch.tensor([1, 2, 4, 1, 2, 4], dtype=dtype)
        y[[1, 4]] = ignored
        x[1] = math.nan
        x.requires_grad_()
        loss = LF.cross_entropy(x, y, ignore_index=ignored)
        loss.backward()
        kept = [0, 2, 3, 5]
        torch.testing.assert_close(loss, F.cross_entropy(x[kept], y[kept].long()))
        assert not x.grad[[1, 4]].any()
        assert LF.cross_entropy(x, y, ignore_index=ignored, reduction="none")[[1, 4]].tolist() == [0.0, 0.0]


def test_more_rows_than_half_counts():
    """The mean of 70,000 rows of halves: a count in float16 overflows at 65,504."""
    x = torch.zeros(70_000, 4, dtype=torch.float16, requires_grad=True)
    loss = LF.cross_entropy(x, torch.zeros(70_000, dtype=torch.int64))
    (1000 * loss.float()).backward()
    assert loss.item() == pytest.approx(math.log(4), rel=1e-3)
    assert x.grad.abs().max() > 0


def test_long_rows():
    """200,000 classes: the sum of the exponentials loses nothing."""
    torch.manual_seed(0)
    for dtype, allowed in ((torch.float32, 3), (torch.float64, 3)):
        x = (torch.randn(3, 200_000, dtype=torch.float64) * 3).to(dtype)
        y = torch.tensor([5, 77_777, 199_999])
        with mpmath.workdps(40):
            for row in range(3):
                z = [mpmath.mpf(v) for v in x[row].tolist()]
                truth = mpmath.log(mpmath.fsum(mpmath.exp(v) for v in z)) - z[int(y[row])]
                got = LF.cross_entropy(x[row], y[row]).item()
                unit = torch.finfo(dtype).eps * 2.0 ** (math.frexp(float(truth))[1] - 1)
                assert abs(float(got - truth)) <= allowed * unit


# ---------------------------------------------------------------------------------------------------------
# Limits. The truth about finite scores is in the proofs.


@pytest.mark.parametrize("classes", [2, 5, 20, 100])
@pytest.mark.parametrize("fused", [True, False])
def test_infinite_scores(classes, fused, monkeypatch):
    """Limits: a right class at +inf costs nothing, a wrong one everything; -inf has no probability."""
    if not fused:
        without_kernels(monkeypatch)
    inf = math.inf
    x = torch.zeros(6, classes)
    x[0, 0], x[1, 1], x[2, 0], x[4] = inf, inf, -inf, -inf
    x[3, 0] = x[3, 1] = inf
    x[5, 1:] = -inf
    y = torch.zeros(6, dtype=torch.int64)
    rows = LF.cross_entropy(x, y, reduction="none")
    assert rows[[0, 1, 2, 5]].tolist() == [0.0, inf, inf, 0.0]
    assert rows[3].item() == pytest.approx(math.log(2))
    assert rows[4].isnan()
    leaf = x[[0, 5]].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LF.cross_entropy(leaf, y[:2]), leaf)
    assert not gradient.any()
    soft = torch.zeros(1, classes)
    soft[0, 0] = 1.0
    masked = torch.tensor([[1.0] + [-inf] * (classes - 1)], requires_grad=True)
    loss = LF.cross_entropy(masked, soft)
    assert loss == 0.0
    assert not torch.autograd.grad(loss, masked)[0].any()


def test_nll_is_the_second_half():
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    y = torch.randint(0, 5, (4, 3))
    weight = torch.rand(5, dtype=torch.float64)
    for reduction in ("none", "mean", "sum"):
        both = LF.nll_loss(x.log_softmax(1), y, weight, reduction=reduction)
        torch.testing.assert_close(both, LF.cross_entropy(x, y, weight, reduction=reduction))


# ---------------------------------------------------------------------------------------------------------
# Facts, measured


def test_facts():
    """Convex, smooth, with a gradient of at most sqrt(2) in the Euclidean norm, and 0 at best."""
    assert losskit.CrossEntropyLoss.facts == Facts(
        convex=True, smooth=True, lipschitz=2.0**0.5, minimum=0.0, symmetric=False
    )
    torch.manual_seed(0)
    a, b = 5 * torch.randn(500, 6, dtype=torch.float64), 5 * torch.randn(500, 6, dtype=torch.float64)
    y = torch.randint(0, 6, (500,))
    loss = lambda x: LF.cross_entropy(x, y, reduction="none")
    assert (loss((a + b) / 2) <= (loss(a) + loss(b)) / 2 + 1e-12).all()
    x = (30 * torch.randn(5000, 3, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(LF.cross_entropy(x, torch.zeros(5000, dtype=torch.int64), reduction="sum"), x)
    norms = gradient.norm(dim=1)
    assert norms.max() <= 2**0.5 + 1e-12
    assert norms.max() > 2**0.5 - 1e-6
    assert loss(a).min() >= 0.0
    assert LF.cross_entropy(torch.tensor([800.0, 0.0]), torch.tensor(0)) == 0.0


def test_shift_invariance():
    x, y = torch.randn(8, 7, dtype=torch.float64), torch.randint(0, 7, (8,))
    torch.testing.assert_close(LF.cross_entropy(x + 3.25, y), LF.cross_entropy(x, y), rtol=1e-13, atol=0.0)
    order = torch.randperm(7)
    back = torch.argsort(order)
    torch.testing.assert_close(LF.cross_entropy(x[:, order], back[y]), LF.cross_entropy(x, y), rtol=1e-13, atol=0.0)


def test_two_classes_are_binary_cross_entropy():
    x = torch.linspace(-100, 100, 401, dtype=torch.float64)
    both = LF.cross_entropy(torch.stack([torch.zeros_like(x), x], 1), torch.ones(401).long(), reduction="none")
    binary = LF.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none")
    torch.testing.assert_close(both, binary, rtol=1e-14, atol=0.0)


# ---------------------------------------------------------------------------------------------------------
# What is refused

X, Y = torch.zeros(4, 5), torch.tensor([0, 1, 2, 3])

REFUSED = {
    "input must have a dimension of classes, got a scalar.": lambda: LF.cross_entropy(torch.tensor(1.0), Y),
    "input must have at least one class, got shape (4, 0).": lambda: LF.cross_entropy(torch.zeros(4, 0), Y),
    "input must be floating point, got torch.int64. Use input.float().": lambda: LF.cross_entropy(X.long(), Y),
    "target must be a tensor, got list. Use torch.as_tensor(target).": lambda: LF.cross_entropy(X, [0, 1, 2, 3]),
    "target must be a class in [0, 5), got 5 at row (1,). Class indices start at 0.": lambda: LF.cross_entropy(
        X, torch.tensor([0, 5, 2, 3])
    ),
    "target must be a class in [0, 5), got -1 at row (3,). Pass ignore_index=-1 to skip such rows.": (
        lambda: LF.cross_entropy(X, torch.tensor([0, 1, 2, -1]))
    ),
    "target must be a class in [0, 5), got 255 at row (0, 1). Pass ignore_index=255 to skip such rows.": (
        lambda: LF.cross_entropy(torch.zeros(1, 5, 2), torch.tensor([[0, 255]], dtype=torch.uint8))
    ),
    "target must be class indices of shape (4,) or probabilities of shape (4, 5), got torch.float32 of shape (4,). "
    "Use target.long() for class indices.": lambda: LF.cross_entropy(X, Y.float()),
    "target must be class indices of shape (4,) for input (4, 5), got torch.int64 of shape (4, 5). Use "
    "target.argmax(1) or, for probabilities, target.float().": lambda: LF.cross_entropy(X, X.long()),
    "target must be class indices of shape (4,) for input (4, 5), got torch.int64 of shape (4, 1). Did you mean "
    "target.squeeze(1)?": lambda: LF.cross_entropy(X, Y[:, None]),
    "target must be class indices of shape (2, 4) for input (2, 3, 4), got torch.int64 of shape (2, 3). The classes are "
    "dimension 1: did you mean input.movedim(-1, 1)?": lambda: LF.cross_entropy(
        torch.zeros(2, 3, 4), Y[:1].expand(2, 3)
    ),
    "weight must have one entry for each of 5 classes, got shape (4,).": lambda: LF.cross_entropy(X, Y, torch.ones(4)),
    "weight is torch.float16 but input is torch.float32. Use weight.to(input.dtype).": lambda: LF.cross_entropy(
        X, Y, torch.ones(5).half()
    ),
    "target must be in [0, 1], got 1.5 at index (0, 2).": lambda: LF.cross_entropy(
        X[:1], torch.tensor([[0.0, 0.0, 1.5, 0.0, 0.0]])
    ),
    "ignore_index=2 needs class indices, got probabilities.": lambda: LF.cross_entropy(X, X, ignore_index=2),
    "label_smoothing must be in [0, 1], got 1.5.": lambda: LF.cross_entropy(X, Y, label_smoothing=1.5),
    "ignore_index must be an integer, got 1.5.": lambda: LF.cross_entropy(X, Y, ignore_index=1.5),
    "sample_weight (5,) must broadcast to (4,).": lambda: LF.cross_entropy(X, Y, sample_weight=torch.ones(5)),
    "mask must be boolean (True = counts), got torch.float32. Use mask.bool().": lambda: LF.cross_entropy(
        X, Y, mask=torch.ones(4)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape('cross_entropy: ' + message)}$"):
        REFUSED[message]()


def test_nll_of_probabilities_is_refused():
    with pytest.raises(ValueError, match=r"^nll_loss: input must be a log-probability \(at most 0\), got 0.25 at index "
                       r"\(0, 1\). Pass log_softmax\(scores, dim=1\).$"):  # fmt: skip
        LF.nll_loss(torch.full((2, 4), 0.25), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"^nll_loss: target must be class indices of shape"):
        LF.nll_loss(torch.zeros(2, 4), torch.zeros(2, 4))
    with losskit.checks("off"):
        assert LF.nll_loss(torch.full((2, 4), 0.25), torch.tensor([1, 2])) == -0.25


@pytest.mark.parametrize("classes", [2, 7, 30, 1000])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8])
def test_wild_indices_never_read_foreign_memory(classes, dtype):
    """In no mode: such rows are NaN, their neighbours are not touched, and under "raise" the row is named."""
    limits = torch.iinfo(dtype)
    for wild in (classes, -1, limits.min, limits.max):
        if not limits.min <= wild <= limits.max or 0 <= wild < classes:
            continue
        x = torch.zeros(5, classes, requires_grad=True)
        y = torch.tensor([0, 1, wild, 1, 0], dtype=dtype)
        for mode in ("off", "nan"):
            with losskit.checks(mode):
                rows = LF.cross_entropy(x, y, reduction="none")
                (gradient,) = torch.autograd.grad(rows.sum(), x)
                assert LF.nll_loss(x, y, reduction="none").isnan().tolist() == [False, False, True, False, False]
                total = LF.cross_entropy(x, y, weight=torch.ones(classes))
            assert rows.isnan().tolist() == [False, False, True, False, False]
            assert gradient.isnan().any(1).tolist() == [False, False, True, False, False]
            assert total.isnan()
        with pytest.raises(ValueError, match=rf"got {wild} at row \(2,\)"):
            LF.cross_entropy(x, y)
        keep = torch.tensor([True, True, False, True, True])
        assert LF.cross_entropy(x, y, mask=keep).item() == pytest.approx(math.log(classes))


def test_no_gradient_reaches_through_a_shift_that_the_kernel_cannot_give():
    """A prior that is learnt gets its gradient from the formula."""
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randint(0, 3, (6,))
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda prior: AdjustedOfTest.functional(x, y, prior=prior), [prior])
    weight = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda weight: LF.cross_entropy(x, y, weight), [weight])
    assert torch.autograd.gradcheck(lambda w: LF.cross_entropy(x, y, label_smoothing=0.1, weight=w), [weight])
