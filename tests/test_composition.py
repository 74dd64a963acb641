"""Whatever composes with torch's losses composes with these: compiling, tracing, exporting, overriding."""

import subprocess
import sys

import pytest
import row_samples
import samples
import torch
from tiers import full, rest
from torch import nn
from torch.export import Dim, export
from torch.func import grad, hessian, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import losskit
import losskit.functional as LF
from losskit.draw import Draw

x, t, y = torch.randn(8, 3), torch.randn(8, 3), torch.randint(0, 3, (8,))


class Model(nn.Module):
    """A layer and a loss."""

    def __init__(self, criterion, width):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(width, width)
        self.criterion = criterion

    def forward(self, first, *others):
        return self.criterion(self.layer(first).reshape(first.shape), *others)


def called(name, rows, **fields):
    """A loss of a name with its fields, and float32 operands with `rows` rows, as a first layer gives them."""
    row_sample = next((s for s in row_samples.SAMPLES if s.name == name), None)
    if issubclass(losskit.get(name), losskit.RegionsLoss):  # whose rows are classes, but for batches of samples here
        operands = losskit.get(name)._example((rows, 3, 4), Draw(torch.float32))
    elif row_sample is not None:
        operands = row_sample.operands(rows, torch.float32)
        fields = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in row_sample.params.items()} | fields
    else:
        operands = samples.Setup(losskit.get(name)).operands((rows, 4), torch.float32)
    return losskit.get(name)(**fields), operands


NAMES = sorted(
    set(losskit.list_losses()) & ({s.name for s in row_samples.SAMPLES} | {c.name for c in samples.built_in()})
)
REDUCTIONS = ["none", "mean", "sum"]
REPRESENTED = ["binary_cross_entropy_with_logits", "cross_entropy"]
WHAT = "compiled, traced, exported: every loss"
SOME = rest(NAMES, REPRESENTED, WHAT)


class Counter:
    """A backend that counts graphs."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, module, inputs):
        self.graphs += 1
        return module.forward


def compiled(function, **options):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, **options)


UNROLLED = {"ctc_loss", "rnnt_loss", "linear_chain_crf_loss"}  # a graph has each step of their lattices


@pytest.mark.parametrize("name", SOME)
def test_compiled_with_dynamic_shapes(name):
    """Two graphs for any number of rows: one for a single row and one for more, as torch's own losses."""
    criterion, _ = called(name, 4)
    counter = Counter()
    function = compiled(criterion, dynamic=True, backend=counter)
    for rows in (4, 5, 7, 9) if name not in UNROLLED else (4,):
        operands = called(name, rows)[1]
        torch.testing.assert_close(function(*operands), criterion(*operands))
    assert counter.graphs <= 2


CHANGING = [
    ("huber_loss", "delta", [0.5, 0.75, 1.5]),
    ("smooth_l1_loss", "beta", [0.0, 0.75, 1.5]),
    ("hinge_embedding_loss", "margin", [0.5, 0.75, 1.5]),
    ("gaussian_nll_loss", "eps", [1e-6, 1e-3, 1e-2]),
    ("gaussian_nll_loss", "full", [True, False, True]),
    ("cross_entropy", "label_smoothing", [0.0, 0.1, 0.2]),
    ("cross_entropy", "ignore_index", [0, 1, -100]),
    ("multi_margin_loss", "margin", [0.5, 0.75, 1.5]),
    ("multi_margin_loss", "p", [1, 2, 1]),
    ("triplet_margin_loss", "margin", [0.5, 0.75, 1.5]),
    ("triplet_margin_loss", "p", [1.0, 2.0, 3.0]),
    ("cosine_embedding_loss", "margin", [0.0, 0.25, 0.5]),
    ("triplet_margin_with_distance_loss", "margin", [0.5, 0.75, 1.5]),
]


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize(
    ("name", "field", "values"),
    [case if case[0] in REPRESENTED else pytest.param(*case, marks=full(WHAT)) for case in CHANGING],
)
def test_compiled_with_a_parameter_that_changes(name, field, values, dynamic):
    """A new value compiles again, as it does with torch's losses; a value seen before does not."""
    criterion, operands = called(name, 4)
    counter = Counter()

    def step(value):
        setattr(criterion, field, value)
        return criterion(*operands)

    function = compiled(step, dynamic=dynamic, backend=counter)
    for value in [*values, values[0]]:
        torch.testing.assert_close(function(value), type(criterion)(**vars_of(criterion) | {field: value})(*operands))
    assert counter.graphs <= len(set(values))


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [case for case in CHANGING if issubclass(losskit.get(case[0]), losskit.PointwiseLoss) and case[1] != "full"],
)
def test_compiled_with_a_parameter_that_is_a_tensor(name, field, values):
    """A tensor of one element may change with every step: there is one graph, and a gradient by it."""
    criterion, operands = called(name, 4)
    counter = Counter()

    def by_function(value):
        return type(criterion).functional(*operands, **{field: value})

    def by_module(value):
        setattr(criterion, field, value)
        return criterion(*operands)

    for step in (by_function, by_module):
        function, counter.graphs = compiled(step, backend=counter), 0
        for number in values:
            expected = type(criterion).functional(*operands, **{field: number})
            torch.testing.assert_close(function(torch.tensor([number])), expected)
        assert counter.graphs == 1
    parameter = torch.tensor(values[1], requires_grad=True)
    (slope,) = torch.autograd.grad(compiled(by_function, backend="aot_eager")(parameter), parameter)
    operands = [x.double() if x.is_floating_point() else x for x in operands]
    low, high = (type(criterion).functional(*operands, **{field: values[1] * factor}) for factor in (0.999, 1.001))
    torch.testing.assert_close(slope.double(), (high - low) / (0.002 * values[1]), rtol=0.02, atol=1e-3)


def test_other_parameters_of_compiled_functions_are_numbers():
    with pytest.raises(Exception, match="label_smoothing must be a number in a compiled function, got a tensor"):
        compiled(lambda s: LF.cross_entropy(x, y, label_smoothing=s), backend="eager")(torch.tensor(0.1))


def vars_of(criterion):
    fields = {k: v for k, v in criterion.config().items() if k != "name"}
    return {k: v for k, v in fields.items() if v is not None}


@pytest.mark.parametrize(
    "name", rest([name for name in NAMES if name != "ctc_loss"], REPRESENTED, WHAT)
)  # whose targets are of a sample each
def test_compiled_transforms(name):
    criterion, (first, *rest) = called(name, 3)
    criterion.reduction = "sum"

    def loss(x):
        return criterion(x, *rest)

    batch = torch.stack([first, 0.75 * first])  # a member of each domain
    for transform, given in ((vmap(grad(loss)), batch), (hessian(loss), first)):
        torch.testing.assert_close(compiled(transform, backend="aot_eager")(given), transform(given))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_exported_with_a_dynamic_batch(name, reduction):
    """The graph holds torch's operators only, for any number of rows, and torch differentiates it right."""
    criterion, operands = called(name, 4, reduction=reduction)
    dim = 1 if name == "ctc_loss" else 0
    model = Model(criterion, operands[0].shape[-1])
    if domain_of(criterion) != "real":  # a layer would leave the domain
        model.layer = nn.Identity()
    rows = Dim("rows")
    shapes = [{dim if i == 0 else 0: rows} for i in range(len(operands))]
    others = {"others": tuple(shapes[1:])} if shapes[1:] else {}
    program = export(model, tuple(operands), dynamic_shapes={"first": shapes[0], **others})
    assert not [n for n in program.graph.nodes if "losskit" in str(n.target)]
    for count in (4, 7):
        given = called(name, count)[1]
        given[0].requires_grad_()
        expected, got = model(*given), program.module()(*given)
        torch.testing.assert_close(got, expected)
        by_torch, ours = (torch.autograd.grad(v.sum(), given[0])[0] for v in (got, expected))
        torch.testing.assert_close(by_torch, ours)


def domain_of(criterion):
    first = type(criterion)._call_operands()[0]
    operand = type(criterion).operands.get(first)
    own = operand is None or (operand.domain.everything and not operand.components)
    return "real" if own and criterion.name not in ("ctc_loss", "nll_loss") else "limited"


@pytest.mark.parametrize("name", SOME)
def test_traced(name):
    """torch.jit.trace records torch's operators, which run for other values, too."""
    criterion, operands = called(name, 4)
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        traced = torch.jit.trace(criterion, tuple(operands), check_trace=False)
    graph = str(traced.inlined_graph)
    assert "losskit::" not in graph
    assert "PythonOp" not in graph
    other = [x.clone() for x in called(name, 4)[1]]
    other[0] = other[0].flip(0) if name != "ctc_loss" else other[0]
    other[0].requires_grad_()
    expected, got = criterion(*other), traced(*other)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, other[0]), torch.autograd.grad(expected, other[0]))


@pytest.mark.parametrize("name", SOME)
def test_recorded_by_make_fx(name):
    criterion, operands = called(name, 4)
    for function in (criterion, grad(criterion)):
        graph = make_fx(function)(*operands)
        assert not [n for n in graph.graph.nodes if "losskit" in str(n.target)]
        torch.testing.assert_close(graph(*operands), function(*operands))


def test_symbolically_traced():
    """A module is a leaf of the graph, and a function a call of itself."""
    model = Model(losskit.CrossEntropyLoss(label_smoothing=0.1), 3)
    graph = torch.fx.symbolic_trace(nn.Sequential(model.layer)), torch.fx.symbolic_trace(Loss(model.criterion))
    assert [n.op for n in graph[1].graph.nodes] == ["placeholder", "placeholder", "call_module", "output"]
    torch.testing.assert_close(graph[1](x, y), model.criterion(x, y))
    function = torch.fx.symbolic_trace(lambda a, b: LF.huber_loss(a, b, delta=2.0))
    assert LF.huber_loss in [n.target for n in function.graph.nodes]
    torch.testing.assert_close(function(x, t), LF.huber_loss(x, t, delta=2.0))


class Loss(nn.Module):
    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion

    def forward(self, a, b):
        return self.criterion(a, b)


@pytest.mark.parametrize("name", SOME)
def test_overriding_tensors_see_the_loss(name):
    """A tensor subclass, or a mode, that overrides functions sees the loss itself, from the module and the function."""
    seen = []

    class Noting(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **kwargs or {})

    criterion, operands = called(name, 4)
    function = type(criterion).functional
    expected = criterion(*operands)
    result = criterion(operands[0].as_subclass(Noting), *operands[1:])
    assert type(result) is Noting
    torch.testing.assert_close(result.as_subclass(torch.Tensor), expected)
    assert seen[0] is function
    seen.clear()
    with Mode():
        torch.testing.assert_close(criterion(*operands), expected)
    assert seen[0] is function
    assert getattr(LF, name) is function


def test_scripting_is_refused_in_one_sentence():
    with (
        pytest.warns(DeprecationWarning, match="torch.jit"),
        pytest.raises(TypeError, match=r"MSELoss: torch\.jit\.script cannot compile"),
    ):
        torch.jit.script(losskit.MSELoss())


PROGRAM = """
import sys, torch
assert "losskit" not in sys.modules
x, t = torch.load(sys.argv[1] + "/operands.pt")
program = torch.export.load(sys.argv[1] + "/loss.pt2").module()
traced = torch.jit.load(sys.argv[1] + "/loss.pt")
for run in (program, traced):
    print(run(x, t).item())
assert "losskit" not in sys.modules
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_open_without_losskit(tmp_path):
    criterion = losskit.CrossEntropyLoss(label_smoothing=0.1)
    torch.save((x, y), tmp_path / "operands.pt")
    torch.export.save(export(criterion, (x, y)), tmp_path / "loss.pt2")
    torch.jit.save(torch.jit.trace(criterion, (x, y)), tmp_path / "loss.pt")
    python = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)]
    printed = subprocess.run(python, capture_output=True, text=True, check=True).stdout.split()
    assert [float(number) for number in printed] == pytest.approx([criterion(x, y).item()] * 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", SOME)
def test_onnx(name, dynamo, tmp_path):
    """Both exporters write standard operators, which ONNX Runtime runs to the same number."""
    onnxruntime = pytest.importorskip("onnxruntime")
    criterion, operands = called(name, 4)
    path = tmp_path / "loss.onnx"
    if name == "poly_cross_entropy" and not dynamo:
        with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match="aten::expm1"):  # torch's older exporter
            torch.onnx.export(criterion, tuple(operands), str(path), dynamo=False, verbose=False)
        return
    torch.onnx.export(criterion, tuple(operands), str(path), dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {i.name: x.numpy() for i, x in zip(session.get_inputs(), operands, strict=True)}
    torch.testing.assert_close(
        torch.from_numpy(session.run(None, given)[0]), criterion(*operands), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["huber_loss", "softmax_of_one"])
def test_branches_not_taken_stay_out_of_exported_gradients(name):
    """torch differentiates both branches of a `where`; the one not taken may not reach the gradient as 0 * inf."""
    if name == "huber_loss":
        function, given = LF.huber_loss, torch.tensor([3e38])
        others = (torch.tensor([-3e38]),)
    else:
        function, given = LF.kl_div, torch.tensor([[-0.5]])
        others = (torch.tensor([[0.0]]),)
    program = export(Loss(losskit.get(function.__name__)(reduction="sum")), (given, *others)).module()
    given.requires_grad_()
    (slope,) = torch.autograd.grad(program(given, *others), given)
    torch.testing.assert_close(slope, torch.autograd.grad(function(given, *others, reduction="sum"), given)[0])
