"""The usual call of a composed loss: plain tensors without weights and masks, its gradients in every way of autograd."""

import pytest
import torch

import losskit
import losskit.functional as LF
from losskit.declaration import Operand
from losskit.losses import approx_ndcg, bi_tempered_logistic, evidential_classification, seesaw


class HalfSquareOfTest(losskit.ComposedLoss):
    """Half of the squared length of rows; their gradient is the operand itself, which nobody may overwrite."""

    operands = {"input": Operand("Rows.", shape="(N, D)")}
    unit = "(N,)"
    equations = {"loss": ("l", "l")}

    @staticmethod
    def value(input):
        return 0.5 * input.square().sum(-1)

    @staticmethod
    def value_and_grad(input):
        return 0.5 * input.square().sum(-1), {"input": input}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_gradient_that_is_an_operand(reduction):
    x = torch.randn(3, 2, requires_grad=True)
    before = x.detach().clone()
    loss = HalfSquareOfTest(reduction)(x)
    (gradient,) = torch.autograd.grad(loss, x, torch.full_like(loss, 6.0))
    assert x.equal(before)
    torch.testing.assert_close(gradient, before * (2.0 if reduction == "mean" else 6.0))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    ("loss", "given"),
    [
        (LF.bi_tempered_logistic_loss, (torch.tensor([0, 3, 1, 1, 2]),)),
        (LF.approx_ndcg_loss, (torch.tensor([[0.0, 1.0, 2.0, 1.0], [0.0] * 4, [3.0, 0.0, 0.0, 0.0]]),)),
        (LF.vicreg_loss, (torch.arange(20.0).reshape(5, 4).sin(),)),
    ],
)
def test_backward_in_every_way(loss, given, reduction):
    """Gradients are handed over once; those of a second backward, of several upstreams, differentiable ones are alike."""
    x = torch.randn(3 if loss is LF.approx_ndcg_loss else 5, 4, dtype=torch.float64, requires_grad=True)
    given = [y.double() if y.is_floating_point() else y for y in given]
    value = loss(x, *given, reduction=reduction)
    general = loss(x, *given, reduction=reduction, mask=torch.tensor(True))
    torch.testing.assert_close(value, general)
    upstream = torch.randn_like(value)
    (expected,) = torch.autograd.grad(general, x, upstream, retain_graph=True)
    batch = torch.stack([upstream, 2.0 * upstream])
    (several,) = torch.autograd.grad(value, x, batch, retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(several, torch.stack([expected, 2.0 * expected]))
    for _ in range(2):
        (found,) = torch.autograd.grad(value, x, upstream, retain_graph=True)
        torch.testing.assert_close(found, expected)
        found.zero_()  # it is the user's
    (found,) = torch.autograd.grad(value, x, upstream, create_graph=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), x)[0],
        torch.autograd.grad(torch.autograd.grad(general, x, upstream, create_graph=True)[0].square().sum(), x)[0],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("items", [1, 3, 16, 33, 200])
@pytest.mark.parametrize("padded", [False, True])
def test_the_kernel_of_soft_ranks_agrees_with_torch(items, padded, dtype, monkeypatch):
    g = torch.Generator().manual_seed(items)
    x = torch.randn(3, 2, items, generator=g, dtype=dtype).mT.contiguous().mT  # a layout of its own
    target = torch.randint(0, 4, x.shape, generator=g).to(dtype)
    target[0, 0] = 0.0
    mask = torch.rand(x.shape, generator=g) < 0.7 if padded else None

    def call(dtype):
        wide = x.to(dtype).requires_grad_()
        loss = LF.approx_ndcg_loss(wide, target.to(dtype), element_mask=mask, temperature=0.5, reduction="none")
        return loss.detach(), *torch.autograd.grad(loss.sum(), wide)

    found = call(dtype)
    monkeypatch.setattr(approx_ndcg, "missed_by_kernel", lambda *_: None)
    for got, expected in zip(found, call(torch.float64), strict=True):
        torch.testing.assert_close(got, expected, check_dtype=False, rtol=2e-6 if dtype == torch.float32 else 1e-12,
                                   atol=1e-7 if dtype == torch.float32 else 1e-14)  # fmt: skip
    if mask is not None:
        assert not found[1][~mask].any()


def test_soft_ranks_of_any_number_of_threads_and_scores_far_apart():
    x = (40.0 * torch.randn(300, 50)).requires_grad_()
    target = torch.randint(0, 4, x.shape).float()
    results, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            loss = LF.approx_ndcg_loss(x, target)
            results.append((loss, *torch.autograd.grad(loss, x)))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][1].isfinite().all()


def by_torch(module, name, monkeypatch, call):
    """What a call gives by the kernel in its own dtype, and by torch in double."""
    found = call(torch.float32), call(torch.float64)
    monkeypatch.setattr(module, name, lambda *_: None)
    return found, call(torch.float64)


@pytest.mark.parametrize(("shape", "t2", "scale"), [((9, 3), 1.2, 1.0), ((5, 300), 4.0, 30.0), ((3, 1), 2.0, 1.0),
                                                    ((2, 1500), 1.001, 100.0), ((20, 17), 1.0, 5.0)])  # fmt: skip
def test_the_kernel_of_tempered_softmaxes_agrees_with_torch(shape, t2, scale, monkeypatch):
    x, target = scale * torch.randn(shape), torch.randint(0, shape[1], shape[:1])

    def call(dtype):
        wide = x.to(dtype).requires_grad_()
        loss = LF.bi_tempered_logistic_loss(wide, target, t2=t2, reduction="none")
        return loss.detach(), *torch.autograd.grad(loss.sum(), wide)

    (single, double), expected = by_torch(bi_tempered_logistic, "shift_by_kernel", monkeypatch, call)
    for got, other, right in zip(single, double, expected, strict=True):
        torch.testing.assert_close(other, right, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(got, right, check_dtype=False, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("reg_weight", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(6, 10), (2, 3, 1), (4, 33)])
def test_the_kernel_of_shares_agrees_with_torch(shape, reg_weight, monkeypatch):
    x, target = 3.0 * torch.rand(shape), torch.randint(0, shape[-1], shape[:-1])

    def call(dtype):
        wide = x.to(dtype).requires_grad_()
        loss = LF.evidential_classification_loss(wide, target, reg_weight=reg_weight, reduction="none")
        return loss.detach(), *torch.autograd.grad(loss.sum(), wide)

    (single, double), expected = by_torch(evidential_classification, "share_by_kernel", monkeypatch, call)
    for got, other, right in zip(single, double, expected, strict=True):
        torch.testing.assert_close(other, right, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(got, right, check_dtype=False, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize(("p", "q"), [(0.8, 2.0), (0.0, 0.0), (9.0, 0.5)])  # 9: logarithms of powers are far apart
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("shape", [(6, 10), (300, 7), (2, 1), (3, 1500), (2, 5, 3, 4)])
def test_the_kernel_of_compensated_softmaxes_agrees_with_torch(shape, scale, p, q, monkeypatch):
    x, target = scale * torch.randn(shape), torch.randint(0, shape[1], (shape[0], *shape[2:]))
    counts = (1.0 + 1e4 * torch.rand(shape[1]) ** 8).double()
    if shape[1] > 1:
        x[0, 0], x[1, -1] = -torch.inf, torch.nan

    def call(dtype):
        wide = x.to(dtype).requires_grad_()
        loss = LF.seesaw_loss(wide, target, counts.to(dtype), p=p, q=q, reduction="none")
        return loss.detach(), *torch.autograd.grad(loss.sum(), wide)

    (single, double), expected = by_torch(seesaw, "compensated_by_kernel", monkeypatch, call)
    for got, other, right in zip(single, double, expected, strict=True):
        torch.testing.assert_close(other, right, rtol=1e-11, atol=1e-13, equal_nan=True)
        torch.testing.assert_close(got, right, check_dtype=False, rtol=3e-5, atol=1e-6, equal_nan=True)


def test_why_says_what_has_a_kernel():
    x = torch.randn(2, 5)
    assert "ranks, discounts and the gradient of them in a fused CPU kernel" in str(
        losskit.why(losskit.ApproxNDCGLoss(), x, x.abs())
    )
