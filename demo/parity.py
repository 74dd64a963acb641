"""Parity: where torch's losses are right, nothing changes.

Both runs of a task start from the same weights and see the same batches; only the loss comes from a different library.
At every step both losses are also given the same prediction, to compare their gradients with torch's in float64, and at
some steps the time they take.
"""

import statistics
from dataclasses import dataclass, field

import torch
from section import Section, Table, WorseThanGuessingError, duration, must_beat, scientific, several, speed
from tasks import TASKS
from training import LIBRARY_NAMES, race

import losskit

LIBRARIES = dict(zip(LIBRARY_NAMES, (torch.nn, losskit), strict=True))
MILLION = 1 << 20
MINIMUM_EPOCHS = 4  # however short the demo is asked to be


@dataclass
class Outcome:
    """What was measured on one task; the dictionaries are by library."""

    task: object
    guess: float
    shape: tuple = ()
    scores: dict = field(default_factory=dict)
    losses: dict = field(default_factory=lambda: {name: [] for name in LIBRARIES})  # at every step
    errors: dict = field(default_factory=lambda: dict.fromkeys(LIBRARIES, 0.0))  # of the gradient, the largest
    seconds: dict = field(default_factory=dict)
    ratios: tuple = ()  # torch's time over losskit's, on the own batch and at a million elements


def detached(task, output, targets):
    """The loss's arguments at an output of the model; those that depend on it want their gradient."""
    arguments = task.compose(output.detach().requires_grad_(), targets)
    return [x.detach().requires_grad_(x.requires_grad) for x in arguments]


def gradients(loss, arguments):
    """The loss's gradients with respect to the predictions among its arguments."""
    return torch.autograd.grad(loss(*arguments), [x for x in arguments if x.requires_grad])


def relative_error(actual, truth):
    """Largest absolute difference over largest absolute value; NaN if there is one, so that it cannot hide."""
    return ((actual - truth).abs().max() / (truth.abs().max() or 1)).item()


def in_float64(argument):
    """The same numbers as float64; integers as they are."""
    double = argument.detach().double() if argument.is_floating_point() else argument
    return double.requires_grad_(argument.requires_grad)


def compare_gradients(losses, reference, arguments, outcome):
    """Note the largest error of each library's gradient so far."""
    truth = gradients(reference, [in_float64(x) for x in arguments])
    for name, loss in losses.items():
        for actual, wanted in zip(gradients(loss, arguments), truth, strict=True):
            outcome.errors[name] = max(relative_error(actual, wanted), outcome.errors[name], key=nan_first)


def nan_first(number):
    """A key that finds a NaN to be the largest."""
    return float("inf") if number != number else number


def tile(tensor, copies):
    """The same samples over and over, for timing at a larger size."""
    return tensor.detach().repeat(copies, *[1] * (tensor.dim() - 1))


def time_both(task, losses, output, targets, rounds, outcome):
    """Time both losses at an output of the model, and at the same rows repeated to about a million elements."""
    arguments = detached(task, output, targets)
    outcome.shape = tuple(arguments[0].shape)
    outcome.seconds, own = race(losses, arguments, 4 * rounds, repeats=3)
    copies = max(1, round(MILLION / arguments[0].numel()))
    _, million = race(losses, detached(task, tile(output, copies), tile(targets, copies)), rounds)
    outcome.ratios = own["torch.nn"], million["torch.nn"]


def run_task(task, scale):
    """Train with both libraries side by side and measure on the way."""
    data = task.load()
    samples = len(data.train_inputs)
    batch = task.batch or samples
    losses = {name: task.make_loss(library) for name, library in LIBRARIES.items()}
    models = {name: task.make_model(data) for name in LIBRARIES}
    optimizers = {name: torch.optim.Adam(model.parameters(), task.rate) for name, model in models.items()}
    generator = torch.Generator().manual_seed(0)
    outcome = Outcome(task, task.guess(task, data))
    for _ in range(max(MINIMUM_EPOCHS, round(task.epochs * scale))):
        order = torch.randperm(samples, generator=generator)
        for start in range(0, samples - batch + 1, batch):  # full batches only
            inputs, targets = task.sample(data, order[start : start + batch], generator)
            with torch.no_grad():
                output = models["torch.nn"](inputs)
            compare_gradients(losses, task.make_loss(torch.nn), detached(task, output, targets), outcome)
            for name, model in models.items():
                optimizers[name].zero_grad()
                loss = losses[name](*task.compose(model(inputs), targets))
                loss.backward()
                optimizers[name].step()
                outcome.losses[name].append(loss.item())
    time_both(task, losses, output, targets, max(4, round(9 * scale)), outcome)
    with torch.no_grad():
        outcome.scores = {name: task.score(model, data) for name, model in models.items()}
    for name, score in outcome.scores.items():
        must_beat(f"{task.name} with {name}", score, outcome.guess, task.higher)
    return outcome


def largest_gap(outcome):
    """The largest relative gap between the two training losses, over all steps."""
    pairs = zip(*outcome.losses.values(), strict=True)
    return max((abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs), key=nan_first)


def differs(outcome):
    """Whether the two test results differ in the digits shown."""
    return len({outcome.task.show(score) for score in outcome.scores.values()}) > 1


def difference(outcome):
    """A task whose test results differ, with the errors of the gradients beside it."""
    (theirs, ours), show = (outcome.scores[name] for name in LIBRARIES), outcome.task.show
    torch_error, our_error = (outcome.errors[name] for name in LIBRARIES)
    return (
        f"“{outcome.task.name}” ends at {show(theirs)} with torch and {show(ours)} with losskit. The gradients of one "
        f"step differ from float64 by up to {scientific(torch_error)} and {scientific(our_error)}, and a training adds "
        "such differences up."
    )


def row(outcome):
    """A task in the table."""
    task = outcome.task
    theirs, ours = (task.show(outcome.scores[name]) for name in LIBRARIES)
    errors = " / ".join(scientific(outcome.errors[name]) for name in LIBRARIES)
    own, million = outcome.ratios
    return [
        f"{task.name}\n{task.loss}", f"{theirs} / {ours}\n{task.score_name}, guess {task.show(outcome.guess)}",
        scientific(largest_gap(outcome)), errors, f"{duration(outcome.seconds['losskit'])}", speed(own), speed(million),
    ]  # fmt: skip


def run(scale, tick):
    """The part; `scale` shortens it, `tick` is called as it goes on."""
    outcomes, left_out = [], []
    for task in TASKS:
        try:
            outcomes.append(run_task(task, scale))
        except WorseThanGuessingError as problem:
            left_out.append(str(problem))
        tick()
    if not outcomes:
        raise WorseThanGuessingError("; ".join(left_out))
    same = sum(not differs(x) for x in outcomes)
    slower = [f"{x.task.loss} on its batch of {'×'.join(map(str, x.shape))}" for x in outcomes if x.ratios[0] < 0.995]
    slower += [f"{x.task.loss} at a million" for x in outcomes if x.ratios[1] < 0.995]
    own, million = ([x.ratios[i] for x in outcomes] for i in (0, 1))
    lead = [
        f"Of {several(len(outcomes), 'model')} trained twice, once with each library's loss, {same} give the same test "
        f"result to the digits shown. torch's time over losskit's, for the loss alone, is {min(own):.2f} to "
        f"{max(own):.2f} on the tasks' own batches and {min(million):.2f} to {max(million):.2f} at a million elements.",
        f"losskit is slower at: {'; '.join(slower)}." if slower else "losskit is not slower at any of them.",
        *map(difference, filter(differs, outcomes)),
    ]
    if left_out:
        lead.append(f"Left out, since the model does not beat guessing: {'; '.join(left_out)}.")
    heads = [
        "Task", "Test, torch / losskit", "Largest gap of losses", "Gradient error, torch / losskit",
        "losskit's time", "Ratio, own batch", "Ratio, a million",
    ]  # fmt: skip
    caption = (
        "Ratios are torch's time over losskit's, forward and backward of the loss alone, the median of interleaved "
        "rounds: above 1× losskit is faster, below 1× torch is. Gradient errors are the largest of all steps, relative "
        f"to the largest gradient, against torch's loss in float64. Number of threads: {torch.get_num_threads()}."
    )
    return Section(
        "parity", "Parity: the same training with either library", f"{same} of {len(outcomes)}",
        "tasks with the same test result, to the digits shown", lead,
        tables=[Table(heads, [row(x) for x in outcomes], caption)],
        notes=[f"The median of the ratios on the tasks' own batches is {statistics.median(own):.2f}, at a million "
               f"elements {statistics.median(million):.2f}."],
    )  # fmt: skip


TICKS = len(TASKS)
