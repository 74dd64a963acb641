"""Small trainings under a watch, and the made-up data that they are of."""

import torch
import torch.nn.functional as F
from torch import nn

import losskit

CLASSES = 5


def data(rows=640, width=12):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator)
    noise = torch.randn(rows, CLASSES, generator=generator)
    return x, (x @ torch.randn(width, CLASSES, generator=generator) + 0.5 * noise).argmax(1)


def network(outputs=CLASSES):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, outputs))


def train(step, *, steps=45, rate=0.1, model=None, outputs=CLASSES, watch=(), batch=64, **settings):
    """What a watch finds in a training; step: the loss of a model, inputs and class indices."""
    model = model or network(outputs)
    x, y = data()
    generator = torch.Generator().manual_seed(1)
    moving = torch.optim.SGD(model.parameters(), rate)
    found = []
    with losskit.watch(*watch, on_finding=found.append, **settings) as seen:
        for i in range(steps):
            chosen = torch.randint(len(x), (batch,), generator=generator)
            loss = step(model, x[chosen], y[chosen], i)
            moving.zero_grad()
            loss.backward()
            moving.step()
    assert not any(site.broken for site in seen.sites)
    assert found == seen.findings
    return found


def yes(y):
    return (y > 1).float()


def rare(y, i):
    return y.where(torch.rand(len(y), generator=torch.Generator().manual_seed(i)) < 0.05, 0)


def softened(y):
    return 0.9 * F.one_hot(y, CLASSES).float() + 0.02


def wild(y):
    t = y.float()
    t[0] = 1000.0
    return t


def spoiled(x, i, at):
    x = x.clone()
    x[3, 2] = float("nan") if i == at else x[3, 2]
    return x


def dead():
    model = network()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    return model


def own(forward):
    """A criterion of somebody's own."""
    return type("OwnCriterion", (nn.Module,), {"forward": forward})()


OWN = {
    "scores": own(lambda self, scores, labels: -scores.log_softmax(1).gather(1, labels[:, None]).mean()),
    "labels": own(lambda self, scores, wanted: (F.softplus(scores) - scores * wanted).mean()),
    "numbers": own(lambda self, predicted, true: ((predicted - true) ** 2).mean()),
    "focal": own(lambda self, scores, labels: (F.cross_entropy(scores, labels, reduction="none") ** 2).mean()),
    "squeezed": own(lambda self, predicted, true: ((predicted.squeeze(1) - true) ** 2).mean()),
}
