"""Cards, curves and lines of losses with words, with what may be missing, and with parameters without a default."""

import json

import pytest
import torch
from torch import Tensor

import losskit
from losskit import Case, Operand, PointwiseLoss, nonnegative, param, positive
from losskit.formula import absolute, where
from losskit.machine import reason
from losskit_guide.card import card_of, catalogue
from losskit_guide.lines import line, lines_of, link, of_card


class ShapedLossOfTest(PointwiseLoss):
    """An absolute error of a chosen shape, with an optional offset and a scale that must be given.

    Choose it in tests. Prefer MSELoss elsewhere.
    """

    scale: float = param(domain=positive, doc="The scale.")
    shape: str = param(default="line", choices=("line", "square"), doc="The shape.")
    least: float | Tensor | None = param(default=None, domain=nonnegative, doc="The least error.")
    steepness: float | Tensor = param(default=1.0, domain=positive, doc="The steepness.")

    operands = {
        "input": Operand("Predictions."),
        "target": Operand("True values."),
        "offset": Operand("What is added to the target.", optional=True),
    }
    cases = [Case(input=3.0, target=1.0, scale=2.0, value=1.0, source="by hand")]

    @staticmethod
    def value(input, target, offset, scale, shape, least, steepness):
        d = steepness * absolute(input - (target if offset is None else target + offset)) / scale
        d = d * d if shape == "square" else d
        return d if least is None else where(d < least, least, d)


CARD = losskit.explain(ShapedLossOfTest)


def test_a_setting_is_words_and_what_is_there():
    assert CARD.usual == {"shape": "line", "least": False, "offset": False}
    assert CARD.curve.switches == {"shape": ["line", "square"], "least": [False, True], "offset": [False, True]}
    assert len(CARD.variants) == len(CARD.curve.variants) == 8
    assert CARD.setting({"least": 0.0, "shape": "square", "scale": 3.0}) == {
        **CARD.usual,
        "least": True,
        "shape": "square",
    }
    assert losskit.explain("mse_loss").usual == {}


def test_a_card_is_data():
    data = json.loads(json.dumps(CARD.to_dict(), allow_nan=False))
    assert card_of(data).usual == CARD.usual
    known = {p["name"]: p for p in data["parameters"]}
    assert known["scale"]["required"] and known["scale"]["default"] is None
    assert known["shape"]["range"] == "'line', 'square'"
    assert (known["least"]["tensor"], known["least"]["none"], known["least"]["required"]) == (True, True, False)


def test_a_card_says_how_pairs_become_what_the_formula_speaks_of():
    card = losskit.explain("circle_loss")
    pairs = card.pairs
    assert (pairs.pairing, pairs.measure, pairs.both_ways, pairs.needs) == ("labels", "cosine", False, "both")
    assert {side: term.arguments for side, term in pairs.terms.items()} == {
        "positive": ["similarity", "margin", "gamma"],
        "negative": ["similarity", "margin", "gamma"],
    }
    assert all(term.value["javascript"] and term.gradients["similarity"]["python"] for term in pairs.terms.values())
    assert card_of(json.loads(json.dumps(card.to_dict(), allow_nan=False))).pairs == pairs
    assert losskit.explain("clip_loss").pairs.both_ways
    assert losskit.explain("mse_loss").pairs is None


def test_a_card_tells_what_may_be_set():
    text = " ".join(str(CARD).split())
    assert "Formula, shape='line', without least, without offset" in text
    assert "scale (no default): The scale." in text
    assert "shape = 'line', one of 'line', 'square': The shape." in text
    own = losskit.explain(ShapedLossOfTest(2.0, shape="square", least=0.5))
    assert own.values == {"scale": 2.0, "shape": "square", "least": 0.5, "steepness": 1.0}
    assert "Formula, shape='square', with least, without offset" in str(own)


@pytest.mark.parametrize("given", [{}, {"shape": "square"}, {"least": 0.5}, {"least": 0.0, "shape": "square"}])
def test_a_curve_is_the_one_of_an_instance(given):
    one = of_card(losskit.explain(ShapedLossOfTest(2.0, **given)))
    for x in (-1.0, 0.25, 3.0):
        expected = ShapedLossOfTest(2.0, **given)(torch.tensor(x), torch.tensor(0.0))
        assert one.at(x)[0] == pytest.approx(expected.item())


def test_what_has_no_default_is_that_of_the_first_case():
    assert ShapedLossOfTest._needed() == {"scale": 2.0}
    assert next(g.value for g in CARD.curve.given if g.name == "scale") == 2.0
    assert reason("shaped_loss_of_test", "float32", "cpu", "3,4").implementation


def test_lines_take_words():
    hinge = line("dpo_loss:loss_type=hinge,beta=0.5")
    assert hinge.label == "dpo_loss, loss_type=hinge, beta=0.5"
    assert hinge.at(0.5) == (0.75, -0.5)
    assert line("dpo_loss", loss_type="apo_zero").at(0.0)[0] == 1.0
    assert [one.settings for one in lines_of(["mse_loss", "dpo_loss"], {"loss_type": "hinge"})] == [
        {},
        {"loss_type": "hinge"},
    ]
    with pytest.raises(ValueError, match=r"loss_type must be one of sigmoid, .*, got 'hing'\. Did you mean hinge\?"):
        line("dpo_loss:loss_type=hing")
    figure = losskit.plot(
        "dpo_loss:loss_type=discopop,tau=0.2", losskit.DPOLoss(loss_type="robust", label_smoothing=0.1)
    )
    assert len(figure.axes) == 2


def test_lines_take_operands_that_may_be_missing():
    assert not line("grpo_loss").variant.switches["ref_log_prob"]
    assert line("grpo_loss:ref_log_prob=-1,beta=0.5").variant.switches["ref_log_prob"]
    assert line("grpo_loss:ref_log_prob=0").variant.switches["ref_log_prob"]
    assert not line("grpo_loss:ref_log_prob=none").variant.switches["ref_log_prob"]


def test_a_link_has_words_and_what_is_there():
    lines = [line("dpo_loss:loss_type=hinge,beta=0.5"), line("grpo_loss:ref_log_prob=-1,loss_type=cispo")]
    assert link(lines) == (
        "#loss=dpo_loss:beta=0.5,loss_type=hinge&loss=grpo_loss:ref_log_prob=-1,+ref_log_prob,loss_type=cispo"
    )
    assert link([line("dpo_loss:loss_type=sigmoid")]) == "#loss=dpo_loss"


def test_a_number_without_effect_is_no_argument_of_a_curve():
    arguments = {v.switches["loss_type"]: v.arguments for v in catalogue()["dpo_loss"].curve.variants}
    assert [word for word, names in arguments.items() if "tau" in names] == ["discopop"]
    assert [word for word, names in arguments.items() if "label_smoothing" in names] == [
        "sigmoid",
        "robust",
        "exo_pair",
    ]
