"""What declarations of losses of rows claim: complete, the functional form, worked cases, differences from torch."""

import copy
import inspect

import pytest
import torch
from row_samples import ROWS, SAMPLES, losses, of_pairs

import losskit

LOSSES = [*losses(), *of_pairs()]


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
def test_functional_is_the_declaration(cls):
    written, made = getattr(losskit.functional, cls.name), cls.functional
    strip = lambda function: [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]
    assert strip(written) == strip(made)


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
def test_declarations_are_complete(cls):
    assert cls.facts is not None
    assert len(cls.cases) >= 2
    assert cls.reference
    assert cls.best_for
    assert cls.not_for
    assert set(cls.operands) == set(cls._call_operands())


def tensors(cls, arguments, dtype):
    """The operands and parameters of a case or deviation."""
    operands, params = [], {}
    for name, value in arguments.items():
        if name not in cls._call_operands():
            tensor = isinstance(value, list) and cls.params[name].kind == "tensor"
            params[name] = torch.tensor(value, dtype=dtype) if tensor else value
            continue
        x = torch.tensor(value)
        operands.append(x.to(dtype).requires_grad_() if x.is_floating_point() else x)
    return operands, params


def case_error(cls, case):
    """How wrong a worked case is, relative to its printed digits."""
    operands, params = tensors(cls, case.arguments, torch.float64)
    loss = cls.functional(*operands, **params, reduction="sum")
    wrong = [abs(loss.item() - case.value) / max(abs(case.value), 1e-300)] if loss.item() != case.value else [0.0]
    if case.grad is not None:
        (gradient,) = torch.autograd.grad(loss, operands[:1])
        expected = torch.tensor(case.grad, dtype=torch.float64)
        assert gradient.shape == expected.shape
        wrong.append(float(((gradient - expected).abs() / expected.abs().clamp(min=1e-300)).nan_to_num(0.0).max()))
    return max(wrong)


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
def test_cases(cls):
    for case in cls.cases:
        assert case_error(cls, case) < 5e-5, case
        lie = copy.copy(case)
        object.__setattr__(lie, "value", case.value * 1.001 + 1e-3)
        assert case_error(cls, lie) > 5e-4


def deviating(cls, deviation, library_):
    """What a library gives for a deviation: the value, or the first entry of a gradient."""
    operands, params = tensors(cls, deviation.arguments, getattr(torch, deviation.dtype))
    loss = getattr(library_, cls.name)(*operands, **params)
    if deviation.of == "value":
        return loss.sum().item()
    (gradient,) = torch.autograd.grad(loss.sum(), operands[cls._call_operands().index(deviation.of)])
    return gradient.flatten()[0].item()


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
def test_deviations(cls):
    for deviation in cls.deviations:
        for side, library_ in (("torch", torch.nn.functional), ("losskit", losskit.functional)):
            expected = getattr(deviation, side)
            assert deviating(cls, deviation, library_) == pytest.approx(expected, rel=1e-5, abs=0.0, nan_ok=True), (
                f"{side}: {deviation.reason}"
            )
        assert deviation.torch != deviation.losskit


def test_meta():
    """Shapes and dtypes flow on a device that has no kernel."""
    on_meta = lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x
    for sample in SAMPLES:
        operands, params = list(map(on_meta, sample.operands())), {k: on_meta(v) for k, v in sample.params.items()}
        assert sample.loss.functional(*operands, **params).shape == ()
        assert sample.loss.functional(*operands, **params, reduction="none").shape == (ROWS,)
