"""The node behind a loss on a GPU, in C++ and in Python: the same bits, and the same answers to all that autograd asks."""

import gc
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch

import losskit
import losskit.functional as LF
from losskit.kernels import gpu, node
from losskit.kernels.gpu import recording

pytestmark = pytest.mark.usefixtures("repeating")

CLASSES = torch.tensor([0, 2, -100, 1, 2])
CALLS = {
    "mse": (lambda x, y, **k: LF.mse_loss(x, y, **k), 2),
    "weighed mse": (lambda x, y, **k: LF.mse_loss(x, y, sample_weight=x.detach().abs(), **k), 2),
    "masked mse": (lambda x, y, **k: LF.mse_loss(x, y, mask=y.detach() > 0, **k), 2),
    "cross entropy": (lambda x, **k: LF.cross_entropy(x, CLASSES.to(x.device), **k), 1),
    "weighed cross entropy": (
        lambda x, **k: LF.cross_entropy(x, CLASSES.to(x.device), x.new_tensor([1.0, 2.0, 3.0]), **k),
        1,
    ),
    "triplet": (lambda *rows, **k: LF.triplet_margin_loss(*rows, **k), 3),
}  # fmt: skip


def leaves(count, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(5, 3).to(dtype).requires_grad_() for _ in range(count)]


def found(call, operands, factor, **options):
    loss = call(*operands, **options)
    loss.backward(torch.full_like(loss, factor))
    return [loss.detach(), *(x.grad for x in operands)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", CALLS)
def test_the_same_bits(name, reduction, dtype, monkeypatch):
    """Of a first call and of one that may be repeated; by upstream gradients that are 1 and that are not."""
    call, count = CALLS[name]
    for factor in (1.0, 3.0):
        for seed in (0, 1):
            results = []
            for on in (node.on, False):
                with monkeypatch.context() as patch:
                    patch.setattr(node, "on", on)
                    results.append(found(call, leaves(count, dtype, seed), factor, reduction=reduction))
            for a, b in zip(*results, strict=True):
                assert a.dtype == b.dtype
                assert torch.equal(a, b)


def twice(*operands):
    """A call that the ones before it have taught."""
    for _ in range(2):
        loss = LF.mse_loss(*operands)
    return loss


def test_who_runs(by):
    x, y = leaves(2)
    loss = twice(x, y)
    assert type(loss.grad_fn).__name__ == ("CppFunction" if by == "C++" else "FusedOnGpuBackward")
    assert f"autograd in {by}" in losskit.why(losskit.MSELoss(), x, y).reason


def test_no_python_of_losskit_prepares_a_repeated_launch(by, monkeypatch):
    """Forward and backward, the launches themselves left out."""
    real = recording.Recorder.recording

    def without_launches(recorder, outputs):
        made = real(recorder, outputs)
        made.steps[:] = [step._replace(launch=abs, arguments=[0], tensors=[], stream=None) for step in made.steps]
        return made

    monkeypatch.setattr(recording.Recorder, "recording", without_launches)
    x, y = leaves(2)
    twice(x, y).backward()
    entered = []

    def event(frame, kind, _):
        path = Path(frame.f_code.co_filename)
        if kind == "call" and path.parent.name == "gpu" and "kernels" in path.parts:
            entered.append(frame.f_code.co_name)

    sys.setprofile(event)
    try:
        LF.mse_loss(x, y).backward()
    finally:
        sys.setprofile(None)
    assert (not entered) == (by == "C++"), entered


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_backward_is_repeated_too(reduction, dtype, by, seen):
    """What backward launches: 'none' computes the gradient, bf16 is multiplied by a kernel, f16 is computed anew."""
    x, y = leaves(2, dtype)
    for _ in range(3):
        LF.mse_loss(x, y, reduction=reduction).sum().backward()
    launched = reduction == "none" or dtype == torch.float16 or (dtype == torch.bfloat16 and by == "C++")
    assert seen == {"noted": 2 if launched else 1, "repeated": 4 if launched else 2}


def test_several_small_gradients_are_multiplied_in_one_launch(by):
    """By either node the same bits; torch counts its ops."""
    x, y, z = leaves(3)
    for _ in range(2):
        loss = LF.triplet_margin_loss(x, y, z)
    with torch.profiler.profile() as profile:
        loss.backward(torch.full_like(loss, 2.0))
    ops = [event.key for event in profile.key_averages()]
    assert ("aten::_foreach_mul_" in ops) == (by == "C++")


def test_the_host_never_waits(by, unwatched):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, y = leaves(2, dtype)
        for reduction in ("mean", "none"):
            LF.mse_loss(x, y, reduction=reduction).sum().backward()
            with unwatched:
                LF.mse_loss(x, y, reduction=reduction).sum().backward()


def test_profilers_see_every_launch(by, seen):
    hook = []
    x, y = leaves(2)
    twice(x, y)
    assert seen["repeated"] == 1
    recording.HOOKS[0].append(hook.append)
    try:
        LF.mse_loss(x, y).backward()
    finally:
        recording.HOOKS[0].remove(hook.append)
    assert seen["repeated"] == 1
    LF.mse_loss(x, y).backward()
    assert seen["repeated"] == 2


def test_saved_tensors_go_through_hooks(by):
    x, y = leaves(2)
    for _ in range(2):
        packed = []
        with torch.autograd.graph.saved_tensors_hooks(lambda z, packed=packed: packed.append(z) or z, lambda z: z):
            LF.mse_loss(x, y).backward()
        assert len(packed) == 2


@pytest.mark.parametrize("options", [{}, {"sample_weight": 2.0}], ids=["repeated", "not repeated"])
def test_a_graph_that_is_wanted_twice_and_differentiated(options, by):
    x, y = leaves(2, torch.float64)
    options = {name: torch.full_like(x, value).detach() for name, value in options.items()}
    for _ in range(2):
        loss = LF.mse_loss(x, y, **options)
    (kept,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(kept, again)
    assert kept.data_ptr() != again.data_ptr()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, torch.full_like(second, 2 / x.numel()))
    upstreams = torch.tensor([1.0, 2.0], dtype=x.dtype, device=x.device)
    (rows,) = torch.autograd.grad(LF.mse_loss(x, y, **options), x, upstreams, is_grads_batched=True)
    torch.testing.assert_close(rows[1], 2 * kept)


def test_only_what_is_asked_for(by):
    x, y = leaves(2)
    loss = twice(x, y)
    (of_target,) = torch.autograd.grad(loss, y, retain_graph=True)
    torch.testing.assert_close(of_target, 2 / x.numel() * (y - x).detach())
    assert loss.grad_fn.next_functions[0][0].variable is x
    loss = twice(x.detach(), y)
    loss.backward()
    torch.testing.assert_close(y.grad, of_target)


@pytest.mark.parametrize("changed", ["operand", "weight"])
def test_a_tensor_that_was_changed_is_not_read(changed, by):
    """What forward has found is handed over all the same; what has to be computed anew is an error."""
    (x,), weight = leaves(1), torch.ones(3)
    for _ in range(2):
        loss = LF.cross_entropy(x, CLASSES.to(x.device), weight)
    with torch.no_grad():
        (x if changed == "operand" else weight).add_(1)
    loss.backward(retain_graph=True)
    assert x.grad is not None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    loss = LF.cross_entropy(x, CLASSES.to(x.device), weight)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradients_from_threads(by):
    x, y = leaves(2)
    losses = [LF.mse_loss(x, y, reduction=reduction).sum() for reduction in ("none", "mean", "none", "mean")]
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
        if not x.is_cuda:  # Triton's interpreter is one thread's at a time
            thread.join()
    for thread in threads:
        thread.join()
    assert not errors
    torch.testing.assert_close(x.grad, (8 + 8 / x.numel()) * (x - y).detach())


def test_an_error_in_backward_reaches_the_caller(by, monkeypatch):
    """From Python that C++ calls."""
    x, y = leaves(2)
    loss = LF.mse_loss(x, y, reduction="none").sum()

    def broken(*_):
        raise ZeroDivisionError("made up")

    monkeypatch.setattr(gpu.module_of("pointwise"), "run", broken)
    with pytest.raises(ZeroDivisionError, match="made up"):
        loss.backward()


@pytest.mark.parametrize("name", ["mse", "weighed mse"])
def test_compiled_autograd(by, name):
    """It does not look into the C++ node, and traces the Python one; of the operands the second alone is wanted."""
    from torch._dynamo import compiled_autograd

    call = CALLS[name][0]
    wanted = found(call, leaves(2), 1.0)[2]
    for _ in range(2):
        x, y = leaves(2)
        with compiled_autograd._enable(torch.compile(backend="eager")):
            call(x.detach(), y).backward()
        torch.testing.assert_close(y.grad, wanted)


def test_a_plan_dies_with_its_last_graph(by):
    x, y = leaves(2)
    criterion = losskit.HuberLoss(delta=0.123)
    for _ in range(2):
        loss = criterion(x, y)
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


def test_what_only_python_understands(by):
    """After calls that were noted."""
    x, y = (z.detach() for z in leaves(2))
    twice(x, y)
    right = (x - y).square().mean()
    torch.testing.assert_close(torch.func.vmap(LF.mse_loss)(x, y), (x - y).square().mean(1))
    torch.testing.assert_close(torch.func.grad(LF.mse_loss)(x, y), 2 / x.numel() * (x - y))
    torch.testing.assert_close(torch.func.jvp(LF.mse_loss, (x, y), (x, y))[0], right)
    with torch.inference_mode():
        assert LF.mse_loss(x, y).is_inference()
    with torch.no_grad():
        assert not LF.mse_loss(x.requires_grad_(), y).requires_grad

    class Marked(torch.Tensor):
        pass

    assert type(LF.mse_loss(x.detach().as_subclass(Marked), y)) is Marked


def test_nonsense_is_refused():
    if not node.on:
        pytest.skip(node.why_not)
    x, y = leaves(2)
    twice(x, y)
    repeats = losskit.MSELoss()._planned().repeats
    with pytest.raises(TypeError, match="code, operands and weight"):
        repeats(0)
    assert repeats(0, [], None) is None
    assert repeats(0, ["x", y], None) is None
    assert repeats(0, [x, y], x) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a card")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_a_cuda_graph_holds_forward_and_backward(name, dtype, by):
    """Captured, and replayed with other numbers in the same places."""
    call, count = CALLS[name]
    operands = leaves(count, dtype)

    def step():
        loss = call(*operands)
        return [loss.detach(), *torch.autograd.grad(loss * 3.0, operands)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = step()
    with torch.no_grad():
        for x, other in zip(operands, leaves(count, dtype, seed=1), strict=True):
            x.copy_(other)
    graph.replay()
    for a, b in zip(held, step(), strict=True):
        assert torch.equal(a, b)
