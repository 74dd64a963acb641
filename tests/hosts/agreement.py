"""The same steps with torch's losses and with losskit's, and what is compared afterwards.

The hosts are not edited: `losskit.accelerate` puts losskit's functions where they find torch's.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import losskit
import losskit.acceleration

# Of the greatest entry. Seen were 9e-7, and 7e-6 for the one model whose own gradient of float32 lies 9e-6 away from that
# of float64. A term that is lost, or a denominator that is off by one, is a thousand times as large. In bfloat16: one rounding.
FLOAT32, BFLOAT16 = 2e-5, 4e-3


def asked(report: losskit.acceleration.Acceleration) -> Counter[str]:
    """Which functions losskit computed in torch's place, and how often."""
    calls: Counter[str] = Counter()
    for site in report.sites:
        calls[site.function] += site.calls - site.torch.total()
    return +calls


@dataclass
class Training:
    """What a few steps gave: the losses, the first gradient, how far the parameters went, how often losskit was asked."""

    losses: Tensor
    gradient: Tensor
    movement: Tensor
    calls: Counter[str]


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def train(
    make: Callable[[], nn.Module], loss_of: Callable[[nn.Module], Tensor], *, steps: int = 3, rate: float = 0.05
) -> Training:
    """`steps` of gradient descent, with the same random numbers whenever it is called."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    model = make()
    trained = [p for p in model.parameters() if p.requires_grad]
    start = flat(trained)
    optimizer = torch.optim.SGD(trained, rate)
    losses, gradient = [], None
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        losses.append(loss.detach())
        if gradient is None:
            gradient = flat(torch.zeros_like(p) if p.grad is None else p.grad for p in trained)
        optimizer.step()
    return Training(torch.stack(losses).double(), gradient, flat(trained) - start, Counter())


def both(
    make: Callable[[], nn.Module], loss_of: Callable[[nn.Module], Tensor], **options: Any
) -> tuple[Training, Training]:
    """The unchanged host, and the host whose losses are losskit's."""
    theirs = train(make, loss_of, **options)
    with losskit.accelerate() as report:
        ours = train(make, loss_of, **options)
    ours.calls = asked(report)
    assert ours.calls, "no loss of torch.nn.functional was called: the host computes its own"
    return ours, theirs


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float, what: str = "") -> None:
    """Each entry within `tolerance` of the greatest; NaN where there is NaN."""
    ours, theirs = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    assert ours.shape == theirs.shape
    assert torch.equal(ours.isnan(), theirs.isnan()), f"{what}: NaN in one of them"
    greatest = theirs.nan_to_num().abs().max().item()
    difference = (ours - theirs).nan_to_num().abs().max().item()
    assert difference <= tolerance * greatest, f"{what}: off by {difference:.3g}, the greatest entry is {greatest:.3g}"


def assert_same(ours: Training, theirs: Training, tolerance: float = FLOAT32) -> None:
    assert theirs.gradient.nan_to_num().abs().max() > 0, "a test without a gradient proves nothing"
    assert_near(ours.losses, theirs.losses, tolerance, "losses")
    assert_near(ours.gradient, theirs.gradient, tolerance, "gradient")
    assert_near(ours.movement, theirs.movement, 10 * tolerance, "parameters")
