"""What is measured of a call: one number each, made on the device of the tensors and copied to the host together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.domains import slack_of
from losskit.watching.calls import NUMBERS, Call, domain_of

EARLY = 10  # a call up to which a network may still answer as it was made
MANY = 1000  # classes, beyond which rows of each class are not counted
_VIEWS = ("View", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Permute", "Slice", "Select", "ToCopy", "Clone",
          "Alias", "T")  # fmt: skip  # what only shows the same numbers in another way
_ACTIVATIONS = {
    "SoftmaxBackward0": "softmax", "SigmoidBackward0": "sigmoid", "TanhBackward0": "tanh", "ReluBackward0": "relu",
    "LogSoftmaxBackward0": "log_softmax", "LogSigmoidBackward0": "log_sigmoid", "ClampBackward1": "clamp",
    "ClampMinBackward0": "clamp", "HardtanhBackward0": "clamp", "HardsigmoidBackward0": "clamp",
}  # fmt: skip


def activation(x: Tensor | None) -> str:
    """What made a tensor, by its graph: "softmax", "sigmoid" ..., or nothing."""
    node = None if x is None else x.grad_fn
    for _ in range(8):
        if node is None:
            return ""
        name = type(node).__name__
        if name in _ACTIVATIONS:
            return _ACTIVATIONS[name]
        if not any(view in name for view in _VIEWS) or not node.next_functions:
            return ""
        node = node.next_functions[0][0]
    return ""


def of_sequence(call: Call) -> bool:
    """Whether rows of class scores are the places of sequences, such as the tokens of texts."""
    node = None if call.live is None else call.live.grad_fn
    before = getattr(node, "_saved_self_sym_sizes", ()) if "View" in type(node).__name__ else ()
    return call.input.ndim == 3 or len(before) == 3


def measure(call: Call, number: int) -> dict[str, Any]:
    """The numbers of a call; "counts" and "chosen" are rows of each class, in the target and of the best score."""
    found: dict[str, Any] = {"call": number}
    if call.role in ("classes", "shares", "head"):
        _of_rows(call, found)
    else:
        _of_elements(call, found)
    if call.target is not None and call.of_torch:
        _of_domains(call, found)
    if isinstance(call.result, Tensor) and call.result.numel() == 1:
        found["loss"] = call.result.detach().reshape(())
    return _on_host(found)


def _of_rows(call: Call, found: dict[str, Any]) -> None:
    """Of class scores."""
    t, counts = call.operands[call.target_name], call.counts()
    if call.role != "shares" and call.classes <= MANY:
        found["counts"] = _counted(t.reshape(-1), counts, call.classes)
    elif call.role != "shares":
        found["kept"] = counts.sum()
        t = t.reshape(-1)
        found["low"], found["high"] = _ends(t.where(counts, t[counts.to(torch.uint8).argmax()]))
    if call.role == "head":
        return
    x, t, counts = call.rows()
    if not x.numel():
        return
    _of_scores(call, x, found)
    if call.role == "shares":
        found["most_hot"], found["hot"] = t.sum(1).amax(), ((t == 0) | (t == 1)).all()
    elif call.classes <= MANY and found["call"] >= EARLY:
        found["chosen"] = _counted(x.argmax(1), counts, call.classes)
        if call.operands[call.target_name].numel() != len(t):
            found["targets"] = _counted(t, counts, call.classes)


def _of_scores(call: Call, x: Tensor, found: dict[str, Any]) -> None:
    """What shows of which kind the numbers of rows are."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    found["least"], found["most"] = _ends(wide)
    found["off_one"] = (wide.sum(1) - 1.0).abs().amax()
    if call.name == "nll_loss":
        found["off_log"] = wide.logsumexp(1).abs().median()
    if found["call"] >= EARLY:
        found["apart"], found["rows"] = (wide.amax(0) - wide.amin(0)).amax(), len(x)


def _of_elements(call: Call, found: dict[str, Any]) -> None:
    """Of predictions and targets of the same shape."""
    x = call.input
    if call.role == "other" and x.ndim > 1 and x.numel():
        x = x.reshape(-1, x.shape[-1])
        rows = x[:: max(1, x.numel() // NUMBERS)]
        found["least"], found["most"] = _ends(rows)
        if call.input.ndim == 2:
            found["apart"], found["rows"] = (rows.amax(0) - rows.amin(0)).amax(), len(rows)
        found["off_one"] = (rows.float().sum(1) - 1.0).abs().amax()
        if call.name in ("kl_div", "ctc_loss"):
            found["off_log"] = rows.float().logsumexp(1).abs().median()
    pair = call.elements()
    if call.role == "other" or pair is None or not pair[0].numel():
        return
    x, t = pair
    found["least"], found["most"] = _ends(x)
    found["apart"], found["rows"] = found["most"] - found["least"], x.numel()
    found["low"], found["high"] = _ends(t)
    if call.role in ("labels", "signs"):
        yes = t > (0.5 if call.role == "labels" else 0.0)
        found["ends"] = ((t == 0) | (t == 1)).all() if call.role == "labels" else (t.abs() == 1).all()
        found["yes"], found["kept"] = yes.sum(), t.numel()
        middle = 0.0 if call.role == "signs" or built_in(call) else 0.5
        found["said_yes"] = (x > middle).sum()
        if call.input.ndim == 2 and 1 < call.input.shape[1] <= 200 and "mask" not in call.operands:
            found["columns"] = (call.operands[call.target_name] > 0.5).sum(0)
    elif call.role == "numbers":
        found["binary"] = ((t == 0) | (t == 1)).all()
        found["kept"] = t.numel()
    _of_activation(call, x, t, found)


def _of_activation(call: Call, x: Tensor, t: Tensor, found: dict[str, Any]) -> None:
    """The share of predictions that are wrong and get no gradient through the activation that made them."""
    made = activation(call.live)
    if call.name == "binary_cross_entropy":  # its slope is the inverse of the sigmoid's, until that is exactly 0
        made, flat = "sigmoid", (x == 0) | (x == 1)
    elif made in ("sigmoid", "softmax"):
        flat = x * (1 - x) < 1e-3
    elif made == "tanh":
        flat = 1 - x * x < 1e-3
    elif made in ("relu", "clamp"):
        flat = (x == found["least"]) | ((x == found["most"]) & (made == "clamp"))
    else:
        return
    far = 0.05 * (found["high"] - found["low"]) if made in ("relu", "clamp") else 0.5
    found["stuck"], found["made"] = (flat & ((x - t).abs() > far)).double().mean(), made


def built_in(call: Call) -> bool:
    """Whether a sigmoid is built into the loss, as its declaration says."""
    operand = getattr(call.declared, "operands", {}).get(call.input_name)
    if operand is None or operand.kind != "logit":
        return False
    return bool(call.settings.get("activation", "sigmoid") not in ("none", None))


def _of_domains(call: Call, found: dict[str, Any]) -> None:
    """How many numbers of each operand are outside of its domain, of torch's functions, which do not look."""
    for name, x in call.operands.items():
        domain = domain_of(call, name)
        if domain is not None and x.numel() and x.dtype != torch.bool:
            slack = 1e-3 if call.name == "kl_div" else slack_of(x.dtype)
            found[f"outside {name}"] = domain.outside(x, slack).sum()


def _ends(x: Tensor) -> tuple[Tensor, Tensor]:
    low, high = x.aminmax()
    return low, high


def _counted(t: Tensor, counts: Tensor, classes: int) -> Tensor:
    return torch.bincount(torch.where(counts, t, classes).clamp(0, classes), minlength=classes + 1)[:classes]


def _on_host(found: dict[str, Any]) -> dict[str, Any]:
    """All numbers, by one copy."""
    tensors = {name: x for name, x in found.items() if isinstance(x, Tensor)}
    if tensors:
        flat = torch.cat([x.reshape(-1).double() for x in tensors.values()]).tolist()
        place = 0
        for name, x in tensors.items():
            found[name] = flat[place] if x.ndim == 0 else flat[place : place + x.numel()]
            place += x.numel()
    if "counts" in found:
        found["kept"] = sum(found["counts"])
        there = [i for i, x in enumerate(found["counts"]) if x]
        if there:
            found["low"], found["high"] = there[0], there[-1]
    return found
