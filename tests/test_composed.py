"""Composed losses: declared shapes, units without a loss, padded lists, limits, refusals, a loss of one's own."""

import copy
import math
import pickle

import mpmath
import pytest
import torch

import losskit
import losskit.functional as LF
from losskit.declaration import Operand
from losskit.errors import DeclarationError
from losskit.families.shapes import Shape
from losskit.losses._partition import log_partition

LISTS = LF.approx_ndcg_loss, LF.neural_ndcg_loss


class RowDistance(losskit.ComposedLoss):
    """The largest distance between two sets of rows, of sets that have a row."""

    degree: int = losskit.param(default=2, domain=losskit.positive, doc="Power of a difference.")

    operands = {
        "input": Operand("Rows.", shape="(N, K, D)"),
        "target": Operand("Other rows.", shape="(N, K, D)"),
        "element_mask": Operand("Which rows count.", optional=True, differentiable=False, shape="(N, K)", boolean=True),
    }
    unit = "(N,)"
    equations = {"loss": (r"\ell = \max_k d_k", "ℓ = maxₖ dₖ")}
    letters = {"d": ("d_k", "dₖ", "distance of two rows")}

    @staticmethod
    def value(input, target, element_mask, degree):
        distance = (input - target).abs().pow(degree).sum(-1)
        if element_mask is None:
            return distance.amax(-1)
        return torch.where(element_mask, distance, 0.0).amax(-1), element_mask.any(-1)


def test_a_loss_of_ones_own():
    x, t = torch.randn(3, 4, 2, dtype=torch.float64), torch.randn(3, 4, 2, dtype=torch.float64)
    loss = RowDistance("none")
    expected = (x - t).square().sum(-1).amax(-1)
    torch.testing.assert_close(loss(x, t), expected)
    assert losskit.create(loss.config())(x, t).equal(expected)
    assert copy.deepcopy(loss)(x, t).equal(expected)
    mask = torch.tensor([[True, True, False, True], [False] * 4, [True] * 4])
    x[0, 2] = math.nan
    x.requires_grad_()
    values = loss(x, t, mask)
    assert values[1] == 0
    assert values.isfinite().all()
    mean = RowDistance()(x, t, mask)
    torch.testing.assert_close(mean, (values[0] + values[2]) / 2)
    (gradient,) = torch.autograd.grad(mean, x)
    assert not gradient[1].any()
    assert gradient.isfinite().sum() == gradient.numel()
    assert "ℓ = maxₖ dₖ" in str(losskit.explain(loss))


def test_why_says_that_there_is_no_kernel():
    x = torch.randn(3, 8)  # of few rows torch multiplies rows
    choice = losskit.why(losskit.BarlowTwinsLoss(), x, x)
    assert str(choice) == (
        "eager formula: composed: the loss is written in torch operations, and no kernel computes all of it"
    )


# -- declared shapes -------------------------------------------------------------------------------------


def test_shapes_that_are_none():
    for text in ("N, D", "(N D)", "(..., N, ...)", "(N,) or", ""):
        with pytest.raises(ValueError, match="is no shape like"):
            Shape(text)


BASE = {
    "__doc__": "Odd.",
    "operands": {"input": Operand("X.", shape="(N, D)")},
    "unit": "(N,)",
    "equations": {"loss": ("l", "l")},
    "value": staticmethod(lambda input: input.sum(-1)),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": lambda input: input}, "OddLoss.value must be a @staticmethod"),
        ({"unit": "(M,)"}, "no operand has the size M of unit"),
        ({"unit": "(N"}, "the shape of unit: '(N' is no shape like '(N, C, ...)"),
        ({"unit": "(N,) or ()"}, "unit has 2 shapes, input has 1"),
        ({"equations": {}}, "`equations` must have the loss, as LaTeX and as plain text"),
        ({"value": staticmethod(lambda input, other: input)}, "`value` may speak of input, not of other"),
        ({"value_and_grad": staticmethod(lambda x: x)}, "`value_and_grad` must take the arguments of `value`"),
        ({"operands": {}, "value": staticmethod(lambda: 0)}, "`operands` must begin with one that every call has"),
    ],
)
def test_odd_declarations(changes, message):
    with pytest.raises(DeclarationError) as problem:
        type("OddLoss", (losskit.ComposedLoss,), BASE | changes)
    assert message in str(problem.value)


REFUSED = {
    "a view with another number of features": (
        lambda: LF.barlow_twins_loss(torch.randn(4, 3), torch.randn(4, 2)),
        "barlow_twins_loss: input1 (4, 3) and input2 (4, 2) must have the same shape.",
    ),
    "one sample": (
        lambda: LF.vicreg_loss(torch.randn(1, 3), torch.randn(1, 3)),
        "vicreg_loss: input1 must be of shape (..., N, D) with N at least 2, got shape (1, 3).",
    ),
    "a vector": (
        lambda: LF.vicreg_loss(torch.randn(3), torch.randn(3)),
        "vicreg_loss: input1 must be of shape (..., N, D), got shape (3,).",
    ),
    "labels of another shape": (
        lambda: LF.bi_tempered_logistic_loss(torch.randn(4, 3), torch.zeros(4, 1, dtype=torch.long)),
        "bi_tempered_logistic_loss: target must be of shape (4,) for input (4, 3), got shape (4, 1). "
        "Did you mean target.squeeze(1)?",
    ),
    "labels that are floating": (
        lambda: LF.bi_tempered_logistic_loss(torch.randn(4, 3), torch.zeros(4)),
        "bi_tempered_logistic_loss: target must be integers from 0 to C - 1, got torch.float32. Use target.long().",
    ),
    "a label that is no class": (
        lambda: LF.evidential_classification_loss(torch.ones(2, 3), torch.tensor([0, 3])),
        "evidential_classification_loss: target must be from 0 to 2, got 3 at index (1,). Indices start at 0.",
    ),
    "negative evidence": (
        lambda: LF.evidential_classification_loss(torch.tensor([[1.0, -0.5]]), torch.tensor([0])),
        "evidential_classification_loss: input must be non-negative, got -0.5 at index (0, 1).",
    ),
    "counts of other classes": (
        lambda: LF.seesaw_loss(torch.randn(2, 3), torch.tensor([0, 1]), torch.ones(4)),
        "seesaw_loss: counts must have one entry for each of 3 classes, got shape (4,).",
    ),
    "a count of 0": (
        lambda: LF.seesaw_loss(torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor([3.0, 0.0, 1.0])),
        "seesaw_loss: counts must be at least 1, got 0 at index (1,).",
    ),
    "a mask of numbers": (
        lambda: LF.approx_ndcg_loss(torch.randn(2, 3), torch.ones(2, 3), element_mask=torch.ones(2, 3)),
        "approx_ndcg_loss: element_mask must be boolean (True = counts), got torch.float32. Use element_mask.bool().",
    ),
    "negative relevance": (
        lambda: LF.neural_ndcg_loss(torch.randn(2, 3), torch.tensor([[1, 0, -1], [1, 0, 0]])),
        "neural_ndcg_loss: target must be non-negative, got -1 at index (0, 2).",
    ),
    "a shape parameter beyond 2": (
        lambda: LF.adaptive_robust_loss(torch.randn(3), torch.randn(3), alpha=torch.tensor([1.0, 2.5, 1.0])),
        "adaptive_robust_loss: alpha must be in [0, 2], got 2.5 at index (1,).",
    ),
    "a shape parameter of another shape": (
        lambda: LF.adaptive_robust_loss(torch.randn(3), torch.randn(3), alpha=torch.ones(2)),
        "adaptive_robust_loss: alpha (2,) must broadcast to (3,).",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(what):
    call, sentence = REFUSED[what]
    with pytest.raises(losskit.LossError) as problem:
        call()
    assert str(problem.value) == sentence


def test_bad_values_by_policy():
    x, t = torch.tensor([[1.0, -0.5], [1.0, 2.0]], requires_grad=True), torch.tensor([0, 1])
    with losskit.checks("nan"):
        values = LF.evidential_classification_loss(x, t, reduction="none")
    assert values.isnan().tolist() == [True, False]
    (gradient,) = torch.autograd.grad(values[1], x)
    assert gradient[1].isfinite().all()
    masked = LF.evidential_classification_loss(x, t, mask=torch.tensor([False, True]))
    torch.testing.assert_close(masked, LF.evidential_classification_loss(x[1:], t[1:]))
    with losskit.checks("off"):  # an index of nothing is bad in every mode
        values = LF.evidential_classification_loss(x, torch.tensor([5, 1]), reduction="none")
    assert values.isnan().tolist() == [True, False]


# -- units without a loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LISTS)
def test_lists_in_which_nothing_is_relevant(loss):
    scores = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0] * 4, [0.0, 3.0, 0.0, 1.0]])
    values = loss(scores, target, reduction="none")
    assert values[1] == 0
    weight = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
    mean = loss(scores, target, sample_weight=weight)
    torch.testing.assert_close(mean, (values[0] + 2 * values[2]) / 3)
    (gradient,) = torch.autograd.grad(mean, scores)
    assert not gradient[1].any()
    assert gradient[0].any()
    alone = loss(scores[1:2], target[1:2])
    assert alone.isnan()
    assert not torch.autograd.grad(alone, scores)[0].any()
    with losskit.empty("zero"):
        assert loss(scores[1:2], target[1:2]) == 0
    plan = losskit.get(loss.__name__)()._planned(False)
    _, counted = plan.counted(plan.validated([scores, target], None, None, None, None))
    assert counted.tolist() == [True, False, True]  # as the ranks of a DTensor add up


@pytest.mark.parametrize("loss", LISTS)
def test_padded_lists(loss):
    """A padded list costs what it costs without the padding, whatever stands there."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 4, (3, 5), generator=generator).double() + torch.tensor([1.0, 0, 0, 0, 0])
    mask = torch.tensor([[True, True, True, False, False], [True, False, True, True, True], [False] * 5])
    scores[~mask] = math.nan
    target[~mask] = -7.0
    scores.requires_grad_()
    values = loss(scores, target, element_mask=mask, reduction="none")
    for i in range(2):
        torch.testing.assert_close(values[i], loss(scores[i][mask[i]], target[i][mask[i]]))
    assert values[2] == 0
    (gradient,) = torch.autograd.grad(loss(scores, target, element_mask=mask), scores)
    assert not gradient[~mask].any()
    assert gradient[mask].isfinite().all()
    plain = scores.detach()
    with losskit.checks("off"):
        slopes = torch.func.grad(lambda x: loss(x, target, element_mask=mask))(plain)
    torch.testing.assert_close(slopes, gradient)


# -- limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3), (4,)])
def test_ordinary_temperatures_and_powers_give_cross_entropy(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    t = torch.randint(0, 4, shape[:1] + shape[2:] if len(shape) > 1 else ())
    expected = torch.nn.functional.cross_entropy(x, t)
    counts = torch.tensor([3.0, 1.0, 2.0, 9.0], dtype=torch.float64)
    for loss in (
        LF.bi_tempered_logistic_loss(x, t, t1=1.0, t2=1.0), LF.seesaw_loss(x, t, counts, p=0.0, q=0.0),
    ):  # fmt: skip
        torch.testing.assert_close(loss, expected)
        got, wanted = (torch.autograd.grad(y, x, retain_graph=True)[0] for y in (loss, expected))
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite(dtype):
    far = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]], dtype=dtype, requires_grad=True)
    t, counts = torch.tensor([0, 0]), torch.tensor([1e6, 10.0, 1.0], dtype=dtype)
    relevance = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=dtype)
    for loss in (
        LF.bi_tempered_logistic_loss(far, t), LF.bi_tempered_logistic_loss(far, t, t1=0.2, t2=4.0),
        LF.seesaw_loss(far, t, counts), LF.approx_ndcg_loss(far, relevance), LF.neural_ndcg_loss(far, relevance),
        LF.evidential_classification_loss(far.abs(), t, reg_weight=1.0),
    ):  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, far)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    same = torch.ones(4, 3, dtype=dtype, requires_grad=True)  # nothing varies
    for loss in (LF.barlow_twins_loss(same, same), LF.vicreg_loss(same, same)):
        assert torch.autograd.grad(loss, same)[0].isfinite().all()


def test_many_classes_add_up():
    """Where five fixed-point steps leave a tenth of the probability out."""
    x = torch.randn(4, 1000, dtype=torch.float64) * 300
    for t2 in (1.01, 1.2, 2.0, 4.0):
        shift = losskit.losses.bi_tempered_logistic._normalised(x - x.amax(1, keepdim=True), t2, 10)
        p = (1 + (t2 - 1) * (shift - x + x.amax(1, keepdim=True))) ** (1 / (1 - t2))
        torch.testing.assert_close(p.sum(1), torch.ones(4, dtype=torch.float64), rtol=1e-12, atol=0)


# -- the partition function ------------------------------------------------------------------------------


KNOWN = {
    0.0: mpmath.pi * mpmath.sqrt(2), 1.0: 2 * mpmath.e * mpmath.besselk(1, 1), 2.0: mpmath.sqrt(2 * mpmath.pi),
}  # fmt: skip


@pytest.mark.parametrize("alpha", [0.0, 1e-9, 0.003, 0.02, 0.1, 0.5, 1.0, 1.5, 1.9, 1.999, 2.0 - 1e-9, 2.0])
def test_log_partition(alpha):
    """As numbers and tensors, against quadrature; the slope by a difference of 1e-12 with 40 digits."""

    def truth(a):
        beyond = 2 - a
        rho = lambda u: beyond / a * mpmath.expm1(a / 2 * mpmath.log1p(u * u / beyond))
        ends = [0, mpmath.sqrt(beyond) / 2, 1, 2, 4, 8, 16, 32, 64, 120]
        density = lambda s: mpmath.exp(-rho(mpmath.sinh(s))) * mpmath.cosh(s)
        return mpmath.log(2 * mpmath.quad(density, ends))

    x = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    got = log_partition(x)
    assert log_partition(alpha) == pytest.approx(got.item(), rel=1e-15)
    if alpha in KNOWN:
        assert got.item() == pytest.approx(float(mpmath.log(KNOWN[alpha])), rel=4e-16)
    if 0 < alpha < 2:
        with mpmath.workdps(40):
            a = mpmath.mpf(alpha)
            step = min(a, 2 - a) * mpmath.mpf(10) ** -9
            right, slope = truth(a), (truth(a + step) - truth(a - step)) / (2 * step)
        assert got.item() == pytest.approx(float(right), rel=1e-15)
        (by_alpha,) = torch.autograd.grad(got, x)
        assert by_alpha.item() == pytest.approx(float(slope), rel=1e-9)


def test_alpha_and_scale_are_learned():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 2, generator=generator) * torch.tensor([0.5, 2.0])
    criterion = losskit.AdaptiveRobustLoss(
        alpha=torch.nn.Parameter(torch.full((2,), 1.0)), scale=torch.nn.Parameter(torch.ones(2))
    )
    assert {name for name, _ in criterion.named_parameters()} == {"alpha", "scale"}
    steps = torch.optim.Adam(criterion.parameters(), lr=0.05)
    for _ in range(150):
        steps.zero_grad()
        criterion(torch.zeros_like(noise), noise).backward()
        steps.step()
        with torch.no_grad():
            criterion.alpha.clamp_(0.001, 1.999)
    torch.testing.assert_close(criterion.scale.detach(), torch.tensor([0.5, 2.0]), rtol=0.1, atol=0)
    assert (criterion.alpha > 1.7).all()  # a Gaussian's tails
    x = [torch.randn(3, 2, dtype=torch.float64) for _ in range(2)]
    x += [torch.tensor([0.5, 1.7], dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)]
    leaves = [y.requires_grad_() for y in x]
    call = lambda a, b, alpha, scale: LF.adaptive_robust_loss(a, b, alpha, scale)
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_counts_are_a_buffer():
    criterion = losskit.SeesawLoss(torch.ones(3))
    criterion.counts += torch.bincount(torch.tensor([0, 0, 2]), minlength=3)
    assert criterion.state_dict()["counts"].tolist() == [3.0, 1.0, 2.0]
    x, t = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = LF.seesaw_loss(x, t, torch.tensor([3.0, 1.0, 2.0]))
    assert criterion(x, t).equal(expected)
    assert pickle.loads(pickle.dumps(criterion))(x, t).equal(expected)


def test_few_rows_and_many_columns():
    """Products of rows in place of those of columns: the same loss on either side of the bound."""
    for loss in (LF.barlow_twins_loss, LF.vicreg_loss):
        for d in (7, 8, 9):
            a, b = torch.randn(4, d, dtype=torch.float64), torch.randn(4, d, dtype=torch.float64)
            a.requires_grad_()
            again = torch.cat([a, a]), torch.cat([b, b])  # the same statistics, up to N - 1, on the other side
            if loss is LF.barlow_twins_loss:
                torch.testing.assert_close(loss(a, b), loss(*again))
            assert torch.autograd.gradcheck(loss, (a, b))
