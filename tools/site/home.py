"""The parts of the home page that are printed: accuracy, speed, the losses by task, the picture."""

from __future__ import annotations

import sys
from pathlib import Path

from pages import accuracy_rows, capital, table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import picture as drawn
import readme

from losskit.declaration import TASKS
from losskit_guide.card import catalogue, find


def measured() -> str:
    """Errors of the losses that people use most, and of all that were measured, from docs/accuracy.md."""
    worst: dict[tuple[str, str], tuple[str, str]] = {}
    everything: list[tuple[float, float]] = []
    for setting, dtype, what, ours, *rest in accuracy_rows():
        theirs = rest[-1]  # of all points
        ours = rest[2] if len(rest) > 2 else ours
        if what != "largest" and theirs != "-":
            everything.append((float(ours), float(theirs)))
        if dtype == "float32":
            worst[setting.strip("`"), what] = (ours, theirs)
    rows = []
    for name in (
        "binary_cross_entropy_with_logits",
        "cross_entropy",
        "soft_margin_loss",
        "multilabel_soft_margin_loss",
    ):
        for what in ("value", "gradient"):
            ours, theirs = (f'<span class="number">{number}</span>' for number in worst[name, what])
            rows.append([f"[{find(name).class_name}](loss/{name}.md), {what}", theirs, ours])
    wrong = sum(theirs > 1000 for _, theirs in everything)
    return (
        "The worst error in float32, in units in the last place:\n\n"
        + table(["loss", "torch", "losskit"], rows)
        + "\n\n`inf` is a result that is not finite although the truth is. "
        f"{len(everything)} combinations of a loss, a setting and a dtype, value or gradient, were measured. torch is "
        f"off by more than 1,000 units in {wrong} of them; losskit's worst error in all of them is "
        f"{max(ours for ours, _ in everything):.2f} ([accuracy](accuracy.md)). "
        f"{sum(len(card.deviations) for card in catalogue().values())} places where torch is wrong are "
        "[listed, each with a test](deviations.md)."
    )


def by_task() -> str:
    """A line for each task, with its losses."""
    lines = []
    for task in dict.fromkeys([*TASKS, *(card.task for card in catalogue().values())]):
        cards = [card for card in catalogue().values() if card.task == task]
        links = ", ".join(f"[{card.class_name}](loss/{card.name}.md)" for card in cards)
        lines += [[capital(task).rstrip("."), links]] if cards else []
    return table(["task", "losses"], lines)


def picture() -> str:
    """The picture in both colour schemes, and what it shows."""
    data = drawn.inside(drawn.IMAGES / "gradients-light.svg")
    images = "".join(f"![{drawn.TITLE}](images/gradients-{theme}.svg#only-{theme})" for theme in drawn.THEMES)
    return f'<div class="picture" markdown>{images}</div>\n\n<p class="caption">{drawn.caption(data)}</p>'


def speed() -> str:
    """Speed and memory, as README has them."""
    rows = [[what.replace("](docs/", "]("), torch, ours] for what, ours, torch in readme.speed_and_memory()]
    return table(["", "torch", "losskit"], rows) + "\n\n" + readme.how()


PARTS = {
    "measured": measured,
    "speed": speed,
    "by_task": by_task,
    "picture": picture,
}  # asked for by `<!-- part: name -->`
