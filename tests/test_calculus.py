"""Derivatives of every order, and every transform: torch.func, torch.compile, torch.export, autocast."""

import pytest
import samples
import torch
from torch.func import grad, hessian, jvp, vmap

import losskit
import losskit.functional as LF
from losskit.formula import absolute, power, stop


def prediction(setup, shape=(3, 4)):
    """A double-precision prediction that needs a gradient, the loss as a function of it, and its fixed operands."""
    first, *rest = setup.operands(shape, seed=1)
    return first.requires_grad_(), lambda x: setup(x, *rest)


@pytest.mark.parametrize("setup", samples.everything())
def test_first_and_second_derivatives(setup):
    if setup.formula.stopped:
        pytest.skip("its gradient is not that of its value")
    x, loss = prediction(setup)
    torch.autograd.gradcheck(loss, [x], check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(loss, [x], check_batched_grad=True)


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("setup", samples.everything("elements: gradients of every loss by every way of torch"))
def test_other_reductions(setup, reduction):
    if setup.formula.stopped:
        pytest.skip("its gradient is not that of its value")
    first, *rest = setup.operands((3, 4), seed=2)
    torch.autograd.gradcheck(lambda x: setup(x, *rest, reduction=reduction), [first.requires_grad_()])


@pytest.mark.parametrize("setup", samples.everything())
def test_gradient_by_every_operand(setup):
    if setup.formula.stopped:
        pytest.skip("its gradient is not that of its value")
    operands = setup.operands((2, 3), seed=3)
    for x, name in zip(operands, setup.names):
        x.requires_grad_(setup.loss.operands[name].differentiable)
    if "target" in setup.loss.operands and setup.domain("target") is losskit.signs:
        operands[-1].requires_grad_(False)  # labels are not continuous
    if "eps" in setup.params and setup.loss is losskit.GaussianNLLLoss:
        operands[2].data.add_(1.0)  # below eps the gradient passes straight through: no finite difference sees that
    with losskit.checks("off"):  # finite differences step out of the domain
        torch.autograd.gradcheck(setup, operands)


@pytest.mark.parametrize("setup", samples.everything("elements: gradients of every loss by every way of torch"))
def test_create_graph_gives_the_kernels_gradient(setup):
    x, loss = prediction(setup)
    (plain,) = torch.autograd.grad(loss(x), x)
    (differentiable,) = torch.autograd.grad(loss(x), x, create_graph=True)
    # The gradient of 'apo_down' is a difference of two slopes of up to beta / 4, divided by the 12 elements.
    atol = 1e-15 * 0.1 / 4 / 12 if setup.params.get("loss_type") == "apo_down" else 1e-300
    torch.testing.assert_close(differentiable, plain, rtol=1e-14, atol=atol)


@pytest.mark.parametrize("name", ["kl_div", "cross_entropy"])
def test_forward_mode_beside_a_constant_with_an_infinite_slope(name):
    """By a target of 0 the slope is infinite; a target that nothing moves has no part in the derivative."""
    scores = torch.tensor([[0.5, -1.0, 2.0, 0.25]], dtype=torch.float64)
    target = torch.tensor([[0.75, 0.0, 0.25, 0.0]], dtype=torch.float64)
    if name == "cross_entropy":
        scores[0, 3] = -torch.inf
    x = scores if name == "cross_entropy" else scores.log_softmax(-1)
    loss = lambda x: getattr(LF, name)(x, target, reduction="sum")
    tangent = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
    value, slope = jvp(loss, (x,), (tangent,))
    assert slope.isfinite()
    torch.testing.assert_close(value, loss(x))
    torch.testing.assert_close(slope, (grad(loss)(x) * tangent).sum())


@pytest.mark.parametrize("setup", samples.everything("elements: gradients of every loss by every way of torch"))
def test_torch_func(setup):
    x, loss = prediction(setup)
    (expected,) = torch.autograd.grad(loss(x), x)
    x = x.detach()
    torch.testing.assert_close(grad(loss)(x), expected)
    tangent = torch.ones_like(x)
    value, slope = jvp(loss, (x,), (tangent,))
    torch.testing.assert_close(value, loss(x))
    torch.testing.assert_close(slope, expected.sum())
    batch = torch.stack([x, x.clone()])
    torch.testing.assert_close(vmap(loss)(batch), torch.stack([loss(x), loss(x)]))
    torch.testing.assert_close(vmap(grad(loss))(batch), torch.stack([expected, expected]))
    second = hessian(loss)(x).reshape(x.numel(), x.numel())
    torch.testing.assert_close(second, second.T)
    diagonal = torch.autograd.functional.hessian(loss, x).reshape_as(second)
    torch.testing.assert_close(second, diagonal)


@pytest.mark.parametrize("setup", samples.everything("elements: gradients of every loss by every way of torch"))
def test_compile_and_export(setup):
    torch._dynamo.reset()
    x, _ = prediction(setup)
    rest = setup.operands((3, 4), seed=1)[1:]
    function, kwargs = setup.loss.functional, setup.kwargs(x)
    compiled = torch.compile(lambda *operands: function(*operands, **kwargs), fullgraph=True, backend="aot_eager")
    expected = setup(x, *rest)
    loss = compiled(x, *rest)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(expected, x))
    module = Wrapped(setup.loss(**kwargs))
    exported = torch.export.export(module, (x.detach(), *rest)).module()
    torch.testing.assert_close(exported(x.detach(), *rest), expected.detach())


class Wrapped(torch.nn.Module):
    """A model whose forward is a loss."""

    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion

    def forward(self, *operands):
        return self.criterion(*operands)


@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "gaussian_nll_loss"])
def test_inductor_with_weights_and_mask(name):
    torch._dynamo.reset()
    setup = samples.Setup(losskit.get(name))
    operands = setup.operands((8, 16), torch.float32)
    extra = {"sample_weight": torch.rand(8, 16), "mask": torch.rand(8, 16) < 0.7, "normalizer": 50.0}
    x = operands[0].requires_grad_()
    loss = torch.compile(lambda: setup.loss.functional(*operands, **extra), fullgraph=True)()
    expected = setup(*operands, **extra)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(expected, x))


@pytest.mark.parametrize("delta", [0.123, 0.456])
def test_compiled_before_it_ever_ran(delta):
    torch._dynamo.reset()
    x, t = torch.randn(5, requires_grad=True), torch.randn(5)
    for criterion in (losskit.HuberLoss(delta=delta), lambda x, t: LF.huber_loss(x, t, delta=delta + 1)):
        loss = torch.compile(criterion, fullgraph=True, backend="aot_eager")(x, t)
        torch.testing.assert_close(loss, criterion(x, t))


def test_compiled_checks_are_eager_checks():
    """Also inside a graph a bad value is refused in the same words, with its index."""
    torch._dynamo.reset()
    probability, target = torch.tensor([0.5, 1.5]), torch.tensor([0.0, 1.0])
    compiled = torch.compile(LF.binary_cross_entropy, fullgraph=True, backend="aot_eager")
    messages = []
    for function in (LF.binary_cross_entropy, compiled, lambda p, t: vmap(LF.binary_cross_entropy)(p[None], t[None])):
        with pytest.raises(ValueError, match=r"input must be in \[0, 1\], got 1.5 at index") as caught:
            function(probability, target)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with losskit.checks("nan"):
        torch._dynamo.reset()
        assert compiled(probability, target).isnan()


@pytest.mark.parametrize("setup", samples.everything("elements: gradients of every loss by every way of torch"))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(setup, dtype):
    """Under autocast a loss of halves is float32, its gradient has the dtype of the prediction."""
    operands = setup.operands((3, 4), dtype)
    x = operands[0].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = setup(*operands)
    loss.backward()
    assert loss.dtype == torch.float32
    assert x.grad.dtype == dtype
    assert setup(*operands).dtype == dtype
    with losskit.checks("off"):
        wide = setup(*[x.detach().float() for x in operands])
    torch.testing.assert_close(loss.detach(), wide, rtol=1e-6, atol=1e-7)


def test_no_gradient_work_without_grad(monkeypatch):
    from losskit.kernels import fused, node, wire

    codes = []
    monkeypatch.setattr(node, "on", False)
    real = torch.ops.losskit.pointwise.default._op
    monkeypatch.setitem(fused._ops, "pointwise", lambda *args: codes.append(args[1]) or real(*args))
    x, t = torch.randn(5, requires_grad=True), torch.randn(5)
    with torch.no_grad():
        loss = LF.mse_loss(x, t)
    assert not loss.requires_grad
    LF.mse_loss(x, t)
    wanted = [wire.OPTIONS.unpack(code)["gradients"] for code in codes]
    assert wanted == [0, 1]


class TestBackward:
    """What autograd may ask of a gradient that was written in the forward pass."""

    @pytest.fixture(params=["C++", "Python"], autouse=True)
    def by_either_node(self, request, monkeypatch):
        from losskit.kernels import node

        assert node.on, node.why_not
        monkeypatch.setattr(node, "on", request.param == "C++")

    def make(self, reduction="mean"):
        x = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
        return x, LF.mse_loss(x, torch.zeros(3), reduction=reduction)

    def test_upstream_gradient_other_than_one(self):
        x, loss = self.make()
        (3.0 * loss).backward()
        assert x.grad.tolist() == [2.0, 4.0, 8.0]

    def test_retained_graph_three_times(self):
        """The first backward hands the gradient over; later ones must not see what .grad became."""
        x, loss = self.make("sum")
        for _ in range(3):
            loss.backward(retain_graph=True)
        assert x.grad.tolist() == [6.0, 12.0, 24.0]

    def test_second_backward_without_retaining_is_refused(self):
        _, loss = self.make()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()

    def test_an_operand_that_changes_after_the_call(self):
        """The first backward has its gradient from the call; one that computes it anew is refused."""
        x = torch.ones(3, requires_grad=True)
        t = torch.zeros(3)
        loss = LF.mse_loss(x, t, reduction="none")
        t.add_(1.0)
        loss.sum().backward(retain_graph=True)
        assert x.grad.tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.sum().backward()

    def test_inputs_are_never_written(self):
        x, t = torch.randn(2000, requires_grad=True), torch.randn(2000)
        kept = x.detach().clone(), t.clone()
        LF.huber_loss(x, t, reduction="sum").backward()
        assert torch.equal(x, kept[0])
        assert torch.equal(t, kept[1])

    def test_accumulation_into_an_existing_gradient(self):
        x, loss = self.make("sum")
        x.grad = torch.ones(3)
        loss.backward()
        assert x.grad.tolist() == [3.0, 5.0, 9.0]

    def test_batched_upstream(self):
        x, loss = self.make("none")
        (rows,) = torch.autograd.grad(loss, x, torch.eye(3), is_grads_batched=True)
        assert rows.tolist() == [[2.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 8.0]]

    def test_infinite_upstream(self):
        x, loss = self.make()
        loss.backward(torch.tensor(torch.inf))
        assert x.grad.tolist() == [torch.inf] * 3
        half = torch.tensor([1.0, -2.0], dtype=torch.float16, requires_grad=True)
        LF.mse_loss(half, torch.zeros(2, dtype=torch.float16)).backward(torch.tensor(torch.inf, dtype=torch.float16))
        assert half.grad.tolist() == [torch.inf, -torch.inf]

    def test_gradient_by_a_weight_and_the_normalizer(self):
        x, t = torch.rand(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
        weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
        normalizer = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(lambda w: LF.mse_loss(x, t, weight=w), [weight])
        torch.autograd.gradcheck(lambda w: LF.mse_loss(x, t, sample_weight=w), [weight])
        torch.autograd.gradcheck(lambda n: LF.mse_loss(x, t, normalizer=n), [normalizer])
        pos_weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(
            lambda w: LF.binary_cross_entropy_with_logits(-x.expand(3, 4), t.expand(3, 4), pos_weight=w), [pos_weight]
        )

    def test_loss_in_a_model_trains_like_torch(self):
        torch.manual_seed(0)
        inputs, target = torch.randn(64, 5), (torch.rand(64, 1) < 0.5).float()
        results = []
        for criterion in (torch.nn.BCEWithLogitsLoss(), losskit.BCEWithLogitsLoss()):
            torch.manual_seed(1)
            model = torch.nn.Linear(5, 1)
            optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
            for _ in range(50):
                optimiser.zero_grad()
                criterion(model(inputs), target).backward()
                optimiser.step()
            results.append(model.weight.detach().clone())
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------
# stop


class StoppedWeightLoss(losskit.PointwiseLoss):
    """A squared error weighted by a power of itself, which is no part of the gradient."""

    @staticmethod
    def value(input, target):
        d = input - target
        return power(stop(absolute(d)), 0.5) * d * d


def detached(x, t):
    d = x - t
    return (d.abs().detach() ** 0.5 * d * d).mean()


def frozen(at, t):
    """The same loss with the weight that it has at one point: what finite differences can see."""
    weight = (at - t).abs().detach() ** 0.5
    return lambda x: (weight * (x - t) ** 2).mean()


@pytest.mark.parametrize("path", ["fused", "eager"])
def test_what_stop_holds_is_a_constant(path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x, t = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    x.requires_grad_()
    ours = StoppedWeightLoss()
    extras = {} if path == "fused" else {"sample_weight": torch.ones(3, 4, dtype=torch.float64, requires_grad=True)}
    loss = ours(x, t, **extras)
    torch.testing.assert_close(loss, detached(x, t))
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (wanted,) = torch.autograd.grad(detached(x, t), x, create_graph=True)
    torch.testing.assert_close(first, wanted)
    direction = torch.randn_like(x)
    (second,) = torch.autograd.grad(first, x, direction, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(wanted, x, direction)[0])
    by_differences = frozen(x, t)
    torch.autograd.gradcheck(by_differences, [x])
    torch.testing.assert_close(first, torch.autograd.grad(by_differences(x), x)[0])


def test_stop_under_transforms():
    x, t = torch.randn(2, 5, dtype=torch.float64).unbind()
    ours = StoppedWeightLoss()
    torch.testing.assert_close(grad(ours)(x, t), grad(detached)(x, t))
    torch.testing.assert_close(vmap(grad(ours))(x, t), vmap(grad(detached))(x, t))
    torch.testing.assert_close(hessian(ours)(x, t), hessian(detached)(x, t))
    ones = torch.ones_like(x)
    torch.testing.assert_close(jvp(lambda x: ours(x, t), (x,), (ones,)), jvp(lambda x: detached(x, t), (x,), (ones,)))


def test_stop_when_compiled():
    x, t = torch.randn(2, 5, dtype=torch.float64).unbind()
    x.requires_grad_()
    compiled = torch.compile(StoppedWeightLoss(), fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x, t), x)[0], torch.autograd.grad(detached(x, t), x)[0])
