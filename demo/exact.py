"""Exact: a training in which torch's cross entropy stops pulling, while losskit's goes on.

The scores are bfloat16, as those of a model in bfloat16 are, the weights float32. Every step has the same length, as
steps of optimisers that normalise the gradient have: the smaller the loss, the more its last digits decide where to go.
In such a training the weights of linearly separable classes turn towards the largest margin.

The truth is the textbook formula in float64, log(1 + exp(log-sum-exp of the others - own)), which does not cancel.
"""

from dataclasses import dataclass, field

import data as sets
import torch
from drawing import DASHED, SOLID, legend, styled
from section import Picture, Section, Table, beside, listed, must_beat, percent, scientific, several
from training import most_frequent, network, right, train

import losskit

STEPS = 2000
LENGTH = 0.1  # of a step, in the space of the weights
POINTS = 80  # of a curve
SPLITS = (0, 1, 2)  # of the data into training and test
ADAM_STEPS = 300
LOWEST = 1e-40  # a loss of 0 is drawn here, below the plot


def of_rows(scores, targets):
    """Cross entropy of each row in float64, from differences of scores."""
    scores = scores.double()
    own = scores.gather(1, targets[:, None])[:, 0]
    others = scores.scatter(1, targets[:, None], -torch.inf).logsumexp(1)
    return torch.nn.functional.softplus(others - own)


def exactly(scores, targets):
    """Their mean."""
    return of_rows(scores, targets).mean()


@dataclass(frozen=True)
class Run:
    """A loss and the type of its scores, and how it is drawn."""

    name: str
    loss: object
    scores: torch.dtype
    colour: str = ""
    dashes: object = SOLID
    width: float = 2.2


TORCH = Run("torch.nn", torch.nn.CrossEntropyLoss(), torch.bfloat16, "orange", DASHED)
LOSSKIT = Run("losskit", losskit.CrossEntropyLoss(), torch.bfloat16, "blue")
TRUTH = Run("exact formula", exactly, torch.float64, "text", SOLID, 0.9)
TORCH_32 = Run("torch.nn", torch.nn.CrossEntropyLoss(), torch.float32)
LOSSKIT_32 = Run("losskit", losskit.CrossEntropyLoss(), torch.float32)


@dataclass
class Course:
    """What was seen on the way, a number for each point of a curve; the single numbers are of the end."""

    steps: list = field(default_factory=list)
    losses: list = field(default_factory=list)  # by the truth, whatever the loss of the training says
    silent: list = field(default_factory=list)  # share of rows whose own class has a gradient of exactly 0
    accuracy: list = field(default_factory=list)
    margin: float = 0.0
    lost: float = 0.0  # the largest pull, by the truth, of a silent row
    onset: float = 0.0  # the smallest margin of a silent row


def with_one(inputs):
    """A column of ones, for the bias."""
    return torch.cat([inputs, torch.ones(len(inputs), 1)], 1)


def descend(run, data, steps):
    """Steps of one length along the gradient of a linear model."""
    wide = torch.float64 if run.scores == torch.float64 else torch.float32
    inputs, tests = (with_one(x).to(wide) for x in (data.train_inputs, data.test_inputs))
    weights = torch.zeros(inputs.shape[1], 10, dtype=wide)
    course = Course()
    for step in range(steps + 1):
        scores = (inputs @ weights).to(run.scores).requires_grad_()
        (pull,) = torch.autograd.grad(run.loss(scores, data.train_targets), scores)
        if step % max(1, steps // POINTS) == 0:
            course.steps.append(step)
            course.losses.append(exactly(inputs @ weights, data.train_targets).item())
            course.silent.append((pull.gather(1, data.train_targets[:, None]) == 0).float().mean().item())
            course.accuracy.append(right((tests @ weights).argmax(1), data.test_targets))
        gradient = inputs.T @ pull.to(wide)
        length = gradient.double().norm()
        if length:
            weights = weights - (LENGTH / length * gradient).to(wide)
    margins = margins_of(inputs @ weights, data.train_targets)
    silent = pull.gather(1, data.train_targets[:, None])[:, 0] == 0
    course.margin = margins.min().item() / weights.norm().item()
    if silent.any():
        course.lost = true_pulls(inputs @ weights, data.train_targets)[silent].max().item()
        course.onset = margins[silent].min().item()
    return course


def margins_of(scores, targets):
    """How far the right class of each row is ahead of the next one."""
    own = scores.gather(1, targets[:, None])[:, 0]
    return own - scores.scatter(1, targets[:, None], -torch.inf).amax(1)


def true_pulls(scores, targets):
    """How hard each row pulls at its right class, by the truth: what the probability of that class lacks to 1."""
    return -torch.expm1(-of_rows(scores, targets))


def with_adam(run, data, steps):
    """A small network and Adam, in place of the linear model and steps of one length: loss by the truth, accuracy."""
    model = network(64, 10)
    if run.scores == torch.float64:
        model = model.double()
    double = [x.double() for x in (data.train_inputs, data.test_inputs)]
    given = data if run.scores != torch.float64 else sets.Data(double[0], data.train_targets, *double[1:], None)
    train(model, given, lambda scores, targets: run.loss(scores.to(run.scores), targets), steps)
    model = model.double()
    scores = model(double[0])
    return exactly(scores, data.train_targets).item(), right(model(double[1]).argmax(1), data.test_targets)


def losses(courses):
    """The panel of the training loss."""

    def panel(axes, theme):
        for run in (TORCH, LOSSKIT, TRUTH):
            course = courses[run]
            values = [max(loss, LOWEST) for loss in course.losses]
            axes.plot(
                course.steps, values, color=getattr(theme, run.colour), linestyle=run.dashes, linewidth=run.width,
                label=run.name,
            )  # fmt: skip
        axes.set_yscale("log")
        lowest = min(loss for run in (LOSSKIT, TRUTH) for loss in courses[run].losses if loss)
        axes.set_ylim(bottom=lowest / 5)
        styled(axes, theme, "Training loss, true value", "step")
        legend(axes, theme, loc="lower left")

    return panel


def shares(courses, title, pick, runs):
    """A panel of shares in percent."""

    def panel(axes, theme):
        for run in runs:
            course = courses[run]
            values = [100 * share for share in pick(course)]
            axes.plot(course.steps, values, color=getattr(theme, run.colour), linestyle=run.dashes, linewidth=run.width)
        axes.yaxis.set_major_formatter("{x:g} %")
        styled(axes, theme, title, "step")

    return panel


def near_the_end(course):
    """The accuracies of the second half, where the curves have parted."""
    return course.accuracy[len(course.accuracy) // 2 :]


def zoomed(courses):
    """The panel of the test accuracy, from the lowest value of the second half on."""
    draw = shares(courses, "Test accuracy", lambda course: course.accuracy, (TORCH, LOSSKIT, TRUTH))

    def panel(axes, theme):
        draw(axes, theme)
        ends = [share for run in (TORCH, LOSSKIT, TRUTH) for share in near_the_end(courses[run])]
        axes.set_ylim(100 * min(ends) - 1, 100 * max(max(courses[run].accuracy) for run in courses) + 0.5)

    return panel


def table(courses, adam, steps):
    """All runs of the first split."""
    heads = [
        "Scores", "Loss", "True training loss", "Rows with gradient 0", "Largest pull lost", "Smallest margin",
        "Test accuracy",
    ]  # fmt: skip
    rows = []
    for run, course in courses.items():
        what = {torch.bfloat16: "bf16", torch.float32: "float32", torch.float64: "float64"}[run.scores]
        cells = [scientific(course.losses[-1]), percent(course.silent[-1])]
        cells += [scientific(course.lost) if course.silent[-1] else "none", f"{course.margin:.3f}"]
        rows.append([what, run.name, *cells, percent(course.accuracy[-1])])
    for run, (loss, share) in adam.items():
        what = "float64" if run is TRUTH else "bf16"
        rows.append([f"{what}, network with Adam", run.name, scientific(loss), "", "", "", percent(share)])
    caption = (
        "Rows with gradient 0: training rows that pull at their right class with a gradient of exactly 0; the largest "
        "pull lost is what the gradient of such a row is in truth, at most. The margin is that of the worst training "
        f"row, over the length of the weights. The network with Adam took {steps} steps."
    )
    return Table(heads, rows, caption)


def silence(course):
    """How many rows are silent, and what is lost by it."""
    share = percent(course.silent[-1])
    return f"{share} of the rows, where up to {scientific(course.lost)} is lost" if course.silent[-1] else "no row"


def sentences(courses, others, adam):
    """What was measured, in words that the numbers choose."""
    theirs, ours, truth = (courses[run] for run in (TORCH, LOSSKIT, TRUTH))
    factor = theirs.losses[-1] / max(ours.losses[-1], LOWEST)
    parted = f"{times(factor)} losskit's" if factor > 1.1 else "no larger than losskit's"
    best, their_best = max(ours.accuracy), max(theirs.accuracy)
    early = [run.steps[run.accuracy.index(max(run.accuracy))] for run in (theirs, ours)]
    ahead = sum(ours > theirs for theirs, ours in others)
    wide = courses[TORCH_32]
    later = (
        f"With float32 scores it is the same from a margin of {wide.onset:.0f} on (bf16: {theirs.onset:.0f}), and at "
        f"the end {percent(wide.accuracy[-1])} with torch and {percent(courses[LOSSKIT_32].accuracy[-1])} with losskit."
        if wide.silent[-1]
        else "With float32 scores the training was too short for that."
    )
    return [
        f"With bf16 scores the same training ends at {percent(ours.accuracy[-1])} test accuracy with losskit's cross "
        f"entropy and at {percent(theirs.accuracy[-1])} with torch's; with the exact loss in float64 it is "
        f"{percent(truth.accuracy[-1])}.",
        "A row that the model is sure of has a small loss, but not none: it still pulls the weights towards its right "
        f"class. In torch's arithmetic that pull rounds to 0. At the last step it is exactly 0 for {silence(theirs)}; "
        f"with losskit for {silence(ours)}. The wrong classes are still pushed away, so the weights walk on, in "
        f"another direction. At the end torch's true training loss is {parted}.",
        f"Of {several(len(others), 'split')} of the data into training and test, losskit's accuracy is the higher "
        f"one in {ahead}: {listed(f'{percent(ours)} against {percent(theirs)}' for theirs, ours in others)}. {later}",
        f"Two things to know. The best test accuracy came early here, {percent(their_best)} with torch at step "
        f"{early[0]} and {percent(best)} with losskit at step {early[1]}; what follows is the way to the largest "
        f"margin. {adam_sentence(adam)}",
    ]


def times(factor):
    """A factor in words."""
    return (
        f"{factor / 1e6:.0f} million times"
        if factor > 1.5e6
        else f"{factor:,.0f} times"
        if factor > 10
        else (f"{factor:.1f} times")
    )


def adam_sentence(adam):
    """An ordinary training: no more than was measured."""
    (torch_loss, torch_share), (our_loss, our_share), (true_loss, _) = (adam[run] for run in (TORCH, LOSSKIT, TRUTH))
    return (
        "And an ordinary training of a network with Adam is less sensitive: its true training loss ends at "
        f"{scientific(torch_loss)} with torch and {scientific(our_loss)} with losskit (float64: "
        f"{scientific(true_loss)}), the test accuracy at {percent(torch_share)} and {percent(our_share)}."
    )


def run(scale, tick):
    """The part; `scale` shortens it, `tick` is called as it goes on."""
    steps = max(40, round(STEPS * scale))
    data, courses, others = sets.digits(), {}, []
    for each in (TORCH, LOSSKIT, TRUTH, TORCH_32, LOSSKIT_32):
        courses[each] = descend(each, data, steps)
        tick()
    others.append(tuple(courses[each].accuracy[-1] for each in (TORCH, LOSSKIT)))
    for seed in SPLITS[1:]:
        others.append(tuple(descend(each, sets.digits(seed), steps).accuracy[-1] for each in (TORCH, LOSSKIT)))
        tick()
    adam_steps = max(60, round(ADAM_STEPS * scale))
    adam = {each: with_adam(each, data, adam_steps) for each in (TORCH, LOSSKIT, TRUTH)}
    tick()
    must_beat("the linear model of digits", courses[LOSSKIT].accuracy[-1], most_frequent(data))
    picture = Picture(
        "exact",
        "The same training with torch's and with losskit's cross entropy, and with the exact formula in float64. Left: "
        "the loss of the training set, computed in float64 from the weights. Middle: rows whose right class gets a "
        "gradient of exactly 0. Right: accuracy on the test set.",
        [
            losses(courses),
            shares(courses, "Rows that no longer pull", lambda course: course.silent, (TORCH, LOSSKIT)),
            zoomed(courses),
        ],
    )  # fmt: skip
    ends = [courses[each].accuracy[-1] for each in (LOSSKIT, TORCH)]
    number = beside(*map(percent, ends), ends[0] > ends[1])
    words = (
        f"At the end of a training with bf16 scores {percent(courses[TORCH].silent[-1])} of the rows get a gradient of "
        f"exactly 0 from torch's cross entropy, {percent(courses[LOSSKIT].silent[-1])} from losskit's, and the test "
        f"accuracy is {percent(ends[1])} with torch and {percent(ends[0])} with losskit."
    )
    return Section(
        "exact", "Exact: a loss that does not round to 0", number,
        "test accuracy after the same training with bf16 scores, losskit and torch",
        sentences(courses, others, adam), words, pictures=[picture], tables=[table(courses, adam, adam_steps)],
        notes=[
            "1797 images of digits, a quarter held out. The linear model has float32 weights and rounds its scores to "
            f"bfloat16, as a model in bfloat16 does. Each of {steps} steps has the length {LENGTH}, along the gradient "
            "over all rows (normalised gradient descent).",
        ],
    )  # fmt: skip


TICKS = 5 + len(SPLITS)
