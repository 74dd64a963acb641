"""Laws that hold whatever the numbers: symmetry, permutation, reductions, batch splits, masks, weights, NaN."""

import math

import pytest
import samples
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import losskit
import losskit.functional as LF

SETUPS = samples.everything("elements: laws of reductions, masks and batches of every loss")
finite = st.floats(-50, 50, allow_nan=False, width=32)
lists = st.lists(finite, min_size=1, max_size=40)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
seeds = st.integers(0, 2**31)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.fixture(params=SETUPS)
def setup(request):
    return request.param


@settings(max_examples=15, deadline=None)
@given(data=st.data(), shape=shapes, seed=seeds)
@pytest.mark.parametrize("setup", SETUPS)
def test_reductions_of_elements(setup, data, shape, seed):
    """none.sum() == sum and none.mean() == mean, weighted or not."""
    operands = setup.operands(shape, seed=seed)
    elements = setup(*operands, reduction="none")
    close(setup(*operands, reduction="sum"), elements.sum())
    close(setup(*operands), elements.mean())
    weight = torch.rand(elements.shape, dtype=torch.float64) + 0.1
    close(setup(*operands, reduction="none", sample_weight=weight), elements * weight)
    close(setup(*operands, sample_weight=weight), (elements * weight).sum() / weight.sum())
    # Weights of one change nothing, and their scale does not matter to the mean.
    close(setup(*operands, sample_weight=torch.ones_like(weight)), elements.mean())
    close(setup(*operands, sample_weight=3.0 * weight), setup(*operands, sample_weight=weight))


@settings(max_examples=15, deadline=None)
@given(shape=shapes, seed=seeds)
@pytest.mark.parametrize("setup", SETUPS)
def test_order_of_samples_does_not_matter(setup, shape, seed):
    operands = setup.operands((*shape, 3), seed=seed)
    order = torch.randperm(shape[0])
    close(setup(*[x[order] for x in operands], reduction="none"), setup(*operands, reduction="none")[order])
    close(setup(*[x[order] for x in operands]), setup(*operands))


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(2, 9), cut=st.integers(1, 8), seed=seeds)
@pytest.mark.parametrize("setup", SETUPS)
def test_micro_batches_compose(setup, rows, cut, seed):
    """With the full batch's denominator as normalizer, parts add up to the whole: value and gradient."""
    operands = setup.operands((rows, 3), seed=seed)
    whole = setup(*operands, reduction="none")
    x = operands[0].requires_grad_()
    parts = [
        setup(*[o[part] for o in operands], normalizer=float(whole.numel()))
        for part in (slice(0, cut), slice(cut, rows))
        if len(range(rows)[part])
    ]
    close(sum(parts), whole.mean())
    (split,) = torch.autograd.grad(sum(parts), x)
    (full,) = torch.autograd.grad(setup(*operands), x)
    close(split, full)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, bad=st.sampled_from([math.nan, math.inf, -math.inf, 7.5]))
@pytest.mark.parametrize("setup", SETUPS)
def test_masked_is_as_if_absent(setup, seed, bad):
    """What is masked is exact zero, whatever stands there, and the mean is that of the rest."""
    operands = setup.operands((6, 3), seed=seed)
    keep = torch.tensor([True, False, True, True, False, True])
    spoilt = [torch.where(keep[:, None], x, torch.full_like(x, bad)) for x in operands]
    mask = keep if setup.loss.rows else keep[:, None].expand(6, 3)
    x = spoilt[0].requires_grad_()
    loss = setup(*spoilt, mask=mask)
    close(loss, setup(*[o[keep] for o in operands]))
    (gradient,) = torch.autograd.grad(loss, x)
    assert (gradient[~keep] == 0).all()
    elements = setup(*spoilt, mask=mask, reduction="none")
    assert (elements[~keep] == 0).all()


@pytest.mark.parametrize("dtype", samples.DTYPES, ids=str)
@pytest.mark.parametrize("setup", SETUPS)
def test_nan_in_gives_nan_out(setup, dtype):
    count = len(setup.operands((1,)))
    for position in range(count):
        operands = setup.operands((5,), dtype)
        operands[position][2] = math.nan
        elements = setup(*operands, reduction="none")
        if not setup.loss.rows:
            assert elements.isnan().tolist() == [False, False, True, False, False]
        assert setup(*operands).isnan()
        assert setup(*operands, reduction="sum").isnan()


@pytest.mark.parametrize("setup", SETUPS)
def test_dtype_ladder(setup):
    """Each dtype gives the double-precision result to its own accuracy, and its own dtype back."""
    for dtype in samples.DTYPES[1:]:
        narrow = setup.operands((64,), dtype, seed=5)
        wide = [x.double() for x in narrow]
        with losskit.checks("off"):
            got, truth = setup(*narrow), setup(*wide)
            size = setup(*wide, reduction="none").abs().mean().item()  # losses of either sign cancel in the mean
        assert got.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(got.double(), truth, rtol=4 * eps, atol=max(1e-3, size) * eps)


@settings(max_examples=100, deadline=None)
@given(lists)
def test_symmetric_losses(values):
    x = torch.tensor(values)
    t = torch.roll(x, 1)
    for name in ("l1_loss", "mse_loss", "huber_loss", "smooth_l1_loss"):
        function = getattr(LF, name)
        assert torch.equal(function(x, t, reduction="none"), function(t, x, reduction="none"))


@settings(max_examples=100, deadline=None)
@given(lists)
def test_binary_cross_entropy_knows_no_sides(values):
    """Exchanging the classes and the sign of the score changes nothing, to the bit."""
    x = torch.tensor(values)
    y = (torch.arange(len(values)) % 2).float()
    both = LF.binary_cross_entropy_with_logits(x, y, reduction="none")
    assert torch.equal(both, LF.binary_cross_entropy_with_logits(-x, 1 - y, reduction="none"))
    assert torch.equal(both, LF.soft_margin_loss(x, 2 * y - 1, reduction="none"))


@settings(max_examples=50, deadline=None)
@given(lists, st.floats(0.05, 5))
def test_huber_is_beta_times_smooth_l1(values, delta):
    x = torch.tensor(values, dtype=torch.float64)
    close(LF.huber_loss(x, -x, delta=delta), delta * LF.smooth_l1_loss(x, -x, beta=delta))


def test_batchmean_is_the_mathematical_divergence():
    p, q = torch.softmax(torch.randn(5, 7, dtype=torch.float64), -1), torch.softmax(torch.randn(5, 7).double(), -1)
    by_hand = (q * (q.log() - p.log())).sum(-1).mean()
    close(LF.kl_div(p.log(), q, reduction="batchmean"), by_hand)
    close(LF.kl_div(p.log(), q.log(), reduction="batchmean", log_target=True), by_hand)
    close(losskit.KLDivLoss("batchmean")(p.log(), q), by_hand)


def test_nothing():
    """The sum over nothing is 0; the mean over nothing is NaN, or 0 when asked, with gradient 0."""
    x, t = torch.randn(3, requires_grad=True), torch.randn(3)
    none = torch.zeros(3, dtype=torch.bool)
    empty = torch.empty(0, requires_grad=True)
    assert LF.mse_loss(empty, torch.empty(0), reduction="sum") == 0
    assert LF.mse_loss(empty, torch.empty(0)).isnan()
    for extra in ({"mask": none}, {"sample_weight": torch.zeros(3)}, {"normalizer": 0}):
        with losskit.empty("zero"):
            assert LF.mse_loss(x, t, **extra) == 0
        loss = LF.mse_loss(x, t, **extra)
        assert loss.isnan()
        (gradient,) = torch.autograd.grad(loss, x)
        assert gradient.tolist() == [0.0, 0.0, 0.0]
