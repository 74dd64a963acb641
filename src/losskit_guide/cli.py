"""The command `losskit`. `list` and `show` need no torch and answer at once; what computes with torch imports it.

Results go to stdout, as tables or with --json or --csv as data; mistakes are one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import csv
import importlib.metadata
import shutil
import sys
import webbrowser
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from losskit_guide import commands_of_data as data
from losskit_guide import commands_of_pictures as pictures
from losskit_guide.card import Card, catalogue, find, heads
from losskit_guide.terminal import AS_IT_IS, Json, console, emit, names, refuse, wrote


class OneSentence(typer.core.TyperGroup):
    """Tells what is wrong with a command line in one sentence, as every other mistake is told."""

    def main(self, args: Any = None, prog_name: Any = None, standalone_mode: bool = True, **more: Any) -> Any:  # type: ignore[override]
        """Run the command; exit with its code."""
        try:
            code = super().main(args, prog_name, standalone_mode=False, **more)
        except typer.TyperException as problem:
            told = problem.format_message().rstrip(".")
            if told:  # the help was printed where nothing was asked for
                Console(stderr=True).print(f"{told}. See losskit --help.", style="red", **AS_IT_IS)
            code = 2
        if standalone_mode:
            sys.exit(code)
        return code


app = typer.Typer(
    help="The losses of losskit: what exists, what each is, how they compare, what runs on this machine.",
    cls=OneSentence, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
)  # fmt: skip
app.command()(data.advise)
app.command()(data.audit)
app.command()(data.autopsy)
app.command()(data.microscope)
app.command()(pictures.card)
app.command()(pictures.poster)
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    data.accelerate
)
Csv = Annotated[bool, typer.Option("--csv", help="Print comma-separated values, with all digits.")]
Name = Annotated[
    str, typer.Argument(help="A loss, by the name of its function or class, or an alias.", autocompletion=names)
]
Names = typer.Argument(help='Losses, also with settings: "huber_loss:delta=2,target=0".', autocompletion=names)


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


def card_or_exit(name: str) -> Card:
    """The card of a loss, or the sentence that suggests another name."""
    try:
        return find(name)
    except LookupError as problem:
        refuse(problem.args[0])


def emit_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows as comma-separated values on stdout; numbers have all their digits."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"losskit {importlib.metadata.version('losskit')}")
        raise typer.Exit()


@app.callback()
def losskit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The losses of losskit: what exists, what each is, how they compare, what runs on this machine."""


@app.command("list")
def list_(
    family: Annotated[
        str, typer.Option(help="Only this family: pointwise, class scores, margins, embeddings ...")
    ] = "",
    task: Annotated[str, typer.Option(help="Only this task: regression, binary, multi-class, ranking ...")] = "",
    convex: Annotated[bool, typer.Option("--convex", help="Only losses convex in all predictions together.")] = False,
    smooth: Annotated[bool, typer.Option("--smooth", help="Only losses without kinks.")] = False,
    robust: Annotated[bool, typer.Option("--robust", help="Only losses that no wrong target can dominate.")] = False,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Only losses symmetric in input and target.")] = False,
    long: Annotated[bool, typer.Option("--long", help="With what each is best for and not for.")] = False,
    json_: Json = False,
    csv_: Csv = False,
) -> None:
    """One line for every loss or for some: its function, its class, its task, what it is."""
    cards = list((catalogue() | heads()).values())
    for what, wanted in (("family", family), ("task", task)):
        known = sorted({getattr(card, what) for card in cards})
        if wanted and wanted not in known:
            refuse(f"there is no {what} {wanted!r}; there are {', '.join(known)}")
        cards = [card for card in cards if not wanted or getattr(card, what) == wanted]
    for fact, wanted_ in (("convex", convex), ("smooth", smooth), ("robust", robust), ("symmetric", symmetric)):
        cards = [card for card in cards if not wanted_ or card.facts[fact] is True]
    keys = ("name", "class_name", "family", "task", "summary", "best_for", "not_for")
    if csv_:
        return emit_csv(keys, ([getattr(card, key) for key in keys] for card in cards))
    if json_:
        return emit([{key: getattr(card, key) for key in (*keys, "aliases", "facts")} for card in cards])
    from losskit_guide.render import one_line_each, overview

    if not cards:
        return console.print("no loss is all of that")
    width = console.width if console.is_terminal else None
    if long:
        return console.print(overview(cards, console.width))
    console.print(one_line_each(cards, width), **AS_IT_IS)


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
        if not texts:
            refuse(f"{card.name} is written in torch operations; its formula is there as plain text and as LaTeX.")
        return emit(texts) if json_ else console.print("\n\n".join(texts.values()), **AS_IT_IS)
    if json_:
        return emit(card.to_dict())
    from losskit_guide.render import page

    console.print(page(card, min(console.width - 12, 72)))


def spelled(card: Card, language: Language) -> dict[str, str]:
    """Value and gradients under each setting of the switches in one language, by what they are."""
    from losskit_guide.render import formulas, when

    found: dict[str, str] = {}
    if language in (Language.plain, Language.latex):
        for setting, equations in formulas(card):
            for equation in equations:
                title = f"{equation.title}{f' ({setting})' if setting else ''}"
                text = getattr(equation, language.value)
                found[title] = f"{found[title]}\n{text}" if title in found else text
    else:
        key = {"js": "javascript"}.get(language.value, language.value)
        for variant in card.variants:
            texts = {"value": variant.value, **{f"d/d {k}": t for k, t in variant.gradients.items()}}
            found |= {f"{what}{when(card, variant)}": "\n".join(text[key]) for what, text in texts.items() if text}
    comment = {"latex": "%", "cpp": "//", "js": "//"}.get(language.value, "#")
    return {what: f"{comment} {card.name}: {what}\n{body}" for what, body in found.items()}


@app.command()
def compare(
    losses: Annotated[list[str], Names],
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
    csv_: Csv = False,
) -> None:
    """Curves and a table of values and gradients of several losses. BCE against MSE on a sigmoid, for target 0:

    losskit compare binary_cross_entropy mse_loss --over logit --given target=0 --at 0,1.09864,10 --out bce_mse.png
    """
    from losskit_guide.figures import plot
    from losskit_guide.lines import check_places, limits_of, lines_of, points

    axis = over.value
    try:
        lines = lines_of(losses, dict(_pair(text) for text in given or []))
        start, end = limits_of(lines, axis, low, high)
        asked = [_point(text) for text in at.split(",") if text.strip()]
        check_places(lines, axis, asked)
        xs = asked or points(start, end, 9)
        rows = [[one.at(x, axis) for one in lines] for x in xs]
        figure = plot(*lines, over=axis, low=low, high=high) if out else None
    except (LookupError, ValueError, ModuleNotFoundError) as problem:
        refuse(problem.args[0])
    if figure is not None and out is not None:
        save(figure, out)
    name = axis if over is not Axis.own else lines[0].curve.variable
    if json_:
        return emit([
            {"loss": one.label, "x": xs, "value": [row[i][0] for row in rows], "gradient": [row[i][1] for row in rows]}
            for i, one in enumerate(lines)
        ])  # fmt: skip
    if csv_:
        head = [name, *(f"{one.label} {what}" for one in lines for what in ("value", "gradient"))]
        return emit_csv(
            head, ([x, *(number for pair in row for number in pair)] for x, row in zip(xs, rows, strict=True))
        )
    from losskit_guide.render import comparison, whole

    for table in comparison([one.label for one in lines], name, xs, rows, console):
        Console(width=max(console.width, whole(table, console))).print(table)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise ValueError(f"--given takes setting=number, such as target=0, got {text!r}")
    return key, value


def _point(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--at takes numbers separated by commas, got {text.strip()!r}") from None


def save(figure: Any, path: Path) -> None:
    """Write a figure, or say why not."""
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as problem:
        refuse(f"{path} cannot be written: {problem}")
    wrote(path)


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
    from losskit.machine import reason

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
    from losskit.machine import clean as emptied
    from losskit.machine import facts

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
        console.print(f"{key:>14}  {value}", **AS_IT_IS)


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
    from losskit.machine import duel

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
    losses: Annotated[list[str] | None, Names] = None,
    play: Annotated[
        str, typer.Option(help='Open the playground: "regression", "classes", "embeddings", or a training\'s name.')
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Copy the page to this file instead of opening it.")] = None,
    json_: Json = False,
) -> None:
    """Open the explorer or its playground in the browser, with these losses: one page without server or network."""
    from losskit_guide.lines import lines_of, link
    from losskit_guide.trainings import training

    page = Path(__file__).parent / "explorer" / "index.html"
    if not page.exists():
        refuse("the explorer's page is not built here; run `make explorer`, which needs npm")
    try:
        fragment = link(lines_of(losses or [], {}))
        fragment = training(page, play, fragment) if play else fragment
        page = Path(shutil.copy(page, out)) if out is not None else page
    except (LookupError, ValueError) as problem:
        refuse(problem.args[0])
    except OSError as problem:
        refuse(f"{out} cannot be written: {problem}")
    address = f"{page.resolve().as_uri()}{fragment}"
    if json_:
        return emit({"page": str(page), "address": address})
    console.print(address if fragment else str(page), **AS_IT_IS)
    if out is None:
        webbrowser.open(address)
