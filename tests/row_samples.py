"""Arguments for the losses whose unreduced loss is one number per row: class scores, margins, embeddings, sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import losskit
from losskit import PointwiseLoss
from losskit.families.base import Family
from losskit.kernels import library

ROWS, CLASSES, WIDTH = 6, 5, 7


@dataclass(frozen=True)
class Sample:
    """A loss, its parameters, and a function that makes operands for a number of rows."""

    name: str
    label: str
    make: Callable[[int, torch.Generator], tuple[Tensor, ...]]
    params: dict[str, Any] = field(default_factory=dict)
    gradients: tuple[int, ...] = (0,)  # the operands whose gradients are tested
    batch: tuple[int, ...] = (0, 0, 0, 0)  # the batch dimension of each operand

    def __str__(self) -> str:
        return f"{self.name}-{self.label}"

    @property
    def loss(self) -> Any:
        return losskit.get(self.name)

    def operands(self, rows: int = ROWS, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
        made = self.make(rows, torch.Generator().manual_seed(seed))
        return [x.to(dtype) if x.is_floating_point() else x for x in made]

    def kwargs(self, dtype: torch.dtype) -> dict[str, Any]:
        return {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in self.params.items()}

    def __call__(self, *operands: Tensor, **extra: Any) -> Tensor:
        return self.loss.functional(*operands, **self.kwargs(operands[0].dtype), **extra)

    def cut(self, operands: list[Tensor], rows: Any) -> list[Tensor]:
        """Some of the rows of operands: a slice or a tensor of indices."""
        found = []
        for x, dim in zip(operands, self.batch, strict=False):
            index = torch.arange(x.shape[dim])[rows]
            found.append(x.index_select(dim, index))
        return found


def normal(*shape: int, g: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64) * 2.0


def labels(*shape: int, g: torch.Generator) -> Tensor:
    return torch.randint(0, CLASSES, shape, generator=g)


def indices(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    return normal(n, CLASSES, g=g), labels(n, g=g)


def probabilities(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    return normal(n, CLASSES, g=g), normal(n, CLASSES, g=g).softmax(1)


def log_probabilities(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    return normal(n, CLASSES, g=g).log_softmax(1), labels(n, g=g)


def label_lists(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    """Lists of classes that end with -1, of different lengths."""
    target = torch.stack([torch.randperm(CLASSES, generator=g) for _ in range(n)]) if n else labels(0, CLASSES, g=g)
    for row in range(n):
        target[row, 1 + row % (CLASSES - 1)] = -1
    return normal(n, CLASSES, g=g), target


def pairs(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    target = torch.randint(0, 2, (n,), generator=g) * 2 - 1
    return normal(n, WIDTH, g=g), normal(n, WIDTH, g=g), target.double()


def triplets(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    return normal(n, WIDTH, g=g), normal(n, WIDTH, g=g), normal(n, WIDTH, g=g)


def sequences(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    frames = 9
    target = torch.randint(1, CLASSES, (n, 3), generator=g)
    lengths = torch.arange(n) % 4
    return normal(frames, n, CLASSES, g=g).log_softmax(-1), target, frames - torch.arange(n) % 2, lengths


WEIGHT = torch.linspace(0.5, 2.0, CLASSES, dtype=torch.float64)
ON_BATCH = (1, 0, 0, 0)

SAMPLES = [
    Sample("cross_entropy", "indices", indices),
    Sample("cross_entropy", "smoothing", indices, {"label_smoothing": 0.2}),
    Sample("cross_entropy", "weight", indices, {"weight": WEIGHT, "ignore_index": 1}),
    Sample("cross_entropy", "weight_smoothing", indices, {"weight": WEIGHT, "label_smoothing": 0.2}),
    Sample("cross_entropy", "probabilities", probabilities, gradients=(0, 1)),
    Sample("cross_entropy", "probabilities_weight", probabilities, {"weight": WEIGHT, "label_smoothing": 0.1},
           gradients=(0, 1)),
    Sample("nll_loss", "indices", log_probabilities),
    Sample("nll_loss", "weight", log_probabilities, {"weight": WEIGHT, "ignore_index": 2}),
    Sample("multi_margin_loss", "p1", indices),
    Sample("multi_margin_loss", "p2_weight", indices, {"p": 2, "margin": 0.7, "weight": WEIGHT}),
    Sample("multilabel_margin_loss", "lists", label_lists),
    Sample("cosine_embedding_loss", "margin", pairs, {"margin": -0.3}, gradients=(0, 1)),
    Sample("triplet_margin_loss", "default", triplets, {"margin": 2.0}, gradients=(0, 1, 2)),
    Sample("triplet_margin_loss", "swap", triplets, {"p": 3.0, "eps": 0.01, "swap": True}, gradients=(0, 1, 2)),
    Sample("triplet_margin_with_distance_loss", "swap", triplets, {"margin": 2.0, "swap": True}, gradients=(0, 1, 2)),
    Sample("ctc_loss", "blank", sequences, {"zero_infinity": True}, batch=ON_BATCH),
    Sample("ctc_loss", "scores", sequences, {"from_scores": True, "blank": 0}, batch=ON_BATCH),
    Sample("ctc_loss", "exact", sequences, {"exact_gradient": True}, batch=ON_BATCH),
    Sample("triplet_margin_loss", "fraction", triplets, {"p": 1.5, "margin": 4.0}, gradients=(0, 1, 2)),
]  # fmt: skip


def without_kernels(monkeypatch: Any) -> None:
    """From now on there is no kernel: the formula runs."""

    monkeypatch.setattr(library, "available", lambda formula: False)


def everything() -> list[Any]:
    """The samples as pytest parameters with readable names."""
    import pytest

    return [pytest.param(sample, id=str(sample)) for sample in SAMPLES]


def losses() -> list[Any]:
    """The built-in losses of the families of rows."""
    found = [cls for cls in losskit.list_losses().values() if cls.__module__.startswith("losskit.")]
    return [cls for cls in found if issubclass(cls, Family) and not issubclass(cls, PointwiseLoss)]
