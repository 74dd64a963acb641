"""The watch itself: what it leaves behind, what it costs a training, when it looks, what it shows."""

import threading
import warnings
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trainings import OWN

import losskit
import losskit.functional as LF
from losskit.watching import places, watched
from losskit.watching.findings import KINDS
from losskit.watching.site import due


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


bound = F.cross_entropy  # as `from torch.nn.functional import cross_entropy` does
TWICE = torch.randn(64, 5).softmax(1).requires_grad_()
LABELS = torch.arange(64) % 5


def test_nothing_is_left():
    criterion = OWN["scores"]
    before = {(owner, name): vars(owner)[name] for owner, name, _ in places._places()}
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
