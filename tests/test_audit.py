"""`losskit.audit`: it finds the mistake of every broken loss, and blames no sound one."""

import json
import pickle

import broken_calls
import broken_losses
import pytest
import torch
from tiers import full, rest
from torch import nn

import losskit
import losskit.testing
from losskit.audit.findings import CHECKS
from losskit_guide import verdicts
from losskit_guide.cli import app

TORCH = (
    "L1Loss NLLLoss CTCLoss KLDivLoss MSELoss BCELoss BCEWithLogitsLoss HuberLoss SmoothL1Loss SoftMarginLoss "
    "CrossEntropyLoss CosineEmbeddingLoss MarginRankingLoss MultiLabelMarginLoss HingeEmbeddingLoss MultiMarginLoss "
    "TripletMarginLoss TripletMarginWithDistanceLoss MultiLabelSoftMarginLoss PoissonNLLLoss GaussianNLLLoss"
).split()
# Faults of torch that the audit finds, and that are true: exp overflows from 88.75 on.
TRUE_FAULTS = {("SoftMarginLoss", "scales")}
FEW = {"MSELoss", "CrossEntropyLoss", "DiceLoss", "InfoNCELoss", "TripletMarginLoss"}
OWN = [cls for cls in losskit.list_losses().values() if cls.__module__.startswith("losskit.")]


@pytest.mark.parametrize("one", broken_losses.BROKEN, ids=str)
def test_a_mistake_is_found(one):
    found = losskit.audit(one.loss, *one.example, only=[one.check])
    assert [x for x in found.findings if x.verdict in one.verdicts], str(found)


@pytest.mark.parametrize("one", [x for x in broken_losses.BROKEN if x.sound is not None], ids=str)
def test_its_sound_twin_is_not_blamed(one):
    found = losskit.audit(one.sound, *one.example, only=[one.check])
    assert not [x for x in found.findings if x.verdict in one.verdicts or "raised" in x.data], str(found)


def test_each_check_has_a_broken_loss():
    known = {one.check for one in broken_losses.BROKEN}
    assert CHECKS.keys() - known == {"threads", "cost"}
    assert len(broken_losses.BROKEN) >= 40


def blamed(loss, **options):
    found = losskit.audit(loss, **options)
    assert not [x for x in found.findings if "raised" in x.data], str(found)
    return {x.check for x in found.faults}, found


@pytest.mark.parametrize("name", TORCH)
def test_no_false_alarm_on_torch(name):
    checks, found = blamed(getattr(nn, name), quick=True)
    assert {(name, check) for check in checks} == {x for x in TRUE_FAULTS if x[0] == name}, str(found)


@pytest.mark.parametrize(
    "loss", rest(OWN, lambda cls: cls.__name__ in FEW, "audit: of every built-in loss"), ids=lambda cls: cls.name
)
def test_no_false_alarm_on_losskit(loss):
    checks, found = blamed(loss, quick=True)
    assert not checks, str(found)


@full("audit: compiled, exported and in threads, of every built-in loss")
@pytest.mark.parametrize("loss", OWN, ids=lambda cls: cls.name)
def test_no_false_alarm_on_losskit_in_full(loss):
    slow = [name for name, check in CHECKS.items() if check.slow]
    checks, found = blamed(loss, only=slow)
    assert not checks, str(found)


def test_the_loss_is_not_harmed():
    """Neither its state, nor the operands, nor the generators, nor settings."""
    loss = broken_calls.Remembers()
    x, t = torch.randn(4, 3), torch.randn(4, 3)
    copies = x.clone(), t.clone()
    torch.manual_seed(7)
    wanted = torch.randn(3)
    torch.manual_seed(7)
    losskit.audit(loss, x, t, quick=True)
    assert torch.equal(torch.randn(3), wanted)
    assert float(loss.scale) == 0.0
    losskit.audit(broken_calls.writes_into_the_target, x, t, quick=True)
    assert torch.equal(x, copies[0])
    assert torch.equal(t, copies[1])


def test_a_function_that_keeps_tensors_aborts_nothing():
    """The tensors of a GPU that there is not stay within their check."""
    found = losskit.audit(broken_calls.mean_of_all_batches, *broken_losses.NUMBERS, quick=True)
    assert {"determinism", "state"} & {one.check for one in found.faults}


def test_a_counterexample_runs():
    """The call of a finding is code that shows it."""
    one = next(x for x in broken_losses.BROKEN if x.name == "focal_with_the_logarithm_of_0")
    found = losskit.audit(one.loss, *one.example, only=["scales"])
    value = eval(found.faults[0].call, {"torch": torch, one.name: one.loss})
    assert not value.isfinite()


def test_examples_are_found():
    assert "class scores (N, C)" in losskit.audit(broken_losses.cross_entropy, only=["shape"]).example
    assert "binary logits" in losskit.audit(broken_losses.bce, only=["shape"]).example
    assert "numbers (N,)" in losskit.audit(broken_losses.mse, only=["shape"]).example


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: losskit.audit(broken_losses.mse, torch.zeros(3), torch.zeros(4)), "operands that the loss takes"),
        (lambda: losskit.audit(lambda a, b, c, d, e: a, only=["shape"]), "no usual operands fit"),
        (lambda: losskit.audit(broken_losses.mse, only=["gradients"]), "only must be names of"),
        (lambda: losskit.audit(broken_losses.mse, skip="gradient"), "a list of names"),
        (lambda: losskit.audit(nn.Linear), "an instance, or a class without arguments"),
        (lambda: losskit.audit(3), "a loss, a module or a function"),
    ],
)
def test_refusals(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_check_loss():
    losskit.testing.check_loss(losskit.MSELoss, quick=True)
    bad = broken_losses.wrong_factor
    with pytest.raises(AssertionError, match="the slope of the value is"):
        losskit.testing.check_loss(bad, *broken_losses.NUMBERS, quick=True)
    losskit.testing.check_loss(bad, *broken_losses.NUMBERS, quick=True, allow=["gradient"])
    with pytest.raises(AssertionError, match="broadcast"):
        losskit.testing.check_loss(broken_losses.mse, *broken_losses.NUMBERS, strict=True, quick=True)


def test_text_data_and_page(tmp_path):
    found = losskit.audit(broken_losses.overflows_in_exp, *broken_losses.LABELS, quick=True)
    text = str(found)
    assert "FAULT  scales" in text
    assert "float32" in text
    data = found.to_dict()
    assert not data["sound"]
    json.dumps(data)
    page = found.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "overflows_in_exp" in page
    assert "http" not in page
    assert "NaN" in page
    assert "nothing wrong" in verdicts.headline(losskit.audit(losskit.MSELoss, only=["shape"]))
    assert pickle.loads(pickle.dumps(found)).name == found.name


def run(capsys, *arguments):
    try:
        code = app(["audit", *map(str, arguments)], standalone_mode=False)
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_losses.py").write_text(
        "import torch\n"
        "def half(input, target):\n    return ((input - target) ** 2).mean(0)\n"
        "class Fine(torch.nn.MSELoss):\n    pass\n"
        "example = torch.randn(4, 3), torch.randn(4, 3)\n"
    )
    code, out, _ = run(capsys, "my_losses:half", "--example", "my_losses:example", "--only", "shape")
    assert (code, "FAULT  shape" in out) == (1, True)
    code, out, _ = run(
        capsys, "my_losses.py:Fine", "--example", "torch.randn(4, 3), torch.randn(4, 3)", "--quick", "--html", "a.html"
    )
    assert (code or 0, (tmp_path / "a.html").exists()) == (0, True)
    code, out, _ = run(capsys, "huber_loss:delta=2", "--only", "gradient", "--json")
    assert json.loads(out)["sound"]
    for bad, said in (
        (["my_losses:nothing"], "There are half"),
        (["no_such_module:x"], "cannot be imported"),
        (["none.py:x"], "There is no such file"),
        (["my_losses:half", "--example", "torch.rand("], "raises SyntaxError"),
        (["my_losses:half", "--only", "nothing"], "only must be names of"),
    ):
        code, _, err = run(capsys, *bad)
        assert code == 2
        assert said in err
