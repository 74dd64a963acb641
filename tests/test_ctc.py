"""CTC: against enumeration and an mpmath lattice, in ULP; conventions, lengths, layouts, refusals, transforms.

The truth is computed from the very numbers that the loss gets, in 60 digits. The enumeration of paths checks the mpmath
lattice, which checks the loss.
"""

import itertools

import mpmath
import pytest
import torch

import losskit
from losskit.kernels.choice import from_kernel
from losskit.losses.ctc import CTCLoss
from losskit.plans import plan_of

ctc_loss = CTCLoss.functional
MODES = [{}, {"exact_gradient": True}, {"from_scores": True}]
NAN, INF = float("nan"), float("inf")


# ---------------------------------------------------------------------------------------------------------
# The truth


def log_softmax(row):
    total = mpmath.log(mpmath.fsum(mpmath.exp(x) for x in row))
    return [x - total for x in row]


def enumerated(lp, target, blank):
    """The probability of a target, path by path."""
    total = mpmath.mpf(0)
    for path in itertools.product(range(len(lp[0])), repeat=len(lp)):
        merged = [c for i, c in enumerate(path) if i == 0 or path[i - 1] != c]
        if [c for c in merged if c != blank] == list(target):
            total += mpmath.exp(mpmath.fsum(lp[t][c] for t, c in enumerate(path)))
    return total


def lattice(lp, target, blank):
    """The probability of a target, and the posterior of each class in each frame."""
    frames, classes = len(lp), len(lp[0])
    states = [blank]
    for label in target:
        states += [label, blank]
    skips = [s > 1 and states[s] != blank and states[s] != states[s - 2] for s in range(len(states))]
    p = [[mpmath.exp(x) for x in row] for row in lp]
    alpha = [[mpmath.mpf(0)] * len(states) for _ in range(frames)]
    beta = [[mpmath.mpf(0)] * len(states) for _ in range(frames)]
    for t in range(frames):
        for s, c in enumerate(states):
            if t == 0:
                before = mpmath.mpf(s < 2)
            else:
                old = alpha[t - 1]
                before = old[s] + (old[s - 1] if s else 0) + (old[s - 2] if skips[s] else 0)
            alpha[t][s] = before * p[t][c]
    for t in reversed(range(frames)):
        for s in range(len(states)):
            if t == frames - 1:
                beta[t][s] = mpmath.mpf(s >= len(states) - 2)
                continue
            after = beta[t + 1][s] * p[t + 1][states[s]]
            if s + 1 < len(states):
                after += beta[t + 1][s + 1] * p[t + 1][states[s + 1]]
            if s + 2 < len(states) and skips[s + 2]:
                after += beta[t + 1][s + 2] * p[t + 1][states[s + 2]]
            beta[t][s] = after
    total = mpmath.fsum(alpha[-1][-2:]) if frames else mpmath.mpf(not target)
    posterior = [[mpmath.mpf(0)] * classes for _ in range(frames)]
    if total:
        for t in range(frames):
            for s, c in enumerate(states):
                posterior[t][c] += alpha[t][s] * beta[t][s] / total
    return total, posterior


def truth(x, target, blank, *, from_scores=False, exact_gradient=False):
    """Loss and gradient of one sample, from a (T, C) tensor."""
    rows = [[mpmath.mpf(v) for v in row] for row in x.double().tolist()]
    lp = [log_softmax(row) for row in rows] if from_scores else rows
    total, posterior = lattice(lp, target, blank)
    loss = -mpmath.log(total) if total else mpmath.inf
    if exact_gradient:
        return loss, [[-q for q in row] for row in posterior]
    return loss, [[mpmath.exp(v) - q for v, q in zip(*rows, strict=True)] for rows in zip(lp, posterior, strict=True)]


def spacing(value, dtype):
    """A unit in the last place of a number, as mpmath has it."""
    info = torch.finfo(dtype)
    smallest = mpmath.mpf(info.smallest_normal) * info.eps
    if value == 0:
        return smallest
    exponent = mpmath.floor(mpmath.log(abs(value), 2))
    return max(mpmath.mpf(2) ** exponent * mpmath.mpf(info.eps), smallest)


def errors(x, target, blank, **mode):
    """How wrong value and gradient are: in ULP, and in ULP of the gradient's largest entry."""
    x = x.detach().clone().requires_grad_()
    loss = ctc_loss(x, torch.tensor(target, dtype=torch.int64), len(x), len(target), blank, "sum", **mode)
    loss.backward()
    value, gradient = truth(x.detach(), target, blank, **mode)
    of_value = abs(mpmath.mpf(loss.item()) - value) / spacing(value, x.dtype)
    largest = max(abs(g) for row in gradient for g in row)
    apart = max(
        abs(mpmath.mpf(got) - g)
        for rows in zip(x.grad.double().tolist(), gradient, strict=True)
        for got, g in zip(*rows, strict=True)
    )
    return float(of_value), float(apart / spacing(largest, x.dtype))


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


def scores(frames, classes, kind, target, seed, dtype):
    """Scores of a kind of network: new, sure of itself, right, nearly perfect, sure and wrong."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(frames, classes, generator=generator, dtype=torch.float64)
    path = [0] * frames
    for i, label in enumerate(target):
        path[(2 * i + 1) * frames // (2 * len(target))] = label
    right = torch.nn.functional.one_hot(torch.tensor(path), classes).double()
    made = {
        "new": x,
        "sure": 8 * x,
        "extreme": 60 * x,
        "right": x + 8 * right,
        "perfect": x + 25 * right,
        "wrong": x - 40 * right,
        "far": 1e4 * (1 - right) * x.abs().clamp(max=1) * -1,
        "up": x + 1000,
    }[kind]
    return made.to(dtype)


KINDS = ["new", "sure", "extreme", "right", "perfect", "wrong", "far", "up"]


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
            one, two = enumerated(lp, labels, blank), lattice(lp, labels, blank)[0]
            assert abs(one - two) <= mpmath.mpf(10) ** -50 * abs(one)


@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
@pytest.mark.parametrize("kind", KINDS)
def test_float32_in_ulp(kind, mode):
    for seed, (frames, classes, target, blank) in enumerate(
        (
            (30, 7, [1, 3, 3, 6, 2], 0),
            (24, 5, [0, 1, 0, 0, 2, 3], 4),
            (12, 4, [], 1),
            (9, 40, [3, 3, 7, 2], 0),
            (1, 3, [1], 0),
        )
    ):
        x = scores(frames, classes, kind, target, seed, torch.float32)
        if not mode.get("from_scores"):
            x = x.double().log_softmax(1).float()
        value, gradient = errors(x, target, blank, **mode)
        assert value <= 2.0, (seed, value)
        assert gradient <= 64.0, (seed, gradient)


@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
@pytest.mark.parametrize("kind", ["new", "sure", "right", "up"])
def test_float64_to_rounding(kind, mode):
    """In float64 the value of a small loss has the digits of 1, not its own: there is nothing wider to compute in."""
    target = [1, 3, 3, 6, 2]
    x = scores(40, 7, kind, target, 3, torch.float64)
    if not mode.get("from_scores"):
        x = x.log_softmax(1)
    value, gradient = errors(x, target, 0, **mode)
    exact, _ = truth(x, target, 0, **mode)
    assert value * float(spacing(exact, torch.float64)) <= 2 * float(spacing(max(exact, 4), torch.float64))
    assert gradient <= 64.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
def test_halves_are_rounded_once(dtype, mode):
    for kind in ("new", "right"):
        target = [1, 3, 3, 2]
        x = scores(20, 5, kind, target, 1, torch.float64)
        x = (x if mode.get("from_scores") else x.log_softmax(1)).to(dtype)
        value, gradient = errors(x, target, 0, **mode)
        assert value <= 0.51
        assert gradient <= 0.51


def test_accurate_where_torch_is_not():
    """torch's own error on the same numbers is a thousand times larger: the bar is not met by chance."""
    target = list(range(1, 21))
    x = scores(120, 30, "new", target, 5, torch.float32).log_softmax(1)
    theirs = x.clone().requires_grad_()
    loss = torch.nn.functional.ctc_loss(theirs, torch.tensor([target]), [120], [20], reduction="sum")
    loss.backward()
    gradient = truth(x, target, 0)[1]
    largest = max(abs(g) for row in gradient for g in row)
    wrong = max(
        abs(mpmath.mpf(a) - b)
        for rows in zip(theirs.grad.double().tolist(), gradient, strict=True)
        for a, b in zip(*rows, strict=True)
    )
    assert errors(x, target, 0)[1] < 4 < 100 < float(wrong / spacing(largest, torch.float32))


# ---------------------------------------------------------------------------------------------------------
# Batches: conventions, lengths, targets


def batch(dtype=torch.float64, frames=14, classes=6, blank=0):
    """Log-probabilities, padded targets, lengths: repeats, an empty target, a short input, one that does not fit."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(frames, 5, classes, generator=generator, dtype=torch.float64).log_softmax(2)
    names = [c for c in range(classes) if c != blank]
    targets = torch.tensor([
        [names[0], names[1], names[1], names[2]],
        [names[3], -5, 99, blank],
        [blank, -1, 77, 2],
        [names[2], names[2], names[2], names[0]],
        [names[4], names[0], names[4], names[0]],
    ])  # fmt: skip
    return x.to(dtype), targets, torch.tensor([14, 9, 6, 5, 4]), torch.tensor([4, 1, 0, 4, 4])


def both(log_probs, *args, within=None, **kwargs):
    """Value and gradient of the kernel and of the eager formula, which must agree."""
    results = []
    extras = [kwargs.pop(name, None) for name in ("sample_weight", "mask", "normalizer")]
    blank, reduction = kwargs.pop("blank", 0), kwargs.pop("reduction", "mean")
    settings = [kwargs.pop(name, False) for name in ("zero_infinity", "from_scores", "exact_gradient")]
    assert not kwargs
    plan = plan_of(CTCLoss, reduction, blank, *settings)
    for eager in (False, True):
        x = log_probs.detach().requires_grad_()
        given = plan.validated((x, *args), None, *extras)
        loss = plan.eager(given, losskit.policy.state.checks) if eager else plan.fused(from_kernel, given)
        assert loss is not None
        finite = torch.where(loss.isinf(), 0.0, loss)
        (gradient,) = torch.autograd.grad(finite.sum() if reduction == "none" else loss, x)
        results.append((loss.detach(), gradient))
    (one, slope), (two, other) = results
    tolerance = within or {torch.float64: 1e-12, torch.float32: 1e-5}.get(log_probs.dtype, 2e-2)
    torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance, equal_nan=True)
    torch.testing.assert_close(slope, other, rtol=tolerance, atol=tolerance, equal_nan=True)
    return one, slope


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


# ---------------------------------------------------------------------------------------------------------
# NaN and refusals


@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
@pytest.mark.parametrize("where", [0, 1, 4])
def test_nan_in_gives_nan_out(where, mode):
    x, targets, inputs, lengths = batch(torch.float32)
    x[2, 0, where] = NAN
    x[10:, 1] = NAN  # beyond its 9 frames
    loss, _ = both(x.double(), targets, inputs, lengths, reduction="none", **mode)
    assert loss.isnan().tolist() == [True, False, False, False, False]
    y = x.requires_grad_()
    loss = ctc_loss(y, targets, inputs, lengths, reduction="none", zero_infinity=True, **mode)
    loss.sum().backward()
    assert y.grad[:, 0].isnan().all()
    assert y.grad[:, 1:].isfinite().all()


X, TARGETS, INPUTS, LENGTHS = batch()
X = X.log_softmax(2)
LONG = torch.tensor([1, 2, 3, 4, 5])


def changed(tensor, index, value):
    result = tensor.clone()
    result[index] = value
    return result


VIOLATIONS = {
    "input_lengths must be in [0, 14], the number of frames, got 15 at index (1,).": (
        TARGETS, changed(INPUTS, 1, 15), LENGTHS),
    "input_lengths must be in [0, 14], the number of frames, got -1 at index (2,).": (
        TARGETS, changed(INPUTS, 2, -1), LENGTHS),
    "target_lengths must be in [0, 4], the width of targets, got 5 at index (0,).": (
        TARGETS, INPUTS, changed(LENGTHS, 0, 5)),
    "target_lengths must be in [0, 5], the number of targets, got 6 at index (3,).": (
        LONG, INPUTS, torch.tensor([1, 1, 1, 6, 1])),
    "target_lengths must be lengths that add up to 5, the number of targets, got 4.": (
        LONG, INPUTS, torch.tensor([1, 1, 1, 1, 0])),
    "target_lengths must be lengths that add up to 5, the number of targets, got 7.": (
        LONG, INPUTS, torch.tensor([2, 2, 2, 1, 0])),
    "targets must be labels in [0, 6), got 6 at index (4, 2).": (changed(TARGETS, (4, 2), 6), INPUTS, LENGTHS),
    "targets must be labels in [0, 6), got -1 at index (0, 0).": (changed(TARGETS, (0, 0), -1), INPUTS, LENGTHS),
    "targets must be labels in [0, 6), got 9 at index (3,). It is label 1 of sample 1.": (
        changed(LONG, 3, 9), INPUTS, torch.tensor([2, 2, 0, 1, 0])),
    "targets must be labels other than the blank, 0, got 0 at index (1, 0).": (
        changed(TARGETS, (1, 0), 0), INPUTS, LENGTHS),
}  # fmt: skip


@pytest.mark.parametrize("message", VIOLATIONS)
def test_violations(message):
    targets, inputs, lengths = VIOLATIONS[message]
    plan = plan_of(CTCLoss, "sum", 0, False, False, False)
    given = plan.validated((X, targets, inputs, lengths), None, None, None, None)
    for call in (
        lambda: ctc_loss(X, targets, inputs, lengths, reduction="sum"),
        lambda: plan.eager(given, "raise"),
        lambda: torch.func.vmap(lambda x: ctc_loss(x, targets, inputs, lengths, reduction="sum"))(torch.stack([X, X])),
    ):
        with pytest.raises(ValueError) as refused:  # noqa: PT011  # the text is compared
            call()
        assert str(refused.value) == "ctc_loss: " + message
    with pytest.raises(ValueError, match=r"^ctc_loss: "):  # nobody knows which of the batch
        torch.func.vmap(lambda t, n, m: ctc_loss(X, t, n, m))(
            *(torch.stack([y, y]) for y in (targets, inputs, lengths))
        )
    for checks in ("nan", "off"):
        with losskit.checks(checks):
            loss, gradient = both(X, targets, inputs, lengths, reduction="none", zero_infinity=True)
            if "add up" not in message:
                assert 1 <= loss.isnan().sum() < 5
            bad = loss.isnan()
            assert gradient[:, bad].isnan().all()
            assert gradient[:, ~bad].isfinite().all()


def test_no_foreign_memory_whatever_the_indices_are():
    x, targets, inputs, lengths = batch(torch.float32)
    huge = 2**62
    with losskit.checks("off"):
        for given in (
            (changed(targets, (0, 0), huge), inputs, lengths),
            (changed(targets, (0, 0), -huge), inputs, lengths),
            (targets, changed(inputs, 0, huge), lengths),
            (targets, inputs, changed(lengths, 0, huge)),
            (LONG, inputs, torch.tensor([huge, huge, huge, huge, 1])),
            (LONG, inputs, torch.tensor([-huge, 3, 3, 3, 3])),
        ):
            assert ctc_loss(x.requires_grad_(), *given, reduction="none")[0].isnan()


MISTAKES = {
    "log_probs must be a tensor, got list. Use torch.as_tensor(log_probs).": lambda: ctc_loss([1.0], TARGETS, INPUTS, LENGTHS),
    "log_probs must be floating point, got torch.int64. Use log_probs.float().": lambda: ctc_loss(
        X.long(), TARGETS, INPUTS, LENGTHS),
    "log_probs must be of shape (T, N, C) or (T, C) with at least one class, got shape (14,).": lambda: ctc_loss(
        X[:, 0, 0], TARGETS, INPUTS, LENGTHS),
    "log_probs must be of shape (T, N, C) or (T, C) with at least one class, got shape (14, 5, 0).": lambda: ctc_loss(
        X[:, :, :0], TARGETS, INPUTS, LENGTHS),
    "blank must be a class in [0, 6), got 6.": lambda: ctc_loss(X, TARGETS, INPUTS, LENGTHS, blank=6),
    "blank must be non-negative, got -1.": lambda: ctc_loss(X, TARGETS, INPUTS, LENGTHS, blank=-1),
    "blank must be an integer, got 0.5.": lambda: ctc_loss(X, TARGETS, INPUTS, LENGTHS, blank=0.5),
    "targets must be integer labels, got torch.float32.": lambda: ctc_loss(X, TARGETS.float(), INPUTS, LENGTHS),
    "targets must be of shape (5, S) or, one after another, (L,), for log_probs (14, 5, 6), got shape (4, 5).":
        lambda: ctc_loss(X, TARGETS.T, INPUTS, LENGTHS),
    "targets must be of shape (S,), for log_probs (14, 6), got shape (5, 4).": lambda: ctc_loss(X[:, 0], TARGETS, 3, 3),
    "targets must be a tensor, got list. Use torch.as_tensor(targets).": lambda: ctc_loss(X, [1, 2], INPUTS, LENGTHS),
    "input_lengths must be 5 integers, one for each sample, got torch.float32.": lambda: ctc_loss(
        X, TARGETS, INPUTS.float(), LENGTHS),
    "input_lengths must be 5 integers, one for each sample, got shape (4,).": lambda: ctc_loss(
        X, TARGETS, INPUTS[:4], LENGTHS),
    "input_lengths must be 5 integers, one for each sample, got [1.0, 2, 3, 4, 5].": lambda: ctc_loss(
        X, TARGETS, [1.0, 2, 3, 4, 5], LENGTHS),
    "target_lengths must be 5 integers, one for each sample, got shape ().": lambda: ctc_loss(X, TARGETS, INPUTS, 3),
    "target_lengths must be 5 integers, one for each sample, got NoneType.": lambda: ctc_loss(X, TARGETS, INPUTS, None),
    "target_lengths must be an integer, got shape (2,).": lambda: ctc_loss(X[:, 0], TARGETS[0], 3, [1, 2]),
    "mask (4,) must broadcast to (5,).": lambda: ctc_loss(X, TARGETS, INPUTS, LENGTHS, mask=torch.ones(4).bool()),
    "mask must be boolean (True = counts), got torch.float32. Use mask.bool().": lambda: ctc_loss(
        X, TARGETS, INPUTS, LENGTHS, mask=torch.ones(5)),
    "reduction must be one of 'none', 'mean', 'sum', got 'avg'.": lambda: ctc_loss(
        X, TARGETS, INPUTS, LENGTHS, reduction="avg"),
    "targets is on meta but log_probs is on cpu.": lambda: ctc_loss(X, TARGETS.to("meta"), INPUTS, LENGTHS),
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes(message):
    with pytest.raises((ValueError, TypeError)) as refused:
        MISTAKES[message]()
    assert str(refused.value) == "ctc_loss: " + message


# ---------------------------------------------------------------------------------------------------------
# Derivatives and transforms


def small(from_scores=True):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)
    x = x if from_scores else x.log_softmax(2)
    return x.requires_grad_(), torch.tensor([[1, 2], [3, 3], [2, 1]]), torch.tensor([5, 4, 1]), torch.tensor([2, 2, 0])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_gradients_and_their_gradients(reduction):
    x, *rest = small()
    for function in (
        lambda y: ctc_loss(y, *rest, reduction=reduction, from_scores=True),
        lambda y: ctc_loss(y - 3.0, *rest, reduction=reduction, exact_gradient=True),
        lambda y: ctc_loss(y.log_softmax(2), *rest, reduction=reduction),
    ):
        torch.autograd.gradcheck(function, x)
        torch.autograd.gradgradcheck(function, x)
    weight = torch.rand(3, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(lambda y, w: ctc_loss(y, *rest, from_scores=True, sample_weight=w), (x, weight))


def test_the_first_gradient_is_differentiated_as_it_is():
    """The gradient by default is exp - posterior; its own derivative is that of this function, not a Hessian."""
    x, *rest = small(from_scores=False)
    jacobian = torch.autograd.functional.jacobian(
        lambda y: torch.autograd.grad(ctc_loss(y, *rest, reduction="sum"), y, create_graph=True)[0], x
    )
    flat, step = x.detach().flatten(), 1e-6
    for i in (0, 13, 30, 55):
        sides = []
        for sign in (1, -1):
            y = flat.clone()
            y[i] += sign * step
            y = y.reshape(x.shape).requires_grad_()
            sides.append(torch.autograd.grad(ctc_loss(y, *rest, reduction="sum"), y)[0])
        expected = (sides[0] - sides[1]) / (2 * step)
        torch.testing.assert_close(jacobian.reshape(*x.shape, -1)[..., i], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
def test_functorch(mode):
    x, *rest = small(bool(mode.get("from_scores")))
    loss = lambda y: ctc_loss(y, *rest, **mode)
    (expected,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), expected)
    stack = torch.stack([x.detach(), x.detach() * 2])
    torch.testing.assert_close(torch.func.vmap(loss)(stack), torch.stack([loss(y) for y in stack]))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(stack)[0], expected)
    tangent = torch.randn_like(x)
    _, slope = torch.func.jvp(loss, (x.detach(),), (tangent,))
    torch.testing.assert_close(slope, (expected * tangent).sum())
    if mode:
        torch.func.hessian(loss)(x.detach())


@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
@pytest.mark.parametrize("concatenated", [False, True])
def test_compiled(mode, concatenated):
    x, targets, inputs, lengths = small(bool(mode.get("from_scores")))
    if concatenated:
        targets = torch.tensor([1, 2, 3, 3])
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda y, *rest: ctc_loss(y, *rest, **mode), fullgraph=True, backend="aot_eager", dynamic=False
    )
    one, two = compiled(x, targets, inputs, lengths), ctc_loss(x, targets, inputs, lengths, **mode)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(torch.autograd.grad(one, x)[0], torch.autograd.grad(two, x)[0])
    with pytest.raises(ValueError, match="labels in"):
        compiled(x, targets + 3, inputs, lengths)


def test_meta():
    x, *rest = (y.detach().to("meta") for y in small())
    for reduction, shape in (("none", (3,)), ("mean", ())):
        assert ctc_loss(x, *rest, reduction=reduction).shape == shape
    assert ctc_loss(x.float().requires_grad_(), rest[0], [5, 4, 1], [2, 2, 0]).dtype == torch.float32


def test_module():
    x, *rest = small()
    module = CTCLoss(blank=0, reduction="sum", zero_infinity=True, from_scores=True)
    torch.testing.assert_close(module(x, *rest), ctc_loss(x, *rest, 0, "sum", True, True))
    assert repr(module) == (
        "CTCLoss(blank=0, reduction='sum', zero_infinity=True, from_scores=True, exact_gradient=False)"
    )
    assert CTCLoss("none").reduction == "none"
    assert losskit.create(module.config()).config() == module.config()
    assert losskit.why(module, x, *rest).implementation == "fused CPU kernel"


def test_many_frames_and_labels():
    """Long enough for rescaling, folding and, from peaked scores, for log space with every path counted."""
    generator = torch.Generator().manual_seed(11)
    targets = torch.randint(1, 9, (2, 150), generator=generator)
    for scale in (1.0, 30.0):
        x = scale * torch.randn(900, 2, 9, generator=generator)
        both(x.double(), targets, [900, 700], [150, 120], from_scores=True, reduction="sum", within=1e-10)
