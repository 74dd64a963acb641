"""Losses of ordered rows on a GPU: the eager formula in float64, ties, padding, layouts, sizes, units without a loss."""

import itertools
import math

import pytest
import torch

import losskit
from losskit import CoxPHLoss, ListMLELoss, LovaszHingeLoss, LovaszSoftmaxLoss, SquaredEMDLoss
from losskit.formula import stop
from losskit.kernels.gpu.ordered import classes, errors, layout, pixels

from .conftest import assert_near
from .ordered_operands import LOSSES, given

NAN, INF = math.nan, math.inf
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
every = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch):
    """A row is several blocks, and a set of pixels several programs'."""
    monkeypatch.setattr(layout, "TILE", 8)
    monkeypatch.setattr(errors, "BLOCK", 4)
    monkeypatch.setattr(errors, "BLOCKS", 2)
    monkeypatch.setattr(pixels, "TILE", 16)


def got_and_expected(loss, operands, checks="nan", **extras):
    """Loss and gradient from the kernel, and from the eager formula in float64."""
    extras = {"sample_weight": None, "mask": None, "normalizer": None, **extras}
    input, *others = operands
    optional = len(operands) == len(loss._call_operands())
    plan, results = loss._planned(*[optional] * len(loss._optional_operands())), []
    learns = plan.gradients & 1
    x = input.detach().requires_grad_(bool(learns))
    assert losskit.why(loss, x, *others, **extras).implementation == "fused GPU kernel"
    for wide in (False, True):
        leaf = (input.detach().double() if wide else input.detach()).requires_grad_(bool(learns))
        if wide:
            value = plan.eager(plan.validated((leaf, *others), None, **extras), checks)
        else:
            value = loss(leaf, *others, **extras)
        upstream = torch.linspace(1.0, 2.0, max(value.numel(), 1)).to(value.dtype)[: value.numel()]
        results.append([value.detach()])
        if learns:
            results[-1] += torch.autograd.grad(value, leaf, upstream.reshape(value.shape))
    return results


def turned(x):
    order = list(reversed(range(x.ndim)))
    return x.permute(order).contiguous().permute(order)


def gapped(x):
    return torch.stack([x, x], -1)[..., 0]


# ---------------------------------------------------------------------------------------------------------
# The formula


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every
def test_the_formula_in_double(name, dtype):
    for reduction in ("none", "mean", "sum"):
        operands = given(name, width=7 if "softmax" in name else 13, dtype=dtype)
        assert_near(*got_and_expected(LOSSES[name](reduction=reduction), operands), dtype, 16.0)


@pytest.mark.parametrize("width", [9, 1, 2, 8, 17])
def test_sizes(width):
    for name, rows in itertools.product(("list_mle", "efron", "soft_emd", "hinge_of_all", "softmax"), (1, 3)):
        if "softmax" in name and width > 9:
            continue
        operands = given(name, rows, width)
        assert_near(*got_and_expected(LOSSES[name](reduction="sum"), operands), torch.float32, 16.0)
        if name in ("list_mle", "efron", "soft_emd"):
            one = got_and_expected(LOSSES[name](reduction="none"), [x[0] for x in operands])
            assert one[0][0].shape == ()
            assert_near(*one, torch.float32, 16.0)


def test_long_rows():
    """Several blocks of a row; ties that end in another block than they begin in."""
    for name in ("list_mle", "efron", "breslow", "hinge"):
        operands = given(name, 1, 40, torch.float64, seed=3)
        assert_near(*got_and_expected(LOSSES[name](), operands), torch.float64, 64.0)
    time = torch.arange(40) // 14
    x, event = torch.linspace(-3.0, 3.0, 40, dtype=torch.float64), torch.arange(40) % 3 > 0
    for ties in ("efron", "breslow"):
        assert_near(*got_and_expected(CoxPHLoss(ties=ties), [x, time, event]), torch.float64, 64.0)


def test_several_rows_of_a_program():
    for name in ("list_mle", "efron", "squared_emd", "hinge"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layout, "TILE", 32)
            patch.setattr(layout, "PROGRAMS", 1)
            operands = given(name, 7, 5)
            assert layout.tile_of(7, 5).rows == 4
            assert_near(*got_and_expected(LOSSES[name](), operands), torch.float32, 16.0)


def test_keys_of_every_dtype():
    x = given("list_mle", 2, 9)[0]
    whole = torch.tensor([[3, 0, 7, 7, 2, 1, 0, 5, 3], [9, 8, 8, 1, 2, 3, 4, 5, 0]])
    wanted = ListMLELoss()(x, whole)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, *DTYPES):
        assert ListMLELoss()(x, whole.to(dtype)) == wanted
    keys = {
        "bool": whole > 3, "signed": torch.tensor([-0.0, 0.0, 1.0, -1.0, INF, -INF, 0.5, -0.5])[whole % 8],
        "far": whole * (1 << 58) - (1 << 60), "near": 1.0 + whole.double() * 2.0**-52,
        "ends": torch.where(whole > 4, torch.iinfo(torch.int64).max, torch.iinfo(torch.int64).min),
    }  # fmt: skip
    event = whole % 2
    for what, key in keys.items():
        assert_near(*got_and_expected(ListMLELoss(reduction="none"), [x, key]), torch.float32, 16.0)
        if what in ("signed", "near"):  # their ties
            assert_near(*got_and_expected(CoxPHLoss(), [x, key, event]), torch.float32, 16.0)
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.float64):
        assert CoxPHLoss()(x, whole, event.to(dtype)) == CoxPHLoss()(x, whole, event)


def test_scores_that_leave_every_exponential():
    """Scores that are 1e4 apart, in both orders: the loss is their distance, or nothing."""
    x = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]])
    for dtype in (torch.float32, torch.float64):
        (each, slope), _ = got_and_expected(ListMLELoss(reduction="none"), [x.to(dtype), torch.tensor([[3, 2, 1]] * 2)])
        assert each.tolist() == [0.0, 3e4]
        assert slope.tolist() == [[0.0] * 3, [-2.0, -2.0, 4.0]]
        time, event = torch.tensor([[1, 1, 2]] * 2), torch.ones(2, 3)
        (each, slope), _ = got_and_expected(CoxPHLoss(reduction="none", ties="breslow"), [x.to(dtype), time, event])
        assert each.tolist() == [1e4, 3e4]
        assert slope.tolist() == [[1.0, -1.0, 0.0], [-2.0, -2.0, 4.0]]
    endless = torch.tensor([[INF, 0.0], [0.0, INF], [-INF, 0.0], [0.0, -INF]])
    each = ListMLELoss(reduction="none")(endless, torch.tensor([[1, 0]] * 4))
    assert each.tolist() == [0.0, INF, INF, 0.0]


def test_a_confident_element_keeps_its_digits():
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([[60.0, 0.0]], dtype=dtype)
        small = math.exp(-60)
        for loss, target in ((LovaszSoftmaxLoss(), torch.tensor([0])), (ListMLELoss(), torch.tensor([[1, 0]]))):
            (value, slope), _ = got_and_expected(loss, [x, target])
            assert value.item() == pytest.approx(small, rel=1e-6)
            assert slope.flatten().tolist() == pytest.approx([-small, small], rel=1e-6)
        (_, slope), _ = got_and_expected(SquaredEMDLoss(reduction="sum"), [x, torch.tensor([0])])
        wanted = [-2 * math.exp(-120), 2 * math.exp(-120)]
        assert slope.flatten().tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-44)


# ---------------------------------------------------------------------------------------------------------
# What does not count


@every
def test_layouts_weights_and_masks(name):
    operands = given(name, 4, 5)
    shape = LOSSES[name](reduction="none")(*operands).shape
    units = math.prod(shape)
    mask = (torch.arange(units) != 1).reshape(shape) if shape else torch.tensor(True)
    weight = torch.tensor([1.0, 2.0, 0.5, 0.0])[torch.arange(units) % 4].reshape(shape)
    hidden = [x.clone() for x in operands]
    if "softmax" not in name and shape:
        hidden[0][1] = NAN
        hidden[2 if name in ("efron", "breslow") else 1][1] = 9
    for number, extras in enumerate(
        ({"mask": mask}, {"mask": mask, "sample_weight": weight}, {"mask": mask, "normalizer": 2.5},
         {"mask": torch.tensor(False)})
    ):  # fmt: skip
        moved = [(turned, gapped, lambda x: x, turned)[number](x) for x in hidden]
        loss = LOSSES[name](reduction=("none", "mean", "sum", "mean")[number])
        assert_near(*got_and_expected(loss, moved, **extras), torch.float32, 16.0)
    assert losskit.last_violation() is None


@pytest.mark.parametrize("name", ["list_mle", "efron", "breslow", "hinge", "hinge_of_all"])
def test_elements_that_are_masked_are_not_there(name):
    operands = given(name, 4, 11)
    *seen, there = operands
    hidden = [torch.where(there, x.double() if i else x, 7.0 if i else NAN) for i, x in enumerate(seen)]
    hidden[1] = torch.where(there, seen[1], NAN)
    loss = LOSSES[name](reduction="sum")
    (spoilt, expected), ((value, slope), _) = (
        got_and_expected(loss, [*x, there]) for x in (hidden, seen)
    )  # fmt: skip
    assert torch.equal(spoilt[0], value) and torch.equal(spoilt[1], slope)
    assert not slope[~there].any()
    assert_near(spoilt, expected, torch.float32, 16.0)


NOTHING = {
    "a list of one": lambda x, **k: ListMLELoss(**k)(x[:, :1], torch.ones(2, 1)),
    "a padded list of one": lambda x, **k: ListMLELoss(**k)(x, torch.ones(2, 3), torch.arange(3).expand(2, 3) < 1),
    "an empty list": lambda x, **k: ListMLELoss(**k)(x[:, :0], torch.ones(2, 0)),
    "no list": lambda x, **k: ListMLELoss(**k)(x[:0], torch.ones(0, 3)),
    "no row": lambda x, **k: SquaredEMDLoss(**k)(x[:0], torch.ones(0, 3)),
    "no event": lambda x, **k: CoxPHLoss(**k)(x, torch.ones(2, 3), torch.zeros(2, 3)),
    "a masked event": lambda x, **k: CoxPHLoss(**k)(
        x, torch.ones(2, 3), torch.tensor([[0, 1, 0]] * 2), torch.tensor([[True, False, True]] * 2)
    ),
    "no pixel": lambda x, **k: LovaszHingeLoss(**k)(x, torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)),
    "an image without pixels": lambda x, **k: LovaszHingeLoss(**k)(x[:, :0], torch.ones(2, 0)),
    "ignored pixels": lambda x, **k: LovaszSoftmaxLoss(**k)(x, torch.full((2,), -100)),
    "ignored pixels of all classes": lambda x, **k: LovaszSoftmaxLoss(classes="all", **k)(x, torch.full((2,), -100)),
}


@pytest.mark.parametrize("what", NOTHING)
def test_units_without_a_loss(what):
    """They are masked units: 0 alone and in sums, in no mean; with gradients of 0."""
    x = torch.tensor([[1.0, 2.0, NAN], [0.5, -3.0, INF]]).requires_grad_()
    for reduction in ("sum", "mean", "none"):
        if reduction == "none" and "ignored" in what:
            continue
        value = NOTHING[what](x, reduction=reduction)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert value.isnan() if reduction == "mean" else not value.any()
        assert not gradient.any()
    with losskit.empty("zero"):
        assert NOTHING[what](x) == 0


@every
def test_nan_in_gives_nan_out(name):
    """In an element without a loss of its own, too; in keys and labels; nowhere else."""
    if name in ("hinge_of_all", "softmax_all"):
        return
    operands = given(name, 3, 5)[: 3 if name in ("efron", "breslow") else 2]
    for place, i in itertools.product((0, -1), range(len(operands))):
        spoilt = [x.clone() for x in operands]
        if i:
            spoilt[i] = spoilt[i].double()
        spoilt[i][1].view(-1)[place] = NAN
        if i and (spoilt[i].ndim < spoilt[0].ndim or "softmax" in name):
            continue
        loss = LOSSES[name](reduction="none" if "softmax" not in name else "sum")
        each = LOSSES[name](reduction="none")(*spoilt)
        kept = torch.zeros_like(each, dtype=torch.bool)
        kept[1 if name != "softmax" else slice(None)] = True
        if "softmax" in name:  # of classes that are there
            kept = kept & (LOSSES[name](reduction="none")(*operands) != 0)
        assert torch.equal(each.isnan(), kept)
        x = spoilt[0].requires_grad_()
        (slope,) = torch.autograd.grad(loss(*spoilt).sum(), x)
        assert slope[1].isnan().all()
        assert slope[[0, 2]].isfinite().all() == (name != "softmax")


# ---------------------------------------------------------------------------------------------------------
# Calls


def test_refused_values(unwatched):
    x = torch.zeros(2, 3)
    wrong = torch.tensor([[1, 0, 1], [0, 5, 1]])
    calls = {
        "cox_ph_loss: event must be 0 or 1, got 5 at index (1, 1).": lambda: CoxPHLoss(reduction="none")(x, x, wrong),
        "lovasz_hinge_loss: target must be 0 or 1, got 5 at index (1, 1).": lambda: LovaszHingeLoss(reduction="none")(x, wrong),
        "squared_emd_loss: target must be a class in [0, 3), got 7 at row (1,).":
            lambda: SquaredEMDLoss(reduction="none")(x, torch.tensor([0, 7])),
        "squared_emd_loss: target must be in [0, 1], got 5 at index (1, 1).":
            lambda: SquaredEMDLoss(reduction="none")(x, wrong.double()),
        "lovasz_softmax_loss: target must be a class in [0, 3), got 4 at row (1, 3).":
            lambda: LovaszSoftmaxLoss(reduction="none", per_image=True)(
                torch.zeros(2, 3, 4), torch.tensor([[0, 0, 0, 0], [0, 0, 0, 4]])
            )[:, 0],
    }  # fmt: skip
    for text, call in calls.items():
        with unwatched:
            each = call()
        assert each.isnan().tolist() == [False, True]
        assert losskit.last_violation() == text
    with losskit.checks("off"):  # what is neither 0 nor 1 is an event; what is no class is NaN still
        assert CoxPHLoss(reduction="none")(x, x, wrong).isfinite().all()
        assert LovaszHingeLoss(reduction="none")(x, wrong).isfinite().all()
        assert SquaredEMDLoss(reduction="none")(x, torch.tensor([0, 7])).isnan().tolist() == [False, True]
        assert SquaredEMDLoss(reduction="none")(x, wrong.double()).isfinite().all()
    assert losskit.last_violation() is None


@every
def test_the_same_bits_and_no_waiting(name, unwatched):
    input, *others = given(name, 3, 6)
    found = []
    for _ in range(2):
        leaf = input.clone().requires_grad_()
        with unwatched:
            loss = LOSSES[name]()(leaf, *others)
            (slope,) = torch.autograd.grad(loss, leaf)
        found.append((loss.detach(), slope))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_upstream_gradients_and_a_second_backward():
    dtypes = torch.float16, torch.float32
    for name, dtype in zip(("efron", "soft_emd", "hinge", "softmax"), (*dtypes, *dtypes), strict=True):
        input, *others = given(name, 3, 5, dtype)
        x, wide = input.requires_grad_(), input.detach().double().requires_grad_()
        loss = LOSSES[name]()(x, *others)
        (first,) = torch.autograd.grad(64.0 * loss, x, retain_graph=True)
        (second,) = torch.autograd.grad(loss, x)
        (expected,) = torch.autograd.grad(LOSSES[name]()(wide, *others), wide)
        assert_near([first, second], [64.0 * expected, expected], dtype, 16.0)


@pytest.mark.parametrize("name", ["efron", "soft_emd", "hinge", "softmax"])
def test_compiled(name):
    x, *others = given(name, 3, 5)
    x.requires_grad_()
    for reduction in ("mean", "none") if name != "softmax" else ("mean",):
        loss = LOSSES[name](reduction=reduction)
        torch._dynamo.reset()
        compiled = torch.compile(lambda z, of=loss: of(2 * z, *others).sum() * 3, backend="aot_eager", fullgraph=True)
        want, got = loss(2 * x, *others).sum() * 3, compiled(x)
        torch.testing.assert_close(got, want)
        (of_eager,), (of_compiled,) = torch.autograd.grad(want, x), torch.autograd.grad(got, x)
        torch.testing.assert_close(of_compiled, of_eager)


def test_why(device, monkeypatch):
    monkeypatch.setattr(classes, "LONGEST", 4)
    for name in ("squared_emd", "softmax"):
        x, *others = given(name, 2, 4)
        assert losskit.why(LOSSES[name](), x, *others).implementation == "fused GPU kernel"
        wide = torch.cat([x, x], 1)
        others[0] = others[0] if name == "softmax" else torch.zeros(2, dtype=torch.int64)
        wide = wide if name == "softmax" else torch.cat([x, x], -1)
        assert losskit.why(LOSSES[name](), wide, *others) == (
            "eager formula", "the softmax of an ordered loss is taken for up to 4 classes",
        )  # fmt: skip
    x, *others = given("softmax", 2, 4)
    told = losskit.why(LovaszSoftmaxLoss(reduction="none"), x.requires_grad_(), *others)
    assert told.implementation == "eager formula" and "gradient by an operand" in told.reason


def test_declarations_of_ones_own():
    """Another formula, with a number; the step before the error."""

    class PoweredListLoss(losskit.OrderedLoss):
        """A power of the logarithm of each share."""

        exponent: float = losskit.param(default=2.0, doc="The power.")
        arguments = "exponent reduction"
        operands = {"input": losskit.Operand("Scores."), "target": losskit.Operand("Relevance.", differentiable=False)}

        @staticmethod
        def value(log_share, exponent):
            return (-log_share) ** exponent

    class SteppedLoss(losskit.OrderedLoss):
        """The square of the error, with a step that comes first."""

        per_image: bool = losskit.param(default=True, doc="Whether each image is a set of its own.")
        arguments = "per_image reduction"
        operands = LovaszHingeLoss.operands
        units = "images"

        @staticmethod
        def value(step, error):
            return stop(step) * error * error

    for exponent in (2.0, 3.0):
        operands = given("list_mle", 3, 6)[:2]
        assert_near(*got_and_expected(PoweredListLoss(exponent=exponent), operands), torch.float32, 16.0)
    assert_near(*got_and_expected(SteppedLoss(), given("hinge", 3, 6)), torch.float32, 16.0)
