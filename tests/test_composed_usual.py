"""The usual call of a composed loss: plain tensors without weights and masks, its gradients in every way of autograd."""

import pytest
import torch

import losskit
import losskit.functional as LF
from losskit.declaration import Operand
from losskit.losses import (
    approx_ndcg,
    barlow_twins,
    bi_tempered_logistic,
    evidential_classification,
    neural_ndcg,
    seesaw,
    vicreg,
)


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


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_a_gradient_that_is_an_operand_is_not_handed_over(reduction):
    x = torch.randn(3, 2, requires_grad=True)
    before = x.detach().clone()
    loss = HalfSquareOfTest(reduction)(x)
    torch.autograd.grad(loss, x, torch.ones_like(loss))[0].zero_()
    assert x.equal(before)


@pytest.mark.parametrize("upstream", [1.0, 3.0])
@pytest.mark.parametrize("loss", [LF.ssim_loss, HalfSquareOfTest("mean")], ids=["ssim", "half"])
def test_compiled_autograd_twice(loss, upstream):
    """What a backward pass handed over it does not hand over again, also where the first one was compiled."""
    from torch._dynamo import compiled_autograd

    x = torch.rand(2, 1, 11, 11) if loss is LF.ssim_loss else torch.rand(3, 2)
    given = [torch.rand_like(x)] if loss is LF.ssim_loss else []
    x.requires_grad_()
    (expected,) = torch.autograd.grad(loss(x, *given), x, torch.tensor(2 * upstream))
    value = loss(x, *given)
    with compiled_autograd._enable(torch.compile(backend="eager")):
        value.backward(torch.tensor(upstream), retain_graph=True)
        value.backward(torch.tensor(upstream))
    torch.testing.assert_close(x.grad, expected)


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
@pytest.mark.parametrize("items", [1, 3, 16, 33, 200, 600])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("name", "module", "temperature", "bar"),
    [("approx_ndcg_loss", approx_ndcg, 0.5, 2e-6), ("neural_ndcg_loss", neural_ndcg, 1.5, 1e-5)],
)
def test_the_kernels_of_ranks_agree_with_torch(name, module, temperature, bar, items, padded, dtype, monkeypatch):
    g = torch.Generator().manual_seed(items)
    x = torch.randn(3, 2, items, generator=g, dtype=dtype).mT.contiguous().mT  # a layout of its own
    x[1, 1, : items // 3] = x[1, 1, 0]  # ties
    target = torch.randint(0, 4, x.shape, generator=g).to(dtype)
    target[0, 0] = 0.0
    mask = torch.rand(x.shape, generator=g) < 0.7 if padded else None
    if padded:
        mask[2, 1] = False
    options = {"sinkhorn_iters": 9} if module is neural_ndcg else {}

    def call(dtype):
        wide = x.to(dtype).requires_grad_()
        loss = getattr(LF, name)(
            wide, target.to(dtype), element_mask=mask, temperature=temperature, reduction="none", **options
        )
        return loss.detach(), *torch.autograd.grad(loss.sum(), wide)

    found = call(dtype)
    monkeypatch.setattr(module, "missed_by_kernel", lambda *_: None)
    for got, expected in zip(found, call(torch.float64), strict=True):
        torch.testing.assert_close(got, expected, check_dtype=False, rtol=bar if dtype == torch.float32 else 1e-11,
                                   atol=1e-6 if dtype == torch.float32 else 1e-13)  # fmt: skip
    if mask is not None:
        assert not found[1][~mask].any()


@pytest.mark.parametrize("items", [50, 300])
@pytest.mark.parametrize("loss", [LF.approx_ndcg_loss, LF.neural_ndcg_loss])
def test_ranks_of_any_number_of_threads_and_scores_far_apart(loss, items):
    x = (40.0 * torch.randn(30, items)).requires_grad_()
    target = torch.randint(0, 4, x.shape).float()
    value, gradient = of_threads(lambda: loss(x, target), x)
    assert value.isfinite()
    assert gradient.isfinite().all()


def of_threads(call, *operands):
    """A loss and its gradients, which must have the same bits for several numbers of threads."""
    results, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            loss = call()
            results.append((loss, *torch.autograd.grad(loss, operands)))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    return results[0]


VIEWS = [(LF.barlow_twins_loss, barlow_twins, "correlations"), (LF.vicreg_loss, vicreg, "covariances")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 1), (5, 3), (3, 2, 30, 33), (1000, 12), (500, 130), (3000, 40)])
@pytest.mark.parametrize("far", [0.0, 1000.0])
@pytest.mark.parametrize(("loss", "module", "kernel"), VIEWS)
def test_the_kernels_of_views_agree_with_torch(loss, module, kernel, shape, far, dtype, monkeypatch):
    g = torch.Generator().manual_seed(len(shape) + shape[-1])
    x = torch.randn(shape, generator=g, dtype=dtype).mT.contiguous().mT + far
    y = x + 0.5 * torch.randn(shape, generator=g, dtype=dtype)

    def call(dtype):
        wide = x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
        value = loss(*wide, reduction="none")
        return value.detach(), *torch.autograd.grad(value.sum(), wide)

    found = call(dtype)
    monkeypatch.setattr(module, kernel, lambda *_: None)
    single = dtype == torch.float32
    for got, expected in zip(found, call(torch.float64), strict=True):
        bar = 4e-6 if single else 1e-10 if far else 1e-12
        scale = expected.abs().max().item()
        torch.testing.assert_close(got, expected, check_dtype=False, rtol=bar, atol=bar * scale)


@pytest.mark.parametrize(("loss", "module", "kernel"), VIEWS)
def test_views_of_any_number_of_threads(loss, module, kernel):
    x, y = (torch.randn(2, 3000, 50, requires_grad=True) for _ in range(2))
    of_threads(lambda: loss(x, y), x, y)


def test_correlations_of_huge_and_of_tiny_features():
    """Squares of these are no numbers of float32; correlations are, and the gradient shrinks as features grow."""
    x, y = torch.randn(2, 40, 5, dtype=torch.float64).unbind()

    def call(dtype, factor):
        wide = (x * factor).to(dtype).requires_grad_(), (y * factor).to(dtype).requires_grad_()
        value = LF.barlow_twins_loss(*wide)
        return value.detach(), *torch.autograd.grad(value, wide)

    for factor in (1e20, 1e-20):
        found, expected = call(torch.float32, factor), call(torch.float64, factor)
        for got, right in zip(found, expected, strict=True):
            torch.testing.assert_close(got, right, check_dtype=False, rtol=1e-4, atol=1e-6 * right.abs().max().item())
        without_gradient = LF.barlow_twins_loss((x * factor).float(), (y * factor).float())
        torch.testing.assert_close(without_gradient, found[0], rtol=1e-4, atol=0.0)


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
