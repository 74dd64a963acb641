"""Time losskit's losses against torch eager, torch.compile, and JAX with optax: rows of docs/speed.json.

    python benchmarks/run.py                              every loss at every size
    python benchmarks/run.py --only mse bce --sizes 1M    some rows anew; the others stay as they are
    python benchmarks/run.py --resume                     what is missing of a run that was interrupted today

What is timed is forward plus backward of the loss alone, reduction "mean", on data from the loss's own
domain (cases.py). All peers (peers.py) live in one process, have the same number of threads, and take turns
round by round, so a slow moment of the machine falls on all of them; the number to read is the median over
rounds of the ratio within a round. Absolute times depend on the machine and its mood, and are indicative only.

A row has as many rounds as fit into ROW_SECONDS: 21 at most, 5 at least, 3 of rounds that take longer themselves. A row
whose result is wrong, or that a peer fails to compute, is not timed: the others are measured, and the exit code is 1.

A triad (a = b + s * c, in place) takes its turn too. It moves 12 bytes per element in float32, which is
what a loss with one gradient has to move (read input and target, write the gradient); a loss of three
tensors with two gradients has to move 20. The triad's time scaled to those bytes is the memory bound. It
is a strict one: the triad writes into memory it already has, a loss allocates its gradient, and at 1M
elements all of the triad's memory may fit into the processor's cache.
"""

import argparse
import math
import os
import statistics
import time
import warnings
from pathlib import Path

import store
import torch
from cases import CASES, LARGE, SMALL, takes
from peers import DTYPES, make_peers, set_threads, versions_of_jax
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

PLACES = [*((size, 1) for size in (*SMALL, "1M")), ("1M", 2), ("16M", 2)]  # sizes and threads
ROUNDS, ROW_SECONDS = 21, 3.0
PEERS = ("torch", "compile", "jax", "losskit")
OTHERS = PEERS[:-1]
ASKED_COMPILE = 1.5  # torch.compile / losskit at 1M on one thread, where compiling beats eager
TIE = 0.98  # what is below so much of what is asked is missed; medians of a quiet machine repeat to 2 %
ROUND_SECONDS = 0.004  # a peer's turn repeats its step until it lasts about this long
LONG = 0.1  # a step of more seconds needs no other one before it


def settle_allocator():
    """Free one large block, as a process that trains has done long ago.

    From then on glibc keeps freed blocks up to that size instead of handing them back to the system and
    fetching them anew, page by page, whenever it happens to decide so: less noise, for all peers alike.
    """
    torch.ones(7 * 2**20)


def turn(step, repeats):
    """Seconds per call over one turn of `repeats` calls, after one that finds caches and memory as it may.

    Without repeats that one is the turn: what a call of a tenth of a second finds does not matter.
    """
    if repeats:
        step()
    start = time.perf_counter()
    for _ in range(max(1, repeats)):
        step()
    return (time.perf_counter() - start) / max(1, repeats)


def take_turns(peers, rounds):
    """Seconds per call of each peer in each round.

    From round to round the order of the peers rotates and turns around, so that no peer is always the
    first, or always comes after the same other one.
    """
    names = list(peers)
    repeats, whole = {}, 0.0
    for name in names:
        once = turn(peers[name], 1)
        once = once if once > LONG else min(once, turn(peers[name], 2))
        repeats[name] = 0 if once > LONG else math.ceil(ROUND_SECONDS / once)
        whole += (1 + repeats[name]) * once
    fewest = 5 if whole < ROW_SECONDS else 3
    seconds = {name: [] for name in names}
    for number in range(max(fewest, min(rounds, int(ROW_SECONDS / whole)))):
        first = number // 2 % len(names)
        order = names[first:] + names[:first]
        for name in order if number % 2 == 0 else reversed(order):
            seconds[name].append(turn(peers[name], repeats[name]))
    return seconds


def median_ratio(numerators, denominators):
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def quartiles(numerators, denominators):
    """The middle half of the ratios: how far the median can be trusted."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    first, _, third = statistics.quantiles(ratios, n=4)
    return [first, third]


def asked_of(case, peer, size, threads, dtype_name, ratios):
    """The smallest ratio accepted, or None."""
    at = (size, threads)
    if dtype_name != "f32":
        return None
    if peer == "torch":  # never slower, and at some places faster
        return {("1M", 1): case.asked, ("16M", 2): case.asked_16m}.get(at) or 1.0
    if peer == "jax":
        return case.asked_jax if at == ("1M", 1) else None
    pays = ratios["compile"] < ratios["torch"]
    return ASKED_COMPILE if at == ("1M", 1) and pays else None


def measure(case, size, threads, dtype_name, rounds, left_out):
    """Time one case at one size and number of threads; the row as it goes into the file."""
    set_threads(threads)
    peers, known = make_peers(case, size, dtype_name, left_out)
    seconds = take_turns(peers, rounds)
    ratios = {peer: median_ratio(seconds[peer], seconds["losskit"]) for peer in OTHERS if peer in seconds}
    row = {
        **place(case, size, threads, dtype_name),
        "shape": case.shapes[size],
        "against": known["against"],
        "rounds": len(seconds["losskit"]),
        "microseconds": {peer: statistics.median(seconds[peer]) * 1e6 for peer in PEERS if peer in seconds},
        "over_losskit": ratios,
        "quartiles": {peer: quartiles(seconds[peer], seconds["losskit"]) for peer in ratios},
        "asked": {peer: asked_of(case, peer, size, threads, dtype_name, ratios) for peer in ratios},
    }
    if "triad" in seconds:
        triad_bytes = 3 * DTYPES[dtype_name].itemsize * math.prod(case.shapes[size])
        row["triad_gb_per_s"] = triad_bytes / statistics.median(seconds["triad"]) / 1e9
        row["of_memory_bound"] = median_ratio(seconds["triad"], seconds["losskit"]) * known["bytes"] / triad_bytes
    return row


def place(case, size, threads, dtype_name):
    """What a row is a measurement of, and the function of the loss."""
    return {"case": case.name, "loss": case.function, "size": size, "threads": threads, "dtype": dtype_name}


def measured(case, *where):
    """The row; where it cannot be timed, one that says why."""
    try:
        return measure(case, *where)
    except RuntimeError as error:  # a wrong result, or a peer that fails
        size, threads, dtype_name, *_ = where
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return {**place(case, size, threads, dtype_name), "not_timed": first_line[:200]}


def missed(row):
    """The peers whose ratio is below what is asked."""
    asked = {peer: ratio for peer, ratio in row["asked"].items() if ratio is not None}
    return [peer for peer, ratio in asked.items() if row["over_losskit"][peer] < TIE * ratio]


def ratio_cell(row, peer):
    """A ratio for the table, with what was asked of it and a mark where that is missed."""
    if peer not in row["over_losskit"]:
        return ""
    value, asked = f"{row['over_losskit'][peer]:5.2f}", row["asked"][peer]
    if asked is None:
        return value
    colour, mark = ("bold red", "✗") if peer in missed(row) else ("green", "✓")
    return f"[{colour}]{value} {mark} ≥{round(asked, 2):g}[/]"


def make_table(rows, size, threads, dtype_name):
    """One screen table for the rows of one size and number of threads."""
    title = f"{size}, {dtype_name}, {threads} thread{'s' if threads > 1 else ''}"
    has_triad = "of_memory_bound" in rows[0]
    if has_triad:
        title += f", triad {statistics.median(row['triad_gb_per_s'] for row in rows):.1f} GB/s"
    peers = [peer for peer in PEERS if any(peer in row["microseconds"] for row in rows)]

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("case", no_wrap=True)
    table.add_column("shape", no_wrap=True, style="dim")
    for peer in peers:
        table.add_column(f"{peer}\nus", justify="right", style="dim", no_wrap=True)
    for peer in peers[:-1]:
        table.add_column(f"{peer} /\nlosskit", no_wrap=True)
    if has_triad:
        table.add_column("bound /\nlosskit", justify="right", no_wrap=True)
    for row in rows:
        times = row["microseconds"]
        cells = [f"{times[peer]:.4g}" if peer in times else "" for peer in peers]
        cells += [ratio_cell(row, peer) for peer in peers[:-1]]
        cells += [f"{row['of_memory_bound']:.0%}"] if has_triad else []
        table.add_row(row["case"], "x".join(map(str, row["shape"])), *cells)
    return table


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES if case.sizes]
    parser.add_argument("--json", type=Path, default=store.FILE, metavar="FILE", help="docs/speed.json if not given")
    parser.add_argument("--threads", type=int, nargs="+", choices=(1, 2), default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--sizes", nargs="+", choices=[*SMALL, *LARGE], default=[*SMALL, *LARGE])
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--resume", action="store_true", help="leave out what was measured today")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-jax", action="store_true", help="leave JAX out")
    return parser.parse_args()


def wanted(arguments):
    """Sizes and threads that the machine has the cores for, each with its cases."""
    half = DTYPES[arguments.dtype].itemsize == 2
    cases = [case for case in CASES if case.name in arguments.only]
    cases = [case for case in cases if not half or takes(case, DTYPES[arguments.dtype])]
    done = store.measured_today(arguments.json, "losses") if arguments.resume else ()
    return {
        (size, threads): [
            case
            for case in cases
            if size in case.shapes and store.identity(place(case, size, threads, arguments.dtype)) not in done
        ]
        for size, threads in PLACES
        if size in arguments.sizes and threads in arguments.threads and threads <= (os.cpu_count() or 1)
    }


def main():
    """Time every case asked for, print a table per size and thread count, keep each row in the file at once."""
    arguments = parse_arguments()
    # torch's kl_div says on each call that reduction="mean" is not the mathematical mean; it is meant here.
    warnings.filterwarnings("ignore", message="reduction: 'mean' divides the total loss")
    console = Console()
    if not console.is_terminal:
        console.width = 132  # a log file has room for the whole table
    console.print(", ".join(f"{key} {value}" for key, value in store.facts().items()))
    if not versions_of_jax():
        console.print("jax and optax are not installed: left out")
    left_out = [peer for peer in ("compile", "jax") if getattr(arguments, f"no_{peer}")]
    names = [case.name for case in CASES]
    rounds = math.ceil(ROUNDS / 3) if arguments.quick else ROUNDS
    groups, rows = wanted(arguments), []
    settle_allocator()
    # No refresh thread: the progress bar draws only between cases, never during a measurement.
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=sum(map(len, groups.values())))
        for (size, threads), cases in groups.items():
            found = []
            for case in cases:
                progress.update(task, description=f"{case.name}, {size}, {threads} thread(s)", refresh=True)
                found.append(measured(case, size, threads, arguments.dtype, rounds, left_out))
                store.merge(arguments.json, "losses", found[-1:], names)
                progress.advance(task)
            timed = [row for row in found if "not_timed" not in row]
            if timed:
                console.print(make_table(timed, size, threads, arguments.dtype))
            rows += found
    timed = [row for row in rows if "not_timed" not in row]
    asked = sum(ratio is not None for row in timed for ratio in row["asked"].values())
    console.print(f"{asked} ratios have a minimum, {sum(len(missed(row)) for row in timed)} miss it")
    console.print(f"wrote {arguments.json}; python tools/readme.py prints docs/speed.md from docs/speed.json")
    wrong = [row for row in rows if "not_timed" in row]
    for row in wrong:
        where = f"{row['case']}, {row['size']}, {row['threads']} thread(s)"
        console.print(escape(f"not timed: {where}: {row['not_timed']}"), highlight=False)
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
