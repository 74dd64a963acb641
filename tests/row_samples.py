"""Arguments for the losses whose unreduced loss is one number per row: class scores, margins, boxes, sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import proofs
import torch
from proofs import Variant
from samples import of_rows
from torch import Tensor

import losskit
from losskit.families.base import Family
from losskit.kernels import library, node

ROWS = 6
OF_BATCHES = {"lovasz_softmax_loss"}  # tested in files of their own


@dataclass(frozen=True, kw_only=True)
class Sample(Variant):
    """A variant of a proof, and the name of its loss."""

    name: str

    def __str__(self) -> str:
        return f"{self.name}-{self.label}"

    @property
    def loss(self) -> Any:
        return losskit.get(self.name)

    def operands(self, rows: int = ROWS, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
        """The same numbers on every device."""
        device = torch.get_default_device()
        with torch.device("cpu"):
            made = self.make(rows, torch.Generator().manual_seed(seed))
        return [x.to(device, dtype if x.is_floating_point() else x.dtype) for x in made]

    def kwargs(self, dtype: torch.dtype) -> dict[str, Any]:
        device = torch.get_default_device()
        return {k: v.to(device, dtype) if isinstance(v, Tensor) else v for k, v in self.params.items()}

    def __call__(self, *operands: Tensor, **extra: Any) -> Tensor:
        return self.loss.functional(*operands, **self.kwargs(operands[0].dtype), **extra)

    def cut(self, operands: list[Tensor], rows: Any) -> list[Tensor]:
        """Some of the rows of operands: a slice or a tensor of indices."""
        found = []
        for x, dim in zip(operands, self.batch, strict=False):
            index = torch.arange(x.shape[dim])[rows]
            found.append(x.index_select(dim, index))
        return found


SAMPLES = [Sample(name=name, **vars(variant)) for name, proof in proofs.of_rows().items() for variant in proof.variants]


def without_kernels(monkeypatch: Any) -> None:
    """From now on there is no kernel: the formula runs."""

    monkeypatch.setattr(library, "available", lambda formula: False)
    monkeypatch.setattr(node, "on", False)  # it knows the kernel of a plan that was called before


def everything(rest: str | None = None) -> list[Any]:
    """The samples as pytest parameters; with a reason, all but the representatives full, see tiers.py."""
    from tiers import represented

    return represented(SAMPLES, rest)


def losses() -> list[Any]:
    """The built-in losses of the families of rows; of a loss of whole batches there is no sample of independent rows."""
    found = [cls for cls in losskit.list_losses().values() if cls.__module__.startswith("losskit.")]
    found = [cls for cls in found if issubclass(cls, Family) and of_rows(cls) and cls.name not in OF_BATCHES]
    return [cls for cls in found if not issubclass(cls, losskit.PairsLoss)]


def of_pairs() -> list[Any]:
    """The built-in losses of pairs."""
    found = [cls for cls in losskit.list_losses().values() if cls.__module__.startswith("losskit.")]
    return [cls for cls in found if issubclass(cls, losskit.PairsLoss)]
