"""Parameters that are a number or a tensor: one for all, one for each class, learned, changed at every step.

Each test runs over the registry: a loss whose parameter becomes `float | Tensor` is in it.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from samples import Setup, setups
from tiers import rest
from torch import Tensor, nn

import losskit
from losskit import functional
from losskit.declaration import Param
from losskit.draw import Draw

ROWS, CLASSES = 5, 3
REASON = "elements: parameters that are tensors, under every setting"


class Opened(NamedTuple):
    """A loss with its parameters, one of which is to be a tensor; value: what it is as a number."""

    setup: Setup
    name: str
    value: float

    def __str__(self) -> str:
        return f"{self.setup}-{self.name}"

    @property
    def declared(self) -> Param:
        return self.setup.loss.params[self.name]

    def operands(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        return self.setup.operands((ROWS, CLASSES), dtype)

    def made(self, value: Any, reduction: str = "none", dtype: torch.dtype = torch.float64) -> losskit.Loss:
        """The loss with this value of the parameter."""
        like = torch.zeros(CLASSES, dtype=dtype)
        return self.setup.loss(**{**self.setup.kwargs(like), self.name: value, "reduction": reduction})


def opened() -> list[Opened]:
    """Every parameter that may be a tensor, under every setting in which it is a number."""
    found = []
    for setup in setups():
        for declared in setup.loss._operand_params():
            value = setup.setting(declared.name)
            if declared.tensor and value is not None and math.isfinite(value):
                found.append(Opened(setup, declared.name, float(torch.tensor(value))))  # what float32 holds, too
    return found


ALL = opened()
EACH = list({(one.setup.loss, one.name): one for one in reversed(ALL)}.values())[::-1]  # at the defaults
SHAPES = {"number of a tensor": (), "one element": (1,), "per class": (CLASSES,), "per row": (ROWS, 1),
          "per element": (ROWS, CLASSES)}  # fmt: skip


def of_each(few: list[Opened] = EACH) -> Any:
    """The parametrisation: under every setting where the tests are full."""
    return pytest.mark.parametrize("one", rest(ALL, lambda x: any(x is y for y in few), REASON), ids=str)


def numbers(one: Opened, shape: tuple[int, ...]) -> Tensor:
    """Values around that of the setting, all different, in float64."""
    domain = one.declared.domain
    steps = torch.arange(1, 1 + math.prod(shape), dtype=torch.float64).reshape(shape) / 128.0
    found = one.value + steps * (max(1.0, abs(one.value)) if domain.includes(one.value + 8.0) else 1.0)
    assert all(map(domain.includes, found.flatten().tolist()))
    return found


def test_there_are_some():
    names = {(one.setup.loss.name, one.name) for one in EACH}
    assert ("pinball_loss", "quantile") in names
    assert ("sigmoid_focal_loss", "alpha") in names


@of_each()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_tensor_gives_what_the_number_gives(one, dtype):
    """The number may be folded into others in float64, which a tensor is not."""
    operands = [x.requires_grad_() for x in one.operands(dtype)]
    wanted = one.made(one.value, dtype=dtype)(*operands)
    slopes = torch.autograd.grad(wanted.sum(), operands)
    for kind, shape in SHAPES.items():
        tensor = torch.full(shape, one.value, dtype=dtype)
        for value in (tensor, nn.Parameter(tensor.clone())):
            loss = one.made(value, dtype=dtype)(*operands)
            assert loss.dtype == dtype
            near(loss, wanted, f"{kind}: value")
            for name, got, slope in zip(one.setup.names, torch.autograd.grad(loss.sum(), operands), slopes):
                near(got, slope, f"{kind}: gradient by {name}")


def near(got: Tensor, wanted: Tensor, what: str, ulps: float = 16.0) -> None:
    """Equal within a few ULP of the largest entry near 1, of itself beyond."""
    unit = torch.finfo(wanted.dtype).eps * wanted.detach().abs().clamp(min=0.25)
    error = ((got - wanted).detach().abs() / unit).max().item()
    assert error <= ulps, f"{what}: {error} ULP"


@of_each()
def test_one_for_each_class_is_each_number_in_its_place(one):
    values = numbers(one, (CLASSES,))
    operands = one.operands()
    together = one.made(values)(*operands)
    for i, value in enumerate(values.tolist()):
        near(together[:, i], one.made(value)(*operands)[:, i], f"class {i}")


@of_each()
@pytest.mark.parametrize("shape", [(), (CLASSES,), (ROWS, 1)], ids=str)
def test_the_gradient_by_a_learned_parameter(one, shape):
    operands = [x.requires_grad_() for x in one.operands()]
    learned = numbers(one, shape).requires_grad_()

    def loss(value: Tensor, *operands: Tensor) -> Tensor:
        given = {**one.setup.kwargs(operands[0]), one.name: value, "reduction": "sum"}
        return one.setup.loss.functional(*operands, **given)

    torch.autograd.gradcheck(loss, (learned, *operands))  # drawn operands are no kinks
    fused = torch.autograd.grad(loss(learned, *operands), learned)
    twice = torch.autograd.grad(loss(learned, *operands), learned, create_graph=True)
    torch.testing.assert_close(fused, twice)


NO_SLOPE = {("general_robust_loss", "alpha", 2.0)}  # it is infinite there


@of_each(ALL)
def test_the_gradient_at_a_value_of_its_own(one):
    """Where a formula chooses by the parameter: 1, 0, an end of the domain."""
    if (one.setup.loss.name, one.name, one.value) in NO_SLOPE:
        pytest.skip("there is no slope")
    operands = [x.requires_grad_() for x in one.operands()]

    def loss(value: Tensor, *operands: Tensor) -> Tensor:
        given = {**one.setup.kwargs(operands[0]), one.name: value, "reduction": "sum"}
        return one.setup.loss.functional(*operands, **given)

    with losskit.checks("off"):  # differences leave the domain at its ends
        torch.autograd.gradcheck(loss, (torch.tensor(one.value, dtype=torch.float64).requires_grad_(), *operands))


@of_each()
def test_assigned_to_a_module(one):
    module, operands = one.made(one.value), one.operands()
    wanted = module(*operands)
    changed = numbers(one, (CLASSES,))
    other = one.made(changed)(*operands)
    assert module.state_dict().keys() == one.made(one.value).state_dict().keys()
    setattr(module, one.name, changed)
    near(module(*operands), other, "a tensor")
    assert one.name in module.state_dict()
    assert list(module.parameters()) == []
    setattr(module, one.name, nn.Parameter(changed.clone()))
    near(module(*operands), other, "a parameter")
    assert [name for name, _ in module.named_parameters()] == [one.name]
    assert one.name not in dict(module.named_buffers())
    module(*operands).sum().backward()
    assert getattr(module, one.name).grad.shape == (CLASSES,)
    setattr(module, one.name, one.value)
    assert torch.equal(module(*operands), wanted)
    assert one.name not in module.state_dict()
    assert list(module.parameters()) == []


@of_each()
@pytest.mark.parametrize("learned", [False, True])
def test_kept_and_sent(one, learned):
    """state_dict, deepcopy, pickle, torch.save, config."""
    tensor = numbers(one, (CLASSES,))
    module, operands = one.made(nn.Parameter(tensor) if learned else tensor), one.operands()
    wanted = module(*operands)
    other = numbers(one, (CLASSES,)).flip(0)
    fresh = one.made(nn.Parameter(other) if learned else other)
    assert not torch.equal(fresh(*operands), wanted)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(*operands), wanted)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for again in (
        copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False),
        losskit.create(module.config()),
    ):  # fmt: skip
        assert torch.equal(again(*operands), wanted)
        assert isinstance(getattr(again, one.name), nn.Parameter) == learned
        assert type(again) is type(module)
    assert "tensor of shape (3,)" in repr(module)


@of_each()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_moved_to_a_dtype(one, dtype):
    module = one.made(nn.Parameter(numbers(one, (CLASSES,)))).to(dtype)
    assert getattr(module, one.name).dtype == dtype
    loss = module(*one.operands(dtype))
    assert loss.dtype == dtype
    loss.sum().backward()
    assert getattr(module, one.name).grad.isfinite().all()


@of_each()
def test_an_optimizer_learns_it(one):
    """A step against the gradient lowers the loss."""
    module, operands = one.made(nn.Parameter(numbers(one, (CLASSES,))), "sum"), one.operands()
    before = module(*operands)
    before.backward()
    learned = getattr(module, one.name)
    if learned.grad.abs().max() == 0:
        pytest.skip("these operands do not tell the parameter")
    with torch.no_grad():
        learned -= 1e-7 * learned.grad / learned.grad.abs().max()
    assert module(*operands) < before


class Graphs:
    """A backend that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        return graph.forward


@of_each()
@pytest.mark.parametrize("kind", ["buffer", "parameter", "argument"])
def test_another_value_compiles_nothing(one, kind):
    torch._dynamo.reset()
    graphs, operands = Graphs(), one.operands()
    steps = [numbers(one, (CLASSES,)), numbers(one, (CLASSES,)).flip(0), numbers(one, (CLASSES,)).roll(1)]
    module = one.made(steps[0].clone() if kind == "buffer" else nn.Parameter(steps[0].clone()), "sum")

    def step(value: Tensor, *operands: Tensor) -> Tensor:
        if kind == "argument":
            given = {**one.setup.kwargs(operands[0]), one.name: value, "reduction": "sum"}
            return one.setup.loss.functional(*operands, **given)
        return module(*operands)

    compiled = torch.compile(step, backend=graphs, fullgraph=True)
    for value in steps:
        with torch.no_grad():
            getattr(module, one.name).copy_(value)
        near(compiled(value, *operands), one.made(value, "sum")(*operands), kind)
    assert graphs.count == 1


BAD = [(one, bad) for one in EACH for bad in one.declared.domain.invalid()]


@pytest.mark.parametrize(("one", "bad"), BAD, ids=lambda x: str(x))
def test_a_bad_value_is_named(one, bad):
    values, operands = numbers(one, (CLASSES,)), one.operands()
    values[1] = bad
    expected = f"{one.name} must be {one.declared.domain.description}, got {bad:g}"
    loss = one.setup.loss.name
    for x in operands, [y.requires_grad_() for y in one.operands()]:
        with pytest.raises(losskit.errors.LossValueError) as raised:
            one.made(values)(*x)
        assert str(raised.value).startswith(f"{loss}: {expected} at index (1,).")
        assert "\n" not in str(raised.value)
        with pytest.raises(losskit.errors.LossValueError, match=r" at index \(\)\."):
            one.made(values[1])(*x)
    with losskit.checks("off"):
        one.made(values)(*operands)
    with losskit.checks("nan"):
        assert one.made(values)(*operands)[:, 1].isnan().all()


@of_each()
def test_what_is_no_such_tensor(one):
    loss, operands = one.setup.loss, one.operands()
    with pytest.raises(ValueError, match=rf"{one.name} \(4,\) must broadcast to \(5, 3\)"):
        one.made(numbers(one, (4,)))(*operands)
    with pytest.raises(ValueError, match=rf"{one.name} \(2, 1, 3\) must broadcast to \(5, 3\)"):
        one.made(numbers(one, (2, 1, CLASSES)))(*operands)
    for wrong in (torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.complex64), [0.1, 0.2, 0.3]):
        with pytest.raises(TypeError, match=rf"{one.name} must be a number or a tensor of numbers"):
            loss(**{one.name: wrong})


TENSORS = [
    (name, p.name)
    for name in sorted(losskit.list_losses())
    for p in getattr(losskit.get(name), "params", {}).values()
    if p.kind == "tensor" and hasattr(functional, name)
]  # fmt: skip


@pytest.mark.parametrize("given", [[0.5, 0.25, 0.1], (0.5, 0.25, 0.1), 0.5, 0, 1, True], ids=str)
@pytest.mark.parametrize(("name", "parameter"), TENSORS)
def test_a_parameter_that_must_be_a_tensor(name, parameter, given):
    """What is none is refused in a sentence, by the function as by the module."""
    loss = losskit.get(name)
    shape = (4, 3, 4) if issubclass(loss, losskit.RegionsLoss) else (5, 3)
    operands = loss._example(shape, Draw(torch.float32))
    required = {p.name: torch.ones(3) for p in loss.params.values() if p.required} | {parameter: given}
    for call in (lambda: getattr(functional, name)(*operands, **required), lambda: loss(**required)):
        with pytest.raises(
            losskit.errors.LossTypeError, match=rf"^{name}: {parameter} must be a tensor( or None)?, got "
        ):
            call()
