"""The microscope: its truth against mpmath by hand, faults of torch that are known, losskit's map, the lines to paste."""

from __future__ import annotations

import math
from functools import cache

import mpmath
import pytest
import torch
from mpmath import mpf

from losskit import microscope as looking
from losskit.digits import truths
from losskit.machine import magnified
from losskit_guide.card import catalogue
from losskit_guide.lines import Line
from losskit_guide.microscope import (
    BITS,
    INFINITE,
    LOSES,
    NAN,
    RIGHT,
    WHATS,
    WHO,
    WRONG,
    ZERO,
    shown,
)  # fmt: skip

NATIVE = sorted(
    name for name, card in catalogue().items()
    if hasattr(torch.nn.functional, name) and card.curve and looking.sight_of(Line(card, {}))
)  # fmt: skip


@cache
def seen(name, dtype="f32"):
    return magnified(name, dtype)


def stretch(name, dtype, what, kind, who="torch"):
    """The largest stretch of a kind, by its number of points."""
    found = [s for s in seen(name, dtype).stretches if (s.who, s.what, s.kind) == (who, what, kind)]
    assert found, f"{name}: {who}'s {what} is nowhere {kind}"
    ends = [(-math.inf if s.start is None else s.start, math.inf if s.end is None else s.end) for s in found]
    return max(zip(found, ends), key=lambda pair: pair[1][1] - pair[1][0])[0]


# ---------------------------------------------------------------------------------------------------------
# Truth


def softplus(x):
    return mpmath.log1p(mpmath.exp(x)) if x < 1e6 else x


BY_HAND = {  # value and gradient at a number, as mpmath's, written without losskit
    "cross_entropy": lambda x: (softplus(-x), -1 / (1 + mpmath.exp(x)) if x < 1e6 else mpf(0)),
    "binary_cross_entropy": lambda x: (-mpmath.log(x), -1 / x),
    "mse_loss": lambda x: (x * x, 2 * x),
    "log_cosh_loss": lambda x: (abs(x) + mpmath.log1p(mpmath.exp(-2 * abs(x))) - mpmath.log(2), mpmath.tanh(x)),
    "gaussian_nll_loss": lambda x: (x * x / 2, x),
    "poisson_nll_loss": lambda x: (mpmath.exp(x) - x, mpmath.expm1(x)),
    "soft_margin_loss": lambda x: (softplus(-x), -1 / (1 + mpmath.exp(x)) if x < 1e6 else mpf(0)),
    "knowledge_distillation_loss": lambda x: divergence(x),
    "gaussian_crps_loss": lambda x: (
        x * mpmath.erf(x / mpmath.sqrt(2)) + mpmath.sqrt(2 / mpmath.pi) * mpmath.exp(-x * x / 2) - 1 / mpmath.sqrt(mpmath.pi),
        mpmath.erf(x / mpmath.sqrt(2)),
    ),
}  # fmt: skip


def divergence(x):
    """Of two classes: the teacher's margin is 1, the student's x."""
    q, p = 1 / (1 + mpmath.exp(-1)), 1 / (1 + mpmath.exp(-x))
    log_p, log_r = -softplus(-x), -softplus(x)
    value = q * (mpmath.log(q) - log_p) + (1 - q) * (mpmath.log(1 - q) - log_r)
    return value, p - q


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16"])
@pytest.mark.parametrize("name", BY_HAND)
def test_the_truth_is_mpmaths(name, dtype):
    """Every third point of the grid, with all the digits that are told, where a formula by hand is no trouble."""
    checked = 0
    (film,) = seen(name, dtype).films
    for point in film.points[::3]:
        if not 1e-30 < abs(point.exact) < 600 or (name == "binary_cross_entropy" and point.exact > 0.999):
            continue
        with mpmath.workdps(700):
            for what, truth in zip(WHATS, BY_HAND[name](mpf(point.exact)), strict=True):
                told = mpf(point.told[what])
                assert abs(told - truth) <= abs(truth) * mpf(10) ** -(BITS[film.dtype] * 0.302), (point.x, what)
                checked += 1
    assert checked > (30 if name == "binary_cross_entropy" else 50)


def test_the_truth_of_what_is_less_than_the_digits_beside_it():
    """Of exp(-x) - 1 + x, 90 digits of the first two terms leave x where it is less than 1e-90: here half its square."""
    checked = 0
    for point in seen("gamma_deviance_loss", "f64").films[0].points:
        if point.told["value"] and 1e-150 < abs(point.exact) < 1e-30:
            with mpmath.workdps(60):
                assert abs(mpf(point.told["value"]) / mpf(point.exact) ** 2 - 1) < 1e-15, point.x
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_errors_are_units_in_the_last_place(dtype):
    """Cross entropy in torch, point by point: the result, the truth, and their distance counted by hand."""
    info = torch.finfo(getattr(torch, {"f32": "float32", "f16": "float16"}[dtype]))
    checked = 0
    for point in seen("cross_entropy", dtype).films[0].points:
        if not -80 < point.exact < 9 or abs(point.exact) < 1e-3:
            continue
        shot = point.shots["torch"]["value"]
        with mpmath.workdps(60):
            truth = softplus(-mpf(point.exact))
            unit = mpmath.ldexp(1, int(mpmath.floor(mpmath.log(truth, 2)))) * info.eps
            unit = max(unit, mpf(info.smallest_normal) * info.eps)
            assert shot.error == pytest.approx(float(abs(shot.result - truth) / unit), rel=1e-6, abs=1e-6)
        checked += 1
    assert checked > 40


def test_what_a_result_is():
    def shot(result, truth):
        return looking._shot(result, mpf(truth), torch.float32).kind

    assert shot(1.0, "1.00000001") == RIGHT
    assert shot(1.001, "1") == LOSES
    assert shot(2.0, "1") == WRONG
    assert shot(-1.0, "1") == WRONG
    assert shot(0.0, "1e-38") == ZERO
    assert shot(0.0, "1e-60") == RIGHT, "it rounds to 0"
    assert shot(0.0, "0") == RIGHT
    assert shot(math.inf, "1e30") == INFINITE
    assert shot(math.inf, "1e300") == RIGHT, "it is beyond float32"
    assert shot(-math.inf, "1e300") == WRONG
    assert shot(math.nan, "1") == NAN
    assert shot(1e-45, "1.2e-45") == RIGHT, "of a subnormal no other number is nearer"


def test_digits_that_cancel_are_computed_again_with_more():
    """log(1 - sigmoid(x)) at 100 needs 44 digits, and at 1500 652: 90 would make it -inf."""
    line = Line(catalogue()["binary_cross_entropy_with_logits"], {"target": 0.0})
    sight = looking.sight_of(line)
    exact = truths(line, sight, torch.float64)
    for x in (100.0, 1500.0, 1e5, 1e300):
        value, gradient = exact(x)
        assert float(value) == x
        assert float(gradient) == 1.0
    assert float(exact(-700.0)[0]) == pytest.approx(math.exp(-700.0), rel=1e-12)


def test_no_truth_at_a_corner():
    """Quantile regression at 0 has a slope by convention; BCE with logits has none, and a truth."""
    line = Line(catalogue()["pinball_loss"], {})
    value, gradient = truths(line, looking.sight_of(line), torch.float32)(0.0)
    assert (value, gradient) == (0, None)
    point = next(p for p in seen("binary_cross_entropy_with_logits").films[0].points if p.exact == 0.0)
    assert point.told["gradient"] == "-0.5"
    assert point.shots["losskit"]["gradient"].kind == RIGHT


# ---------------------------------------------------------------------------------------------------------
# Torch's faults, as they are known; where they begin is arithmetic


@pytest.mark.parametrize(
    ("name", "dtype", "what", "kind", "start", "end"),
    [
        # A right row: exp(-x) is lost beside 1 from half a unit of it on, and exists down to half the smallest number.
        ("cross_entropy", "f32", "gradient", ZERO, 24 * math.log(2), 150 * math.log(2)),
        ("cross_entropy", "f64", "gradient", ZERO, 53 * math.log(2), 1075 * math.log(2)),
        ("cross_entropy", "bf16", "gradient", ZERO, 8 * math.log(2), 133 * math.log(2)),
        ("binary_cross_entropy_with_logits", "f32", "gradient", ZERO, 24 * math.log(2), 150 * math.log(2)),
        # exp(-x) overflows: #77529
        ("soft_margin_loss", "f32", "gradient", NAN, None, -128 * math.log(2)),
        ("soft_margin_loss", "f16", "gradient", NAN, None, -16 * math.log(2)),
        # The gradient is clamped at 1e-12, so that 1 / p ends there.
        ("binary_cross_entropy", "f32", "gradient", WRONG, None, 5e-13),
    ],
)
def test_faults_of_torch_that_are_known(name, dtype, what, kind, start, end):
    found = stretch(name, dtype, what, kind)
    if start is None:
        assert found.start is None
    else:
        assert found.start == pytest.approx(start, rel=3e-2)
    assert found.end == pytest.approx(end, rel=3e-2)
    assert not [s for s in seen(name, dtype).stretches if (s.who, s.what, s.kind) == ("losskit", what, kind)]


def test_more_faults_of_torch():
    """Cosine embedding at small norms and at large ones; the variance of a Gaussian whose residual has no square."""
    kinds = {s.kind for s in seen("cosine_embedding_loss").stretches if s.who == "torch"}
    assert {WRONG, NAN} & kinds
    assert stretch("gaussian_nll_loss", "f16", "value", INFINITE).end == pytest.approx(-256.0, rel=1e-3) or (
        stretch("gaussian_nll_loss", "f16", "value", INFINITE).start == pytest.approx(256.0, rel=1e-3)
    )


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy_with_logits", "soft_margin_loss", "mse_loss"])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
def test_losskit_is_within_its_bars(name, dtype):
    """No terms of these cancel, so that each error is one in units of the result: 0.51 in halves, as said there."""
    bar = 3.5 if dtype in ("f32", "f64") else 0.51
    found = seen(name, dtype)
    assert not [s for s in found.stretches if s.who == "losskit"]
    errors = [(shot.error, p.x) for p in found.films[0].points for shot in p.shots["losskit"].values()]
    assert max(errors)[0] <= bar, max(errors)
    assert len(errors) > 300


@pytest.mark.parametrize("name", NATIVE)
def test_every_loss_that_torch_has(name):
    """Both are looked at, everywhere where there is a truth. Where torch is right, losskit has right digits; but where
    distances cancel to almost nothing, luck decides."""
    found = seen(name)
    (film,) = found.films
    assert found.native
    assert not film.refused
    assert len(film.points) > 80
    for point in film.points:
        for what in WHATS:
            there = bool(point.told[what])
            assert (what in point.shots["torch"]) == (what in point.shots["losskit"]) == there
            if there and point.shots["torch"][what].kind == RIGHT and abs(point.truth[what]) > 1e-12:
                assert point.shots["losskit"][what].kind in (RIGHT, LOSES), (what, point)
    assert sum(not point.told["gradient"] for point in film.points) <= 20


# ---------------------------------------------------------------------------------------------------------
# Lines


@pytest.mark.parametrize(
    "name",
    ["cross_entropy", "binary_cross_entropy_with_logits:pos_weight=2.5", "cosine_embedding_loss", "log_cosh_loss",
     "multi_margin_loss:p=2", "jensen_shannon_loss", "softmax_focal_loss", "poly_cross_entropy:epsilon=2",
     "multilabel_soft_margin_loss", "nll_loss", "triplet_margin_loss", "generalized_box_iou_loss", "z_loss",
     "poisson_nll_loss:log_input=false,full=true", "sigmoid_focal_loss"],
)  # fmt: skip
def test_lines_compute_the_point_again(name, capsys):
    """Two lines of Python, alone in a namespace, print value, gradient and truth as they were measured."""
    found = seen(name)
    (film,) = found.films
    for who in WHO:
        for point in [*film.points[:: len(film.points) // 9], *(s.worst for s in film.stretches if s.who == who)][:14]:
            lines = found.lines(film.dtype, who, point)
            assert len(lines) == 2
            exec("\n".join(lines), {})
            value, gradient, *told = capsys.readouterr().out.split()
            for what, printed in zip(WHATS, (value, gradient)):
                shot = point.shots[who].get(what)
                if shot is not None:
                    assert (
                        float(printed) == shot.result or math.isnan(shot.result) == math.isnan(float(printed)) is True
                    )
            assert told == ["truth:", *(point.told[what] or "none" for what in WHATS)]


def test_the_most_telling_point_is_ordinary_and_a_gradients():
    worst = seen("cross_entropy", "all").worst("torch")
    assert (worst.dtype, worst.what, worst.kind) == ("float32", "gradient", ZERO)
    assert worst.sentence == "gradient is 0 from 16.64 to 103.2; at 16.64 the truth is -5.93e-8"
    assert seen("cross_entropy", "all").worst("losskit") is None
    assert [who for who, _, _ in shown(seen("cross_entropy"))] == ["torch"]
