"""Time losskit's losses against torch eager, torch.compile, and JAX with optax.

    python benchmarks/run.py
    python benchmarks/run.py --only mse bce --threads 1 --sizes 1M --quick

What is timed is forward plus backward of the loss alone, reduction "mean", on data from the loss's own
domain (cases.py). All peers (peers.py) live in one process, have the same number of threads, and take turns
round by round, so a slow moment of the machine falls on all of them; the number to read is the median over
rounds of the ratio within a round. Absolute times (ns per element of the first argument) depend on the machine
and its mood, and are indicative only.

A triad (a = b + s * c, in place) takes its turn too. It moves 12 bytes per element in float32, which is
what a loss with one gradient has to move (read input and target, write the gradient); a loss of three
tensors with two gradients has to move 20. The triad's time scaled to those bytes is the memory bound. It
is a strict one: the triad writes into memory it already has, a loss allocates its gradient, and at 1M
elements all of the triad's memory may fit into the processor's cache.
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

import torch
from cases import CASES, takes
from peers import DTYPES, make_peers, set_threads, versions_of_jax
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import losskit
from losskit.machine import processor

ROUNDS = {"small": 31, "1M": 21, "16M": 7}  # at each size
PEERS = ("torch", "compile", "jax", "losskit")
RATIOS = ("torch_over_losskit", "compile_over_losskit", "jax_over_losskit")
ASKED_SMALL = 1 / 1.3  # torch / losskit at the small size: at most 30 % slower
ASKED_COMPILE = 1.5  # torch.compile / losskit at 1M on one thread, where compiling beats eager
ROUND_SECONDS = 0.004  # a peer's turn repeats its step until it lasts about this long


def settle_allocator():
    """Free one large block, as a process that trains has done long ago.

    From then on glibc keeps freed blocks up to that size instead of handing them back to the system and
    fetching them anew, page by page, whenever it happens to decide so: less noise, for all peers alike.
    """
    torch.ones(7 * 2**20)


def turn(step, repeats):
    """Seconds per call over one turn of `repeats` calls, after one that finds caches and memory as it may."""
    step()
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) / repeats


def take_turns(peers, rounds):
    """Seconds per call of each peer in each round.

    From round to round the order of the peers rotates and turns around, so that no peer is always the
    first, or always comes after the same other one.
    """
    names = list(peers)
    repeats = {}
    for name in names:
        turn(peers[name], 3)
        repeats[name] = max(1, math.ceil(ROUND_SECONDS / turn(peers[name], 3)))
    seconds = {name: [] for name in names}
    for number in range(rounds):
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


def asked_of(case, key, size_name, threads, dtype_name, seconds):
    """The smallest ratio accepted here, or None."""
    if dtype_name != "f32":
        return None
    at = (size_name, threads)
    if key == "compile_over_losskit":
        return ASKED_COMPILE if at == ("1M", 1) and compile_pays(seconds) else None
    if key == "jax_over_losskit":
        return case.asked_jax if at == ("1M", 1) else None
    return ASKED_SMALL if size_name == "small" else {("1M", 1): case.asked, ("16M", 2): case.asked_16m}.get(at)


def compile_pays(seconds):
    """Whether torch.compile is faster than torch eager."""
    return median_ratio(seconds["torch"], seconds["compile"]) > 1


def measure(case, size_name, threads, dtype_name, rounds, left_out):
    """Time one case at one size and number of threads; the result as it goes into the JSON file."""
    set_threads(threads)
    peers, loss_bytes = make_peers(case, size_name, dtype_name, left_out)
    seconds = take_turns(peers, rounds)

    elements = math.prod(case.shapes[size_name])
    result = {
        "case": case.name,
        "size": size_name,
        "shape": case.shapes[size_name],
        "dtype": dtype_name,
        "threads": threads,
        "rounds": rounds,
        "ns_per_element": {name: statistics.median(s) / elements * 1e9 for name, s in seconds.items()},
    }
    for key in RATIOS:
        peer = key.split("_")[0]
        if peer in seconds:
            result[key] = median_ratio(seconds[peer], seconds["losskit"])
            result[f"{key}_quartiles"] = quartiles(seconds[peer], seconds["losskit"])
            result[f"{key}_asked"] = asked_of(case, key, size_name, threads, dtype_name, seconds)
    if "compile" in seconds:
        result["compile_faster_than_eager"] = compile_pays(seconds)
    if "triad" in seconds:
        triad_bytes = 3 * DTYPES[dtype_name].itemsize * elements
        result["triad_gb_per_s"] = triad_bytes / statistics.median(seconds["triad"]) / 1e9
        result["bytes_per_element"] = loss_bytes / elements
        bound = median_ratio(seconds["triad"], seconds["losskit"]) * loss_bytes / triad_bytes
        result["memory_bound_over_losskit"] = bound
    return result


def missed(result):
    """Which of the asked ratios this result misses, in the two digits the table shows."""
    return [
        key
        for key in RATIOS
        if result.get(f"{key}_asked") is not None and round(result[key], 2) < round(result[f"{key}_asked"], 2)
    ]


def ratio_cell(result, key):
    """A ratio for the table, with what was asked of it and a mark where that is missed."""
    if key not in result:
        return ""
    value, asked = f"{result[key]:5.2f}", result[f"{key}_asked"]
    if asked is None:
        return value
    colour, mark = ("bold red", "✗") if key in missed(result) else ("green", "✓")
    return f"[{colour}]{value} {mark} ≥{round(asked, 2):g}[/]"


def make_table(results, size_name, threads, dtype_name):
    """One screen table for the results of one size and number of threads."""
    title = f"{size_name}, {dtype_name}, {threads} thread{'s' if threads > 1 else ''}"
    has_triad = "memory_bound_over_losskit" in results[0]
    if has_triad:
        title += f", triad {statistics.median(result['triad_gb_per_s'] for result in results):.1f} GB/s"
    peers = [peer for peer in PEERS if any(peer in result["ns_per_element"] for result in results)]
    ratios = [key for key in RATIOS if any(key in result for result in results)]

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("case", no_wrap=True)
    table.add_column("shape", no_wrap=True, style="dim")
    for peer in peers:
        table.add_column(f"{peer}\nns/elem", justify="right", style="dim", no_wrap=True)
    for key in ratios:
        table.add_column(f"{key.split('_')[0]} /\nlosskit", no_wrap=True)
    if has_triad:
        table.add_column("bound /\nlosskit", justify="right", no_wrap=True)
    for result in results:
        times = result["ns_per_element"]
        cells = [f"{times[peer]:.3g}" if peer in times else "" for peer in peers]
        cells += [ratio_cell(result, key) for key in ratios]
        cells += [f"{result['memory_bound_over_losskit']:.0%}"] if has_triad else []
        table.add_row(result["case"], "x".join(map(str, result["shape"])), *cells)
    return table


def facts():
    """Versions and machine, for the JSON file and the first line on screen."""
    return {
        "losskit": losskit.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cpu_count": os.cpu_count(),
        **versions_of_jax(),
    }


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES if case.sizes]
    parser.add_argument("--json", type=Path, default=Path(__file__).with_name("results.json"), metavar="FILE")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--sizes", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-jax", action="store_true", help="leave JAX out")
    return parser.parse_args()


def main():
    """Time every case asked for, print a table per size and thread count, write the JSON file."""
    arguments = parse_arguments()
    # torch's kl_div says on each call that reduction="mean" is not the mathematical mean; it is meant here.
    warnings.filterwarnings("ignore", message="reduction: 'mean' divides the total loss")
    console = Console()
    if not console.is_terminal:
        console.width = 132  # a log file has room for the whole table
    console.print(", ".join(f"{key} {value}" for key, value in facts().items()))
    console.print("ns per element is indicative only; ratios are medians over interleaved rounds")
    if not versions_of_jax():
        console.print("jax and optax are not installed: left out")
    left_out = [peer for peer in ("compile", "jax") if getattr(arguments, f"no_{peer}")]
    half = DTYPES[arguments.dtype].itemsize == 2
    cases = [case for case in CASES if case.name in arguments.only]
    cases = [case for case in cases if not half or takes(case, DTYPES[arguments.dtype])]
    groups = [
        (threads, size, [case for case in cases if size in case.shapes])
        for threads in arguments.threads
        for size in arguments.sizes
    ]
    results = []
    settle_allocator()
    # No refresh thread: the progress bar draws only between cases, never during a measurement.
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=sum(len(group) for _, _, group in groups))
        for threads, size_name, group in groups:
            rounds = max(3, ROUNDS[size_name] // (3 if arguments.quick else 1))
            measured = []
            for case in group:
                progress.update(task, description=f"{case.name}, {size_name}, {threads} thread(s)", refresh=True)
                measured.append(measure(case, size_name, threads, arguments.dtype, rounds, left_out))
                progress.advance(task)
            if measured:
                console.print(make_table(measured, size_name, threads, arguments.dtype))
            results += measured
    asked = sum(result.get(f"{key}_asked") is not None for result in results for key in RATIOS)
    console.print(f"{asked} ratios have a minimum, {sum(len(missed(result)) for result in results)} miss it")
    arguments.json.write_text(json.dumps({"facts": facts(), "results": results}, indent=1) + "\n")
    console.print(f"wrote {arguments.json}")


if __name__ == "__main__":
    main()
