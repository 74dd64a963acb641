"""CTC: derivatives of every kind, functorch, compile, meta tensors, the module."""

import pytest
import torch
from ctc_batches import MODES, both, ctc_loss
from tiers import full, rest

import losskit
from losskit.losses.ctc import CTCLoss


def small(from_scores=True):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)
    x = x if from_scores else x.log_softmax(2)
    return x.requires_grad_(), torch.tensor([[1, 2], [3, 3], [2, 1]]), torch.tensor([5, 4, 1]), torch.tensor([2, 2, 0])


@pytest.mark.parametrize(
    "reduction", rest(["none", "mean", "sum"], ["mean"], "sequences: 900 frames, and derivatives under every reduction")
)
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


@full("sequences: 900 frames, and derivatives under every reduction")
def test_many_frames_and_labels():
    """Long enough for rescaling, folding and, from peaked scores, for log space with every path counted."""
    generator = torch.Generator().manual_seed(11)
    targets = torch.randint(1, 9, (2, 150), generator=generator)
    for scale in (1.0, 30.0):
        x = scale * torch.randn(900, 2, 9, generator=generator)
        both(x.double(), targets, [900, 700], [150, 120], from_scores=True, reduction="sum", within=1e-10)
