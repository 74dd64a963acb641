"""Installing, as users do: from a clone and from a wheel, in fresh environments whose only way to torch is the one they have.

Each environment is a new one of the bare interpreter. torch, and what torch needs, are linked into it from the one that runs
the tests, so that pip finds them installed; pip may use no index, so that whatever asks for another torch fails.
"""

import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tiers import full

ROOT = Path(__file__).resolve().parent.parent
LINUX = sys.platform == "linux"

PROGRAM = """
import losskit, torch
x, t = torch.randn(1000, requires_grad=True), torch.rand(1000)
loss = losskit.BCEWithLogitsLoss()(x, t)
loss.backward()
torch.testing.assert_close(loss, torch.nn.BCEWithLogitsLoss()(x, t))
print(losskit.__file__)
print(losskit.why(losskit.BCEWithLogitsLoss(), x, t))
"""


def closure(*names):
    """These distributions and all that they need, by name."""
    found, queue = {}, list(names)
    while queue:
        name = queue.pop().lower().replace("_", "-")
        if name not in found:
            found[name] = distribution(name)
            requirements = map(Requirement, found[name].requires or [])
            queue += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def parts(dist):
    """The files and folders of a distribution that lie in site-packages itself."""
    return {path.parts[0] for path in dist.files if path.parts[0] not in ("..", "__pycache__")}


def environment(folder, *names):
    """A fresh environment of the bare interpreter, with links to these distributions; its Python."""
    venv.create(folder, with_pip=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for dist in closure(*names).values():
        for name in parts(dist):
            if not (packages / name).exists():  # the bare environment may have a setuptools
                (packages / name).symlink_to(Path(dist.locate_file(name)).resolve())
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A folder with a wheel of setuptools, packed from the installed one: all that an isolated build may fetch."""
    folder = tmp_path_factory.mktemp("tools")
    setuptools = distribution("setuptools")
    with zipfile.ZipFile(folder / f"setuptools-{setuptools.version}-py3-none-any.whl", "w") as wheel:
        for path in setuptools.files:
            if path.parts[0] != ".." and path.suffix != ".pyc" and path.locate().exists():
                wheel.write(path.locate(), str(path))
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The tree without what was built in it, and with a page of the explorer, as `make explorer` leaves it."""
    folder = tmp_path_factory.mktemp("tree") / "clone_to_build"
    built = shutil.ignore_patterns(".*", "build", "dist", "lib", "node_modules", "*.egg-info", "__pycache__", "site")
    shutil.copytree(ROOT, folder, ignore=lambda at, names: [n for n in built(at, names) if at != "tools"])
    page = folder / "src/losskit_guide/explorer/index.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text("<title>The explorer</title>")
    return folder


def run(*command, path=None, **variables):
    """A command with no package index, no compiler but the system's, and nothing of this environment; its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "LOSSKIT"))}
    kept |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONFIG_FILE": os.devnull, **variables}
    if path is not None:
        kept["PATH"] = path
    done = subprocess.run([*map(str, command)], env=kept, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def check_use(python, tmp_path):
    """losskit works there, with its kernels, and says nothing else; so does its command."""
    code, said = run(python, "-I", "-W", "error", "-c", PROGRAM)
    assert code == 0, said
    where, why = said.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert "fused CPU kernel" in why
    return Path(where).parent


def check_library(library, clone):
    """What is shipped is small, holds no path of the machine, no symbols, and asks for no newer Linux than torch's do."""
    contents = library.read_bytes()
    assert len(contents) < 10e6  # see Formulas.usual
    for folder in (clone, Path(distribution("torch").locate_file("")).resolve()):
        assert str(folder).encode() not in contents
    if LINUX:
        assert b".symtab" not in contents
        for name, newest in {b"GLIBC": (2, 28), b"GLIBCXX": (3, 4, 25), b"CXXABI": (1, 3, 11)}.items():
            asked = re.findall(rb"\0%s_([0-9.]+)" % name, contents)
            assert asked
            assert max(tuple(map(int, version.split(b"."))) for version in asked) <= newest, name


@full("install: from a clone, and from a wheel")
def test_from_a_clone(tmp_path, clone, tools):
    """`pip install .` builds in isolation, and takes the torch that is there."""
    python = environment(tmp_path / "venv", "torch", "numpy")
    code, said = run(python, "-m", "pip", "install", clone, PIP_FIND_LINKS=str(tools))
    assert code == 0, said
    assert "warning" not in said.lower()
    assert "torch" in said  # already satisfied
    assert not re.search(r"(Collecting|Downloading|Installing collected packages:.*)torch", said)
    package = check_use(python, tmp_path)
    check_library(package / "lib/liblosskit.so", clone)


@full("install: from a clone, and from a wheel")
def test_from_a_wheel(tmp_path, clone):
    """One wheel for every Python, with the explorer; it needs neither a compiler nor another torch."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path, clone]
    code, said = run(*build)
    assert code == 0, said
    (wheel,) = tmp_path.glob("losskit-*-py3-none-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in names:
            assert str(clone).encode() not in archive.read(name)
    assert {"losskit/lib/liblosskit.so", "losskit/lib/kernel.h", "losskit/lib/primitives.h"} <= names
    assert {"losskit_guide/catalogue.json", "losskit_guide/explorer/index.html", "losskit/py.typed"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"losskit", "losskit_guide"}

    python = environment(tmp_path / "venv", "torch", "numpy", "typer", "rich", "matplotlib")
    code, said = run(python, "-m", "pip", "install", f"{wheel}[cli]", path=os.devnull)
    assert code == 0, said
    assert "warning" not in said.lower()
    package = check_use(python, tmp_path)
    check_library(package / "lib/liblosskit.so", clone)
    code, said = run(python.parent / "losskit", "show", "huber_loss", "--formula", "plain")
    assert code == 0, said
    assert "# huber_loss: loss" in said


def test_no_compiler_is_one_sentence(tmp_path, clone, tools):
    """What is missing and the way out, and no traceback; that way leads to a package for every platform."""
    python = environment(tmp_path / "venv", "torch", "numpy")
    command = [python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, clone]
    code, said = run(*command, PIP_FIND_LINKS=str(tools), path=os.devnull, CXX="")
    assert code != 0
    sentence = (
        "losskit: no C++ compiler was found to build its kernels. Install g++ or clang++, or set LOSSKIT_NO_KERNELS=1"
    )
    assert sentence in said
    assert "Traceback" not in said
    code, said = run(*command, PIP_FIND_LINKS=str(tools), path=os.devnull, LOSSKIT_NO_KERNELS="1")
    assert code == 0, said
    (wheel,) = tmp_path.glob("losskit-*-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "/lib/" in name]


def test_a_compiler_that_fails_is_one_sentence(tmp_path, clone):
    build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path, clone]
    code, said = run(*build, CXX="false")
    assert code != 0
    assert "losskit: its kernels cannot be built: the C++ compiler false failed with status 1" in said
    assert "Traceback" not in said


@pytest.fixture
def backend():
    spec = importlib.util.spec_from_file_location("losskit_backend", ROOT / "backend/losskit_backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version, wanted", [(None, True), ("2.9.1", True), ("2.10.0", False), ("3.0.0+cpu", False)])
def test_torch_is_required_where_there_is_none(tmp_path, monkeypatch, backend, version, wanted):
    """None that is new enough, in the folders of the interpreter; pip hides them from sys.path."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(tmp_path)])
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(tmp_path / "none"))
    if version:
        for folder in ("include/torch/csrc/stable", "lib"):
            (tmp_path / "torch" / folder).mkdir(parents=True)
        (tmp_path / "torch/version.py").write_text(f"__version__ = '{version}'\n")
    assert backend.get_requires_for_build_editable() == (["torch>=2.10"] if wanted else [])
    monkeypatch.setenv("LOSSKIT_NO_KERNELS", "1")
    assert backend.get_requires_for_build_wheel() == []


def test_the_sdist_is_complete(tmp_path):
    """Everything that git knows is in it: what the build, the tests and the checks need."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a clone")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, ROOT]
    code, said = run(*command)
    assert code == 0, said
    (archive,) = tmp_path.glob("losskit-*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert set(listed.stdout.splitlines()) <= names
    assert not [name for name in names if "node_modules" in name or name.startswith("src/losskit/lib")]
