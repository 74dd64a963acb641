"""The parts of README and of the home page that are printed: python tools/readme.py [--check]

    measured    what losskit gains, from docs/measured.json (benchmarks/summary.py) and docs/accuracy.md
    caption     what the picture shows, from the numbers that are drawn (tools/picture.py)
    durations   how long commands take and what they leave, from docs/measured.json (tools/durations.py)
    losses      all losses by task, from the cards

They stand between <!-- name --> and <!-- /name -->. No number in them is typed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from losskit_guide.card import catalogue  # noqa: E402

README = ROOT / "README.md"
WORDS = {
    "gaussian_nll": "Gaussian NLL", "cross_entropy_smoothed": "cross entropy with label smoothing",
    "bce_with_logits": "BCE with logits", "triplet_margin": "triplet margin", "cross_entropy": "cross entropy",
}  # fmt: skip
DIGITS = 2.0**20  # ULP: of the seven digits of float32, the first is wrong
HOW = (
    "Speed is torch eager over losskit, forward and backward of the loss alone, one thread, float32: the geometric "
    "mean over all losses and their usual settings, on {cpu} with torch {torch}."
)
TASKS = {  # in the order in which people look for them
    "regression": "regression", "likelihood": "likelihoods, counts", "divergence": "distributions, distillation",
    "binary": "yes or no", "multi-class": "one of many classes", "multi-label": "several labels",
    "ordinal": "ordered classes", "survival": "times to an event", "detection": "boxes",
    "ranking": "ranking", "preference": "preferences", "metric learning": "embeddings", "sequence": "sequences",
}  # fmt: skip


def measured() -> str:
    """What losskit gains, each with the command that measures it."""
    facts = known()["facts"]
    accuracy, summary = "`python tools/accuracy.py`", "`python benchmarks/summary.py`"
    rows = [
        ["", "losskit", f"torch {facts['torch'].split('+')[0]}", "measured by"],
        ["---"] * 4,
        ["[largest error](docs/accuracy.md) of a value, torch's losses in float32", *worst("value"), accuracy],
        ["of a gradient", *worst("gradient"), accuracy],
        *([*row, summary] for row in speed_and_memory()),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{HOW.format(**facts)} An ULP is the distance of two neighbouring numbers."


def known() -> dict[str, Any]:
    """What benchmarks/summary.py measured."""
    return json.loads((ROOT / "docs" / "measured.json").read_text())  # type: ignore[no-any-return]


def speed_and_memory() -> list[list[str]]:
    """What was measured, losskit, torch."""
    speed, memory = known()["speed"], known()["memory"]
    sizes = ["a million" if size == "1M" else f"{10 * int(size.split()[0]):,}" for size in speed]
    ratios = [f"{found['geometric_mean']:.1f}" for found in speed.values()]
    slower = [str(found["slower_than_torch"]) for found in speed.values()]
    cases = next(iter(speed.values()))["cases"]
    rows = [
        [f"speed at {listed(sizes)} numbers", f"**{listed(ratios)} times**", f"faster in {listed(slower)} of {cases}"],
    ]
    for name in sorted(memory, key=lambda name: memory[name]["losskit"] - memory[name]["torch"])[:2]:
        ours, theirs = (f"{memory[name][who]:.1f} inputs" for who in ("losskit", "torch"))
        rows.append([f"memory beside the operands, {WORDS[name]}", f"**{ours}**", theirs])
    return rows


def listed(words: list[str]) -> str:
    """ "a, b and c"."""
    return f"{', '.join(words[:-1])} and {words[-1]}"


def worst(what: str) -> list[str]:
    """The largest error of losskit, and how often torch is wrong, over torch's losses at ordinary float32 numbers."""
    found = []
    for line in (ROOT / "docs" / "accuracy.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[1:3] == ["float32", what]:
            other = cells[5 if len(cells) > 5 else 4]
            found += [] if other == "-" else [(float(cells[3]), float(other))]
    wrong = sum(other > DIGITS for _, other in found)
    lost = f"somewhere no digit right, {wrong} of {len(found)} losses and settings"
    return [f"**{max(own for own, _ in found):.1f} ULP**", lost]


def losses() -> str:
    """All losses by task, with what each is best for."""
    rows = ["| for | losses |", "|---|---|"]
    for task, told in TASKS.items():
        cards = [card for card in catalogue().values() if card.task == task]
        rows.append(f"| {told} | {', '.join(f'`{card.class_name}`' for card in cards)} |")
    return "\n".join(rows)


def caption() -> str:
    """What the picture shows, with the numbers that are drawn."""
    sys.path.insert(0, str(ROOT / "tools"))
    import picture

    return picture.caption(picture.inside(picture.IMAGES / "gradients-light.svg"))


def durations() -> str:
    """How long README's commands take, and what they leave on disk."""
    found = known()["durations"]

    def told(of: str) -> str:
        seconds, size = found[of]["seconds"], found[of]["gigabytes"]
        takes = f"{round(seconds / 60)} min" if seconds > 150 else f"{round(seconds, -1) or seconds:.0f} s"
        return f"{takes} and {f'{size:.1f} GB' if size > 0.05 else f'{size * 1000:.0f} MB'}"

    return (
        f"On {found['cores']} cores with torch for the CPU, `pip install torch==2.13.0 numpy` takes {told('torch')} on "
        f'disk, `pip install ".[cli]"` {told("pip install .")} more, `make demo` {told("make demo")} in `.venv`, '
        f"`make test` {told('make setup')} with what it adds, and "
        f"{round(found['make test']['seconds'] / 60)} min of tests, `make wheel` {told('make wheel')}."
    )


PARTS = {"caption": caption, "measured": measured, "durations": durations, "losses": losses}


def printed(text: str) -> str:
    """README with its parts made anew."""
    for name, part in PARTS.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not (start and end):
            raise SystemExit(f"README must have <!-- {name} --> and <!-- /{name} -->")
        text = f"{before}{start}{part()}\n{end}{after}"
    return text


def main() -> int:
    """Write README, or with --check say whether it is what would be written."""
    old = README.read_text()
    new = printed(old)
    if "--check" in sys.argv[1:]:
        if new != old:
            print("stale: README.md; run python tools/readme.py")
        return int(new != old)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
