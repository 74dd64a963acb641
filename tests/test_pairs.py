"""The pairs family: its truth, who is whose pair, rows without a loss.

What is true of every loss of rows, test_rows says; here it is asked of losses whose rows need each other.
"""

import math

import mpmath
import proofs
import pytest
import reference
import test_rows
import torch
import torch.nn.functional as F
from pair_samples import FIRST, SAMPLES, normal, same, value_and_gradients
from row_samples import without_kernels

import losskit
import losskit.functional as LF

EACH = pytest.mark.parametrize("sample", SAMPLES, ids=str)
FEW = pytest.mark.parametrize("sample", FIRST, ids=str)


def test_every_loss_is_proven():
    built_in = [cls for cls in losskit.list_losses().values() if cls.__module__.startswith("losskit.")]
    assert {cls.name for cls in built_in if issubclass(cls, losskit.PairsLoss)} == set(proofs.of_pairs())
    for name in proofs.of_pairs():
        varied = {key for s in SAMPLES if s.name == name for key in s.params}
        assert set(losskit.get(name).params) == varied, name


# ---------------------------------------------------------------------------------------------------------
# Truth


def truth(sample, operands):
    """Losses, gradients and the largest similarity, with 66 digits."""
    with mpmath.workdps(reference.DIGITS):
        numbers = [reference.numbers(x.tolist()) for x in operands]
        given = reference.numbers(dict(sample.params))
        values, gradients, largest = proofs.of_pairs()[sample.name].exact(reference.Exact, *numbers, **given)
        return values, gradients, max(abs(largest), 1)


def errors(sample, operands, dtype):
    """The largest errors of value and gradient, in the units of the proof."""
    values, gradients, largest = truth(sample, operands)
    got = test_rows.call(sample, operands, "none", upstream=torch.ones(len(values), dtype=dtype))
    with mpmath.workdps(reference.DIGITS):
        found = [
            abs(mpmath.mpf(x) - y) / reference.ulp(max(abs(y), largest), dtype) for x, y in zip(got[0].tolist(), values)
        ]
        worst = [float(max(found)), 0.0]
        for i, gradient in zip(sample.gradients, got[1:], strict=True):
            entries = [y for row in gradients[i] for y in row]
            unit = reference.ulp(max(abs(y) for y in entries), dtype) * largest
            off = [abs(mpmath.mpf(x) - y) / unit for x, y in zip(gradient.flatten().tolist(), entries, strict=True)]
            worst[1] = max(worst[1], float(max(off)))
    return worst


@EACH
@pytest.mark.parametrize("eager", [False, True], ids=["fused", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_accuracy(sample, dtype, eager, monkeypatch):
    if eager:
        without_kernels(monkeypatch)
    bars = proofs.of_pairs()[sample.name].bars
    for seed in range(3):
        value, gradient = errors(sample, sample.operands(10, dtype, seed), dtype)
        assert value <= bars[2 * eager], f"value {value}"
        assert gradient <= bars[2 * eager + 1], f"gradient {gradient}"


# ---------------------------------------------------------------------------------------------------------
# What every loss of rows must do


REDUCTIONS = test_rows.REDUCTIONS


@EACH
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_fused_is_eager(sample, reduction, monkeypatch):
    test_rows.test_fused_is_eager(sample, reduction, monkeypatch)


@EACH
def test_the_kernel_runs(sample, monkeypatch):
    test_rows.test_the_kernel_runs(sample, monkeypatch)


LAWS = [
    test_rows.test_nothing, test_rows.test_dtype_ladder, test_rows.test_integer_dtypes, test_rows.test_vmap,
    test_rows.test_compile, test_rows.test_module, test_rows.test_backward,
]  # fmt: skip


@FEW
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__.removeprefix("test_"))
def test_law(sample, law):
    law(sample)


@FEW
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts(sample, dtype):
    test_rows.test_layouts(sample, dtype)


@FEW
def test_autocast(sample):
    test_rows.test_autocast(sample, torch.bfloat16)


@EACH
def test_calculus(sample):
    """gradcheck, gradgradcheck and forward mode."""
    if sample.name == "circle_loss":
        pytest.skip("its gradient is not that of its value")
    rows = {"views": 4, "labels": 6, "diagonal": 3}[losskit.get(sample.name).pairing]
    operands = sample.operands(rows, seed=5)
    leaves = [operands[i].requires_grad_() for i in sample.gradients]

    def function(*given, reduction="none"):
        full = list(operands)
        for i, x in zip(sample.gradients, given, strict=True):
            full[i] = x
        return sample(*full, reduction=reduction)

    for reduction in ("none", "mean"):
        assert torch.autograd.gradcheck(
            lambda *x, r=reduction: function(*x, reduction=r), leaves, check_batched_grad=True
        )
        assert torch.autograd.gradgradcheck(lambda *x, r=reduction: function(*x, reduction=r), leaves)
    plain, along = [x.detach() for x in leaves], [torch.randn(x.shape, dtype=x.dtype) for x in leaves]
    _, slope = torch.func.jvp(function, tuple(plain), tuple(along))
    grads = torch.autograd.grad(function(*leaves).sum(), leaves)
    torch.testing.assert_close(slope.sum(), sum((g * t).sum() for g, t in zip(grads, along, strict=True)))


# ---------------------------------------------------------------------------------------------------------
# Who is whose pair


def test_one_formula_serves_all_pairings():
    """The losses with one positive are each other's special cases."""
    a, b = normal(7, 5), normal(7, 5, seed=1)
    places = torch.arange(7)
    both = value_and_gradients(lambda x, y: LF.info_nce_loss(x, y, 0.3, symmetric=True), a, b)
    same(value_and_gradients(lambda x, y: LF.clip_loss(x, y, 1 / 0.3), a, b), both)
    one = lambda x, y: 0.5 * (LF.info_nce_loss(x, y, 0.3) + LF.info_nce_loss(y, x, 0.3))
    same(value_and_gradients(one, a, b), both)
    views = value_and_gradients(lambda x, y: LF.nt_xent_loss(x, y, temperature=0.3), a, b)
    of_labels = lambda x, y: LF.sup_con_loss(torch.cat([x, y]), places.repeat(2), temperature=0.3)
    same(value_and_gradients(of_labels, a, b), views)
    stacked = lambda x, y: LF.sup_con_loss(torch.stack([x, y], 1), places, temperature=0.3)
    same(value_and_gradients(stacked, a, b), views)


def test_views_have_their_own_shape():
    a = normal(4, 3, 5)
    assert LF.sup_con_loss(a, torch.arange(4), reduction="none").shape == (4, 3)
    mask = torch.arange(12).reshape(4, 3) % 4 != 2
    rows = LF.sup_con_loss(a, torch.arange(4), reduction="none", mask=mask)
    kept, labels = a.reshape(12, 5)[mask.flatten()], torch.arange(4).repeat_interleave(3)[mask.flatten()]
    torch.testing.assert_close(rows[mask], LF.sup_con_loss(kept, labels, reduction="none"))
    assert not rows[~mask].any()


def test_more_columns_are_negatives():
    a, b, more = normal(6, 5), normal(6, 5, seed=1), normal(9, 5, seed=2)
    by_hand = F.cross_entropy(F.normalize(a) @ F.normalize(torch.cat([b, more])).T / 0.1, torch.arange(6))
    torch.testing.assert_close(LF.info_nce_loss(a, torch.cat([b, more])), by_hand)
    y, z = torch.arange(6) % 2, torch.arange(9) % 3
    rows = LF.sup_con_loss(torch.cat([a, more]), torch.cat([y, z]), reduction="none")[:6]
    torch.testing.assert_close(LF.sup_con_loss(a, y, more, z, reduction="none"), rows)


@FEW
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_masked_rows_are_neither_rows_nor_columns(sample, bad):
    """As if they were not there, whatever stands in them; their own results are exact zeros."""
    cls = losskit.get(sample.name)
    operands = sample.operands(8)
    mask = torch.tensor([True, True, False, True, True, True, False, True])
    if cls.pairing == "views":
        mask[4:] = mask[:4]
    of = [mask[:4], mask[:4]] if cls.pairing == "views" else [mask, mask]
    cut = [x[m] for x, m in zip(operands, of, strict=True)]
    spoilt = [torch.where(m.reshape(-1, *[1] * (x.ndim - 1)), x, bad) if x.is_floating_point() else x
              for x, m in zip(operands, of, strict=True)]  # fmt: skip
    for reduction in REDUCTIONS:
        expected = test_rows.call(sample, cut, reduction, upstream=torch.ones(()) if reduction != "none" else
                                  torch.ones(int(mask.sum())))  # fmt: skip
        for eager in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                if eager:
                    without_kernels(patch)
                upstream = torch.ones(8) if reduction == "none" else torch.ones(())
                got = test_rows.call(sample, spoilt, reduction, upstream=upstream, mask=mask)
            if reduction == "none":
                assert not got[0][~mask].any()
                got[0] = got[0][mask]
            same(got[:1], expected[:1])
            for i, gradient, right in zip(sample.gradients, got[1:], expected[1:], strict=True):
                assert not gradient[~of[i]].any()
                same([gradient[of[i]]], [right])


# ---------------------------------------------------------------------------------------------------------
# Rows without a loss

ALONE = {
    "sup_con_loss": ([0, 0, 1], [True, True, False]),
    "circle_loss": ([0, 0, 1], [True, True, False]),
    "batch_hard_triplet_loss": ([0, 0, 1], [True, True, False]),
}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("eager", [False, True], ids=["fused", "eager"])
def test_rows_without_a_pair(name, eager, monkeypatch):
    """They are 0 and do not count; as columns of the others they stay. A batch of none has no mean."""
    if eager:
        without_kernels(monkeypatch)
    function = getattr(LF, name)
    target, counts = torch.tensor(ALONE[name][0]), torch.tensor(ALONE[name][1])
    x = normal(3, 4).requires_grad_()
    rows = function(x, target, reduction="none")
    assert rows[2] == 0.0
    assert rows[:2].all()
    assert not torch.autograd.grad(rows[2], x, retain_graph=True)[0].any()
    torch.testing.assert_close(function(x, target), rows.sum() / 2)
    torch.testing.assert_close(
        function(x, target, sample_weight=torch.tensor([1.0, 3.0, 5.0])), (rows[0] + 3 * rows[1]) / 4
    )
    torch.testing.assert_close(function(x, target, reduction="sum"), rows.sum())
    torch.testing.assert_close(function(x, target), function(x, target, mask=counts | True))
    for nobody in ([0, 1, 2], [0], *([[0, 0, 0]] if losskit.get(name).needs == "both" else [])):
        few = x[: len(nobody)]
        for reduction in REDUCTIONS:
            loss = function(few, torch.tensor(nobody), reduction=reduction)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            assert not gradient.any()
            assert loss.isnan() if reduction == "mean" else not loss.any()
            with losskit.empty("zero"):
                assert not function(few, torch.tensor(nobody), reduction=reduction).any()


def test_what_needs_nothing_counts_all_rows():
    """Without negatives InfoNCE is 0; multi-similarity has the other part alone."""
    x, y = normal(1, 4).requires_grad_(), normal(1, 4, seed=1)
    loss = LF.info_nce_loss(x, y)
    assert loss == 0.0
    assert not torch.autograd.grad(loss, x)[0].any()
    rows = LF.multi_similarity_loss(normal(3, 4), torch.tensor([0, 0, 1]), reduction="none")
    s = F.cosine_similarity(normal(3, 4)[2:], normal(3, 4)[:2])
    torch.testing.assert_close(rows[2], torch.log1p((50.0 * (s - 0.5)).exp().sum()) / 50.0)
