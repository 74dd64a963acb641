"""Worked examples: every loss written out by hand in plain torch, and losskit's result beside it, equal.

The examples are in the proofs, tests/losses/. Here they are put together, run and printed.

1. The code that a page shows is the code that runs, when the site is built and in the test suite. It asserts that both
   results are equal in all three reductions, and what it prints is what the page shows.
2. `by_hand` follows the textbook, not the kernel: it is what a reader would write after reading the formula.
3. A built-in loss without an example is an error, so that nobody forgets it: see `code`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from blocks import execute

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))

import proofs

PAGE = """import torch

import losskit

torch.manual_seed(0)
{data}

# By hand, from the formula.
{by_hand}
mean = {mean}
reductions = {{"none": by_hand, "mean": mean, "sum": by_hand.sum()}}

# By losskit.
for reduction, expected in reductions.items():
    criterion = losskit.{class_name}({start}{arguments}reduction=reduction{end})
    loss = criterion({operands})
    torch.testing.assert_close(loss, expected)
    for who, x in ("by hand", expected), ("losskit", loss):
        shown = x if x.ndim == 0 else f"{{x.flatten()[:4]}}, the first of {{x.numel()}}"
        print(f"{{reduction:>4}}, {{who}}:", shown)
"""

# The same for a notebook, where one cell has made the imports and `agree`, which asserts and prints.
CELLS = (
    """torch.manual_seed(0)
{data}

{by_hand}""",
    """mean = {mean}
reductions = {{"none": by_hand, "mean": mean, "sum": by_hand.sum()}}
for reduction, expected in reductions.items():
    criterion = losskit.{class_name}({start}{arguments}reduction=reduction{end})
    agree(reduction, expected, criterion({operands}))""",
)


LONG = 47  # characters of a class and its arguments; with more of them the line would not fit the page
EXAMPLES = {name: proof.example for name, proof in proofs.every().items()}


def code(name: str, class_name: str, template: tuple[str, ...] = (PAGE,)) -> list[str]:
    """The blocks of a loss's worked example, each to be run after the ones before it."""
    if name not in EXAMPLES:
        raise LookupError(f"{name} has no worked example: write it by hand in plain torch in its file of tests/losses/")
    example = EXAMPLES[name]
    parts = {field: getattr(example, field) for field in ("data", "by_hand", "operands", "arguments", "mean")}
    long = len(class_name) + len(example.arguments) > LONG
    parts |= {"start": "\n        " if long else "", "end": "\n    " if long else ""}
    filled = [re.sub(r"\n{4,}", "\n\n\n", part.format(class_name=class_name, **parts)).rstrip() for part in template]
    return [*filled, *filter(None, [example.more])]


def run(name: str, class_name: str) -> list[tuple[str, str]]:
    """The blocks of a worked example, and what each prints."""
    scope: dict[str, object] = {"__name__": f"worked_{name}"}
    return [(block, execute(block, scope, f"<worked example of {name}>")) for block in code(name, class_name)]
