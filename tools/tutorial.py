"""Print docs/tutorial.ipynb, the tutorial of all losses of torch.nn: python tools/tutorial.py

Nothing is typed twice: formulas, parameters, advice and what torch gets wrong come from the cards (that is, from the
declarations), the examples are those of the pages of the losses (tests/losses/), and what is said about custom
losses, comparing and choosing is the text and the code of the guides. What a cell prints is what it printed when this
ran.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "site"))

import matplotlib  # noqa: E402

matplotlib.use("Agg")

import blocks  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import pages  # noqa: E402
import worked  # noqa: E402
from torch import nn  # noqa: E402

from losskit.declaration import TASKS  # noqa: E402
from losskit_guide.card import Card, catalogue  # noqa: E402

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
GUIDES = ROOT / "docs" / "guides"
WIDTH = 92  # of code, which must fit the site's pages
Cell = tuple[str, str]  # "markdown" or "code", and its text

OPENING = """# The losses of torch.nn, one by one

This notebook walks through the loss functions of `torch.nn`. For each one: the formula, made-up outputs and targets,
the loss of each element, and the mean and the sum of them, computed twice: by hand from the formula, and by the class.
Then come two overview tables, losses of your own, a comparison of two losses in numbers and as a plot, the reasons why
losses differ, and at the end what torch gets wrong. (`AdaptiveLogSoftmaxWithLoss` and, in new versions of torch,
`LinearCrossEntropyLoss` are missing: they are layers with weights of their own, and a loss behind them.)

The classes are those of losskit. They have the names, arguments and defaults of `torch.nn`, so `nn.HuberLoss` works in
place of `losskit.HuberLoss`. The notebook needs torch, losskit and matplotlib, and takes a few seconds."""

SETUP = """import matplotlib.pyplot as plt
import torch

import losskit


def agree(name, by_hand, loss):
    \"\"\"Asserts that a loss by hand and the loss by the class are equal, and shows both.\"\"\"
    torch.testing.assert_close(loss, by_hand)
    for who, x in ("by hand", by_hand), ("by class", loss):
        shown = f"{x.flatten()[:4]} ... {tuple(x.shape)}" if x.ndim else f"{x.item():.5g}"
        print(f"{name:>4}, {who:<8}: {shown}")"""

REDUCTIONS = """## One loss, three reductions

Every class has an argument `reduction`. With `"none"` it gives the loss of each element (or of each row), as a tensor.
With `"sum"` it adds them up, and with `"mean"`, the default, it divides the sum by their number. A few losses divide by
something else; it is said where. Each example below does all three.

In formulas, $x$ is the output of a model, $t$ the target, and $\\ell$ the loss of one element."""

PARTS = {
    "Continuous outputs": "The model predicts a number, several numbers, or a distribution.",
    "Discrete outputs": "The model predicts a label, several labels, an order, or who is close to whom.",
}
OF_TASK = {
    "regression": "A number is to be hit. The losses differ in how much a large error costs.",
    "likelihood": "The model predicts the parameters of a distribution. The loss is minus the logarithm of the "
    "probability of what happened.",
    "divergence": "The target is a whole distribution.",
    "binary": "Yes or no. Look at what the model gives, and what the labels are: they decide which loss fits.",
    "multi-class": "One class of several is right.",
    "multi-label": "Several labels may be right at once.",
    "ranking": "Only the order of two scores matters.",
    "metric learning": "The model gives embeddings: vectors that should be close for what is alike, and far apart for "
    "what is not.",
    "sequence": "Labels come in the order of the input, but nobody says which part of it belongs to which label.",
}

COMPARISON_PLOT = """z = torch.linspace(-7, 7, 401, requires_grad=True)  # logits
p = z.sigmoid()  # probabilities
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for name, dashes in ("BCELoss", "-"), ("MSELoss", "--"):
    loss = getattr(losskit, name)(reduction="none")(p, torch.zeros(401))
    (gradient,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
    left.plot(p.detach(), loss.detach(), dashes, label=name)
    right.plot(z.detach(), gradient, dashes)
left.set(title="loss over the probability", xlabel="probability, target 0", ylim=(-0.1, 5))
right.set(title="derivative by the logit", xlabel="logit, target 0")
left.legend(frameon=False)
plt.show()"""

SHAPES_PLOT = """error = torch.linspace(-4, 4, 401, requires_grad=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for name, dashes in ("MSELoss", "-"), ("L1Loss", "--"), ("HuberLoss", ":"):
    loss = getattr(losskit, name)(reduction="none")(error, torch.zeros(401))
    (gradient,) = torch.autograd.grad(loss.sum(), error)
    left.plot(error.detach(), loss.detach(), dashes, label=name)
    right.plot(error.detach(), gradient, dashes)
left.set(title="loss", xlabel="prediction less target", ylim=(-0.2, 6))
right.set(title="gradient", xlabel="prediction less target", ylim=(-3.2, 3.2))
left.legend(frameon=False)
plt.show()"""

WRONG = """## What torch gets wrong

On paper a loss is its formula. In floating point the order of operations decides. Some of torch's losses round all
digits away, some overflow on the way to a finite result, some let a NaN pass. losskit computes the same formulas in an
order that does not. Here is every place that is known, run by both: first torch's number, then losskit's."""

BOTH = """from math import inf, nan

import losskit.functional as LF
import torch.nn.functional as F


def both(name, operands, of="value", dtype=torch.float32, **parameters):
    \"\"\"The value of a loss, or its gradient by the operand `of`, by torch and by losskit.\"\"\"
    for who, library in ("torch", F), ("losskit", LF):
        given = {k: torch.tensor(x) for k, x in operands.items()}
        given = {k: x.to(dtype) if x.is_floating_point() else x for k, x in given.items()}
        if of != "value":
            given[of].requires_grad_()
        found = getattr(library, name)(**given, **{"reduction": "sum", **parameters}).sum()
        if of != "value":
            (gradient,) = torch.autograd.grad(found, given[of])
            found = gradient.flatten()[0]
        print(f"{who:>8}: {found.item():.7g}")"""

CLOSING = """## Where to go on

- The documentation has a page for each loss, with its gradient, plot, accuracy and signatures; `make site`
  builds it.
- `losskit explore` opens all of them in the browser, to be changed with sliders.
- `losskit show huber_loss` prints a page in the terminal; `losskit.explain(criterion)` does it in a notebook, also for
  losses of your own."""


# ---------------------------------------------------------------------------------------------------------
# The cells


def cells() -> list[Cell]:
    """The whole notebook, without outputs."""
    return [
        ("markdown", OPENING),
        ("code", SETUP),
        ("markdown", REDUCTIONS),
        *walk(),
        ("markdown", tables()),
        ("markdown", "## Losses of your own"),
        *guide("custom.md", "## A function", "\nThe kernel is compiled"),
        ("markdown", "## Two losses compared: BCE against MSE"),
        *guide("comparing.md", "\n", "## Compare others", {"bce_and_mse": COMPARISON_PLOT}),
        *guide("choosing.md", "## Why losses differ", "## Two mistakes", {"regression": SHAPES_PLOT}),
        ("markdown", WRONG),
        ("code", BOTH),
        *deviations(),
        ("markdown", CLOSING),
    ]


def in_torch(continuous: bool) -> list[Card]:
    """The losses of torch.nn of one of both kinds, by task."""
    found = [card for card in catalogue().values() if hasattr(nn, card.class_name)]
    found = [card for card in found if (card.task in pages.CONTINUOUS) == continuous]
    place = {name: i for i, name in enumerate(SIMPLE_FIRST)}
    return sorted(found, key=lambda card: (TASKS.index(card.task), place.get(card.name, len(place)), card.name))


SIMPLE_FIRST = (  # of each task; the rest follow by name
    "l1_loss", "mse_loss", "huber_loss", "smooth_l1_loss", "cross_entropy", "nll_loss", "multi_margin_loss",
    "multilabel_soft_margin_loss", "hinge_embedding_loss",
)  # fmt: skip


def walk() -> list[Cell]:
    """All losses, by task."""
    found: list[Cell] = []
    for title, text in PARTS.items():
        found.append(("markdown", f"## {title}\n\n{text}"))
        task = ""
        for card in in_torch(title == "Continuous outputs"):
            if card.task != task:
                task = card.task
                found.append(("markdown", f"### {pages.capital(task).rstrip('.')}\n\n{OF_TASK[task]}"))
            found += of_loss(card)
    return found


def of_loss(card: Card) -> list[Cell]:
    """Formula, advice and parameters; the example by hand, by the class, and what else is worth trying."""
    head = [f"#### {card.class_name}", pages.capital(card.summary), pages.formula_section(card)]
    defaults = ["" if p["required"] else f"`{p['default']!r}`" for p in card.parameters]
    rows = [[f"`{p['name']}`", default, p["doc"]] for p, default in zip(card.parameters, defaults, strict=True)]
    tail = [
        pages.table(["parameter", "default", "meaning"], rows),
        f"**Best used for:** {card.best_for}\n\n**Not recommended for:** {card.not_for}",
        "Made-up data, and the loss of each element by hand:",
    ]
    by_hand, by_class, *more = worked.code(card.name, card.class_name, worked.CELLS)
    found: list[Cell] = [("markdown", "\n\n".join([*head, *tail])), ("code", by_hand)]
    found += [("markdown", "And by the class, with its three reductions:"), ("code", by_class)]
    if more:
        found += [("markdown", "More of the same loss:"), *(("code", block) for block in more)]
    return found


def tables() -> str:
    """Both overviews, with three columns beside the name."""
    told = "Properties are those of the loss of one element, as a function of the output."
    parts = ["## All of them at a glance", told]
    for title in PARTS:
        rows = [
            [f"**{card.class_name}**", ", ".join(card.properties), card.best_for, card.not_for]
            for card in in_torch(title == "Continuous outputs")
        ]
        parts += [f"### {title}", pages.table(["loss", "properties", "best used for", "not recommended for"], rows)]
    return "\n\n".join(parts)


def guide(name: str, start: str, end: str, plots: dict[str, str] | None = None) -> list[Cell]:
    """A part of a guide as cells, from one text to another. What its blocks print is printed anew."""
    text = (GUIDES / name).read_text(encoding="utf-8")
    text = text[text.index(start) : text.index(end)].rstrip() + "\n"
    text = text.replace("```python\nimport torch\n\nimport losskit\n\n", "```python\n")  # the first cell did it
    level = "#" if name == "custom.md" else ""
    found: list[Cell] = []
    place = 0
    for match in re.finditer(rf"{blocks.BLOCK.pattern}|^<!-- plot: (?P<plot>\w+) -->\n", text, re.M | re.S):
        found += prose(text[place : match.start()], level)
        place = match.end()
        if match["plot"]:
            found.append(("code", (plots or {})[match["plot"]]))
        else:
            found.append(("code", caught(match["code"].strip(), match["output"] or "")))
    return found + prose(text[place:], level)


def prose(text: str, level: str) -> list[Cell]:
    """Markdown without links, which lead to pages of the site; headings a level deeper where they are under another."""
    text = re.sub(r" \(\[[^\]]*\]\([^)]*\)\)", "", text.strip())  # one that stands in parentheses goes with them
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^#+ ", lambda m: level + m[0], text, flags=re.M)
    return [("markdown", text)] if text else []


def caught(code: str, output: str) -> str:
    """A block that ends in an error shows its sentence, so that the notebook runs to its end."""
    error = re.match(r"(\w+Error): ", output)
    if not error:
        return code
    return f"try:\n    {code}\nexcept losskit.{error[1]} as problem:\n    print(problem)"


def deviations() -> list[Cell]:
    """Every place where torch is known to be wrong, loss by loss."""
    found: list[Cell] = []
    for card in in_torch(True) + in_torch(False):
        names = [operand["name"] for operand in card.operands]
        for i, d in enumerate(card.deviations):
            heading = f"### {card.class_name}\n\n" if i == 0 else ""
            found += [("markdown", heading + d["reason"]), ("code", call(card.name, names, d))]
    return found


def call(name: str, operands: list[str], deviation: dict[str, Any]) -> str:
    """The call of `both` for a deviation."""
    given = {key: x for key, x in deviation["arguments"].items() if key in operands}
    extra = {key: x for key, x in deviation["arguments"].items() if key not in operands}
    inside = [f"{key}={spelt(x if isinstance(x, list) else [x])}" for key, x in given.items()]
    arguments = [f'"{name}"', f"dict({', '.join(inside)})"]
    if deviation["of"] != "value":
        arguments.append(f'of="{deviation["of"]}"')
    if deviation["dtype"] != "float32":
        arguments.append(f"dtype=torch.{deviation['dtype']}")
    arguments += [f"{key}={json.dumps(x) if isinstance(x, str) else x}" for key, x in extra.items()]
    line = f"both({', '.join(arguments)})"
    if len(line) <= WIDTH:
        return line
    if len(arguments[1]) > WIDTH - 5:
        arguments[1] = "dict(\n" + "".join(f"        {x},\n" for x in inside) + "    )"
    return "both(\n" + "".join(f"    {x},\n" for x in arguments) + ")"


def spelt(x: Any) -> str:
    """A number or lists of them as Python; infinities and NaN are names."""
    return f"[{', '.join(map(spelt, x))}]" if isinstance(x, list) else str(x)


# ---------------------------------------------------------------------------------------------------------
# Running and writing


def run(code: str, scope: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """What a cell gives: what it prints, and its figures."""
    outputs: list[dict[str, Any]] = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        printed = blocks.execute(code, scope, name)
        if printed:
            outputs.append({"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)})
        for number in plt.get_fignums():
            svg = io.StringIO()
            plt.figure(number).savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
            data = {"image/svg+xml": svg.getvalue().splitlines(keepends=True), "text/plain": ["<Figure>"]}
            outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    plt.close("all")
    return outputs


def notebook() -> dict[str, Any]:
    """The notebook with its outputs."""
    scope: dict[str, Any] = {"__name__": "tutorial"}
    plt.show = lambda: None  # a notebook shows its figures by itself; without one there is nowhere to show them
    made, count = [], 0
    for i, (kind, text) in enumerate(cells()):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{i:03}", "metadata": {}}
        if kind == "code":
            count += 1
            cell |= {"execution_count": count, "outputs": run(text, scope, f"<cell {i}>")}
        made.append(cell | {"source": text.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def written() -> list[dict[str, Any]]:
    """The cells of the notebook that is committed."""
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


if __name__ == "__main__":
    NOTEBOOK.write_text(json.dumps(notebook(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
