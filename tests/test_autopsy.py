"""Who pulls: rows by their share of the gradient, from tensors and from files."""

import json

import pytest
import torch
from torch import nn

import losskit
from losskit import tables
from losskit_guide import pulls
from losskit_guide.cli import app

torch.manual_seed(0)
TARGET = torch.randn(200, dtype=torch.float64)
PREDICTION = TARGET + 0.1 * torch.randn(200, dtype=torch.float64)
TARGET[17] += 50.0  # a mistake in the data


def test_the_row_that_pulls():
    found = losskit.autopsy("mse_loss", PREDICTION, TARGET, others=["l1_loss", losskit.HuberLoss(delta=0.5)])
    (worst,) = found.worst(1)
    assert worst.row == 17
    difference = PREDICTION - TARGET
    torch.testing.assert_close(found.losses, difference**2)
    torch.testing.assert_close(found.pulls, (2 * difference / 200).abs())
    assert worst.share == pytest.approx(float(difference[17].abs() / difference.abs().sum()))
    assert float(found.shares.sum()) == pytest.approx(1.0)
    assert found.share_of(0.005) == pytest.approx(worst.share)
    assert found.share_of(1.0) == pytest.approx(1.0)
    assert [one.name for one in found.others] == ["l1_loss", "huber_loss:delta=0.5"]
    assert found.others[0].share_of(0.01) == pytest.approx(0.01)
    assert "1 of 200 rows has" in str(found) or "2 of 200 rows have" in str(found)


def test_the_gradient_is_that_of_the_whole_batch():
    """With its weights, masks and denominator; the criterion is torch's, or a function."""
    weights = torch.tensor([1.0, 2.0, 0.0, 4.0])
    mask = torch.tensor([True, True, True, False])
    x, t = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(4)
    found = losskit.autopsy(losskit.MSELoss(), x, t, sample_weight=weights, mask=mask)
    torch.testing.assert_close(found.pulls, torch.tensor([2.0, 8.0, 0.0, 0.0]).double() / 3.0)
    torch.testing.assert_close(losskit.autopsy(nn.MSELoss(), x, t).pulls, x.double() / 2)
    own = losskit.autopsy(lambda a, b: (a - b) ** 2, x, t)
    torch.testing.assert_close(own.pulls, 2 * x.double())
    scores, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, -100])
    rows = losskit.autopsy(losskit.CrossEntropyLoss(), scores, labels)
    assert rows.pulls[5] == 0
    slope = torch.func.grad(lambda s: nn.functional.cross_entropy(s, labels))(scores)
    torch.testing.assert_close(rows.pulls, slope.double().norm(dim=1), rtol=1e-5, atol=1e-7)
    both = losskit.autopsy("triplet_margin_loss", scores, scores + 1, -scores, by=(0, 1, 2))
    assert both.pulls.shape == (6,)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: losskit.autopsy(lambda a, b: (a - b).mean(), PREDICTION, TARGET), "a number for each of 200 rows"),
        (lambda: losskit.autopsy("mse_loss", PREDICTION, TARGET, by=(2,)), "by must be positions"),
        (lambda: losskit.autopsy("mse_loss", PREDICTION.long(), TARGET), "by must be positions"),
        (lambda: losskit.autopsy("mse_loss", PREDICTION, TARGET, columns={"id": [1]}), "200 values"),
        (lambda: losskit.autopsy("mse_loss", PREDICTION, TARGET).share_of(0.0), "fraction must be"),
        (lambda: losskit.autopsy("mse_loss", PREDICTION, TARGET[:3]), "must have the same shape"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_nothing_and_nan_are_told():
    assert "No row of 3 pulls" in str(losskit.autopsy("mse_loss", torch.zeros(3), torch.zeros(3)))
    bad = losskit.autopsy("mse_loss", torch.tensor([1.0, float("nan")]), torch.zeros(2))
    assert "1 of 2 rows have a gradient that is NaN" in str(bad)
    assert bad.worst(1)[0].row == 1


def test_the_page(tmp_path):
    columns = {"name": [f"<b>{i}</b>" for i in range(200)]}
    found = losskit.autopsy("mse_loss", PREDICTION, TARGET, others=["l1_loss"], columns=columns)
    text = found.save(tmp_path / "who.html").read_text(encoding="utf-8")
    assert "<b>17</b>" not in text, "what a file says is no markup"
    assert "&lt;b&gt;17&lt;/b&gt;" in text
    assert text.count("data:image/png;base64,") == 1
    assert "http" not in text


# ---------------------------------------------------------------------------------------------------------
# Files


def run(capsys, *arguments):
    try:
        code = app(["autopsy", *map(str, arguments)], standalone_mode=False)
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def numbers(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("id,y,p\n1,1.0,1.1\n2,2.0,2.2\n3,3,2.9\n4,40,4.0\n")
    return path


@pytest.fixture
def animals(tmp_path):
    path = tmp_path / "animals.csv"
    path.write_text("label,score_cat,score_dog,note\ncat,2.0,0.1,a\ndog,0.3,0.2,\ncat,-1,3,b\n")
    return path


def test_a_file_of_numbers(capsys, numbers, tmp_path):
    page = tmp_path / "page.html"
    _, out, _ = run(
        capsys, numbers, "--target", "y", "--prediction", "p", "--loss", "huber_loss:delta=2", "--other", "mse",
        "--html", page,
    )  # fmt: skip
    assert out.splitlines()[3].split() == ["3", "40", "4", "70", "0.5", "83.3%"]
    assert "mse_loss" in out
    assert page.exists()
    _, out, _ = run(capsys, numbers, "--target", "y", "--prediction", "p", "--loss", "mse", "--json")
    assert json.loads(out)["worst"][0]["row"] == 3


def test_a_file_of_classes(capsys, animals):
    both = ["--prediction", "score_cat", "--prediction", "score_dog"]
    _, out, _ = run(capsys, animals, "--target", "label", *both, "--loss", "cross_entropy")
    assert out.splitlines()[3].split()[:2] == ["2", "cat"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--target", "z", "--prediction", "p", "--loss", "mse"], "there is no column 'z'. There are id, y, p."),
        (["--target", "y", "--prediction", "pp", "--loss", "mse"], "Did you mean p?"),
        (["--target", "y", "--prediction", "p", "--loss", "hubert"], "Did you mean huber_loss?"),
        (["--target", "y", "--prediction", "p", "--loss", "cross_entropy"], "a column of scores for each class"),
        (["--target", "y", "--prediction", "p", "--loss", "bce"], "input must be in [0, 1], got 1.1"),
    ],
)
def test_what_the_command_refuses(capsys, numbers, arguments, said):
    code, _, err = run(capsys, numbers, *arguments)
    assert code == 2
    assert said in err


def test_tables_that_cannot_be_read(tmp_path, animals):
    table = tables.read(animals)
    for call, said in (
        (lambda: tables.read(tmp_path / "none.csv"), "there is no file"),
        (lambda: tables.read(tmp_path / "none.xls"), "must end in .csv"),
        (lambda: tables.numbers(table, "label"), "must be numbers, it has String: 'cat'"),
        (
            lambda: tables.numbers(tables.read(_written(tmp_path, "b,c\n1,2\n,3\n")), "b"),
            "the first in row 1",
        ),
        (lambda: tables.classes(table, "note", ["score_cat"]), "no prediction column has its name"),
        (lambda: tables.classes(table, "score_cat", ["score_cat"]), "must be classes, it has"),
        (lambda: tables.read(_written(tmp_path, "a\n")), "has no rows"),
    ):
        with pytest.raises(ValueError) as problem:  # noqa: PT011  # the sentence is compared
            call()
        assert said in str(problem.value)


def _written(folder, text):
    path = folder / "written.csv"
    path.write_text(text)
    return path


def test_headlines():
    found = losskit.autopsy("mse_loss", torch.ones(2000), torch.zeros(2000))
    assert pulls.headline(found) == "1% of the rows have 1% of the pull."
