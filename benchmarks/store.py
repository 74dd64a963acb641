"""docs/speed.json: what was measured, from which tools/speed.py prints docs/speed.md.

1. A row says on which day, on which machine and with which versions it was measured, so rows of several may stand in
   one file; "machines" has each once, and a row its place there.
2. A new row replaces the one of the same case, size, dtype and number of threads, as a whole, and no other. So a part
   of the rows can be measured anew, and a run that is interrupted leaves what it has measured.
3. Numbers have four digits, which is more than a ratio repeats to, and a row is one line.
"""

import json
import os
import platform
from datetime import date
from pathlib import Path

import torch
from peers import versions_of_jax

import losskit
from losskit.machine import processor

FILE = Path(__file__).resolve().parent.parent / "docs" / "speed.json"
PARTS = ("losses", "heads")  # rows of run.py, rows of heads.py


def facts():
    """Machine and versions; nothing that names the machine's owner, its host or a path."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "losskit": losskit.__version__,
        **versions_of_jax(),
    }


def identity(row):
    """What a row is a measurement of."""
    return tuple(row[key] for key in ("size", "threads", "dtype", "case"))


def read(path):
    """The rows by part, each with its machine's facts."""
    known = json.loads(path.read_text()) if path.exists() else {"machines": []}
    return {
        part: [{**row, "machine": known["machines"][row["machine"]]} for row in known.get(part, [])] for part in PARTS
    }


def merge(path, part, rows, cases):
    """Put rows of this machine and this day into the file. Rows of what is no case any more go."""
    new = {identity(row): {**row, "date": date.today().isoformat(), "machine": facts()} for row in rows}
    known = read(path)
    kept = {identity(row): row for row in known[part] if row["case"] in cases}
    write(path, {**known, part: [*(kept | new).values()]})


def measured_today(path, part):
    """The identities of the rows that this machine has measured today with these versions."""
    today = {"date": date.today().isoformat(), "machine": facts()}
    return {identity(row) for row in read(path)[part] if today.items() <= row.items()}


def write(path, known):
    """The file anew, complete at each moment: a run may be interrupted while it is written."""
    machines = []
    lines = {part: [] for part in PARTS}
    for part in PARTS:
        for row in sorted(known[part], key=identity):
            if row["machine"] not in machines:
                machines.append(row["machine"])
            lines[part].append(json.dumps(rounded({**row, "machine": machines.index(row["machine"])})))
    blocks = {"machines": [json.dumps(machine) for machine in machines], **lines}
    text = ",\n".join(f' "{name}": [' + ",".join(f"\n  {x}" for x in found) + "\n ]" for name, found in blocks.items())
    beside = path.with_suffix(".new")
    beside.write_text(f"{{\n{text}\n}}\n")
    beside.replace(path)


def rounded(x):
    """Numbers in four digits, wherever they are."""
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [rounded(value) for value in x]
    return float(f"{x:.4g}") if isinstance(x, float) else x
