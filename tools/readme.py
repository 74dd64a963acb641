"""The parts of README and of the home page that are printed: python tools/readme.py [--check]

    measured    what losskit gains, from docs/measured.json (benchmarks/summary.py) and docs/accuracy.md (tools/accuracy.py)
    losses      all losses by task, from the cards

They stand between <!-- name --> and <!-- /name -->. No number in them is typed.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from losskit_guide.card import catalogue  # noqa: E402

README = ROOT / "README.md"
WORDS = {
    "gaussian_nll": "Gaussian NLL", "cross_entropy_smoothed": "cross entropy with label smoothing",
    "bce_with_logits": "BCE with logits", "triplet_margin": "triplet margin", "cross_entropy_c1000": "cross entropy",
}  # fmt: skip
DIGITS = 2.0**20  # ULP: of the seven digits of float32, the first is wrong
TASKS = {  # in the order in which people look for them
    "regression": "regression", "likelihood": "likelihoods, counts", "divergence": "distributions, distillation",
    "binary": "yes or no", "multi-class": "one of many classes", "multi-label": "several labels",
    "ranking": "ranking", "metric learning": "embeddings", "sequence": "sequences",
}  # fmt: skip


def measured() -> str:
    """What losskit gains, each with the command that measures it."""
    data = json.loads((ROOT / "docs" / "measured.json").read_text())
    speed, memory, facts = data["speed"], data["memory"], data["facts"]
    accuracy = "`python tools/accuracy.py`: [all of them](docs/accuracy.md)"
    summary = "`python benchmarks/summary.py`"
    rows = [
        ["", "losskit", f"torch {facts['torch'].split('+')[0]}", "measured by"],
        ["---"] * 4,
        ["largest error of a value, ordinary float32 numbers", *worst("value"), accuracy],
        ["largest error of a gradient", *worst("gradient"), accuracy],
    ]
    for size, of_size in speed.items():
        elements = "about a million numbers" if size == "1M" else f"a batch of {size.replace('x', '×')}"
        slower, cases = of_size["slower_than_torch"], of_size["cases"]
        told = f"slower in {slower} of {cases}" if slower else f"slower in none of {cases}"
        rows.append([f"speed, {elements}", f"**{of_size['geometric_mean']:.1f}×**, {told}", "1", summary])
    for name, both in sorted(memory.items(), key=lambda item: item[1]["losskit"] - item[1]["torch"])[:3]:
        needs = [f"{both[who]:.1f} × input" for who in ("losskit", "torch")]
        rows.append([f"memory beside the operands, {WORDS[name]}", *needs, summary])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"{table}\n\nSpeed is torch eager over losskit, forward and backward of the loss alone, one thread, float32; the "
        f"geometric mean over all losses and their usual settings, on {facts['cpu']} with torch {facts['torch']}. "
        "An ULP is one unit in the last place: a correctly rounded result is within 0.5."
    )


def worst(what: str) -> list[str]:
    """The largest error of losskit, and how often torch is wrong, over all losses at ordinary float32 numbers."""
    found = []
    for line in (ROOT / "docs" / "accuracy.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[1:3] == ["float32", what]:
            found.append((float(cells[3]), float(cells[5 if len(cells) > 5 else 4].replace("-", "nan"))))
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


PARTS = {"measured": measured, "losses": losses}


def printed(text: str) -> str:
    """README with its parts made anew."""
    for name, part in PARTS.items():
        text, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: m[1] + part() + "\n" + m[2], text,
                              flags=re.S)  # fmt: skip
        if count != 1:
            raise SystemExit(f"README must have one <!-- {name} --> and one <!-- /{name} -->")
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
