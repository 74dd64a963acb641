"""The demo's tasks: what to learn from what data, with what network and loss, and how to score the result.

A task says everything that its training needs to know; the loop in demo.py is the same for all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import data as sets
import torch

NEIGHBOURS = 5
EMBEDDING = 8  # numbers that an image of 64 pixels is reduced to


def network(inputs, outputs):
    """A small network."""
    return torch.nn.Sequential(torch.nn.Linear(inputs, 32), torch.nn.ReLU(), torch.nn.Linear(32, outputs))


class ColumnReader(torch.nn.Sequential):
    """Scores for every column of a picture (batch, columns, pixels) from the columns around it."""

    def __init__(self, inputs, outputs):
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


def log_rate(output, targets):
    """Logarithms of expected counts; starting near log(50) spares the model the way up from 1."""
    return output + 4, targets


def three_embeddings(output, targets):
    """Anchor, positive and negative."""
    return tuple(output.unbind(1))


def two_embeddings(output, targets):
    """A pair, and whether it is one of the same digit."""
    return *output.unbind(1), targets


def alignment(output, targets):
    """Log-probabilities, frames first, the labels, and the numbers of frames and of labels."""
    frames = torch.full(targets.shape[:1], output.shape[1])
    return output.log_softmax(-1).transpose(0, 1), targets, frames, (targets > 0).sum(1)


# From a model and the data to estimates of the test targets.


def output_of(transform):
    """The model's output on the test inputs, transformed."""
    return lambda model, data: transform(model(data.test_inputs))


def neighbours(model, data):
    """The digit that most of the nearest training images have, nearest by what the model makes of them."""
    nearest = torch.cdist(model(data.test_inputs), model(data.train_inputs)).topk(NEIGHBOURS, largest=False)
    return data.train_targets[nearest.indices].mode(1).values


def transcripts(model, data):
    """The labels of each row: the best of every frame, repetitions counted once, blanks left out."""
    rows = [torch.unique_consecutive(row) for row in model(data.test_inputs).argmax(-1)]
    return [row[row > 0].tolist() for row in rows]


AS_IT_IS = output_of(torch.clone)


# Baselines: estimates that need no training.


def typical(task, data):
    """Always the training targets' mean, or for class indices their most frequent one: what a model has to beat."""
    targets = data.train_targets
    return (targets.mean(0) if targets.is_floating_point() else targets.mode(0).values).expand_as(data.test_targets)


def unchanged(task, data):
    """The inputs themselves in place of what a model makes of them."""
    return task.answer(torch.nn.Identity(), data)


def untrained(task, data):
    """The model before its training."""
    return task.answer(task.make_model(data), data)


# Scores: a tuple of numbers from estimates, targets and the scale of the data.


def right_answers(estimates, targets, scale):
    """Accuracy of a yes-or-no classifier that estimates the probability of yes."""
    return (((estimates > 0.5) == (targets > 0.5)).float().mean().item(),)


def right_questions(estimates, targets, scale):
    """Accuracy of a classifier that picks the question answered most surely with yes."""
    return (right(estimates.argmax(1), targets.argmax(1)),)


def right_classes(estimates, targets, scale):
    """Accuracy of class indices."""
    return (right(estimates, targets),)


def right_rare_classes(estimates, targets, scale):
    """Accuracy averaged over the classes, and over the rare ones only."""
    recalls = [right(estimates[targets == digit], digit) for digit in range(10)]
    return sum(recalls) / len(recalls), sum(recalls[digit] for digit in sets.RARE) / len(sets.RARE)


def right(estimates, targets):
    """How many are equal, as a share."""
    return (estimates == targets).float().mean().item()


def root_mean_square(estimates, targets, scale):
    """Typical error, in the data's own unit."""
    return ((estimates - targets).square().mean().sqrt().item() * scale,)


def mean_absolute(estimates, targets, scale):
    """Average distance from the target, in the data's own unit."""
    return ((estimates - targets).abs().mean().item() * scale,)


def wrong_labels(estimates, targets, scale):
    """Edits that the transcripts need, per label, and the share of transcripts that need any."""
    truths = [row[row > 0].tolist() for row in targets]
    edits = [edit_distance(*both) for both in zip(estimates, truths, strict=True)]
    return sum(edits) / sum(map(len, truths)), sum(edit > 0 for edit in edits) / len(edits)


def edit_distance(a, b):
    """Labels to insert, delete or replace to make `b` of `a`."""
    distances = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, distances[0] = distances[0], i
        for j, y in enumerate(b, 1):
            diagonal, distances[j] = distances[j], min(diagonal + (x != y), distances[j] + 1, distances[j - 1] + 1)
    return distances[-1]


def weights_of_classes(data):
    """Class weights that make all classes of the training part count alike."""
    counts = data.train_targets.bincount()
    return {"weight": counts.sum() / (len(counts) * counts)}


@dataclass(frozen=True)
class Task:
    """What to learn, from what data, with what loss, and how to score it.

    `sample` makes a batch; `compose` turns the network's output and the targets into the loss's arguments; `answer`
    gives what `score` and the `baselines` are about. `beside` names a task to compare with.
    """

    name: str
    loss: str
    load: Callable[[], sets.Data]
    outputs: int
    epochs: int
    batch: int | None  # None: the whole training set
    score: Callable[..., tuple]
    score_name: str
    score_format: str = "{:.1%}"
    answer: Callable = AS_IT_IS
    compose: Callable[..., tuple] = output_and_target
    sample: Callable[..., tuple] = sets.as_they_are
    network: Callable = network
    options: dict = field(default_factory=dict)
    options_of_data: Callable[[sets.Data], dict] = lambda data: {}
    baselines: dict = field(default_factory=lambda: {"guess": typical})
    beside: str | None = None
    learning_rate: float = 0.003

    def make_loss(self, library, data):
        """The task's loss out of one library, with the same options for every library."""
        return getattr(library, self.loss)(**self.options, **self.options_of_data(data))

    def make_model(self, data):
        """The task's network; the same weights at every call."""
        torch.manual_seed(0)
        return self.network(data.train_inputs.shape[-1], self.outputs)

    def scores(self, estimates, data):
        """The scores as the table shows them."""
        numbers = self.score(estimates, data.test_targets, data.scale)
        return " / ".join(self.score_format.format(number) for number in numbers)


def best_class(output):
    """The class with the largest score."""
    return output.argmax(1)


def classes(name, loss="CrossEntropyLoss", load=sets.digits, epochs=30, batch=128, **options):
    """A task whose classes exclude each other."""
    given = {"score": right_classes, "score_name": "accuracy", **options}
    outputs = 3 if load is sets.wine else 10
    return Task(name, loss, load, outputs, epochs, batch, answer=output_of(best_class), **given)


def embeddings(name, loss, **options):
    """A task that puts images of the same digit near each other."""
    return Task(
        name, loss, sets.digits, EMBEDDING, 40, 128, right_classes, "accuracy of neighbours", answer=neighbours,
        baselines={"inputs": unchanged, "untrained": untrained}, **options,
    )  # fmt: skip


TASKS = [
    Task(
        "Breast cancer", "BCEWithLogitsLoss", sets.breast_cancer, 1, 120, None,
        right_answers, "accuracy", answer=output_of(torch.sigmoid),
    ),
    Task(
        "Diabetes, least squares", "MSELoss", sets.diabetes, 1, 120, None,
        root_mean_square, "RMS error", "{:.2f}",
    ),
    Task(
        "Diabetes, robust", "HuberLoss", sets.diabetes, 1, 120, None,
        root_mean_square, "RMS error", "{:.2f}",
    ),
    Task(
        "Diabetes, with uncertainty", "GaussianNLLLoss", sets.diabetes, 2, 120, None,
        root_mean_square, "RMS error", "{:.2f}", output_of(lambda output: output[:, :1]), mean_and_variance,
    ),
    Task(
        "Linnerud exercise counts", "PoissonNLLLoss", sets.linnerud, 3, 120, None,
        mean_absolute, "mean error", "{:.2f}", output_of(lambda output: torch.exp(output + 4)), log_rate,
        options={"full": True},
    ),
    Task(
        "Digits, one against all", "BCEWithLogitsLoss", sets.digits_as_questions, 10, 30, 128,
        right_questions, "accuracy", answer=output_of(torch.sigmoid),
    ),
    classes("Wine", load=sets.wine, epochs=120, batch=None),
    classes("Digits"),
    classes("Digits, smoothed labels", options={"label_smoothing": 0.1}, beside="Digits"),
    classes("Digits, class margins", "MultiMarginLoss", beside="Digits"),
    classes(
        "Rare digits", load=sets.digits_with_rare_ones,
        score=right_rare_classes, score_name="recall of all / of rare",
    ),
    classes(
        "Rare digits, weighted", load=sets.digits_with_rare_ones, options_of_data=weights_of_classes,
        score=right_rare_classes, score_name="recall of all / of rare", beside="Rare digits",
    ),
    embeddings("Digits, triplets", "TripletMarginLoss", compose=three_embeddings, sample=sets.triplets),
    embeddings(
        "Digits, pairs", "CosineEmbeddingLoss", compose=two_embeddings, sample=sets.pairs, options={"margin": 0.5}
    ),
    Task(
        "Rows of digits", "CTCLoss", sets.rows_of_digits, 11, 16, 32,
        wrong_labels, "wrong labels / rows", answer=transcripts, compose=alignment, network=ColumnReader,
        baselines={"untrained": untrained}, learning_rate=0.01,
    ),
]  # fmt: skip
