"""A batch for CTC with everything that lengths and targets may be, and both implementations on it."""

import torch

import losskit
from losskit.kernels.choice import from_kernel
from losskit.losses.ctc import CTCLoss
from losskit.plans import plan_of

ctc_loss = CTCLoss.functional
MODES = [{}, {"exact_gradient": True}, {"from_scores": True}]
NAN, INF = float("nan"), float("inf")


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
