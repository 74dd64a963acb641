"""The generated pages: one for each loss from its card, the overview tables, the API reference.

What a page says is in the card, measured in docs/accuracy.md, or printed by the worked example, which runs for it.
"""

from __future__ import annotations

import inspect
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import beside
import command
import sheet
import torch
import worked
from plots import coloured, held

import losskit
from losskit import language
from losskit.declaration import TASKS
from losskit_guide.card import Card, catalogue, find
from losskit_guide.render import facts, formulas, latex

ROOT = Path(__file__).resolve().parent.parent.parent
CONTINUOUS = TASKS[:3]  # the tasks whose outputs are numbers or distributions


def capital(text: str) -> str:
    """A sentence of a phrase."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def linked(text: str, own: str = "", folder: str = "") -> str:
    """Text in which names of losses are links to their pages, but for code."""
    names = {card.class_name: card.name for card in catalogue().values()}
    pattern = r"`[^`]*`|\b(?:" + "|".join(sorted(names, key=len, reverse=True)) + r")\b"
    return re.sub(
        pattern, lambda m: m[0] if m[0] not in names or m[0] == own else f"[{m[0]}]({folder}{names[m[0]]}.md)", text
    )


# ---------------------------------------------------------------------------------------------------------
# The page of a loss


def loss_page(card: Card) -> str:
    """The page of a loss."""
    sections = {
        "Formula and gradient": formula_section(card),
        "Value and derivative": _plot(card),
        "By hand, and by losskit": _worked(card),
        "Parameters": _parameters(card),
        "Shapes": _shapes(card),
        "Properties": _properties(card),
        "Numerical notes": "\n".join(f"- {linked(note, card.class_name)}" for note in card.notes),
        "Where it differs from torch": _deviations(card),
        "In other libraries": beside.section(card),
        "Accuracy": _accuracy(card),
        "Signatures": _signatures(card),
        "Reference": card.reference,
    }
    advice = " ".join(card.advice)
    for_whom = re.sub(r"\s(?=Prefer )", "\n\n", linked(advice, card.class_name))
    alternatives = ", ".join(f"[{find(name).class_name}]({name}.md)" for name in card.alternatives)
    head = [
        f"# {card.class_name}",
        linked(card.summary, card.class_name),
        f'<p class="tags"><span>{card.task}</span><span>{card.family}</span>'
        + "".join(f"<span>{word}</span>" for word in card.properties)
        + f'<a href="../source/{source_file(card).stem}.html">source</a></p>',
        f"Also known as {', '.join(name.replace('_', ' ') for name in card.aliases)}." if card.aliases else "",
        for_whom,
        table(["best for", "not for", "alternatives"], [[card.best_for, card.not_for, alternatives]]),
    ]
    return (
        "\n\n".join([*filter(None, head), *(f"## {title}\n\n{text}" for title, text in sections.items() if text)])
        + "\n"
    )


def source_file(card: Card) -> Path:
    """The file of a loss's declaration."""
    return Path(inspect.getsourcefile(getattr(losskit, card.class_name)) or "")


def source_page(card: Card) -> str:
    """The declaration itself, as the loss's author wrote it."""
    path = source_file(card)
    return (
        f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n\n# {card.class_name}: the source\n\n"
        f"`{path.relative_to(ROOT)}`, from which [all that is said about it](../loss/{card.name}.md) follows.\n\n"
        f"````python\n{path.read_text(encoding='utf-8')}````\n"
    )


def formula_section(card: Card) -> str:
    """The equations under each setting, the letters in them, and what the reductions do with the loss."""
    parts = []
    for i, (setting, equations) in enumerate(formulas(card)):
        if setting:
            words = [f"`{word}`" if "=" in word else word for word in setting.split(", ")]
            parts.append(capital(", ".join(words)).rstrip(".") + (", the default:" if i == 0 else ":"))
        parts.append(f"$${latex(x for x in equations if not x.title.startswith('with '))}$$")
        for more in equations:
            if more.title.startswith("with "):
                parts.append(f"{capital(_coded(card, more.title)).rstrip('.')}:\n\n$${more.latex}$$")
    parts += ["where", "\n".join(f"- ${x['latex']}$: {_meaning(card, x)}" for x in card.symbols)]
    reductions = [f"- {_coded(card, x.title)}: ${x.latex}$" for x in card.reductions]
    parts += [f"`reduction='none'` gives $\\ell$: {card.unreduced}. The others:", "\n".join(reductions)]
    return "\n\n".join(parts)


def _coded(card: Card, title: str) -> str:
    """The title of an equation with arguments, and the names of reductions, as code."""
    names = {p["name"] for p in card.parameters}
    text = " ".join(f"`{word}`" if word in names else word for word in title.split())
    return re.sub(r"^(none|sum|mean|batchmean)\b", r"`'\1'`", text)


def _meaning(card: Card, symbol: dict[str, str]) -> str:
    """What a letter stands for: an argument, and in a few words what that is."""
    text = re.split(r"(?<=\.) ", symbol["meaning"])[0].rstrip(".")
    known = symbol["name"] in {x["name"] for x in [*card.operands, *card.parameters]}
    return f"`{symbol['name']}`, {text[:1].lower()}{text[1:]}" if known else text


def _plot(card: Card) -> str:
    if card.curve is None:
        return ""
    fixed = ", ".join(f"{name.replace('_', ' ')} = {value:g}" for name, value in held(card).items())
    note = f"Over {card.curve.label[:1].lower() + card.curve.label[1:].rstrip('.')}{f'; {fixed}' if fixed else ''}."
    return f'<!-- plot: {card.name} -->\n\n<p class="caption">{note}</p>\n\n{_live(card)}'


def _live(card: Card) -> str:
    """The explorer in a frame: the same curve, to be changed. The plot above stays for print, and without scripts."""
    return (
        f'<iframe class="live" src="../explorer/index.html#loss={card.name}&amp;embed" loading="lazy" '
        f'title="{card.class_name}, live: value and gradient with sliders"></iframe>\n\n'
        '<p class="caption live">Live: move the sliders, or the pointer over the curves.</p>'
    )


def _worked(card: Card) -> str:
    parts = ["Made-up numbers, the loss written out in plain torch, and losskit's beside it. This runs whenever the "
             "page is made; both are asserted to be equal."]  # fmt: skip
    for block, printed in worked.run(card.name, card.class_name):
        parts.append(f"```python\n{block}\n```")
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts)


def _parameters(card: Card) -> str:
    rows = []
    for p in card.parameters:
        tensor = "a tensor or `None`" if p["none"] else "a tensor"
        allowed = {"bool": "`True`, `False`", "tensor": tensor}.get(p["kind"], p["range"])
        if p["kind"] == "choice":
            allowed = ", ".join(f"`{word}`" for word in filter(None, allowed.split(", ")))
        if p["kind"] == "int" and allowed == "any real number":
            allowed = "any integer"
        kind = {"choice": "str", "tensor": "Tensor"}.get(p["kind"], p["kind"]) + " or Tensor" * p["tensor"]
        default = "none, it must be given" if p["required"] else f"`{p['default']!r}`"
        rows.append([f"`{p['name']}`", kind, default, allowed, p["doc"]])
    extras = "By keyword, a call also takes `sample_weight`, `mask` and `normalizer`: see " \
             "[weights, masks, denominators](../guides/weights.md)."  # fmt: skip
    return f"{table(['name', 'type', 'default', 'range', 'meaning'], rows)}\n\n{extras}"


def _shapes(card: Card) -> str:
    rows = [[f"`{operand['name']}`", operand["doc"]] for operand in card.operands]
    return table(["argument", "what it is"], rows) + f"\n\nWith `reduction='none'` the result is {card.unreduced}."


def _properties(card: Card) -> str:
    intro = "Of the unreduced loss as a function of its first argument, the others fixed."
    return "\n".join([intro, "", *(f"- {capital(fact)}" for fact in facts(card))])


def _value(x: Any) -> str:
    return f"{x:.10g}" if isinstance(x, float) else str(x)


def _deviations(card: Card) -> str:
    rows = []
    for d in card.deviations:
        torchs, ours = (f'<span class="number">{_value(d[who])}</span>' for who in ("torch", "losskit"))
        arguments = ", ".join(f"{name}={value}" for name, value in d["arguments"].items())
        of = "value" if d["of"] == "value" else f"gradient by `{d['of']}`"
        rows.append([of, d["dtype"], f"`{arguments}`", torchs, ours, d["reason"]])
    if not rows and not hasattr(torch.nn.functional, card.name):
        return ""
    if not rows:
        return "Nowhere that is known: values and gradients are torch's, up to rounding."
    return (
        table(["of", "dtype", "arguments", "torch", "losskit", "reason"], rows)
        + "\n\nEach row is a test. Everywhere else values and gradients are torch's, up to rounding."
    )


@cache
def accuracy_rows() -> list[list[str]]:
    """The rows of docs/accuracy.md."""
    lines = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]


def _accuracy(card: Card) -> str:
    rows = []
    for setting, dtype, what, ours, *rest in accuracy_rows():
        name, _, changed = setting.strip("`").partition("-")
        if name == card.name:
            theirs = rest[1] if len(rest) > 2 else rest[0]
            what = "gradient, of the row's largest" if what == "largest" else what
            rows.append([f"`{changed.replace('-', ', ')}`" if changed else "defaults", dtype, what, ours, theirs])
    if not rows:
        return ""
    return (
        "The worst error at ordinary points, in units in the last place (ULP), against the formula with more than 60 "
        "digits; `inf` where a result is not finite although the truth is. How it is measured, and where the worst "
        f"points are: [accuracy](../accuracy.md).\n\n{table(['setting', 'dtype', 'of', 'losskit', 'torch'], rows)}"
    )


def _signatures(card: Card) -> str:
    head, _, tail = card.signature.partition("(")
    inside, _, result = tail.rpartition(")")
    arguments = re.split(r", (?![^\[]*\])", inside.replace("'", "") if "'Tensor'" in inside else inside)
    function = f"{head}(\n" + "".join(f"    {a},\n" for a in arguments) + f"){result.replace(chr(39), '')}"
    cls = getattr(losskit, card.class_name)
    return (
        f"```python\nlosskit.{card.class_name}{_short(inspect.signature(cls))}\n```\n\n"
        f"```python\nlosskit.functional.{function}\n```"
    )


def _short(signature: inspect.Signature) -> str:
    """A signature without types."""
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare))


# ---------------------------------------------------------------------------------------------------------
# The tutorial


def tutorial() -> str:
    """The page of the notebook docs/tutorial.ipynb, with the outputs that are in it."""
    cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    title, *parts = [_cell(cell) for cell in cells]
    return "\n\n".join([title, "[The notebook](tutorial.ipynb), to be run and changed.", *parts]) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        lines = [line if line.startswith(("#", "$$")) else linked(line, folder="loss/") for line in source.split("\n")]
        return "\n".join(lines)
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
        else:
            parts.append(coloured("".join(output["data"]["image/svg+xml"])))
    return "\n\n".join(parts)


# ---------------------------------------------------------------------------------------------------------
# Overview and API


def overview() -> str:
    """The two tables: continuous and discrete outputs."""
    parts = [
        "# The losses at a glance",
        "Two tables: losses of continuous outputs, where a prediction is a number or a distribution, and losses of "
        "discrete outputs, where it is a label, an order or a neighbourhood. Properties are those of the unreduced "
        "loss as a function of its prediction. [All parameters](losses.md) are in a table of their own, and "
        "[choosing a loss](guides/choosing.md) tells how to decide.",
    ]
    for title, inside in (("Continuous outputs", True), ("Discrete outputs", False)):
        cards = [card for card in catalogue().values() if (card.task in CONTINUOUS) == inside]
        order = {task: i for i, task in enumerate(TASKS)}
        cards.sort(key=lambda card: (order.get(card.task, len(order)), card.name))
        rows = [
            [f"[{card.class_name}](loss/{card.name}.md)", card.task, ", ".join(card.properties), card.best_for,
             card.not_for]
            for card in cards
        ]  # fmt: skip
        head = ["loss", "task", "properties", "best used for", "not recommended for"]
        parts += [f"## {title}", table(head, rows)]
    parts.append(
        "## Layers with a loss in them\n\n`AdaptiveLogSoftmaxWithLoss` and `LinearCrossEntropyLoss` are layers with "
        "weights of their own, and so not in these tables: see [their reference](api/losses.md)."
    )
    return "\n\n".join(parts) + "\n"


API: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "using": (
        "Using losses",
        "The registry, the settings, and what tells you about a loss. The losses themselves are in "
        "[classes](losses.md) and [functions](functional.md).",
        ("explain", "plot", "why", "last_violation", "checks", "empty", "get", "list_losses", "create", "accelerate",
         "compute_loss_func", "audit", "autopsy", "advise", "watch", "linear", "WeightedSum", "count", "normalizer",
         "class_balanced_weights", "soft_cap", "top_k_scores", "signed_distance", "distance_field", "gather_rows",
         "LossError", "LossValueError", "LossIndexError", "LossTypeError", "SpaceWarning", "WatchWarning"),
    ),
    "declaring": (
        "Declaring losses",
        "The vocabulary of a declaration; [custom losses](../guides/custom.md) shows it at work, and "
        "[the formula language](formula.md) is what `value` is written in.",
        ("Loss", "PointwiseLoss", "ClassScoresLoss", "MarginsLoss", "EmbeddingsLoss", "RegionsLoss", "TwoRowsLoss",
         "PairsLoss", "OrderedLoss", "ListsLoss", "ComposedLoss", "param", "Operand", "Facts", "Case", "Deviation",
         "Peer", "Interval", "real", "positive", "nonnegative", "probability", "signs", "DeclarationError"),
    ),
}  # fmt: skip
OPTIONS = "    options:\n      show_root_heading: true\n      heading_level: 2\n"


def where_defined() -> dict[str, str]:
    """The module that each public name is defined in, from the imports of losskit/__init__.py."""
    import ast

    tree = ast.parse(Path(losskit.__file__).read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {name.name: f"{node.module}.{name.name}" for node in imports for name in node.names}


def api_pages() -> dict[str, str]:
    """The pages of the reference: every name of losskit.__all__ is on one of them."""
    path = where_defined()
    classes = [name for name in losskit.__all__ if inspect.isclass(getattr(losskit, name))
               and getattr(losskit, name).__module__.startswith(("losskit.losses.", "losskit.layers."))]  # fmt: skip
    told = {*classes, "functional", "testing", *(name for _, _, names in API.values() for name in names)}
    left_out = set(losskit.__all__) ^ told
    if left_out:
        raise LookupError(f"tools/site/pages.py: the API reference and losskit.__all__ differ by {sorted(left_out)}")
    pages = {}
    for stem, (title, text, names) in API.items():
        plain = "      members: false\n"
        entries = "\n\n".join(f"::: {path[name]}\n{OPTIONS}{'' if name == 'Loss' else plain}" for name in names)
        pages[f"api/{stem}.md"] = f"# {title}\n\n{text}\n\n{entries}"
    pages["api/losses.md"] = "# The losses as classes\n\n" + "\n\n".join(
        f"::: {getattr(losskit, name).__module__}.{name}\n{OPTIONS}      members: false\n\n{_more(name)}"
        for name in classes
    )
    functions = [getattr(losskit.functional, name) for name in catalogue()]
    elsewhere = [f"{f.__module__}.{f.__name__}" for f in functions if f.__module__ != "losskit.functional"]
    pages["api/functional.md"] = (
        "# The losses as functions\n\n::: losskit.functional\n    options:\n      heading_level: 2\n\n"
        + "\n\n".join(f"::: {path}\n{OPTIONS}" for path in elsewhere)
    )
    pages["api/testing.md"] = "# In test suites\n\n::: losskit.testing\n    options:\n      heading_level: 2\n"
    pages["api/formula.md"] = (
        "# The formula language\n\nWhat the `value` of a declaration is written with, from `losskit.formula`, beside "
        "`+ - * /` and comparisons. Conditions are joined with `&` and `|`. The order of operations that you write is "
        "the order that runs.\n\n" + table(["function", "what it is"], _primitives()) + "\n"
    )
    return pages


def _primitives() -> list[list[str]]:
    """The functions of the formula language, as they are in its file."""
    found = [f for _, f in inspect.getmembers(language, inspect.isfunction) if f.__module__ == language.__name__]
    public = sorted((f for f in found if f.__name__[0] != "_"), key=lambda f: f.__code__.co_firstlineno)
    return [
        [f"`{f.__name__}{_short(inspect.signature(f))}`", (inspect.getdoc(f) or "").replace("*", r"\*")] for f in public
    ]


def _more(class_name: str) -> str:
    """Where more of a loss is; a layer with a loss in it has no such page."""
    files = [card for card in catalogue().values() if card.class_name == class_name]
    page = "[Formula, plot, worked example](../loss/{}.md), [source](../source/{}.md)"
    return "".join(page.format(card.name, source_file(card).stem) for card in files)


def everything() -> dict[str, str]:
    """All generated pages by their path."""
    return {
        **{f"loss/{card.name}.md": loss_page(card) for card in catalogue().values()},
        **{f"source/{source_file(card).stem}.md": source_page(card) for card in catalogue().values()},
        "overview.md": overview(),
        "poster.md": sheet.page(table),
        "tutorial.md": tutorial(),
        "command.md": command.page(table),
        **api_pages(),
    }
