"""The package as users get it: pickles, the registry, types, the budget of lines. Installing is in test_install.py."""

import ast
import copy
import pickle
from pathlib import Path

import pytest
import samples
import torch
from tiers import full

import losskit

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("setup", samples.everything("elements: pickles of every loss"))
def test_pickle_copy_and_config(setup):
    operands = setup.operands((3, 4))
    criterion = setup.loss(**setup.kwargs(operands[0]))
    expected = criterion(*operands)
    for again in (
        pickle.loads(pickle.dumps(criterion)),
        copy.deepcopy(criterion),
        losskit.create(criterion.config()),
    ):
        assert torch.equal(again(*operands), expected)
        assert repr(again) == repr(criterion)


def test_registry():
    names = set(losskit.list_losses())
    assert {"huber_loss", "kl_div", "binary_cross_entropy"} <= names
    assert losskit.get("huber_loss") is losskit.get("HuberLoss") is losskit.HuberLoss
    assert losskit.HuberLoss.functional.__name__ == "huber_loss"


def test_every_file_of_losses_is_in_the_package():
    """losses/__init__.py is printed; a new file that it does not import would be a loss that nobody finds."""
    files = {path.stem for path in (ROOT / "src/losskit/losses").glob("[!_]*.py")}
    modules = {getattr(losskit, name).__module__ for name in losskit.losses.__all__}
    assert {f"losskit.losses.{stem}" for stem in files} == modules, "run make docs"
    assert set(losskit.losses.__all__) <= set(losskit.__all__)


def test_functional_is_the_declarations():
    """functional.py holds the losses of the registry, with the signatures of their own functional forms."""
    import inspect

    for loss in samples.built_in():
        written = getattr(losskit.functional, loss.name)
        made = loss.functional
        strip = [(p.name, p.default, p.kind) for p in inspect.signature(made).parameters.values()]
        assert strip == [(p.name, p.default, p.kind) for p in inspect.signature(written).parameters.values()]


@full("paths of seconds: compiled with numbers and tensors that change, races, type checkers, long pivots")
def test_type_checkers_know_the_constructors(tmp_path):
    """Fields are keyword arguments with types, without stubs; a misspelt one is found before the program runs."""
    from mypy import api

    program = tmp_path / "program.py"
    program.write_text(
        "import losskit\n"
        "losskit.HuberLoss('sum', delta=2.0)\n"
        "losskit.HuberLoss(detla=2.0)\n"
        "losskit.HuberLoss(delta='2')\n"
    )
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nfollow_imports = silent\n")
    report, _, _ = api.run([str(program), "--config-file", str(config), "--cache-dir", str(tmp_path / "cache")])
    assert 'program.py:3: error: Unexpected keyword argument "detla"' in report
    assert 'program.py:4: error: Argument "delta" to "HuberLoss" has incompatible type "str"' in report
    assert "program.py:2" not in report


def test_every_parameter_is_varied():
    """The proofs leave no parameter of any loss at its default."""
    for loss in samples.built_in():
        varied = {name for variant in samples.variants(loss) for name in variant}
        assert set(loss.params) - {"weight"} <= varied, loss.name


def test_declarations_are_complete():
    for loss in samples.built_in():
        assert loss.facts is not None
        assert len(loss.cases) >= 2
        assert loss.reference
        assert loss.best_for
        assert loss.not_for
        assert set(loss.operands) == set(loss._call_operands())


def test_code_stays_readable():
    """The vocabulary stays small, counted in statements, so that nothing is gained by packing; files and functions short."""
    vocabulary = (
        "graph language implementations primitives formula calculus printing reduction domains facts errors policy registry declaration "
        "loss forms names traced plan plans validation dtypes families/base"
    )
    paths = {ROOT / f"src/losskit/{name}.py" for name in vocabulary.split()}
    trees = {path: ast.parse(path.read_text()) for path in (ROOT / "src").rglob("*.py")}
    assert sum(isinstance(node, ast.stmt) for path in paths for node in ast.walk(trees[path])) < 2700
    for path, tree in trees.items():
        if path.name == "functional.py":  # generated
            continue
        assert len(path.read_text().splitlines()) <= 400, f"{path.name} is more than a few screens"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not node.name.endswith("_kernel"):  # of Triton
                arguments = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
                assert arguments < 20 or "gpu" in path.parts, f"{path.name}: {node.name} takes too many arguments"
                assert (node.end_lineno or 0) - node.lineno < 80, f"{path.name}: {node.name} is longer than a screen"
    for path in (ROOT / "csrc").glob("*.*"):
        assert len(path.read_text().splitlines()) <= 450, f"{path.name} is more than a few screens"


def test_files_around_the_package_stay_short():
    folders = "tests tools benchmarks demo examples backend".split()
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 150
    long = {str(path.relative_to(ROOT)): n for path in paths if (n := len(path.read_text().splitlines())) > 400}
    assert not long, f"more than a few screens; cut them along their ideas: {long}"


def test_why_names_the_reason():
    x = torch.zeros(2)
    criterion = losskit.MSELoss()
    assert losskit.why(criterion, x, x).implementation == "fused CPU kernel"
    meta = losskit.why(criterion, x.to("meta"), x.to("meta"))
    assert meta.implementation == "eager formula"
    assert "meta" in meta.reason
    with torch.enable_grad():
        choice = losskit.why(criterion, x, x, sample_weight=torch.ones(2, requires_grad=True))
    assert "gradient by a weight" in choice.reason


def test_device_without_a_kernel_runs_the_formula():
    """Shapes and dtypes flow on a device that has no kernel at all."""
    x = torch.empty(3, 4, device="meta", requires_grad=True)
    loss = losskit.HuberLoss()(x, torch.empty(3, 4, device="meta"))
    loss.backward()
    assert loss.shape == ()
    assert x.grad.shape == (3, 4)
