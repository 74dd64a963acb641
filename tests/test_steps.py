"""How the C++ of an element-wise loss is cut into loops: long functions alone, between them arrays of a block."""

import re

import pytest
import samples
import torch

from losskit import PointwiseLoss, param
from losskit.families.base import Family
from losskit.formula import absolute, exp, expm1, log, log1p, power, sigmoid, softplus, sqrt, stop
from losskit.kernels import codegen


class ShortLoss(PointwiseLoss):
    """One function of little: nothing waits for it long."""

    @staticmethod
    def value(input, target):
        return log(1.0 + input) * target


class LogarithmLoss(PointwiseLoss):
    """A logarithm of a quotient, and of that a root and an exponential."""

    @staticmethod
    def value(input, target):
        logarithm = log((input * input + 1.0) / (target * target + 1.0))
        return exp(stop(logarithm) * sqrt(1.0 + logarithm * logarithm)) - 1.0


class OperandLoss(PointwiseLoss):
    """Logarithms of what is, and of what is not, an operand itself."""

    @staticmethod
    def value(input, target):
        return log(input) * log1p(-target) / input


class SharedLoss(PointwiseLoss):
    """An exponential that shares its operations with another function."""

    @staticmethod
    def value(input, target):
        u = (input - target) / (1.0 + target * target)
        return expm1(u) * exp(-u)


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


class QuotientLoss(PointwiseLoss):
    """A function of a quotient, and the quotient itself."""

    scale: float = param(default=2.0, doc="What divides.")

    @staticmethod
    def value(input, target, scale):
        u = (input - target) / scale
        return absolute(u) * log1p(u * u)


def printed(cls, variant="losskit::kNone"):
    """The source of a variant."""
    source = codegen.cpp(next(iter(cls._formulas.usual())))[1]
    return re.search(rf"wanted_ == {variant}\) {{\n(.*?)\n  }} else", source, re.DOTALL)[1]


def loops(cls):
    """The functions that each loop calls, and between them those that take a block."""
    part = printed(cls)
    return [re.findall(r"lk::(\w+)\(", loop) for loop in re.split(r"#pragma GCC ivdep|(?=lk::\w+_each\()", part)[1:]]


def test_a_short_formula_is_one_loop():
    assert loops(ShortLoss) == [["log"]]


def test_long_functions_are_alone_and_so_are_their_arguments():
    arguments = ["larger"], ["larger", "stop", "sqrt"]  # the largest says whether all numbers of a block are usual
    assert loops(LogarithmLoss) == [arguments[0], ["log_each"], arguments[1], ["exp_each"], []]


def test_an_operand_goes_to_a_function_that_takes_a_block_as_it_is():
    assert loops(OperandLoss) == [["log_each"], ["larger"], ["log1p_each"], []]


def test_functions_of_one_argument_share_a_loop():
    assert loops(SharedLoss) == [[], ["expm1", "exp"], []]


def test_softplus_and_sigmoid_share_an_exponential():
    assert loops(LogisticLoss) == [[], ["exp_nabs"], ["softplus"], ["sigmoid"]]


def test_powers_by_a_number_have_loops_without_a_logarithm():
    powers = [loop[0] for loop in loops(PowerLoss)[2:6]]
    assert powers == ["root", "first_power", "square", "power"]


def test_a_quotient_is_divided_once():
    assert loops(QuotientLoss) == [["larger"], ["log1p_each"], ["absolute"]]
    assert printed(QuotientLoss).count(" / ") == 1


BUILT_IN = [cls for cls in samples.built_in() if issubclass(cls, Family) and cls._in_steps]


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: cls.name)
def test_arrays_between_loops(cls):
    """Each is written before it is read. In float64 they are 8 KB each, on the stack of a thread."""
    for formula in cls._formulas.usual():
        for variant in re.split(r"constexpr \(wanted_|\} else \{\n    T\* const", codegen.cpp(formula)[1])[1:]:
            arrays = re.findall(r"alignas\(64\) T (step\d+_)at_\[", variant)
            assert len(arrays) == len(set(arrays)) <= 40
            for name in arrays:
                written = re.search(rf"{name}at_\[i_\] = |, {name}at_\);", variant).start()
                read = re.search(rf"const T {name} = |\(n_, (most_, )?{name}at_,", variant).start()
                assert variant.index(f"T {name}at_[lk") < written < read


def test_a_loss_in_steps_is_the_loss():
    """Against torch's own formula, through the compiled loops."""
    input, target = torch.randn(3000, dtype=torch.float64), torch.rand(3000, dtype=torch.float64)
    for cls in (LogarithmLoss, OperandLoss, SharedLoss, LogisticLoss, PowerLoss, QuotientLoss):
        loss = cls(reduction="none")
        arguments = {p.name: p.default for p in cls.params.values()}
        torch.testing.assert_close(loss(input, target), cls.value(input, target, **arguments), equal_nan=True)
    for gamma in (0.5, 1.0, 1.5, 2.0):
        got = PowerLoss(gamma=gamma, reduction="none")(input, target)
        torch.testing.assert_close(got, (input - target).exp() ** gamma)
