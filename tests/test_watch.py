"""The doctor of a training: each mistake in a small training is found, the training without it is silent."""

import threading
import warnings
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losskit
import losskit.functional as LF
from losskit.watching import replaced, watched
from losskit.watching.findings import KINDS
from losskit.watching.site import due

CLASSES = 5
LIBRARIES = {"torch": (nn, F), "losskit": (losskit, LF)}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


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


# -- the watch itself ----------------------------------------------------------------------------------------

bound = F.cross_entropy  # as `from torch.nn.functional import cross_entropy` does
TWICE = torch.randn(64, 5).softmax(1).requires_grad_()
LABELS = torch.arange(64) % 5


def test_nothing_is_left():
    criterion = OWN["scores"]
    before = {(owner, name): vars(owner)[name] for owner, name, _ in replaced._places()}
    assert (F, "mse_loss") in before and (losskit.HuberLoss, "forward") in before and (LF, "dice_loss") in before
    seen = losskit.watch(criterion)
    assert all(vars(owner)[name] is not x for (owner, name), x in before.items())
    assert bound is F.cross_entropy
    assert criterion._forward_hooks and criterion._forward_pre_hooks
    seen.remove()
    seen.remove()
    assert all(vars(owner)[name] is x for (owner, name), x in before.items())
    assert bound is F.cross_entropy and not criterion._forward_hooks and not criterion._forward_pre_hooks
    bound(TWICE, LABELS)
    assert not seen.sites


def test_a_warning_names_the_line():
    with losskit.watch(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            bound(TWICE, LABELS)
    assert [warning.category for warning in told] == [losskit.WatchWarning]
    assert str(told[0].message).startswith("cross_entropy, call 1: input has gone through a softmax")
    assert [warning.filename for warning in told] == [__file__]


def test_what_on_finding_raises_stops_the_training():
    def stop(finding):
        raise RuntimeError(finding.kind)

    with losskit.watch(on_finding=stop), pytest.raises(RuntimeError, match="applied_twice"):
        bound(TWICE, LABELS)


def test_mistakes_of_the_watch_do_not_reach_the_training(monkeypatch):
    def broken(*args):
        raise KeyError("measure")

    monkeypatch.setattr(watched, "measure", broken)
    scores = torch.randn(64, 5, requires_grad=True)
    with losskit.watch() as seen, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            bound(scores, LABELS).backward()
    assert len(told) == 1 and "cannot look at cross_entropy" in str(told[0].message)
    assert seen.sites[0].calls == 3 and not seen.findings


def test_the_training_is_the_same_bit_for_bit():
    def weights(watching):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.Dropout(), nn.Linear(16, 5), nn.Softmax(1))
        moving = torch.optim.SGD(model.parameters(), 0.1)
        with losskit.watch(first=4, every=3, on_finding=lambda one: None) if watching else warnings.catch_warnings():
            for _ in range(12):
                moving.zero_grad()
                F.cross_entropy(model(torch.randn(64, 12)), torch.randint(0, 5, (64,))).backward()
                moving.step()
        return torch.cat([x.detach().flatten() for x in model.parameters()])

    assert torch.equal(weights(True), weights(False))


@pytest.mark.parametrize("backward", [True, False])
def test_no_tensor_is_kept(backward):
    with losskit.watch(every=1):
        for dtype in (torch.float32, torch.float16):
            scores = torch.randn(64, 5, dtype=dtype, requires_grad=True) * 1.0
            loss = F.cross_entropy(scores, LABELS)
            kept = weakref.ref(scores), weakref.ref(loss)
            if backward:
                loss.backward()
            del scores, loss
            assert [x() for x in kept] == [None, None]


def test_a_compiled_loss_is_left_alone():
    """No counter of a watch is in a graph, so that nothing compiles again; the loss is the same."""
    from torch._dynamo.testing import CompileCounter

    counter, criterion, huber = CompileCounter(), OWN["numbers"], losskit.HuberLoss()
    scores = torch.randn(64, 5, requires_grad=True)

    def step(x):
        return F.cross_entropy(x, LABELS) + LF.mse_loss(x, x * 0) + huber(x, x * 0) + criterion(x[:, 0], LABELS.float())

    with losskit.watch(criterion, every=1, on_finding=lambda one: None) as seen:
        compiled = torch.compile(step, backend=counter, fullgraph=True)
        losses = [compiled(scores) for _ in range(4)]
        # The graph of this backend calls torch's function; those of others call its operators.
        assert {site.function for site in seen.sites} <= {"cross_entropy"}
        assert counter.frame_count == 1
    losses.append(compiled(scores))
    torch.testing.assert_close(losses, [step(scores)] * 5)


def test_when_calls_are_looked_at():
    assert [n for n in range(1, 701) if due(n, 5, 200)] == [1, 2, 3, 4, 5, 10, 20, 40, 80, 160, 200, 400, 600]
    assert [n for n in range(1, 20) if due(n, 1, 7)] == [1, 2, 4, 7, 14]
    with losskit.watch(first=2, every=6) as seen:
        for _ in range(13):
            bound(torch.zeros(4, 5, requires_grad=True), torch.arange(4))
        with torch.no_grad():
            bound(torch.zeros(4, 5), torch.arange(4))
    assert [(site.calls, site.looked) for site in seen.sites] == [(13, 5)]


def test_lines_are_apart_and_threads_are_together():
    def work():
        for _ in range(50):
            bound(torch.zeros(4, 5, requires_grad=True), torch.arange(4)).backward()

    with losskit.watch(on_finding=lambda one: None) as seen:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        nn.MSELoss()(torch.zeros(4, requires_grad=True), torch.ones(4))
    assert [(site.function, site.file) for site in seen.sites] == [("cross_entropy", __file__), ("mse_loss", __file__)]
    assert not any(site.broken for site in seen.sites)


def test_losses_on_a_device_are_read_together(monkeypatch):
    """On a GPU a loss that is not looked at stays there; the next look says which of them was the first NaN."""
    scores = torch.zeros(4, 5, requires_grad=True)
    with losskit.watch(first=1, every=8, on_finding=lambda one: None) as seen:
        for i in range(8):
            bound(scores, torch.arange(4))
            if i in (4, 5, 6):  # calls 5 to 7, of which the sixth is NaN
                seen.sites[0].pending.append(torch.tensor(float("nan") if i == 5 else 1.0))
                assert not seen.findings
    (found,) = seen.findings
    assert found.kind == "nan" and "the loss of call 6 was not finite" in found.sentence and found.call == 8


@pytest.mark.parametrize("first", ["accelerate", "watch"])
def test_beside_accelerate(first):
    before = F.cross_entropy
    with losskit.accelerate() if first == "accelerate" else losskit.watch(on_finding=lambda one: None) as outer:
        with losskit.watch(on_finding=lambda one: None) if first == "accelerate" else losskit.accelerate() as inner:
            F.cross_entropy(TWICE, LABELS).backward()
        report, seen = (outer, inner) if first == "accelerate" else (inner, outer)
        assert report.sites[0].fused >= 1  # and what the watch has tried out
        assert [one.kind for one in seen.findings] == ["applied_twice"]
    assert F.cross_entropy is before


def test_print():
    with losskit.watch(on_finding=lambda one: None) as seen:
        assert "no loss was called" in str(seen)
        bound(TWICE, LABELS)
    assert str(seen).startswith("losskit.watch: 1 finding\ncross_entropy at ")
    assert "test_watch.py:" in str(seen) and "1 calls, 1 looked at" in str(seen)
    assert "See docs/guides/watching.md#applied-twice." in str(seen)


def test_every_kind_has_a_heading():
    page = (Path(__file__).parent.parent / "docs" / "guides" / "watching.md").read_text(encoding="utf-8")
    headings = [line[3:].lower().replace(" ", "-") for line in page.splitlines() if line.startswith("## ")]
    assert set(KINDS.values()) <= set(headings)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: losskit.watch(F.mse_loss), "modules must be modules, got function"),
        (lambda: losskit.watch(first=0), "first must be a number of calls"),
        (lambda: losskit.watch(every=1.5), "every must be a number of calls"),
    ],
)
def test_arguments(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        call()
