"""Imbalance: rare classes, and four ways to treat them.

Digits of which the training part has only a few threes, eights and nines; the test part has as many as of the others.
"""

from dataclasses import dataclass

import data as sets
from drawing import legend, styled
from section import Picture, Section, Table, listed, must_beat, percent
from training import most_frequent, network, right, train

import losskit

STEPS, BATCH, RATE = 270, 128, 0.003
SEEDS = (0, 1, 2)  # of the network's first weights; the scores are means


@dataclass(frozen=True)
class Way:
    """A loss, and how it is drawn."""

    name: str
    loss: object
    colour: str
    marker: str


def ways(data):
    """The losses; the weights make every class count alike."""
    counts = data.train_targets.bincount(minlength=10)
    weight = len(data.train_targets) / (10 * counts)
    return [
        Way("plain cross entropy", losskit.CrossEntropyLoss(), "orange", "o"),
        Way("class weights", losskit.CrossEntropyLoss(weight=weight), "blue", "D"),
        Way("focal loss", losskit.SoftmaxFocalLoss(gamma=2.0), "green", "^"),
        Way("focal loss with class weights", losskit.SoftmaxFocalLoss(gamma=2.0, weight=weight), "purple", "s"),
    ]


@dataclass(frozen=True)
class Score:
    """Recall of each digit, and what is made of it."""

    recalls: list
    accuracy: float

    @property
    def all(self):
        return sum(self.recalls) / len(self.recalls)

    @property
    def rare(self):
        return sum(self.recalls[digit] for digit in sets.RARE) / len(sets.RARE)


def score(model, data):
    """Of a trained network, on the test part."""
    estimates = model(data.test_inputs).argmax(1)
    recalls = [right(estimates[data.test_targets == digit], digit) for digit in range(10)]
    return Score(recalls, right(estimates, data.test_targets))


def mean_of(scores):
    """The mean of several networks."""
    recalls = [sum(digit) / len(scores) for digit in zip(*(x.recalls for x in scores), strict=True)]
    return Score(recalls, sum(x.accuracy for x in scores) / len(scores))


def recalls(scores):
    """The panel of the recall of each digit, rare ones marked."""

    def panel(axes, theme):
        for place, (way, result) in enumerate(scores.items()):
            across = [digit + 0.16 * (place - 1.5) for digit in range(10)]
            axes.scatter(
                across, [100 * recall for recall in result.recalls], s=32, marker=way.marker, label=way.name,
                color=getattr(theme, way.colour), linewidths=0,
            )  # fmt: skip
        for digit in sets.RARE:
            axes.axvspan(digit - 0.45, digit + 0.45, color=theme.line, alpha=0.7, linewidth=0, zorder=0)
        axes.set_xticks(range(10), [f"{digit}\nrare" if digit in sets.RARE else str(digit) for digit in range(10)])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:g} %")
        styled(axes, theme, "Recall of each digit")
        axes.grid(visible=False, axis="x")
        legend(axes, theme, loc="lower left")

    return panel


def run(scale, tick):
    """The part; `scale` shortens it, `tick` is called as it goes on."""
    data, scores = sets.digits_with_rare_ones(), {}
    steps = max(60, round(STEPS * scale))
    for way in ways(data):
        trained = [train(network(64, 10, seed), data, way.loss, steps, BATCH, RATE)[0] for seed in SEEDS]
        scores[way] = mean_of([score(model, data) for model in trained])
        must_beat(f"the network with {way.name}", scores[way].accuracy, most_frequent(data))
        tick()
    plain, weighted, focal, both = scores
    best = max(scores, key=lambda way: scores[way].rare)
    first = max(scores, key=lambda way: scores[way].accuracy)
    rare = {way: percent(scores[way].rare) for way in scores}
    stronger, weaker = (weighted, focal) if scores[weighted].rare > scores[focal].rare else (focal, weighted)
    gain = scores[both].rare - scores[stronger].rare
    lead = [
        f"With {sets.RARE_SAMPLES} training images of each of three digits, the recall of these is {rare[plain]} with "
        f"plain cross entropy, {rare[weighted]} with class weights, {rare[focal]} with a focal loss, and "
        f"{rare[both]} with both.",
        f"The rare digits are {listed(map(str, sets.RARE))}; the test part has as many of them as of the others. "
        f"The better one of the two remedies is here {stronger.name}, not {weaker.name}; both together are "
        + (f"{100 * gain:.1f} points above it" if round(100 * gain, 1) > 0 else "not above it")
        + f". The best accuracy of all digits is that of {first.name}, {percent(scores[first].accuracy)}.",
        "A focal loss counts hard rows more, whichever class they are of; weights count rare classes more. Class "
        "weights are a parameter of every loss of class scores.",
    ]
    rows = []
    for way, result in scores.items():
        rare = (percent(result.rare), "good" if way is best else "plain")
        rows.append([way.name, percent(result.accuracy), percent(result.all), rare])
    guess = percent(most_frequent(data))
    heads = ["Loss", "Test accuracy", "Recall of all", "Recall of rare"]
    caption = (
        f"The focal loss has gamma = 2. Means of {len(SEEDS)} networks for each loss, with the same first weights. "
        f"Guessing has {guess} accuracy."
    )
    picture = Picture("imbalance", "Recall of each digit on the test set, by loss.", [recalls(scores)], 3.6)
    return Section(
        "imbalance", "Imbalance: rare classes", f"{percent(scores[best].rare)}",
        f"recall of the rare digits with {best.name}; plain cross entropy has {percent(scores[plain].rare)}", lead,
        pictures=[picture], tables=[Table(heads, rows, caption)],
    )  # fmt: skip


TICKS = 4
