"""Time a language model's head and its loss on the CPU: losskit's and torch's, in chunks and on all scores.

    python benchmarks/heads.py
    python benchmarks/heads.py --only linear_cross_entropy_c2000 --threads 1 --quick
    python benchmarks/heads.py --rehearse     # few numbers: does the script run?

What is timed is forward plus backward: features (N, D) and weights (C, D) give scores, a loss, and the gradients by
both. The loss is cross entropy, or the distillation of a teacher's head of the same size, which has no gradient. As in
run.py the peers take turns in one process, the number to read is the median over rounds of the ratio within a round,
and what losskit computes is compared with float64 first. The plain path, `F.linear` and `F.cross_entropy` or
`F.kl_div`, is 1. The rows go into run.py's file, docs/speed.json.

Memory is what a step needs at most beside operands and gradients, as Linux counts it (VmHWM), in a process of its own
for each peer. What a first step leaves behind, such as buffers of the matrix products (5 to 10 MB), is not counted.
"""

import argparse
import ctypes
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import store
import torch
from compositions_of_two_rows import knowledge_distillation_loss
from peers import DTYPES, WrongResultError, compare, loss_and_gradients, make_step, set_threads
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from run import median_ratio, quartiles, settle_allocator, turn

import losskit
from losskit import functional as losskit_functional

PEERS = ("torch", "torch_chunks", "losskit_scores", "losskit")
PROC = Path("/proc/self")


@dataclass(frozen=True)
class Head:
    """A head to time, and what is asked of it.

    shape: rows, width, classes.
    loss: of LOSSES.
    calls: of a turn. Of several the first is not counted; a call of seconds is a turn.
    asked: the largest losskit / torch accepted, by dtype and threads; `asked_memory` the same of the memory.
    """

    name: str
    shape: tuple[int, int, int]
    rounds: int
    calls: int
    loss: str = "cross_entropy"
    asked: Mapping[tuple[str, int], float] = field(default_factory=dict)
    asked_memory: float | None = None


HEADS = (
    Head(
        "linear_cross_entropy_c32000", (2048, 512, 32000), rounds=7, calls=1, asked_memory=1 / 16,
        asked={("f32", 1): 0.82, ("bf16", 1): 0.72, ("f32", 2): 0.80, ("bf16", 2): 0.66},
    ),
    Head(  # no burden to store: the chunks must not cost anything
        "linear_cross_entropy_c2000", (2048, 64, 2000), rounds=31, calls=3,
        asked={(dtype, threads): 1.0 for dtype in ("f32", "bf16") for threads in (1, 2)},
    ),
    Head(
        "linear_distillation_c32000", (2048, 512, 32000), rounds=5, calls=1, loss="distillation", asked_memory=1 / 5,
        asked={("f32", 1): 0.75, ("bf16", 1): 0.75},
    ),
)  # fmt: skip
REHEARSED = Head(  # what is asked is so that there is something to print
    "linear_cross_entropy_c1000", (256, 8, 1000), rounds=3, calls=2, asked={("f32", 1): 1.0}, asked_memory=1.0
)


def cross_entropy_peers():
    """Functions of features, weights and class indices; torch's chunks are of torch 2.13."""
    functional = torch.nn.functional
    peers = {
        "torch": lambda x, w, t: functional.cross_entropy(functional.linear(x, w), t),
        "losskit_scores": lambda x, w, t: losskit_functional.cross_entropy(functional.linear(x, w), t),
        "losskit": losskit_functional.linear_cross_entropy,
    }
    if hasattr(functional, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        peers["torch_chunks"] = lambda x, w, t: functional.linear_cross_entropy(x, w, t, options=options)
    return peers


def distillation_peers():
    """Functions of a student's features and weights, and of a teacher's."""
    linear = torch.nn.functional.linear
    kd = losskit.KnowledgeDistillationLoss(temperature=2.0)
    return {
        "torch": lambda x, w, u, v: knowledge_distillation_loss(linear(x, w), linear(u, v), temperature=2.0),
        "losskit_scores": lambda x, w, u, v: kd(linear(x, w), linear(u, v)),
        "losskit": losskit.linear(kd),
    }


LOSSES = {"cross_entropy": cross_entropy_peers, "distillation": distillation_peers}


def head_peers(loss="cross_entropy"):
    """The peers by name."""
    return LOSSES[loss]()


def head_arguments(shape, dtype, device="cpu", loss="cross_entropy"):
    """Features, weights and class indices or a teacher's features and weights, the same ones each time.

    Scores are about as large as features.
    """
    rows, width, classes = shape
    torch.manual_seed(0)
    with torch.device(device):
        features = torch.randn(rows, width, dtype=dtype, requires_grad=True)
        weights = (torch.randn(classes, width, dtype=dtype) / width**0.5).requires_grad_()
        if loss == "cross_entropy":
            return [features, weights, torch.randint(0, classes, (rows,))]
        of_teacher = torch.randn(classes, width, dtype=dtype) / width**0.5
        return [features, weights, torch.randn(rows, width, dtype=dtype), of_teacher]


def check(head, dtype_name):
    """Stop where a result of losskit's is wrong, alone or in chunks."""
    arguments = head_arguments(head.shape, DTYPES[dtype_name], loss=head.loss)
    functions = head_peers(head.loss)
    truth = loss_and_gradients(functions["torch"], arguments, {}, torch.float64)
    for peer in ("losskit", "losskit_scores"):
        compare(head.name, peer, truth, loss_and_gradients(functions[peer], arguments, {}, None), dtype_name)


def take_turns(peers, rounds, calls):
    """Seconds per call of each peer in each round; the order rotates and turns around, as in run.py."""
    names, seconds = list(peers), {name: [] for name in peers}
    for step in peers.values():
        step()
    for number in range(rounds):
        first = number // 2 % len(names)
        order = names[first:] + names[:first]
        for name in order if number % 2 == 0 else reversed(order):
            seconds[name].append(turn(peers[name], calls - 1))
    return seconds


def kilobytes(name):
    """Of this process: VmRSS now, VmHWM at most."""
    lines = (PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def peak_bytes(peer, loss, shape, dtype_name, threads):
    """What a step of a peer needs at most beside operands and gradients; for a process that does nothing else."""
    set_threads(threads)
    arguments = head_arguments(shape, DTYPES[dtype_name], loss=loss)
    leaves, step = arguments[:2], make_step(head_peers(loss)[peer], arguments, {})
    step()
    for leaf in leaves:
        leaf.grad = None
    ctypes.CDLL(None).malloc_trim(0)  # freed blocks that glibc keeps would serve the next step unseen
    (PROC / "clear_refs").write_text("5")  # the highest value begins anew
    before = kilobytes("VmRSS")
    step()
    return 1024 * (kilobytes("VmHWM") - before) - sum(x.numel() * x.element_size() for x in leaves)


def memory(loss, shape, dtype_name, threads):
    """The peak of each peer, each in a fresh process; nothing where no /proc tells it."""
    peaks = {}
    for peer in head_peers(loss) if (PROC / "clear_refs").exists() else ():
        with get_context("spawn").Pool(1) as pool:
            peaks[peer] = pool.apply(peak_bytes, (peer, loss, shape, dtype_name, threads))
    return peaks


def measure(head, dtype_name, threads, rounds):
    """One row, as it goes into the JSON file."""
    peaks = memory(head.loss, head.shape, dtype_name, threads)
    set_threads(threads)
    check(head, dtype_name)
    arguments = head_arguments(head.shape, DTYPES[dtype_name], loss=head.loss)
    peers = {name: make_step(function, arguments, {}) for name, function in head_peers(head.loss).items()}
    seconds = take_turns(peers, rounds, head.calls)
    others = [name for name in PEERS[1:] if name in peers]
    return {
        "case": head.name,
        "size": "x".join(map(str, head.shape)),
        "dtype": dtype_name,
        "threads": threads,
        "rounds": rounds,
        "milliseconds": {name: statistics.median(s) * 1e3 for name, s in seconds.items()},
        "over_torch": {name: median_ratio(seconds[name], seconds["torch"]) for name in others},
        "over_torch_quartiles": {name: quartiles(seconds[name], seconds["torch"]) for name in others},
        "over_torch_asked": head.asked.get((dtype_name, threads)),
        "peak_bytes": peaks,
        "memory_over_torch": {name: peaks[name] / peaks["torch"] for name in others if peaks},
        "memory_over_torch_asked": head.asked_memory if peaks else None,
    }


def missed(result):
    """Which figures of losskit's are larger than asked, in the digits that the table shows."""
    return [
        key
        for key, digits in (("over_torch", 2), ("memory_over_torch", 3))
        if result[f"{key}_asked"] is not None
        and round(result[key]["losskit"], digits) > round(result[f"{key}_asked"], digits)
    ]


def asked_cell(result, key, digits):
    """What was asked of a figure, with a mark."""
    asked = result[f"{key}_asked"]
    if asked is None:
        return ""
    colour, mark = ("bold red", "✗") if key in missed(result) else ("green", "✓")
    return f"[{colour}]{mark} ≤{round(asked, digits):g}[/]"


def make_table(results):
    """The rows of one head on screen: each peer, its time and its memory as parts of the plain path's."""
    title = f"{results[0]['case']}, {results[0]['size']}, forward and backward"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in "dtype", "threads", "peer", "ms", "/ torch", "quartiles", "asked", "MB", "/ torch", "asked":
        table.add_column(column, no_wrap=True, justify="left" if column in ("dtype", "peer", "asked") else "right")
    for result in results:
        for name in (name for name in PEERS if name in result["milliseconds"]):
            cells = [result["dtype"], str(result["threads"]), name, f"{result['milliseconds'][name]:.4g}", *[""] * 6]
            if result["peak_bytes"]:
                cells[7] = f"{result['peak_bytes'][name] / 2**20:.1f}"
            if name in result["over_torch"]:
                cells[4] = f"{result['over_torch'][name]:.2f}"
                cells[5] = "{:.2f}-{:.2f}".format(*result["over_torch_quartiles"][name])
            if name in result["memory_over_torch"]:
                cells[8] = f"{result['memory_over_torch'][name]:.3f}"
            if name == "losskit":
                cells[6], cells[9] = asked_cell(result, "over_torch", 2), asked_cell(result, "memory_over_torch", 3)
            table.add_row(*cells, end_section=name == "losskit")
    return table


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [head.name for head in HEADS]
    parser.add_argument("--json", type=Path, metavar="FILE", help="docs/speed.json if not given; none of a rehearsal")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["f32", "bf16"])
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--rehearse", action="store_true", help="a head of few numbers instead")
    return parser.parse_args()


def main():
    """Time every head asked for, print a table of each, write the rows into the JSON file."""
    arguments = parse_arguments()
    path = arguments.json or (None if arguments.rehearse else store.FILE)
    console = Console()
    if not console.is_terminal:
        console.width = 132  # a log file has room for the whole table
    heads = [REHEARSED] if arguments.rehearse else [head for head in HEADS if head.name in arguments.only]
    rows = [(dtype, threads) for dtype in arguments.dtypes for threads in arguments.threads]
    results, wrong = [], []
    settle_allocator()
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(heads) * len(rows))
        for head in heads:
            rounds = max(3, math.ceil(head.rounds / 3)) if arguments.quick else head.rounds
            measured = []
            for dtype, threads in rows:
                progress.update(task, description=f"{head.name}, {dtype}, {threads} thread(s)", refresh=True)
                progress.advance(task)
                try:
                    measured.append(measure(head, dtype, threads, rounds))
                except WrongResultError as error:  # the others are measured
                    wrong.append(f"{dtype}, {threads} thread(s): {error}")
                    continue
                if path:
                    store.merge(path, "heads", measured[-1:], [head.name for head in (*HEADS, *heads)])
            if measured:
                console.print(make_table(measured))
            results += measured
    asked = sum(result[f"{key}_asked"] is not None for result in results for key in ("over_torch", "memory_over_torch"))
    console.print(f"{asked} figures have a maximum, {sum(len(missed(result)) for result in results)} miss it")
    console.print("\n".join([f"wrote {path}", *wrong]))
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
