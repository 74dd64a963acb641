"""Losses of score differences on a GPU: exact fractions, the eager formula in float64, lists of targets, bad indices."""

import itertools
import math

import pytest
import test_margins as truth
import torch
from row_truth import errors_of

import losskit
from losskit import MultiLabelMarginLoss, MultiMarginLoss
from losskit.kernels.gpu import margins, rows

from .conftest import ON_GPU, assert_near

NAN, INF = math.nan, math.inf
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
multi, multilabel = MultiMarginLoss.functional, MultiLabelMarginLoss.functional
# NumPy's warning, under the interpreter, about the largest of nothing but NaN.
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")


@pytest.fixture(autouse=True)
def _several_rows_a_program(monkeypatch):
    monkeypatch.setattr(rows, "PROGRAMS", 2)


def scores(*shape, dtype=torch.float32, scale=1.0, seed=0):
    generator = torch.Generator("cuda" if ON_GPU else "cpu").manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def indices(rows, classes):
    return torch.arange(rows) * 7 % classes


def lists(rows, classes):
    """Lists of targets of all lengths, with repetitions, garbage after their end."""
    target = (torch.arange(rows)[:, None] * 3 + torch.arange(classes) ** 2 * 5) % classes
    for row in range(rows):
        length = row % (min(classes, 12) + 1)
        if length < classes:
            target[row, length] = -1
            target[row, length + 1 :] = 99 - 2 * torch.arange(classes - length - 1)
    return target


CALLS = {"multi": (MultiMarginLoss, indices), "multilabel": (MultiLabelMarginLoss, lists)}


def got_and_expected(loss, input, target, *, weight=None, **extras):
    """Loss and gradient from the kernel, and from the eager formula in float64."""
    plan, results = loss._planned(), []
    if weight is not None:
        loss.weight = weight
    assert losskit.why(loss, input, target, weight=weight, **extras).implementation == "fused GPU kernel"
    given = {"sample_weight": None, "mask": None, "normalizer": None, **extras}
    for wide in (False, True):
        leaf = (input.detach().double() if wide else input.detach()).requires_grad_()
        if wide:
            weight = None if weight is None else weight.double()
            value = plan.eager(plan.validated((leaf, target), weight, **given), "nan")
        else:
            value = loss(leaf, target, **extras)
        upstream = torch.linspace(1.0, 2.0, max(value.numel(), 1)).to(value.dtype)[: value.numel()]
        results.append([value.detach(), *torch.autograd.grad(value, leaf, upstream.reshape(value.shape))])
    return results


# ---------------------------------------------------------------------------------------------------------
# Truth


@pytest.mark.parametrize("dtype", truth.WIDE, ids=str)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e4])
@pytest.mark.parametrize("p", [1, 2])
def test_truth_of_multi_margin(dtype, scale, p):
    """Within 3 ULP of the value (of the largest term, where terms cancel), gradients of the largest gradient."""
    x, y = scores(9, 9, dtype=dtype, scale=scale), torch.arange(9)
    value, gradient = truth.with_gradient(multi, x, y, p=p, margin=0.75, reduction="none")
    found = errors_of("multi_margin_loss", [x, y], {"p": p, "margin": 0.75}, value, {0: gradient})
    assert found.value <= 3 and found.gradient <= 4, found.where


@pytest.mark.parametrize("dtype", truth.WIDE, ids=str)
def test_truth_of_multilabel_margin(dtype):
    x, y = scores(13, 20, dtype=dtype), lists(13, 20)
    value, gradient = truth.with_gradient(multilabel, x, y, reduction="none")
    found = errors_of("multilabel_margin_loss", [x, y], {}, value, {0: gradient})
    assert found.value <= 3 and found.gradient <= 4, found.where


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_formula(name, dtype):
    loss, targets = CALLS[name]
    assert_near(*got_and_expected(loss(reduction="none"), scores(14, 20, dtype=dtype), targets(14, 20)), dtype)


def test_finite_where_the_limit_is():
    """Differences and squares leave float32 on the way; the losses do not."""
    truth.test_finite_where_the_limit_is()
    x = torch.full((3, 20), -3e38)
    x[0, 0] = 3e38
    x[1] = 1.0
    y = torch.full((3, 20), -1)
    y[:, 0] = torch.tensor([1, 0, 2])
    loss = MultiLabelMarginLoss(reduction="none")
    got, expected = got_and_expected(loss, x, y, sample_weight=torch.tensor([0.25, 1.0, 1.0]))
    assert got[0].isfinite().all()
    assert_near(got, expected, torch.float32)


def test_infinities_and_ties():
    truth.test_infinities("fused")
    truth.test_at_the_margin_nothing_pushes()
    x = torch.tensor([[INF, INF, 1.0], [-INF, 0.0, 0.0]])
    assert multilabel(x, torch.tensor([[0, 1, -1], [1, 2, 0]]), reduction="none").tolist() == [0.0, 0.0]


# ---------------------------------------------------------------------------------------------------------
# Reductions, layouts, sizes


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", CALLS)
def test_weights_masks_normalizers(name, reduction):
    loss, targets = CALLS[name]
    x, y = scores(9, 5), targets(9, 5)
    weight, mask = torch.rand(9) + 0.5, torch.tensor([True, False, True, True, False, True, True, True, False])
    spoiled, behind = torch.where(mask[:, None], x, NAN), y.clone()
    behind[~mask] = 99
    for extras in (
        {}, {"mask": mask}, {"sample_weight": weight}, {"mask": mask, "sample_weight": weight},
        {"normalizer": 3.5}, {"normalizer": torch.tensor(3.5), "mask": mask}, {"mask": torch.tensor(False)},
    ):  # fmt: skip
        given = (spoiled, behind) if "mask" in extras else (x, y)
        got, expected = got_and_expected(loss(reduction=reduction), *given, **extras)
        assert_near(got, expected, torch.float32, 12.0)
        assert "mask" not in extras or got[1][~mask].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("p", [1, 2])
def test_class_weights(p, dtype):
    weight = torch.rand(14, dtype=dtype)[::2]
    for reduction in ("none", "mean"):
        loss = MultiMarginLoss(p=p, margin=0.3, weight=torch.ones(7), reduction=reduction)
        assert_near(*got_and_expected(loss, scores(11, 7), indices(11, 7), weight=weight), torch.float32, 8.0)


@pytest.mark.parametrize("longest", [margins.LONGEST, 8])
@pytest.mark.parametrize("classes", [1, 2, 8, 10, 37])
def test_sizes(classes, longest, monkeypatch):
    """Rows that are held whole, and rows that are read in blocks."""
    monkeypatch.setattr(margins, "LONGEST", longest)
    for name, (loss, targets) in CALLS.items():
        if name == "multi" or longest > 8:
            for rows in (1, 13):
                assert_near(*got_and_expected(loss(), scores(rows, classes), targets(rows, classes)), torch.float32)


def test_rows_that_are_too_long_for_lists(monkeypatch):
    monkeypatch.setattr(margins, "LONGEST_LIST", 8)
    choice = losskit.why(MultiLabelMarginLoss(), scores(2, 9), lists(2, 9))
    assert choice == ("eager formula", "lists of targets are taken for up to 8 classes")
    assert multilabel(scores(2, 9), lists(2, 9)).isfinite()


@pytest.mark.parametrize("name", CALLS)
def test_layouts(name):
    loss, targets = CALLS[name]
    x, y = scores(8, 6), targets(8, 6)
    expected = got_and_expected(loss(), x, y)[1]
    gapped = torch.empty(8, 12)[:, ::2].copy_(x)
    offset = torch.cat([x[0, :1], x.reshape(-1)])[1:].reshape(8, 6)
    for input in (x.t().contiguous().t(), gapped, x[None].expand(2, -1, -1)[1], offset, torch.cat([x, x], 1)[:, :6]):
        for target in (y, y.repeat_interleave(2, 0)[::2], y.t().contiguous().t() if y.ndim == 2 else y):
            assert_near(got_and_expected(loss(), input, target)[0], expected, torch.float32)
    same = x[:1].expand(8, 6), y[4:5].expand(y.shape)
    assert_near(*got_and_expected(loss(reduction="none"), *same), torch.float32)
    assert_near(*got_and_expected(loss(reduction="none"), x[4], y[4]), torch.float32)


@pytest.mark.parametrize("integer", truth.INTEGERS, ids=str)
def test_integers_of_any_width(integer):
    x, y = scores(6, 5), torch.tensor([0, 4, 2, 1, 3, 3])
    assert torch.equal(multi(x, y.to(integer)), multi(x, y))
    full = torch.stack([(torch.arange(5) + row) % 5 for row in range(6)])
    full[:, 1] = full[:, 0]
    assert torch.equal(multilabel(x, full.to(integer)), multilabel(x, full))
    if integer != torch.uint8:
        ended = torch.tensor([[2, -1, 0, 0, 0]] * 6)
        assert torch.equal(multilabel(x, ended.to(integer)), multilabel(x, ended))


def test_offsets_beyond_int32(monkeypatch):
    monkeypatch.setattr(margins, "index_type", lambda numel: margins.tl.int64)
    for loss, targets in CALLS.values():
        assert_near(*got_and_expected(loss(), scores(9, 11), targets(9, 11)), torch.float32)


def test_nothing():
    truth.test_nothing()


# ---------------------------------------------------------------------------------------------------------
# Bad values, autograd


def test_nan_in_nan_out():
    truth.test_nan_in_gives_nan_out()


def check_said(mode, allowed):
    """The violation that was recorded: one of these, and none where nothing is checked."""
    said = losskit.last_violation()
    assert said is None if mode == "off" else said in allowed


def test_bad_indices():
    """They make their row NaN in every mode, and no memory is read that is not there."""
    x, y = scores(4, 3), torch.tensor([0, 2**40, 3, -(2**40)])
    lists = torch.tensor([[0, 2**40, -1], [-1, 7, 7], [1, -5, 0], [2, -1, 0]])
    for mode in ("raise", "nan", "off"):
        with losskit.checks(mode):
            value, gradient = truth.with_gradient(multi, x, y, reduction="none")
            assert value.isnan().tolist() == gradient.isnan().all(1).tolist() == [False, True, True, True]
            wrong = {1: 2**40, 2: "3", 3: -(2**40)}  # any of several programs is the first on a GPU
            allowed = {
                f"multi_margin_loss: target must be a class in [0, 3), got {y} at row ({i},)." for i, y in wrong.items()
            }
            check_said(mode, {*allowed, *(f"{each} Class indices start at 0." for each in allowed)})
            value, gradient = truth.with_gradient(multilabel, x, lists, reduction="none")
            assert value.isnan().tolist() == gradient.isnan().all(1).tolist() == [True, False, True, False]
            check_said(mode, {
                f"multilabel_margin_loss: target must be class indices in [0, 3), ended by -1, got {found} at index {place}."
                for found, place in [(2**40, (0, 1)), (-5, (2, 1))]
            })  # fmt: skip
    multi(x, torch.tensor([0, 1, 3, 1]))
    assert losskit.last_violation().endswith("got 3 at row (2,). Class indices start at 0.")
    multi(x[0], torch.tensor(3))
    assert losskit.last_violation().endswith("got 3 at row (). Class indices start at 0.")


def test_masks_are_not_lists():
    """A row of 0 and 1 among rows that are none, two classes, rows that are masked; a number that comes late."""
    x, masks = scores(4, 36), (torch.arange(144).reshape(4, 36) * 7 % 5 > 2).long()
    value, gradient = truth.with_gradient(multilabel, x, masks, reduction="none")
    assert value.isnan().all() and gradient.isnan().all()
    assert losskit.last_violation().endswith("which is a mask: multilabel_soft_margin_loss takes one.")
    late = masks.clone()
    late[2, 35] = 7
    assert multilabel(x, late).isfinite()
    assert multilabel(x, late, mask=torch.tensor([True, True, False, True])).isnan()
    assert losskit.last_violation() is not None
    assert multilabel(x, masks, mask=torch.tensor(False), reduction="sum") == 0
    assert multilabel(x[:, :2], masks[:, :2]).isfinite()
    with losskit.checks("off"):
        assert multilabel(x, masks).isfinite()
    assert losskit.last_violation() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_backward(name, dtype):
    """Upstream gradients, a second backward pass, derivatives of gradients."""
    loss, targets = CALLS[name]
    x, y = scores(14, 5, dtype=dtype).requires_grad_(), targets(14, 5)
    mean = (loss(p=2) if name == "multi" else loss())(x, y)
    (first,) = torch.autograd.grad(mean, x, retain_graph=True)
    (second,) = torch.autograd.grad(mean, x, torch.tensor(3.0, dtype=dtype), retain_graph=True)
    torch.testing.assert_close(3.0 * first, second)
    (again,) = torch.autograd.grad(mean, x, create_graph=True)
    torch.testing.assert_close(again, first)
    (twice,) = torch.autograd.grad(again.square().sum(), x)
    assert twice.isfinite().all() and (name == "multilabel" or twice.ne(0).any())


def test_the_host_does_not_wait(unwatched):
    x, y, many, mask = (
        scores(4, 5).requires_grad_(),
        indices(4, 5),
        lists(4, 5),
        torch.tensor([True, False, True, True]),
    )
    with unwatched:
        loss = multi(x, y, mask=mask, weight=torch.ones(5)) + multilabel(
            x, many, mask=mask, sample_weight=torch.ones(4)
        )
        torch.autograd.grad(2.0 * loss, x)


def test_every_place_of_the_end_of_the_list():
    x = scores(1, 6, dtype=torch.float64)
    for length in range(7):
        y = torch.tensor([[3, 1, 3, 5, 0, 2]])
        if length < 6:
            y[0, length] = -1
            y[0, length + 1 :] = 77
        value, gradient = truth.with_gradient(multilabel, x, y)
        theirs = truth.with_gradient(torch.nn.functional.multilabel_margin_loss, x, truth.torch_lists(y))
        torch.testing.assert_close((value, gradient), theirs)


def test_many_rows():
    """More rows than one program of each kernel takes."""
    x, y = scores(80, 3), torch.tensor([[0, 1, 1], [1, 0, 0]]).repeat(40, 1)
    assert multilabel(x, y).isnan()
    losskit.last_violation()
    y[77, 2] = -1
    assert_near(*got_and_expected(MultiLabelMarginLoss(), x, y), torch.float32)
    for a, b in itertools.pairwise([multi(x, indices(80, 3)) for _ in range(2)]):
        assert torch.equal(a, b)
