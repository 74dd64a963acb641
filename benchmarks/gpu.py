"""Time losskit's GPU kernels against torch eager, torch.compile, Liger and cut cross entropy.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only cross_entropy --sizes 16M 256M --dtypes bf16
    python benchmarks/gpu.py --rehearse     # a few elements on the CPU, kernels interpreted: does the script run?

What is timed is forward plus backward of the loss alone, by events on the device, launch gaps included. The peers of
a case take turns round by round, and the number to read is the median over rounds of the ratio within a round. Before
that each result is compared with torch's in float64. Beside the times stand

- the fraction of the copy bandwidth: the bytes that a pass has to move (read what there is to read, write the
  gradients) in the time that it took, over what a large copy on the same card moves in the same run;
- the peak of memory above the arguments, and the number of kernels that were launched.

Data below the size of the L2 cache stay in it, for all peers alike: the fraction may then exceed 1.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

if "--rehearse" in sys.argv:  # read when Triton is imported, which torch may do
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
from cases import CASES, takes, torch_way
from heads import head_arguments, head_peers
from peers import DTYPES, compare, loss_and_gradients, make_step
from rich.console import Console
from rich.table import Table
from run import median_ratio, quartiles

import losskit

SIZES = {"1k": 2**10, "16k": 2**14, "256k": 2**18, "4M": 2**22, "16M": 2**24, "64M": 2**26, "256M": 2**28}
ROUNDS, TURN_SECONDS = 15, 0.01
PEERS = ("torch", "compile", "liger", "losskit", "losskit_compile")


GPU_CASES = [replace(case, **case.on_gpu) for case in CASES]


class Clock:
    """Times of the device, or of the CPU when rehearsing."""

    def __init__(self, device):
        self.device, self.on_gpu = torch.device(device), device == "cuda"

    def seconds(self, step, repeats):
        """Seconds of so many calls, after one that finds caches as it may."""
        step()
        if not self.on_gpu:
            start = time.perf_counter()
            for _ in range(repeats):
                step()
            return (time.perf_counter() - start) / repeats
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        for _ in range(repeats):
            step()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / repeats / 1e3

    def turns(self, peers, rounds):
        """Seconds per call of each peer in each round; the order changes, so that no peer is always the first."""
        names = list(peers)
        repeats = {n: max(1, math.ceil(TURN_SECONDS / self.seconds(peers[n], 3))) for n in names}
        found = {n: [] for n in names}
        for number in range(rounds):
            order = names[number % len(names) :] + names[: number % len(names)]
            for n in order:
                found[n].append(self.seconds(peers[n], repeats[n]))
        return found

    def copy_bandwidth(self):
        """Bytes per second, read and written, of a copy far larger than any cache."""
        source = torch.empty(2**28 if self.on_gpu else 2**16, dtype=torch.float32, device=self.device)
        copy = torch.empty_like(source)
        seconds = statistics.median(self.seconds(lambda: copy.copy_(source), 5) for _ in range(9))
        return 2 * source.numel() * source.element_size() / seconds


def memory_of(step):
    """The peak of memory above what was there before, in bytes."""
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def launches_of(step):
    """How many kernels one call launches."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    return sum(1 for event in profiled.events() if event.device_type == DeviceType.CUDA)


def liger_of(case):
    """Liger's function for a case, None where it has none or is not installed."""
    if not case.liger:
        return None
    try:
        from liger_kernel.transformers.functional import liger_cross_entropy
    except ImportError:
        return None
    return liger_cross_entropy


def peers_of(case, arguments, options, left_out):
    """The peers by name, each a call that does its work once; wrong results are not timed."""
    torch_function, torch_options = torch_way(case, options)
    ours = case.loss.functional
    functions = {"torch": (torch_function, torch_options), "losskit": (ours, options)}
    if case.compiles:
        torch._dynamo.reset()
        functions["compile"] = (torch.compile(torch_function, dynamic=False), torch_options)
        functions["losskit_compile"] = (torch.compile(ours, dynamic=False), options)
    peers = {n: make_step(f, arguments, o) for n, (f, o) in functions.items() if n not in left_out}
    liger = liger_of(case)
    if liger is not None and "liger" not in left_out:  # it writes the gradient over its input
        own = [x.detach().clone().requires_grad_(x.requires_grad) for x in arguments]
        peers["liger"] = make_step(liger, own, options)
    return peers


def measure(case, size, dtype, clock, bandwidth, left_out, rounds):
    """One case at one size; the result as it goes into the JSON file, None where the case has no such size."""
    shape = case.shape(SIZES[size])
    if shape is None:
        return None
    arguments, options = case.arguments(shape, DTYPES[dtype], clock.device)
    peers = peers_of(case, arguments, options, left_out)
    if SIZES[size] <= 2**24:
        torch_function, torch_options = torch_way(case, options)
        truth = loss_and_gradients(torch_function, arguments, torch_options, torch.float64)
        ours = loss_and_gradients(case.loss.functional, arguments, options, None)
        compare(case.name, "losskit", truth, ours, dtype)
    seconds = clock.turns(peers, rounds)
    moved = sum(x.numel() * x.element_size() * (1 + x.requires_grad) for x in arguments)
    result = {
        "case": case.name, "size": size, "shape": shape, "dtype": dtype, "rounds": rounds,
        "microseconds": {n: statistics.median(s) * 1e6 for n, s in seconds.items()},
        "of_copy_bandwidth": {n: moved / statistics.median(s) / bandwidth for n, s in seconds.items()},
        "over_losskit": {n: median_ratio(s, seconds["losskit"]) for n, s in seconds.items() if n != "losskit"},
        "quartiles": {n: quartiles(s, seconds["losskit"]) for n, s in seconds.items() if n != "losskit"},
    }  # fmt: skip
    if clock.on_gpu:
        result["peak_bytes"] = {n: memory_of(step) for n, step in peers.items()}
        result["launches"] = {n: launches_of(step) for n, step in peers.items()}
    return result


HEADS = ((4096, 2048, 32000), (8192, 4096, 128256))  # rows, width, vocabulary


def all_head_peers():
    """The peers of heads.py, and those that are for GPUs; a library that is not installed is no peer."""
    peers = head_peers()
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        peers["liger"] = liger_fused_linear_cross_entropy
    except ImportError:
        pass
    try:
        from cut_cross_entropy import linear_cross_entropy

        peers["cut_cross_entropy"] = linear_cross_entropy
    except ImportError:
        pass
    return peers


def measure_head(shape, dtype, clock, rounds):
    """A head at one size: times and peaks of memory."""
    arguments = head_arguments(shape, dtype, clock.device)
    functions = all_head_peers()
    wanted = loss_and_gradients(functions["torch"], arguments, {}, torch.float32)
    found = loss_and_gradients(functions["losskit"], arguments, {}, None)
    compare("linear_cross_entropy", "losskit", wanted, found, {torch.bfloat16: "bf16"}.get(dtype, "f32"))
    del wanted, found
    peers = {n: make_step(function, arguments, {}) for n, function in functions.items()}
    seconds = clock.turns(peers, rounds)
    result = {
        "case": "linear_cross_entropy", "size": "x".join(map(str, shape)), "dtype": str(dtype),
        "microseconds": {n: statistics.median(s) * 1e6 for n, s in seconds.items()},
        "over_losskit": {n: median_ratio(s, seconds["losskit"]) for n, s in seconds.items() if n != "losskit"},
    }  # fmt: skip
    if clock.on_gpu:
        result["peak_bytes"] = {n: memory_of(step) for n, step in peers.items()}
        products = 3 * 2 * math.prod(shape)
        result["operations_per_s"] = {n: products / statistics.median(s) for n, s in seconds.items()}
    return result


def table_of(results, bandwidth):
    """What is worth reading first."""
    table = Table(title=f"peer / losskit; copy bandwidth {bandwidth / 1e9:.0f} GB/s")
    peers = [p for p in PEERS if p != "losskit"]
    for column in ("case", "size", "dtype", "us", "of copy", *peers, "launches", "peak MB"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for r in results:
        ratios = [f"{r['over_losskit'][p]:.2f}" if p in r["over_losskit"] else "" for p in peers]
        fraction = r.get("of_copy_bandwidth", {}).get("losskit")
        table.add_row(
            r["case"], r["size"], r["dtype"], f"{r['microseconds']['losskit']:.1f}",
            "" if fraction is None else f"{fraction:.2f}", *ratios, str(r.get("launches", {}).get("losskit", "")),
            f"{r['peak_bytes']['losskit'] / 1e6:.0f}" if "peak_bytes" in r else "",
        )  # fmt: skip
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose names contain one of these")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["f32", "bf16"])
    parser.add_argument("--without", nargs="+", default=[], choices=PEERS, help="peers to leave out")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU with interpreted kernels")
    parser.add_argument("--json", type=Path, default=Path("docs/gpu.json"))
    options = parser.parse_args()
    if options.rehearse:
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        import_module("interpreted")
        losskit.kernels.gpu.interpreted = True
        options.without = ["compile", "losskit_compile"]
    elif not torch.cuda.is_available():
        raise SystemExit("There is no GPU that torch can use. --rehearse runs the kernels in Triton's interpreter.")
    device, console, results = "cpu" if options.rehearse else "cuda", Console(width=140), []
    failed: list[str] = []
    clock = Clock(device)
    bandwidth = clock.copy_bandwidth()

    def keep(result):
        """In the file at once: the time on a card may end before the list does."""
        results.append(result)
        if clock.on_gpu:
            document = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
                        "losskit": losskit.__version__, "copy_bytes_per_s": bandwidth, "results": results}  # fmt: skip
            options.json.write_text(json.dumps(document, indent=1) + "\n")

    for case in (c for c in GPU_CASES if any(part in c.name for part in options.only)):
        for size in options.sizes:
            for dtype in [dtype for dtype in options.dtypes if takes(case, DTYPES[dtype])]:
                try:
                    result = measure(case, size, dtype, clock, bandwidth, options.without, options.rounds)
                except RuntimeError as error:  # the time on a card is short: the others are measured
                    failed.append(f"{case.name} {size} {dtype}: {str(error).strip()[:500]}")
                    console.print(failed[-1], highlight=False)
                    continue
                if result is not None:
                    keep(result)
                    ratios = {n: round(x, 2) for n, x in result["over_losskit"].items()}
                    console.print(case.name, size, dtype, ratios, highlight=False)
    if any(part in "linear_cross_entropy" for part in options.only):
        for shape in HEADS if clock.on_gpu else [(8, 4, 10)]:
            try:
                keep(measure_head(shape, torch.bfloat16 if clock.on_gpu else torch.float32, clock, options.rounds))
            except RuntimeError as error:
                failed.append(f"linear_cross_entropy {shape}: {str(error).strip()[:500]}")
            else:
                heads = results[-1]
                console.print(
                    heads["case"], heads["size"], heads["over_losskit"], heads.get("peak_bytes"), highlight=False
                )
    console.print(table_of(results, bandwidth))
    if failed:
        raise SystemExit("\n".join(["Not measured:", *failed]))


if __name__ == "__main__":
    main()
