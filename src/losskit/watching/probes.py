"""What a loss does, tried out on the operands of a call: for criteria that no declaration describes, and to be sure."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from losskit.watching.calls import Call


def _loss(call: Call, **changed: Any) -> Tensor | None:
    """The loss with changed arguments; None where it is refused."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = call.again(**changed)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return None
    return found.double() if isinstance(found, Tensor) else None


def _same(a: Tensor | None, b: Tensor | None, slack: float) -> bool:
    return a is not None and b is not None and a.shape == b.shape and torch.allclose(a, b, rtol=slack, atol=slack)


def softmax_built_in(call: Call, name: str = "") -> bool:
    """Whether adding a number to each row of scores changes nothing."""
    name = name or call.input_name
    x = call.operands[name].float()
    rest = {n: y.float() for n, y in call.operands.items() if n != name and y.is_floating_point()}
    offset = torch.linspace(1.0, 2.0, len(x), device=x.device).reshape(-1, *[1] * (x.ndim - 1)) if x.ndim > 1 else 1.0
    base = _loss(call, **{name: x}, **rest)
    return _same(base, _loss(call, **{name: x + offset}, **rest), 1e-3)


def sigmoid_built_in(call: Call) -> bool:
    """Whether a score far on the right side costs nothing, and the label itself as a score does."""
    t = call.operands[call.target_name].float().reshape(call.input.shape)
    right, ends = _loss(call, **{call.input_name: 60.0 * (t - 0.5)}), _loss(call, **{call.input_name: t})
    if right is None or ends is None or not bool((right.isfinite() & ends.isfinite()).all()):
        return False
    return float(right.abs().mean()) < 1e-3 < 0.01 < float(ends.abs().mean())


def broadcasts(call: Call) -> bool:
    """Whether each prediction is compared with all targets: then their order does not matter."""
    t = call.operands[call.target_name]
    turned = t.roll(1, int(t.shape.index(max(t.shape))))
    return not torch.equal(t, turned) and _same(_loss(call), _loss(call, **{call.target_name: turned}), 1e-5)


def finite_in_single(call: Call) -> bool:
    """Whether the loss is finite when it is computed in float32."""
    wide = {n: x.float() for n, x in call.operands.items() if x.is_floating_point()}
    loss = _loss(call, **wide)
    return loss is not None and bool(loss.isfinite().all())


def of_rows(call: Call) -> Tensor | None:
    """The loss of each row, where the loss can be had without its mean."""
    each = _loss(call, reduction="none") if "reduction" in call.settings or call.of_torch else None
    if each is None or each.ndim == 0:
        return None
    return each.reshape(-1) if call.role == "classes" else each.reshape(len(each), -1).mean(1)
