"""The score-margins family: limits, torch's values and gradients, layouts, transforms, messages."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
import torch.nn.functional as F  # its usual name
from margin_rows import (
    CALLS,
    HALVES,
    INF,
    INTEGERS,
    NAN,
    SHAPES,
    WIDE,
    eagerly,
    lists,
    multi,
    multilabel,
    scores,
    torch_lists,
    with_gradient,
)
from tiers import rest

import losskit
from losskit.kernels.dispatch import why
from losskit.losses.multi_margin import MultiMarginLoss
from losskit.losses.multilabel_margin import MultiLabelMarginLoss

# ---------------------------------------------------------------------------------------------------------
# Limits and kinks. The truth about ordinary scores is in the proofs.


def test_finite_where_the_limit_is():
    """Differences and squares leave float32 on the way; the losses do not."""
    x = torch.full((1, 100), 3e38)
    x[0, 0] = -3e38
    value, gradient = with_gradient(
        multi, x, torch.tensor([0]), margin=0.0, reduction="none", sample_weight=torch.tensor([0.25])
    )
    assert value.item() == pytest.approx(99 * 6e38 / 100 / 4, rel=1e-6)
    assert gradient.isfinite().all()
    x = torch.tensor([[0.0] + [-3e19] * 99 + [3e19]])
    value, gradient = with_gradient(multi, x, torch.tensor([0]), p=2, reduction="none")
    assert value.item() == pytest.approx(9e38 / 101, rel=1e-6)
    assert gradient[0, 100].item() == pytest.approx(2 * 3e19 / 101, rel=1e-6)
    assert multi(torch.tensor([0.0, 3e38]), torch.tensor(0), p=2).item() == INF


def test_at_the_margin_nothing_pushes():
    x = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    for p in (1, 2):
        ours, theirs = (with_gradient(f, x, torch.tensor([0]), p=p)[1] for f in (multi, F.multi_margin_loss))
        assert torch.equal(ours, theirs)
        assert not ours.any()
    y = torch.tensor([[0, -1, -1]])
    assert torch.equal(with_gradient(multilabel, x, y)[1], with_gradient(F.multilabel_margin_loss, x, y)[1])
    just_inside = torch.tensor([[1.0, 2.0**-52, -1.0]], dtype=torch.float64)
    assert with_gradient(multi, just_inside, torch.tensor([0]))[1][0, 1] == 1 / 3


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_halves_are_rounded_once(dtype, reduction):
    x, y = scores((40, 9), dtype), torch.arange(40) % 9
    value, gradient = with_gradient(multi, x, y, reduction=reduction)
    wide_value, wide_gradient = with_gradient(multi, x.float(), y, reduction=reduction)
    assert value.dtype == gradient.dtype == dtype
    assert torch.equal(value, wide_value.to(dtype))
    assert torch.equal(gradient, wide_gradient.to(dtype))
    value, gradient = with_gradient(multilabel, x, lists(40, 9), reduction=reduction)
    wide_value, wide_gradient = with_gradient(multilabel, x.float(), lists(40, 9), reduction=reduction)
    assert torch.equal(value, wide_value.to(dtype))
    assert torch.equal(gradient, wide_gradient.to(dtype))


# ---------------------------------------------------------------------------------------------------------
# torch's values and gradients


@pytest.mark.parametrize("path", ["fused", "eager"])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("margin", [1.0, 0.0, -3.14, 7.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_parity_of_multi_margin(path, p, margin, weighted, reduction):
    for shape in SHAPES if path == "fused" else SHAPES[:4]:
        x, y = scores(shape, torch.float64), torch.arange(shape[0]) * 7 % shape[1]
        weight = scores(shape[1:], torch.float64, seed=1) if weighted else None
        if path == "fused":
            result = with_gradient(multi, x, y, p=p, margin=margin, weight=weight, reduction=reduction)
        else:
            criterion = MultiMarginLoss(p=p, margin=margin, reduction=reduction)
            result = with_gradient(lambda a, b, c=criterion, w=weight: eagerly(c, a, b, weight=w), x, y)
        theirs = with_gradient(F.multi_margin_loss, x, y, p=p, margin=margin, weight=weight, reduction=reduction)
        torch.testing.assert_close(result, theirs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("path", ["fused", "eager"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_parity_of_multilabel_margin(path, reduction):
    """Lists of every length, none and all classes among them, with repetitions."""
    criterion = MultiLabelMarginLoss(reduction=reduction)
    for shape in SHAPES if path == "fused" else SHAPES[:4]:
        x, y = scores(shape, torch.float64), lists(*shape)
        function = criterion if path == "fused" else lambda a, b: eagerly(criterion, a, b)
        result = with_gradient(function, x, y)
        theirs = with_gradient(F.multilabel_margin_loss, x, torch_lists(y), reduction=reduction)
        torch.testing.assert_close(result, theirs, rtol=1e-13, atol=1e-13)


def test_every_place_of_the_end_of_the_list():
    x = scores((1, 6), torch.float64)
    for length in range(7):
        y = torch.tensor([[3, 1, 3, 5, 0, 2]])
        if length < 6:
            y[0, length] = -1
            y[0, length + 1 :] = 77
        ours = with_gradient(multilabel, x, y)
        torch.testing.assert_close(ours, with_gradient(F.multilabel_margin_loss, x, torch_lists(y)))
        assert (ours[0] == 0) == (length == 0)
    everything = torch.tensor([[3, 1, 4, 5, 0, 2]])
    assert multilabel(x, everything) == 0


def test_torch_s_own_samples():
    db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db
    seen = 0
    for name, function in (("multi_margin_loss", multi), ("multilabel_margin_loss", multilabel)):
        op = next(op for op in db if op.name == f"nn.functional.{name}")
        for sample in op.reference_inputs("cpu", torch.float64, requires_grad=False):
            weight = sample.kwargs.get("weight")
            weight = weight.detach() if isinstance(weight, torch.Tensor) else weight
            kwargs = {**sample.kwargs, **({"weight": weight} if "weight" in sample.kwargs else {})}
            ours = with_gradient(function, sample.input, *sample.args, **kwargs)
            theirs = with_gradient(getattr(F, name), sample.input, *sample.args, **kwargs)
            torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
            seen += 1
    assert seen > 100


@pytest.mark.parametrize("module", [torch.nn.MultiMarginLoss, torch.nn.MultiLabelMarginLoss])
def test_arguments_are_torch_s(module):
    import inspect

    ours = MultiMarginLoss if module is torch.nn.MultiMarginLoss else MultiLabelMarginLoss
    theirs = {k: v.default for k, v in inspect.signature(module).parameters.items()}
    assert {k: v.default for k, v in inspect.signature(ours).parameters.items()} == theirs
    function = getattr(F, ours.name)
    names = list(inspect.signature(function).parameters)
    assert list(inspect.signature(ours.functional).parameters)[: len(names)] == names


# ---------------------------------------------------------------------------------------------------------
# Rules of the house


def test_nan_in_gives_nan_out():
    for place, p in itertools.product(range(3), (1, 2)):
        x = torch.tensor([[0.0, 5.0, 9.0], [1.0, 2.0, 3.0]])
        x[0, place] = NAN
        for function in (multi, lambda a, b, **k: eagerly(MultiMarginLoss(**k), a, b)):
            value, gradient = with_gradient(function, x, torch.tensor([1, 0]), p=p, reduction="none")
            assert value[0].isnan()
            assert value[1].isfinite()
            assert gradient[0].isnan().any()
            assert gradient[1].isfinite().all()
    y = torch.tensor([[0, -1], [-1, 0], [0, 1]])  # no list, and a list of all, ask for no difference
    value, gradient = with_gradient(multilabel, torch.tensor([[1.0, NAN]] * 3), y, reduction="none")
    assert value.isnan().all()
    assert gradient.isnan().any(1).all()
    assert multi(torch.tensor([[NAN]]), torch.tensor([0])).isnan()
    torch.testing.assert_close(
        eagerly(MultiLabelMarginLoss(reduction="none"), torch.tensor([[1.0, NAN]] * 3), y), value, equal_nan=True
    )


@pytest.mark.parametrize("path", ["fused", "eager"])
def test_infinities(path):
    """A class that is ruled out costs nothing and gets no gradient, whatever its own difference would be."""
    x = torch.tensor([[2.0, -INF, 0.5], [INF, 0.0, 1.0], [0.0, INF, 0.0]])
    criterion = MultiMarginLoss(reduction="none")
    function = criterion if path == "fused" else lambda a, b: eagerly(criterion, a, b)
    value, gradient = with_gradient(function, x, torch.tensor([0, 0, 0]))
    assert value.tolist() == [0.0, 0.0, INF]
    assert gradient[:2].eq(0).all()
    assert not gradient.isnan().any()


def test_nothing():
    for function, target in ((multi, torch.empty(0, dtype=torch.long)), (multilabel, torch.empty(0, 4).long())):
        for reduction, expected in (("mean", NAN), ("sum", 0.0)):
            value, gradient = with_gradient(function, torch.empty(0, 4), target, reduction=reduction)
            torch.testing.assert_close(value, torch.tensor(expected), equal_nan=True)
            assert gradient.shape == (0, 4)
        assert function(torch.empty(0, 4), target, reduction="none").shape == (0,)
        with losskit.empty("zero"):
            assert function(torch.empty(0, 4), target) == 0


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("classes", rest([7, 1500], [7], "margins: weights and masks of long rows"))
def test_weights_masks_normalizers(name, reduction, classes):
    loss, targets = CALLS[name]
    x, y = scores((9, classes), torch.float64), targets(9, classes)
    sample_weight = torch.rand(9, dtype=torch.float64)
    mask = torch.tensor([True, False, True, True, False, True, True, True, False])
    spoiled, behind = x.clone(), y.clone()
    spoiled[~mask], behind[~mask] = NAN, 99
    for weight, chosen, normalizer in itertools.product((None, sample_weight), (None, mask), (None, 3.5)):
        criterion = loss(reduction=reduction)
        upstream = torch.rand(9, dtype=torch.float64) if reduction == "none" else None
        elements = with_gradient(loss(reduction="none"), x, y)[0]
        counts = torch.ones(9, dtype=torch.float64) if weight is None else weight
        if chosen is not None:
            counts = counts * chosen
        expected = {"none": elements * counts, "sum": (elements * counts).sum()}
        expected["mean"] = expected["sum"] / (normalizer or counts.sum())
        given = (spoiled, behind) if chosen is not None else (x, y)
        extras = {"sample_weight": weight, "mask": chosen, "normalizer": normalizer}
        value, gradient = with_gradient(criterion, *given, upstream=upstream, **extras)
        torch.testing.assert_close(value, expected[reduction])
        also = with_gradient(lambda a, b, c=criterion, e=extras: eagerly(c, a, b, **e), *given, upstream=upstream)
        torch.testing.assert_close((value, gradient), also)
        if chosen is not None:
            assert gradient[~mask].eq(0).all()


@pytest.mark.parametrize("classes", [2, 3, 5, 16, 64, 65])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_few_classes_take_their_own_loop(classes, reduction):
    """Rows side by side, and row by row with a mask: the same losses, also of rows that the loop leaves to the other."""
    x = torch.randn(1037, classes)
    y = torch.randint(0, classes, (1037, 3))[:, 1].to(torch.int32)
    x[500, 0] = 2e38
    for p in (1, 2):
        quick = with_gradient(multi, x, y, p=p, reduction=reduction)
        by_row = with_gradient(multi, x, y, p=p, reduction=reduction, mask=torch.ones(1037, dtype=torch.bool))
        for one, other in zip(quick, by_row, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    x[500, 0] = NAN
    value, gradient = with_gradient(multi, x, y, reduction="none")
    assert value.isnan().nonzero().tolist() == [[500]]
    assert gradient.isnan().any(1).nonzero().tolist() == [[500]]
    y[700] = classes
    with pytest.raises((IndexError, ValueError), match="700"):
        multi(x, y)


@pytest.mark.parametrize("longest", [1, 4, 12])
@pytest.mark.parametrize("classes", [2, 5, 16, 64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_short_lists_of_few_classes_take_their_own_loop(classes, longest, reduction):
    """As above: rows with a class twice, numbers after the end of a list, rows that are left to the other loop."""
    x, lengths = torch.randn(1037, classes), torch.randint(1, min(longest, classes) + 1, (1037, 1))
    y = torch.randint(0, classes, (1037, classes))
    y[600:] = torch.rand(437, classes).argsort(1)  # none twice
    y = y.scatter(1, lengths.where(lengths < classes, 0), torch.where(lengths < classes, -1, y[:, :1]))
    y[800], x[500, 0] = -1, 2e38
    for integers in (y, y.to(torch.int8), y.T.contiguous().T):
        quick = with_gradient(multilabel, x, integers, reduction=reduction)
        by_row = with_gradient(multilabel, x, integers, reduction=reduction, mask=torch.ones(1037, dtype=torch.bool))
        torch.testing.assert_close(quick, by_row, rtol=1e-5, atol=1e-7)
    x[[500, 800], 0] = NAN
    value, gradient = with_gradient(multilabel, x, y, reduction="none")
    assert value.isnan().nonzero().tolist() == gradient.isnan().any(1).nonzero().tolist() == [[500], [800]]
    y[700, 0] = classes
    with pytest.raises(ValueError, match="700"):
        multilabel(x, y)


def test_class_weights_do_not_count_in_the_mean():
    x, y, weight = scores((4, 3), torch.float32), torch.tensor([0, 1, 2, 0]), torch.tensor([1.0, 2.0, 5.0])
    elements = multi(x, y, reduction="none")
    torch.testing.assert_close(multi(x, y, weight=weight), (elements * weight[y]).sum() / 4)
    torch.testing.assert_close(MultiMarginLoss(weight=weight)(x, y), (elements * weight[y]).sum() / 4)
    torch.testing.assert_close(multi(x, y, weight=weight.double()), (elements * weight[y]).sum() / 4)
    leaf = weight.clone().requires_grad_()
    multi(x, y, weight=leaf).backward()
    torch.testing.assert_close(leaf.grad, torch.zeros(3).scatter_add(0, y, elements) / 4)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [*WIDE, *HALVES], ids=str)
def test_layouts(name, dtype):
    loss, targets = CALLS[name]
    for rows, classes in ((8, 6), (3, 1300)):
        x, y = scores((rows, classes), dtype), targets(rows, classes)
        expected = with_gradient(loss(), x, y)
        gapped = torch.empty(rows, 2 * classes, dtype=dtype)[:, ::2].copy_(x)
        stretched = y.repeat_interleave(2, 0)[::2]
        for input in (x.t().contiguous().t(), gapped, x.flip(0).flip(0), x[None].expand(2, -1, -1)[1]):
            for target in (y, stretched, y.t().contiguous().t() if y.ndim == 2 else y):
                value, gradient = with_gradient(loss(), input, target)
                assert torch.equal(value, expected[0])
                # Where the formula writes the gradient itself, its factor is applied with one rounding less.
                torch.testing.assert_close(gradient, expected[1], rtol=torch.finfo(dtype).eps, atol=0)
    one = with_gradient(loss(), x[0], y[0])
    torch.testing.assert_close(one, with_gradient(lambda a, b: loss()(a[None], b[None]), x[0], y[0]))
    assert loss(reduction="none")(x[0], y[0]).shape == ()


@pytest.mark.parametrize("integer", INTEGERS, ids=str)
def test_integers_of_any_width(integer):
    x = scores((6, 5), torch.float32)
    y = torch.tensor([0, 4, 2, 1, 3, 3])
    assert torch.equal(multi(x, y.to(integer)), multi(x, y))
    full = torch.stack([torch.randperm(5) for _ in range(6)])
    full[:, 1] = full[:, 0]
    assert torch.equal(multilabel(x, full.to(integer)), multilabel(x, full))
    if integer != torch.uint8:
        ended = torch.tensor([[2, -1, 0, 0, 0]] * 6)
        assert torch.equal(multilabel(x, ended.to(integer)), multilabel(x, ended))


@pytest.mark.parametrize("name", CALLS)
def test_threads_give_the_same_bits(name):
    loss, targets = CALLS[name]
    for rows, classes in ((3000, 100), (120, 3000)):
        x, y = scores((rows, classes), torch.float32), targets(rows, classes)
        torch.set_num_threads(1)
        one = with_gradient(loss(), x, y)
        torch.set_num_threads(4)
        four = with_gradient(loss(), x, y)
        assert torch.equal(one[0], four[0])
        assert torch.equal(one[1], four[1])


def test_the_kernel_runs():
    for loss, targets in CALLS.values():
        assert why(loss(), scores((3, 4), torch.float32), targets(3, 4)).implementation == "fused CPU kernel"
        assert loss()(scores((3, 4), torch.float32), targets(3, 4)).grad_fn is None


def test_upstream_gradients_and_second_backward():
    x, y = scores((5, 6), torch.float64), torch.arange(5)
    for reduction in ("none", "mean", "sum"):
        leaf = x.clone().requires_grad_()
        result = multi(leaf, y, p=2, reduction=reduction)
        upstream = torch.rand_like(result)
        first = torch.autograd.grad(result, leaf, upstream, retain_graph=True)[0].clone()
        second = torch.autograd.grad(result, leaf, 2 * upstream)[0]
        torch.testing.assert_close(second, 2 * first)


# ---------------------------------------------------------------------------------------------------------
# Transforms


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_derivatives_of_every_kind(reduction):
    x, y = scores((4, 5), torch.float64).requires_grad_(), torch.tensor([0, 3, 4, 3])
    ended = torch.tensor([[0, 2, -1, 9, 9], [1, 1, -1, 0, 0], [-1, 0, 0, 0, 0], [4, 3, 2, 1, 0]])
    for function in (
        lambda a: multi(a, y, reduction=reduction), lambda a: multi(a, y, p=2, reduction=reduction),
        lambda a: multilabel(a, ended, reduction=reduction),
    ):  # fmt: skip
        assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, x)
    hessian = torch.func.hessian(lambda a: multi(a, y, p=2))(x.detach())
    assert hessian.shape == (4, 5, 4, 5)
    assert hessian.any()


def test_vmap():
    x, y, ended = scores((6, 5), torch.float64), torch.arange(6) % 5, lists(6, 5)
    torch.testing.assert_close(torch.vmap(multi)(x, y), multi(x, y, reduction="none"))
    torch.testing.assert_close(torch.vmap(multilabel)(x, ended), multilabel(x, ended, reduction="none"))
    per_sample = torch.vmap(torch.func.grad(multilabel))(x, ended)
    torch.testing.assert_close(per_sample, with_gradient(multilabel, x, ended, reduction="sum")[1])
    with pytest.raises(ValueError, match=re.escape("got 5")):
        torch.vmap(multi)(x, y + 1)


@pytest.mark.parametrize("p", [1, 2])
def test_compiled(p):
    """Also with -1 in the target, where torch's own is wrong."""
    x, y, ended = scores((6, 5), torch.float32), torch.arange(6) % 5, lists(6, 5)
    for function, target in (
        (lambda a, b: multi(a, b, p=p), y),
        (multilabel, ended),
        (MultiLabelMarginLoss("sum"), ended),
    ):
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(with_gradient(compiled, x, target), with_gradient(function, x, target))
    with pytest.raises(ValueError, match=re.escape("target must be class indices in [0, 5)")):
        compiled(x, torch.full((6, 5), 5))


def test_meta_tensors_have_shapes():
    x, y = torch.empty(6, 5, device="meta"), torch.empty(6, 5, dtype=torch.long, device="meta")
    assert multi(x, y[:, 0]).shape == ()
    assert multi(x, y[:, 0], reduction="none").shape == (6,)
    assert multilabel(x, y, reduction="none").device.type == "meta"
