"""Time README's commands in a fresh clone, and say what they leave on disk: python tools/durations.py [--test]

The clone and its environments lie in a temporary folder and go with it. Results go to docs/measured.json, from which
tools/readme.py prints them. The caches of pip and npm are the user's, so downloads may be shorter than elsewhere.
With --test `make test` runs, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs" / "measured.json"


def run(command: str, folder: Path) -> float:
    """Seconds that a command takes in a folder; its output is shown."""
    print(f"$ {command}", flush=True)
    start = time.perf_counter()
    subprocess.run(command, shell=True, cwd=folder, check=True)
    return time.perf_counter() - start


def gigabytes(folder: Path) -> float:
    """What a folder takes on disk."""
    told = subprocess.run(["du", "-s", "-B1", folder], capture_output=True, text=True, check=True).stdout
    return int(told.split()[0]) / 1e9


def main() -> int:
    """Clone, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", action="store_true", help="time make test as well")
    with_tests = parser.parse_args().test
    folder = Path(tempfile.mkdtemp())
    clone, found = folder / "losskit", {}
    try:
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        whole = run("make demo", clone)
        found["make demo"] = {"seconds": whole, "gigabytes": gigabytes(clone / ".venv")}
        found["make setup"] = {"seconds": run("make setup", clone), "gigabytes": gigabytes(clone / ".venv")}
        if with_tests:
            found["make test"] = {"seconds": run("make test", clone)}
        found["make wheel"] = {"seconds": run("make wheel", clone), "gigabytes": gigabytes(clone / "dist")}
        python = folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        torch = run(f"{python} -m pip install --quiet torch==2.13.0 numpy", folder)
        found["torch"] = {"seconds": torch, "gigabytes": gigabytes(folder / "venv")}
        before = gigabytes(folder / "venv")
        found["pip install ."] = {"seconds": run(f'{python} -m pip install --quiet ".[cli]"', clone)}
        found["pip install ."]["gigabytes"] = gigabytes(folder / "venv") - before
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "losskit"], check=True)
        wheel = next((clone / "dist").glob("*.whl"))
        found["wheel"] = {"seconds": run(f"{python} -m pip install --quiet {wheel}", folder), "name": wheel.name}
    finally:
        shutil.rmtree(folder)
    data = json.loads(OUTPUT.read_text())
    data["durations"] = {**data.get("durations", {}), **found, "cores": os.cpu_count()}
    OUTPUT.write_text(json.dumps(data, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
