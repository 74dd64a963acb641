"""A loss is two files that are written by hand: its declaration in src/losskit/losses/, its proof in tests/losses/."""

import ast
import json
import os
import shutil
import subprocess
import sys
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
    proved = {stem: proof.name for stem, proof in proofs.files().items()}
    assert proved == declared, "a declaration and its proof in tests/losses/ have the same file name and loss"


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


SHARED = (
    "row_operands", "box_rows", "cosine_rows", "differences", "image_rows", "list_rows", "pair_rows",
    "region_rows", "two_row_operands",
)  # fmt: skip


@pytest.mark.parametrize("path", PROOFS, ids=lambda path: path.stem)
def test_proofs_do_not_know_the_declarations(path):
    """Truth is independent: neither a proof nor what it imports of the tests takes anything from losskit."""
    assert imported(path) <= {
        "functools",
        "itertools",
        "math",
        "mpmath",
        "numpy",
        "torch",
        "losses",
        "proofs",
        "reference",
        *SHARED,
    }


def test_what_proofs_import_does_not_know_losskit():
    for name in ("proofs", "reference", *SHARED):
        assert "losskit" not in imported(ROOT / f"tests/{name}.py"), name


# ---------------------------------------------------------------------------------------------------------
# The claim itself: in a copy of the tree two files are added for each of two losses, one of elements and one of rows, and
# nothing else is edited by hand.

DECLARATION = '''
from losskit.declaration import Case, Operand, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss


class ScaledSquareLoss(PointwiseLoss):
    """The squared error times a number of one's own.

    Choose it where errors have a price.
    Prefer HuberLoss when targets may be wild.
    """

    scale: float = param(default=1.0, domain=positive, doc="What the square is multiplied by.")
    operands = {"input": Operand("Predictions, any real numbers."), "target": Operand("True values.")}

    @staticmethod
    def value(input, target, scale):
        d = input - target
        return (scale * d) * d

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=3.0, target=1.0, scale=0.5, value=2.0, grad=2.0, source="by hand"),
        Case(input=-1.0, target=1.0, value=4.0, grad=-4.0, source="by hand"),
    ]
    task = "regression"
    best_for = "Regression."
    not_for = "Outliers."
    reference = "Legendre, A.-M. (1805). Nouvelles methodes pour la determination des orbites des cometes."
'''
PROOF = """
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, scale):
    d = input - target
    return (scale * d * d,), {"input": (2 * scale * d,), "target": (-2 * scale * d,)}


proof = PointwiseProof(
    name="scaled_square_loss",
    exact=exact,
    variants=[{"scale": 3.0}],
    # Three rounded factors, two of them the same difference.
    bars=Bars(value=2.5, gradient=1.5, eager_value=2.5, eager_gradient=1.5),
    example=Example(
        data="output, target = torch.randn(2, 10)",
        by_hand="by_hand = 3.0 * (output - target) ** 2",
        operands="output, target",
        arguments="scale=3.0, ",
    ),
)
"""
OF_ROWS = '''
from losskit.declaration import Case, Operand
from losskit.facts import Facts
from losskit.families.margins import MarginsLoss
from losskit.formula import maximum


class SquaredMarginsLoss(MarginsLoss):
    """The squares of what is missing to the margin of each other class.

    Choose it where a hinge should be smooth.
    Prefer CrossEntropyLoss when probabilities are wanted.
    """

    arguments = "reduction"
    operands = {"input": Operand("Scores, (N, C) or (C,)."), "target": Operand("The right class of each row.")}

    @staticmethod
    def value(difference):
        short = maximum(1.0 - difference, 0.0)
        return short * short

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.0, 1.0], target=0, value=2.0, grad=[-2.0, 2.0], source="by hand"),
        Case(input=[2.0, 0.0], target=0, value=0.0, grad=[0.0, 0.0], source="by hand"),
    ]
    task = "multi-class"
    best_for = "Smooth hinges."
    not_for = "Probabilities."
    reference = "Weston, J. and Watkins, C. (1999). Support vector machines for multi-class pattern recognition. ESANN."
'''
PROOF_OF_ROWS = """
from proofs import Bars, Example, RowProof, Variant
from row_operands import indices


def exact(m, input, target):
    classes = len(input)
    short = [m.zero if c == target else m.maximum(1 - input[target] + x, m.zero) for c, x in enumerate(input)]
    slopes = [2 * x / classes for x in short]
    slopes[target] = -m.sum(slopes)
    return (m.sum(x * x for x in short) / classes,), {0: slopes}


proof = RowProof(
    name="squared_margins_loss",
    exact=exact,
    variants=[Variant("indices", indices)],
    bars=Bars(value=2.5, gradient=2.0, eager_value=2.5, eager_gradient=2.0),
    example=Example(
        data="scores, target = torch.randn(10, 5), torch.randint(0, 5, (10,))",
        by_hand='''short = (1 - scores.gather(1, target[:, None]) + scores).clamp(min=0)
by_hand = short.scatter(1, target[:, None], 0.0).square().mean(dim=1)''',
        operands="scores, target",
    ),
)
"""
ADDED = {
    "src/losskit/losses/scaled_square.py": DECLARATION,
    "tests/losses/scaled_square.py": PROOF,
    "src/losskit/losses/squared_margins.py": OF_ROWS,
    "tests/losses/squared_margins.py": PROOF_OF_ROWS,
}
PRINTED = {
    "src/losskit/losses/__init__.py",
    "src/losskit/functional.py",
    "csrc/generated/scaled_square.cpp",
    "csrc/generated/squared_margins.cpp",
    "docs/losses.md",
    "src/losskit_guide/catalogue.json",
}
PROGRAM = """
import inspect, json, sys
sys.path.insert(0, "tools/site")
import losskit, worked
from losskit_guide.card import find
print(json.dumps({
    "file": inspect.getfile(losskit.ScaledSquareLoss),
    "is": losskit.ScaledSquareLoss.functional is losskit.functional.scaled_square_loss,
    "signature": str(inspect.signature(losskit.functional.scaled_square_loss)),
    "card": find("ScaledSquareLoss").summary,
    "example": worked.run("scaled_square_loss", "ScaledSquareLoss")[0][1],
    "of rows": worked.run("squared_margins_loss", "SquaredMarginsLoss")[0][1],
}))
"""
MEASURED = """
import sys
sys.path.insert(0, "benchmarks")
from cases import CASES
from peers import make_peers
(case,) = [case for case in CASES if case.function == "scaled_square_loss"]
peers, _ = make_peers(case, "32x10", "f32", [])
print(case.name, case.shapes["1M"], *sorted(peers), *(step().item() > 0 for step in peers.values()))
"""


def copied(folder: Path) -> None:
    """What a loss needs of the tree: the package with its kernels, the suite, the generator and what it prints."""
    skipped = shutil.ignore_patterns("__pycache__", "lib", "explorer", "*.egg-info")
    for part in ("src", "tests", "csrc/generated", "tools/site", "benchmarks"):
        shutil.copytree(ROOT / part, folder / part, ignore=skipped)
    (folder / "docs").mkdir()
    for part in ("pyproject.toml", "tools/generate.py", "docs/losses.md", "docs/deviations.md"):
        shutil.copy(ROOT / part, folder / part)
    (folder / "src/losskit/lib").symlink_to(ROOT / "src/losskit/lib")


def contents(folder: Path) -> dict[str, bytes]:
    """The files of the copy that git would know."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_new_loss_is_two_files(tmp_path):
    """Its class, function, card, kernel, worked example and row of the benchmarks follow; the suite holds it to its bars."""
    tree, cache = tmp_path / "tree", tmp_path / "cache"
    copied(tree)
    before = contents(tree)
    for path, text in ADDED.items():
        (tree / path).write_text(f'"""A made-up loss."""\n{text}')

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "XDG_CACHE_HOME": str(cache)}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tree, env=environment, check=False)
        return done.returncode, done.stdout + done.stderr

    code, told = run("tools/generate.py")
    assert code == 0, told
    assert set(told.split()) - {"written:"} == PRINTED
    after = contents(tree)
    assert {path for path in after if after[path] != before.get(path)} == set(ADDED) | PRINTED
    assert set(before) <= set(after)

    code, told = run("-c", PROGRAM)
    assert code == 0, told
    found = json.loads(told.splitlines()[-1])
    assert found["file"] == str(tree / "src/losskit/losses/scaled_square.py")
    assert found["is"]
    assert "scale: 'float' = 1.0" in found["signature"]
    assert found["card"] == "The squared error times a number of one's own."
    assert "mean, losskit" in found["example"] and "mean, losskit" in found["of rows"]

    code, told = run("-c", MEASURED)
    assert code == 0, told
    assert told.splitlines()[-1] == "scaled_square (1048, 1000) losskit torch True True"

    files = ("tests/test_truth.py", "tests/test_row_truth.py")
    suite = ("-m", "pytest", "-n", "0", "-vv", "-p", "no:cacheprovider", *files)
    of_elements = "(scaled_square and (huge and float32 or halves and bfloat16 or cases)) or every_loss"
    code, told = run(*suite, "-k", f"{of_elements} or squared_margins and accuracy and float32")
    assert code == 0, told
    passed = [line.split("::")[1].split()[0] for line in told.splitlines() if "PASSED" in line]
    setups = ("scaled_square_loss", "scaled_square_loss-scale=3.0")
    accuracy = {f"test_accuracy[{s}-torch.float32-{p}-huge]" for s in setups for p in ("fused", "eager")}
    halves = {f"test_halves[{s}-torch.bfloat16]" for s in setups}
    cases = {f"test_cases[scaled_square_loss-{i}]" for i in range(2)}
    of_rows = {f"test_accuracy[squared_margins_loss-indices-torch.float32-{p}]" for p in ("fused", "eager")}
    assert set(passed) == accuracy | halves | cases | of_rows | {"test_every_loss_is_here"}
