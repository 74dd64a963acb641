"""Formulas that other programs write themselves where torch has a function: each replaced by that function's losskit.

A program is adapted when it is loaded; nothing of it is imported here. What an adapted method cannot compute by
losskit, its own code does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from losskit import functional as LF
from losskit.acceleration.calls import Calls
from losskit.acceleration.imports import After
from losskit.acceleration.replaced import Function

_waiting: list[After] = []


def adapt(replace: Callable[[Any, str, Any], None], calls: Calls) -> None:
    """Replace the formulas of the programs that are loaded, and those of others when they are."""
    for name, formulas in _PROGRAMS.items():
        _waiting.append(After(name, functools.partial(_adapt, formulas, replace, calls)))


def _adapt(
    formulas: Mapping[str, Function], replace: Callable[[Any, str, Any], None], calls: Calls, module: ModuleType
) -> None:
    for path, formula in formulas.items():
        *parents, name = path.split(".")
        owner: Any = module
        for parent in parents:
            owner = vars(owner).get(parent)
        own = None if owner is None else vars(owner).get(name)
        if own is not None:
            replace(owner, name, calls.replaced(path, own, formula))


def forget() -> None:
    """Wait for no program any more."""
    while _waiting:
        _waiting.pop().forget()


def _label_smoother(
    self: Any, model_output: Any, labels: Any, shift_labels: bool = False, num_items_in_batch: Any = None
) -> Any:
    """transformers: the labels' cross entropy, smoothed, over the tokens that are no padding."""
    logits = model_output["logits"] if isinstance(model_output, dict) else model_output[0]
    if shift_labels:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    if labels.ndim == logits.ndim:
        labels = labels.squeeze(-1)
    return LF.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=self.ignore_index, label_smoothing=self.epsilon,
        normalizer=num_items_in_batch,
    )  # fmt: skip


def _smoothed(self: Any, x: Any, target: Any) -> Any:
    """timm's LabelSmoothingCrossEntropy."""
    return LF.cross_entropy(x, target, label_smoothing=self.smoothing)


def _soft_targets(self: Any, x: Any, target: Any) -> Any:
    """timm's SoftTargetCrossEntropy, of the last dimension."""
    return LF.cross_entropy(x.movedim(-1, min(1, x.ndim - 1)), target.movedim(-1, min(1, x.ndim - 1)))


def _log_probabilities(logits: Any, index: Any) -> Any:
    """trl: the log-probability of each token."""
    return -LF.cross_entropy(logits.flatten(0, -2), index.flatten(), reduction="none").reshape(index.shape)


# Modules of programs, and the formulas in them by their place.
_PROGRAMS: dict[str, dict[str, Function]] = {
    "transformers.trainer_pt_utils": {"LabelSmoother.__call__": _label_smoother},
    "timm.loss.cross_entropy": {
        "LabelSmoothingCrossEntropy.forward": _smoothed, "SoftTargetCrossEntropy.forward": _soft_targets
    },
    "trl.trainer.utils": {"selective_log_softmax": _log_probabilities},
}  # fmt: skip
