"""Random operands for examples, benchmarks and `losskit why`; each family says which its losses take."""

from __future__ import annotations

import torch
from torch import Tensor

from losskit.domains import Domain


class Draw:
    """Draws tensors of one dtype on one device, the same ones each time."""

    def __init__(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.dtype, self.device = dtype, torch.device(device)
        # A GPU draws for itself: benchmarks there have hundreds of millions of numbers.
        self.generator = torch.Generator(self.device if self.device.type == "cuda" else "cpu").manual_seed(0)

    def normal(self, *size: int) -> Tensor:
        """Normal numbers."""
        drawn = torch.randn(size, generator=self.generator, device=self.generator.device)
        return drawn.to(self.device, self.dtype)

    def integers(self, low: int, high: int, *size: int) -> Tensor:
        """Integers from `low` on, below `high`."""
        drawn = torch.randint(low, high, size, generator=self.generator, device=self.generator.device)
        return drawn.to(self.device)

    def members(self, domain: Domain, size: tuple[int, ...]) -> Tensor:
        """Members of a domain."""
        return domain.sample(size, self.generator).to(self.device, self.dtype)
