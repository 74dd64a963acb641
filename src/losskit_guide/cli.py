"""The command `losskit`. `list` and `show` need no torch and answer at once; what computes with torch imports it.

Results go to stdout, as tables or with --json as data; mistakes are one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import json
import shutil
import webbrowser
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from losskit_guide.card import Card, catalogue, find, plain

app = typer.Typer(
    help="The losses of losskit: what exists, what each is, how they compare, what runs on this machine.",
    no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
)  # fmt: skip
console = Console()

Json = Annotated[bool, typer.Option("--json", help="Print data instead of a table.")]
Name = Annotated[str, typer.Argument(help="A loss, by function or class name.")]


class Axis(str, Enum):
    """What a comparison is drawn over."""

    own = "own"
    probability = "probability"
    logit = "logit"


class Language(str, Enum):
    """A language that formulas are printed in."""

    plain = "plain"
    latex = "latex"
    python = "python"
    cpp = "cpp"
    triton = "triton"
    js = "js"


def refuse(problem: object) -> NoReturn:
    """One sentence on stderr, exit code 2."""
    Console(stderr=True).print(str(problem), style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(2)


def card_or_exit(name: str) -> Card:
    """The card of a loss, or the sentence that suggests another name."""
    try:
        return find(name)
    except LookupError as problem:
        refuse(problem.args[0])


def emit(data: Any) -> None:
    """Data as JSON on stdout."""
    print(json.dumps(plain(data), indent=2, allow_nan=False, ensure_ascii=False))


@app.command("list")
def list_(
    family: Annotated[
        str, typer.Option(help="Only this family: pointwise, class scores, margins, embeddings ...")
    ] = "",
    task: Annotated[str, typer.Option(help="Only this task: regression, binary, multi-class, ranking ...")] = "",
    convex: Annotated[bool, typer.Option("--convex", help="Only convex losses.")] = False,
    smooth: Annotated[bool, typer.Option("--smooth", help="Only losses without kinks.")] = False,
    robust: Annotated[bool, typer.Option("--robust", help="Only losses with a bounded gradient.")] = False,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Only losses symmetric in input and target.")] = False,
    json_: Json = False,
) -> None:
    """Name, one line, best used for and not recommended for, of every loss or of some."""
    cards = list(catalogue().values())
    for what, wanted in (("family", family), ("task", task)):
        known = sorted({getattr(card, what) for card in cards})
        if wanted and wanted not in known:
            refuse(f"there is no {what} {wanted!r}; there are {', '.join(known)}")
        cards = [card for card in cards if not wanted or getattr(card, what) == wanted]
    for fact, wanted_ in (("convex", convex), ("smooth", smooth), ("robust", robust), ("symmetric", symmetric)):
        cards = [card for card in cards if not wanted_ or card.facts[fact]]
    if json_:
        keys = ("name", "class_name", "family", "task", "summary", "best_for", "not_for", "facts")
        return emit([{key: getattr(card, key) for key in keys} for card in cards])
    from losskit_guide.render import overview

    console.print(overview(cards, console.width) if cards else "no loss is all of that")


@app.command()
def show(
    name: Name,
    formula: Annotated[
        Language | None, typer.Option(help="Only the formula and its gradients, in this language.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Write the plot of value and gradient to this file.")] = None,
    json_: Json = False,
) -> None:
    """Everything about one loss: formula, gradient, parameters, facts, advice, plot."""
    card = card_or_exit(name)
    if png is not None:
        from losskit_guide.figures import plot

        save(plot(card), png)
    if formula is not None:
        texts = spelled(card, formula)
        return (
            emit(texts)
            if json_
            else console.print("\n\n".join(texts.values()), markup=False, highlight=False, soft_wrap=True)
        )
    if json_:
        return emit(card.to_dict())
    console.print(card)


def spelled(card: Card, language: Language) -> dict[str, str]:
    """Value and gradients of each variant in one language, by what they are."""
    from losskit_guide.render import when

    key = {"js": "javascript"}.get(language.value, language.value)
    found = {}
    for variant in card.variants:
        for what, text in {"value": variant.value, **{f"d/d {k}": t for k, t in variant.gradients.items()}}.items():
            body = text[key] if isinstance(text[key], str) else "\n".join(text[key])
            found[f"{what}{when(card, variant)}"] = body
    comment = {"latex": "%", "python": "#", "triton": "#"}.get(key, "//") if key != "plain" else "#"
    return {what: f"{comment} {card.name}: {what}\n{body}" for what, body in found.items()}


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help='Losses, also with settings: "huber_loss:delta=2,target=0".')],
    out: Annotated[Path | None, typer.Option(help="Write the curves to this picture (png, svg, pdf).")] = None,
    over: Annotated[
        Axis, typer.Option(help="The axis: each loss's own variable, a probability, or a logit.")
    ] = Axis.own,
    given: Annotated[
        list[str] | None, typer.Option("--given", help="A setting for all that know it: target=0.")
    ] = None,
    at: Annotated[str, typer.Option(help="Points of the table, separated by commas.")] = "",
    low: Annotated[float | None, typer.Option(help="Left end of the curves.")] = None,
    high: Annotated[float | None, typer.Option(help="Right end of the curves.")] = None,
    json_: Json = False,
) -> None:
    """Curves and a table of values and gradients of several losses. BCE against MSE on a sigmoid, for target 0:

    losskit compare binary_cross_entropy mse_loss --over logit --given target=0 --at 0,1.09864,10 --out bce_mse.png
    """
    from losskit_guide.figures import limits_of, plot
    from losskit_guide.lines import line, points

    try:
        settings = dict(pair.split("=", 1) for pair in given or [])
        lines = [line(name, **{k: _setting(v) for k, v in settings.items()}) for name in names]
        start, end = limits_of(lines, over.value, low, high)
        xs = [float(x) for x in at.split(",") if x.strip()] or points(start, end, 9)
        rows = [[one.at(x, over.value) for one in lines] for x in xs]
        figure = plot(*lines, over=over.value, low=low, high=high) if out else None
    except (LookupError, ValueError) as problem:
        refuse(problem.args[0])
    if figure is not None and out is not None:
        save(figure, out)
    if json_:
        return emit([
            {"loss": one.label, "x": xs, "value": [row[i][0] for row in rows], "gradient": [row[i][1] for row in rows]}
            for i, one in enumerate(lines)
        ])  # fmt: skip
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(over.value if over is not Axis.own else lines[0].curve.variable, justify="right")
    for one in lines:
        table.add_column(one.label, justify="right")
        table.add_column("gradient", justify="right", style="dim")
    for x, row in zip(xs, rows, strict=True):
        table.add_row(f"{x:g}", *(f"{number:.6g}" for pair in row for number in pair))
    means = [sum(row[i][0] for row in rows) / len(rows) for i in range(len(lines))]
    table.add_section()
    table.add_row("mean", *(text for mean in means for text in (f"{mean:.6g}", "")))
    console.print(table)


def _setting(text: str) -> float | bool:
    return text.lower() == "true" if text.lower() in ("true", "false") else float(text)


def save(figure: Any, path: Path) -> None:
    """Write a figure, or say why not."""
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as problem:
        refuse(f"{path} cannot be written: {problem}")
    Console(stderr=True).print(f"wrote {path}", style="dim", highlight=False, soft_wrap=True)


@app.command()
def why(
    name: Name,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    shape: Annotated[str, typer.Option(help="Shape of the first tensor: 32,10 or 32x10.")] = "",
    json_: Json = False,
) -> None:
    """Which implementation such a call runs, and why."""
    card = card_or_exit(name)
    from losskit_guide.machine import reason

    try:
        choice = reason(card.name, dtype, device, shape)
    except (ValueError, TypeError, RuntimeError, AssertionError) as problem:
        refuse(problem)
    if json_:
        return emit({"loss": card.name, "implementation": choice.implementation, "reason": choice.reason})
    console.print(str(choice), highlight=False, soft_wrap=True)


@app.command()
def doctor(
    clean: Annotated[bool, typer.Option("--clean", help="Empty the folder of compiled kernels.")] = False,
    json_: Json = False,
) -> None:
    """Versions, instruction set, compiler, kernels, GPU and cache of this machine."""
    from losskit_guide.machine import clean as emptied
    from losskit_guide.machine import facts

    if clean:
        try:
            gone = emptied()
        except ValueError as problem:
            refuse(problem)
        if json_:
            return emit(gone)
        for name in gone["removed"]:
            console.print(f"removed {name}", markup=False, highlight=False, soft_wrap=True)
        total = f"{len(gone['removed'])} removed, {gone['bytes'] / 1e6:.1f} MB, from {gone['cache']}"
        return console.print(total, markup=False, highlight=False, soft_wrap=True)
    found = facts()
    if json_:
        return emit(found)
    for key, value in found.items():
        console.print(f"[bold]{key:>14}[/]  {value}", highlight=False, soft_wrap=True)


@app.command()
def bench(
    name: Name,
    shape: Annotated[str, typer.Option(help="Shape of the first tensor: 1024,1000.")] = "",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="Threads for both.")] = 1,
    json_: Json = False,
) -> None:
    """Forward and backward on this machine, against torch, in turns within one process."""
    card = card_or_exit(name)
    from losskit_guide.machine import duel

    try:
        result = duel(card.name, dtype, shape, threads)
    except (ValueError, TypeError, RuntimeError) as problem:
        refuse(problem)
    if json_:
        return emit(result)
    console.print(
        f"{card.name} {tuple(result['shape'])} {dtype}, {threads} thread(s): torch {result['torch_us']:.1f} us, "
        f"losskit {result['losskit_us']:.1f} us, torch / losskit [bold]{result['ratio']:.2f}[/] "
        f"(median of {result['rounds']} rounds)",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def explore(
    out: Annotated[Path | None, typer.Option(help="Copy the page to this file instead of opening it.")] = None,
    json_: Json = False,
) -> None:
    """Open the explorer in the browser: one page that needs no server and no network."""
    page = Path(__file__).parent / "explorer" / "index.html"
    if not page.exists():
        refuse("the explorer's page is not built here; run `make explorer`, which needs npm")
    if out is not None:
        try:
            page = Path(shutil.copy(page, out))
        except OSError as problem:
            refuse(f"{out} cannot be written: {problem}")
    if json_:
        return emit({"page": str(page)})
    console.print(str(page), highlight=False, soft_wrap=True)
    if out is None:
        webbrowser.open(page.as_uri())
