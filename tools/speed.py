"""The printed parts of docs/speed.md, and README's row of speed, from docs/speed.json (benchmarks/run.py, heads.py)."""

from __future__ import annotations

import json
import statistics
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "speed.json"
TIE = 0.98  # peer / losskit below which losskit is slower; medians of a quiet machine repeat to 2 %
SIZES = {
    "32x10": "320", "256x10": "2,560", "4096x10": "40,960", "1M": "a million", "16M": "16 million",
}  # fmt: skip
THREADS = {1: "one thread", 2: "two threads"}
PEERS = {"torch": "torch eager", "compile": "torch.compile", "jax": "JAX"}
HARDWARE = ("cpu", "cores", "vectors", "system")  # among the facts of a machine; the others are versions
KINDS = ("torch's function", "a composition", "a formula")  # what a row is compared with
HEADS = {
    "losskit": "losskit", "losskit_scores": "losskit's loss of all scores", "torch_chunks": "torch's chunks",
}  # fmt: skip
NOTHING = "Nothing is measured yet: `make bench` measures, and prints this page."

Row = dict[str, Any]
Place = tuple[str, int, str]


def known() -> dict[str, list[Any]]:
    """What was measured."""
    return json.loads(FILE.read_text())  # type: ignore[no-any-return]


def places(rows: list[Row]) -> dict[Place, list[Row]]:
    """The rows of each size, number of threads and dtype: few threads first, then small sizes."""
    order = product(("f32", "f64", "bf16", "f16"), THREADS, SIZES)
    found: dict[Place, list[Row]] = {(size, threads, dtype): [] for dtype, threads, size in order}
    for row in rows:
        found[row["size"], row["threads"], row["dtype"]].append(row)
    return {place: of_place for place, of_place in found.items() if of_place}


def named(place: Place) -> str:
    """ "2,560 numbers, one thread"."""
    size, threads, dtype = place
    return f"{SIZES[size]} numbers, {THREADS[threads]}" + (f", {dtype}" if dtype != "f32" else "")


def number(x: float) -> str:
    """A ratio or a time, in the digits that repeat."""
    return f"{x:.2f}" if x < 9.995 else f"{x:.1f}" if x < 99.95 else f"{x:,.0f}"


def table(head: list[str], rows: list[list[str]], numbers: int) -> str:
    """A table whose last columns, so many, are numbers."""
    lines = [head, ["---"] * (len(head) - numbers) + ["---:"] * numbers, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratios(rows: list[Row], peer: str) -> dict[str, float]:
    """Peer over losskit by case, the smallest first."""
    found = {row["case"]: row["over_losskit"][peer] for row in rows if peer in row["over_losskit"]}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def slower(found: dict[str, float]) -> list[str]:
    """The cases in which losskit is slower."""
    return [case for case, ratio in found.items() if ratio < TIE]


def kind(row: Row) -> str:
    """What torch's side of a row is: torch's own function, a formula, or a composition by hand."""
    if row["against"].startswith("F."):
        return "torch's function"
    return "a formula" if row["against"] in ("formula", "textbook") else "a composition"


def machines() -> list[str]:
    """Where and when it was measured, one line for each machine with its versions."""
    found = known()
    lines = []
    for place, machine in enumerate(found["machines"]):
        days = sorted(row["date"] for part in ("losses", "heads") for row in found[part] if row["machine"] == place)
        versions = ", ".join(f"{name} {x}" for name, x in machine.items() if name not in HARDWARE)
        when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
        lines.append("{cpu}, {cores} cores, {vectors}, {system}".format(**machine) + f"; {versions}; {when}")
    return lines


def overview() -> str:
    """Where it was measured, the means of each size, and where losskit is slower."""
    rows = [row for row in known()["losses"] if "not_timed" not in row]
    if not rows:
        return NOTHING
    where = machines()
    if len(where) == 1:
        lines = [f"Measured on: {where[0]}.", ""]
    else:
        lines = ["Rows are of several machines or versions, and say by a number of which:", ""]
        lines += [*(f"{i}. {machine}" for i, machine in enumerate(where, 1)), ""]
    lines += [means(places(rows)), ""]
    for peer, told in PEERS.items():
        said = losers(places(rows), peer, told)
        lines += [*said, ""] if said else []
    wrong = [row for row in known()["losses"] if "not_timed" in row]
    if wrong:
        lines += ["Not timed:", ""]
        lines += [f"- {named((row['size'], row['threads'], row['dtype']))}: {row['not_timed']}" for row in wrong]
    return "\n".join(lines).rstrip()


def means(groups: dict[Place, list[Row]]) -> str:
    """The geometric means of each size, and how many rows are slower."""
    present = [peer for peer in PEERS if any(ratios(rows, peer) for rows in groups.values())]
    head = ["", "losses"]
    for peer in present:
        head += [f"{PEERS[peer]} / losskit", "losskit is slower in"]
        head += [f"against {told}" for told in KINDS if peer == "torch"]
    lines = []
    for place, rows in groups.items():
        cells = [named(place), str(len(rows))]
        for peer in present:
            cells += summed(rows, peer)
            cells += [summed([row for row in rows if kind(row) == told], peer)[0] for told in KINDS if peer == "torch"]
        lines.append(cells)
    return table(head, lines, len(head) - 1)


def summed(rows: list[Row], peer: str) -> list[str]:
    """The geometric mean of a peer's ratios, and in how many of them losskit is slower."""
    found = ratios(rows, peer)
    if not found:
        return ["", ""]
    return [number(statistics.geometric_mean(found.values())), f"{len(slower(found))} of {len(found)}"]


def losers(groups: dict[Place, list[Row]], peer: str, told: str) -> list[str]:
    """A line for each size at which losskit is slower than a peer, with every loss."""
    lines = []
    for place, rows in groups.items():
        found = ratios(rows, peer)
        names = [f"`{case}` {number(found[case])}" for case in slower(found)]
        lines += [f"- {named(place)}: {', '.join(names)}"] if names else []
    if lines:
        return [f"losskit is **slower than {told}** (ratio below {TIE}) in:", "", *lines]
    return [f"Nowhere is losskit slower than {told}."] if any(ratios(rows, peer) for rows in groups.values()) else []


def rows() -> str:
    """A table for each size and number of threads, a row for each loss; then the heads."""
    found = known()
    blocks = [
        f"### {named(place)[:1].upper()}{named(place)[1:]}\n\n{of_place(rows)}"
        for place, rows in places([row for row in found["losses"] if "not_timed" not in row]).items()
    ]
    blocks += [f"### Heads of language models\n\n{heads(found['heads'])}"] if found["heads"] else []
    return "\n\n".join(blocks) or NOTHING


def of_place(rows: list[Row]) -> str:
    """The table of one size."""
    several = len(known()["machines"]) > 1
    present = [peer for peer in PEERS if ratios(rows, peer)]
    asked = [peer for peer in present if any(row["asked"].get(peer) for row in rows)]
    head = ["loss", "shape", "against", "losskit, µs"]
    for peer in present:
        head += [f"{PEERS[peer]} / losskit", *(["asked"] if peer in asked else [])]
    lines = []
    for row in sorted(rows, key=lambda row: row["case"]):
        cells = [f"`{row['case']}`", "x".join(map(str, row["shape"])), f"`{row['against']}`"]
        cells.append(number(row["microseconds"]["losskit"]))
        for peer in present:
            cells += [ratio(row, peer), *([minimum(row, peer)] if peer in asked else [])]
        lines.append(cells + ([str(row["machine"] + 1)] if several else []))
    head += ["machine"] if several else []
    return table(head, lines, len(head) - 3)


def ratio(row: Row, peer: str) -> str:
    """ "1.94 [1.90, 1.97]", bold where losskit is slower."""
    if peer not in row["over_losskit"]:
        return ""
    x, (first, third) = row["over_losskit"][peer], row["quartiles"][peer]
    median = f"**{number(x)}**" if x < TIE else number(x)
    return f"{median} [{number(first)}, {number(third)}]"


def minimum(row: Row, peer: str) -> str:
    """What is asked of a ratio, bold where it is missed."""
    asked = row["asked"].get(peer)
    if asked is None:
        return ""
    return f"**{asked:g}**" if row["over_losskit"][peer] < TIE * asked else f"{asked:g}"


def heads(rows: list[Row]) -> str:
    """What heads take beside torch's linear layer and loss: time and memory, as parts of torch's."""
    several = len(known()["machines"]) > 1
    lines = []
    for row in rows:
        for peer, told in HEADS.items():
            if peer in row["over_torch"]:
                time = "{} [{}, {}]".format(*map(number, (row["over_torch"][peer], *row["over_torch_quartiles"][peer])))
                memory = row["memory_over_torch"].get(peer)
                cells = [f"`{row['case']}`", row["size"], row["dtype"], str(row["threads"]), told, time]
                cells.append("" if memory is None else f"{memory:.3f}")
                lines.append(cells + ([str(row["machine"] + 1)] if several else []))
    head = ["head", "rows x width x classes", "dtype", "threads", "", "time / torch's", "memory / torch's"]
    return table([*head, "machine"] if several else head, lines, 2 + several)


def in_short() -> tuple[str, list[str]] | None:
    """Of one thread and float32: where it was measured, and README's row. None where nothing is measured."""
    found = known()
    of_one = [row for row in found["losses"] if (row["threads"], row["dtype"]) == (1, "f32") and "not_timed" not in row]
    if not of_one:
        return None
    used = [found["machines"][i] for i in dict.fromkeys(row["machine"] for row in of_one)]
    where = " and ".join(dict.fromkeys(f"{machine['cpu']} with torch {machine['torch']}" for machine in used))
    groups = {place[0]: ratios(rows, "torch") for place, rows in places(of_one).items()}
    sizes = listed([SIZES[size] for size in groups])
    gains = listed([f"{statistics.geometric_mean(x.values()):.1f}" for x in groups.values()])
    beaten = listed([f"{len(slower(x))} of {len(x)}" for x in groups.values()])
    return where, [f"[speed](docs/speed.md) at {sizes} numbers", f"**{gains} times**", f"faster in {beaten}"]


def listed(words: list[str]) -> str:
    """ "a, b and c"."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
