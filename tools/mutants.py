"""Break the C++ loops, one operator at a time, and see whether a test notices: `make mutants`.

1. A mutant is one word of a hand-written file of csrc/ exchanged for another. What survives is a missing test, or it
   computes the same: then it belongs in EQUIVALENT, with the reason.
2. The project is not touched: everything happens in a copy. Only the units that include a file are compiled anew, and
   for this machine's instruction set alone without -O3, which takes a third of the time.
3. The tests are those that are written for the op, but the slowest, up to the first that fails.
4. kernel.h and primitives.h are not mutated: tests/test_primitives.py measures every function of theirs in ULP.

    python tools/mutants.py --count 40 --seed 0 --file csrc/ctc.cpp
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "backend"))

from losskit_backend import load_compiler, torch_folder  # noqa: E402

COPIED = ("backend", "binding", "csrc", "src", "tests", "tools", "pyproject.toml", "setup.py")
EXCLUDED = {"kernel.h", "primitives.h", "portable.h", "wire.cpp"}
# By the beginning of a file's name; the last one is for what all ops share.
TESTS = {
    "pointwise": "test_layouts test_errors",
    "class_scores": "test_class_scores test_class_scores_kernel",
    "margins": "test_margins",
    "ordered": "test_ordered test_ordered_calls",
    "embeddings": "test_embeddings",
    "pairs": "test_pairs test_pairs_edges",
    "two_rows": "test_two_rows test_two_rows_limits",
    "vectors": "test_class_scores_kernel test_two_rows",
    "ctc": "test_ctc",
    "centre_lines": "test_centre_lines",
    "": "test_layouts test_margins test_embeddings",
}
SLOW = "not (compiled or many_frames or long_rows or own_samples or gradients_and_their or 1500)"
EXCHANGED = {
    " + ": " - ", " - ": " + ", " * ": " / ", " / ": " * ", " += ": " -= ", " -= ": " += ", " *= ": " /= ",
    " < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > ", " == ": " != ", " != ": " == ",
    " && ": " || ", " || ": " && ", " & ": " | ", " | ": " & ", " |= ": " &= ", " &= ": " |= ",
    "std::min": "std::max", "std::max": "std::min", "minimum(": "maximum(", "maximum(": "minimum(",
    "true": "false", "false": "true", "break;": ";", "continue;": ";",
}  # fmt: skip
WORDS = re.compile("|".join([r"(?<![\w.])\d+(?![\w.'])", r"(?<=[( ])!(?=[\w(])", *map(re.escape, EXCHANGED)]))
# Lines that change no result: constants that were measured, prefetches, declarations, what the compiler reads.
SILENT = re.compile(
    r"^\s*(#|//|template|using|static_assert|typedef|alignas)|constexpr|prefetch|announce|LOSSKIT_CLONES"
)
# (file, a part of the line, the word): why no test can see it.
EQUIVALENT: dict[tuple[str, str, str], str] = {
    ("margins_batch.h", "const bool dense = job.gradient_steps[1] == 1 || n == 1;", "||"):
        "what is dense is then written one by one, with the same bits",
}  # fmt: skip


class Mutant(NamedTuple):
    """A word of a line, and what it becomes."""

    file: str
    line: int
    column: int
    word: str
    new: str
    text: str

    def __str__(self) -> str:
        return f"csrc/{self.file}:{self.line}: {self.word.strip()!r} -> {self.new.strip()!r} in: {self.text.strip()}"

    @property
    def tests(self) -> list[str]:
        own = next(names for start, names in TESTS.items() if self.file.startswith(start))
        return [f"tests/{name}.py" for name in own.split()]

    @property
    def reason(self) -> str:
        """Why it is no mutant; "" where nothing is known."""
        known = ((file, part, word) for file, part, word in EQUIVALENT if file == self.file and part in self.text)
        return next((EQUIVALENT[key] for key in known if key[2] == self.word.strip()), "")


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All mutants of a file."""
    for number, text in enumerate(path.read_text().splitlines(), 1):
        if SILENT.search(text):
            continue
        code = re.sub(r'"[^"]*"', lambda found: "_" * len(found[0]), text.split(" //")[0])
        for found in WORDS.finditer(code):
            word = found[0]
            new = str(int(word) + 1) if word.isdigit() else EXCHANGED.get(word, "")
            yield Mutant(path.name, number, found.start(), word, new, text)


class Copy:
    """The project in another folder, with objects of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        self.csrc, self.objects = folder / "csrc", folder / "objects"
        self.objects.mkdir()
        compiler, torch = load_compiler(), torch_folder()
        assert torch is not None, "torch is missing"
        self.torch = torch.resolve()
        include = self.torch / "include"
        self.command = [
            str(compiler.compiler()), *(flag for flag in compiler.FLAGS if flag != "-O3"), "-O2", "-march=native",
            "-DLOSSKIT_CLONES=", "-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{self.csrc}",
            "-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include"),
        ]  # fmt: skip
        self.units = [*sorted(self.csrc.glob("*.cpp")), *sorted(self.csrc.glob("generated/*.cpp"))]

    def includes(self, path: Path) -> set[str]:
        """The files of csrc that a file includes, itself too."""
        found = {path.name}
        for name in re.findall(r'#include "([^"]+)"', path.read_text()):
            found |= self.includes(self.csrc / name)
        return found

    def build(self, units: list[Path]) -> bool:
        """Compile units and link the library; False if that fails."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = list(pool.map(self._compile, units))
        objects = map(str, sorted(self.objects.glob("*.o")))
        library = self.folder / "src/losskit/lib/liblosskit.so"
        library.parent.mkdir(exist_ok=True)
        link = [self.command[0], "-shared", *objects, "-o", str(library), f"-L{self.torch / 'lib'}", "-ltorch_cpu"]
        return all(done) and subprocess.run(link, capture_output=True).returncode == 0

    def _compile(self, unit: Path) -> bool:
        words = [*self.command, "-c", str(unit), "-o", str(self.objects / f"{unit.stem}.o")]
        return subprocess.run(words, capture_output=True).returncode == 0

    def passes(self, tests: list[str], limit: float = 900.0) -> bool:
        """Whether tests pass; a crash and a loop without end do not."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "src")}
        words = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-p", "no:cacheprovider", "-k", SLOW, *tests]
        try:
            done = subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def survives(self, mutant: Mutant, limit: float) -> bool | None:
        """Whether the tests of a mutant pass; None where it cannot be compiled."""
        path = self.csrc / mutant.file
        units = [unit for unit in self.units if mutant.file in self.includes(unit)]
        whole = path.read_text()
        lines = whole.split("\n")
        end = mutant.column + len(mutant.word)
        lines[mutant.line - 1] = mutant.text[: mutant.column] + mutant.new + mutant.text[end:]
        kept = {unit: (self.objects / f"{unit.stem}.o").read_bytes() for unit in units}
        path.write_text("\n".join(lines))
        try:
            return self.passes(mutant.tests, limit) if self.build(units) else None
        finally:
            path.write_text(whole)
            for unit, content in kept.items():
                (self.objects / f"{unit.stem}.o").write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(description="break the C++ loops and see which tests notice")
    parser.add_argument("--count", type=int, default=40, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--file", action="append", help="only of this file of csrc; may be given again")
    arguments = parser.parse_args()
    files = [path for path in sorted((ROOT / "csrc").glob("*.*")) if path.name not in EXCLUDED]
    if arguments.file:
        files = [path for path in files if path.name in {Path(name).name for name in arguments.file}]
    mutants = [mutant for path in files for mutant in mutants_of(path)]
    chosen = random.Random(arguments.seed).sample(mutants, min(arguments.count, len(mutants)))
    print(f"{len(chosen)} of {len(mutants)} mutants, seed {arguments.seed}", flush=True)
    survived = 0
    with tempfile.TemporaryDirectory(prefix="losskit-mutants-") as folder:
        copy = Copy(Path(folder))
        if not copy.build(copy.units):
            raise SystemExit("the unbroken library cannot be built")
        limits = {}
        for tests in {tuple(mutant.tests) for mutant in chosen if not mutant.reason}:
            begin = time.monotonic()
            if not copy.passes(list(tests)):
                raise SystemExit(f"these fail without a mutant: {' '.join(tests)}")
            limits[tests] = 3 * (time.monotonic() - begin) + 30
        for mutant in chosen:
            if mutant.reason:
                print(f"the same  {mutant} ({mutant.reason})", flush=True)
                continue
            begin = time.monotonic()
            outcome = copy.survives(mutant, limits[tuple(mutant.tests)])
            word = {True: "SURVIVED", False: "killed  ", None: "no code "}[outcome]
            survived += outcome is True
            print(f"{word}  {mutant} ({time.monotonic() - begin:.0f} s)", flush=True)
    print(f"{survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
