"""Which losses fit a target: what is seen, what is advised, and that a loss takes what it is advised for."""

import pytest
import torch

import losskit
from losskit import advice

draw = torch.Generator().manual_seed(0)
NORMAL = torch.randn(2000, generator=draw)
TARGETS = {
    "numbers": (NORMAL, "numbers", "mse_loss"),
    "wild": (torch.cat([NORMAL, 100 * NORMAL[:10]]), "numbers", "huber_loss"),
    "labels": ((NORMAL > 0).float(), "labels", "binary_cross_entropy_with_logits"),
    "bool": (NORMAL > 0, "labels", "binary_cross_entropy_with_logits"),
    "rare labels": ((NORMAL > 2).float(), "labels", "sigmoid_focal_loss"),
    "signs": (NORMAL.sign(), "signs", "soft_margin_loss"),
    "classes": (torch.randint(0, 7, (2000,), generator=draw), "classes", "cross_entropy"),
    "classes from 1": (torch.randint(1, 4, (2000,), generator=draw), "classes", "cross_entropy"),
    "counts": ((5 + NORMAL).mul(20).round().clamp(min=0), "counts", "negative_binomial_nll_loss"),
    "amounts": (NORMAL.exp(), "amounts", "gamma_nll_loss"),
    "amounts with zeros": (NORMAL.exp() * (NORMAL > -1), "amounts", "tweedie_deviance_loss"),
    "shares": (NORMAL.sigmoid(), "shares", "binary_cross_entropy_with_logits"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_advised(name):
    target, kind, first = TARGETS[name]
    found = losskit.advise(target)
    assert found.look.kind == kind
    assert found.losses[0].loss == first
    assert all(one.code.split("(")[0].removeprefix("losskit.") in losskit.losses.__all__ for one in found.losses)
    assert first in str(found)


@pytest.mark.parametrize("name", TARGETS)
def test_a_loss_takes_what_it_is_advised_for(name):
    target = TARGETS[name][0].float()
    for one in losskit.advise(TARGETS[name][0]).losses:
        domain = losskit.get(one.loss).operands["target"].domain if one.loss != "cross_entropy" else None
        assert domain is None or not domain.outside(target.double()).any(), one.loss


def test_reasons_are_facts():
    """What is advised against wild numbers is robust by its declaration."""
    for name in ("huber_loss", "l1_loss"):
        assert losskit.get(name).facts.lipschitz is not None
    assert losskit.get("mse_loss").facts.lipschitz is None
    assert {rule[1] for rule in advice.RULES} <= set(losskit.list_losses())


def test_a_constant_and_times():
    constant = losskit.advise(torch.zeros(5))
    assert "nothing to learn" in constant.seen[1]
    assert constant.losses == []
    times = losskit.advise(NORMAL.exp(), (NORMAL > 0).float())
    assert [one.loss for one in times.losses] == ["cox_ph_loss", "logistic_hazard_loss"]
    assert "censored" in times.seen[1]


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: losskit.advise(torch.zeros(2, 2)), "a tensor of shape (N,), got shape (2, 2)"),
        (lambda: losskit.advise(torch.zeros(0)), "a tensor of shape (N,)"),
        (lambda: losskit.advise([1.0]), "got list"),
        (lambda: losskit.advise(torch.tensor([1.0, float("nan")])), "target is NaN at index (1,)"),
        (lambda: losskit.advise(NORMAL.exp(), NORMAL), "0 and 1, one for each row"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(ValueError) as problem:  # noqa: PT011  # the sentence is compared
        call()
    assert said in str(problem.value)


def test_the_command(tmp_path, capsys):
    from losskit_guide.cli import app

    path = tmp_path / "data.csv"
    path.write_text("kind,days,died\n" + "cat,3.5,1\ndog,2.5,0\ncat,1.5,1\n" * 10)
    for arguments, said in (
        (["--target", "kind"], "binary_cross_entropy_with_logits"),
        (["--target", "days", "--event", "died"], "cox_ph_loss"),
        (["--target", "days", "--json"], '"losses"'),
    ):
        app(["advise", str(path), *arguments], standalone_mode=False)
        assert said in capsys.readouterr().out
