"""The doctor of a training: each mistake in a small training is found, the training without it is silent."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losskit
import losskit.functional as LF

CLASSES = 5
LIBRARIES = {"torch": (nn, F), "losskit": (losskit, LF)}


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


# Kind, the mistake, the same without it; `lib` has classes, `f` functions, `m` is the model. Settings of both trainings.
MISTAKES = {
    "softmax twice": ("applied_twice", lambda lib, f, m, x, y, i: lib.CrossEntropyLoss()(m(x).softmax(1), y),
                      lambda lib, f, m, x, y, i: lib.CrossEntropyLoss()(m(x), y), {}),
    "softmax twice, not seen in the graph": (
        "applied_twice", lambda lib, f, m, x, y, i: f.cross_entropy(m(x).softmax(1) * 1.0, y),
        lambda lib, f, m, x, y, i: f.cross_entropy(m(x).log_softmax(1), y), {}),
    "softmax twice, of probabilities": (
        "applied_twice", lambda lib, f, m, x, y, i: f.cross_entropy(m(x).softmax(1), softened(y)),
        lambda lib, f, m, x, y, i: f.cross_entropy(m(x), softened(y)), {}),
    "sigmoid before a softmax": ("applied_twice", lambda lib, f, m, x, y, i: f.cross_entropy(m(x).sigmoid(), y),
                                 lambda lib, f, m, x, y, i: f.cross_entropy(3.0 * m(x).sigmoid(), y), {}),
    "sigmoid twice": (
        "applied_twice", lambda lib, f, m, x, y, i: lib.BCEWithLogitsLoss()(m(x)[:, 0].sigmoid(), yes(y)),
        lambda lib, f, m, x, y, i: lib.BCEWithLogitsLoss()(m(x)[:, 0], yes(y)), {}),
    "sigmoid twice, of shape (N, 1)": (
        "applied_twice",
        lambda lib, f, m, x, y, i: f.binary_cross_entropy_with_logits(m(x)[:, :1].sigmoid(), yes(y)[:, None]),
        lambda lib, f, m, x, y, i: f.binary_cross_entropy(m(x)[:, :1].sigmoid(), yes(y)[:, None]), {}),
    "off by one": (
        "labels",
        lambda lib, f, m, x, y, i: f.cross_entropy(m(x), y + 1),
        lambda lib, f, m, x, y, i: f.cross_entropy(m(x), y + torch.arange(64) % 2),
        {"outputs": 6},
    ),
    "one label": ("labels", lambda lib, f, m, x, y, i: f.cross_entropy(m(x), y * 0 + 2),
                  lambda lib, f, m, x, y, i: f.cross_entropy(m(x), y), {}),
    "one label of yes or no": (
        "labels", lambda lib, f, m, x, y, i: f.binary_cross_entropy_with_logits(m(x)[:, 0], yes(y) * 0),
        lambda lib, f, m, x, y, i: f.binary_cross_entropy_with_logits(m(x)[:, 0], yes(y)), {}),
    "one number": ("labels", lambda lib, f, m, x, y, i: f.mse_loss(m(x)[:, 0], y.float() * 0 + 3),
                   lambda lib, f, m, x, y, i: f.mse_loss(m(x)[:, 0], y.float()), {"rate": 0.01}),
    "one class": ("one_class", lambda lib, f, m, x, y, i: f.cross_entropy(m(x)[:, :1], y * 0),
                  lambda lib, f, m, x, y, i: f.cross_entropy(m(x)[:, :2], (y > 1).long()), {}),
    "a dead network": ("one_class", lambda lib, f, m, x, y, i: f.cross_entropy(dead()(x), y) + 0 * m(x).sum(),
                       lambda lib, f, m, x, y, i: f.cross_entropy(m(x), y), {}),
    "one answer": (
        "one_class", lambda lib, f, m, x, y, i: f.cross_entropy(m(x) + torch.tensor([9.0, 0, 0, 0, 0]), y),
        lambda lib, f, m, x, y, i: f.cross_entropy(m(x), y), {"rate": 1e-4, "steps": 80}),
    "imbalance": ("imbalance", lambda lib, f, m, x, y, i: f.cross_entropy(m(x), rare(y, i)),
                  lambda lib, f, m, x, y, i: lib.CrossEntropyLoss(weight=torch.tensor([0.1, 1, 1, 1, 1]))(m(x), rare(y, i)),
                  {}),
    "imbalance of yes": (
        "imbalance", lambda lib, f, m, x, y, i: lib.BCEWithLogitsLoss()(m(x)[:, 0], (rare(y, i) > 0).float()),
        lambda lib, f, m, x, y, i: lib.BCEWithLogitsLoss(pos_weight=torch.tensor(20.0))(m(x)[:, 0], (rare(y, i) > 0).float()),
        {}),
    "wild rows": ("few_rows", lambda lib, f, m, x, y, i: f.mse_loss(m(x)[:, 0], wild(y)),
                  lambda lib, f, m, x, y, i: f.huber_loss(m(x)[:, 0], wild(y)), {"rate": 1e-5}),
    "a flat sigmoid": (
        "saturated", lambda lib, f, m, x, y, i: f.mse_loss((100 * m(x)[:, :1]).sigmoid(), yes(y)[:, None]),
        lambda lib, f, m, x, y, i: f.mse_loss(m(x)[:, :1].sigmoid(), yes(y)[:, None]), {}),
    "a flat sigmoid before its logarithm": (
        "saturated", lambda lib, f, m, x, y, i: f.binary_cross_entropy((1000 * m(x)[:, 0]).sigmoid(), yes(y)),
        lambda lib, f, m, x, y, i: f.binary_cross_entropy(m(x)[:, 0].sigmoid(), yes(y)), {}),
    "nothing counts": (
        "nothing", lambda lib, f, m, x, y, i: f.cross_entropy(m(x), torch.full_like(y, -100) if i == 6 else y),
        lambda lib, f, m, x, y, i: f.cross_entropy(m(x), y.where(torch.arange(64) % 2 > 0, -100)), {"steps": 9}),
    "no rows": ("nothing", lambda lib, f, m, x, y, i: f.mse_loss(m(x)[: 64 * (i != 7), 0], y[: 64 * (i != 7)].float()),
                lambda lib, f, m, x, y, i: f.mse_loss(m(x)[: 64 - i, 0], y[: 64 - i].float()), {"steps": 9, "rate": 0.01}),
    "halves without a scale": (
        "halves", lambda lib, f, m, x, y, i: f.cross_entropy(m(x).half(), y) * 1e-5,
        lambda lib, f, m, x, y, i: f.cross_entropy(m(x).half(), y), {}),
    "halves that end": ("halves", lambda lib, f, m, x, y, i: f.mse_loss((1e6 * m(x)[:, 0]).half(), y.half()),
                        lambda lib, f, m, x, y, i: f.mse_loss(m(x)[:, 0].half(), y.half()), {"steps": 6, "rate": 0.01}),
    "NaN in a row": ("nan", lambda lib, f, m, x, y, i: f.mse_loss(m(spoiled(x, i, 16))[:, 0], y.float()),
                     lambda lib, f, m, x, y, i: f.mse_loss(m(spoiled(x, i, -1))[:, 0], y.float()), {"rate": 0.01}),
    "a root at 0": ("nan", lambda lib, f, m, x, y, i: f.mse_loss((m(x)[:, 0] * 0).abs().sqrt(), y.float()),
                    lambda lib, f, m, x, y, i: f.mse_loss((m(x)[:, 0].abs() + 1e-6).sqrt(), y.float()), {"steps": 3}),
}  # fmt: skip


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, library):
    kind, mistake, meant, settings = MISTAKES[name]
    lib = LIBRARIES[library]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", losskit.SpaceWarning)
        found = train(lambda *args: mistake(*lib, *args), **settings)
    assert kind in [one.kind for one in found], found
    assert not train(lambda *args: meant(*lib, *args), **settings)
