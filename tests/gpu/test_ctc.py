"""CTC on a GPU: the truth in ULP, every convention of lengths and targets, and what only a GPU has.

The interpreter runs every frame of every program in Python: lattices are as small as the case allows.
"""

import pytest
import torch
from losses.ctc import scores
from row_truth import errors_of

import losskit
from losskit.kernels import gpu
from losskit.kernels.choice import from_kernel
from losskit.kernels.gpu import ctc
from losskit.losses.ctc import CTCLoss
from losskit.plans import plan_of

from .conftest import check_backward_again_and_twice

ctc_loss = CTCLoss.functional
MODES = [{}, {"exact_gradient": True}, {"from_scores": True}]
NAN, INF = float("nan"), float("inf")
TARGETS = [[1, 2, 2], [3, 4, 0], [1, 1, 1]]
INPUTS, LENGTHS = [6, 4, 5], [3, 2, 3]


def name_of(mode):
    return next(iter(mode), "default")


def batch(dtype=torch.float32, scale=1.0):
    """Log-probabilities of three samples: a repeated label, padding, one with a single alignment."""
    generator = torch.Generator(device="cpu").manual_seed(3)
    x = scale * torch.randn(6, 3, 5, generator=generator, dtype=torch.float64, device="cpu")
    return x.log_softmax(2).to(torch.get_default_device(), dtype)


def given():
    return torch.tensor(TARGETS), torch.tensor(INPUTS), torch.tensor(LENGTHS)


def agree(x, *args, upstream=None, within=1e-6, **kwargs):
    """Value and gradient of the kernel, which must be those of the eager formula in float64."""
    extras = [kwargs.pop(name, None) for name in ("sample_weight", "mask", "normalizer")]
    names = {"reduction": "mean", "blank": 0, "zero_infinity": False, "from_scores": False, "exact_gradient": False}
    plan = plan_of(CTCLoss, *(kwargs.pop(name, default) for name, default in names.items()))
    assert not kwargs
    results = []
    for eager in (False, True):
        y = (x.double() if eager else x).detach().clone().requires_grad_()
        arguments = plan.validated((y, *args), None, *extras)
        loss = plan.eager(arguments, "nan") if eager else plan.fused(from_kernel, arguments)
        assert loss is not None
        slope = torch.ones_like(loss) if upstream is None else upstream.to(loss)
        results.append((loss.detach(), torch.autograd.grad(loss, y, slope)[0]))
    (loss, gradient), (wanted, other) = results
    assert loss.dtype == gradient.dtype == x.dtype
    for got, expected in ((loss, wanted), (gradient, other)):
        torch.testing.assert_close(got.double(), expected, rtol=within, atol=within, equal_nan=True)
    return loss, gradient


def test_the_kernel_runs():
    assert losskit.why(losskit.CTCLoss(), batch(), *given()).implementation == "fused GPU kernel"


@pytest.mark.parametrize("kind", ["new", "perfect", "far"])
@pytest.mark.parametrize("mode", MODES, ids=name_of)
def test_float32_in_ulp(kind, mode):
    target, frames = [1, 3, 3, 2], 7
    with torch.device("cpu"):
        x = scores(kind, frames, 5, target, 1).float()
    if not mode.get("from_scores"):
        x = x.double().log_softmax(1).float()
    y = x.to(torch.get_default_device())[:, None].requires_grad_()
    operands = [torch.tensor([target]), torch.tensor([frames]), torch.tensor([4])]
    loss = ctc_loss(y, *operands, 0, "none", **mode)
    loss.sum().backward()
    found = errors_of("ctc_loss", [y, *operands], mode, loss, {0: y.grad})
    assert found.value <= 2 and found.gradient <= 4, found.where


@pytest.mark.parametrize("mode", MODES, ids=name_of)
def test_float64(mode):
    agree(batch(torch.float64), *given(), within=1e-13, **mode)


def test_a_large_loss_of_float64():
    x = torch.tensor([[[-1.0, -1000.3]]], dtype=torch.float64)
    loss = ctc_loss(x, torch.tensor([[1]]), torch.tensor([1]), torch.tensor([1]))
    assert loss.item() == pytest.approx(1000.3, rel=3e-16)


@pytest.mark.parametrize("upstream", [1.0, 3.0])
@pytest.mark.parametrize("dtype, within", [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_halves(dtype, within, upstream):
    agree(batch(dtype), *given(), within=within, upstream=torch.tensor(upstream), from_scores=upstream == 3)


@pytest.mark.parametrize("mode", MODES, ids=name_of)
def test_weights_and_a_mask(mode):
    weight, mask = torch.tensor([1.0, NAN, 3.0]), torch.tensor([True, False, True])
    x = torch.where(mask[:, None], batch(), NAN)
    _, gradient = agree(x, *given(), sample_weight=weight, mask=mask, **mode)
    assert gradient[:, 1].count_nonzero() == 0
    assert gradient[5:, 2].count_nonzero() == 0  # beyond its frames


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_reductions(reduction):
    upstream = torch.tensor([1.0, 2.0, -3.0]) if reduction == "none" else torch.tensor(-2.0)
    agree(batch(), *given(), reduction=reduction, upstream=upstream, sample_weight=torch.tensor([1.0, 2.0, 3.0]))


def test_denominators():
    x, args = batch()[:3, :2], [torch.tensor([[1, 2], [3, 4]]), torch.tensor([3, 2]), torch.tensor([2, 1])]
    for extras in ({"normalizer": 7.5}, {"normalizer": torch.tensor(0.0)}, {"mask": torch.tensor(False)}):
        agree(x, *args, **extras)


def test_samples_without_an_alignment():
    targets, _, lengths = given()
    inputs = torch.tensor([6, 1, 4])  # too short; short by the blanks between equal labels
    loss, gradient = agree(batch(), targets, inputs, lengths, reduction="none")
    assert loss[1:].tolist() == [INF, INF]
    assert gradient[:, 1:].count_nonzero() == 0
    loss, _ = agree(batch(), targets, inputs, lengths, zero_infinity=True)
    assert loss.isfinite()


def test_no_labels_no_frames_no_samples():
    x = batch()
    agree(x, torch.zeros(3, 0, dtype=torch.int64), torch.tensor([6, 1, 0]), torch.tensor([0, 0, 0]))
    loss, _ = agree(x[:0], given()[0], torch.zeros(3).long(), torch.tensor([0, 0, 1]), reduction="none")
    assert loss.tolist() == [0.0, 0.0, INF]
    nothing = torch.zeros(0, dtype=torch.int64)
    agree(x[:, :0], torch.zeros(0, 3, dtype=torch.int64), nothing, nothing)
    agree(x[:, :0], torch.zeros(0, 3, dtype=torch.int64), nothing, nothing, reduction="none")


def test_concatenated_targets_of_any_integers():
    targets, (_, inputs, lengths) = torch.tensor([1, 2, 2, 3, 4, 1, 1, 1]), given()
    loss, _ = agree(batch(), targets, inputs, lengths, reduction="none")
    for dtype in (torch.uint8, torch.int32):
        same = ctc_loss(batch(), targets.to(dtype), inputs.to(dtype), lengths.to(dtype), reduction="none")
        assert torch.equal(same, loss)


def test_one_sample_without_a_batch():
    alone = batch()[:, 0]
    loss, _ = agree(alone, given()[0][0], torch.tensor(6), torch.tensor([3]), reduction="none")
    assert loss.shape == ()
    agree(
        alone,
        given()[0][0],
        torch.tensor(6),
        torch.tensor([3]),
        mask=torch.tensor(True),
        sample_weight=torch.tensor(2.0),
    )


def test_strides_and_another_blank():
    x = batch().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    targets = torch.stack([torch.tensor([[1, 0, 0], [3, 4, 2], [1, 1, 1]]), torch.full((3, 3), -9)], 2)[:, :, 0]
    _, inputs, lengths = given()
    agree(x, targets, torch.stack([inputs, inputs], 1)[:, 0], lengths, blank=2, from_scores=True)


@pytest.mark.parametrize("mode", [{}, {"from_scores": True}], ids=name_of)
def test_peaked_scores(mode):
    """Masses a float64 cannot hold: all paths go through frames worth e^-2000 and e^-1e9."""
    x = batch()
    x[:, :, 1:] = -2000.0
    x[3] = -1e9
    agree(x, *given(), reduction="sum", **mode)
    agree(batch(scale=500.0), *given(), reduction="sum", **mode)


@pytest.mark.parametrize("mode", [{}, {"from_scores": True}], ids=name_of)
def test_minus_infinity(mode):
    x = batch()
    x[2, 0, 1] = -INF
    x[:, 2, 1] = -INF
    loss, gradient = agree(x, *given(), reduction="none", **mode)
    assert loss[2] == INF
    assert gradient[:, 2].count_nonzero() == 0


def test_nan():
    x = batch()
    x[2, 0, 4] = NAN  # of no label of the target
    x[5, 1, 0] = NAN  # beyond the sample's frames
    for mode in ({}, {"from_scores": True}):
        loss, gradient = agree(x, *given(), reduction="none", **mode)
        assert loss.isnan().tolist() == [True, False, False]
        assert gradient[:, 0].isnan().all()


def test_widths():
    """More labels than a row has threads, more classes than a block."""
    generator = torch.Generator(device="cpu").manual_seed(1)
    x = torch.randn(10, 1, 1100, generator=generator, device="cpu").to(torch.get_default_device())
    targets = torch.tensor([[1050, 3, 1050, 1050, 8, 3, 3, 2]])
    agree(x, targets, torch.tensor([10]), torch.tensor([8]), from_scores=True)


BAD = {
    "label": ([[1, 2, 2], [3, 9, 0], [1, 1, 1]], INPUTS, LENGTHS),
    "blank": ([[1, 2, 2], [3, 0, 0], [1, 1, 1]], INPUTS, LENGTHS),
    "inputs": (TARGETS, [6, 7, 5], LENGTHS),
    "negative": (TARGETS, [6, 4, -5], LENGTHS),
    "lengths": (TARGETS, INPUTS, [3, 4, 3]),
    "label among all": ([1, 2, 2, 3, 4, 1, 7, 1], INPUTS, LENGTHS),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_nan_and_told(case):
    args = [torch.tensor(x) for x in BAD[case]]
    loss, gradient = agree(batch(), *args, reduction="none")
    assert loss.isnan().sum() == 1
    assert gradient.isnan().all((0, 2)).equal(loss.isnan())
    told = losskit.last_violation()
    gpu.interpreted = False
    with pytest.raises(ValueError, match=r".") as refused:
        ctc_loss(batch().cpu(), *(x.cpu() for x in args))
    assert told == str(refused.value)


def test_lengths_that_do_not_add_up():
    targets, (_, inputs, lengths) = torch.tensor([1, 2, 2, 3, 4, 1, 1]), given()
    loss = ctc_loss(batch(), targets, inputs, lengths, reduction="none")
    assert loss.isnan().all()
    assert losskit.last_violation() == (
        "ctc_loss: target_lengths must be lengths that add up to 7, the number of targets, got 8."
    )
    with losskit.checks("off"):
        loss = ctc_loss(batch(), targets, inputs, lengths, reduction="none")
    assert loss.isnan().tolist() == [False, False, True]
    assert losskit.last_violation() is None


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_backward_again_and_twice(reduction):
    x = batch(torch.float64)[:5, :2].clone().requires_grad_()
    args = [torch.tensor([[1, 2], [3, 3]]), torch.tensor([5, 4]), torch.tensor([2, 2])]
    loss = ctc_loss(x, *args, reduction=reduction, from_scores=True).sum()
    check_backward_again_and_twice(loss, x)


def test_the_host_does_not_wait(unwatched):
    x, args = batch(torch.float16).requires_grad_(), given()
    with unwatched:
        loss = ctc_loss(x, *args, mask=torch.ones(3, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(loss * 2, x)
    assert gradient.isfinite().all()


def test_what_the_host_knows_bounds_the_lattice():
    x, targets = torch.empty(20, 3, 5, device="meta"), torch.empty(90, device="meta", dtype=torch.int64)
    on_device = torch.empty(3, device="meta", dtype=torch.int64)
    assert ctc._most(x, targets, on_device) == 20
    assert ctc._most(x, targets, torch.tensor([3, 2, 7], device="cpu")) == 7
    assert ctc._most(x, targets, torch.tensor([-3, -2, -1], device="cpu")) == 0


def test_scores_are_no_log_probabilities():
    x = batch()
    x[5, 1] = 3.0  # a frame that is not used
    assert ctc_loss(x, *given(), reduction="none").isfinite().all()
    assert losskit.last_violation() is None
    x[2, 1, 4] = 3.0
    assert ctc_loss(x, *given(), reduction="none").isnan().tolist() == [False, True, False]
    assert losskit.last_violation() == (
        "ctc_loss: log_probs must be log-probabilities (at most 0), got 3 at index (2, 1, 4). Pass "
        "log_softmax(scores, dim=-1), or from_scores=True."
    )
    assert ctc_loss(x, *given(), from_scores=True).isfinite()
    with losskit.checks("off"):
        assert ctc_loss(x, *given()).isfinite()
