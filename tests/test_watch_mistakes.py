"""Each mistake in a small training is found by a watch; the training without it, and other sound ones, are silent."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trainings import CLASSES, OWN, dead, rare, softened, spoiled, train, wild, yes

import losskit
import losskit.functional as LF

LIBRARIES = {"torch": (nn, F), "losskit": (losskit, LF)}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


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


@pytest.mark.parametrize(
    "name, kind, step, settings",
    [
        ("scores", "applied_twice", lambda c, m, x, y, i: c(m(x).softmax(1), y), {}),
        ("scores", "labels", lambda c, m, x, y, i: c(m(x), y + 1), {"outputs": 6}),
        ("scores", None, lambda c, m, x, y, i: c(m(x), y), {}),
        ("focal", "applied_twice", lambda c, m, x, y, i: c(m(x).softmax(1), y), {}),
        ("focal", None, lambda c, m, x, y, i: c(m(x), rare(y, i)), {}),
        ("labels", "applied_twice", lambda c, m, x, y, i: c(m(x)[:, 0].sigmoid(), yes(y)), {}),
        ("labels", None, lambda c, m, x, y, i: c(m(x)[:, 0], yes(y)), {}),
        ("numbers", "shapes", lambda c, m, x, y, i: c(m(x)[:, :1], y.float()), {"rate": 0.01}),
        ("numbers", "few_rows", lambda c, m, x, y, i: c(m(x)[:, 0], wild(y)), {"rate": 1e-5}),
        ("numbers", "nan", lambda c, m, x, y, i: c(m(spoiled(x, i, 13))[:, 0], y.float()), {"rate": 0.01}),
        ("squeezed", None, lambda c, m, x, y, i: c(m(x)[:, :1], y.float()), {"rate": 0.01}),
    ],
)
def test_criteria_of_ones_own(name, kind, step, settings):
    found = train(lambda *args: step(OWN[name], *args), watch=[OWN[name]], **settings)
    assert [one.kind for one in found] == ([kind] if kind else [])
    assert all(one.loss in ("OwnCriterion", "cross_entropy") for one in found)


@pytest.mark.parametrize(
    "kind, sentence, step",
    [
        ("space", "no log-probabilities", lambda m, x, y, i: F.nll_loss(m(x), y)),
        ("space", "takes their logarithms", lambda m, x, y, i: F.nll_loss(m(x).softmax(1), y)),
        ("space", "target is below 0", lambda m, x, y, i: F.kl_div(softened(y), m(x).log_softmax(1))),
        ("labels", "from 1 to 2", lambda m, x, y, i: F.binary_cross_entropy_with_logits(m(x)[:, 0], yes(y) + 1)),
        ("labels", "from 0 to 1, and must be -1 or 1", lambda m, x, y, i: F.soft_margin_loss(m(x)[:, 0], yes(y))),
        ("labels", "indices", lambda m, x, y, i: F.multilabel_margin_loss(m(x), F.one_hot(y, CLASSES))),
        ("labels", "up to 2 classes", lambda m, x, y, i: F.cross_entropy(m(x), (F.one_hot(y, 5) + F.one_hot((y + 1) % 5, 5)).float())),
        ("shapes", "(64, 1) and target (64,)", lambda m, x, y, i: F.smooth_l1_loss(m(x)[:, :1], y.float())),
        ("saturated", "flat part of a softmax", lambda m, x, y, i: F.mse_loss((99 * m(x)).softmax(1), softened(y).round())),
        ("saturated", "flat part of a tanh", lambda m, x, y, i: F.mse_loss(m(99 * x)[:, 0].tanh(), 2 * yes(y) - 1)),
        ("saturated", "a loss and no gradient",
         lambda m, x, y, i: losskit.TukeyBiweightLoss()(m(x)[:, 0], 500 + y.float())),
        ("few_rows", "more than half", lambda m, x, y, i: losskit.MSELoss()(
            m(x)[:, 0], y.float(), sample_weight=torch.where(torch.arange(64) == 0, 1e4, 1.0))),
        ("nothing", "the mask leaves nothing over", lambda m, x, y, i: LF.mse_loss(
            m(x)[:, 0], y.float(), mask=torch.zeros(64, dtype=torch.bool))),
        ("nothing", "weight 0", lambda m, x, y, i: F.cross_entropy(m(x), y * 0, weight=torch.arange(5.0))),
        ("nan", "target is NaN at row 0", lambda m, x, y, i: F.mse_loss(m(x)[:, 0], wild(y) * float("inf") * 0)),
        ("nan", "of operands without NaN at row", lambda m, x, y, i: F.nll_loss((1e5 * m(x)).softmax(1).log(), y)),
        ("halves", "beyond 65504", lambda m, x, y, i: F.mse_loss(999 * m(x)[:, 0].half(), y.half(), reduction="sum")),
        ("labels", "no label", lambda m, x, y, i: losskit.linear(losskit.CrossEntropyLoss())(
            m[1](m[0](x)), torch.cat([m[2].weight, m[2].weight[:1]]), y + 1)),
        ("applied_twice", "softmax", lambda m, x, y, i: (losskit.CrossEntropyLoss() + losskit.SoftmaxFocalLoss())(
            m(x).softmax(1), y)),
        ("applied_twice", "target is probabilities", lambda m, x, y, i: losskit.KnowledgeDistillationLoss()(
            m(x), softened(y))),
    ],
)  # fmt: skip
def test_sentences(kind, sentence, step):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = train(step, steps=8, rate=1e-3)
    assert any(one.kind == kind and sentence in one.sentence for one in found), found


def adversarial(m, x, y, i):
    real = F.binary_cross_entropy_with_logits(m(x)[:, 0], torch.ones(64))
    return real + F.binary_cross_entropy_with_logits(m(torch.randn_like(x))[:, 0], torch.zeros(64))


SOUND = {
    "learned by heart": (lambda m, x, y, i: F.cross_entropy(m(x[:8]), y[:8].sort().values), {"rate": 0.5, "steps": 320}),
    "most rows learned": (lambda m, x, y, i: F.cross_entropy(m(x), y), {"rate": 0.5, "steps": 320}),
    "smoothed": (lambda m, x, y, i: F.cross_entropy(m(x), y, label_smoothing=0.1), {"steps": 100}),
    "a teacher": (lambda m, x, y, i: F.kl_div(m(x).log_softmax(1), softened(y), reduction="batchmean"), {"steps": 80}),
    "three rows": (lambda m, x, y, i: F.cross_entropy(m(x[:3]), y[:3]), {"steps": 100, "rate": 0.02}),
    "adversaries": (adversarial, {}),
    "a penalty": (lambda m, x, y, i: F.cross_entropy(m(x), y) + F.mse_loss(m[0].weight, torch.zeros(32, 12)), {}),
    "masked classes": (lambda m, x, y, i: F.cross_entropy(
        m(x).masked_fill(F.one_hot((y + 1) % 5, 5).bool(), -torch.inf), y), {"steps": 80}),
    "focus in the place of weights": (lambda m, x, y, i: losskit.SoftmaxFocalLoss()(m(x), rare(y, i)), {}),
    "small positive scores": (lambda m, x, y, i: F.binary_cross_entropy_with_logits(
        0.2 * m(x)[:, 0] + 0.5, yes(y)), {"rate": 0.01}),
    "a Brier score": (lambda m, x, y, i: F.mse_loss(m(x).softmax(1), F.one_hot(y, CLASSES).float()), {"steps": 100}),
    "a hinge": (lambda m, x, y, i: losskit.HingeLoss()(m(x)[:, 0], 2 * yes(y) - 1), {"steps": 200}),
    "ordered classes": (lambda m, x, y, i: losskit.CORNLoss()(m(x)[:, :4], y), {}),
    "triplets": (lambda m, x, y, i: F.triplet_margin_loss(m(x), m(x + 0.1), m(x.roll(1, 0))), {"rate": 0.01}),
    "pairs": (lambda m, x, y, i: losskit.InfoNCELoss()(m(x), m(x + 0.1)), {"rate": 0.01}),
    "a begin at 0": (lambda m, x, y, i: F.cross_entropy(m(x) if i > 2 else 0 * m(x), y), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_sound_trainings_are_silent(name):
    step, settings = SOUND[name]
    assert not train(step, **settings)


def test_labels_that_torch_refuses():
    """torch says that a label does not exist, and a watch why."""
    with losskit.watch(on_finding=lambda one: None) as seen, pytest.raises(IndexError):
        F.cross_entropy(torch.zeros(6, 3, requires_grad=True), torch.tensor([1, 2, 3, 3, 2, 1]))
    assert [one.kind for one in seen.findings] == ["labels"]
    assert "labels go from 1 to 3, and 3 classes are 0 to 2" in seen.findings[0].sentence
