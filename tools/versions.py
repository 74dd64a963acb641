"""Run the short suite, tests/test_versions.py, under other Pythons, or with another torch: `make versions`.

1. A Python that the package claims is tried here before a user tries it, in an environment of its own.
2. One wheel is installed in all of them, since that is its promise: no Python's ABI, and libtorch's stable ABI alone.
3. torch is asked for by exact pin, and first: the wheel's own `torch>=2.10` would take whatever is newest.
4. torch's wheel for Linux brings 2.7 GB of NVIDIA's libraries, equal for every Python: the first environment has them,
   and the others link to them.
5. Environments stay in .versions/, so a second run builds the wheel, if a source has changed, and tests.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".versions"
PYTHONS, TORCH = ["3.10", "3.12", "3.13"], "2.13.0"
TOOLS = ["setuptools>=77", "wheel"]  # what builds losskit


def pip(python: Path, *words: str | Path) -> None:
    """Run pip of an environment."""
    subprocess.run([python, "-m", "pip", "-qq", "--disable-pip-version-check", *words], check=True)


def ask(python: str | Path, program: str) -> str:
    """What a program prints under this Python; nothing, where it does not run."""
    try:
        return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # pyenv's `python3.12` is there and fails until one is chosen
        return ""


def interpreter(version: str) -> str | None:
    """A Python of this version: on the path, else pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [f"python{version}", *sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")), reverse=True)]
    return next((c for c in candidates if ask(c, "import sys; print(*sys.version_info[:2], sep='.')") == version), None)


def packages(python: Path) -> Path:
    """Where an environment keeps its packages."""
    return Path(ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))


def install_torch(python: Path, torch: str) -> None:
    """torch by exact pin; NVIDIA's packages, if it needs them, from an environment that has the same torch."""
    twin = next((ready.parent for ready in FOLDER.glob(f"python*-torch{torch}/.ready")), FOLDER / "none")
    for path in twin.glob("lib/python3*/site-packages/nvidia*"):  # the libraries, and the metadata that pip reads
        (packages(python) / path.name).symlink_to(path.resolve())
    pip(python, "install", f"torch=={torch}", *TOOLS)


def environment(version: str, source: str, torch: str) -> Path:
    """The environment of this Python and this torch, made if it is not there."""
    folder = FOLDER / f"python{version}-torch{torch}"
    python, ready = folder / "bin/python", folder / ".ready"
    if not ready.exists():
        print(f"Python {version}: making {folder.relative_to(ROOT)}", flush=True)
        subprocess.run([source, "-m", "venv", "--clear", folder], check=True)
        install_torch(python, torch)
        ready.touch()
    return python


def wheel(python: Path) -> Path:
    """The wheel of this tree, built against the torch of this environment unless one is newer than every source."""
    found = [
        ROOT / "pyproject.toml",
        ROOT / "setup.py",
        *(ROOT / "backend").glob("*.py"),
        *(ROOT / "csrc").rglob("*"),
        *(ROOT / "binding").glob("*"),
        *(ROOT / "src").rglob("*.*"),
    ]
    sources = [p for p in found if p.suffix in (".toml", ".py", ".json", ".cpp", ".h") and p.parent.name != "lib"]
    built = list(FOLDER.glob("*.whl"))
    if len(built) != 1 or built[0].stat().st_mtime < max(p.stat().st_mtime for p in sources):
        for old in built:
            old.unlink()
        print("building the wheel", flush=True)
        start = time.time()
        pip(python, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", FOLDER, ROOT)
        built = list(FOLDER.glob("*.whl"))
        os.utime(built[0], (start, start))  # so that what was edited during the build counts as newer
    return built[0]


def test(python: Path, built: Path) -> bool:
    """Whether the short suite passes with the installed wheel."""
    pip(python, "install", f"{built}[cli]", "pytest>=8", "mpmath>=1.3", "numpy>=1.26")  # the last two for the proofs
    pip(python, "install", "--no-deps", "--force-reinstall", built)  # also over one of the same version
    # Without tests/conftest.py, which needs Triton, and pyproject's options, which need pytest-xdist.
    options = ["--noconftest", "-o", "addopts=", "-p", "no:cacheprovider", "-q"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-m", "pytest", *options, "tests/test_versions.py"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pythons", nargs="*", default=PYTHONS, help="versions of Python (default: %(default)s)")
    parser.add_argument("--torch", default=TORCH, help="version of torch (default: %(default)s)")
    chosen = parser.parse_args()
    results = {}
    for version in chosen.pythons:
        found = interpreter(version)
        if found is None:
            results[version] = "skipped: this machine has no such Python"
            continue
        python = environment(version, found, chosen.torch)
        results[version] = "passed" if test(python, wheel(python)) else "failed"
    for version, result in results.items():
        print(f"Python {version}, torch {chosen.torch}: {result}")
    return int("failed" in results.values())


if __name__ == "__main__":
    sys.exit(main())
