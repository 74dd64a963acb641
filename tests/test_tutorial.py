"""The tutorial notebook is what the cards, the worked examples and the guides print today, and every cell of it runs."""

import re
import sys
from pathlib import Path

import pytest
from torch import nn

from losskit.loss import registered

pytest.importorskip("matplotlib")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import tutorial

CELLS = tutorial.written()


@pytest.fixture(scope="module")
def fresh():
    """The notebook made anew; the loss that it declares is forgotten."""
    before = dict(registered)
    yield tutorial.notebook()["cells"]
    registered.clear()
    registered.update(before)


def test_cells_are_fresh():
    committed = [(cell["cell_type"], "".join(cell["source"])) for cell in CELLS]
    assert committed == tutorial.cells(), "run python tools/tutorial.py"


def test_lines_of_code_fit_the_page():
    lines = [line for kind, text in tutorial.cells() if kind == "code" for line in text.splitlines()]
    assert not [line for line in lines if len(line) > tutorial.WIDTH]


def printed(cell):
    return "".join(line for output in cell.get("outputs", []) for line in output.get("text", []))


def test_cells_run_and_print_what_the_notebook_shows(fresh):
    """Sums of many float32 numbers may differ in a last digit from machine to machine; words may not."""
    number = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")
    for old, new in zip(CELLS, fresh, strict=True):
        assert number.sub("#", printed(old)) == number.sub("#", printed(new)), "run python tools/tutorial.py"
        assert [float(x) for x in number.findall(printed(old))] == pytest.approx(
            [float(x) for x in number.findall(printed(new))], rel=1e-3
        )
        figures = [[output["output_type"] for output in cell.get("outputs", [])] for cell in (old, new)]
        assert figures[0] == figures[1]


def test_every_loss_of_torch_is_walked_through():
    """Each has its formula, its table of parameters, advice, and the three reductions by hand and by the class."""
    of_torch = {name for name in dir(nn) if name.endswith("Loss")}
    of_torch -= {
        "NLLLoss2d",
        "AdaptiveLogSoftmaxWithLoss",
        "LinearCrossEntropyLoss",
    }  # an old name; layers with weights
    found = {}
    for i, cell in enumerate(CELLS):
        heading = re.match(r"#### (\w+Loss)\n", "".join(cell["source"]))
        if heading:
            found[heading[1]] = i
    assert set(found) == of_torch
    for name, i in found.items():
        text = "".join(CELLS[i]["source"])
        assert "$$" in text, name
        assert "| parameter | default | meaning |" in text, name
        assert "**Best used for:**" in text, name
        assert "**Not recommended for:**" in text, name
        shown = printed(CELLS[i + 3])
        assert f"losskit.{name}(" in "".join(CELLS[i + 3]["source"])
        assert [line.split(",")[0].strip() for line in shown.splitlines()] == [
            reduction for reduction in ("none", "mean", "sum") for _ in range(2)
        ]


def test_what_torch_gets_wrong_is_all_there():
    """Each deviation of the cards, with the numbers of both sides."""
    cells = iter(enumerate(CELLS))
    for card in tutorial.in_torch(True) + tutorial.in_torch(False):
        for deviation in card.deviations:
            i = next(i for i, cell in cells if "".join(cell["source"]).endswith(deviation["reason"]))
            numbers = [float(x) for x in re.findall(r": (\S+)", printed(CELLS[i + 1]))]
            # A half has three digits.
            expected = [float(deviation[side]) for side in ("torch", "losskit")]
            assert numbers == pytest.approx(expected, rel=1e-3, abs=0.0, nan_ok=True), deviation["reason"]


def test_a_wrong_loss_ends_the_notebook(monkeypatch):
    monkeypatch.setattr(tutorial, "cells", lambda: [
        ("code", tutorial.SETUP),
        ("code", 'agree("mean", torch.tensor(1.0), losskit.MSELoss()(torch.ones(2), torch.full((2,), 2.5)))'),
    ])  # fmt: skip
    with pytest.raises(AssertionError, match="not close"):
        tutorial.notebook()
