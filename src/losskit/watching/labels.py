"""What is wrong with targets: other numbers than the loss takes, off by one, constant, many of one class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from losskit.watching.calls import Call
from losskit.watching.findings import Told
from losskit.watching.numbers import of_sequence
from losskit.watching.site import Site

SEEN = 6  # rows of every other class, so that a class with none is hardly so by chance
RATIO = 10.0  # rows of the largest class for one of the smallest, from which on weights are missed
CLASSES = 200  # more of them are words, whose counts are what they are; of sequences those of more than 20
# Arguments that weigh classes or rows, or give less to what is easy.
WEIGHTS = ("weight", "pos_weight", "sample_weight", "gamma", "gamma_neg", "gamma_pos", "prior", "counts",
           "class_weight", "alpha", "weights")  # fmt: skip


def of_labels(site: Site, call: Call, now: dict[str, Any], others: Iterable[Site]) -> Iterator[Told]:
    """What the targets of a call, and those before it, say. others: the other lines that ask for a loss."""
    if call.role in ("classes", "head", "shares", "labels", "signs", "numbers", "other"):
        yield from outside(call, now)
    if call.role in ("classes", "head") and len(site.counts) == call.classes:
        yield from _off_by_one(site, call)
    yield from _several(call, now)
    yield from _constant(site, call, others)
    yield from _imbalance(site, call)


def outside(call: Call, now: dict[str, Any]) -> Iterator[Told]:
    if not now.get("outside target") or call.name == "kl_div" or call.target is None:
        return
    t = call.target
    low, high = float(t.min()), float(t.max())
    fix = "Check the targets."
    if (low, high) == (1.0, 2.0):
        fix = "Use target - 1."
    elif (low, high) == (-1.0, 1.0):
        fix = "Use (target + 1) / 2, or a loss of signs such as soft_margin_loss."
    elif (low, high) in ((0.0, 1.0), (0.0, 0.0)):
        fix = "Use 2 * target - 1."
    operand = getattr(call.declared, "operands", {})["target"]
    yield (
        "labels", f"targets go from {low:g} to {high:g}, and must be {operand.domain.description}.", fix,
    )  # fmt: skip


def _off_by_one(site: Site, call: Call) -> Iterator[Told]:
    counts, classes = site.counts, call.classes
    if classes < 3 or sum(counts) < 12 * classes or site.looked < 2:
        return
    if counts[0] == 0 and min(counts[1:]) >= SEEN and call.settings.get("ignore_index") != 0:
        yield (
            "labels",
            f"no label of {sum(counts):.0f} is 0, and all others up to {classes - 1} are there: labels are off by one.",
            f"Use target - 1, and {classes - 1} outputs.",
        )
    elif counts[-1] == 0 and min(counts[:-1]) >= SEEN:
        yield (
            "labels",
            f"no label of {sum(counts):.0f} is {classes - 1}, and all below are there: labels are off by one, or "
            "there is one output too many.",
            f"Look for labels that are ignored, or use {classes - 1} outputs.",
        )


def _several(call: Call, now: dict[str, Any]) -> Iterator[Told]:
    if call.role == "shares" and now.get("hot") and now.get("most_hot", 0.0) >= 2:
        yield (
            "labels", f"a row has up to {now['most_hot']:.0f} classes with target 1, and the loss takes one.",
            "Use binary_cross_entropy_with_logits, or divide a row by its sum.",
        )  # fmt: skip
    if call.name == "multilabel_margin_loss" and call.target is not None and call.target.numel():
        t = call.target
        if call.classes > 2 and float(t.min()) >= 0 and float(t.max()) <= 1:
            yield (
                "labels", "targets are 0 and 1 only, and this loss takes the indices of classes, ended by -1.",
                "Use binary_cross_entropy_with_logits or multilabel_soft_margin_loss, which take 0 and 1.",
            )  # fmt: skip


def _constant(site: Site, call: Call, others: Iterable[Site]) -> Iterator[Told]:
    """One label in all rows; the two sides of an adversarial training are lines with a label each."""
    if site.looked < 3 or site.kept < 32 or site.low != site.high or call.role in ("shares", "other"):
        return
    if getattr(call.declared, "task", "") == "ranking":
        return
    for other in others:
        if other is not site and (call.role == "numbers" or (other.function == site.function and other.kept)):
            return
    yield (
        "labels", f"the target is {site.low:g} in all {site.kept:.0f} rows so far.",
        "Check how targets are read, and that batches are shuffled.",
    )  # fmt: skip


def _imbalance(site: Site, call: Call) -> Iterator[Told]:
    if call.role not in ("classes", "head", "labels") or call.given(*WEIGHTS) or call.reduction == "none":
        return
    counts = site.counts
    if call.role == "labels":
        if sum(counts) < 48 or len(counts) != 2 or call.declared is None or call.declared.task == "segmentation":
            return
        yield from _of_yes(site, call)
        return
    few = 20 if of_sequence(call) else CLASSES
    if not 2 <= len(counts) <= few or sum(counts) < max(48, 20 * len(counts)):
        return
    seen = [x for x in counts if x]
    if len(seen) < 2 or max(counts) < RATIO * min(seen):
        return
    of = "linear_weight's loss" if call.role == "head" else call.name
    yield (
        "imbalance",
        f"class {counts.index(max(counts))} has {max(counts):.0f} rows and class {counts.index(min(seen))} has "
        f"{min(seen):.0f}, so far, and {of} has no weights.",
        f"Where rare classes matter, use weight={_weights(counts)}, or losskit.class_balanced_weights of all counts.",
    )


def _of_yes(site: Site, call: Call) -> Iterator[Told]:
    if len(site.columns) > 1:
        rows = sum(site.counts) / len(site.columns)
        ratios = [(rows - yes) / max(yes, 1.0) for yes in site.columns]
        worst = max(range(len(ratios)), key=ratios.__getitem__)
        if ratios[worst] >= 2 * RATIO and site.columns[worst] and rows >= 200:
            yield (
                "imbalance", f"label {worst} is yes in {site.columns[worst]:.0f} of {rows:.0f} rows and {call.name} "
                "has no weights.",
                f"Where rare labels matter, use pos_weight={_tensor(ratios)}.",
            )  # fmt: skip
        return
    no, yes = site.counts
    if min(no, yes) > 0 and max(no, yes) >= RATIO * min(no, yes):
        takes = "pos_weight" in call.declared.arguments.split() if call.declared is not None else False
        yield (
            "imbalance", f"{yes:.0f} of {no + yes:.0f} targets are yes, and {call.name} has no weights.",
            f"Where the rare label matters, use pos_weight=torch.tensor({no / yes:.3g})"
            f"{'' if takes else ' of binary_cross_entropy_with_logits'}, or sigmoid_focal_loss.",
        )  # fmt: skip


def _weights(counts: list[float]) -> str:
    """Weights that make every class count alike: the rows divided by the classes, and by the rows of the class."""
    return _tensor([sum(counts) / (len(counts) * max(x, 1.0)) for x in counts])


def _tensor(numbers: list[float]) -> str:
    shown = [f"{x:.3g}" for x in numbers[:20]]
    return f"torch.tensor([{', '.join(shown)}{', ...' if len(numbers) > 20 else ''}])"


def too_large(call: Call) -> Told | None:
    """Of a call that torch has refused: class indices from 1 to the number of classes."""
    t, cls = call.target, call.declared
    if (
        t is None
        or cls is None
        or t.is_floating_point()
        or not t.numel()
        or call.name not in ("cross_entropy", "nll_loss")
    ):
        return None
    low, high = int(t.min()), int(t.max())
    if high != call.classes or low < 1:
        return None
    return (
        "labels", f"labels go from {low} to {high}, and {call.classes} classes are 0 to {call.classes - 1}: labels are "
        "off by one.", "Use target - 1.",
    )  # fmt: skip
