"""The transducer on a GPU: the truth in ULP, lengths, FastEmit and clamp, bad values, and what only a GPU has.

The interpreter runs every diagonal of every program in Python: lattices are as small as the case allows.
"""

import pytest
import torch
from losses.rnnt import KINDS, network
from row_truth import errors_of

import losskit
from losskit.kernels import gpu
from losskit.kernels.choice import from_kernel
from losskit.losses.rnnt import RNNTLoss

from .conftest import check_backward_again_and_twice

rnnt = RNNTLoss.functional
NAN, INF = float("nan"), float("inf")
FRAMES, LABELS = [4, 2, 3], [2, 1, 0]
MODES = [{}, {"fused_log_softmax": False}, {"clamp": 0.2}, {"fastemit_lambda": 0.5}]


def name_of(mode):
    return next(iter(mode), "default")


def batch(dtype=torch.float32, scale=1.0, classes=5):
    """Scores of three samples: whole, padded in both ways, without labels."""
    g = torch.Generator(device="cpu").manual_seed(3)
    x = scale * torch.randn(3, 4, 3, classes, generator=g, dtype=torch.float64, device="cpu")
    return x.to(torch.get_default_device(), dtype)


def given():
    return torch.tensor([[1, 2], [3, 77], [-1, -1]]), torch.tensor(FRAMES), torch.tensor(LABELS)


def agree(x, *args, upstream=None, within=1e-6, **kwargs):
    """Value and gradient of the kernel, which must be those of the eager formula in float64."""
    extras = [kwargs.pop(name, None) for name in ("sample_weight", "mask", "normalizer")]
    names = {"reduction": "mean", "blank": 0, "clamp": -1.0, "fused_log_softmax": True, "fastemit_lambda": 0.0}
    settings = {name: kwargs.pop(name, default) for name, default in names.items()}
    assert not kwargs
    plan = RNNTLoss(**settings)._planned()
    results = []
    for eager in (False, True):
        y = (x.double() if eager else x).detach().clone().requires_grad_()
        arguments = plan.validated((y, *args), None, *extras)
        loss = plan.eager(arguments, "nan") if eager else plan.fused(from_kernel, arguments)
        slope = torch.ones_like(loss) if upstream is None else upstream.to(loss)
        results.append((loss.detach(), torch.autograd.grad(loss, y, slope)[0]))
    (loss, gradient), (wanted, other) = results
    assert loss.dtype == gradient.dtype == x.dtype
    for got, expected in ((loss, wanted), (gradient, other)):
        torch.testing.assert_close(got.double(), expected, rtol=within, atol=within, equal_nan=True)
    return loss, gradient


def test_the_kernel_runs():
    assert losskit.why(losskit.RNNTLoss(blank=0), batch(), *given()).implementation == "fused GPU kernel"


@pytest.mark.parametrize("kind", KINDS)
def test_float32_in_ulp(kind):
    with torch.device("cpu"):
        made = list(network(kind, torch.float32))
    device = torch.get_default_device()
    for operands, mode in made:
        if operands[0].shape[:3].numel() > 60:
            continue
        x, *args = (y.to(device) for y in operands)
        x.requires_grad_()
        loss = rnnt(x, *args, **mode, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        found = errors_of("rnnt_loss", [x, *args], mode, loss, {0: gradient})
        assert found.value <= 1, found.where
        assert found.gradient <= (1 if x.dtype == torch.float32 else 8), found.where


@pytest.mark.parametrize("mode", [{"fastemit_lambda": 0.5, "clamp": 0.2}, {"fused_log_softmax": False}], ids=name_of)
def test_float64(mode):
    agree(batch(torch.float64).log_softmax(3), *given(), within=1e-13, reduction="sum", **mode)


@pytest.mark.parametrize("mode", [{}, {"fused_log_softmax": False}], ids=name_of)
def test_a_loss_near_0_has_its_digits(mode):
    """It is what leaves the only way: three arcs, each beside classes of e^-60."""
    x = torch.full((1, 2, 2, 3), -60.0, dtype=torch.float64)
    x[0, 0, 0, 1] = x[0, 0, 1, 0] = x[0, 1, 1, 0] = 0.0
    if mode:
        x = x.where(x != 0, -2.0 * torch.tensor(-60.0, dtype=torch.float64).exp())
    args = torch.tensor([[1]]), torch.tensor([2]), torch.tensor([1])
    loss, _ = agree(x, *args, within=1e-15, **mode)
    assert loss.item() == pytest.approx(6.0 * torch.tensor(-60.0, dtype=torch.float64).exp().item(), rel=1e-12)


@pytest.mark.parametrize("upstream", [1.0, 3.0])
@pytest.mark.parametrize("dtype, within", [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_halves(dtype, within, upstream):
    agree(batch(dtype), *given(), within=within, upstream=torch.tensor(upstream))


@pytest.mark.parametrize("mode", MODES, ids=name_of)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_reductions(reduction, mode):
    upstream = torch.tensor([1.0, 2.0, -3.0]) if reduction == "none" else torch.tensor(-2.0)
    x = batch() if mode.get("fused_log_softmax", True) else batch().log_softmax(3)
    weight = torch.tensor([1.0, 2.0, 3.0])
    _, gradient = agree(x, *given(), reduction=reduction, upstream=upstream, sample_weight=weight, **mode)
    assert gradient[1, 2:].count_nonzero() == gradient[1, :, 2:].count_nonzero() == 0  # beyond its frames and labels


def test_weights_and_a_mask():
    x, mask = batch(), torch.tensor([True, False, True])
    x[1] = NAN
    _, gradient = agree(x, *given(), sample_weight=torch.tensor([1.0, NAN, 3.0]), mask=mask)
    assert gradient[1].count_nonzero() == 0


def test_denominators():
    for extras in ({"normalizer": 7.5}, {"normalizer": torch.tensor(0.0)}, {"mask": torch.tensor(False)}):
        agree(batch(), *given(), **extras)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_sample_of_no_frames_is_masked(reduction):
    targets, _, lengths = given()
    _, gradient = agree(batch(), targets, torch.tensor([4, 0, 3]), lengths, reduction=reduction)
    assert gradient[1].count_nonzero() == 0
    loss, _ = agree(batch(), targets, torch.tensor([0, 0, 0]), lengths, reduction=reduction)
    assert loss.isnan().all() if reduction == "mean" else not loss.any()


def test_no_labels_no_frames_no_samples():
    x, (targets, inputs, lengths) = batch(), given()
    agree(x[:, :, :1], targets[:, :0], inputs, torch.zeros(3, dtype=torch.int64))
    agree(x[:, :0], targets, torch.zeros(3, dtype=torch.int64), lengths, reduction="none")
    for reduction in ("none", "sum", "mean"):
        agree(x[:0], targets[:0], inputs[:0], lengths[:0], reduction=reduction)


def test_one_sample_without_a_batch():
    alone, targets = batch()[0], given()[0][0]
    loss, _ = agree(alone, targets, torch.tensor(4), torch.tensor([2]), reduction="none")
    assert loss.shape == ()
    agree(alone, targets, 4, 2, mask=torch.tensor(True), sample_weight=torch.tensor(2.0))


def test_strides_any_integers_and_another_blank():
    x = batch().permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    targets, inputs, lengths = given()
    spread = torch.stack([targets.clamp(0, 3), torch.full_like(targets, 9)], 2).to(torch.int16)[..., 0]
    agree(x, spread, torch.stack([inputs, inputs], 1).to(torch.uint8)[:, 0], lengths.to(torch.int32).cpu(), blank=-1)


def test_widths():
    """More classes than a block, more labels than a warp has threads."""
    g = torch.Generator(device="cpu").manual_seed(1)
    device = torch.get_default_device()
    x = torch.randn(1, 2, 2, 1100, generator=g, device="cpu").to(device)
    agree(x, torch.tensor([[1050]]), torch.tensor([2]), torch.tensor([1]))
    x = torch.randn(1, 2, 40, 3, generator=g, device="cpu").to(device)
    agree(x, torch.randint(1, 3, (1, 39)), torch.tensor([2]), torch.tensor([39]))


def test_peaked_scores_and_minus_infinity():
    agree(batch(scale=2000.0), *given(), reduction="sum", within=1e-5)
    x = batch()
    x[0, 1, 1, 2] = x[1, 0, 0, 0] = -INF  # a label's arc, a blank's
    x[2, 1, 0, 0] = -INF  # of the only way
    for mode in ({}, {"fused_log_softmax": False}):
        y = x if not mode else x.log_softmax(3)
        loss, gradient = agree(y, *given(), reduction="none", **mode)
        assert loss.isinf().tolist() == [False, False, True]
        assert gradient[2].count_nonzero() == 0


def test_nan_and_infinity():
    for value in (NAN, INF):
        x = batch()
        x[0, 2, 1, 4] = value  # of no label of the target
        x[1, 3, 0, 0] = x[1, 0, 2, 0] = value  # beyond the sample's frames and labels
        loss, gradient = agree(x, *given(), reduction="none")
        assert loss.isnan().tolist() == [True, False, False]
        assert gradient[0].isnan().all()
    x[2, 0, 0] = -INF
    assert agree(x, *given(), reduction="none")[0].isnan().tolist() == [True, False, True]


BAD = {
    "label": ([[1, 2], [7, 0], [-1, -1]], FRAMES, LABELS),
    "blank": ([[1, 0], [3, 0], [-1, -1]], FRAMES, LABELS),
    "frames": ([[1, 2], [3, 0], [-1, -1]], [4, 5, 3], LABELS),
    "negative": ([[1, 2], [3, 0], [-1, -1]], [4, -2, 3], LABELS),
    "labels": ([[1, 2], [3, 0], [-1, -1]], FRAMES, [2, 3, 0]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_nan_and_told(case):
    args = [torch.tensor(x) for x in BAD[case]]
    loss, gradient = agree(batch(), *args, reduction="none")
    assert loss.isnan().sum() == 1
    assert gradient.isnan().flatten(1).all(1).equal(loss.isnan())
    told = losskit.last_violation()
    gpu.interpreted = False
    with pytest.raises(ValueError, match=r".") as refused:
        rnnt(batch().cpu(), *(y.cpu() for y in args), blank=0)
    assert told == str(refused.value)


def test_scores_are_no_log_probabilities():
    x = batch().log_softmax(3)
    x[1, 3, 0, 0] = 3.0  # a node that is not used
    assert rnnt(x, *given(), 0, fused_log_softmax=False).isfinite()
    assert losskit.last_violation() is None
    x[1, 1, 0, 4] = 3.0
    assert rnnt(x, *given(), 0, reduction="none", fused_log_softmax=False).isnan().tolist() == [False, True, False]
    assert losskit.last_violation() == (
        "rnnt_loss: logits must be log-probabilities (at most 0), got 3 at index (1, 1, 0, 4). Pass "
        "log_softmax(scores, dim=-1), or fused_log_softmax=True."
    )
    with losskit.checks("off"):
        assert rnnt(x, *given(), 0, fused_log_softmax=False).isfinite()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_backward_again_and_twice(reduction):
    x = batch(torch.float64)[:2, :3, :2, :3].clone().requires_grad_()
    args = [torch.tensor([[1], [2]]), torch.tensor([3, 2]), torch.tensor([1, 1])]
    loss = rnnt(x, *args, 0, reduction=reduction).sum()
    check_backward_again_and_twice(loss, x)


def test_the_host_does_not_wait(unwatched):
    x, args = batch(torch.float16).requires_grad_(), given()
    with unwatched:
        loss = rnnt(x, *args, 0, mask=torch.ones(3, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(loss * 2, x)
    assert gradient.isfinite().all()
