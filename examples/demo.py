"""Train small models on real data, each with torch.nn's loss and with losskit's, and compare the two.

    python examples/demo.py [--out demo_output] [--epochs-scale 1.0] [--only Wine ...]

Both runs of a task start from the same weights and see the same batches; only the loss comes from a
different library. At every step the two losses are also given the same prediction, to compare their gradients
with torch's in float64, and at some steps the time they take. The result is a table on screen, training curves
as PNG and a report as one HTML file. The tasks are in tasks.py; their data (data.py) ships with scikit-learn,
so nothing is downloaded.
"""

import argparse
import itertools
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import report
import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from tasks import TASKS, Task

import losskit

LIBRARIES = {"torch.nn": torch.nn, "losskit": losskit}
MILLION = 1 << 20
BATCH_REPEATS = 3  # calls per timing on the task's own batch, where one call is only microseconds
BATCH_PROBES = 120  # about how many steps of a task are timed on its own batch
MILLION_PROBES = 12  # and at a million elements
MINIMUM_EPOCHS = 4  # however short the demo is asked to be: fewer leave nothing to take medians of

NOTE = """\
Final loss is over the training set; test is on held-out data, guess is always answering the training mean or the
most frequent class, inputs is the neighbours of the inputs themselves, untrained is the model before its training.
Gradient error is the largest at any step, relative to the largest gradient, against torch.nn's loss in float64.
Times are forward + backward of the loss alone; the ratio is torch.nn / losskit, above 1 where losskit is
faster. Times and ratio are medians of their own."""


@dataclass
class Outcome:
    """Everything measured on one task; the dictionaries are by library, `baselines` by name."""

    task: Task
    test_samples: int
    batch_shape: tuple[int, ...] = ()
    steps: int = 0
    curves: dict = field(default_factory=lambda: {name: [] for name in LIBRARIES})
    scores: dict = field(default_factory=dict)
    baselines: dict = field(default_factory=dict)
    gradient_errors: dict = field(default_factory=lambda: {name: [] for name in LIBRARIES})
    batch_seconds: dict = field(default_factory=lambda: {name: [] for name in LIBRARIES})
    million_seconds: dict = field(default_factory=lambda: {name: [] for name in LIBRARIES})


def loss_arguments(task, output, targets):
    """The loss's arguments at an output of the model; those that depend on it want their gradient."""
    arguments = task.compose(output.detach().requires_grad_(), targets)
    return [x.detach().requires_grad_(x.requires_grad) for x in arguments]


def gradients(loss, arguments):
    """The loss's gradients with respect to the predictions among its arguments."""
    leaves = [x for x in arguments if x.requires_grad]
    return torch.autograd.grad(loss(*arguments), leaves)


def relative_error(actual, truth):
    """Largest absolute difference over largest absolute value; of a truth of nothing but zeros, the difference."""
    return ((actual - truth).abs().max() / (truth.abs().max() or 1)).item()


def in_float64(argument):
    """The same numbers as float64; integers as they are."""
    double = argument.detach().double() if argument.is_floating_point() else argument
    return double.requires_grad_(argument.requires_grad)


def time_loss(loss, arguments, repeats):
    """Seconds for forward and backward of the loss alone, with respect to the predictions."""
    leaves = [x for x in arguments if x.requires_grad]
    start = time.perf_counter()
    for _ in range(repeats):
        for leaf in leaves:
            leaf.grad = None
        loss(*arguments).backward()
    return (time.perf_counter() - start) / repeats


def time_both(losses, arguments, repeats, seconds):
    """Time the two libraries in turn on the same prediction; append to `seconds`.

    Whoever goes first pays for fresh memory, so both run once untimed, each is then timed in either
    position, and the one to start alternates from step to step.
    """
    order = list(LIBRARIES) if len(seconds["losskit"]) % 2 == 0 else list(reversed(LIBRARIES))
    for name in order:
        time_loss(losses[name], arguments, 1)
    turns = {name: [] for name in order}
    for name in [*order, *reversed(order)]:
        turns[name].append(time_loss(losses[name], arguments, repeats))
    for name in order:
        seconds[name].append(statistics.mean(turns[name]))


def tile(tensor, copies):
    """The same samples over and over, for timing at a larger size."""
    return tensor.detach().repeat(copies, *[1] * (tensor.dim() - 1))


def probe(task, losses, reference, output, targets, with_times, with_million, outcome):
    """Measure the two losses at the same prediction: their gradients' errors, and the time they take."""
    arguments = loss_arguments(task, output, targets)
    outcome.batch_shape = tuple(arguments[0].shape)
    truth = gradients(reference, [in_float64(x) for x in arguments])
    for name, loss in losses.items():
        outcome.gradient_errors[name] += map(relative_error, gradients(loss, arguments), truth)
    if with_times:
        time_both(losses, arguments, BATCH_REPEATS, outcome.batch_seconds)
    if with_million:
        copies = max(1, round(MILLION / arguments[0].numel()))
        arguments = loss_arguments(task, tile(output, copies), tile(targets, copies))
        time_both(losses, arguments, 1, outcome.million_seconds)


def run_task(task, epochs, on_epoch):
    """Train with both libraries side by side and measure on the way; `on_epoch` is told after each epoch."""
    data = task.load()
    samples = len(data.train_inputs)
    batch = task.batch or samples
    losses = {name: task.make_loss(library, data) for name, library in LIBRARIES.items()}
    reference = task.make_loss(torch.nn, data).double()
    models = {name: task.make_model(data) for name in LIBRARIES}
    optimizers = {name: torch.optim.Adam(model.parameters(), task.learning_rate) for name, model in models.items()}
    generator = torch.Generator().manual_seed(0)
    outcome = Outcome(task, len(data.test_inputs))
    steps = epochs * (samples // batch)
    probe_every, million_every = (max(1, steps // probes) for probes in (BATCH_PROBES, MILLION_PROBES))
    whole = task.sample(data, torch.arange(samples), generator)

    def follow():
        """A point of the training curve: the loss over the whole training set."""
        with torch.no_grad():
            for name, model in models.items():
                outcome.curves[name].append(losses[name](*task.compose(model(whole[0]), whole[1])).item())

    follow()
    for _ in range(epochs):
        order = torch.randperm(samples, generator=generator)
        for start in range(0, samples - batch + 1, batch):  # full batches only
            inputs, targets = task.sample(data, order[start : start + batch], generator)
            with torch.no_grad():
                output = models["torch.nn"](inputs)
            now = outcome.steps % probe_every == 0, outcome.steps % million_every == 0
            probe(task, losses, reference, output, targets, *now, outcome)
            for name, model in models.items():
                optimizers[name].zero_grad()
                losses[name](*task.compose(model(inputs), targets)).backward()
                optimizers[name].step()
            outcome.steps += 1
        follow()
        on_epoch()
    with torch.no_grad():
        outcome.scores = {name: task.scores(task.answer(model, data), data) for name, model in models.items()}
        outcome.baselines = {name: task.scores(answer(task, data), data) for name, answer in task.baselines.items()}
    return outcome


def summarise(outcome):
    """The numbers of one task as the table and the report show them."""
    return report.Summary(
        task=outcome.task.name,
        loss=outcome.task.loss,
        beside=outcome.task.beside,
        steps=outcome.steps,
        test_samples=outcome.test_samples,
        batch_shape=outcome.batch_shape,
        curves=outcome.curves,
        final_losses={name: curve[-1] for name, curve in outcome.curves.items()},
        score_name=outcome.task.score_name,
        scores=outcome.scores,
        baselines=outcome.baselines,
        gradient_errors={name: report.largest(errors) for name, errors in outcome.gradient_errors.items()},
        batch=summarise_times(outcome.batch_seconds),
        million=summarise_times(outcome.million_seconds),
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
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("task", no_wrap=True)
    table.add_column("", no_wrap=True)
    for head in (
        "final\nloss",
        "test",
        "gradient\nerror",
        "loss time,\nown batch",
        "loss time,\n1M elements",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    for summary in summaries:
        for name in LIBRARIES:
            last, newline = name == "losskit", "\n"
            table.add_row(
                f"[dim]{summary.loss}\n{summary.score_name}[/]" if last else f"[bold]{summary.task}[/]",
                name,
                report.six_digits(summary.final_losses[name]),
                summary.scores[name] + (f"\n[dim]{report.baselines(summary, newline)}[/]" if last else ""),
                report.difference(summary.gradient_errors[name]),
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
    names = [task.name for task in TASKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="TASK", help=", ".join(names))
    return parser.parse_args()


def main():
    """Run every task, print the table, write the curves and the report."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # threads that wait for a core on a busy machine would decide the ratios
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a log file has room for the whole table
    tasks = [task for task in TASKS if task.name in arguments.only]
    epochs = [max(MINIMUM_EPOCHS, round(task.epochs * arguments.epochs_scale)) for task in tasks]
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
    summaries = []
    # No refresh thread: the bars are drawn between epochs, never during a measurement.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bars = [progress.add_task(t.name, total=n) for t, n in zip(tasks, epochs, strict=True)]
        for task, count, bar in zip(tasks, epochs, bars, strict=True):
            outcome = run_task(task, count, lambda bar=bar: progress.update(bar, advance=1, refresh=True))
            summaries.append(summarise(outcome))
    show_table(console, summaries)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in report.write(arguments.out, summaries):
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
