"""What a declaration of class scores gives beside `value`, as kernels take it.

1. The formula of the own class's score is compiled as a kernel of its own.
2. A tensor with a number for each class is made once for equal parameters: of ten classes a hook and its checks take 20
   times as long as to compare what it is made of. Versions of tensors would be cheaper to compare, but numpy and
   `.data` change numbers without a new version.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from losskit.declaration import Operand, Param
from losskit.kernels.choice import PLAIN
from losskit.kernels.torch_internals import observed
from losskit.policy import state


class OwnScore:
    """`target_score` of a declaration, as `Formula` takes it.

    The operand that multiplies the scores is there, too, where there is one: for its domain. The value is without it.
    """

    grad = textbook = None
    _harmless: ClassVar[dict[str, float]] = {}
    _in_steps: ClassVar[bool] = False
    _statistics = None

    def __init__(self, loss: Any) -> None:
        self.of, self.__name__, self.name = loss, loss.__name__, loss.name
        function = loss.target_score or _itself
        taken = list(inspect.signature(function).parameters)
        self.params: dict[str, Param] = {name: loss.params[name] for name in taken if name in loss.params}
        self.operands = {"score": Operand("Score of the own class.", loss.operands["input"].domain)}
        if loss.scaled_by in loss.operands:
            domain = loss.operands[loss.scaled_by].domain
            self.operands[loss.scaled_by] = Operand("A number of the row.", domain, differentiable=False)
        if "own" in taken:
            self.operands["own"] = Operand("A number of the class.", differentiable=False)

        def target_score(**given: Any) -> Any:
            return function(**{name: given[name] for name in taken})

        names = [*self.operands, *self.params]
        target_score.__dict__["__signature__"] = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
        )
        self.value = target_score

    def __reduce__(self) -> Any:
        return OwnScore, (self.of,)

    def _formula_params(self) -> list[Param]:
        return list(self.params.values())

    def _operand_params(self) -> list[Param]:
        return []


def _itself(score: Any) -> Any:
    return score


_MOST = 1 << 16  # classes: a tensor of more is not worth its memory
_kept: dict[Any, tuple[list[Tensor], Tensor | None]] = {}  # what hooks were given, and made of it


def kept(loss: Any, name: str, parameters: Mapping[str, Any], make: Callable[..., Tensor | None]) -> Tensor | None:
    """The tensor that `make` computes from parameters; the one of an earlier call if their contents are the same."""
    if torch.compiler.is_compiling() or observed() or torch.is_inference_mode_enabled():
        return make(name, **parameters)
    tensors, key = [], [loss, name, torch.is_autocast_enabled("cpu")]
    for x in parameters.values():
        if not isinstance(x, Tensor):
            key.append(x)
        elif type(x) in PLAIN and x.is_cpu and not x.requires_grad and not x.is_inference() and x.numel() <= _MOST:
            tensors.append(x)
            key.append(x.dtype)
        else:
            return make(name, **parameters)
    found = _kept.get(tuple(key))
    if found is not None and all(map(torch.equal, tensors, found[0])):
        return found[1]
    if not tensors or state.checks in ("off", "nan"):  # what is kept has passed the checks
        return make(name, **parameters)
    copies = {name: x.clone() if isinstance(x, Tensor) else x for name, x in parameters.items()}
    made = make(name, **copies)
    if len(_kept) >= 32:  # a parameter that changes with every step must not fill the memory
        _kept.clear()
    _kept[tuple(key)] = [x for x in copies.values() if isinstance(x, Tensor)], made
    return made
