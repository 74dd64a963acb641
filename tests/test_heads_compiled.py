"""Heads under torch.compile: chunks are an op of the graph."""

import pytest
import torch

import losskit
import losskit.functional as LF
from losskit.layers import heads
from losskit.layers.head_calls import Head

CLASSES = 50
TARGET = torch.tensor([[-100, 3, 7, 0, 9], [1, 2, 3, 4, 5], [9, 48, 49, 3, 2], [4, 4, 4, 4, 4]])
CRITERIA = {
    "cross entropy": (losskit.CrossEntropyLoss, {"weight": torch.linspace(0.5, 2.0, CLASSES), "label_smoothing": 0.1}, {}),
    "focal": (losskit.SoftmaxFocalLoss, {}, {"z_loss": 0.1, "soft_cap": 5.0}),
    "arcface": (losskit.ArcFaceLoss, {}, {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """A few rows in a chunk, and never all scores."""
    monkeypatch.setattr(heads, "_CHUNK", 4 * CLASSES * 4)
    monkeypatch.setattr(Head, "scores", lambda head: pytest.fail("all scores were made"))
    torch._dynamo.reset()


def leaves(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=draw).to(dtype).requires_grad_() for shape in ((4, 5, 8), (CLASSES, 8), (CLASSES,))
    ]


def check_same(function, compiled, given):
    want, got = function(*given), compiled(*given)
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want)
    upstream = torch.linspace(1.0, 2.0, want.numel()).reshape(want.shape).to(want.dtype)
    gradients = [torch.autograd.grad(loss, given, upstream, allow_unused=True) for loss in (want, got)]
    for right, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", CRITERIA)
def test_it_is_the_call_without(name, reduction):
    cls, parameters, more = CRITERIA[name]
    head = losskit.linear(cls(**parameters, reduction=reduction), **more)
    scale = 0.05 if name == "arcface" else 1.0

    def loss(x, weight, bias):
        return head(scale * x, weight, TARGET, linear_bias=scale * bias, mask=TARGET != 3) * 2

    check_same(loss, torch.compile(loss, backend="aot_eager", fullgraph=True), leaves())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_by_inductor(dtype):
    given = leaves(dtype)[:2]

    def loss(x, weight):
        return LF.linear_cross_entropy(x, weight, TARGET)

    check_same(loss, torch.compile(loss, fullgraph=True), given)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(loss, fullgraph=True)(*given), loss(*given))


def test_one_graph_serves_any_number_of_rows():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(LF.linear_cross_entropy, backend=backend, fullgraph=True, dynamic=True)
    _, weight, _ = leaves()
    for rows in (3, 7, 12):
        x, target = torch.randn(rows, 8, requires_grad=True), torch.arange(rows)
        torch.testing.assert_close(compiled(x, weight, target), LF.linear_cross_entropy(x, weight, target))
    assert len(graphs) == 1


def test_denominators():
    x, weight, _ = leaves()
    for normalizer in (3.5, torch.tensor(3.5, dtype=torch.float64)):

        def loss(x, weight, normalizer=normalizer):
            return LF.linear_cross_entropy(x, weight, TARGET, normalizer=normalizer)

        check_same(loss, torch.compile(loss, backend="aot_eager", fullgraph=True), [x, weight])


def test_a_label_that_is_no_class_is_refused_when_it_runs():
    x, weight, _ = leaves()
    compiled = torch.compile(LF.linear_cross_entropy, backend="aot_eager", fullgraph=True)
    with pytest.raises(IndexError, match="must be a class in"):
        compiled(x, weight, TARGET + 60)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch itself reads it of saved tensors
@pytest.mark.parametrize("upstream", [1.0, 3.0])
def test_compiled_autograd_twice(upstream):
    """What a backward pass handed over it does not hand over again, also where the first one was compiled."""
    from torch._dynamo import compiled_autograd

    head, given, factor = losskit.linear(losskit.CrossEntropyLoss()), leaves()[:2], torch.tensor(upstream)
    expected = torch.autograd.grad(head(*given, TARGET), given, 2 * factor)
    loss = head(*given, TARGET)
    with compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward(factor, retain_graph=True)
        loss.backward(factor)
    for x, right in zip(given, expected, strict=True):
        torch.testing.assert_close(x.grad, right)
