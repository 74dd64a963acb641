"""Measure what README says of memory, and write it to docs/measured.json: python benchmarks/memory.py

The most that a forward and backward needs beside its operands, of operands of 64 MB, as Linux counts it.
"""

import argparse
import json
import statistics
from pathlib import Path

from cases import CASES, torch_way
from peers import DTYPES, make_step, set_threads
from run import settle_allocator
from store import facts

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "measured.json"
HEAVY = ("bce_with_logits", "gaussian_nll", "cross_entropy", "cross_entropy_smoothed", "triplet_margin")
ELEMENTS = 1 << 24  # 64 MB in float32


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


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    settle_allocator()
    set_threads(1)
    found = memory()
    before = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    OUTPUT.write_text(json.dumps({**before, "facts": facts(), "memory": found}, indent=1) + "\n")
    for name, both in found.items():
        print(f"{name}: torch {both['torch']:.2f}, losskit {both['losskit']:.2f} times the input")


if __name__ == "__main__":
    main()
