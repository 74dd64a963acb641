"""Plots of value and slope, drawn from the curves of the cards, as SVG that takes the colours of its page.

Text stays text, and black becomes `currentColor`, so that a plot reads well on light and on dark paper.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Callable, Sequence

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

import losskit
from losskit_guide import verdicts
from losskit_guide.card import Card, Curve, catalogue, find
from losskit_guide.figures import COLOURS
from losskit_guide.lines import of_card
from losskit_guide.scalar import evaluate

INK = "#010203"  # becomes the page's text colour
POINTS = 601
_DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)))

# What varies between the lines of a loss's plot, where labels and thresholds do not say it by themselves.
VARIED: dict[str, tuple[str, Sequence[float]]] = {
    "binary_cross_entropy": ("target", (1.0, 0.0)),
    "binary_cross_entropy_with_logits": ("target", (1.0, 0.0)),
    "multilabel_soft_margin_loss": ("target", (1.0, 0.0)),
    "cross_entropy": ("label_smoothing", (0.0, 0.1, 0.3)),
    "gaussian_nll_loss": ("var", (0.5, 1.0, 2.0)),
    "poisson_nll_loss": ("target", (0.0, 1.0, 3.0)),
    "kl_div": ("target", (0.2, 0.5, 1.0)),
    "tweedie_deviance_loss": ("p", (1.2, 1.5, 1.8)),
    "triplet_margin_loss": ("negative_distance", (1.0, 2.0, 3.0)),
    "triplet_margin_with_distance_loss": ("negative_distance", (1.0, 2.0, 3.0)),
}


def named(name: str) -> str:
    """A plot by name: of a loss, or one of `DRAWN`."""
    return DRAWN[name]() if name in DRAWN else of_loss(find(name))


def settings(card: Card, curve: Curve) -> tuple[str, Sequence[float]]:
    """The name of what varies between lines, and its values."""
    if card.name in VARIED:
        return VARIED[card.name]
    for given in curve.given:
        if given.choices:
            return given.name, sorted(given.choices, key=abs) if min(given.choices) > 0 else sorted(given.choices)[::-1]
    declared = {p["name"] for p in card.parameters}
    for given in curve.given:
        if given.name in declared and given.value > 0 and given.name != "eps":
            return given.name, (0.5 * given.value, given.value, 2.0 * given.value)
    return "", (0.0,)


def held(card: Card) -> dict[str, float]:
    """What is the same for all lines, where it matters."""
    curve = card.curve
    assert curve is not None
    varied = settings(card, curve)[0]
    used = of_card(card).variant.arguments
    return {g.name: g.value for g in curve.given if g.name != varied and g.name in used and g.name != "eps"}


def of_loss(card: Card) -> str:
    """Value and slope of a loss, side by side."""
    curve = card.curve
    if curve is None:
        return ""
    variant = of_card(card).variant
    name, values = settings(card, curve)
    xs = [curve.low + (curve.high - curve.low) * i / (POINTS - 1) for i in range(POINTS)]
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for value in values:
        fixed = {g.name: g.value for g in curve.given} | ({name: value} if name else {})
        points = [[(fixed | {curve.variable: x})[a] for a in variant.arguments] for x in xs]
        both = [[evaluate(t["python"], variant.arguments)(*p) for p in points] for t in (variant.value, variant.slope)]
        lines[f"{name.replace('_', ' ')} = {value:g}" if name else ""] = (both[0], both[1])
    label = curve.variable.replace("_", " ")
    figure, axes = _panels(("loss", f"derivative by {label}"), label)
    for i, (title, both_ys) in enumerate(lines.items()):
        for axis, ys in zip(axes, both_ys, strict=True):
            _line(axis, xs, ys, i, title)
    for axis, which in zip(axes, (0, 1), strict=True):
        _limit(axis, [y for both_ys in lines.values() for y in both_ys[which]])
    return _svg(figure, axes, f"Value and derivative of {card.class_name} over the {label}", len(lines) > 1)


def _panels(titles: Sequence[str], label: str) -> tuple[Figure, list[Axes]]:
    with matplotlib.rc_context({
        "svg.fonttype": "none", "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
        "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
        "axes.facecolor": "none", "figure.facecolor": "none", "grid.color": INK, "grid.alpha": 0.12,
    }):  # fmt: skip
        figure = Figure(figsize=(8.6, 3.1), layout="constrained")
        axes = list(figure.subplots(1, len(titles)))
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(label)
        axis.grid(True)
    return figure, axes


def _line(axis: Axes, xs: Sequence[float], ys: Sequence[float], i: int, label: str) -> None:
    """A line that breaks where the numbers jump."""
    span = max((y for y in ys if math.isfinite(y)), default=1.0) - min((y for y in ys if math.isfinite(y)), default=0.0)
    shown = [y if math.isfinite(y) else math.nan for y in ys]
    broken_xs, broken_ys = [xs[0]], [shown[0]]
    for x, before, y in zip(xs[1:], shown, shown[1:], strict=False):
        if abs(y - before) > 0.3 * span and 0 < len(broken_xs) < len(xs):
            broken_xs, broken_ys = [*broken_xs, x], [*broken_ys, math.nan]
        broken_xs, broken_ys = [*broken_xs, x], [*broken_ys, y]
    axis.plot(broken_xs, broken_ys, color=COLOURS[i], linestyle=_DASHES[i], linewidth=2, label=label or "_")


def _limit(axis: Axes, ys: Sequence[float]) -> None:
    """The part of the ordinate where most of the numbers are: poles would flatten everything else."""
    finite = sorted(y for y in ys if math.isfinite(y))
    low, high = finite[int(0.04 * len(finite))], finite[int(0.96 * len(finite))]
    span = (high - low) or 1.0
    bottom = finite[0] if finite[0] > low - span else low - 0.3 * span
    top = finite[-1] if finite[-1] < high + span else high + 0.3 * span
    axis.set_ylim(bottom - 0.06 * span, top + 0.06 * span)


def _svg(figure: Figure, axes: Sequence[Axes], title: str, legend: bool) -> str:
    if legend:
        axes[0].legend(frameon=False, labelcolor=INK, fontsize=9)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S).replace(INK, "currentColor")
    svg = re.sub(r'font: ([\d.]+px) [^;"]*', r"font-size: \1", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', svg)
    return '<div class="plot">' + re.sub(r"\s*\n\s*", " ", svg).strip() + "</div>"


def coloured(svg: str) -> str:
    """A plot of black on white, such as a notebook's, in the colours of the page."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
    svg = svg.replace("#ffffff", "none").replace("#000000", "currentColor")
    svg = re.sub(r'font: ([\d.]+px) [^;"]*', r"font-size: \1", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" aria-label="The plot">', svg)
    return '<div class="plot">' + re.sub(r"\s*\n\s*", " ", svg).strip() + "</div>"


# ---------------------------------------------------------------------------------------------------------
# Comparisons, for the guides


def _compared(names: Sequence[str]) -> str:
    """Several losses of a prediction, in one picture."""
    xs = [-4.0 + 8.0 * i / (POINTS - 1) for i in range(POINTS)]
    figure, axes = _panels(("loss", "derivative"), "prediction less target")
    for i, name in enumerate(names):
        card = catalogue()[name]
        assert card.curve is not None
        variant = of_card(card).variant
        rest = [next(g.value for g in card.curve.given if g.name == a) for a in variant.arguments[1:]]
        for axis, text in zip(axes, (variant.value, variant.slope), strict=True):
            _line(axis, xs, [evaluate(text["python"], variant.arguments)(x, *rest) for x in xs], i, card.class_name)
    axes[0].set_ylim(-0.2, 6.0)
    axes[1].set_ylim(-3.2, 3.2)
    return _svg(figure, axes, f"Value and derivative of {', '.join(names)}", True)


def _bce_and_mse() -> str:
    """Over the probability, for target 0; the derivative is by the logit, which is what a network feels."""
    ps = [(i + 0.5) / POINTS for i in range(POINTS)]
    zs = [-6.0 + 12.0 * i / (POINTS - 1) for i in range(POINTS)]
    figure, axes = _panels(("loss over the probability", "derivative by the logit"), "")
    lines: list[tuple[str, Callable[[float], float], Callable[[float], float]]] = [
        ("BCE", lambda p: -math.log1p(-p), lambda p: p),
        ("MSE", lambda p: p * p, lambda p: 2 * p * p * (1 - p)),
    ]
    for i, (label, value, slope) in enumerate(lines):
        _line(axes[0], ps, [value(p) for p in ps], i, label)
        _line(axes[1], zs, [slope(1 / (1 + math.exp(-z))) for z in zs], i, label)
    axes[0].set_xlabel("predicted probability, target 0")
    axes[1].set_xlabel("logit, target 0")
    axes[0].set_ylim(-0.1, 5.0)
    return _svg(figure, axes, "Binary cross entropy and squared error of a probability, target 0", True)


def _who_pulls() -> str:
    """The batch of the guide: what its rows cost, and how few of them make the gradient."""
    torch.manual_seed(0)
    target = torch.randn(2000)
    prediction = target + 0.1 * torch.randn(2000)
    target[:20] += 5.0 * torch.randn(20)
    found = losskit.autopsy("mse_loss", prediction, target, others=["huber_loss", "l1_loss"])
    figure, axes = _panels(("rows by their pull, the hardest first", "the hardest tenth"), "share of the rows")
    for axis, most in zip(axes, (1.0, 0.1), strict=True):
        for i, one in enumerate((found, *found.others)):
            shares = one.shares.sort(descending=True).values.cumsum(0).tolist()[: int(most * 2000)]
            xs = [(k + 1) / 2000 for k in range(len(shares))]
            axis.plot([0.0, *xs], [0.0, *shares], color=COLOURS[i], linestyle=_DASHES[i], linewidth=2, label=one.name)
    axes[0].set_ylabel("share of the pull")
    return _svg(figure, axes, "Share of the gradient over the share of the rows, under three losses", True)


def _watched() -> str:
    """The training of the guide, with a softmax before the cross entropy and without: its loss and its accuracy."""
    figure, axes = _panels(("loss of the batch", "share of right answers"), "step")
    for i, (label, last) in enumerate((("softmax twice", True), ("softmax once", False))):
        torch.manual_seed(0)
        inputs = torch.randn(2000, 20)
        labels = (inputs @ torch.randn(20, 6)).argmax(1)
        layers = [nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 6), *([nn.Softmax(dim=1)] if last else [])]
        model, lines = nn.Sequential(*layers), ([], [])
        moving = torch.optim.SGD(model.parameters(), 0.1)
        for rows in torch.randint(2000, (100, 100)):
            loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            moving.zero_grad()
            loss.backward()
            moving.step()
            lines[0].append(loss.item())
            lines[1].append((model(inputs).argmax(1) == labels).double().mean().item())
        for axis, ys in zip(axes, lines, strict=True):
            axis.plot(range(1, 101), ys, color=COLOURS[i], linestyle=_DASHES[i], linewidth=2, label=label)
    for axis in axes:
        axis.set_ylim(bottom=0.0)
    return _svg(figure, axes, "Loss and accuracy of a training with a softmax applied twice, and once", True)


def _where_it_breaks() -> str:
    """The focal loss of the guide as people write it, and losskit's: by dtype and magnitude."""

    def focal(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        p = torch.sigmoid(input)
        return -(target * (1 - p) ** 2 * p.log() + (1 - target) * p**2 * (1 - p).log()).mean()

    operands = torch.tensor([0.3, -1.2, 2.0, 0.4]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    losses = {"by hand": focal, "losskit.SigmoidFocalLoss": losskit.SigmoidFocalLoss()}
    figure, axes = _panels(list(losses), "magnitude of the scores")
    for axis, loss in zip(axes, losses.values(), strict=True):
        rows, sizes = verdicts.scales_of(losskit.audit(loss, *operands, only=["scales"]))
        chosen = [i for i, size in enumerate(sizes) if 1e-3 <= size <= 1e4]
        axis.grid(False)
        for y, row in enumerate(rows.values()):
            for x, i in enumerate(chosen):
                axis.add_patch(Rectangle((x, -y), 0.92, 0.88, color=verdicts.COLOURS[row[i]], linewidth=0))
                axis.text(x + 0.46, -y + 0.42, row[i].strip("."), ha="center", va="center", color="#1b1f24", fontsize=9)
        axis.set_xlim(0, len(chosen))
        axis.set_ylim(1 - len(rows), 1)
        axis.set_xticks([x + 0.46 for x in range(len(chosen))], [f"{sizes[i]:g}" for i in chosen], fontsize=7)
        axis.set_yticks([0.44 - y for y in range(len(rows))], list(rows))
    return _svg(figure, axes, "Where two focal losses are right, by dtype and magnitude of the scores", False)


def _accelerated() -> str:
    """A call of torch's function as it is, and accelerated: errors in float32 over the score of a right answer."""
    scores = torch.linspace(0.0, 40.0, POINTS)
    figure, axes = _panels(("error of the value", "error of the gradient"), "score of a right answer")
    for i, label in enumerate(("torch", "accelerated")):
        with losskit.accelerate() if i else contextlib.nullcontext():
            errors = _errors_of(scores)
        for axis, ys in zip(axes, errors, strict=True):
            axis.plot(scores.tolist(), ys.tolist(), color=COLOURS[i], linestyle=_DASHES[i], linewidth=2, label=label)
            axis.set_yscale("log")
            axis.set_ylim(1e-9, 3.0)
    return _svg(figure, axes, "Relative errors of binary cross entropy in float32, by torch and accelerated", True)


def _errors_of(scores: torch.Tensor) -> list[torch.Tensor]:
    """How far value and gradient of binary cross entropy with logits are off, at least 1e-9."""
    leaf, wide = scores.clone().requires_grad_(), scores.double()
    loss = nn.functional.binary_cross_entropy_with_logits(leaf, torch.ones_like(leaf), reduction="none")
    exact = torch.log1p(torch.exp(-wide)), -torch.sigmoid(-wide)
    found = loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]
    return [((x - y) / y).abs().clamp(min=1e-9) for x, y in zip(found, exact, strict=True)]


def _asked() -> str:
    """The claims of the guide; and which constant each of three losses would answer, at its smallest mean."""
    torch.manual_seed(0)
    claims = torch.randn(1000).exp() * (torch.rand(1000) < 0.4)
    figure, axes = _panels(("claims, by amount", "mean loss of one answer for all, above its least"), "amount")
    axes[0].hist(claims.clamp(max=8.0).tolist(), bins=40, color=COLOURS[0])
    axes[0].set_yscale("log")
    axes[0].set_ylabel("claims")
    answers = torch.linspace(0.0, 4.0, POINTS)
    losses = {"MSE": losskit.MSELoss(), "L1": losskit.L1Loss(), "pinball, 0.9": losskit.PinballLoss(quantile=0.9)}
    for i, (label, loss) in enumerate(losses.items()):
        ys = torch.stack([loss(answer.expand(1000), claims) for answer in answers])
        ys -= ys.min()
        axes[1].plot(answers.tolist(), ys.tolist(), color=COLOURS[i], linestyle=_DASHES[i], linewidth=2, label=label)
        axes[1].plot([float(answers[ys.argmin()])], [0.0], "o", color=COLOURS[i])
    axes[1].set_ylim(-0.1, 1.5)
    axes[1].legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure, axes, "Claims, and the mean of three losses over one answer for all", False)


DRAWN: dict[str, Callable[[], str]] = {
    "regression": lambda: _compared(["mse_loss", "l1_loss", "huber_loss"]),
    "bce_and_mse": _bce_and_mse,
    "who_pulls": _who_pulls,
    "watched": _watched,
    "where_it_breaks": _where_it_breaks,
    "accelerated": _accelerated,
    "asked": _asked,
}
