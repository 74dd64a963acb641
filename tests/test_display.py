"""Formulas as people read them: that they say what is computed, in the operands of a call, and read well.

What is displayed is evaluated at random rows and compared with the loss and with autograd, so that a wrong chain rule
of a family, a wrong simplification or a wrong letter fails.
"""

import itertools
import math

import pytest
import torch

import losskit
from losskit import (
    ClassScoresLoss,
    EmbeddingsLoss,
    Operand,
    PointwiseLoss,
    display,
    nonnegative,
    param,
    positive,
    signs,
)
from losskit.describe import explain
from losskit.display import Writer
from losskit.formula import absolute, exp, expm1, log, log1p, maximum, power, sigmoid, softplus, where, xlogy
from losskit.graph import Trace
from losskit.loss import registered
from losskit.printing import print_expr
from losskit.simplify import simplified
from losskit_guide.card import catalogue
from losskit_guide.scalar import evaluate

NAMES = [name for name in catalogue() if getattr(losskit.get(name), "_of_formula", True)]  # lattices have none


@pytest.fixture(autouse=True)
def _declared_losses_are_forgotten():
    before = dict(registered)
    yield
    registered.clear()
    registered.update(before)


def plain(loss, title="loss", variant=0):
    (found,) = [e.plain for e in explain(loss).variants[variant].equations if e.title == title]
    return found


# -- what it looks like -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "title", "text"),
    [
        ("cross_entropy", "loss", "ℓ = −log(exp(xₜ) / Σⱼ exp(xⱼ))"),
        ("cross_entropy", "gradient by input", "∂ℓ/∂xⱼ = softmax(x)ⱼ − [j = t]"),
        ("nll_loss", "loss", "ℓ = −xₜ"),
        ("huber_loss", "loss", "ℓ = ⎧ ½(x − t)²         if |x − t| < δ\n    ⎩ δ(|x − t| − ½δ)   otherwise"),
        ("mse_loss", "gradient by input", "∂ℓ/∂x = 2(x − t)"),
        ("binary_cross_entropy", "loss", "ℓ = −(t·log(x) + (1 − t)·log(1 − x))"),
        ("binary_cross_entropy_with_logits", "gradient by input", "∂ℓ/∂x = σ(x) − t"),
        ("soft_margin_loss", "loss", "ℓ = log(1 + exp(−t·x))"),
        ("multi_margin_loss", "loss", "ℓ = 1/C wₜ Σ(j≠t) max(0, m − (xₜ − xⱼ))ᵖ"),
        ("multilabel_margin_loss", "loss", "ℓ = 1/C Σ(t∈T) Σ(j∉T) max(1 − (xₜ − xⱼ), 0)"),
        ("multilabel_soft_margin_loss", "gradient by input", "∂ℓ/∂xⱼ = 1/C (σ(xⱼ) − tⱼ)"),
        ("cosine_embedding_loss", "loss", "ℓ = ⎧ 1 − cos θ           if t = 1\n    ⎩ max(0, cos θ − m)   otherwise"),
        (
            "hinge_embedding_loss",
            "gradient by input",
            "        ⎧ 1    if t = 1\n∂ℓ/∂x = ⎨ −1   if x ≤ m\n        ⎩ 0    otherwise",
        ),
        ("triplet_margin_loss", "loss", "ℓ = max(d₊ − d₋ + m, 0)"),
    ],
)
def test_formulas_read_as_in_books(name, title, text):
    assert plain(name, title) == text


def test_losses_of_one_s_own_read_as_well():
    class FadingLoss(PointwiseLoss):
        """Log of one plus a log of the square."""

        scale: float = param(default=1.0, domain=positive, doc="Scale.")

        @staticmethod
        def value(input, target, scale):
            u = (input - target) / scale
            return log1p(log1p(0.5 * u * u))

    class HardFirstLoss(ClassScoresLoss):
        """Counts well-classified rows less."""

        gamma: float = param(default=2.0, domain=nonnegative, doc="How much less.")

        @staticmethod
        def value(log_probability, gamma):
            return power(-expm1(log_probability), gamma) * -log_probability

    assert plain(FadingLoss) == "ℓ = log(1 + log(1 + ½((x − t) / s)²))"
    assert (
        plain(FadingLoss, "gradient by input")
        == "∂ℓ/∂x = (x − t) / ((1 + ½(x − t)² / s²)·(1 + log(1 + ½(x − t)² / s²))·s²)"
    )
    assert plain(HardFirstLoss) == "ℓ = −(1 − pₜ)ᵞ·log(pₜ)"
    assert "(softmax(x)ⱼ − [j = t])" in plain(HardFirstLoss, "gradient by input")
    assert plain(HardFirstLoss, "where") == "pₜ = exp(xₜ) / Σⱼ exp(xⱼ)"


def test_reductions_are_part_of_the_card():
    def means(name):
        return {e.title: e.plain for e in explain(name).reductions}

    assert means("mse_loss") == {
        "sum": "L = Σᵢ ℓᵢ", "mean": "L = 1/N · Σᵢ ℓᵢ", "mean with weight w": "L = Σᵢ wᵢℓᵢ / Σᵢ wᵢ"
    }  # fmt: skip
    assert means("huber_loss")["mean with weight w"] == "L = 1/N · Σᵢ wᵢℓᵢ"
    assert means("ctc_loss")["mean"] == "L = 1/N · Σᵢ ℓᵢ / max(1, Sᵢ)"
    assert "batchmean" in means("kl_div")
    assert "mean with weight w" not in means("smooth_l1_loss")


@pytest.mark.parametrize("name", catalogue())
def test_every_equation_is_whole(name):
    card = catalogue()[name]
    letters = {symbol["plain"] for symbol in card.symbols}
    for variant in card.variants:
        assert variant.equations[0].title == "loss"
        assert any(e.title.startswith("gradient by") for e in variant.equations) or card.family == "composed"
        for equation in variant.equations:
            assert equation.latex.count("{") == equation.latex.count("}")
            assert "_by" not in equation.plain
            assert "nan" not in equation.plain
            assert "∞" not in equation.plain
        for operand in (o["name"] for o in card.operands):
            assert operand in {symbol["name"] for symbol in card.symbols} | {"targets", "scores"}, operand
    assert "" not in letters


# -- that it is what is computed ---------------------------------------------------------------------------


def roots(cls, formula):
    """The equations of a formula as expressions, by title."""
    writer = Writer(cls, formula)
    found = {}

    def equation(title, left, right, before=display.NOTHING):
        found[title] = writer.trace.lift(right)
        return Writer.equation(writer, title, left, right, before)

    writer.equation = equation
    cls._mathematics(writer)
    return found


def number(root, known):
    names = sorted(known)
    return evaluate([print_expr(root, "python")], names)(*(known[name] for name in names))


class FocusOfTest(ClassScoresLoss):
    """Counts well-classified rows less."""

    gamma: float = param(default=2.0, domain=nonnegative, doc="How much less.")

    @staticmethod
    def value(log_probability, gamma):
        return power(-expm1(log_probability), gamma) * -log_probability


class WithZ(ClassScoresLoss):
    """With the square of the log-sum-exp and the mean log-probability."""

    @staticmethod
    def value(log_probability, log_sum_exp, mean_log_probability):
        return -log_probability + 0.01 * log_sum_exp * log_sum_exp - 0.1 * mean_log_probability


@pytest.mark.parametrize("cls", [losskit.CrossEntropyLoss, losskit.NLLLoss, FocusOfTest, WithZ])
def test_the_gradient_of_class_scores(cls):
    x = torch.tensor([[0.3, -1.2, 2.0, 0.5]], dtype=torch.float64)
    x = (x.log_softmax(1) if cls is losskit.NLLLoss else x).requires_grad_()
    loss = cls()(x, torch.tensor([2]))
    loss.backward()
    (formula,) = cls._formulas.all()
    shown = roots(cls, formula)
    log_p = x.detach().log_softmax(1)[0]
    for j in range(4):
        known = {
            "log_probability": log_p[2].item(), "p_": log_p[2].exp().item(), "classes_": 4.0, "hot_": float(j == 2),
            "softmax_": log_p[j].exp().item(), "log_sum_exp": x.logsumexp(1).item(), "gamma": 2.0,
            "mean_log_probability": log_p.mean().item(),
        }  # fmt: skip
        assert number(shown["gradient by input"], known) == pytest.approx(x.grad[0, j].item(), abs=1e-12)
        assert number(shown["loss"], known) == pytest.approx(loss.item())


@pytest.mark.parametrize("cls", [losskit.MultiMarginLoss, losskit.MultiLabelMarginLoss])
def test_the_gradient_of_margins(cls):
    x = torch.tensor([[0.3, -1.2, 0.9, 0.5]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[2, 0, -1, 0]]) if cls.many else torch.tensor([2])
    targets = [2, 0] if cls.many else [2]
    loss = cls()(x, target)
    loss.backward()
    shown = roots(cls, cls._formulas.all()[0])
    others = [j for j in range(4) if j not in targets]

    def summed(title, pairs):
        known = ({"target_": x[0, t].item(), "other_": x[0, j].item(), "p": 1.0, "margin": 1.0} for t, j in pairs)
        return sum(number(shown[title], k) for k in known) / 4

    assert summed("loss", itertools.product(targets, others)) == pytest.approx(loss.item())
    for t in targets:
        assert summed("gradient by the score of a target", [(t, j) for j in others]) == pytest.approx(
            x.grad[0, t].item()
        )
    for j in others:
        assert summed("gradient by another score", [(t, j) for t in targets]) == pytest.approx(x.grad[0, j].item())


class ApartOfTest(EmbeddingsLoss):
    """Near pairs and far pairs."""

    margin: float = param(default=1.0, domain=positive, doc="Margin.")
    operands = {"input1": Operand("a"), "input2": Operand("b"), "target": Operand("1 near, -1 far", domain=signs)}

    @staticmethod
    def value(distance, target, margin):
        far = maximum(margin - distance, 0.0)
        return where(target == 1.0, distance * distance, far * far)


@pytest.mark.parametrize(
    ("cls", "label"),
    [(losskit.CosineEmbeddingLoss, 1.0), (losskit.CosineEmbeddingLoss, -1.0), (losskit.TripletMarginLoss, None),
     (ApartOfTest, 1.0), (ApartOfTest, -1.0)],
)  # fmt: skip
def test_the_gradient_of_embeddings(cls, label):
    """The derivative of each statistic is autograd's; what is shown puts them together."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(1, 4, generator=generator, dtype=torch.float64) for _ in range(2 if label else 3)]
    rows[1] = rows[0] + 0.2 * rows[1]
    rows[0].requires_grad_()
    target = [torch.tensor([label], dtype=torch.float64)] if label else []
    loss = cls()(*rows, *target)
    (expected,) = torch.autograd.grad(loss, rows[0])
    x, y, *z = rows
    statistics = {
        "cosine": torch.cosine_similarity(x, y), "distance": (x - y + 1e-6).norm(dim=1),
        "positive_distance": (x - y + 1e-6).norm(dim=1),
        **({"negative_distance": (x - z[0] + 1e-6).norm(dim=1)} if z else {}),
    }  # fmt: skip
    shown = roots(cls, cls._formulas.all()[0])
    (title,) = [title for title in shown if title.startswith("gradient by")]
    slopes = {name: torch.autograd.grad(s, x, retain_graph=True)[0] for name, s in statistics.items()}
    for i in range(4):
        known = {name: s.item() for name, s in statistics.items()} | {"target": label or 0.0}
        known |= {f"{name}_by": slope[0, i].item() for name, slope in slopes.items()}
        known |= {name: p.default for name, p in cls.params.items() if isinstance(p.default, float)}
        assert number(shown[title], known) == pytest.approx(expected[0, i].item(), abs=1e-9)
        assert number(shown["loss"], known) == pytest.approx(loss.item(), abs=1e-9)


@pytest.mark.parametrize("name", [n for n in NAMES if getattr(losskit.get(n), "_of_formula", True)])
def test_what_is_shown_is_what_is_computed(name):
    """Where a short form differs at a kink, the form of the kernel is shown; so all of them agree."""
    cls = losskit.get(name)
    for formula in cls._formulas.all():
        writer = Writer(cls, formula)
        if {"cosine", "log_ratio"} & set(formula.operands):  # their statistics are one: see the gradients of the family
            continue
        assert writer.agree(writer.value, formula.value)
        for operand in formula.operands:
            assert writer.agree(writer.slope(operand), formula.gradients[formula.operands.index(operand)])


def test_a_derivative_that_differs_at_a_kink_is_not_shown():
    class HalfHinge(PointwiseLoss):
        """A hinge that still pushes at its margin, unlike its derivative."""

        @staticmethod
        def value(input, target):
            return maximum(0.0, 1.0 - input * target)

        @staticmethod
        def grad(input, target):
            return where(1.0 - input * target >= 0.0, -target, 0.0), 0.0

    (formula,) = HalfHinge._formulas.all()
    assert "≥ 0" in plain(HalfHinge, "gradient by input")
    assert not Writer(HalfHinge, formula).agree(formula.value, formula.gradients[0])


# -- simplification ---------------------------------------------------------------------------------------


def shortened(make, signs=()):
    trace = Trace({"s": True})
    root = make(trace.variable("x"), trace.variable("t"), trace.variable("s"))
    return print_expr(simplified(root, ["x", "t", "s"], signs), "plain")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda x, t, s: where(x == x, x - t, x), "x − t"),
        (lambda x, t, s: where(absolute(x - t) == math.inf, 0.0, x), "x"),
        (lambda x, t, s: 0.0 - x, "−x"),
        (lambda x, t, s: x * where(x > t, 0.0, 1.0), "x if x ≤ t, else 0"),
        (lambda x, t, s: where(1.0 - x <= 0.0, 0.0, -1.0), "−1 if 1 − x > 0, else 0"),
        (lambda x, t, s: where(maximum(x - t, 0.0) > 0.0, 1.0, 0.0), "1 if x − t > 0, else 0"),
        (lambda x, t, s: where(x >= t, maximum(x, t), t), "x if x ≥ t, else t"),
        (lambda x, t, s: (1.0 - t) * sigmoid(x) - t * sigmoid(-x), "σ(x) − t"),
        (lambda x, t, s: (x - t) / s * (1.0 / s), "(x − t) / s²"),
        (lambda x, t, s: -(t * softplus(-x)), "−t·softplus(−x)"),
        (lambda x, t, s: xlogy(t, x) - xlogy(t, x), "0"),
        (lambda x, t, s: exp(log(exp(x))), "exp(x)"),
        (lambda x, t, s: (x - t) / 3.0, "(x − t) / 3"),
    ],
)
def test_simplified(make, text):
    assert shortened(make) == text


def test_labels_of_signs_decide():
    assert shortened(lambda x, t, s: where(t == 1.0, x, where(t == -1.0, -x, 0.0)), ["t"]) == "x if t = 1, else −x"
    assert shortened(lambda x, t, s: t * t * x, ["t"]) == "x"


def test_long_formulas_are_left_alone():
    trace = Trace()
    root = trace.variable("x")
    for _ in range(60):
        root = log1p(root) + trace.variable("t") * root
    assert simplified(root) is root
