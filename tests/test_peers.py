"""Other libraries: what a declaration says of them was measured, and is still so where they are installed; names."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import losskit
from losskit.declaration import Peer
from losskit_guide.card import catalogue, find
from losskit_guide.cli import app
from losskit_guide.names import AMBIGUOUS, choices, find_name

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "site"))

import beside  # noqa: E402


def tool():
    """tools/parity.py; tests/parity.py is another file."""
    spec = importlib.util.spec_from_file_location("tools_parity", ROOT / "tools" / "parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parity = tool()
PEERS = [(cls, peer) for cls in parity.the_losses() for peer in cls.peers]
RESULTS = json.loads((ROOT / "docs" / "parity.json").read_text())
HERE = [(cls, peer) for cls, peer in PEERS if peer.library in ("torch", "scipy", "scikit-learn")]


def named(pairs):
    return [pytest.param(cls, peer, id=f"{cls.name}-{peer.library}-{i}") for i, (cls, peer) in enumerate(pairs)]


def test_every_call_has_a_result_and_every_result_a_call():
    declared = [parity._key(parity.key(cls, peer)) for cls, peer in PEERS]
    measured = [parity._key(call) for call in RESULTS["calls"]]
    assert len(set(declared)) == len(declared), "the same call twice"
    assert measured == declared, "docs/parity.json and the declarations differ: run make parity"
    assert set(RESULTS["versions"]) == {peer.library for _, peer in PEERS}


def test_results_are_what_the_declarations_say():
    for (_, peer), call in zip(PEERS, RESULTS["calls"], strict=True):
        loose = replace(peer, agrees=1.1 * peer.agrees)  # a result has one digit
        assert not parity.problem(loose, call), call


@pytest.mark.parametrize(("cls", "peer"), named(HERE))
def test_both_sides(cls, peer):
    """Of libraries that are installed here anyway."""
    if parity.installed(peer.library) is None:
        pytest.skip(f"{peer.library} is not installed")
    assert parity.problem(peer, parity.compare(cls, peer)) == ""


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (Peer("torch", "2 * F.l1_loss(input, target)"), "the value differs by 0.5, declared is that it agrees"),
        (Peer("torch", "F.l1_loss(input.detach(), target) + 0 * input.sum()"), "the gradient differs by 1,"),
        (Peer("torch", "F.l1_loss(input, target)", differs=0.5, why="no reason"), "the value differs by 0.0, declared is 0.5"),
        (Peer("torch", "2 * F.l1_loss(input, target)", differs=0.3, why="twice"), "the value differs by 0.5, declared is 0.3"),
        (Peer("torch", "2 * F.l1_loss(input, target)", differs=0.5, gradient_differs=0.5, why="twice"), ""),
        (Peer("torch", "F.l1_loss(input, target)"), ""),
    ],
)  # fmt: skip
def test_a_lie_is_noticed(peer, message):
    told = parity.problem(peer, parity.compare(losskit.L1Loss, peer))
    assert told.startswith(message) if message else told == ""


def test_a_difference_needs_a_reason():
    with pytest.raises(losskit.DeclarationError, match="a peer that differs needs a `why`: f"):
        Peer("torch", "f(input)", differs=0.5)


def test_shapes_are_compared():
    with pytest.raises(ValueError, match=r"shapes \(6, 5\) there and \(\) here"):
        parity.compare(losskit.L1Loss, Peer("torch", "(input - target).abs()"))


def test_what_is_not_installed_keeps_its_results(tmp_path, monkeypatch, capsys):
    path = tmp_path / "parity.json"
    path.write_text(json.dumps(RESULTS))
    monkeypatch.setattr(parity, "RESULTS", path)
    monkeypatch.setattr(parity, "installed", lambda library: "9.9.9" if library == "torch" else None)
    monkeypatch.setattr(sys, "argv", ["parity.py"])
    assert parity.main() == 0
    after = json.loads(path.read_text())
    assert after["versions"] == {**RESULTS["versions"], "torch": "9.9.9"}
    assert [parity._key(call) for call in after["calls"]] == [parity._key(call) for call in RESULTS["calls"]]
    assert "not installed: coral-pytorch, keras" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------
# Pages


def test_the_pages_are_those_of_the_results():
    printed = beside.pages(catalogue().values())
    there = {path.name: path.read_text().partition("\n")[2] for path in (ROOT / "docs" / "peers").glob("*.md")}
    assert there == printed, "run python tools/generate.py"
    assert "not computed" not in "".join(printed.values())


def test_a_page_has_both_calls_and_the_reason():
    page = beside.pages(catalogue().values())["kornia.md"]
    (row,) = [line for line in page.splitlines() if "alpha=None, reduction='mean'" in line]
    for text in ("[SoftmaxFocalLoss](../loss/softmax_focal_loss.md)", "differs by 0.8", "divides by rows and classes"):
        assert text in row
    section = beside.section(find("softmax_focal_loss"))
    assert "[kornia 0.9.0](../peers/kornia.md)" in section
    assert beside.section(find("expectile_loss")) == ""


def test_a_result_that_is_missing_is_told():
    card = find("l1_loss")
    assert beside.equal(card, {**card.peers[0], "there": "l1(input, target)"}, "value") == "not computed"


def test_show_has_the_calls_of_other_libraries():
    shown = CliRunner().invoke(app, ["show", "QuantileLoss"], env={"COLUMNS": "200"}).stdout
    assert shown.startswith("PinballLoss  pinball_loss")
    assert "also called quantile, quantile regression, check, tilted absolute" in shown
    assert "scikit-learn: sklearn.metrics.mean_pinball_loss(target, input, alpha=0.9)" in shown


# ---------------------------------------------------------------------------------------------------------
# Names

NAMES = [(card.name, card.class_name, *card.aliases) for card in catalogue().values()]


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_names_that_mean_several_losses_are_refused_with_the_choices(name):
    assert find_name(name, NAMES) is None, f"{name} is the name of a loss now: take it out of the table"
    meant = choices(name, NAMES)
    assert meant, f"{name} means none of the losses that exist"
    sentence = f"it may mean {meant}."
    for call in (
        lambda: losskit.get(name),
        lambda: losskit.create({"name": name}),
        lambda: losskit.explain(name),
        lambda: getattr(losskit, name),
        lambda: getattr(losskit.functional, name),
        lambda: find(name),
    ):
        with pytest.raises((LookupError, AttributeError)) as caught:
            call()
        assert caught.value.args[0].endswith(sentence)
    done = CliRunner().invoke(app, ["show", name])
    assert done.exit_code == 2
    assert done.stderr.strip() == f"there is no loss called {name!r}; {sentence}"


def test_choices_are_in_the_style_of_the_question_and_exist():
    assert choices("FocalLoss", NAMES) == (
        "SigmoidFocalLoss (a label for each score) or SoftmaxFocalLoss (one class of several)"
    )
    assert choices("focal_loss", NAMES).startswith("sigmoid_focal_loss (")
    assert choices("FocalLoss", [name for name in NAMES if name[0] != "softmax_focal_loss"]).count("(") == 1
    assert choices("FocalLoss", []) is None
    assert choices("huber", NAMES) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [("QuantileLoss", "pinball_loss"), ("CheckLoss", "pinball_loss"), ("BisquareLoss", "tukey_biweight_loss"),
     ("LorentzianLoss", "cauchy_loss"), ("LeclercLoss", "welsch_loss"), ("BPRLoss", "rank_net_loss"),
     ("GIoULoss", "generalized_box_iou_loss"), ("BalancedSoftmax", "logit_adjusted_cross_entropy"),
     ("AMSoftmaxLoss", "cosface_loss"), ("ASL", "asymmetric_loss"), ("GCE", "generalized_cross_entropy")],
)  # fmt: skip
def test_aliases_lead_to_the_loss(text, name):
    cls = losskit.list_losses()[name]
    assert losskit.get(text) is cls
    assert losskit.create({"name": text}) == cls() or type(losskit.create({"name": text})) is cls
    assert find(text).name == name
    with pytest.raises(AttributeError, match=f"Did you mean losskit.{cls.__name__}, or losskit.functional.{name}"):
        getattr(losskit, text)
