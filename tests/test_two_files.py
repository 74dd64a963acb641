"""A loss is two files that are written by hand: its declaration in src/losskit/losses/, its proof in tests/losses/."""

import ast
from pathlib import Path

import proofs
import pytest

import losskit

ROOT = Path(__file__).resolve().parent.parent
PROOFS = sorted((ROOT / "tests/losses").glob("[!_]*.py"))


def test_every_declaration_has_a_proof():
    """Under the same file name, and with the name of the loss that is declared there."""
    built_in = {name: cls for name, cls in losskit.list_losses().items() if cls.__module__.startswith("losskit.")}
    declared = {cls.__module__.rsplit(".", 1)[-1]: name for name, cls in built_in.items()}
    assert {stem: proof.name for stem, proof in proofs.files().items()} == declared


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", PROOFS, ids=lambda path: path.stem)
def test_proofs_do_not_know_the_declarations(path):
    """Truth is independent: neither a proof nor what it imports of the tests takes anything from losskit."""
    assert imported(path) <= {"math", "mpmath", "torch", "losses", "proofs", "reference", "row_operands"}


def test_what_proofs_import_does_not_know_losskit():
    for name in ("proofs", "reference", "row_operands"):
        assert "losskit" not in imported(ROOT / f"tests/{name}.py"), name
