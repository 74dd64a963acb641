"""Robust: targets that are wrong, five losses, and the lines that they fit.

One feature, the body mass index, so that the fits can be drawn. The wrong targets are put in here, and only into the
training part; the errors are measured on the test part as it is.
"""

from dataclasses import dataclass

import data as sets
import torch
from drawing import DASH_DOT, DASHED, DOTTED, LONG, SOLID, legend, styled
from section import Picture, Section, Table, beside, must_beat
from training import line, root_mean_square, train

import losskit
from losskit import PointwiseLoss, param, positive
from losskit.formula import log1p

SHARE = 0.15  # of the training targets
WRONG = 600.0  # what they become; the largest true one is 346
STEPS = 400


class FadingLoss(PointwiseLoss):
    """Log of one plus a log of the square: far outliers stop mattering."""

    scale: float = param(default=1.0, domain=positive, doc="Residual at which the curve bends.")

    @staticmethod
    def value(input, target, scale):
        u = (input - target) / scale
        return log1p(log1p(0.5 * u * u))


@dataclass(frozen=True)
class Fit:
    """A loss, and how its line is drawn."""

    name: str
    loss: object
    colour: str
    dashes: object


# Residuals are in standard deviations of the target.
FITS = [
    Fit("MSELoss", losskit.MSELoss(), "orange", DASHED),
    Fit("L1Loss", losskit.L1Loss(), "purple", DOTTED),
    Fit("HuberLoss(delta=1)", losskit.HuberLoss(), "green", DASH_DOT),
    Fit("SmoothL1Loss(beta=0.1)", losskit.SmoothL1Loss(beta=0.1), "yellow", LONG),
    Fit("FadingLoss(scale=1), our own", FadingLoss(scale=1.0), "blue", SOLID),
]


@dataclass(frozen=True)
class Unit:
    """Mean and standard deviation, to standardise and back."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, numbers):
        return cls(numbers.mean().item(), numbers.std().item())

    def standard(self, numbers):
        return (numbers - self.mean) / self.deviation

    def back(self, numbers):
        return numbers * self.deviation + self.mean


def spoiled(data):
    """Which training rows get a wrong target: those of the leanest patients."""
    return data.train_inputs[:, 0].argsort()[: round(SHARE * len(data.train_inputs))]


def fits(data, targets, steps, tick):
    """A line for each loss, as a function of the body mass index."""
    over, unit = Unit.of(data.train_inputs), Unit.of(data.train_targets)
    standard = sets.Data(over.standard(data.train_inputs), unit.standard(targets), None, None)
    lines = {}
    for fit in FITS:
        model, _ = train(line(), standard, fit.loss, steps, rate=0.03)
        lines[fit] = lambda inputs, model=model: unit.back(model(over.standard(inputs)))
        tick()
    return lines


def scatter(data, targets, bad, lines):
    """The panel of the training data and the fits."""

    def panel(axes, theme):
        good = torch.ones(len(targets), dtype=torch.bool)
        good[bad] = False
        points = [x[:, 0].numpy() for x in (data.train_inputs, targets)]
        axes.scatter(*(x[good] for x in points), s=9, color=theme.faint, alpha=0.5, linewidths=0)
        axes.scatter(
            *(x[bad] for x in points), s=22, marker="x", color=theme.text, linewidths=1, label="wrong targets, put in"
        )
        ends = torch.tensor([[data.train_inputs.min()], [data.train_inputs.max()]])
        for fit, value in lines.items():
            axes.plot(
                ends[:, 0], value(ends)[:, 0], color=getattr(theme, fit.colour), linestyle=fit.dashes, linewidth=2.2,
                label=fit.name,
            )  # fmt: skip
        axes.set_ylim(0, WRONG * 1.3)
        styled(axes, theme, "Training data and fits", "body mass index", "disease progression")
        legend(axes, theme, loc="upper right")

    return panel


def pulls(axes, theme):
    """The panel of what each loss does with a residual: its gradient."""
    residuals = torch.linspace(-6, 6, 241)
    for fit in FITS:
        wanted = residuals.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(fit.loss(wanted, torch.zeros_like(wanted)) * len(residuals), wanted)
        axes.plot(residuals, gradient, color=getattr(theme, fit.colour), linestyle=fit.dashes, linewidth=2.2)
    axes.set_ylim(-3, 3)
    styled(axes, theme, "How hard a row pulls", "residual, in standard deviations", "gradient")


def run(scale, tick):
    """The part; `scale` shortens it, `tick` is called as it goes on."""
    data, steps = sets.body_mass_index(), max(150, round(STEPS * scale))
    bad, targets = spoiled(data), data.train_targets.clone()
    targets[bad] = WRONG
    lines, clean = fits(data, targets, steps, tick), fits(data, data.train_targets, steps, tick)
    errors, clean_errors = (
        {fit: root_mean_square(value(data.test_inputs), data.test_targets) for fit, value in found.items()}
        for found in (lines, clean)
    )
    moved = {fit: root_mean_square(lines[fit](data.test_inputs), clean[fit](data.test_inputs)) for fit in FITS}
    guess = root_mean_square(data.train_targets.mean(), data.test_targets)
    best = min(FITS, key=errors.get)
    must_beat(f"the line of {best.name}", errors[best], guess, higher=False)
    for fit in FITS:
        must_beat(f"the line of {fit.name} on clean data", clean_errors[fit], guess, higher=False)
    rows = []
    for fit in FITS:
        worse = errors[fit] >= guess
        error = f"{errors[fit]:.1f}" + (" (worse than guessing)" if worse else "")
        mark = "good" if fit is best else "bad" if worse else "plain"
        rows.append([fit.name, (error, mark), f"{clean_errors[fit]:.1f}", f"{moved[fit]:.1f}"])
    rows.append(["guess: the mean of the true targets", f"{guess:.1f}", f"{guess:.1f}", ""])
    mse, least = FITS[0], min(FITS, key=moved.get)
    lead = [
        f"With {SHARE:.0%} of the training targets wrong, the test error of a line is {errors[best]:.1f} with "
        f"{best.name}, and {errors[mse]:.1f} with {mse.name}; guessing has {guess:.1f}.",
        f"The wrong targets are put in: the {len(bad)} leanest training patients get a progression of {WRONG:.0f}. "
        "The picture on the right is why the lines differ: the gradient of the squared error grows with the residual, "
        "that of the absolute error stays, and that of our own loss goes back towards 0, so the far rows stop "
        "mattering. The wrong targets move the line of "
        f"{least.name} least, by {moved[least]:.1f} on the test patients (root mean square), and that of "
        f"{max(FITS, key=moved.get).name} most, by {max(moved.values()):.1f}.",
        clean_sentence(clean_errors),
    ]
    picture = Picture(
        "robust",
        "Left: the training data with the wrong targets, and the line that each loss fits. Right: the gradient of "
        "each loss over the residual.",
        [scatter(data, targets, bad, lines), pulls],
        4.4,
    )
    heads = ["Loss", "Test error with wrong targets", "Test error without", "Line moved by"]
    caption = f"Root mean square error on {len(data.test_inputs)} test patients, whose targets are as they are."
    return Section(
        "robust", "Robust: wrong targets", beside(f"{errors[best]:.0f}", f"{errors[mse]:.0f}", best is not mse),
        f"test error of the best of five losses, beside the squared error's; guessing has {guess:.0f}", lead,
        pictures=[picture], tables=[Table(heads, rows, caption)],
    )  # fmt: skip


def clean_sentence(errors):
    """What robustness costs where nothing is wrong."""
    best, worst = min(FITS, key=errors.get), max(FITS, key=errors.get)
    return (
        f"On the same data without wrong targets {best.name} is the best of the five ({errors[best]:.1f}) and "
        f"{worst.name} the worst ({errors[worst]:.1f}): a robust loss is a choice, not a gift."
    )


TICKS = 2 * len(FITS)
