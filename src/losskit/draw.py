"""Random operands for examples, benchmarks and `losskit why`; each family says which its losses take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.domains import Domain


class Draw:
    """Draws tensors of one dtype on one device, the same ones each time."""

    def __init__(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(0)

    def normal(self, *size: int) -> Tensor:
        """Normal numbers."""
        return torch.randn(size, generator=self.generator).to(self.device, self.dtype)

    def integers(self, low: int, high: int, *size: int) -> Tensor:
        """Integers from `low` on, below `high`."""
        return torch.randint(low, high, size, generator=self.generator).to(self.device)

    def members(self, domain: Domain, size: tuple[int, ...]) -> Tensor:
        """Members of a domain."""
        return domain.sample(size, self.generator).to(self.device, self.dtype)

    def put(self, x: Tensor) -> Any:
        """A tensor of integers, on the device."""
        return x.to(self.device)
