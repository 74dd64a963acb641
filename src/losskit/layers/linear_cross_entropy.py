"""A last layer and its cross entropy in one module, with torch 2.13's names."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from losskit.draw import Draw
from losskit.errors import error
from losskit.layers.linear import CAP, PRICE, linear_cross_entropy
from losskit.loss import heads as heads_by_name
from losskit.losses.cross_entropy import CrossEntropyLoss
from losskit.parameters import validate
from losskit.reduction import Reduction
from losskit.sums import Summand


class LinearCrossEntropyLoss(Summand, getattr(nn, "LinearCrossEntropyLoss", nn.Module)):  # of torch 2.13
    """A last layer and its cross entropy in one, without ever storing the scores.

    Choose it for language models and other last layers with ten thousand classes and more.
    Prefer `losskit.linear(criterion)` where the weights are another module's, or for any other loss.

    The names of parameters, their shapes and the order in which they are drawn are torch's.

    Args:
        in_features: Width of the input, D.
        num_classes: Number of classes, C.
        out_features: d1, d2, ... of a loss with further dimensions.
        bias: Whether the layer has a bias.
        device: Of the parameters.
        dtype: Of the parameters.
        reduction: One of 'none', 'mean', 'sum'.
        weight: Weight of each class, a tensor of shape (C,).
        ignore_index: Rows with this target do not count. None: -100.
        label_smoothing: Share of the target that is spread evenly over all classes. In [0, 1].
        options: `torch.nn.LinearCrossEntropyOptions`, which is accepted and changes nothing.
        soft_cap: The scores are bent so that none is beyond it, see `losskit.soft_cap`. Positive.
        z_loss: The coefficient of the squared log-sum-exp that is added to the loss of each row. Not negative.

    Called with `input` (..., D) and `target` (...), or (..., C) for probabilities; by keyword with `sample_weight`,
    `mask` and `normalizer`.

    Raises:
        ValueError: Shapes do not match, or a label is no class.
    """

    name = "linear_cross_entropy"
    weight: Tensor | None
    _usual_shape = (2048, 512)

    @staticmethod
    def _example(shape: tuple[int, ...], draw: Draw, classes: int = 32000) -> list[Tensor]:
        """Features of a shape, weights and targets, as the function takes them."""
        *rows, width = shape
        return [draw.normal(*shape), draw.normal(classes, width) / width**0.5, draw.integers(0, classes, *rows)]

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: Reduction = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        soft_cap: float | None = None,
        z_loss: float = 0.0,
    ) -> None:
        nn.Module.__init__(self)  # torch's class is the base so that isinstance knows this one
        CrossEntropyLoss(reduction=reduction, label_smoothing=label_smoothing)  # refuses what is none
        if weight is not None and tuple(weight.shape) != (num_classes,):
            raise error("per_class", loss="linear_cross_entropy", argument="weight", classes=num_classes,
                        got=tuple(weight.shape))  # fmt: skip
        self.register_buffer("weight", weight)
        self.num_classes, self.out_features = num_classes, tuple(out_features)
        self.reduction, self.ignore_index, self.label_smoothing = reduction, ignore_index, label_smoothing
        self.options, self.soft_cap = options, validate("linear_cross_entropy", CAP, soft_cap)
        self.z_loss = validate("linear_cross_entropy", PRICE, z_loss)
        outputs = math.prod(self.out_features, start=num_classes)
        self.linear = nn.Linear(in_features, outputs, bias=bias, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        names = "num_classes out_features reduction ignore_index label_smoothing soft_cap z_loss".split()
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        shape = self.num_classes, *self.out_features
        bias = self.linear.bias
        return linear_cross_entropy(
            input, self.linear.weight.unflatten(0, shape), target,
            linear_bias=None if bias is None else bias.unflatten(0, shape), weight=self.weight,
            reduction=self.reduction, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing,
            soft_cap=self.soft_cap, z_loss=self.z_loss, sample_weight=sample_weight, mask=mask, normalizer=normalizer,
        )  # fmt: skip


heads_by_name["linear_cross_entropy"] = (
    LinearCrossEntropyLoss, "LinearCrossEntropyLoss", "fused linear cross entropy", "cut cross entropy", "flce"
)  # fmt: skip
