"""The same losses in other libraries: a page for each library, a table on the page of each loss.

The calls are declared with the losses; what they gave is in docs/parity.json, which `make parity` writes. The pages of
libraries, docs/peers/, are committed: tools/generate.py prints them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from losskit_guide.card import Card
from losskit_guide.names import AMBIGUOUS

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "docs" / "parity.json"
TITLES = {
    "coral-pytorch": "coral-pytorch", "keras": "Keras", "liger-kernel": "Liger", "monai": "MONAI", "optax": "Optax",
    "pytorch-forecasting": "PyTorch Forecasting", "pytorch-metric-learning": "PyTorch Metric Learning",
    "scikit-learn": "scikit-learn", "scipy": "SciPy", "segmentation-models-pytorch": "Segmentation Models PyTorch",
    "torch": "plain torch", "torch-uncertainty": "TorchUncertainty", "torchmetrics": "TorchMetrics",
    "trl": "TRL",
}  # fmt: skip
NOTES = {
    "keras": "Keras runs with its torch backend; its reductions compute in float32, so that both sides agree to some "
    "1e-8. It takes the target first. `F` is `torch.nn.functional`.",
    "liger-kernel": "These are the formulas in Liger's fused heads, which take hidden states and the weight of the "
    "last layer. They divide by the length of the batch that they are told: `torch.empty(60)` is 30 pairs.",
    "optax": "Optax reduces nothing: the losses here are called with `reduction='none'`. `jnp` is `jax.numpy`.",
    "pytorch-metric-learning": "`with_classes(loss, classes)` stands for a loss that has learned these vectors of the "
    "classes, of shape (D, C).",
    "scikit-learn": "scikit-learn takes the target first, and has no gradients.",
    "scipy": "SciPy has no gradients. `np` is `numpy`.",
    "segmentation-models-pytorch": "`smp` is `segmentation_models_pytorch`.",
    "torch": "What people write by hand where torch has no function. `F` is `torch.nn.functional`.",
    "trl": "In TRL a loss is a method of its trainer. `trainer(...)` stands for one with this configuration.",
}


def title(library: str) -> str:
    """The name of a library as its authors write it."""
    return TITLES.get(library, library)


@cache
def results() -> dict[str, Any]:
    """What was measured: versions, and the calls with what they gave."""
    if not RESULTS.exists():
        return {"versions": {}, "calls": []}
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


def result(card: Card, peer: dict[str, Any]) -> dict[str, Any]:
    """What a declared call gave; nothing where it was not computed."""
    wanted = {"loss": card.name} | {name: peer[name] for name in ("library", "there", "here")}
    for call in results()["calls"]:
        if wanted.items() <= call.items() and call.get("given", {}) == peer["given"]:
            return dict(call)
    return {}


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def equal(card: Card, peer: dict[str, Any], what: str) -> str:
    """Whether the values or the gradients are the same, in words."""
    found = result(card, peer)
    if not found:
        return "not computed"
    x = found[what]
    if x is None:
        return "none there"
    if peer["differs" if what == "value" else "gradient_differs"]:
        return f"differs by {x:g}"
    return "equal" if x == 0.0 else f'equal to <span class="number">{x:.0e}</span>'.replace("e-0", "e-")


def cells(card: Card, peer: dict[str, Any]) -> list[str]:
    """The two calls, one below the other, and what both give."""
    calls = f"`{peer['there']}`<br>`{peer['here']}`"
    return [calls, equal(card, peer, "value"), equal(card, peer, "gradient")]


def section(card: Card) -> str:
    """The table on the page of a loss; nothing where no library has it."""
    if not card.peers or not RESULTS.exists():
        return ""
    rows = []
    for peer in card.peers:
        library = peer["library"]
        version = results()["versions"].get(library, "")
        calls, *same = cells(card, peer)  # a page of a loss has room for four columns
        name = f"[{title(library)} {version}](../peers/{library}.md)".replace(" ]", "]")
        rows.append([name, "<br>".join(filter(None, [calls, peer["why"]])), *same])
    return (
        "Both calls were computed on the same numbers, and their gradients. What differs is the largest difference "
        "divided by the largest number; functions here are those of `losskit.functional`.\n\n"
        + table(["library", "the call there, and here", "value", "gradient"], rows)
    )


def page(library: str, cards: list[Card]) -> str:
    """Coming from a library: its losses, with the call here."""
    name, version = title(library), results()["versions"].get(library, "")
    rows = [
        [f"[{card.class_name}](../loss/{card.name}.md)", *cells(card, peer), peer["why"]]
        for card in cards
        for peer in card.peers
        if peer["library"] == library
    ]
    return "\n\n".join(filter(None, [
        f"# Coming from {name}",
        f"Calls of {name} {version} beside those of losskit, computed on the same numbers. The functions here are "
        "those of `losskit.functional`; each has a class with the same parameters. What is \"equal to 2e-16\" differs "
        "by no more, divided by the largest number.",
        NOTES.get(library, ""),
        table(["loss", f"the call of {name}, and here", "value", "gradient", "what to know"], rows),
        "All libraries, and how this is measured: [coming from another library](index.md).",
    ])) + "\n"  # fmt: skip


def overview(cards: list[Card]) -> str:
    """The libraries, and the names that mean several losses."""
    every = [(card, peer) for card in cards for peer in card.peers]
    rows = []
    for library, version in sorted(results()["versions"].items(), key=lambda item: title(item[0]).lower()):
        own = [(card, peer) for card, peer in every if peer["library"] == library]
        differing = sum(bool(peer["differs"] or peer["gradient_differs"]) for _, peer in own)
        losses = len({card.name for card, _ in own})
        rows.append(
            [f"[{title(library)}]({library}.md)", version, str(losses), str(len(own) - differing), str(differing or "")]
        )
    links = {card.class_name: f"[{card.class_name}](../loss/{card.name}.md)" for card in cards}
    several = []
    for name, meant in sorted(AMBIGUOUS.items()):
        there = [f"{links[cls]} ({told})" for cls, told in meant.items() if cls in links]
        several += [[f"`{name}`", ", ".join(there)]] if there else []
    also = [
        [links[card.class_name], ", ".join(f"`{alias}`" for alias in card.aliases)]
        for card in sorted(cards, key=lambda card: card.class_name)
        if card.aliases
    ]
    return "\n\n".join([
        "# Coming from another library",
        "The same losses in other libraries. Each declaration names the calls there and the calls here; `make parity` "
        "computes both on the same numbers, in float64 where the library can, with their gradients, and fails where "
        "they are further apart than the declaration says. What the test suite installs is compared there, too.",
        table(["library", "version", "losses", "calls that are equal", "calls that differ"], rows),
        "A call that differs is there because people take it for the same: its row says why, and most have a row with "
        "the call that is the same.",
        "## Names that mean several losses",
        "`losskit.get`, `losskit.create` and the command refuse these names, and say what they may mean.",
        table(["name", "what it may mean"], several),
        "## Other names",
        "By these names a loss is found as well: `losskit.get(\"quantile\")`, `losskit show QuantileLoss`. Capitals, "
        "underscores and a final \"loss\" do not matter. A name is here where formula and defaults are the same.",
        table(["loss", "also called"], also),
    ]) + "\n"  # fmt: skip


def pages(cards: Iterable[Card]) -> dict[str, str]:
    """docs/peers/: a page for each library, and an overview, by their names."""
    if not RESULTS.exists():
        return {}
    ordered = sorted(cards, key=lambda card: card.class_name)
    libraries = {peer["library"] for card in ordered for peer in card.peers}
    return {"index.md": overview(ordered)} | {f"{name}.md": page(name, ordered) for name in sorted(libraries)}
