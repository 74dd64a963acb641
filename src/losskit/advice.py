"""Which losses fit a target: what its numbers look like, and the losses whose declared domain has them all.

What numbers cannot say is named: whether classes have an order, what a mistake costs, whether times were cut off. A
rule is a line of `RULES`: when it holds, the loss, why, and the line of code to begin with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from losskit.errors import error
from losskit.registry import get

FEW = 50  # distinct whole numbers from 0 on that may be classes
FAR = 5.0  # standard deviations of the middle half beyond which a number is wild


@dataclass(frozen=True)
class Look:
    """What the numbers of a target look like.

    kind: "constant", "labels" (0 and 1), "signs" (-1 and 1), "classes", "counts", "shares" (within [0, 1]),
    "amounts" (none below 0) or "numbers". wild: the share of numbers that are far from the others. skewed: whether
    their mean is far above their median. zeros: the share of exact zeros. rare: that of the rarest class.
    """

    kind: str
    rows: int
    distinct: int
    low: float
    high: float
    middle: float
    spread: float
    wild: float
    skewed: bool
    zeros: float
    rare: float
    dispersion: float  # variance over mean


@dataclass
class Advice:
    """A loss that fits, why, and the line of code to begin with."""

    loss: str
    why: str
    code: str


@dataclass
class Advised:
    """What `losskit.advise` has found; `print` it."""

    look: Look
    seen: list[str]
    losses: list[Advice]
    unseen: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = ["what the target looks like:", *(f"  {x}" for x in self.seen), "", "losses that fit:"]
        for one in self.losses:
            lines += [f"  {one.loss}: {one.why}", f"      {one.code}"]
        lines += ["", "what the numbers cannot say:", *(f"  {x}" for x in self.unseen)]
        return "\n".join(lines)

    __repr__ = __str__


def advise(target: Tensor, event: Tensor | None = None) -> Advised:
    """Which losses fit a target, with reasons and a line of code to begin with.

    Choose it to begin with a data set. Prefer the guide "choosing a loss" when you know what a mistake costs: numbers
    do not say it.

    Args:
        target: The targets of a data set, one number for each row.
        event: For times to an event, 1 where it happened and 0 where the row was censored.

    Returns:
        What the target looks like, the losses in the order of the advice, and what cannot be seen.

    Raises:
        ValueError: The target is empty, has more than one dimension, or is not finite.

    Example:
        >>> import losskit, torch
        >>> losskit.advise(torch.tensor([0, 1, 0, 0, 1, 0])).losses[0].code
        'losskit.BCEWithLogitsLoss()'
    """
    if not isinstance(target, Tensor) or target.ndim != 1 or target.numel() == 0:
        got = f"shape {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise error("parameter", loss="advise", argument="target", expected="a tensor of shape (N,)", got=got)
    values = target.detach().double()
    if not bool(values.isfinite().all()):
        place = int((~values.isfinite()).nonzero()[0])
        raise error("not_a_number", loss="advise", argument="target", index=(place,),
                    count=int((~values.isfinite()).sum()))  # fmt: skip
    look = _look(values)
    if event is not None:
        return _of_times(values, event, look)
    found = [Advice(loss, why(look), code(look)) for holds, loss, why, code in RULES if holds(look)]
    fitting = [one for one in found if _takes(one.loss, values)]
    return Advised(look, _seen(look), fitting, _unseen(look))


def _look(values: Tensor) -> Look:
    low, high, middle = float(values.min()), float(values.max()), float(values.median())
    quarters = torch.quantile(values[:: max(1, len(values) // 1_000_000)], torch.tensor([0.25, 0.75]).double())
    spread = float(quarters[1] - quarters[0]) / 1.349 or float(values.std(correction=0))
    far = ((values - middle).abs() > FAR * spread).double().mean()
    distinct, counts = values.unique(return_counts=True)
    whole = bool((values == values.floor()).all())
    mean = float(values.mean())
    kind = "numbers"
    if len(distinct) == 1:
        kind = "constant"
    elif len(distinct) == 2 and low == 0 and high == 1:
        kind = "labels"
    elif len(distinct) == 2 and low == -1 and high == 1:
        kind = "signs"
    elif whole and low >= 0:
        dense = len(distinct) == high - low + 1 and low in (0, 1)
        kind = "classes" if dense and len(distinct) <= FEW and len(values) >= 5 * len(distinct) else "counts"
    elif low >= 0 and high <= 1:
        kind = "shares"
    elif low >= 0:
        kind = "amounts"
    skewed = low >= 0 and mean > 1.3 * middle and kind not in ("labels", "classes")
    return Look(
        kind, len(values), len(distinct), low, high, middle, spread, float(far), skewed,
        float((values == 0).double().mean()), float(counts.min()) / len(values),
        float(values.var(correction=0)) / mean if mean > 0 else math.nan,
    )  # fmt: skip


def _takes(loss: str, values: Tensor) -> bool:
    """Whether the loss's own domain has all of the target."""
    cls: Any = get(loss)
    declared = cls.operands.get("target")
    return declared is None or not bool(declared.domain.outside(values).any())


def _seen(look: Look) -> list[str]:
    told = {
        "constant": "one number only: there is nothing to learn", "labels": "0 and 1: labels of yes or no",
        "signs": "-1 and 1: signs", "classes": f"{look.distinct} whole numbers from {look.low:g} on: classes or counts",
        "counts": "whole numbers, none below 0: counts", "shares": "numbers in [0, 1]: shares or probabilities",
        "amounts": "numbers, none below 0: amounts", "numbers": "numbers of both signs" if look.low < 0 else "numbers",
    }[look.kind]  # fmt: skip
    seen = [f"{look.rows} rows, {look.distinct} distinct, {look.low:g} to {look.high:g}", told]
    if look.kind in ("numbers", "amounts", "shares", "counts") and look.wild:
        seen.append(f"{look.wild:.2%} are more than {FAR:g} standard deviations of the middle half away: wild")
    if look.skewed:
        seen.append("the mean is far above the median: skewed")
    if look.kind in ("counts", "amounts") and look.zeros > 0.05:
        seen.append(f"{look.zeros:.0%} are exactly 0")
    if look.kind == "counts" and look.dispersion > 1.5:
        seen.append(f"the variance is {look.dispersion:.3g} times the mean: more than Poisson's")
    if look.kind in ("labels", "classes", "signs") and look.rare < 0.1:
        seen.append(f"the rarest class has {look.rare:.2%} of the rows")
    return seen


def _unseen(look: Look) -> list[str]:
    wild = ", and whether the wild rows are mistakes of the data or what matters most" if look.wild else ""
    unseen = [f"what a mistake costs{wild}"]
    if look.kind == "classes":
        unseen.append(
            "whether the classes have an order (then losskit.CORNLoss, losskit.SquaredEMDLoss), or are counts"
        )
    if look.kind in ("labels", "classes"):
        unseen.append("whether labels are wrong now and then, and whether rare classes should count more")
    if look.kind in ("amounts", "counts"):
        unseen.append("whether the numbers are times that were cut off (give the events)")
    return unseen


def _of_times(values: Tensor, event: Tensor, look: Look) -> Advised:
    if event.shape != values.shape or not bool(((event == 0) | (event == 1)).all()):
        raise error("parameter", loss="advise", argument="event", expected="0 and 1, one for each row",
                    got=f"shape {tuple(event.shape)}")  # fmt: skip
    share = float(event.double().mean())
    seen = [f"{look.rows} times from {look.low:g} to {look.high:g}", f"{share:.0%} ended in the event, the others were "
            "censored"]  # fmt: skip
    losses = [
        Advice("cox_ph_loss", "only the order of risks matters, and large batches fit", "losskit.CoxPHLoss()"),
        Advice("logistic_hazard_loss", "probabilities of surviving each interval; cut the times into intervals first",
               "losskit.LogisticHazardLoss()"),
    ]  # fmt: skip
    return Advised(look, seen, losses, ["whether censoring depends on the risk: no loss here allows for that"])


Rule = tuple[Callable[[Look], bool], str, Callable[[Look], str], Callable[[Look], str]]


def _of(*kinds: str) -> Callable[[Look], bool]:
    return lambda look: look.kind in kinds


def _says(text: str) -> Callable[[Look], str]:
    return lambda look: text


RULES: list[Rule] = [
    (lambda x: x.kind == "labels" and x.rare < 0.1, "sigmoid_focal_loss",
     _says("most rows are easy ones of the common label"), _says("losskit.SigmoidFocalLoss(alpha=0.75)")),
    (_of("labels"), "binary_cross_entropy_with_logits",
     lambda x: "scores of yes or no" + ("; `pos_weight` raises the rare label" if x.rare < 0.1 else ""),
     lambda x: "losskit.BCEWithLogitsLoss()" if x.rare >= 0.1
     else "losskit.BCEWithLogitsLoss(pos_weight=torch.tensor(...))"),
    (_of("signs"), "soft_margin_loss", _says("scores of signs, as a probability"), _says("losskit.SoftMarginLoss()")),
    (_of("signs"), "hinge_loss", _says("scores of signs, as a margin"), _says("losskit.HingeLoss()")),
    (_of("classes"), "cross_entropy", lambda x: f"scores of {x.distinct} classes" + (
        "" if x.low == 0 else "; class indices begin at 0: subtract 1"), _says("losskit.CrossEntropyLoss()")),
    (lambda x: x.kind == "classes" and x.rare < 0.05, "logit_adjusted_cross_entropy",
     _says("some classes are rare, and count as much as the others in what is measured"),
     _says("losskit.LogitAdjustedCrossEntropyLoss(prior=shares_of_the_classes)")),
    (lambda x: x.kind == "counts" and x.dispersion > 1.5, "negative_binomial_nll_loss",
     _says("counts that vary more than Poisson's"), _says("losskit.NegativeBinomialNLLLoss()")),
    (lambda x: x.kind == "counts" and x.zeros > 0.3, "zero_inflated_negative_binomial_nll_loss",
     _says("many counts are 0, perhaps for a reason of their own"),
     _says("losskit.ZeroInflatedNegativeBinomialNLLLoss()")),
    (lambda x: x.kind == "counts" or (x.kind == "classes" and x.low == 0), "poisson_nll_loss",
     lambda x: ("if they are " if x.kind == "classes" else "") + "counts; the model predicts the logarithm of the rate",
     _says("losskit.PoissonNLLLoss()")),
    (_of("shares"), "binary_cross_entropy_with_logits", _says("shares are soft labels: the model gives a score"),
     _says("losskit.BCEWithLogitsLoss()")),
    (lambda x: x.kind == "amounts" and x.zeros > 0.05, "tweedie_deviance_loss",
     _says("amounts of which some are exactly 0"), _says("losskit.TweedieDevianceLoss(p=1.5)")),
    (lambda x: x.kind == "amounts" and x.skewed and x.low > 0, "gamma_nll_loss",
     _says("positive and skewed: errors in per cent"), _says("losskit.GammaNLLLoss()")),
    (lambda x: x.kind == "amounts" and x.skewed, "msle_loss", _says("amounts over orders of magnitude"),
     _says("losskit.MSLELoss()")),
    (lambda x: x.kind in ("numbers", "amounts", "shares") and x.wild > 0 and x.zeros < 0.3, "huber_loss",
     _says("some numbers are wild, and should not rule; `delta` is 1.345 times the spread of the errors"),
     lambda x: f"losskit.HuberLoss(delta={1.345 * x.spread:.2g})  # of the target's spread; take that of the errors"),
    (lambda x: x.kind in ("numbers", "amounts", "shares") and x.wild > 0 and x.zeros < 0.3, "l1_loss",
     _says("the best answer is the median, whatever the wild numbers are"), _says("losskit.L1Loss()")),
    (_of("numbers", "amounts", "shares"), "mse_loss",
     lambda x: "the best answer is the mean" + ("; the wild numbers will pull it" if x.wild else ""),
     _says("losskit.MSELoss()")),
    (_of("numbers", "amounts"), "gaussian_nll_loss", _says("where the model should say how sure it is"),
     _says("losskit.GaussianNLLLoss()")),
    (_of("numbers", "amounts", "counts"), "pinball_loss", _says("where a quantile is wanted and not the middle"),
     _says("losskit.PinballLoss(quantile=0.9)")),
]  # fmt: skip
