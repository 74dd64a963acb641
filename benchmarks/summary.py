"""Measure what README says of speed and memory, and write it to docs/measured.json: python benchmarks/summary.py

1. Speed: torch eager over losskit, forward and backward, one thread, float32, for every case of cases.py, from a few
   hundred elements to a million. The peers take turns as in run.py; a size's number is the geometric mean of the cases'
   medians, and beside it stands the slowest case.
2. Memory: the most that a forward and backward needs beside its operands, of operands of 64 MB, as Linux counts it.
"""

import argparse
import json
import math
import statistics
import warnings
from dataclasses import replace
from pathlib import Path

from cases import CASES, torch_way
from peers import DTYPES, make_peers, make_step, set_threads
from run import facts, median_ratio, settle_allocator, take_turns

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "measured.json"
ROWS = (32, 320, 3200, 32000)  # of ten numbers
ROUNDS = 21
TIE = 0.98  # torch / losskit below which losskit is slower; medians of a quiet machine repeat to 2 %
HEAVY = ("bce_with_logits", "gaussian_nll", "cross_entropy", "cross_entropy_smoothed", "triplet_margin")
ELEMENTS = 1 << 24  # 64 MB in float32


def shape_of(case, rows):
    """The case's small shape with so many samples that it has about as many elements as `rows` rows of ten."""
    samples = 10 * rows * case.small[case.samples] // math.prod(case.small)
    return tuple(max(1, samples) if i == case.samples else n for i, n in enumerate(case.small))


def ratios(rows):
    """torch / losskit of every case that has a small size: the median of its rounds."""
    found = {}
    for case in CASES:
        if "small" not in case.sizes:
            continue
        sized = replace(case, small=shape_of(case, rows))
        peers, _ = make_peers(sized, "small", "f32", ["compile", "jax"])
        seconds = take_turns(peers, ROUNDS)
        found[case.name] = median_ratio(seconds["torch"], seconds["losskit"])
    return found


def at_a_million():
    """The same at the sizes of run.py, which suit each loss."""
    found = {}
    for case in (case for case in CASES if "1M" in case.shapes):
        peers, _ = make_peers(case, "1M", "f32", ["compile", "jax"])
        peers.pop("triad")
        seconds = take_turns(peers, ROUNDS)
        found[case.name] = median_ratio(seconds["torch"], seconds["losskit"])
    return found


def megabytes(field):
    """Of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak(step):
    """The most that a call needs beside what there is before it, in MB."""
    step()  # what is made once is there
    needs = []
    for _ in range(3):
        Path("/proc/self/clear_refs").write_text("5")  # the highest value begins anew
        before = megabytes("VmRSS")
        step()
        needs.append(megabytes("VmHWM") - before)
    return statistics.median(needs)


def memory():
    """Peak memory of torch and losskit in units of the operands' size, by case."""
    found = {}
    for case in (case for case in CASES if case.name in HEAVY):
        width = case.shapes["1M"][1]
        arguments, options = case.arguments((ELEMENTS // width, width), DTYPES["f32"])
        libraries = {"torch": torch_way(case, options), "losskit": (case.loss.functional, options)}
        found[case.name] = {}
        for name, (function, given) in libraries.items():
            step = make_step(function, arguments, given)

            def forget(step=step, arguments=arguments):
                for argument in arguments:
                    argument.grad = None
                step()
                for argument in arguments:
                    argument.grad = None

            found[case.name][name] = peak(forget) / (ELEMENTS * 4 / 2**20)
    return found


def summary(found):
    """Geometric mean, and how many are slower than torch."""
    return {
        "geometric_mean": math.exp(statistics.mean(map(math.log, found.values()))),
        "slower_than_torch": sum(ratio < TIE for ratio in found.values()),
        "cases": len(found),
        "ratios": found,
    }


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    # torch's kl_div says on each call that reduction="mean" is not the mathematical mean; it is meant here.
    warnings.filterwarnings("ignore", message="reduction: 'mean' divides the total loss")
    settle_allocator()
    set_threads(1)
    used = memory()  # first: later the allocator has blocks that no peak shows
    speed = {f"{rows} x 10": summary(ratios(rows)) for rows in ROWS}
    speed["1M"] = summary(at_a_million())
    before = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    OUTPUT.write_text(json.dumps({**before, "facts": facts(), "speed": speed, "memory": used}, indent=1) + "\n")
    for size, found in speed.items():
        ordered = sorted(found["ratios"].items(), key=lambda item: item[1])
        slower = [f"{name} {ratio:.2f}" for name, ratio in ordered if ratio < TIE]
        print(f"{size:>10}: {found['geometric_mean']:.2f}; slower than torch: {', '.join(slower) or 'none'}")
    for name, both in used.items():
        print(f"{name}: torch {both['torch']:.2f}, losskit {both['losskit']:.2f} times the input")


if __name__ == "__main__":
    main()
