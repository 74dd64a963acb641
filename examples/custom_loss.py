"""A loss of one's own: one formula gives the fused kernel, the extras of every loss, and derivatives of any order.

Run: python examples/custom_loss.py
"""

import torch

import losskit
from losskit import PointwiseLoss, param, positive
from losskit.formula import log1p


class FadingLoss(PointwiseLoss):
    """Log of one plus a log of the square: far outliers stop mattering."""

    scale: float = param(default=1.0, domain=positive, doc="Residual at which the curve bends.")

    @staticmethod
    def value(input, target, scale):
        u = (input - target) / scale
        return log1p(log1p(0.5 * u * u))


torch.manual_seed(0)
prediction, target = torch.randn(1000, requires_grad=True), torch.randn(1000)
criterion = FadingLoss(scale=2.0)
loss = criterion(prediction, target, mask=target > -1)
loss.backward()
print(f"loss {loss:.4f}, norm of the gradient {prediction.grad.norm():.4f}")
print(losskit.why(criterion, prediction, target))  # with a C++ compiler: a fused kernel

few = torch.randn(6, dtype=torch.float64, requires_grad=True), torch.randn(6, dtype=torch.float64)
print("gradcheck:", torch.autograd.gradcheck(criterion, few))
print("gradgradcheck:", torch.autograd.gradgradcheck(criterion, few))
