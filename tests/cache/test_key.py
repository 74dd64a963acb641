"""The key of a kernel in the cache, and what lies around."""

import ctypes
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import losskit
from losskit.kernels import compiler, library

from .conftest import declare, look_again


def test_the_key_changes_with_headers_and_compiler(tmp_path, monkeypatch):
    for header in library.FOLDER.glob("*.h"):
        shutil.copy(header, tmp_path)
    own = library._fingerprint()
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    assert library._fingerprint() == own
    keys = {own}
    headers = sorted(tmp_path.glob("*.h"))
    for header in headers:
        text = header.read_text()
        for changed in (text + " ", text.replace("1", "2", 1), ""):
            header.write_text(changed)
            keys.add(library._fingerprint())
        header.write_text(text)
    (tmp_path / "another.h").write_text("")
    keys.add(library._fingerprint())
    (tmp_path / "another.h").unlink()
    monkeypatch.setenv("CXX", "another compiler")
    keys.add(library._fingerprint())
    monkeypatch.setattr(compiler, "FLAGS", [*compiler.FLAGS, "-g"])
    keys.add(library._fingerprint())
    assert len(keys) == 1 + len(headers) * 3 + 3


def test_another_header_is_another_kernel(tmp_path, fake, monkeypatch):
    look_again()
    for header in library.FOLDER.glob("*.h"):
        shutil.copy(header, tmp_path)
    with (tmp_path / "primitives.h").open("a") as header:
        header.write("// changed\n")
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    look_again()
    assert fake.compilations() == 2


def test_an_address_is_not_taken_to_another_process(fake):
    formula = declare()
    library.find(formula)
    assert formula.kernel
    state = formula.__getstate__()
    assert not {"kernel", "why_no_kernel", "triton"} & set(state)
    assert "switches" in state
    pickle.dumps(state["switches"])


def test_the_build_of_the_package_needs_no_torch_for_its_compiler():
    program = (
        "import sys, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('compiler', {str(Path(compiler.__file__))!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.FLAGS[0], [name for name in ('torch', 'losskit', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "-std=c++20 []\n"


def test_several_files_become_one_library_or_none(tmp_path):
    """As the package's own are."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.cpp").write_text(
            f'extern "C" __attribute__((visibility("default"))) int {name}() {{ return 7; }}'
        )
    sources = [tmp_path / "one.cpp", tmp_path / "two.cpp"]
    compiler.build(sources, tmp_path / "lib/both.so")
    both = ctypes.CDLL(str(tmp_path / "lib/both.so"))
    assert both.one() + both.two() == 14
    sources[1].write_text("int two() { return none; }")
    with pytest.raises(compiler.CompileError, match=r"failed: error: 'none' was not declared in this scope$"):
        compiler.build(sources, tmp_path / "lib/neither.so")
    assert [path.name for path in (tmp_path / "lib").iterdir()] == ["both.so"]


def test_what_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    card = losskit.explain("huber_loss")
    with pytest.raises(ModuleNotFoundError, match=r"^the text of a loss's card needs rich: pip install rich$"):
        str(card)
    with pytest.raises(ModuleNotFoundError, match=r"^losskit\.plot needs matplotlib: pip install matplotlib$"):
        losskit.plot("huber_loss")
    assert "HuberLoss" in repr(card)
