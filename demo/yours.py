"""Yours: a loss that torch does not have, in eight lines, with a compiled kernel.

The code in the report is the code that ran. The kernel is compiled anew in every run of the demo, since the demo keeps
compiled kernels in a folder of its own.
"""

import inspect
import time

import data as sets
import torch
from drawing import DASHED, DOTTED, SOLID, legend, styled
from robust import Unit
from section import Picture, Section, Table, duration, listed, must_beat, percent, scientific, speed
from training import line, race, train

import losskit
from losskit import PointwiseLoss, param
from losskit.formula import expm1m

MILLION = 1 << 20
STEPS = 500
LEANS = {-2.0: ("orange", DASHED), 0.1: ("green", DOTTED), 2.0: ("blue", SOLID)}


class LeaningLoss(PointwiseLoss):
    """Errors cost exponentially on one side, and about as much as they are large on the other."""

    lean: float = param(default=1.0, doc="Above 0, too little is dear; below 0, too much; next to 0, a square.")

    @staticmethod
    def value(input, target, lean):
        return expm1m(lean * (target - input))


def by_hand(input, target, lean=2.0):
    """The same in plain torch, as one would write it without losskit."""
    rest = lean * (target - input)
    return (torch.expm1(rest) - rest).mean()


def eager(input, target, lean=2.0):
    """The declaration's own formula, run eagerly: `value` is an ordinary function of tensors."""
    return LeaningLoss.value(input, target, lean).mean()


def numbers(count):
    """Predictions that want a gradient, and targets."""
    generator = torch.Generator().manual_seed(0)
    predictions, targets = torch.randn(2, count, generator=generator)
    return predictions.requires_grad_(), targets


def compile_seconds():
    """Seconds of the first call, which compiles, without those of the second."""
    arguments, seconds = numbers(16), []
    for _ in range(2):
        start = time.perf_counter()
        LeaningLoss(lean=2.0)(*arguments).backward()
        seconds.append(time.perf_counter() - start)
    return seconds[0] - seconds[1]


def errors():
    """The largest relative errors of value and gradient in float32, against the formula in float64."""
    arguments = numbers(MILLION)
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in arguments]
    loss, truth = LeaningLoss(lean=2.0)(*arguments), eager(*doubles)
    (gradient,), (slope,) = torch.autograd.grad(loss, arguments[:1]), torch.autograd.grad(truth, doubles[:1])
    return [((x - y).abs().max() / y.abs().max()).item() for x, y in ((loss, truth), (gradient, slope))]


def times(rounds):
    """Time beside eager's at a million elements, and at a batch of the size of the diabetes data."""
    losses = {"formula": eager, "hand": by_hand, "losskit": LeaningLoss(lean=2.0)}
    rows, ratios = [], {}
    for count, repeats in ((MILLION, 1), (len(sets.body_mass_index().train_inputs), 60)):
        seconds, ratio = race(losses, numbers(count), rounds, repeats)
        size = "a million" if count == MILLION else str(count)
        ratios[count == MILLION] = ratio
        names = {"losskit": "losskit's kernel", "formula": "the same formula, eager", "hand": "plain torch by hand"}
        for key, name in names.items():
            rows.append([size, name, duration(seconds[key]), "" if key == "losskit" else speed(ratio[key])])
    return rows, ratios


def fits(data, steps, tick):
    """The line of each loss, and its loss on the test part beside that of the best constant of the training part."""
    over, unit = Unit.of(data.train_inputs), Unit.of(data.train_targets)
    standard = sets.Data(over.standard(data.train_inputs), unit.standard(data.train_targets), None, None)
    lines = {}
    for lean in LEANS:
        loss = LeaningLoss(lean=lean)
        model, _ = train(line(), standard, loss, steps, rate=0.03)
        lines[lean] = lambda inputs, model=model: unit.back(model(over.standard(inputs)))
        guess = (lean * standard.train_targets).exp().mean().log() / lean
        predictions, truth = model(over.standard(data.test_inputs)), unit.standard(data.test_targets)
        score, guessed = (loss(x, truth).item() for x in (predictions, guess.expand_as(truth)))
        must_beat(f"the line that leans by {lean}", score, guessed, higher=False)
        tick()
    return lines


def fan(data, lines):
    """The panel of the test data and the three lines."""

    def panel(axes, theme):
        axes.scatter(data.test_inputs, data.test_targets, s=11, color=theme.faint, alpha=0.6, linewidths=0)
        ends = torch.tensor([[data.test_inputs.min()], [data.test_inputs.max()]])
        for lean, value in lines.items():
            colour, dashes = LEANS[lean]
            axes.plot(
                ends[:, 0], value(ends)[:, 0], color=getattr(theme, colour), linestyle=dashes, linewidth=2.2,
                label=f"LeaningLoss(lean={lean:g})",
            )  # fmt: skip
        styled(axes, theme, "Test data and three lines", "body mass index", "disease progression")
        legend(axes, theme, loc="upper left")

    return panel


def slopes(axes, theme):
    """The panel of the losses themselves."""
    residuals = torch.linspace(-2, 2, 201)
    for lean, (colour, dashes) in LEANS.items():
        values = LeaningLoss(lean=lean, reduction="none")(-residuals, torch.zeros(()).expand_as(residuals))
        axes.plot(residuals, values, color=getattr(theme, colour), linestyle=dashes, linewidth=2.2)
    styled(axes, theme, "The loss", "target - prediction", "value")


def run(scale, tick):
    """The part; `scale` shortens it, `tick` is called as it goes on."""
    seconds = compile_seconds()
    tick()
    choice = losskit.why(LeaningLoss(lean=2.0), *numbers(16))
    rows, ratios = times(max(6, round(24 * scale)))
    tick()
    data = sets.body_mass_index()
    lines = fits(data, max(150, round(STEPS * scale)), tick)
    below = {x: (data.test_targets < value(data.test_inputs)).float().mean().item() for x, value in lines.items()}
    value_error, gradient_error = errors()
    code = inspect.getsource(LeaningLoss).strip()
    count = sum(bool(text.strip()) for text in code.splitlines())
    million, batch = ratios[True]["hand"], ratios[False]["hand"]
    lead = [
        f"A loss that torch does not have is {count} lines; its kernel was compiled in {duration(seconds)} and is "
        f"{million:.1f} times as fast as plain torch by hand, at a million elements."
        if choice.implementation.startswith("fused")
        else f"A loss that torch does not have is {count} lines; here it runs as the {choice}.",
        "The gradient is derived from the formula. Compiled kernels are kept, so the compiler runs once for each loss, "
        f"not once for each program. On a batch of {len(data.train_inputs)} the ratio is {batch:.2f}"
        + (": there losskit is slower. " if batch < 0.995 else ". ")
        + f"In float32 the kernel differs from the formula in float64 by {scientific(value_error)} (value) and "
        f"{scientific(gradient_error)} (gradient), relative to the largest.",
        "It does what it is for: of the test patients, "
        + listed(f"{percent(share)} lie below the line of lean = {lean:g}" for lean, share in below.items())
        + ".",
    ]
    heads = ["Elements", "Implementation", "Forward + backward", "Time over losskit's"]
    caption = (
        "Medians of interleaved rounds, of times and of ratios; above 1× losskit is faster. "
        f"Number of threads: {torch.get_num_threads()}. losskit.why says: {choice}."
    )
    picture = Picture(
        "yours", "Left: test data and the line that each loss fits. Right: the loss over the residual.",
        [fan(data, lines), slopes], 3.8,
    )  # fmt: skip
    return Section(
        "yours", f"Yours: a loss of one's own in {count} lines", f"{million:.1f}×",
        "as fast as plain torch by hand, a million elements", lead,
        pictures=[picture], tables=[Table(heads, rows, caption)], code=code,
    )  # fmt: skip


TICKS = 2 + len(LEANS)
