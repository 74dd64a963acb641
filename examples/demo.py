"""Train small models on real data, each with torch.nn's loss and with losskit's, and compare the two.

    python examples/demo.py [--out demo_output] [--epochs-scale 1.0]

Both runs of a task start from the same weights and see the same batches; only the loss comes from a
different library. At every step the two losses are also given the same prediction, to compare their
gradients and the time they take. The result is a table on screen, training curves as PNG and a report as
one HTML file. The data sets ship with scikit-learn, so nothing is downloaded.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import report
import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sklearn import datasets
from sklearn.model_selection import train_test_split

import losskit

LIBRARIES = {"torch.nn": torch.nn, "losskit": losskit}
MILLION = 1 << 20
BATCH_REPEATS = 3  # calls per timing on the task's own batch, where one call is only microseconds
MILLION_REPEATS = 2
MILLION_PROBES = 40  # about how many steps of a task are timed at a million elements too
LEARNING_RATE = 0.003
MINIMUM_EPOCHS = 4  # however short the demo is asked to be: fewer leave nothing to take medians of


@dataclass(frozen=True)
class Data:
    """A data set split and standardised; `scale` turns standardised errors back into the data's unit."""

    train_inputs: torch.Tensor
    train_targets: torch.Tensor
    test_inputs: torch.Tensor
    test_targets: torch.Tensor
    scale: float = 1.0


def split(inputs, targets, stratify=None):
    """Train and test parts as float tensors, inputs standardised by the training part."""
    parts = train_test_split(inputs, targets, test_size=0.25, random_state=0, stratify=stratify)
    train_inputs, test_inputs, train_targets, test_targets = (
        torch.as_tensor(part, dtype=torch.float32) for part in parts
    )
    mean, deviation = train_inputs.mean(0), train_inputs.std(0)
    deviation[deviation == 0] = 1  # a pixel that is blank in every training image
    train_inputs, test_inputs = (train_inputs - mean) / deviation, (test_inputs - mean) / deviation
    return Data(train_inputs, train_targets, test_inputs, test_targets)


def load_breast_cancer():
    """569 tumours, 30 measurements each; the target is 1 for benign, 0 for malignant."""
    inputs, targets = datasets.load_breast_cancer(return_X_y=True)
    return split(inputs, targets[:, None], stratify=targets)


def load_diabetes():
    """442 patients, 10 measurements each; the target is disease progression after a year, standardised."""
    inputs, targets = datasets.load_diabetes(return_X_y=True)
    data = split(inputs, targets[:, None])
    mean, deviation = data.train_targets.mean(), data.train_targets.std()
    return Data(
        data.train_inputs,
        (data.train_targets - mean) / deviation,
        data.test_inputs,
        (data.test_targets - mean) / deviation,
        scale=deviation.item(),
    )


def load_linnerud():
    """20 men: weight, waist and pulse in, the counts of chin-ups, sit-ups and jumps out."""
    bunch = datasets.load_linnerud()
    return split(bunch.target, bunch.data)


def load_digits():
    """1797 images of 8x8 pixels; the target is ten yes-or-no questions, one per digit."""
    inputs, targets = datasets.load_digits(return_X_y=True)
    one_hot = torch.nn.functional.one_hot(torch.as_tensor(targets), 10).float()
    return split(inputs, one_hot.numpy(), stratify=targets)


def whole_output(output):
    """The model's output is the prediction."""
    return (output,)


def mean_and_variance(output):
    """The first column predicts the mean, the second, made positive, the variance."""
    return output[:, :1], torch.nn.functional.softplus(output[:, 1:]) + 1e-3


def log_rate(output):
    """Logarithms of expected counts; starting near log(50) spares the model the way up from 1."""
    return (output + 4,)


def share_of_right_answers(estimate, targets, scale):
    """Accuracy of a yes-or-no classifier that estimates the probability of yes."""
    return ((estimate > 0.5) == (targets > 0.5)).float().mean().item()


def share_of_right_classes(estimate, targets, scale):
    """Accuracy of a classifier that picks the most probable class."""
    return (estimate.argmax(1) == targets.argmax(1)).float().mean().item()


def root_mean_square_error(estimate, targets, scale):
    """Typical error, in the data's own unit."""
    return (estimate - targets).square().mean().sqrt().item() * scale


def mean_absolute_error(estimate, targets, scale):
    """Average distance from the target, in the data's own unit."""
    return (estimate - targets).abs().mean().item() * scale


@dataclass(frozen=True)
class Task:
    """What to learn, from what data, with what loss, and how to score it.

    `predict` turns the model's output into the loss's inputs; the loss is called with the first of
    them, the target, and the rest, which is the order of GaussianNLLLoss too. `estimate` turns the first
    of them into an estimate of the target, for the score.
    """

    name: str
    loss: str
    load: Callable[[], Data]
    outputs: int
    epochs: int
    batch: int | None  # None: the whole training set
    score: Callable[..., float]
    score_name: str
    score_format: str
    predict: Callable[..., tuple] = whole_output
    estimate: Callable[..., torch.Tensor] = torch.clone
    options: dict = field(default_factory=dict)

    def make_loss(self, library):
        """The task's loss out of one library, with the same options for every library."""
        return getattr(library, self.loss)(**self.options)


TASKS = [
    Task(
        "Breast cancer", "BCEWithLogitsLoss", load_breast_cancer, 1, 120, None,
        share_of_right_answers, "accuracy", "{:.1%}", estimate=torch.sigmoid,
    ),
    Task(
        "Diabetes, least squares", "MSELoss", load_diabetes, 1, 120, None,
        root_mean_square_error, "RMS error", "{:.2f}",
    ),
    Task(
        "Diabetes, robust", "HuberLoss", load_diabetes, 1, 120, None,
        root_mean_square_error, "RMS error", "{:.2f}",
    ),
    Task(
        "Diabetes, with uncertainty", "GaussianNLLLoss", load_diabetes, 2, 120, None,
        root_mean_square_error, "RMS error", "{:.2f}", mean_and_variance,
    ),
    Task(
        "Linnerud exercise counts", "PoissonNLLLoss", load_linnerud, 3, 120, None,
        mean_absolute_error, "mean error", "{:.2f}", log_rate, torch.exp, {"full": True},
    ),
    Task(
        "Digits, one against all", "BCEWithLogitsLoss", load_digits, 10, 30, 128,
        share_of_right_classes, "accuracy", "{:.1%}", estimate=torch.sigmoid,
    ),
]  # fmt: skip


NOTE = """\
Final loss is over the training set; test is on held-out data, guess is always answering the training mean.
Gradient difference is the largest at any step, relative to the largest gradient.
Times are forward + backward of the loss alone; the ratio is torch.nn / losskit, above 1 where losskit is
faster. Times and ratio are medians of their own."""


@dataclass
class Outcome:
    """Everything measured on one task; the dictionaries are by library."""

    task: Task
    test_samples: int
    batch_shape: tuple[int, ...]
    steps: int = 0
    curves: dict = field(default_factory=lambda: {name: [] for name in LIBRARIES})
    scores: dict = field(default_factory=dict)
    guess_score: float = 0.0
    gradient_differences: list = field(default_factory=list)
    batch_seconds: dict = field(default_factory=lambda: {name: [] for name in LIBRARIES})
    million_seconds: dict = field(default_factory=lambda: {name: [] for name in LIBRARIES})


def make_model(inputs, outputs):
    """A small network; the same weights at every call."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(inputs, 32), torch.nn.ReLU(), torch.nn.Linear(32, outputs))


def evaluate(loss, prediction, targets):
    """The loss of a prediction that may be more than one tensor (mean and variance)."""
    return loss(prediction[0], targets, *prediction[1:])


def gradients(loss, prediction, targets):
    """The loss's gradients with respect to the prediction."""
    leaves = [part.detach().requires_grad_() for part in prediction]
    evaluate(loss, leaves, targets).backward()
    return [leaf.grad for leaf in leaves]


def relative_difference(expected, actual):
    """Largest absolute difference over largest absolute value."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def time_loss(loss, prediction, targets, repeats):
    """Seconds for forward and backward of the loss alone, with respect to the prediction."""
    leaves = [part.detach().requires_grad_() for part in prediction]
    start = time.perf_counter()
    for _ in range(repeats):
        for leaf in leaves:
            leaf.grad = None
        evaluate(loss, leaves, targets).backward()
    return (time.perf_counter() - start) / repeats


def time_both(losses, prediction, targets, repeats, seconds):
    """Time the two libraries in turn on the same prediction; append to `seconds`.

    Whoever goes first pays for fresh memory, so both run once untimed, each is then timed in either
    position, and the one to start alternates from step to step.
    """
    order = list(LIBRARIES) if len(seconds["losskit"]) % 2 == 0 else list(reversed(LIBRARIES))
    for name in order:
        time_loss(losses[name], prediction, targets, 1)
    turns = {name: [] for name in order}
    for name in [*order, *reversed(order)]:
        turns[name].append(time_loss(losses[name], prediction, targets, repeats))
    for name in order:
        seconds[name].append(statistics.mean(turns[name]))


def tile(tensor, copies):
    """The same rows over and over, for timing at a larger size."""
    return tensor.detach().repeat(copies, 1)


def training_loss(task, loss, model, data):
    """The loss over the whole training set."""
    with torch.no_grad():
        return evaluate(loss, task.predict(model(data.train_inputs)), data.train_targets).item()


def test_score(task, model, data):
    """The task's score on data the model has not seen."""
    with torch.no_grad():
        estimate = task.estimate(task.predict(model(data.test_inputs))[0])
    return task.score(estimate, data.test_targets, data.scale)


def guess_score(task, data):
    """The score of always answering with the training targets' mean: what a model has to beat."""
    estimate = data.train_targets.mean(0).expand_as(data.test_targets)
    return task.score(estimate, data.test_targets, data.scale)


def probe(losses, prediction, targets, with_million, outcome):
    """Compare the two losses at the same prediction: their gradients, and the time they take."""
    expected = gradients(losses["torch.nn"], prediction, targets)
    actual = gradients(losses["losskit"], prediction, targets)
    outcome.gradient_differences += map(relative_difference, expected, actual)

    time_both(losses, prediction, targets, BATCH_REPEATS, outcome.batch_seconds)
    if with_million:
        copies = max(1, round(MILLION / targets.numel()))
        prediction, targets = [tile(part, copies) for part in prediction], tile(targets, copies)
        time_both(losses, prediction, targets, MILLION_REPEATS, outcome.million_seconds)


def run_task(task, epochs, on_epoch):
    """Train with both libraries side by side and measure on the way; `on_epoch` is told after each epoch."""
    data = task.load()
    samples = len(data.train_inputs)
    batch = task.batch or samples
    losses = {name: task.make_loss(library) for name, library in LIBRARIES.items()}
    models = {name: make_model(data.train_inputs.shape[1], task.outputs) for name in LIBRARIES}
    optimizers = {name: torch.optim.Adam(model.parameters(), LEARNING_RATE) for name, model in models.items()}
    shuffle = torch.Generator().manual_seed(0)
    outcome = Outcome(task, len(data.test_inputs), (batch, data.train_targets.shape[1]))
    probe_every = max(1, epochs * (samples // batch) // MILLION_PROBES)

    for name, model in models.items():
        outcome.curves[name].append(training_loss(task, losses[name], model, data))
    for _ in range(epochs):
        order = torch.randperm(samples, generator=shuffle)
        for start in range(0, samples - batch + 1, batch):  # full batches only
            chosen = order[start : start + batch]
            inputs, targets = data.train_inputs[chosen], data.train_targets[chosen]
            with torch.no_grad():
                prediction = task.predict(models["torch.nn"](inputs))
            probe(losses, prediction, targets, outcome.steps % probe_every == 0, outcome)
            for name, model in models.items():
                optimizers[name].zero_grad()
                evaluate(losses[name], task.predict(model(inputs)), targets).backward()
                optimizers[name].step()
            outcome.steps += 1
        for name, model in models.items():
            outcome.curves[name].append(training_loss(task, losses[name], model, data))
        on_epoch()
    outcome.scores = {name: test_score(task, model, data) for name, model in models.items()}
    outcome.guess_score = guess_score(task, data)
    return outcome


def summarise(outcome):
    """The numbers of one task as the table and the report show them."""
    batch, million = summarise_times(outcome.batch_seconds), summarise_times(outcome.million_seconds)
    final = {name: curve[-1] for name, curve in outcome.curves.items()}
    return report.Summary(
        task=outcome.task.name,
        loss=outcome.task.loss,
        steps=outcome.steps,
        test_samples=outcome.test_samples,
        batch_shape=outcome.batch_shape,
        curves=outcome.curves,
        final_losses=final,
        score_name=outcome.task.score_name,
        scores={name: outcome.task.score_format.format(score) for name, score in outcome.scores.items()},
        guess_score=outcome.task.score_format.format(outcome.guess_score),
        gradient_difference=report.largest(outcome.gradient_differences),
        batch=batch,
        million=million,
    )


def summarise_times(seconds):
    """Medians after warm-up: of each library's time, and of the ratio within two neighbouring timings.

    Of two neighbours each library started one, so what it costs to start falls on both alike.
    """
    warm_up = len(seconds["losskit"]) // 10
    seconds = {name: values[warm_up:] for name, values in seconds.items()}
    pairs = {name: [a + b for a, b in itertools.pairwise(values)] for name, values in seconds.items()}
    ratios = [a / b for a, b in zip(pairs["torch.nn"], pairs["losskit"], strict=True)]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return report.Times(medians, statistics.median(ratios), len(seconds["losskit"]))


def show_table(console, summaries):
    """Print two lines per task, torch.nn above losskit."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("task", no_wrap=True)
    table.add_column("", no_wrap=True)
    for head in (
        "final\nloss",
        "test",
        "gradient\ndifference",
        "loss time,\nown batch",
        "loss time,\n1M elements",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    for summary in summaries:
        for name in LIBRARIES:
            last = name == "losskit"
            table.add_row(
                f"[dim]{summary.loss}\n{summary.score_name}[/]" if last else f"[bold]{summary.task}[/]",
                name,
                report.six_digits(summary.final_losses[name]),
                summary.scores[name] + (f"\n[dim]guess {summary.guess_score}[/]" if last else ""),
                report.difference(summary.gradient_difference) if last else "",
                time_cell(summary.batch, name),
                time_cell(summary.million, name),
            )
    console.print(table)
    console.print(f"[dim]{NOTE}[/]")


def time_cell(times, name):
    """A library's time; on losskit's line also the ratio."""
    text = report.duration(times.seconds[name])
    if name != "losskit":
        return text
    ratio = round(times.ratio, 2)
    colour = "default" if ratio == 1 else "green" if ratio > 1 else "red"
    return f"{text}\n[{colour}]{times.ratio:.2f}x[/]"


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for the report")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="train this many times as long")
    return parser.parse_args()


def main():
    """Run every task, print the table, write the curves and the report."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # threads that wait for a core on a busy machine would decide the ratios
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a log file has room for the whole table
    epochs = [max(MINIMUM_EPOCHS, round(task.epochs * arguments.epochs_scale)) for task in TASKS]
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
    summaries = []
    # No refresh thread: the bars are drawn between epochs, never during a measurement.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bars = [progress.add_task(t.name, total=n) for t, n in zip(TASKS, epochs, strict=True)]
        for task, count, bar in zip(TASKS, epochs, bars, strict=True):
            outcome = run_task(task, count, lambda bar=bar: progress.update(bar, advance=1, refresh=True))
            summaries.append(summarise(outcome))
    show_table(console, summaries)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in report.write(arguments.out, summaries):
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
