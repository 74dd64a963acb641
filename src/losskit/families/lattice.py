"""What the families of sequences share: losses of the probability that one path, or a set of them, has among all.

The lattices themselves are written by hand, in C++ and in the plan of each family. A formula of one number is left: the
loss is -log of the probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from losskit import curves
from losskit.calculus import derivative
from losskit.display import Statistic, Written, text_of
from losskit.domains import probability as probability_domain
from losskit.families.base import Family
from losskit.formula import log
from losskit.graph import Trace
from losskit_guide.card import Curve, Equation, Variant


def probability_of(what: str) -> Statistic:
    """What the loss of a lattice is the logarithm of."""
    return Statistic("probability", Written("P", "P"), f"probability of the {what}", probability_domain)


class LatticeLoss(Family, abstract=True):
    """A loss of samples that are sequences, each a number: -log of a probability."""

    _of_formula = False
    _equations: ClassVar[Sequence[Equation]]
    _symbols: ClassVar[Sequence[dict[str, str]]]
    _curve_label: ClassVar[str]

    @classmethod
    def _curve(cls) -> Curve | None:
        ways: list[Any] = [({}, [], lambda probability: {"result": -log(probability)})]
        return curves.of_trace(cls, "probability", "probability", (1e-3, 1.0), [], ways, cls._curve_label)

    @classmethod
    def _written(cls) -> tuple[list[Variant], list[dict[str, str]]]:
        trace = Trace()
        probability = trace.variable("probability")
        value = -log(probability)
        gradients = {"probability": text_of(derivative(value, probability), ["probability"])}
        variant = Variant({}, list(cls._equations), ["probability"], text_of(value, ["probability"]), gradients)
        return [variant], list(cls._symbols)

    @classmethod
    def _unreduced(cls) -> str:
        return "a tensor with a number for each sample"
