"""GRPO and its relatives: what "mean" divides by, and the level of the ratio, are arguments of one call."""

import pytest
import torch

import losskit
import losskit.functional as LF

now = torch.tensor([[-1.0, -2.0, -0.5], [-1.5, -0.3, -0.7]], dtype=torch.float64)
old = torch.tensor([[-1.1, -2.3, -0.5], [-1.2, -0.3, -0.9]], dtype=torch.float64)
ref = torch.tensor([[-1.2, -2.0, -0.6], [-1.4, -0.4, -0.7]], dtype=torch.float64)
advantage = torch.tensor([1.0, -1.0], dtype=torch.float64)
mask = torch.tensor([[True, True, True], [True, True, False]])
length = mask.sum(1, keepdim=True).double()
per_answer = {"sample_weight": 1 / length, "normalizer": len(mask)}


def gspo(x):
    """The ratio of an answer is that of means over its tokens; the divergence is of tokens."""
    mean = lambda y: (y * mask).sum(1) / length[:, 0]
    of_answers = LF.grpo_loss(mean(x), mean(old), advantage)
    return of_answers + LF.grpo_loss(x, old, torch.zeros_like(advantage), ref, beta=0.04, mask=mask, **per_answer)


METHODS = {  # with mpmath
    "grpo": (lambda x: LF.grpo_loss(x, old, advantage, ref, beta=0.04, mask=mask, **per_answer), -0.1006046151774709),
    "dapo": (lambda x: LF.grpo_loss(x, old, advantage, ref, beta=0.04, mask=mask), -0.3007655715573251),
    "dr_grpo": (
        lambda x: LF.grpo_loss(x, old, advantage, ref, beta=0.04, mask=mask, normalizer=2 * 3),
        -0.2506379762977709,
    ),
    "gspo": (gspo, -0.1407042131834567),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods(method):
    loss, expected = METHODS[method]
    x = now.clone().requires_grad_()
    value = loss(x)
    assert value.item() == pytest.approx(expected, rel=1e-14)
    torch.autograd.gradcheck(loss, [x])
    value.backward()
    assert x.grad[1, 2] == 0.0  # padding


def test_padding_may_be_anything():
    x, padded = now.clone().requires_grad_(), ref.masked_fill(~mask, -torch.inf)
    loss = LF.grpo_loss(x, old.masked_fill(~mask, 5.0), advantage, padded, beta=0.04, mask=mask)
    assert loss.item() == pytest.approx(METHODS["dapo"][1], rel=1e-14)
    loss.backward()
    assert x.grad.isfinite().all()


def test_cispo_weighs_log_probabilities():
    x = now.clone().requires_grad_()
    LF.grpo_loss(x, old, advantage, loss_type="cispo", epsilon_high=0.1, reduction="sum").backward()
    weight = (now - old).exp().clamp(max=1.1)
    torch.testing.assert_close(x.grad, -weight * advantage[:, None])
    losses = losskit.GRPOLoss(loss_type="cispo", epsilon_high=0.1, reduction="none")(now, old, advantage)
    torch.testing.assert_close(losses, -weight * advantage[:, None] * now)


def test_the_reference_may_be_missing():
    without = losskit.GRPOLoss(reduction="none")(now, old, advantage)
    torch.testing.assert_close(losskit.GRPOLoss(reduction="none")(now, old, advantage, ref), without)
    with pytest.raises(ValueError, match=r"beta must be 0\.0 without ref_log_prob, got 0\.04"):
        losskit.GRPOLoss(beta=0.04)(now, old, advantage)
    with pytest.raises(ValueError, match=r"epsilon_low must be 0\.2 with loss_type='cispo', got 0\.1"):
        losskit.GRPOLoss(epsilon_low=0.1, loss_type="cispo")(now, old, advantage)


def test_why_knows_whether_the_reference_is_there():
    x = now.clone().requires_grad_()
    assert losskit.why(losskit.GRPOLoss(beta=0.04), x, old, advantage, ref).implementation == "fused CPU kernel"
    assert losskit.why(losskit.GRPOLoss(), x, old, advantage, None).implementation == "fused CPU kernel"
