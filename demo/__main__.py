"""What losskit is for, shown by small trainings on real data; the result is one HTML report.

    python demo [--out demo_output] [--epochs-scale 1.0] [--only exact safe ...]

Each part is one file: exact.py, robust.py, safe.py, yours.py, imbalance.py, parity.py. The data (data.py) ships with
scikit-learn, so nothing is downloaded.
"""

import argparse
import os
import tempfile
from pathlib import Path

import exact
import imbalance
import parity
import report
import robust
import safe
import torch
import yours
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from section import WorseThanGuessingError

PARTS = {"exact": exact, "robust": robust, "safe": safe, "yours": yours, "imbalance": imbalance, "parity": parity}


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for the report")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="train this many times as long")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    return parser.parse_args()


def run(names, scale, console):
    """Run the parts, one line of progress each; returns what they found, and what was left out and why."""
    columns = (TextColumn("{task.description:10}"), BarColumn(), TimeElapsedColumn())
    found, left_out = [], []
    # No refresh thread: the bars are drawn between trainings, never during a measurement.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bars = {name: progress.add_task(name, total=PARTS[name].TICKS, start=False) for name in names}
        for name, bar in bars.items():
            progress.start_task(bar)
            progress.refresh()
            try:
                found.append(PARTS[name].run(scale, lambda bar=bar: progress.update(bar, advance=1, refresh=True)))
            except WorseThanGuessingError as problem:
                left_out.append(f"{name}, since {problem}")
            progress.update(bar, completed=PARTS[name].TICKS, refresh=True)
    return found, left_out


def main():
    """Run every part, say what each found, and write the report."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # threads that wait for a core on a busy machine would decide the ratios
    console = Console()
    if not console.is_terminal:
        console.width = 110
    names = [name for name in PARTS if name in arguments.only]
    with tempfile.TemporaryDirectory() as kernels:
        os.environ["XDG_CACHE_HOME"] = kernels  # so that kernels are compiled in every run, and none is left behind
        found, left_out = run(names, arguments.epochs_scale, console)
    for part in found:
        console.print(f"\n[bold]{escape(part.title)}[/]\n{escape(part.lead[0])}", highlight=False)
    for text in left_out:
        console.print(f"\nleft out: {text}", markup=False, highlight=False)
    if found:
        paths = report.write(arguments.out, found, left_out)
        pictures = ", ".join(path.name for path in paths[1:])
        console.print(f"\nwrote {paths[0]}" + (f" and beside it {pictures}" if pictures else ""), highlight=False)


if __name__ == "__main__":
    main()
