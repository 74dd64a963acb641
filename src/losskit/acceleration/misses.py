"""The losses of a program that an acceleration does not reach. A function mode of torch sees every call of torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from losskit.acceleration.sites import Sites


def _of(names: str, *owners: Any) -> set[Any]:
    return {getattr(owner, name) for owner in owners for name in names.split() if hasattr(owner, name)}


_OPERATORS = _of(
    "binary_cross_entropy_with_logits cosine_embedding_loss ctc_loss hinge_embedding_loss kl_div margin_ranking_loss "
    "poisson_nll_loss triplet_margin_loss",
    torch,
) | _of(
    "binary_cross_entropy cross_entropy_loss huber_loss l1_loss mse_loss multi_margin_loss multilabel_margin_loss "
    "nll_loss nll_loss2d nll_loss_nd smooth_l1_loss soft_margin_loss",
    torch._C._nn,
)
_LOGARITHMS = _of("log_softmax logsigmoid logsumexp", torch, Tensor, F)
_STILL_LOGARITHMS = _of("neg __neg__ squeeze unsqueeze view reshape flatten float", torch, Tensor)
_PICKS = _of("gather take_along_dim __getitem__ mul __mul__ __rmul__ sub __sub__ __rsub__", torch, Tensor)


class Misses(TorchFunctionMode):
    """The lines of one thread that have torch compute a loss, or write one themselves, in a `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.sites = Sites()
        self._logarithms: WeakIdKeyDictionary = WeakIdKeyDictionary()  # the tensors that are, and by which function

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if hasattr(func, "losskit_accelerates"):  # torch's function looks its name up, and finds the replacement
            self._note(func.__name__, "a reference to torch's function that was kept from before")
            return func.__wrapped__(*args, **given)  # type: ignore[attr-defined]
        name = getattr(func, "__name__", "")
        if func in _OPERATORS or (str(func).startswith("aten.") and "_loss" in name):
            self._note(name, "an operator below torch.nn.functional")
        result = func(*args, **given)
        if isinstance(result, Tensor):
            self._follow(func, name, args, result)
        return result

    def _follow(self, func: Callable[..., Any], name: str, args: Any, result: Tensor) -> None:
        """Note where logarithms of probabilities are picked or weighted: that is a cross entropy."""
        if func in _LOGARITHMS or name == "log_sigmoid":
            self._logarithms[result] = name
            return
        made = [self._logarithms[x] for x in tree_leaves(args) if isinstance(x, Tensor) and x in self._logarithms]
        if made and func in _STILL_LOGARITHMS:
            self._logarithms[result] = made[0]
        elif made and func in _PICKS:
            self._note(f"{made[0]}, {name.strip('_')}", "a formula of the program's own")

    def _note(self, name: str, why: str) -> None:
        site = self.sites.of_caller(name)
        with self.sites.lock:
            site.calls += 1
            site.torch[why] += 1
