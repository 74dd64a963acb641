"""What is wrong with predictions: their space, their shape, one answer for all rows, a saturated activation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from losskit.watching import probes
from losskit.watching.calls import Call
from losskit.watching.findings import Told
from losskit.watching.numbers import EARLY, activation, built_in
from losskit.watching.site import Site

LATER = 40


def of_predictions(site: Site, call: Call, now: dict[str, Any]) -> Iterator[Told]:
    """What the predictions of a call, and those before it, say."""
    yield from _applied_twice(site, call, now)
    yield from of_space(call, now)
    yield from _shapes(call)
    yield from _one_class(site, call, now)
    yield from _stuck(site, call, now)


def like_softmax(call: Call, now: dict[str, Any]) -> bool:
    """Whether rows are probabilities of classes: within [0, 1], of sum 1, and not all 0 or 1."""
    slack = 1e-4 if call.input.dtype in (torch.float32, torch.float64) else 0.02
    if not (now.get("off_one", 1.0) <= slack and now["least"] >= -1e-6 and now["most"] <= 1 + 1e-3):
        return False
    return bool(((call.input > 0) & (call.input < 1)).any())


def _within(site: Site) -> bool:
    """Whether all predictions so far were in [0, 1], too many and too wide to be scores by chance."""
    looks = [x for x in site.looks if "least" in x]
    if len(looks) < 5 or not all(x["least"] >= 0 and x["most"] <= 1 for x in looks):
        return False
    wide = all(x["most"] - x["least"] > 0.5 for x in looks)
    return wide or (len(looks) > 6 and looks[-1]["call"] >= LATER and looks[-1]["most"] - looks[-1]["least"] > 0.2)


def _applied_twice(site: Site, call: Call, now: dict[str, Any]) -> Iterator[Told]:
    made = activation(call.live)
    if call.role in ("classes", "shares", "other") and call.classes > 1:
        for what, seen in (("softmax", made == "softmax" or like_softmax(call, now)),
                           ("sigmoid", made == "sigmoid" or (call.role != "other" and _within(site)))):  # fmt: skip
            if seen and probes.softmax_built_in(call):
                yield (
                    "applied_twice",
                    f"{call.input_name} has gone through a {what}, and a softmax is built into the loss: "
                    + ("it is applied twice." if what == "softmax" else "scores are squeezed into [0, 1] before it."),
                    f"Pass the scores before the {what}.",
                )
                return
        t = call.target
        if call.role == "other" and t is not None and t.is_floating_point() and t.shape == call.input.shape:
            yield from _target_softmaxed(call)
    elif call.role in ("labels", "signs", "numbers"):
        seen = made in ("sigmoid", "softmax") or _within(site)
        unknown = call.declared is None and now.get("binary", False)
        if seen and (built_in(call) or (unknown and probes.sigmoid_built_in(call))):
            what = made if made in ("sigmoid", "softmax") else "sigmoid"
            yield (
                "applied_twice",
                f"{call.input_name} has gone through a {what}, and a sigmoid is built into the loss"
                f"{': it is applied twice.' if what == 'sigmoid' else ', which then sees scores in [0, 1] only.'}",
                f"Pass the scores before the {what}.",
            )


def _target_softmaxed(call: Call) -> Iterator[Told]:
    t = call.operands[call.target_name]
    if t.ndim < 2 or not t.numel() or float(t.min()) < 0 or not bool(((t > 0) & (t < 1)).any()):
        return
    sums = t.float().sum(1)
    if float((sums - 1).abs().max()) < 1e-3 and probes.softmax_built_in(call, call.target_name):
        yield (
            "applied_twice",
            f"{call.target_name} is probabilities, and a softmax is built into the loss: it is applied twice.",
            "Pass the scores before the softmax.",
        )


def of_space(call: Call, now: dict[str, Any]) -> Iterator[Told]:
    """Losses that take probabilities or their logarithms, and get something else."""
    if call.name == "kl_div" and now.get("outside target"):
        yield (
            "space", "target is below 0, so it is no probabilities.",
            "The first argument is the model's log-probabilities, the second the target's probabilities; give "
            "log_target=True if these are logarithms.",
        )  # fmt: skip
        return
    takes_logs = call.name in ("nll_loss", "kl_div") or (call.name == "ctc_loss" and not call.given("from_scores"))
    if takes_logs and "off_log" in now and call.classes > 1:
        if like_softmax(call, now):
            yield (
                "space", f"{call.input_name} is probabilities, and the loss takes their logarithms.",
                "Use log_softmax in the place of softmax.",
            )  # fmt: skip
        elif now["off_log"] > 0.05 and (call.name != "kl_div" or now["most"] > 0.01):
            other = {"nll_loss": ", or cross_entropy", "ctc_loss": "", "kl_div": ""}[call.name]
            yield (
                "space", f"{call.input_name} is no log-probabilities: the exponentials of a row do not add up to 1.",
                f"Apply log_softmax{other}.",
            )  # fmt: skip
    if call.name == "poisson_nll_loss" and now.get("outside input"):
        yield "space", "input is below 0, and log_input=False says that it is a rate.", "Leave log_input at True."


def _shapes(call: Call) -> Iterator[Told]:
    """Operands of different shapes that torch stretches."""
    x, t = call.input, call.target
    if (
        call.role not in ("labels", "signs", "numbers")
        or t is None
        or x.shape == t.shape
        or 1 in (x.numel(), t.numel())
    ):
        return
    operand = getattr(call.declared, "operands", {}).get("target")
    if operand is not None and (operand.broadcast or operand.per_row or operand.places is not None):
        return
    try:
        both = torch.broadcast_shapes(x.shape, t.shape)
    except RuntimeError:
        return
    if call.declared is None and not (both.numel() > max(x.numel(), t.numel()) and probes.broadcasts(call)):
        return
    fits = x.numel() == t.numel()
    yield (
        "shapes",
        f"{call.input_name} {tuple(x.shape)} and {call.target_name} {tuple(t.shape)} are stretched to {tuple(both)}: "
        "each prediction is compared with the targets of other rows.",
        f"Use {call.target_name}.reshape({call.input_name}.shape)." if fits else "Give both the same shape.",
    )


def _one_class(site: Site, call: Call, now: dict[str, Any]) -> Iterator[Told]:
    if call.role in ("classes", "shares") and call.classes == 1:
        yield (
            "one_class", f"{call.input_name} {tuple(call.input.shape)} has one class, so that the loss is always 0.",
            "For yes or no use binary_cross_entropy_with_logits, or two outputs.",
        )  # fmt: skip
        return
    later = [x for x in site.since(EARLY) if "apart" in x]
    same = [x for x in later if x["rows"] > 1 and x["apart"] <= 1e-6 * max(abs(x["least"]), abs(x["most"]))]
    if (
        len(later) >= 2
        and len(same) == len(later)
        and math.isfinite(now["most"] - now["least"])
        and sum(x["rows"] for x in same) >= 8
        and _varied(site, call)
    ):
        yield (
            "one_class", "all rows have the same prediction, whatever the input is.",
            "The network is dead or ignores its input: look for ReLUs that are always 0, a learning rate that is too "
            "large, a last layer that is not trained.",
        )  # fmt: skip
        return
    recent = site.since(EARLY)[-4:]
    if (
        call.role == "classes"
        and len(recent) == 4
        and "chosen" in now
        and site.calls >= (LATER if call.classes <= 100 else 500)
    ):
        best = {_largest(x["chosen"]) for x in recent if "chosen" in x and max(x["chosen"]) == sum(x["chosen"]) > 0}
        if len(best) == 1 and len(recent) == sum(
            max(x.get("chosen", [0])) == sum(x.get("chosen", [1])) for x in recent
        ):
            (chosen,) = best
            labels = [sum(x) for x in zip(*(x.get("targets", x["counts"]) for x in recent), strict=True)]
            if sum(labels) >= 32 and labels[chosen] <= 0.7 * sum(labels):
                yield _always(f"class {chosen}", labels[chosen] / sum(labels))
    if call.role in ("labels", "signs") and len(recent) == 4 and site.calls >= LATER and now.get("ends"):
        rows, yes = sum(x.get("kept", 0) for x in recent), sum(x.get("yes", 0) for x in recent)
        said = sum(x.get("said_yes", 0) for x in recent)
        if rows >= 32 and said in (0, sum(x.get("rows", 0) for x in recent)) and 0.3 <= yes / rows <= 0.7:
            yield _always("yes" if said else "no", yes / rows if said else 1 - yes / rows)


def _largest(numbers: list[float]) -> int:
    return max(range(len(numbers)), key=numbers.__getitem__)


def _always(answer: str, share: float) -> Told:
    return (
        "one_class", f"the answer is {answer} for every row, which is right for {share:.0%} of them.",
        "The model does not learn: look at the learning rate, at the scale of the inputs, and whether inputs and "
        "labels still belong together.",
    )  # fmt: skip


def _varied(site: Site, call: Call) -> bool:
    return call.role == "other" or site.low < site.high


def _stuck(site: Site, call: Call, now: dict[str, Any]) -> Iterator[Told]:
    """An activation in whose flat part many wrong predictions are."""
    stuck = [x for x in site.looks if x.get("stuck", 0.0) >= (0.5 if x.get("made") in ("relu", "clamp") else 0.1)]
    if site.looked < 3 or not now.get("stuck"):
        return
    late = now.get("made") in ("relu", "clamp")
    enough = [x for x in stuck if x["call"] >= EARLY] if late else stuck
    if len(enough) >= 3 and now in enough:
        made = now["made"] or "sigmoid"
        yield (
            "saturated",
            f"{now['stuck']:.0%} of the predictions are wrong and in the flat part of a {made}: they get no gradient.",
            {"relu": "Leave out the last ReLU, or use softplus.", "clamp": "Do not clamp predictions before the loss.",
             "tanh": "Scale the targets into (-1, 1), or leave out the last tanh."}.get(
                made, "Use the loss that has the sigmoid or softmax built in, or scale the inputs of the network."),
        )  # fmt: skip
