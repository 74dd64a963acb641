"""Time losskit's losses against torch.nn.functional's, eager and compiled.

    python benchmarks/run.py
    python benchmarks/run.py --only mse bce --threads 1 --sizes 1M --quick

What is timed is forward plus backward of the loss alone, reduction "mean", on data from the loss's own
domain. All peers live in one process and take turns round by round, so a slow moment of the machine
falls on all of them; the number to read is the median over rounds of the ratio within a round. Absolute
times (ns per element) depend on the machine and its mood, and are indicative only.

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
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as torch_functional
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import losskit
from losskit import functional as losskit_functional


@dataclass(frozen=True)
class Case:
    """One loss to time: its function, what its arguments hold, and how much faster it is asked to be.

    `arguments` names entries of DATA, in the function's order; a trailing * asks for that gradient.
    `asked` is the smallest torch / losskit ratio accepted at 1M elements on one thread, `asked_16m` the
    one at 16M elements on two threads, both in float32; None where nothing is asked.
    """

    name: str
    function: str
    arguments: tuple[str, ...]
    options: dict = field(default_factory=dict)
    asked: float | None = None
    asked_16m: float | None = None

    @property
    def gradients(self):
        """How many gradients the backward pass has to write."""
        return sum(argument.endswith("*") for argument in self.arguments)


CASES = [
    Case("mse", "mse_loss", ("normal*", "normal"), asked=1.3, asked_16m=1.5),
    Case("l1", "l1_loss", ("normal*", "normal"), asked=4),
    Case("smooth_l1", "smooth_l1_loss", ("normal*", "normal"), asked=1.3),
    Case("huber", "huber_loss", ("normal*", "normal"), asked=1.3),
    Case(
        "bce_with_logits",
        "binary_cross_entropy_with_logits",
        ("normal*", "zero_or_one"),
        asked=3,
        asked_16m=3,
    ),
    Case(
        "bce_with_logits_pos_weight",
        "binary_cross_entropy_with_logits",
        ("normal*", "zero_or_one"),
        {"pos_weight": "column_weight"},
    ),
    Case("bce", "binary_cross_entropy", ("probability*", "zero_or_one"), asked=15),
    Case("kl_div", "kl_div", ("log_distribution*", "distribution"), asked=5),
    Case("kl_div_log_target", "kl_div", ("log_distribution*", "log_distribution"), {"log_target": True}),
    Case("poisson", "poisson_nll_loss", ("log_rate*", "count"), asked=4),
    Case("poisson_full", "poisson_nll_loss", ("log_rate*", "count"), {"full": True}, asked=15),
    Case("gaussian_nll", "gaussian_nll_loss", ("normal*", "normal", "variance*"), asked=7, asked_16m=4),
    Case("soft_margin", "soft_margin_loss", ("normal*", "plus_or_minus_one"), asked=5),
    Case("hinge_embedding", "hinge_embedding_loss", ("distance*", "plus_or_minus_one"), asked=25),
    Case("margin_ranking", "margin_ranking_loss", ("normal*", "normal*", "plus_or_minus_one"), asked=9),
    Case("multilabel_soft_margin", "multilabel_soft_margin_loss", ("normal*", "zero_or_one"), asked=6),
]

# What the arguments hold. Labels are drawn at random, so that no branch predictor can learn them.
DATA = {
    "normal": lambda shape: torch.randn(shape),
    "probability": lambda shape: torch.randn(shape).sigmoid(),
    "zero_or_one": lambda shape: torch.randint(0, 2, shape).float(),
    "plus_or_minus_one": lambda shape: torch.randint(0, 2, shape).float() * 2 - 1,
    "distance": lambda shape: 2 * torch.rand(shape),
    "variance": lambda shape: torch.nn.functional.softplus(torch.randn(shape)) + 0.01,
    "log_rate": lambda shape: 0.5 * torch.randn(shape) + 1,
    "count": lambda shape: torch.poisson(torch.exp(0.5 * torch.randn(shape) + 1)),
    "distribution": lambda shape: torch.randn(shape).softmax(-1),
    "log_distribution": lambda shape: torch.randn(shape).log_softmax(-1),
    "column_weight": lambda shape: 0.5 + 2 * torch.rand(shape[-1]),
}


@dataclass(frozen=True)
class Size:
    """A shape to time at, for how many rounds, and whether throughput (not overhead) is what it shows."""

    shape: tuple[int, int]
    rounds: int
    large: bool


SIZES = {
    "small": Size((32, 10), rounds=31, large=False),
    "1M": Size((1024, 1024), rounds=21, large=True),
    "16M": Size((4096, 4096), rounds=7, large=True),
}

DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}

# Largest error of loss or gradient, relative to its largest value, that rounding explains.
TOLERANCES = {"f32": 1e-4, "f64": 1e-10, "bf16": 1e-2, "f16": 2e-3}

RATIOS = ("torch_over_losskit", "compile_over_losskit")
ASKED_SMALL = 1 / 1.3  # torch / losskit at the small size: at most 30 % slower
ASKED_COMPILE = 1.5  # torch.compile / losskit at 1M on one thread, where compiling beats eager
ROUND_SECONDS = 0.004  # a peer's turn repeats its step until it lasts about this long


def make_step(function, arguments, options):
    """One forward and backward of `function`, as a call without arguments that returns the loss."""
    leaves = [argument for argument in arguments if argument.requires_grad]

    def step():
        for leaf in leaves:
            leaf.grad = None
        loss = function(*arguments, **options)
        loss.backward()
        return loss

    return step


def make_triad(arguments):
    """The memory-bound reference: a = b + s * c over as many elements as the loss has."""
    b, c = arguments[0].detach(), arguments[1].detach()
    a = torch.empty_like(b)
    return lambda: torch.add(b, c, alpha=3.0, out=a)


def make_data(case, shape, dtype):
    """The case's tensors, same values each time, as (arguments, options)."""
    torch.manual_seed(0)
    arguments = [DATA[name.rstrip("*")](shape).to(dtype).requires_grad_(name.endswith("*")) for name in case.arguments]
    options = {
        key: DATA[value](shape).to(dtype) if isinstance(value, str) else value for key, value in case.options.items()
    }
    return arguments, options


def make_peers(case, size, dtype_name, with_compile):
    """The peers by name, each a call that does its work once; refuses to time a wrong losskit."""
    arguments, options = make_data(case, size.shape, DTYPES[dtype_name])
    torch_function = getattr(torch_functional, case.function)
    peers = {
        "torch": make_step(torch_function, arguments, options),
        "losskit": make_step(getattr(losskit_functional, case.function), arguments, options),
    }
    check(case, arguments, options, dtype_name)
    if with_compile and size.large:
        torch._dynamo.reset()
        compiled = torch.compile(lambda *tensors: torch_function(*tensors, **options), dynamic=False)
        peers["compile"] = make_step(compiled, arguments, {})
    if size.large:
        peers["triad"] = make_triad(arguments)
    return peers


def check(case, arguments, options, dtype_name):
    """Stop if losskit's loss or gradients are wrong: further from torch's in float64 than rounding goes."""

    def loss_and_gradients(library, dtype):
        tensors = [x.detach().to(dtype).requires_grad_(x.requires_grad) for x in arguments]
        tensor_options = {k: x.to(dtype) if torch.is_tensor(x) else x for k, x in options.items()}
        loss = getattr(library, case.function)(*tensors, **tensor_options)
        loss.backward()
        return [loss.detach().double(), *(x.grad.double() for x in tensors if x.requires_grad)]

    dtype = DTYPES[dtype_name]
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps  # a mean's gradients may be that small
    expected = loss_and_gradients(torch_functional, torch.float64)
    actual = loss_and_gradients(losskit_functional, dtype)
    for right, result in zip(expected, actual, strict=True):
        error = (result - right).abs().max().item()
        if not error <= TOLERANCES[dtype_name] * right.abs().max().item() + smallest:
            raise SystemExit(f"{case.name}: losskit is wrong by {error:.1e}, not timed")


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


def asked_of(case, size_name, threads, dtype_name):
    """The smallest torch / losskit ratio accepted here, or None."""
    if dtype_name != "f32":
        return None
    if size_name == "small":
        return ASKED_SMALL
    return {("1M", 1): case.asked, ("16M", 2): case.asked_16m}.get((size_name, threads))


def measure(case, size_name, threads, dtype_name, rounds, with_compile):
    """Time one case at one size and number of threads; the result as it goes into the JSON file."""
    size = SIZES[size_name]
    torch.set_num_threads(threads)
    peers = make_peers(case, size, dtype_name, with_compile)
    seconds = take_turns(peers, rounds)

    elements = math.prod(size.shape)
    result = {
        "case": case.name,
        "size": size_name,
        "shape": size.shape,
        "dtype": dtype_name,
        "threads": threads,
        "rounds": rounds,
        "ns_per_element": {name: statistics.median(s) / elements * 1e9 for name, s in seconds.items()},
        "torch_over_losskit": median_ratio(seconds["torch"], seconds["losskit"]),
        "torch_over_losskit_quartiles": quartiles(seconds["torch"], seconds["losskit"]),
        "torch_over_losskit_asked": asked_of(case, size_name, threads, dtype_name),
    }
    if "compile" in seconds:
        faster = median_ratio(seconds["torch"], seconds["compile"]) > 1
        applies = faster and (size_name, threads, dtype_name) == ("1M", 1, "f32")
        result["compile_over_losskit"] = median_ratio(seconds["compile"], seconds["losskit"])
        result["compile_over_losskit_quartiles"] = quartiles(seconds["compile"], seconds["losskit"])
        result["compile_over_losskit_asked"] = ASKED_COMPILE if applies else None
        result["compile_faster_than_eager"] = faster
    if "triad" in seconds:
        itemsize = DTYPES[dtype_name].itemsize
        triad_bytes, loss_bytes = 3 * itemsize, (len(case.arguments) + case.gradients) * itemsize
        fraction = median_ratio(seconds["triad"], seconds["losskit"]) * loss_bytes / triad_bytes
        result["triad_gb_per_s"] = triad_bytes * elements / statistics.median(seconds["triad"]) / 1e9
        result["bytes_per_element"] = loss_bytes
        result["memory_bound_over_losskit"] = fraction
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
    value, asked = f"{result[key]:5.2f}", result[f"{key}_asked"]
    if asked is None:
        return value
    colour, mark = ("bold red", "✗") if key in missed(result) else ("green", "✓")
    return f"[{colour}]{value} {mark} min {asked:.2f}[/]"


def make_table(results, size_name, threads, dtype_name):
    """One screen table for the results of one size and number of threads."""
    rows, columns = SIZES[size_name].shape
    title = f"{size_name} ({rows}x{columns}), {dtype_name}, {threads} thread{'s' if threads > 1 else ''}"
    has_triad = "memory_bound_over_losskit" in results[0]
    if has_triad:
        title += f", triad {statistics.median(result['triad_gb_per_s'] for result in results):.1f} GB/s"
    peers = [peer for peer in ("torch", "compile", "losskit") if peer in results[0]["ns_per_element"]]
    ratios = [key for key in RATIOS if key in results[0]]

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("case", no_wrap=True)
    for peer in peers:
        table.add_column(f"{peer}\nns/elem", justify="right", style="dim")
    for key in ratios:
        table.add_column(f"{key.split('_')[0]} / losskit", no_wrap=True)
    if has_triad:
        table.add_column("bound /\nlosskit", justify="right")
    for result in results:
        cells = [f"{result['ns_per_element'][peer]:.3g}" for peer in peers]
        cells += [ratio_cell(result, key) for key in ratios]
        cells += [f"{result['memory_bound_over_losskit']:.0%}"] if has_triad else []
        table.add_row(result["case"], *cells)
    return table


def cpu_model():
    """The processor's name, from Linux where it says, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())


def facts():
    """Versions and machine, for the JSON file and the first line on screen."""
    return {
        "losskit": losskit.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
    }


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--json", type=Path, default=Path(__file__).with_name("results.json"), metavar="FILE")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    return parser.parse_args()


def main():
    """Time every case asked for, print a table per size and thread count, write the JSON file."""
    arguments = parse_arguments()
    # torch's kl_div says on each call that reduction="mean" is not the mathematical mean; it is meant here.
    warnings.filterwarnings("ignore", message="reduction: 'mean' divides the total loss")
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a log file has room for the whole table
    console.print(", ".join(f"{key} {value}" for key, value in facts().items()))
    console.print("ns per element is indicative only; ratios are medians over interleaved rounds")
    cases = [case for case in CASES if case.name in arguments.only]
    settings = [(threads, size) for threads in arguments.threads for size in arguments.sizes]
    results = []
    settle_allocator()
    # No refresh thread: the progress bar draws only between cases, never during a measurement.
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(settings) * len(cases))
        for threads, size_name in settings:
            rounds = max(3, SIZES[size_name].rounds // (3 if arguments.quick else 1))
            group = []
            for case in cases:
                progress.update(task, description=f"{case.name}, {size_name}, {threads} thread(s)", refresh=True)
                with_compile = not arguments.no_compile
                group.append(measure(case, size_name, threads, arguments.dtype, rounds, with_compile))
                progress.advance(task)
            console.print(make_table(group, size_name, threads, arguments.dtype))
            results += group
    asked = sum(result.get(f"{key}_asked") is not None for result in results for key in RATIOS)
    console.print(f"{asked} ratios have a minimum, {sum(len(missed(result)) for result in results)} miss it")
    arguments.json.write_text(json.dumps({"facts": facts(), "results": results}, indent=1) + "\n")
    console.print(f"wrote {arguments.json}")


if __name__ == "__main__":
    main()
