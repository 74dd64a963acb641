"""The autograd node in C++ beside the one in Python: the same bits, and the same answers to all that autograd may ask."""

import gc
import subprocess
import sys
import weakref

import pytest
import row_samples
import torch

import losskit
import losskit.functional as LF
from losskit.kernels import fused, library, node

DATA = {
    "mse_loss": lambda: (torch.randn(4, 3), torch.randn(4, 3)),
    "gaussian_nll_loss": lambda: (torch.randn(4, 3), torch.randn(4, 3), torch.rand(4, 3) + 0.1),
    "cross_entropy": lambda: (torch.randn(4, 3), torch.tensor([0, 2, -100, 1])),
    "cosine_embedding_loss": lambda: (torch.randn(4, 3), torch.randn(4, 3), torch.randn(4).sign()),
    "triplet_margin_loss": lambda: (torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)),
}


@pytest.fixture(params=["C++", "Python"])
def by(request, monkeypatch):
    """Either node."""
    assert node.on, node.why_not
    monkeypatch.setattr(node, "on", request.param == "C++")
    return request.param


def leaves(name, dtype=torch.float32):
    torch.manual_seed(0)
    tensors = [x.to(dtype) if x.is_floating_point() else x for x in DATA[name]()]
    return [x.requires_grad_(x.is_floating_point()) for x in tensors]


def found(call, operands, upstream=None):
    loss = call(*operands)
    loss.backward(upstream)
    return [loss.detach(), *(x.grad for x in operands)]


def same(a, b):
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        assert x is None or (x.dtype == y.dtype and torch.equal(x.nan_to_num(7), y.nan_to_num(7)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", DATA)
def test_the_same_bits(name, reduction, dtype, monkeypatch):
    def call(*operands):
        return getattr(LF, name)(*operands, reduction=reduction)

    shape = call(*leaves(name, dtype)).shape
    for upstream in [torch.ones(shape, dtype=dtype), torch.full(shape, 3.0, dtype=dtype)]:
        monkeypatch.setattr(node, "on", True)
        by_cpp = found(call, leaves(name, dtype), upstream)
        monkeypatch.setattr(node, "on", False)
        same(by_cpp, found(call, leaves(name, dtype), upstream))


@pytest.mark.parametrize("sample", row_samples.SAMPLES, ids=str)
def test_the_same_bits_of_rows(sample, monkeypatch):
    results = []
    for on in (True, False):
        monkeypatch.setattr(node, "on", on)
        operands = [x.requires_grad_(i in sample.gradients) for i, x in enumerate(sample.operands())]
        results.append(found(sample, operands))
    same(*results)


def test_who_runs(by):
    x, t = leaves("mse_loss")
    loss = LF.mse_loss(x, t)
    assert type(loss.grad_fn).__name__ == ("CppFunction" if by == "C++" else "FusedBackward")
    assert repr(loss).endswith("grad_fn=<FusedBackward>)")
    assert f"autograd in {by}" in losskit.why(losskit.MSELoss(), x, t).reason


def test_saved_tensors_go_through_hooks(by):
    x, t = leaves("mse_loss")
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda y: packed.append(y) or y, lambda y: y):
        LF.mse_loss(x, t).backward()
    assert len(packed) == 2


def test_a_graph_that_is_wanted_twice_and_differentiated(by):
    x, t = leaves("mse_loss", torch.float64)
    loss = LF.mse_loss(x, t)
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, torch.full_like(second, 2 / x.numel()))
    assert torch.autograd.gradgradcheck(LF.mse_loss, (x, t))
    (rows,) = torch.autograd.grad(LF.mse_loss(x, t), x, torch.tensor([1.0, 2.0], dtype=x.dtype), is_grads_batched=True)
    torch.testing.assert_close(rows[1], 2 * first.detach())


def test_only_what_is_asked_for(by):
    x, t = leaves("mse_loss")
    loss = LF.mse_loss(x, t)
    (of_target,) = torch.autograd.grad(loss, t)
    torch.testing.assert_close(of_target, 2 / x.numel() * (t - x).detach())
    assert loss.grad_fn.next_functions[0][0].variable is x


def test_operands_without_a_gradient(by):
    x, t = leaves("mse_loss")
    assert not LF.mse_loss(x.detach(), t.detach()).requires_grad
    with torch.no_grad():
        assert not LF.mse_loss(x, t).requires_grad
    with torch.inference_mode():
        assert LF.mse_loss(x, t).is_inference()


@pytest.mark.parametrize("way", ["vmap", "grad", "jvp", "trace", "subclass", "meta", "compile"])
def test_what_only_python_understands(by, way):
    """A call that something looks at gives what the formula gives."""
    x, t = (y.detach() for y in leaves("mse_loss"))
    LF.mse_loss(x, t)
    right = (x - t).square().mean()
    if way == "vmap":
        right, result = (x - t).square().mean(1), torch.func.vmap(LF.mse_loss)(x, t)
    elif way == "grad":
        right, result = 2 / x.numel() * (x - t), torch.func.grad(LF.mse_loss)(x, t)
    elif way == "jvp":
        right, result = (
            (2 * (x - t)).mean(),
            torch.func.jvp(lambda y: LF.mse_loss(y, t), (x,), (torch.ones_like(x),))[1],
        )
    elif way == "trace":
        result = torch.jit.trace(LF.mse_loss, (x + 1, t))(x, t)
    elif way == "subclass":

        class Marked(torch.Tensor):
            pass

        result = LF.mse_loss(x.as_subclass(Marked), t)
        assert type(result) is Marked
    elif way == "meta":
        assert LF.mse_loss(x.to("meta"), t.to("meta")).is_meta
        return
    else:
        result = torch.compile(LF.mse_loss, fullgraph=True, backend="eager")(x, t)
    torch.testing.assert_close(torch.as_tensor(result).as_subclass(torch.Tensor), right)


@pytest.mark.parametrize("bad", [torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])])
def test_bad_values_have_the_same_words(by, bad):
    p = torch.tensor([0.2, 0.3], requires_grad=True)
    if bad.isnan().any():
        assert LF.binary_cross_entropy(p, bad).isnan()
        return
    with pytest.raises(ValueError, match=r"target must be in \[0, 1\], got 2 at index \(1,\)"):
        LF.binary_cross_entropy(p, bad)


def test_dual_numbers(by):
    x, t = (y.detach() for y in leaves("mse_loss"))
    with torch.autograd.forward_ad.dual_level():
        loss = LF.mse_loss(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)), t)
        tangent = torch.autograd.forward_ad.unpack_dual(loss).tangent
    torch.testing.assert_close(tangent, (2 * (x - t)).mean())


def test_the_profiler_knows_a_call():
    x, t = leaves("mse_loss")
    LF.mse_loss(x, t)
    with torch.profiler.profile() as profile:
        LF.mse_loss(x, t).backward()
    names = {event.key for event in profile.key_averages()}
    assert {"losskit::pointwise", "FusedBackward"} <= {name.rpartition(" ")[2] for name in names}


def test_a_plan_dies_with_its_last_graph():
    x, t = leaves("mse_loss")
    criterion = losskit.HuberLoss(delta=0.123)
    loss = criterion(x, t)
    plan = weakref.ref(criterion._plan)
    losskit.HuberLoss._plans.clear()
    del criterion
    gc.collect()
    loss.backward(retain_graph=True)
    loss.backward()  # computed anew, which needs the plan
    assert plan() is not None
    del loss
    gc.collect()
    assert plan() is None


def test_gradients_from_a_thread(by):
    x, t = leaves("mse_loss")
    losses = [LF.mse_loss(x, t, reduction=reduction).sum() for reduction in ("none", "mean")]
    import threading

    errors = []

    def work(loss):
        try:
            loss.backward(retain_graph=True)
            loss.backward()
        except Exception as problem:
            errors.append(problem)

    threads = [threading.Thread(target=work, args=(loss,)) for loss in losses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    torch.testing.assert_close(x.grad, (4 + 4 / x.numel()) * (x - t).detach())


def test_an_error_in_a_second_backward_reaches_the_caller(by):
    x, t = leaves("mse_loss")
    loss = LF.mse_loss(x, t)
    loss.backward(retain_graph=True)
    with torch.no_grad():
        x.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_compiled_autograd(by):
    """Compiled autograd calls the C++ node as a function that it does not look into, and traces the Python one."""
    from torch._dynamo import compiled_autograd

    for _ in range(2):
        x, t = leaves("mse_loss")
        with compiled_autograd._enable(torch.compile(backend="eager")):
            LF.mse_loss(x, t).backward()
            LF.mse_loss(x.detach(), t).backward()  # the second operand alone is wanted
        torch.testing.assert_close(x.grad, 2 / x.numel() * (x - t).detach())
        torch.testing.assert_close(t.grad, -2 * x.grad)


def test_compiled_autograd_twice(by):
    """What a backward pass handed over it does not hand over again, also where the first one was compiled."""
    from torch._dynamo import compiled_autograd

    for upstream in (1.0, 3.0):
        for reduction in ("mean", "none"):
            x, t = leaves("mse_loss")
            loss = LF.mse_loss(x, t, reduction=reduction)
            given = torch.full_like(loss, upstream)
            with compiled_autograd._enable(torch.compile(backend="eager")):
                loss.backward(given, retain_graph=True)
                loss.backward(given)
            count = x.numel() if reduction == "mean" else 1
            torch.testing.assert_close(x.grad, 2 * upstream * 2 / count * (x - t).detach())


def test_without_the_library_the_node_is_pythons():
    program = (
        "import pathlib, torch\n"
        "pathlib.Path.exists = lambda path, real=pathlib.Path.exists: real(path) and 'node-' not in path.name\n"
        "import losskit\n"
        "x = torch.ones(2, requires_grad=True)\n"
        "loss = losskit.MSELoss()(x, torch.zeros(2))\n"
        "loss.backward()\n"
        "print(losskit.kernels.node.why_not, x.grad.tolist())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told == f"none was built for torch {torch.__version__} and this Python [1.0, 1.0]\n"


def test_a_node_that_knows_other_calls_than_the_library_is_not_used():
    """Their calls lie in memory as each was built to believe: the node would read what is elsewhere, and crash."""
    assert node._module.call_layout == library.call_layout() != 0
    program = (
        "import torch, losskit, losskit.machine\n"
        "from losskit.kernels import library, node\n"
        "assert node.on\n"
        "library.call_layout = lambda: 1\n"
        "x = torch.ones(2, requires_grad=True)\n"
        "loss = losskit.MSELoss()(x, torch.zeros(2))\n"
        "loss.backward()\n"
        "print(losskit.machine.facts()['autograd'], x.grad.tolist())\n"
        "print(losskit.why(losskit.MSELoss(), x, torch.zeros(2)))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "it was built from another version of losskit; install losskit again [1.0, 1.0]\n" in told
    assert "autograd in Python" in told


def test_a_kernel_refuses_nonsense():
    x = torch.ones(2)
    LF.mse_loss(x, x)
    native = losskit.MSELoss()._planned().native
    assert native is not None
    with pytest.raises(TypeError, match="3 to 6 arguments"):
        native(0)
    assert native(fused.code_of(losskit.MSELoss()._planned()), [], None) is None
    assert native(fused.code_of(losskit.MSELoss()._planned()), [x] * 9, None) is None
    assert native(fused.code_of(losskit.MSELoss()._planned()), ["x", x], None) is None
