"""The commands that look at a user's data or at results, or run a script. Each imports torch when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from losskit_guide.terminal import AS_IT_IS, Json, console, emit, names, refuse, wrote


def accelerate(context: typer.Context) -> None:
    """Run a script, unedited, with losskit in the place of torch's losses; also in the processes that it starts."""
    from losskit.acceleration.script import main

    main(context.args)


def advise(
    file: Annotated[Path, typer.Argument(help="A table with named columns: .csv, .tsv, .parquet, .json, .ndjson.")],
    target: Annotated[str, typer.Option(help="The column of the targets.")],
    event: Annotated[str, typer.Option(help="For times: the column that is 1 where the event happened.")] = "",
    json_: Json = False,
) -> None:
    """Which losses fit the target of a data set, why, and a line of code to begin with."""
    from losskit.machine import advised

    try:
        found = advised(file, target, event)
    except ValueError as problem:
        refuse(problem.args[0])
    if json_:
        return emit({"seen": found.seen, "losses": [vars(one) for one in found.losses], "unseen": found.unseen})
    console.print(str(found), **AS_IT_IS)


def audit(
    loss: Annotated[
        str,
        typer.Argument(help='A loss: "my_module:MyLoss", "file.py:my_loss", or one of losskit, "huber_loss:delta=2".'),
    ],
    example: Annotated[
        str, typer.Option(help='Operands of a call: "torch.randn(8, 5), torch.randint(5, (8,))", or "my_module:name".')
    ] = "",
    only: Annotated[list[str] | None, typer.Option(help="Run this check, and others that are named so.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave out this check.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out compile, export, threads and cost.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for warnings, too.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    json_: Json = False,
) -> None:
    """What is wrong with a loss, whoever wrote it. Exit code 1: faults were found; 2: it could not be audited."""
    from losskit.machine import audited
    from losskit_guide.verdicts import data, text

    try:
        found = audited(loss, example, only or [], skip or [], quick)
        if html is not None:
            found.save(html)
    except (ValueError, TypeError, LookupError) as problem:
        refuse(problem.args[0])
    except OSError as problem:
        refuse(f"{html} cannot be written: {problem}")
    if json_:
        emit(data(found))
    else:
        console.print(text(found), **AS_IT_IS)
    if found.faults or (strict and found.warnings):
        raise typer.Exit(1)


def autopsy(
    file: Annotated[Path, typer.Argument(help="A table with named columns: .csv, .tsv, .parquet, .json, .ndjson.")],
    target: Annotated[str, typer.Option(help="The column of the targets.")],
    prediction: Annotated[
        list[str], typer.Option(help="The column of the predictions; one for each class, in their order.")
    ],
    loss: Annotated[
        str, typer.Option(help='The loss, also with settings: "huber_loss:delta=2".', autocompletion=names)
    ],
    other: Annotated[list[str] | None, typer.Option(help="Another loss of the same rows.")] = None,
    count: Annotated[int, typer.Option(help="How many rows to show.", min=1)] = 10,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    json_: Json = False,
) -> None:
    """Who pulls? The rows of a file of predictions by their loss and their share of the gradient."""
    from losskit.machine import pulls_of
    from losskit_guide.pulls import data, text

    try:
        found = pulls_of(file, target, prediction, loss, other or [])
        if html is not None:
            found.save(html)
    except (ValueError, TypeError, LookupError) as problem:
        refuse(problem.args[0])
    except OSError as problem:
        refuse(f"{html} cannot be written: {problem}")
    if json_:
        return emit(data(found, count))
    console.print(text(found, count), **AS_IT_IS)


def microscope(
    name: Annotated[
        str, typer.Argument(help='A loss, also with settings: "huber_loss:delta=2".', autocompletion=names)
    ],
    dtype: Annotated[str, typer.Option(help="f64, f32, bf16, f16, or all of them.")] = "all",
    out: Annotated[Path | None, typer.Option(help="Write the map to this file: .svg, .pdf or .png.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Light letters on dark paper.")] = False,
    json_: Json = False,
) -> None:
    """Where value and gradient lose their digits: torch's and losskit's over one number, against hundreds of digits."""
    from losskit.machine import magnified
    from losskit_guide.microscope import data, headline, shown, table

    try:
        if out is not None:
            from losskit_guide.paper import kind_of
            from losskit_guide.strips import picture

            kind = kind_of(out)
        seen = magnified(name, dtype)
        if out is not None:
            out.write_bytes(picture(seen, dark=dark).written(kind, title=f"{seen.label} under the microscope"))
            wrote(out)
    except (LookupError, ValueError, ModuleNotFoundError) as problem:
        refuse(problem.args[0])
    except OSError as problem:
        refuse(f"{out} cannot be written: {problem.strerror or problem}")
    if json_:
        return emit(data(seen))
    console.print(f"{seen.label} over {seen.variable}: {headline(seen)}", **AS_IT_IS)
    for who, rows in table(seen).items():
        console.print(f"\n{seen.title(who)}: {seen.calls[who]}", **AS_IT_IS)
        for told, sentence in rows:
            console.print(f"  {told:>8}  {sentence}", **AS_IT_IS)
    for who, stretch, lines in shown(seen):
        console.print(f"\n# {seen.title(who)}, {stretch.dtype}: {stretch.sentence}", **AS_IT_IS)
        console.print("\n".join(lines), **AS_IT_IS)
