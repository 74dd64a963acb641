"""The training loop that the parts share, the scores, and the clock."""

import itertools
import statistics
import time

import data as sets
import torch

LIBRARY_NAMES = ("torch.nn", "losskit")


def network(inputs, outputs, seed=0):
    """A small network; the same weights at every call."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(inputs, 32), torch.nn.ReLU(), torch.nn.Linear(32, outputs))


def line():
    """A straight line through the origin, to begin with flat."""
    model = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    return model


def train(model, data, loss_of, steps, batch=None, rate=0.01, sample=sets.as_they_are, optimizer=torch.optim.Adam):
    """Train on batches in a random order that is the same for every model; returns the model and its last loss."""
    generator = torch.Generator().manual_seed(0)
    moving = optimizer(model.parameters(), rate)
    samples = len(data.train_inputs)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if batch and len(order) < batch:
            order = torch.randperm(samples, generator=generator)
        chosen = order[:batch] if batch else torch.arange(samples)
        order = order[batch:] if batch else order
        inputs, targets = sample(data, chosen, generator)
        loss = loss_of(model(inputs), targets)
        moving.zero_grad()
        loss.backward()
        moving.step()
    return model.requires_grad_(False), loss.item()


def right(estimates, targets):
    """How many are equal, as a share."""
    return (estimates == targets).float().mean().item()


def accuracy(model, data):
    """Share of the test set whose best class is the right one."""
    return right(model(data.test_inputs).argmax(1), data.test_targets)


def most_frequent(data):
    """Accuracy of always answering with the most frequent class of the training set."""
    return right(data.train_targets.mode(0).values, data.test_targets)


def root_mean_square(estimates, targets):
    """Typical error."""
    return (estimates - targets).square().mean().sqrt().item()


def time_once(loss, arguments, repeats=1):
    """Seconds for forward and backward of the loss alone, with respect to the arguments that want a gradient."""
    leaves = [x for x in arguments if x.requires_grad]
    start = time.perf_counter()
    for _ in range(repeats):
        for leaf in leaves:
            leaf.grad = None
        loss(*arguments).backward()
    return (time.perf_counter() - start) / repeats


def race(losses, arguments, rounds, repeats=1):
    """Time several losses on the same arguments, in turn; median seconds and the median ratio to the last one.

    Whoever goes first may pay for fresh memory, so the first round is not counted and the order turns round from one
    round to the next. The ratio is taken within two neighbouring rounds, one of either order.
    """
    seconds = {name: [] for name in losses}
    names = list(losses)
    for turn in range(rounds + 1):
        for name in names if turn % 2 else reversed(names):
            seconds[name].append(time_once(losses[name], arguments, repeats))
    counted = {name: values[1:] for name, values in seconds.items()}
    pairs = {name: [a + b for a, b in itertools.pairwise(x)] for name, x in counted.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(pair, pairs[names[-1]], strict=True))
        for name, pair in pairs.items()
    }
    return {name: statistics.median(values) for name, values in counted.items()}, ratios
