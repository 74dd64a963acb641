"""CTC: conventions, lengths, layouts, weights, transforms. Its truth, a lattice of alignments, is that of its proof.

Here the lattice is held against the enumeration of all paths, and the loss of a batch against those of its samples.
"""

import itertools

import mpmath
import proofs
import pytest
import reference
import torch
from ctc_batches import INF, MODES, NAN, batch, both, ctc_loss
from losses.ctc import lattice

import losskit


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


# ---------------------------------------------------------------------------------------------------------
# The truth


def enumerated(lp, target, blank):
    """The probability of a target, path by path."""
    total = mpmath.mpf(0)
    for path in itertools.product(range(len(lp[0])), repeat=len(lp)):
        merged = [c for i, c in enumerate(path) if i == 0 or path[i - 1] != c]
        if [c for c in merged if c != blank] == list(target):
            total += mpmath.exp(mpmath.fsum(lp[t][c] for t, c in enumerate(path)))
    return total


def truth(x, target, blank, **mode):
    """Loss and gradient of one sample, from a (T, C) tensor."""
    row = reference.numbers([x.double().tolist(), target, len(x), len(target)])
    (loss,), gradients = proofs.every()["ctc_loss"].exact(reference.Exact, *row, blank=blank, **mode)
    return loss, gradients[0]


def test_the_lattice_is_the_enumeration():
    generator = torch.Generator().manual_seed(0)
    for frames, classes, target in (
        (1, 3, []),
        (1, 3, [1]),
        (3, 3, [1, 1]),
        (4, 3, [1, 2]),
        (5, 3, [2, 2]),
        (2, 3, [1, 1]),
    ):
        for blank in (0, 2):
            labels = [(c - 1) if blank == 2 else c for c in target]
            lp = torch.randn(frames, classes, generator=generator).tolist()
            lp = [[mpmath.mpf(v) for v in row] for row in lp]
            one, two = (
                enumerated(lp, labels, blank),
                lattice(reference.Exact, [[mpmath.exp(v) for v in row] for row in lp], labels, blank)[0],
            )
            assert abs(one - two) <= mpmath.mpf(10) ** -50 * abs(one)


def test_accurate_where_torch_is_not():
    """torch's own error on the same numbers is a hundred times larger: the bar is not met by chance."""
    generator, target = torch.Generator().manual_seed(5), list(range(1, 21))
    x = torch.randn(120, 30, generator=generator, dtype=torch.float64).float().log_softmax(1)[:, None]
    right = torch.tensor([[float(v) for v in row] for row in truth(x[:, 0], target, 0)[1]], dtype=torch.float64)
    wrong = []
    for function in (ctc_loss, torch.nn.functional.ctc_loss):
        leaf = x.clone().requires_grad_()
        function(leaf, torch.tensor([target]), [120], [20], reduction="sum").backward()
        apart = (leaf.grad[:, 0].double() - right).abs().max().item()
        wrong.append(apart / reference.ulp(right.abs().max().item(), torch.float32))
    assert wrong[0] < 4 < 100 < wrong[1]


# ---------------------------------------------------------------------------------------------------------
# Batches: conventions, lengths, targets


@pytest.mark.parametrize("blank", [0, 3, 5])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_torch_by_default(blank, reduction, zero_infinity):
    x, targets, inputs, lengths = batch(blank=blank)
    loss, gradient = both(x, targets, inputs, lengths, blank=blank, reduction=reduction, zero_infinity=zero_infinity)
    theirs = x.clone().requires_grad_()
    safe = targets.clamp(0, 5)  # torch reads what stands in the padding
    expected = torch.nn.functional.ctc_loss(theirs, safe, inputs, lengths, blank, reduction, zero_infinity)
    torch.testing.assert_close(loss, expected)
    if not zero_infinity and reduction != "none":
        assert loss.isinf()
    total = expected.sum() if zero_infinity or reduction != "none" else expected[expected < INF].sum()
    (slope,) = torch.autograd.grad(total, theirs)
    torch.testing.assert_close(gradient, slope.nan_to_num(0.0))  # NaN where no alignment exists: losskit has zeros
    assert zero_infinity or slope.isnan().any() or reduction == "none"


@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
def test_batch_is_its_samples(mode):
    x, targets, inputs, lengths = batch()
    losses, gradient = both(x, targets, inputs, lengths, reduction="none", **mode)
    assert losses.isinf().tolist() == [False, False, False, True, False]  # 4 labels, 2 repeats, 5 frames
    for i in range(5):
        target = targets[i, : lengths[i]].tolist()
        value, expected = truth(x[: inputs[i], i], target, 0, **mode)
        if value == mpmath.inf:
            assert gradient[:, i].count_nonzero() == 0
            continue
        assert losses[i].item() == pytest.approx(float(value), rel=1e-14)
        expected = torch.tensor([[float(v) for v in row] for row in expected], dtype=torch.float64).reshape(-1, 6)
        torch.testing.assert_close(gradient[: inputs[i], i], expected, rtol=1e-12, atol=1e-14)
        assert gradient[inputs[i] :, i].count_nonzero() == 0


def test_targets_and_lengths_of_every_kind():
    x, targets, inputs, lengths = batch()
    expected = ctc_loss(x, targets, inputs, lengths, zero_infinity=True)
    one_after_another = torch.cat([row[:n] for row, n in zip(targets, lengths, strict=True)])
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        given = (one_after_another.to(dtype), inputs.to(dtype), lengths.to(dtype))
        torch.testing.assert_close(ctc_loss(x, *given, zero_infinity=True), expected, rtol=0, atol=0)
        both(x, *given, zero_infinity=True)
    for kind in (list, tuple):
        got = ctc_loss(x, targets, kind(inputs.tolist()), kind(lengths.tolist()), zero_infinity=True)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    strided = torch.stack([targets, targets * 0 - 3], 2)[:, :, 0]
    assert strided.stride() == (8, 2)
    torch.testing.assert_close(
        ctc_loss(x, strided, torch.stack([inputs, inputs], 1)[:, 0], lengths, zero_infinity=True), expected
    )


def test_one_sample_without_a_batch():
    x, targets, inputs, lengths = batch()
    alone = x[:, 0].detach().requires_grad_()
    for given in ((14, 4), (torch.tensor(14), torch.tensor(4)), (torch.tensor([14]), [4]), ((14,), (4,))):
        loss = ctc_loss(alone, targets[0], *given, reduction="none")
        assert loss.shape == ()
        torch.testing.assert_close(loss, ctc_loss(x, targets, inputs, lengths, reduction="none")[0], rtol=0, atol=0)
    both(x[:, 0], targets[0], 14, 4)
    both(x[:, 1], targets[1], 9, 1, mask=torch.tensor(True), sample_weight=torch.tensor(0.5))


def test_no_frames_no_labels_no_samples():
    x, targets, inputs, lengths = batch()
    loss, gradient = both(x, targets, [0, 0, 0, 0, 1], [0, 1, 0, 0, 1], reduction="none")
    assert loss[:4].tolist() == [0.0, INF, 0.0, 0.0]
    assert loss[4] == -x[0, 4, 5]
    assert gradient[:, :4].count_nonzero() == 0
    loss, gradient = both(x[:0], targets[:, :0], [0] * 5, [0] * 5, reduction="none")
    assert loss.tolist() == [0.0] * 5
    assert gradient.shape == (0, 5, 6)
    for reduction, expected in (("none", None), ("sum", 0.0), ("mean", NAN)):
        loss, gradient = both(x[:, :0], targets[:0], inputs[:0], lengths[:0], reduction=reduction)
        assert gradient.shape == (14, 0, 6)
        assert loss.shape == (0,) if expected is None else repr(loss.item()) == repr(expected)
        both(x[:, :0], targets.flatten()[:0], inputs[:0], lengths[:0], reduction=reduction)
    with losskit.empty("zero"):
        assert both(x[:, :0], targets[:0], inputs[:0], lengths[:0])[0] == 0.0
    empty = both(x, targets, inputs, [0] * 5, reduction="none")[0]
    torch.testing.assert_close(empty, torch.stack([-x[:n, i, 0].sum() for i, n in enumerate(inputs)]))


def test_repeated_labels_need_a_frame_more():
    x = torch.randn(5, 1, 3, dtype=torch.float64).log_softmax(2)
    targets = torch.tensor([[1, 1, 1]])
    assert both(x, targets, [4], [3], reduction="sum")[0] == INF
    loss, _ = both(x, targets, [5], [3], reduction="sum")  # label, blank, label, blank, label
    assert loss.item() == pytest.approx(-x[torch.arange(5), 0, torch.tensor([1, 0, 1, 0, 1])].sum().item(), rel=1e-15)


@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
def test_impossible_classes(mode):
    """-inf rules classes out; where it leaves no alignment, the loss is infinite without a gradient."""
    x, targets, inputs, lengths = batch()
    x[:, :, 5] = -INF  # sample 4 needs it, the others do not
    x[3, 1, 0] = -INF
    loss, gradient = both(x, targets, inputs, lengths, reduction="none", **mode)
    assert loss.isinf().tolist() == [False, False, False, True, True]
    assert gradient.isfinite().all()
    assert gradient[:, 4].count_nonzero() == 0
    assert gradient[:, :, 5].count_nonzero() == 0
    value, _ = truth(torch.where(x.isinf(), -1e5, x)[:14, 0], targets[0].tolist(), 0, **mode)
    assert loss[0].item() == pytest.approx(float(value), rel=1e-13)


def test_a_frame_of_nothing():
    x, targets, inputs, lengths = batch()
    x[2] = -INF
    loss, gradient = both(x, targets, inputs, lengths, reduction="none")
    assert loss.isinf().all()
    assert gradient.count_nonzero() == 0
    assert both(x, targets, inputs, lengths, reduction="none", from_scores=True)[0].isnan().all()  # as log_softmax


# ---------------------------------------------------------------------------------------------------------
# Layouts, dtypes, threads


LAYOUTS = {
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "classes first": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "as of a convolution": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "every second": lambda x: torch.stack([x, x * 7], -1).flatten(2)[:, :, ::2],
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, mode, dtype):
    x, targets, inputs, lengths = batch(dtype)
    given = LAYOUTS[layout](x).requires_grad_()
    plain = given.detach().contiguous().requires_grad_()
    for reduction in ("none", "mean"):
        results = []
        for y in (given, plain):
            y.grad = None
            loss = ctc_loss(y, targets, inputs, lengths, reduction=reduction, zero_infinity=True, **mode)
            assert loss.dtype == dtype
            loss.sum().backward()
            results += [loss.detach(), y.grad]
        torch.testing.assert_close(results[0], results[2], rtol=0, atol=0)
        torch.testing.assert_close(results[1], results[3], rtol=0, atol=0)
    if layout != "expanded":
        _, gradient = both(given.detach(), targets, inputs, lengths, zero_infinity=True, **mode)
        assert gradient.count_nonzero() > 0


def test_inputs_are_left_alone():
    x, targets, inputs, lengths = batch(torch.float32)
    copies = [y.clone() for y in (x, targets, inputs, lengths)]
    ctc_loss(x.requires_grad_(), targets, inputs, lengths, from_scores=True, zero_infinity=True).backward()
    for before, after in zip(copies, (x, targets, inputs, lengths), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
def test_same_bits_for_any_number_of_threads(mode):
    x = torch.randn(60, 32, 40).log_softmax(2)
    targets = torch.randint(1, 40, (32, 12))
    results = []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        y = x.clone().requires_grad_()
        loss = ctc_loss(y, targets, [60] * 32, [12] * 32, **mode)
        loss.backward()
        results.append((loss.detach(), y.grad))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_the_same_gradient_twice_and_scaled():
    x, targets, inputs, lengths = batch(torch.float32)
    x.requires_grad_()
    loss = ctc_loss(x, targets, inputs, lengths, zero_infinity=True)
    (one,) = torch.autograd.grad(loss, x, retain_graph=True)
    (two,) = torch.autograd.grad(loss, x, torch.tensor(3.0))
    torch.testing.assert_close(3 * one, two)


# ---------------------------------------------------------------------------------------------------------
# Weights, masks, denominators


def test_masked_samples_are_nothing():
    x, targets, inputs, lengths = batch()
    expected, slope = both(x[:, [0, 2]], targets[[0, 2]], inputs[[0, 2]], lengths[[0, 2]])
    x[:, 1], x[:, 3] = NAN, INF
    inputs[1], lengths[3], lengths[4] = 99, -7, 88
    mask = torch.tensor([True, False, True, False, False])
    for mode in MODES:
        loss, gradient = both(x, targets, inputs, lengths, mask=mask, reduction="none", **mode)
        assert loss[[1, 3, 4]].tolist() == [0.0] * 3
        assert gradient[:, [1, 3, 4]].count_nonzero() == 0
        assert gradient.isfinite().all()
    loss, gradient = both(x, targets, inputs, lengths, mask=mask)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[:, [0, 2]], slope)
    assert both(x, targets, inputs, lengths, mask=torch.tensor(False), reduction="sum")[0] == 0.0
    assert both(x, targets, inputs, lengths, mask=torch.tensor(False))[0].isnan()


def test_weights_and_normalizer():
    x, targets, inputs, lengths = batch()
    weight = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    losses = ctc_loss(x, targets, inputs, lengths, reduction="none", zero_infinity=True)
    of_length = losses / lengths.clamp(min=1)
    for reduction, expected in (
        ("none", losses * weight),
        ("sum", (losses * weight).sum()),
        ("mean", (of_length * weight).sum() / weight.sum()),
    ):
        got, _ = both(x, targets, inputs, lengths, sample_weight=weight, reduction=reduction, zero_infinity=True)
        torch.testing.assert_close(got, expected)
    got, slope = both(x, targets, inputs, lengths, normalizer=10.0, zero_infinity=True)
    torch.testing.assert_close(got, of_length.sum() / 10)
    parts = [
        both(x[:, i:j], targets[i:j], inputs[i:j], lengths[i:j], normalizer=10.0, zero_infinity=True)
        for i, j in ((0, 2), (2, 5))
    ]
    torch.testing.assert_close(parts[0][0] + parts[1][0], got)
    torch.testing.assert_close(torch.cat([g for _, g in parts], 1), slope)
