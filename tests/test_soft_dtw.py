"""Soft dynamic time warping: worked numbers, lengths, the divergence, limits, refusals. Its truth is that of its proof."""

import itertools
import math

import pytest
import torch

import losskit
from losskit.families import warping
from losskit.functional import soft_dtw_loss as soft_dtw

LINE, ENDS = torch.tensor([[[0.0], [1.0], [2.0]]]).double(), torch.tensor([[[0.0], [2.0]]]).double()
LENGTHS, OTHERS = torch.tensor([5, 2, 0, 1, 4]), torch.tensor([1, 4, 3, 0, 2], dtype=torch.int32)


def batch(n=5, steps=5, others=4, features=2):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(n, k, features, dtype=torch.float64, generator=g).requires_grad_() for k in (steps, others)]


def alignments(rows, columns):
    """All ways from the first cell to the last, each as its cells."""
    if rows == columns == 1:
        return [[(0, 0)]]
    before = [(rows - 1, columns), (rows, columns - 1), (rows - 1, columns - 1)]
    ways = itertools.chain.from_iterable(alignments(*cell) for cell in before if min(cell))
    return [[*way, (rows - 1, columns - 1)] for way in ways]


@pytest.mark.parametrize(("gamma", "value", "slope"), [(1.0, 0.122654, 0.0304688), (0.1, 0.930683, 8.49652e-18)])
def test_worked_numbers(gamma, value, slope):
    x = LINE.clone().requires_grad_()
    loss = soft_dtw(x, ENDS, gamma=gamma)
    assert loss.item() == pytest.approx(value, rel=5e-6)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.flatten().tolist() == pytest.approx([-slope, 0.0, slope], rel=5e-6, abs=5e-16)


@pytest.mark.parametrize(("steps", "others"), [(1, 1), (1, 3), (3, 1), (4, 3), (3, 4)])
def test_all_alignments(steps, others):
    x, y = batch(2, steps, others)
    distances = (x.unsqueeze(2) - y.unsqueeze(1)).square().sum(-1)
    costs = [sum(distances[:, i, j] for i, j in way) for way in alignments(steps, others)]
    expected = -0.5 * torch.logsumexp(-torch.stack(costs) / 0.5, 0)
    got = soft_dtw(x, y, gamma=0.5, reduction="none")
    torch.testing.assert_close(got, expected)
    for ours, theirs in zip(*(torch.autograd.grad(v.sum(), (x, y)) for v in (got, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)
    near = soft_dtw(x, y, gamma=1e-6, reduction="none")
    torch.testing.assert_close(near, torch.stack(costs).amin(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_gradients(normalize):
    def call(x, y):
        return soft_dtw(x, y, LENGTHS, OTHERS, gamma=0.7, normalize=normalize, reduction="none")

    operands = batch()
    assert torch.autograd.gradcheck(call, operands)
    assert torch.autograd.gradgradcheck(call, operands)
    by_value = torch.func.grad(lambda x: call(x, operands[1].detach()).sum())(operands[0].detach())
    torch.testing.assert_close(by_value, torch.autograd.grad(call(*operands).sum(), operands[0])[0])
    with torch.no_grad():  # distances have another way there
        without = call(*operands)
    torch.testing.assert_close(call(*operands), without)


@pytest.mark.parametrize("normalize", [False, True])
def test_lengths(normalize):
    """A padded series costs what it costs alone, whatever stands beyond; one of length 0 has no loss."""
    x, y = (z.detach() for z in batch())
    for z, lengths in ((x, LENGTHS), (y, OTHERS)):
        z[torch.arange(z.shape[1]) >= lengths.unsqueeze(1)] = math.nan
    x, y = x.requires_grad_(), y.requires_grad_()
    given = {"gamma": 0.5, "normalize": normalize}
    values = soft_dtw(x, y, LENGTHS, OTHERS, **given, reduction="none")
    for i, (t, u) in enumerate(zip(LENGTHS, OTHERS, strict=True)):
        alone = soft_dtw(x[i : i + 1, :t], y[i : i + 1, :u], **given) if t and u else values.new_zeros(())
        torch.testing.assert_close(values[i], alone)
    mean = soft_dtw(x, y, LENGTHS, OTHERS, **given)
    torch.testing.assert_close(mean, values.sum() / 3)
    for gradient, lengths in zip(torch.autograd.grad(mean, (x, y)), (LENGTHS, OTHERS), strict=True):
        there = torch.arange(gradient.shape[1]) < (lengths * (LENGTHS * OTHERS > 0)).unsqueeze(1)
        assert gradient.isfinite().all()
        assert not gradient[~there].any()
    some = soft_dtw(x, y, input_lengths=LENGTHS, **given, reduction="none")[:2]
    torch.testing.assert_close(some[1], soft_dtw(x[1:2, :2], y[1:2], **given), equal_nan=True)


@pytest.mark.parametrize(("steps", "others", "features"), [(1, 1, 1), (5, 4, 2), (9, 30, 3), (30, 9, 1), (17, 16, 0)])
@pytest.mark.parametrize("gamma", [1e-3, 0.7, 1e4])
def test_the_kernel_agrees_with_torch(steps, others, features, gamma, monkeypatch):
    """Losses, and the probability of each cell; beyond the lengths it is 0."""
    x, y = batch(6, steps, others, features)
    g = torch.Generator().manual_seed(1)
    lengths, of_others = (torch.randint(1, n + 1, (6,), generator=g) for n in (steps, others))
    given = (x, lengths), (y, of_others), gamma
    loss, at = warping.alignment_of(*given)
    with torch.no_grad():
        alone = warping.aligned(*given)
    monkeypatch.setattr(warping, "kernel_of", lambda *_: None)
    with torch.no_grad():
        found = *warping.alignment_of(*given), warping.aligned(*given)
    for got, expected in zip((loss, at, alone), found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(loss, alone)
    assert at[torch.arange(6), lengths - 1, of_others - 1].eq(1.0).all()


def test_threads():
    x, y = batch(9, 40, 33, 3)
    results = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            loss = soft_dtw(x, y, gamma=0.1)
            results.append((loss, *torch.autograd.grad(loss, (x, y))))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_units_without_a_loss():
    x, y = batch(2)
    assert soft_dtw(x, y, torch.tensor([0, 0])).isnan()
    with losskit.empty("zero"):
        loss = soft_dtw(x, y, torch.tensor([0, 0]))
    assert loss == 0
    assert not torch.autograd.grad(loss, x)[0].any()
    hidden = y.detach().clone()
    hidden[0] = math.nan
    masked = soft_dtw(x, hidden, mask=torch.tensor([False, True]))
    torch.testing.assert_close(masked, soft_dtw(x[1:], y[1:]))
    assert torch.autograd.grad(masked, x)[0].isfinite().all()


def test_divergence():
    x, y = batch()
    assert soft_dtw(x, x, normalize=True) == 0
    assert torch.autograd.grad(soft_dtw(x, x.detach(), normalize=True), x)[0].abs().max() < 1e-14
    assert soft_dtw(x, x) < 0
    divergence = soft_dtw(x, y, normalize=True, reduction="none")
    assert (divergence > 0).all()
    parts = [soft_dtw(*pair, reduction="none") for pair in ((x, y), (x, x), (y, y))]
    torch.testing.assert_close(divergence, parts[0] - 0.5 * (parts[1] + parts[2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extremes_are_finite(dtype):
    x = torch.tensor([[[0.0], [1e2], [-1e2]]], dtype=dtype, requires_grad=True)
    y = torch.tensor([[[-30.0], [1e2]]], dtype=dtype)
    for gamma in (1e-8, 1.0, 1e8):
        loss = soft_dtw(x, y, gamma=gamma, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.dtype == dtype
        assert gradient.isfinite().all()
    far = torch.tensor([[[1e25], [-1e25]]], requires_grad=True)
    assert soft_dtw(far, -far) == math.inf  # in float32; costs are float64
    assert soft_dtw(far.double(), -far.double()).item() == pytest.approx(8e50)
    away = [(z + 2.0**30) for z in batch()]  # the same differences, up to 2^-23
    torch.testing.assert_close(soft_dtw(*away), soft_dtw(*batch()), rtol=1e-5, atol=0)


REFUSED = {
    "soft_dtw_loss: input_lengths must be from 0 to 5, got 6 at index (1,).": (
        lambda: soft_dtw(*batch(), torch.tensor([5, 6, 1, 1, 1]))
    ),
    "soft_dtw_loss: target_lengths must be from 0 to 4, got -1 at index (0,).": (
        lambda: soft_dtw(*batch(), target_lengths=torch.tensor([-1, 4, 1, 1, 1]))
    ),
    "soft_dtw_loss: input_lengths must be integers from 0 to T, got torch.float32. Use input_lengths.long().": (
        lambda: soft_dtw(*batch(), torch.ones(5))
    ),
    "soft_dtw_loss: input_lengths must be of shape (5,) for input (5, 5, 2), got shape (4,).": (
        lambda: soft_dtw(*batch(), torch.ones(4, dtype=torch.long))
    ),
    "soft_dtw_loss: target must be of shape (5, 4, 2) for input (5, 5, 2), got shape (5, 4, 3).": (
        lambda: soft_dtw(batch()[0], torch.randn(5, 4, 3).double())
    ),
    "soft_dtw_loss: input must be of shape (N, T, D), got shape (5, 2).": (
        lambda: soft_dtw(torch.randn(5, 2), torch.randn(5, 2))
    ),
    "soft_dtw_loss: gamma must be positive, got 0.0.": lambda: soft_dtw(*batch(), gamma=0.0),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_refusals(sentence):
    with pytest.raises(losskit.LossError) as refused:
        REFUSED[sentence]()
    assert str(refused.value) == sentence


def test_lengths_that_do_not_fit_are_nan():
    with losskit.checks("nan"):
        values = soft_dtw(*batch(), torch.tensor([5, 6, 0, 1, 1]), reduction="none")
    assert values.isnan().tolist() == [False, True, False, False, False]
    assert values[2] == 0
