"""The tasks of the part on parity: what to learn from what data, with what network and loss, and how to score it.

A task says everything that its training needs to know; the loop in parity.py is the same for all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import data as sets
import torch
from training import accuracy, most_frequent, network, right, root_mean_square


class ColumnReader(torch.nn.Sequential):
    """Scores for every column of a picture (batch, columns, pixels) from the columns around it."""

    def __init__(self, inputs, outputs):
        torch.manual_seed(0)
        layers = [torch.nn.Conv1d(inputs, 48, 7, padding=3), torch.nn.ReLU(), torch.nn.Conv1d(48, 48, 7, padding=3)]
        super().__init__(*layers, torch.nn.ReLU(), torch.nn.Conv1d(48, outputs, 1))

    def forward(self, inputs):
        return super().forward(inputs.transpose(1, 2)).transpose(1, 2)


# From a network's output and the targets to the arguments of the loss.


def output_and_target(output, targets):
    """The output is what the loss takes."""
    return output, targets


def mean_and_variance(output, targets):
    """The first column predicts the mean, the second, made positive, the variance."""
    return output[:, :1], targets, torch.nn.functional.softplus(output[:, 1:]) + 1e-3


def alignment(output, targets):
    """Log-probabilities, frames first, the labels, and the numbers of frames and of labels."""
    frames = torch.full(targets.shape[:1], output.shape[1])
    return output.log_softmax(-1).transpose(0, 1), targets, frames, (targets > 0).sum(1)


# Scores of a model on the test part, and of a guess.


def right_answers(model, data):
    """Accuracy of a yes-or-no classifier whose score is above 0 for yes."""
    return right(model(data.test_inputs) > 0, data.test_targets > 0.5)


def error(model, data):
    """Typical error of the first output, in the data's own unit."""
    return data.scale * root_mean_square(model(data.test_inputs)[:, :1], data.test_targets)


def wrong_labels(model, data):
    """Edits per label that the transcripts need: the best label of every frame, repetitions once, blanks left out."""
    rows = [torch.unique_consecutive(row) for row in model(data.test_inputs).argmax(-1)]
    truth = [[label for label in row if label] for row in data.test_targets.tolist()]
    edits = [distance(row[row > 0].tolist(), labels) for row, labels in zip(rows, truth, strict=True)]
    return sum(edits) / sum(map(len, truth))


def distance(given, wanted):
    """Least number of insertions, deletions and substitutions from one sequence to another."""
    before = list(range(len(wanted) + 1))
    for i, a in enumerate(given, 1):
        row = [i]
        for j, b in enumerate(wanted, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
        before = row
    return before[-1]


def mean_guess(task, data):
    """The error of the mean of the training targets."""
    return data.scale * root_mean_square(data.train_targets.mean(0), data.test_targets)


def frequent_guess(task, data):
    """The accuracy of the most frequent class."""
    return most_frequent(data)


def nothing(task, data):
    """Without a single label in the answer every label is wrong."""
    return 1.0


@dataclass(frozen=True)
class Task:
    """What to learn, from what data, with what loss, and how to score it.

    `sample` makes a batch; `compose` turns the network's output and the targets into the loss's arguments; `guess` is
    the score to beat.
    """

    name: str
    loss: str
    load: Callable
    outputs: int
    epochs: int
    batch: int | None  # None: the whole training set
    score: Callable
    score_name: str
    guess: Callable = frequent_guess
    show: Callable = "{:.1%}".format
    higher: bool = True
    compose: Callable = output_and_target
    sample: Callable = sets.as_they_are
    network: Callable = network
    options: dict = field(default_factory=dict)
    rate: float = 0.003

    def make_loss(self, library):
        """The task's loss out of one library."""
        return getattr(library, self.loss)(**self.options)

    def make_model(self, data):
        """The task's network; the same weights at every call."""
        return self.network(data.train_inputs.shape[-1], self.outputs)


TASKS = [
    Task("Breast cancer", "BCEWithLogitsLoss", sets.breast_cancer, 1, 120, None, right_answers, "accuracy"),
    Task(
        "Diabetes", "MSELoss", sets.diabetes, 1, 120, None, error, "RMS error", mean_guess, "{:.1f}".format,
        higher=False,
    ),
    Task(
        "Diabetes, with uncertainty", "GaussianNLLLoss", sets.diabetes, 2, 120, None, error, "RMS error", mean_guess,
        "{:.1f}".format, higher=False, compose=mean_and_variance,
    ),
    Task("Digits", "CrossEntropyLoss", sets.digits, 10, 20, 128, accuracy, "accuracy"),
    Task("Digits, class margins", "MultiMarginLoss", sets.digits, 10, 20, 128, accuracy, "accuracy"),
    Task(
        "Rows of digits", "CTCLoss", sets.rows_of_digits, 11, 10, 32, wrong_labels, "wrong labels", nothing,
        higher=False, compose=alignment, network=ColumnReader, rate=0.01,
    ),
]  # fmt: skip
