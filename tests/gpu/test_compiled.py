"""The GPU kernels under torch.compile: element-wise formulas are Inductor's, rows are custom ops."""

import pytest
import torch

import losskit.functional as LF

CASES = {
    "cross entropy": (lambda x, **k: LF.cross_entropy(x, torch.arange(6, device=x.device) % 5, **k), (6, 5)),
    "cross entropy of maps": (lambda x, **k: LF.cross_entropy(x, torch.arange(8, device=x.device).reshape(2, 2, 2) % 3, **k), (2, 3, 2, 2)),
    "multi margin": (lambda x, **k: LF.multi_margin_loss(x, torch.arange(6, device=x.device) % 5, **k), (6, 5)),
    "triplet": (lambda x, **k: LF.triplet_margin_loss(x, x.roll(1, 0), x.roll(2, 0), **k), (6, 5)),
    "ctc": (
        lambda x, **k: LF.ctc_loss(
            x.log_softmax(-1), torch.tensor([[1, 2], [3, 3]], device=x.device), torch.tensor([4, 4], device=x.device),
            torch.tensor([2, 2], device=x.device), **k
        ),
        (4, 2, 5),
    ),
    "transducer": (
        lambda x, **k: LF.rnnt_loss(
            x, torch.tensor([[1, 2], [3, 3]], device=x.device), torch.tensor([2, 1], device=x.device),
            torch.tensor([2, 1], device=x.device), 0, **k
        ),
        (2, 2, 3, 4),
    ),
    "chain": (
        lambda x, **k: LF.linear_chain_crf_loss(
            x, torch.tensor([[0, 1, 2, 2], [2, 2, 0, 0]], device=x.device), x[0, :3].t(), x[1, 0],
            lengths=torch.tensor([4, 2], device=x.device), **k
        ),
        (2, 4, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("case", CASES)
def test_rows_are_ops(case, reduction):
    loss, shape = CASES[case]
    x = torch.randn(shape, requires_grad=True)
    targets = []

    def backend(graph, inputs):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    def both(x):
        return loss(2 * x, reduction=reduction) * 3

    torch._dynamo.reset()
    compiled = torch.compile(both, backend=backend, fullgraph=True)
    check_same(both, compiled, x)
    assert any("gpu_loss" in target for target in targets)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), both(x))


def check_same(eager, compiled, x):
    want, got = eager(x), compiled(x)
    torch.testing.assert_close(got, want)
    (of_eager,) = torch.autograd.grad(want.sum(), x)
    (of_compiled,) = torch.autograd.grad(got.sum(), x)
    torch.testing.assert_close(of_compiled, of_eager, rtol=1e-4, atol=1e-6)


def test_inductor_runs_them():
    def loss(x):
        return LF.cross_entropy(x * 2, torch.arange(6, device=x.device) % 5, label_smoothing=0.1)

    torch._dynamo.reset()
    check_same(loss, torch.compile(loss, fullgraph=True), torch.randn(6, 5, requires_grad=True))


def test_a_half_is_scaled_before_it_is_rounded():
    x = torch.full((4096, 2), 1e-3, dtype=torch.float16, requires_grad=True)

    def loss(x):
        return LF.cross_entropy(x, torch.zeros(4096, dtype=torch.int64, device=x.device)).float() * 2.0**13

    torch._dynamo.reset()
    torch.compile(loss, backend="aot_eager", fullgraph=True)(x).backward()
    torch.testing.assert_close(x.grad[:, 1], torch.ones(4096, dtype=torch.float16), rtol=1e-3, atol=0)


def test_element_wise_losses_are_traced():
    targets = []

    def backend(graph, inputs):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    x = torch.randn(5)
    torch.compile(lambda x: LF.huber_loss(x, torch.zeros(5, device=x.device)), backend=backend, fullgraph=True)(x)
    assert not any("gpu_loss" in target for target in targets)


def test_exported_programs_hold_the_formula():
    class Model(torch.nn.Module):
        def forward(self, x):
            return LF.cross_entropy(x, torch.zeros(3, dtype=torch.int64))

    program = torch.export.export(Model(), (torch.randn(3, 4),))
    assert not any("gpu_loss" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_the_ops_are_sound(dtype):
    x, y = torch.randn(3, 4, dtype=dtype, requires_grad=True), torch.randn(3, 4, dtype=dtype)
    plan = losskit_plan()
    arguments = (plan.key, 1 if dtype != torch.float16 else 0, [x, y, y], None, None, None, None, True, False,
                 torch.float64 if dtype == torch.float64 else torch.float32, dtype)  # fmt: skip
    from losskit.kernels.gpu import compiled

    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(compiled.gpu_loss, arguments, test_utils=tests)


def losskit_plan():
    import losskit

    return losskit.TripletMarginLoss()._planned()
