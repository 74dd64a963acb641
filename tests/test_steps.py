"""How the C++ of an element-wise loss is cut into loops: long functions alone, between them arrays of a block."""

import re

import pytest
import samples
import torch

from losskit import PointwiseLoss, param
from losskit.families.base import Family
from losskit.formula import exp, log, power, sigmoid, softplus, sqrt, stop
from losskit.kernels import codegen


class ShortLoss(PointwiseLoss):
    """One function of an operand: nothing waits for it long."""

    @staticmethod
    def value(input, target):
        return log(input) * target


class LogarithmLoss(PointwiseLoss):
    """A logarithm of a quotient, and of that a root and an exponential."""

    @staticmethod
    def value(input, target):
        logarithm = log((input * input + 1.0) / (target * target + 1.0))
        return exp(stop(logarithm) * sqrt(1.0 + logarithm * logarithm)) - 1.0


class LogisticLoss(PointwiseLoss):
    """Two functions that share their exponential."""

    @staticmethod
    def value(input, target):
        u = (input - target) / (1.0 + target * target)
        return softplus(u) * sigmoid(-u)


class PowerLoss(PointwiseLoss):
    """A power by a number of the call, of what takes long itself."""

    gamma: float = param(default=2.0, doc="The power.")

    @staticmethod
    def value(input, target, gamma):
        return power(exp(input - target), gamma)


def loops(cls, variant="losskit::kNone"):
    """The functions that each loop of a variant calls."""
    source = codegen.cpp(next(iter(cls._formulas.usual())))[1]
    part = re.search(rf"wanted_ == {variant}\) {{\n(.*?)\n  }} else", source, re.DOTALL)[1]
    return [re.findall(r"lk::(\w+)\(", loop) for loop in part.split("#pragma GCC ivdep")[1:]]


def test_a_short_formula_is_one_loop():
    assert loops(ShortLoss) == [["log"]]


def test_long_functions_are_alone_and_so_are_their_arguments():
    assert loops(LogarithmLoss) == [[], ["log"], ["stop", "sqrt"], ["exp"], []]


def test_functions_of_one_argument_share_a_loop():
    assert [set(loop) for loop in loops(LogisticLoss)] == [set(), {"softplus", "sigmoid"}, set()]


def test_powers_by_a_number_have_loops_without_a_logarithm():
    powers = [loop[0] for loop in loops(PowerLoss)[1:5]]
    assert powers == ["root", "first_power", "square", "power"]


BUILT_IN = [cls for cls in samples.built_in() if issubclass(cls, Family) and cls._in_steps]


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: cls.name)
def test_arrays_between_loops(cls):
    """Each is written before it is read. In float64 they are 8 KB each, on the stack of a thread."""
    for formula in cls._formulas.usual():
        for variant in re.split(r"constexpr \(wanted_|\} else \{\n    T\* const", codegen.cpp(formula)[1])[1:]:
            arrays = re.findall(r"alignas\(64\) T (step\d+_)at_\[", variant)
            assert len(arrays) == len(set(arrays)) <= 32
            for name in arrays:
                written, read = variant.index(f"{name}at_[i_] = "), variant.index(f"const T {name} = ")
                assert variant.index(f"T {name}at_[lk") < written < read


def test_a_loss_in_steps_is_the_loss():
    """Against torch's own formula, through the compiled loops."""
    input, target = torch.randn(3000, dtype=torch.float64), torch.rand(3000, dtype=torch.float64)
    for cls in (LogarithmLoss, LogisticLoss, PowerLoss):
        loss = cls(reduction="none")
        arguments = {"gamma": 2.0} if cls is PowerLoss else {}
        torch.testing.assert_close(loss(input, target), cls.value(input, target, **arguments))
    for gamma in (0.5, 1.0, 1.5, 2.0):
        got = PowerLoss(gamma=gamma, reduction="none")(input, target)
        torch.testing.assert_close(got, (input - target).exp() ** gamma)
