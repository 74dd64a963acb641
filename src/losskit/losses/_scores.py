"""The operands that losses of class scores share: logits, or cosines to a vector of each class."""

from __future__ import annotations

from typing import Any

from losskit.declaration import Operand, param
from losskit.domains import Interval, positive

LOGITS = {
    "input": Operand("Scores (logits) of shape (N, C), (N, C, d1, ...) or (C,); not probabilities."),
    "target": Operand(
        "Class indices in [0, C) of any integer dtype, of the shape of input without C; "
        "or probabilities of the shape of input."
    ),
}
COSINES = {
    "input": Operand("Cosines of shape (N, C), of each embedding to each class.",
                     domain=Interval("a cosine, in [-1, 1]", low=-1.0, high=1.0, typical=0.0),
                     hint="Normalise embeddings and class vectors before their product."),
    "target": Operand("Class indices in [0, C) of any integer dtype, of shape (N,)."),
}  # fmt: skip
SCALE: Any = param(default=64.0, domain=positive, doc="By which the cosines are multiplied before the softmax.")
