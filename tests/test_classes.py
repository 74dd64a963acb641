"""What Python's own tools, and other people's, expect of a class."""

import inspect
import io
import pickle
import pydoc
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
from test_composition import NAMES, called
from torch import nn

import losskit
import losskit.functional as LF

ROOT = Path(__file__).resolve().parent.parent
CLASSES = [losskit.get(name) for name in NAMES]
x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])


def of_torch(cls):
    """The class of torch that a loss takes the place of; None where torch has none."""
    return getattr(nn, cls.__name__, None)


@pytest.mark.parametrize("cls", [*filter(of_torch, CLASSES), losskit.AdaptiveLogSoftmaxWithLoss])
def test_a_loss_is_torchs(cls):
    """isinstance, which hosts ask to find out what kind of numbers a model gives."""
    assert issubclass(cls, of_torch(cls))


@pytest.mark.parametrize("cls", CLASSES)
def test_constructors_have_true_signatures(cls):
    constructor = inspect.signature(cls.__init__)
    names = list(constructor.parameters)[1:]
    assert names == list(inspect.signature(cls).parameters) == inspect.getfullargspec(cls.__init__).args[1:] or (
        cls is losskit.TripletMarginWithDistanceLoss  # whose arguments are keywords
    )
    kinds = {p.kind for p in constructor.parameters.values()}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    hints = typing.get_type_hints(cls.__init__)
    assert set(names) <= set(hints)
    assert set(typing.get_args(hints["reduction"])) == set(cls.reductions)
    twin = inspect.signature(of_torch(cls)).parameters if of_torch(cls) else {}
    for name, parameter in twin.items():
        assert constructor.parameters[name].default == parameter.default
    positional = [n for n, p in twin.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert names[: len(positional)] == positional or cls is losskit.TripletMarginWithDistanceLoss


@pytest.mark.parametrize("cls", CLASSES)
def test_annotations_are_objects(cls):
    """fastai, among others, evaluates an instance's annotations where `ClassVar` is no name."""
    assert all(not isinstance(annotation, str) for annotation in called(cls.name, 4)[0].__annotations__.values())


@pytest.mark.parametrize("cls", CLASSES)
def test_documentation(cls):
    """The class says what its constructor takes, what it is called with, its formula and an example."""
    doc = cls.__doc__
    for name in [n for n in cls.arguments.split() if n == "reduction" or n in cls.params] + cls._call_operands():
        assert f"    {name}: " in doc, name
    if cls is losskit.TripletMarginWithDistanceLoss:  # which is written by hand
        return
    for title in ("Args:", "Called with:", "Returns:", "Raises:", "Example:"):
        assert title in doc
    assert ("Formula:" in doc) == hasattr(cls, "value")
    assert cls.reference.split(",")[0] in doc
    assert "Args:" in pydoc.render_doc(cls)
    function = inspect.getdoc(cls.functional)
    assert all(f"    {name}: " in function for name in cls._call_operands())


def test_public_names_of_a_loss():
    """What completion offers is what a user may use."""
    public = {name for name in dir(losskit.HuberLoss) if not name.startswith("_")} - set(dir(nn.HuberLoss))
    assert public == {
        "about", "aliases", "arguments", "best_for", "cases", "config", "counts", "declared", "deviations", "facts", "functional",
        "grad", "name", "not_for", "operands", "params", "peers", "reductions", "reference", "refused_by_torch", "rows", "task", "textbook", "value",
        "weight_in_mean",
    }  # fmt: skip


class Segmentation(losskit.CrossEntropyLoss):
    """Scores of maps, with targets that carry a channel."""

    def forward(self, input, target):
        return super().forward(input, target.squeeze(1))


class Tempered(losskit.CrossEntropyLoss):
    """A subclass with a constructor of its own."""

    def __init__(self, temperature, **fields):
        super().__init__(**fields)
        self.temperature = temperature

    def forward(self, input, target):
        return super().forward(input / self.temperature, target)


def test_a_subclass_that_prepares_operands():
    scores, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    criterion = Segmentation(label_smoothing=0.1)
    torch.testing.assert_close(
        criterion(scores, target.unsqueeze(1)), LF.cross_entropy(scores, target, label_smoothing=0.1)
    )
    tempered = Tempered(2.0, reduction="sum")
    torch.testing.assert_close(tempered(x, y), LF.cross_entropy(x / 2, y, reduction="sum"))
    for loss in (criterion, tempered):
        copy = pickle.loads(pickle.dumps(loss))
        assert type(copy) is type(loss)
        assert copy.config() == loss.config()
        assert losskit.get("cross_entropy") is losskit.CrossEntropyLoss


@pytest.mark.parametrize(
    "body",
    [{"value": staticmethod(lambda log_probability: -log_probability)}, {"gamma": losskit.param(default=1.0, doc="")}],
)
def test_a_subclass_may_not_change_the_formula(body):
    with pytest.raises(losskit.DeclarationError, match="cannot inherit from the loss CrossEntropyLoss and declare"):
        type("Mine", (losskit.CrossEntropyLoss,), {"__doc__": "Mine.", **body})


CUSTOM = '''
import cloudpickle, sys, torch, losskit
from losskit import ClassScoresLoss, PointwiseLoss, nonnegative, param, positive
from losskit.formula import expm1, log1p, power, where

class Cauchy(PointwiseLoss):
    """Log of one plus the square."""
    scale: float = param(default=1.0, domain=positive, doc="Where it bends.")
    flat: bool = param(default=False, doc="A switch.")

    @staticmethod
    def value(input, target, scale, flat):
        u = (input - target) / scale
        return log1p(0.5 * u * u) if flat else where(u > 0, u * u, -u)

class Focal(ClassScoresLoss):
    """Cross entropy that counts certain rows less."""
    gamma: float = param(default=2.0, domain=nonnegative, doc="How much less.")

    @staticmethod
    def value(log_probability, gamma):
        return power(-expm1(log_probability), gamma) * -log_probability

class Mine(losskit.CrossEntropyLoss):
    def forward(self, input, target):
        return super().forward(2 * input, target)

torch.manual_seed(0)
x, t, y = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
losses = [(Cauchy(scale=2.0, flat=True), t), (Cauchy(reduction="sum"), t), (Focal(gamma=1.5), y), (Mine(), y)]
print([loss(x, target).item() for loss, target in losses])
sys.stdout.flush()
with open(sys.argv[1], "wb") as file:
    cloudpickle.dump((losses, x), file)
'''
LOAD = """
import pickle, sys, torch, losskit
losses, x = pickle.load(open(sys.argv[1], "rb"))
def slope(loss, target):
    z = x.clone().requires_grad_()
    return torch.autograd.functional.hessian(lambda z: loss(z, target), z).isfinite().all().item()
print([loss(x, target).item() for loss, target in losses])
assert all(slope(*pair) for pair in losses)
print(losskit.why(losses[0][0], x, x).implementation, losskit.create({"name": "cauchy", "scale": 3.0}))
assert "cloudpickle" in str(type(losses[0][0]).__init__) or True
import cloudpickle
again = pickle.loads(cloudpickle.dumps(losses[0][0]))
assert again(x, x).item() == 0.0
"""


def test_losses_of_main_travel_by_value(tmp_path):
    """cloudpickle, as Ray, Dask and joblib use it, sends a class of `__main__` to a process that has no such class."""
    pytest.importorskip("cloudpickle")
    printed = []
    for program in (CUSTOM, LOAD):
        python = [sys.executable, "-c", program, str(tmp_path / "losses.pickle")]
        done = subprocess.run(python, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines())
    assert printed[0][0] == printed[1][0]
    assert printed[1][1].startswith("fused CPU kernel Cauchy(")


def test_without_docstrings():
    """Python's -OO takes docstrings and asserts away."""
    program = "import losskit, torch; print(losskit.HuberLoss()(torch.ones(2), torch.zeros(2)).item())"
    done = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 0.5


def test_import_is_light():
    """Importing losskit imports neither Dynamo nor sympy nor Triton; torch alone does not, either."""
    program = """
import sys, time, torch
before = set(sys.modules)
import losskit
heavy = [name for name in sys.modules if name.split(".")[0] in ("sympy", "triton") or name.startswith("torch._dynamo")]
print([name for name in heavy if name not in before])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_of_losses():
    """`losskit.losses` is the package with a file for each loss; called, it lists the losses."""
    import losskit.losses.huber as H

    assert H.HuberLoss is losskit.HuberLoss
    assert inspect.ismodule(losskit.losses)
    assert losskit.list_losses()["huber_loss"] is losskit.HuberLoss
    assert vars(losskit)["losses"]() == losskit.list_losses()


def test_state_of_torch_modules():
    """state_dict, to() and copies as of torch's classes."""
    criterion = losskit.CrossEntropyLoss(weight=torch.ones(3))
    assert list(criterion.state_dict()) == list(nn.CrossEntropyLoss(weight=torch.ones(3)).state_dict())
    file = io.BytesIO()
    torch.save(criterion, file)
    file.seek(0)
    assert torch.load(file, weights_only=False).config()["name"] == "cross_entropy"
