"""The printed parts of README, the home page, docs/speed.md and the GPU's guide: python tools/readme.py [--check]

    measured    what losskit gains, from docs/accuracy.md, docs/speed.json (benchmarks/run.py) and docs/measured.json
                (benchmarks/memory.py)
    caption     what the picture shows, from the numbers that are drawn (tools/picture.py)
    durations   how long commands take and what they leave, from docs/measured.json (tools/durations.py)
    losses      all losses by task, from the cards
    card        what a GPU takes, from docs/gpu.json (benchmarks/gpu.py)
    overview    of docs/speed.md: the means, and where losskit is slower, from docs/speed.json
    rows        of docs/speed.md: each loss at each size, from docs/speed.json

They stand between <!-- name --> and <!-- /name -->. No number in them is typed.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tools")]

import speed  # noqa: E402
from speed import listed  # noqa: E402

from losskit_guide.card import catalogue  # noqa: E402

README = ROOT / "README.md"
WORDS = {
    "gaussian_nll": "Gaussian NLL", "cross_entropy_smoothed": "cross entropy with label smoothing",
    "bce_with_logits": "BCE with logits", "triplet_margin": "triplet margin", "cross_entropy": "cross entropy",
}  # fmt: skip
DIGITS = 2.0**20  # ULP: of the seven digits of float32, the first is wrong
HOW = (
    "Speed is torch eager over losskit, forward and backward of the loss alone, one thread, float32: the geometric "
    "mean over all losses, against torch's function or, where torch has none, its operations, on {where}."
)
SIZES = {"1k": "a thousand", "16M": "16 million", "256M": "256 million"}
HEADS = {
    "losskit": "`linear_cross_entropy`", "losskit_scores": "losskit's cross entropy of all scores",
    "torch": "torch's cross entropy of all scores", "torch_chunks": "torch's chunks", "liger": "Liger",
    "cut_cross_entropy": "cut cross entropy",
}  # fmt: skip
TASKS = {  # in the order in which people look for them
    "regression": "regression", "likelihood": "likelihoods, counts", "divergence": "distributions, distillation",
    "binary": "yes or no", "multi-class": "one of many classes", "multi-label": "several labels",
    "ordinal": "ordered classes", "survival": "times to an event", "detection": "boxes",
    "segmentation": "masks of images", "images": "images",
    "ranking": "ranking", "preference": "preferences", "metric learning": "embeddings", "sequence": "sequences",
}  # fmt: skip


def measured() -> str:
    """What losskit gains, each with the command that measures it."""
    accuracy = "`python tools/accuracy.py`"
    rows = [
        ["", "losskit", f"torch {known()['facts']['torch'].split('+')[0]}", "measured by"],
        ["---"] * 4,
        ["[largest error](docs/accuracy.md) of a value, torch's losses in float32", *worst("value"), accuracy],
        ["of a gradient", *worst("gradient"), accuracy],
        *([*row, "`make bench`"] for row in speed_and_memory()),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{how()}An ULP is the distance of two neighbouring numbers."


def known() -> dict[str, Any]:
    """What benchmarks/memory.py and tools/durations.py measured."""
    return json.loads((ROOT / "docs" / "measured.json").read_text())  # type: ignore[no-any-return]


def how() -> str:
    """What speed is, and where it was measured; nothing where it was not."""
    short = speed.in_short()
    return HOW.format(where=short[0]) + " " if short else ""


def speed_and_memory() -> list[list[str]]:
    """What was measured, losskit, torch."""
    short, memory = speed.in_short(), known()["memory"]
    rows = [short[1] if short else ["[speed](docs/speed.md)", "not measured yet", ""]]
    for name in sorted(memory, key=lambda name: memory[name]["losskit"] - memory[name]["torch"])[:2]:
        ours, theirs = (f"{memory[name][who]:.1f} inputs" for who in ("losskit", "torch"))
        rows.append([f"memory beside the operands, {WORDS[name]}", f"**{ours}**", theirs])
    return rows


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


def card() -> str:
    """What was measured on a GPU."""
    known = json.loads((ROOT / "docs" / "gpu.json").read_text())
    losses = [r for r in known["results"] if "of_copy_bandwidth" in r]
    heads = [r for r in known["results"] if "operations_per_s" in r]
    ratios = {size: [r["over_losskit"]["torch"] for r in losses if r["size"] == size] for size in SIZES}
    means = [f"{statistics.geometric_mean(of_size):.1f}" for of_size in ratios.values()]
    lines = [
        f"On an {known['card']} with torch {known['torch']} and Triton {known['triton']}, forward and backward, "
        f"torch eager takes {listed(means)} times as long as losskit at {listed([*SIZES.values()])} "
        "numbers: the geometric mean over the losses below, in float32 and bfloat16. A copy moves "
        f"{known['copy_bytes_per_s'] / 1e12:.1f} TB/s there.",
        "",
        "| 256M numbers | of a copy, f32 | torch / losskit | of a copy, bf16 | torch / losskit | Liger / losskit |",
        "|---|---|---|---|---|---|",
    ]
    large = {(r["case"], r["dtype"]): r for r in losses if r["size"] == "256M"}
    for case in dict.fromkeys(case for case, _ in large):
        cells = [f"`{case}`"]
        for result in (large[case, dtype] for dtype in ("f32", "bf16")):
            cells += [f"{result['of_copy_bandwidth']['losskit']:.2f}", f"{result['over_losskit']['torch']:.1f}"]
        liger = large[case, "bf16"]["over_losskit"].get("liger")
        lines.append(f"| {' | '.join([*cells, '' if liger is None else f'{liger:.1f}'])} |")
    lines += ["", "| a head in bfloat16: rows x width x classes | time | memory beside the operands |", "|---|---|---|"]
    for result in heads:
        for who, told in HEADS.items():
            if who in result["microseconds"]:
                time = f"{result['microseconds'][who] / 1e3:.1f} ms"
                lines.append(f"| {result['size']}, {told} | {time} | {result['peak_bytes'][who] / 1e9:.2f} GB |")
    return "\n".join(lines)


PARTS = {
    README: {"caption": caption, "measured": measured, "durations": durations, "losses": losses},
    ROOT / "docs" / "guides" / "gpu.md": {"card": card},
    ROOT / "docs" / "speed.md": {"overview": speed.overview, "rows": speed.rows},
}


def printed(page: Path) -> str:
    """A page with its parts made anew."""
    text = page.read_text()
    for name, part in PARTS[page].items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not (start and end):
            raise SystemExit(f"{page.name} must have <!-- {name} --> and <!-- /{name} -->")
        text = f"{before}{start}{part()}\n{end}{after}"
    return text


def main() -> int:
    """Write the pages, or with --check say whether they are what would be written."""
    stale = [page for page in PARTS if printed(page) != page.read_text()]
    for page in stale:
        if "--check" in sys.argv[1:]:
            print(f"stale: {page.relative_to(ROOT)}; run python tools/readme.py")
        else:
            page.write_text(printed(page))
    return int("--check" in sys.argv[1:] and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
