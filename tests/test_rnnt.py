"""The transducer loss: worked numbers, lengths, layouts, weights, refusals, transforms. Its truth is that of its proof."""

import itertools

import pytest
import torch

import losskit
from losskit.functional import rnnt_loss

NAN, INF = float("nan"), float("inf")
MODES = [{}, {"fastemit_lambda": 0.5}, {"clamp": 0.05}, {"fused_log_softmax": False}]
EACH = pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))


def batch(dtype=torch.float64, **mode):
    """Scores, padded targets, lengths: a whole sample, no labels, one frame, several labels in a frame."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 6, 4, 5, generator=generator, dtype=torch.float64)
    x = x if mode.get("fused_log_softmax", True) else x.log_softmax(3)
    targets = torch.tensor([[1, 2, 2], [77, -5, 4], [3, 0, 99], [0, 1, 3]])
    return x.to(dtype), targets, torch.tensor([6, 4, 1, 2]), torch.tensor([3, 0, 2, 3])


def both(x, *args, **kwargs):
    """Value and gradient of the kernel and of the eager formula, which must agree."""
    results = []
    for eager in (False, True):
        leaf = x.detach().requires_grad_()
        one = torch.ones(1, dtype=x.dtype, requires_grad=eager)  # a gradient by a weight is wanted: no kernel
        weight = kwargs.get("sample_weight")
        given = {**kwargs, "sample_weight": one if weight is None else weight * one}
        loss = rnnt_loss(leaf, *args, **(given if eager else kwargs))
        finite = torch.where(loss.isinf(), 0.0, loss)
        (slope,) = torch.autograd.grad(finite.sum(), leaf)
        results.append((loss.detach(), slope))
    within = {torch.float64: 1e-12, torch.float32: 1e-5}.get(x.dtype, 2e-2)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within, equal_nan=True)
    return results[0]


def test_worked_numbers():
    """warp-transducer's published test, and those of the catalogue's formulas."""
    rows = [[.1, .6, .1, .1, .1], [.1, .1, .6, .1, .1], [.1, .1, .2, .8, .1],
            [.1, .6, .1, .1, .1], [.1, .1, .2, .1, .1], [.7, .1, .2, .1, .1]]  # fmt: skip
    x = torch.tensor(rows, dtype=torch.float64).reshape(1, 2, 3, 5)
    assert both(x, torch.tensor([[1, 2]]), [2], [2], blank=0)[0].item() == pytest.approx(4.495666, abs=1e-6)
    zeros = torch.zeros(2, 2, 3, dtype=torch.float64)
    assert rnnt_loss(zeros, torch.tensor([1]), 2, 1, blank=0).item() == pytest.approx(2.6026896854443837, rel=1e-15)


def test_a_sample_is_the_sum_over_ways():
    x, targets, frames, lengths = batch()
    losses = rnnt_loss(x, targets, frames, lengths, reduction="none")
    lp = x.log_softmax(3)
    for i in range(4):
        total, (n, m) = [], (int(frames[i]), int(lengths[i]))
        for emits in itertools.combinations(range(n - 1 + m), m):  # the last step is a blank
            t = u = 0
            way = 0.0
            for step in range(n + m):
                if step in emits:
                    way, u = way + lp[i, t, u, targets[i, u]], u + 1
                else:
                    way, t = way + lp[i, t, u, -1], t + 1
            total.append(way)
        torch.testing.assert_close(losses[i], -torch.stack(total).logsumexp(0))


@EACH
def test_lengths_and_layouts(mode):
    """What is beyond the lengths is never read; memory in any order changes no bit; each sample is its own."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, *rest = batch(dtype, **mode)
        losses, slope = both(x, *rest, reduction="none", **mode)
        for i in range(4):
            n, m = int(rest[1][i]), int(rest[2][i])
            assert slope[i, n:].count_nonzero() == 0
            assert slope[i, :, m + 1 :].count_nonzero() == 0
            x[i, n:], x[i, :, m + 1 :] = NAN, INF
            alone = rnnt_loss(x[i, :n, : m + 1], rest[0][i, :m], n, m, reduction="none", **mode)
            torch.testing.assert_close(alone, losses[i], rtol=0, atol=0)
        again = both(x, *rest, reduction="none", **mode)
        for other in (x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0), torch.stack([x, x], 4)[..., 0]):
            for got, expected in zip(both(other, *rest, reduction="none", **mode), again, strict=True):
                torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("classes", [9, 17, 65])
def test_scores_of_any_height(classes):
    """Floats are as exact as doubles, whatever the scores' height, spread and weight: also where p is 1e-30 of another.

    The gradient by a class of an arc is a difference, of which the digits are those of what is subtracted.
    """
    generator = torch.Generator().manual_seed(classes)
    x = torch.randn(2, 7, 4, classes, generator=generator)
    targets, lengths = torch.randint(0, classes - 1, (2, 3), generator=generator), ([7, 5], [3, 2])
    blank = torch.arange(classes) == classes - 1
    arcs = blank.repeat(2, 7, 4, 1)
    arcs[:, :, :3].scatter_(3, targets.reshape(2, 1, 3, 1).expand(-1, 7, -1, -1), True)
    heights = [torch.tensor(h) for h in (-1e4, -97.0, -30.0, -12.0, 20.0, 41.0, 60.0, 76.0, 300.0)]
    for y in (*(x + h for h in heights), 20 * x, 60 * x, x - 90.0 * blank, x + 14.0 * blank, x + 25.0 * blank - 70.0):
        for weight in (1.0, -1e-25, 1e-34):
            results = []
            for leaf in (y.clone(), y.double()):
                loss = rnnt_loss(leaf.requires_grad_(), targets, *lengths, reduction="none")
                results.append((loss.detach(), torch.autograd.grad(loss.sum() * weight, leaf)[0]))
            (loss, slope), (true_loss, true_slope) = results
            torch.testing.assert_close(loss, true_loss.float(), rtol=1e-6, atol=0)
            for of, above in ((arcs, 1e-7 * abs(weight)), (~arcs, 0.0)):
                least = above + torch.finfo(torch.float32).tiny
                torch.testing.assert_close(slope[of], true_slope[of].float(), rtol=1e-6, atol=least)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_sample_without_frames_is_masked(reduction):
    x, targets, frames, lengths = batch()
    frames[1] = 0
    x[1] = NAN
    mask = torch.tensor([True, False, True, True])
    got, slope = both(x, targets, frames, lengths, reduction=reduction)
    expected, right = both(x, targets, torch.tensor([6, 4, 1, 2]), lengths, reduction=reduction, mask=mask)
    assert torch.equal(got, expected)
    assert torch.equal(slope, right)
    assert slope[1].count_nonzero() == 0
    nothing = rnnt_loss(x[:1], targets[:1], [0], [3], reduction=reduction)
    assert nothing.isnan() if reduction == "mean" else not nothing.any()
    with losskit.empty("zero"):
        assert not rnnt_loss(x[:1], targets[:1], [0], [3], reduction=reduction).any()


def test_impossible_and_nan():
    x, *rest = batch()
    x[0, :, :, 2] = -INF  # a label of the first sample
    loss, slope = both(x, *rest, reduction="none")
    assert loss.isinf().tolist() == [True, False, False, False]
    assert slope[0].count_nonzero() == 0
    assert slope.isfinite().all()
    x[1, 3, 0, 0] = NAN  # of a class that is no label
    loss, slope = both(x, *rest, reduction="none")
    assert loss.isnan().tolist() == [False, True, False, False]
    assert slope[1, :4, 0].isnan().all()
    assert slope[[0, 2, 3]].isfinite().all()


def test_the_clamp_is_of_one_sample():
    """Weights, denominators and upstream gradients multiply what was clamped, as in torchaudio."""
    x, *rest = batch()
    _, whole = both(x, *rest, reduction="sum")
    _, clamped = both(x, *rest, reduction="sum", clamp=0.05)
    torch.testing.assert_close(clamped, whole.clamp(-0.05, 0.05))
    _, mean = both(x, *rest, clamp=0.05)
    torch.testing.assert_close(mean, clamped / 4)


def test_fastemit_multiplies_labels():
    """The value stays; of log-probabilities, the gradient of labels is multiplied, that of blanks is not."""
    x, *rest = batch(fused_log_softmax=False)
    loss, plain = both(x, *rest, reduction="sum", fused_log_softmax=False)
    same, fast = both(x, *rest, reduction="sum", fused_log_softmax=False, fastemit_lambda=0.5)
    assert torch.equal(loss, same)
    torch.testing.assert_close(fast[..., 4], plain[..., 4])
    torch.testing.assert_close(fast[..., :4], 1.5 * plain[..., :4])


@EACH
def test_derivatives(mode):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    rest = torch.tensor([[1, 2], [0, 0]]), torch.tensor([3, 2]), torch.tensor([2, 1])
    loss = lambda y: rnnt_loss(y - 5.0 * (not mode.get("fused_log_softmax", True)), *rest, **mode)
    if not {"clamp", "fastemit_lambda"} & set(mode):
        torch.autograd.gradcheck(loss, x)
    torch.autograd.gradgradcheck(loss, x)  # of the gradient as it is
    (expected,) = torch.autograd.grad(loss(x), x)
    plain = x.detach()
    torch.testing.assert_close(torch.func.grad(loss)(plain), expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(torch.stack([plain, 2 * plain]))[0], expected)
    tangent = torch.randn_like(plain)
    torch.testing.assert_close(torch.func.jvp(loss, (plain,), (tangent,))[1], (expected * tangent).sum())
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x)[0], expected)


def test_threads():
    x, targets = torch.randn(16, 30, 8, 9), torch.randint(0, 8, (16, 7))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        loss = rnnt_loss(leaf, targets, [30] * 16, [7] * 16)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    torch.set_num_threads(1)
    for loss, slope in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(slope, results[0][1])


X, TARGETS, FRAMES, LENGTHS = batch()
LP = X.log_softmax(3)


def changed(tensor, index, value):
    result = tensor.clone()
    result[index] = value
    return result


VIOLATIONS = {
    "logit_lengths must be in [0, 6], the number of frames, got 7 at index (1,).": (
        X, TARGETS, changed(FRAMES, 1, 7), LENGTHS),
    "logit_lengths must be in [0, 6], the number of frames, got -1 at index (2,).": (
        X, TARGETS, changed(FRAMES, 2, -1), LENGTHS),
    "target_lengths must be in [0, 3], the width of targets, got 4 at index (0,).": (
        X, TARGETS, FRAMES, changed(LENGTHS, 0, 4)),
    "targets must be labels in [0, 5), got 6 at index (3, 2).": (X, changed(TARGETS, (3, 2), 6), FRAMES, LENGTHS),
    "targets must be labels other than the blank, 4, got 4 at index (0, 1).": (
        X, changed(TARGETS, (0, 1), 4), FRAMES, LENGTHS),
    "logits must be log-probabilities (at most 0), got 0.5 at index (0, 2, 1, 3). Pass log_softmax(scores, dim=-1), or "
    "fused_log_softmax=True.": (changed(LP, (0, 2, 1, 3), 0.5), TARGETS, FRAMES, LENGTHS),
}  # fmt: skip


@pytest.mark.parametrize("message", VIOLATIONS)
def test_violations(message):
    given = VIOLATIONS[message]
    fused = "log-prob" not in message
    one = torch.ones(1, dtype=torch.float64, requires_grad=True)
    for call in (
        lambda: rnnt_loss(*given, fused_log_softmax=fused),
        lambda: rnnt_loss(*given, fused_log_softmax=fused, sample_weight=one),
    ):
        with pytest.raises(ValueError) as refused:  # noqa: PT011  # the text is compared
            call()
        assert str(refused.value) == "rnnt_loss: " + message
    for checks in ("nan", "off"):
        with losskit.checks(checks):
            loss, slope = both(*given, reduction="none", fused_log_softmax=fused)
            bad = loss.isnan()
            assert bad.sum() == (fused or checks == "nan")
            assert slope[bad].isnan().flatten(1).any(1).all()
            assert slope[~bad].isfinite().all()


MISTAKES = {
    "logits must be a tensor, got list. Use torch.as_tensor(logits).": lambda: rnnt_loss([1.0], TARGETS, FRAMES, LENGTHS),
    "logits must be floating point, got torch.int64. Use logits.float().": lambda: rnnt_loss(
        X.long(), TARGETS, FRAMES, LENGTHS),
    "logits must be of shape (N, T, U + 1, C) or (T, U + 1, C) with at least one class, got shape (6, 4).": lambda: (
        rnnt_loss(X[0, :, :, 0], TARGETS, FRAMES, LENGTHS)),
    "blank must be a class in [-5, 5), got 5.": lambda: rnnt_loss(X, TARGETS, FRAMES, LENGTHS, blank=5),
    "blank must be an integer, got 0.5.": lambda: rnnt_loss(X, TARGETS, FRAMES, LENGTHS, blank=0.5),
    "fastemit_lambda must be non-negative, got -1.": lambda: rnnt_loss(
        X, TARGETS, FRAMES, LENGTHS, fastemit_lambda=-1),
    "targets must be integer labels, got torch.float32.": lambda: rnnt_loss(X, TARGETS.float(), FRAMES, LENGTHS),
    "targets must be of shape (4, 3), for logits (4, 6, 4, 5), got shape (4, 4).": lambda: rnnt_loss(
        X, torch.ones(4, 4, dtype=torch.int64), FRAMES, LENGTHS),
    "logit_lengths must be 4 integers, one for each sample, got shape (3,).": lambda: rnnt_loss(
        X, TARGETS, FRAMES[:3], LENGTHS),
    "target_lengths must be 4 integers, one for each sample, got torch.float32.": lambda: rnnt_loss(
        X, TARGETS, FRAMES, LENGTHS.float()),
    "mask (3,) must broadcast to (4,).": lambda: rnnt_loss(X, TARGETS, FRAMES, LENGTHS, mask=torch.ones(3).bool()),
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes(message):
    with pytest.raises((ValueError, TypeError)) as refused:
        MISTAKES[message]()
    assert str(refused.value) == "rnnt_loss: " + message


def test_why():
    assert losskit.why(losskit.RNNTLoss(), X, TARGETS, FRAMES, LENGTHS).implementation == "fused CPU kernel"
