"""Domains: sets of allowed numbers that test, describe themselves, and give samples and edges to tests.

A closed bound is meant as computed numbers mean it: `slack_of` a dtype beyond it counts as the bound.

The same object validates a parameter in a constructor, checks an operand (in the fused kernel and eagerly),
writes its part of the error message, and generates the data of the test suite.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """The numbers between `low` and `high`; NaN is let through, since NaN in gives NaN out."""

    description: str
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    typical: float = 0.5  # a harmless member: stands in for masked elements
    back: int = 0  # not 0: of the difference from the component so many places before
    whole: bool = False  # tensors must have whole numbers

    def includes(self, value: float) -> bool:
        """Whether a parameter may have this value; here NaN is refused."""
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def outside(self, values: Tensor, slack: float = 0.0) -> Tensor:
        """Where a tensor leaves the domain; closed bounds let through what is beyond them by `slack` at most."""
        low = values <= self.low if self.low_open else values < self.low - slack
        high = values >= self.high if self.high_open else values > self.high + slack
        if self.whole and values.is_floating_point():
            return low | high | ((values != values.floor()) & (values == values))
        return low | high

    @property
    def settles(self) -> bool:
        """Whether there is a closed bound, onto which values just beyond it are put."""
        return self._closed_below or self._closed_above

    # Compared with infinity, since Dynamo of torch 2.10 and 2.11 knows no `math.isfinite` of what it made a symbol.

    @property
    def _closed_below(self) -> bool:
        return self.low > -math.inf and not self.low_open

    @property
    def _closed_above(self) -> bool:
        return self.high < math.inf and not self.high_open

    def settled(self, values: Tensor, slack: float) -> Tensor:
        """The values, those beyond a closed bound by `slack` at most put onto it; its derivative stays 1."""
        bound = values.detach()
        if self._closed_below:
            bound = torch.where((bound < self.low) & (bound >= self.low - slack), self.low, bound)
        if self._closed_above:
            bound = torch.where((bound > self.high) & (bound <= self.high + slack), self.high, bound)
        beyond = bound != values
        # Infinity less infinity must not reach the sum, nor NaN its derivative.
        return torch.where(beyond, values - torch.where(beyond, values - bound, 0.0).detach(), values)

    @property
    def everything(self) -> bool:
        """Whether there is nothing to check."""
        return self.low == -math.inf and self.high == math.inf and not (self.low_open or self.high_open)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Random float64 members, at ordinary scale; rounded to half precision they are members, too."""
        normal = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device) * 2.0
        if math.isfinite(self.low) and math.isfinite(self.high):
            return self.low + (self.high - self.low) * torch.sigmoid(normal)
        if math.isfinite(self.low):
            return self.low + normal.abs() + (max(1e-3, abs(self.low) / 64) if self.low_open else 0.0)
        if math.isfinite(self.high):
            return self.high - normal.abs() - (max(1e-3, abs(self.high) / 64) if self.high_open else 0.0)
        return normal

    def edges(self) -> list[float]:
        """Members on and next to the boundary, and extreme ones."""
        points = []
        if math.isfinite(self.low):
            points += [self.low + 1e-30] if self.low_open else [self.low, self.low + 1e-30]
        else:
            points += [-1e30, -100.0, -1e-30]
        if math.isfinite(self.high):
            points += [self.high - 1e-7] if self.high_open else [self.high, self.high - 1e-7]
        else:
            points += [1e-30, 100.0, 1e30]
        return [point for point in points if self.includes(point)]

    def invalid(self) -> list[float]:
        """Values just outside, for tests of the refusal."""
        below = [self.low if self.low_open else self.low - 0.5] if math.isfinite(self.low) else []
        above = [self.high if self.high_open else self.high + 0.5] if math.isfinite(self.high) else []
        return below + above

    def cpp(self) -> str:
        """The domain as an initialiser of `losskit::Domain`."""
        if self.everything:
            return "{losskit::kAnything, 0, 0, 0.0, 0.0}"
        limits = [
            repr(x) if math.isfinite(x) else f"{'-' if x < 0 else ''}std::numeric_limits<double>::infinity()"
            for x in (self.low, self.high)
        ]
        return f"{{losskit::kInterval, {self.low_open | self.high_open << 1}, {self.back}, {limits[0]}, {limits[1]}}}"


@dataclass(frozen=True)
class Signs:
    """The two labels -1 and 1."""

    description: str = "-1 or 1"
    typical: float = 1.0
    back: int = 0
    everything: bool = False
    settles: bool = False

    def settled(self, values: Tensor, slack: float) -> Tensor:
        return values

    def includes(self, value: float) -> bool:
        return value in (-1.0, 1.0)

    def outside(self, values: Tensor, slack: float = 0.0) -> Tensor:
        return (values != 1) & (values != -1) & (values == values)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator, device=generator.device).to(torch.float64) * 2.0 - 1.0

    def edges(self) -> list[float]:
        return [-1.0, 1.0]

    def invalid(self) -> list[float]:
        return [0.0, 2.0]

    def cpp(self) -> str:
        return "{losskit::kSigns, 0, 0, 0.0, 0.0}"


Domain = Interval | Signs
SLACK_ULPS = 4.0  # of 1: what rounding may leave beyond a closed bound


def slack_of(dtype: torch.dtype) -> float:
    """What rounding may leave beyond a bound, 4 ULP of 1: an interpolation of ones gives 1.0000001."""
    return SLACK_ULPS * torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def shortest(value: float) -> str:
    """The fewest digits, 7 at least, that tell a number from its neighbours in float32, or in float64 where it is."""
    single = struct.unpack("f", struct.pack("f", value))[0] if abs(value) < 3e38 else value
    for digits in range(7, 17):
        text = f"{value:.{digits}g}"
        near = float(text)
        if near == value or (single == value and struct.unpack("f", struct.pack("f", near))[0] == value):
            return text
    return repr(value)


real = Interval("any real number")
positive = Interval("positive", low=0.0, low_open=True, typical=1.0)
nonnegative = Interval("non-negative", low=0.0, typical=1.0)
probability = Interval("in [0, 1]", low=0.0, high=1.0)
# Rounding may leave a log-probability a little above 0; a probability passed by mistake is mostly above this.
log_probability = Interval("a log-probability (at most 0)", high=2.0**-7, typical=-1.0)
signs = Signs()
