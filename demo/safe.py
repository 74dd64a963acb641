"""Safe: mistakes on which torch trains without an error, what they cost, and what losskit says.

Each mistake is made in a real training with torch's loss, beside the same training without it. What the two libraries
say is caught from the first call of each, in this run.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import data as sets
import torch
from section import Section, Table, must_beat, percent, several
from training import accuracy, most_frequent, network, right, root_mean_square, train

import losskit

STEPS = 60
GROUP = 10  # images of a sequence, as many as classes
MARGIN = 0.5  # of the cosines of different digits
ERROR = "error\N{NO-BREAK SPACE}{:.1f}".format


@dataclass(frozen=True)
class Task:
    """What is learned: data, the network's outputs, how the test part is scored, and the score of a guess."""

    load: Callable
    outputs: int
    score: Callable
    guess: Callable
    show: Callable = percent
    higher: bool = True
    sample: Callable = sets.as_they_are
    batch: int | None = None
    optimizer: type = torch.optim.Adam
    rate: float = 0.01


def error_of_progression(model, data):
    """Root mean square error, in the data's unit."""
    return data.scale * root_mean_square(model(data.test_inputs), data.test_targets)


def right_answers(model, data):
    """Accuracy of a yes-or-no classifier whose score is above 0 for yes."""
    return right(model(data.test_inputs) > 0, data.test_targets > 0.5)


def right_pairs(model, data):
    """Whether two test images are of the same digit: yes, if their cosine is nearer to 1 than to the margin."""
    tests = replace(data, train_inputs=data.test_inputs, train_targets=data.test_targets)
    inputs, targets = sets.pairs(tests, torch.arange(len(data.test_inputs)), torch.Generator().manual_seed(1))
    cosine = torch.cosine_similarity(*model(inputs).unbind(1))
    return right(cosine > (1 + MARGIN) / 2, targets > 0)


def half(data):
    """Of pairs that are as often of one digit as of two, either answer is right for half."""
    return 0.5


def mean_error(data):
    """The error of always answering with the mean of the training targets."""
    return data.scale * root_mean_square(data.train_targets.mean(), data.test_targets)


PROGRESSION = Task(sets.diabetes, 1, error_of_progression, mean_error, ERROR, higher=False)
BY_PLAIN_STEPS = Task(
    sets.diabetes, 1, error_of_progression, mean_error, ERROR, higher=False, optimizer=torch.optim.SGD,
    rate=1e-4,
)  # fmt: skip
TUMOURS = Task(sets.breast_cancer, 1, right_answers, most_frequent)
DIGITS = Task(sets.digits, 10, accuracy, most_frequent)
ALIKE = Task(sets.digits, 8, right_pairs, half, sample=sets.pairs, batch=256)


@dataclass(frozen=True)
class Mistake:
    """The loss as it is meant and as it is called by mistake: functions of a library, an output, and targets."""

    name: str
    task: Task
    meant: Callable
    mistaken: Callable


def one_hot(digits):
    """A mask of 0 and 1 for the classes of each row."""
    return torch.nn.functional.one_hot(digits, 10)


def indices(digits):
    """Class indices of each row, ended by -1, as multilabel_margin_loss wants them."""
    return torch.nn.functional.pad(digits[:, None], (0, 9), value=-1)


def softened(digits):
    """A distribution over the classes, as a teacher gives it."""
    return 0.9 * one_hot(digits) + 0.01


def sequences(rows):
    """The rows as sequences of ten; what is left over is dropped."""
    return rows[: len(rows) // GROUP * GROUP].unflatten(0, (-1, GROUP))


# In each `meant` and `mistaken`: `lib` is the library, `z` the network's output, `y` the targets.
MISTAKES = [
    Mistake(
        "MSELoss: output (N, 1), target (N,)", PROGRESSION,
        lambda lib, z, y: lib.MSELoss()(z, y),
        lambda lib, z, y: lib.MSELoss()(z, y[:, 0]),
    ),
    Mistake(
        "BCEWithLogitsLoss: labels 1 and 2 instead of 0 and 1", TUMOURS,
        lambda lib, z, y: lib.BCEWithLogitsLoss()(z, y),
        lambda lib, z, y: lib.BCEWithLogitsLoss()(z, y + 1),
    ),
    Mistake(
        "SoftMarginLoss: labels 0 and 1 instead of -1 and 1", TUMOURS,
        lambda lib, z, y: lib.SoftMarginLoss()(z, 2 * y - 1),
        lambda lib, z, y: lib.SoftMarginLoss()(z, y),
    ),
    Mistake(
        "CosineEmbeddingLoss: labels 0 and 1 instead of -1 and 1", ALIKE,
        lambda lib, z, y: lib.CosineEmbeddingLoss(margin=MARGIN)(*z.unbind(1), y),
        lambda lib, z, y: lib.CosineEmbeddingLoss(margin=MARGIN)(*z.unbind(1), (y + 1) // 2),
    ),
    Mistake(
        "MultiLabelMarginLoss: a mask of 0 and 1 instead of class indices", DIGITS,
        lambda lib, z, y: lib.MultiLabelMarginLoss()(z, indices(y)),
        lambda lib, z, y: lib.MultiLabelMarginLoss()(z, one_hot(y)),
    ),
    Mistake(
        "KLDivLoss: target and input swapped", DIGITS,
        lambda lib, z, y: lib.KLDivLoss(reduction="batchmean")(z.log_softmax(1), softened(y)),
        lambda lib, z, y: lib.KLDivLoss(reduction="batchmean")(softened(y), z.log_softmax(1)),
    ),
    Mistake(
        "NLLLoss: probabilities instead of their logarithms", DIGITS,
        lambda lib, z, y: lib.NLLLoss()(z.log_softmax(1), y),
        lambda lib, z, y: lib.NLLLoss()(z.softmax(1), y),
    ),
    Mistake(
        "CrossEntropyLoss: probabilities instead of scores", DIGITS,
        lambda lib, z, y: lib.CrossEntropyLoss()(z, y),
        lambda lib, z, y: lib.CrossEntropyLoss()(z.softmax(1), y),
    ),
    Mistake(
        'MSELoss("sum"): the reduction given first', BY_PLAIN_STEPS,
        lambda lib, z, y: lib.MSELoss(reduction="sum")(z, y),
        lambda lib, z, y: lib.MSELoss("sum")(z, y),
    ),
    Mistake(
        "CrossEntropyLoss: scores (N, T, C) instead of (N, C, T), T equal to C", DIGITS,
        lambda lib, z, y: lib.CrossEntropyLoss()(sequences(z).transpose(1, 2), sequences(y)),
        lambda lib, z, y: lib.CrossEntropyLoss()(sequences(z), sequences(y)),
    ),
]  # fmt: skip


def trained(task, data, library, loss, steps):
    """The score of a network trained with the loss of a library, and the last loss."""
    model, last = train(
        network(data.train_inputs.shape[-1], task.outputs), data, lambda z, y: loss(library, z, y), steps,
        task.batch, task.rate, task.sample, task.optimizer,
    )  # fmt: skip
    return task.score(model, data), last


def says(mistake, data, library):
    """What a library says at the first call: the sentence of an error or of warnings, and whether it is an error."""
    task = mistake.task
    generator = torch.Generator().manual_seed(0)
    chosen = torch.arange(task.batch or len(data.train_inputs))
    inputs, targets = task.sample(data, chosen, generator)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            mistake.mistaken(library, network(inputs.shape[-1], task.outputs)(inputs), targets)
        except (losskit.errors.LossError, RuntimeError, ValueError, IndexError) as problem:
            return str(problem), True
    return " ".join(str(warning.message) for warning in told), False


@dataclass(frozen=True)
class Outcome:
    """What one mistake cost and what was said about it."""

    mistake: Mistake
    meant: float
    mistaken: float
    last: float  # loss of the training with the mistake
    torch_says: str
    losskit_says: str
    refused: bool
    ours: float | None  # losskit's score, where it says nothing and trains

    @property
    def cost(self):
        """How much was lost, in the score's own unit; above 0 is a loss."""
        return (self.meant - self.mistaken) * (1 if self.mistake.task.higher else -1)

    @property
    def mended(self):
        """Whether losskit did what was meant."""
        return self.ours is not None and self.ours == self.meant


def make(mistake, steps):
    """Make a mistake, with torch to its end, with losskit as far as it lets one."""
    task = mistake.task
    data = task.load()
    torch_says, refused = says(mistake, data, torch.nn)
    if refused:
        return None
    sentence, refused = says(mistake, data, losskit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meant, _ = trained(task, data, torch.nn, mistake.meant, steps)
        mistaken, last = trained(task, data, torch.nn, mistake.mistaken, steps)
        ours = None if sentence else trained(task, data, losskit, mistake.mistaken, steps)[0]
    must_beat(f"the model without the mistake ({mistake.name})", meant, task.guess(data), task.higher)
    return Outcome(mistake, meant, mistaken, last, torch_says, sentence, refused, ours)


def row(outcome):
    """A mistake in the table."""
    show = outcome.mistake.task.show
    if outcome.losskit_says:
        ours = (f"{'error' if outcome.refused else 'warning'}: {outcome.losskit_says}", "quote")
    elif outcome.mended:
        ours = (f"does what is meant: {show(outcome.ours)}", "good")
    else:
        ours = (f"nothing either: as a call it is well defined, and ends at {show(outcome.ours)}", "bad")
    torch_says = (f"warning: {outcome.torch_says}", "quote") if outcome.torch_says else ("nothing", "bad")
    with_it = show(outcome.mistaken) + ("\nloss NaN" if outcome.last != outcome.last else "")
    costly = "bad" if outcome.cost > 0 else "plain"
    return [outcome.mistake.name, show(outcome.meant), (with_it, costly), torch_says, ours]


def run(scale, tick):
    """The part; `scale` shortens it, `tick` is called as it goes on."""
    steps = max(40, round(STEPS * scale))
    outcomes = []
    for mistake in MISTAKES:
        outcome = make(mistake, steps)
        if outcome:
            outcomes.append(outcome)
        tick()
    caught = [x for x in outcomes if x.losskit_says or x.mended]
    silent = [x for x in outcomes if not x.torch_says]
    refused = sum(x.refused for x in outcomes)
    shares = [x for x in outcomes if x.mistake.task.show is percent]
    worst = max(shares, key=lambda x: x.cost)
    least = min(shares, key=lambda x: x.cost)
    missed = len(outcomes) - len(caught)
    mended = sum(x.mended for x in outcomes)
    lead = [
        f"Of {several(len(outcomes), 'mistake')} that torch trains on to the end, it lets {len(silent)} pass without a "
        f"word; losskit stops or warns at {len(caught) - mended}"
        + (f", does what is meant at {mended}" if mended else "")
        + (f", and misses {missed}." if missed else "."),
        f"Each was trained twice with torch, with and without the mistake. The worst of them takes the test accuracy "
        f"from {percent(worst.meant)} to {percent(worst.mistaken)}; the mildest from {percent(least.meant)} to "
        f"{percent(least.mistaken)}. losskit raises an error at {refused} of them and warns where a call is defined, "
        "but hardly meant.",
    ]
    heads = ["Mistake", "Test without it", "With it", "torch says", "losskit says"]
    caption = (
        "Accuracy on the test part; with MSELoss the root mean square error of disease progression (smaller is "
        f"better; guessing has {mean_error(sets.diabetes()):.1f})."
    )
    return Section(
        "safe", "Safe: mistakes that torch trains on", f"{len(caught)} of {len(outcomes)}",
        "mistakes on which torch trains to the end, and losskit stops, warns, or does what is meant", lead,
        headline=f"Of {several(len(outcomes), 'common mistake')} that torch trains on to the end, losskit stops, warns "
        f"or does what is meant at {len(caught)}.",
        tables=[Table(heads, [row(outcome) for outcome in outcomes], caption)],
    )  # fmt: skip


TICKS = len(MISTAKES)
