"""losskit in the place of torch's functions: who computes, what is refused, what is restored."""

import pickle
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

import losskit
from losskit import acceleration, functional
from losskit.acceleration.imports import After
from losskit.policy import state

ROOT = Path(__file__).parent.parent
TORCHS = F.cross_entropy, F.mse_loss
bound = F.cross_entropy  # as `from torch.nn.functional import cross_entropy` does

x, y = torch.randn(8, 5), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])


@pytest.fixture
def report():
    with losskit.accelerate() as found:
        yield found
    assert (F.cross_entropy, F.mse_loss) == TORCHS


def both(call):
    """What a call gives with losskit and without: a result or an exception; and the report."""
    with losskit.accelerate() as report:
        ours = outcome(call)
    return ours, outcome(call), report


def outcome(call):
    try:
        return call()
    except Exception as problem:
        return problem


def test_everything_is_there_and_taken_back():
    assert len(acceleration.FUNCTIONS) == 22
    before = {name: getattr(F, name) for name in acceleration.FUNCTIONS}
    with losskit.accelerate() as report:
        assert all(getattr(F, name) is not function for name, function in before.items())
        assert bound is F.cross_entropy
        assert F.cross_entropy.__name__ == "cross_entropy"
        assert state.checks == "torch"
        loss = bound(x, y)
        assert torch.equal(nn.CrossEntropyLoss()(x, y), loss)
        assert [site.fused for site in report.sites] == [1, 1]
        assert Path(report.sites[0].file) == Path(__file__)
    assert all(getattr(F, name) is function for name, function in before.items())
    assert bound is before["cross_entropy"]
    assert state.checks == "raise"
    assert "undone" in str(report)


def test_only_some():
    with losskit.accelerate(only="mse_loss") as some:
        assert F.cross_entropy is TORCHS[0]
        F.mse_loss(x, x + 1)
    assert [site.function for site in some.sites] == ["mse_loss"]


@pytest.mark.parametrize(
    "call, reason",
    [
        (lambda: F.l1_loss(y, y + 1, reduction="sum"), "must be floating point"),
        (lambda: F.l1_loss(x + 1j, x), "must be real"),
        (lambda: F.cross_entropy(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), reduction="sum"), "class"),
    ],
)
def test_what_losskit_refuses_torch_computes(call, reason):
    ours, theirs, report = both(call)
    torch.testing.assert_close(ours, theirs)
    (site,) = report.sites
    assert (site.calls, site.fused, site.torch.total()) == (1, 0, 1)
    assert reason in site.why
    assert reason in str(report)


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.cross_entropy(x, y + 3),
        lambda: F.mse_loss(x, [1.0]),
        lambda: F.binary_cross_entropy(x, x),
        lambda: F.gaussian_nll_loss(x, x, -x.abs()),
        lambda: F.mse_loss(x, x, reduction="average"),
        lambda: F.multi_margin_loss(x, y + 3),
        lambda: F.ctc_loss(x.unsqueeze(1), y[:2], [9], [2]),
        lambda: F.mse_loss(x, x, colour=3),
    ],
)
def test_what_both_refuse_is_torchs_error(call):
    ours, theirs, _ = both(call)
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)
    assert ours.__cause__ is ours.__context__ is None


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_values_that_torch_takes_are_computed():
    """Outside of what losskit calls a domain: negative counts, targets above 1, scores that look like probabilities."""
    negative, above, shares = -x.abs(), 2 * x.abs(), x.softmax(1)
    calls = [
        lambda: F.poisson_nll_loss(x, negative),
        lambda: F.binary_cross_entropy_with_logits(x, above),
        lambda: F.cross_entropy(shares, y),
        lambda: F.mse_loss(x, x[:1]),
    ]
    for call in calls:
        ours, theirs, report = both(call)
        torch.testing.assert_close(ours, theirs)
        assert report.sites[0].torch.total() == 0


def test_refusals_as_errors():
    with losskit.accelerate(refused="raise"), pytest.raises(losskit.LossTypeError, match="must be floating point"):
        F.l1_loss(y, y)


class Own(torch.Tensor):
    """A host's tensor, whose functions have a table of its own."""

    seen = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit")
def test_what_torch_must_see_itself(report):
    """A subclass finds torch's function, as its table has it; a mode, a trace and a Proxy do, too."""
    Own.seen.clear()
    F.mse_loss(x.as_subclass(Own), x)
    assert Own.seen[0] is TORCHS[1]

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            Own.seen.append(func)
            return func(*args, **(kwargs or {}))

    Own.seen.clear()
    with Mode():
        F.mse_loss(x, x)
    assert Own.seen[0] is TORCHS[1]
    traced = torch.jit.trace(lambda a, b: F.mse_loss(a, b), (x, x + 1))
    assert "aten::mse_loss" in str(traced.graph)
    scripted = torch.jit.script(nn.MSELoss())
    assert scripted(x, x + 1) == 1
    whys = {site.why for site in report.sites}
    assert {"Own defines what functions do with it", "a TorchFunctionMode is active"} <= whys
    with torch.device("cpu"):  # which is a mode, too, but looks at no function
        F.mse_loss(x, x)
    assert report.sites[-1].fused == 1


def test_other_ways_to_call(report):
    torch.testing.assert_close(torch.func.grad(lambda a: F.mse_loss(a, x + 1))(x), torch.full_like(x, -2 / x.numel()))
    module = pickle.loads(pickle.dumps(nn.CrossEntropyLoss()))
    assert type(module) is nn.CrossEntropyLoss
    program = torch.export.export(module, (x, y))
    torch.testing.assert_close(program.module()(x, y), module(x, y))
    assert sum(site.eager.total() for site in report.sites) >= 1


def test_compiled(report):
    """One graph, whatever is called how often; nothing is counted, since a counter would compile again."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    step = torch.compile(lambda a, b: F.cross_entropy(a, b) * 2, backend=counter, fullgraph=True)
    for _ in range(12):
        got = step(x, y)
    assert counter.frame_count == 1
    assert report.sites == []
    torch.testing.assert_close(got, 2 * F.cross_entropy(x, y))
    whole = torch.compile(lambda a: F.l1_loss(a, a.flip(0), reduction="sum"), backend=counter)
    assert whole(torch.arange(4)) == 8  # losskit refuses integers


def test_differences_are_seen(monkeypatch):
    with losskit.accelerate() as report:
        report.shadow(2)
        for _ in range(3):
            F.cross_entropy(x, y)
    (site,) = report.sites
    assert (site.calls, site.compared) == (3, 2)
    assert site.value < 1e-6
    monkeypatch.setattr(functional, "mse_loss", lambda a, b: 1.5 * functional.l1_loss(a, b))
    with losskit.accelerate() as wrong:
        wrong.shadow()
        F.mse_loss((x + 1).requires_grad_(), x)
    assert wrong.sites[0].value == pytest.approx(0.5)
    assert "value 5.0e-01" in str(wrong)


def test_misses():
    """Losses that losskit does not reach: references from before, operators below, formulas of the program's own."""
    scores, log_probabilities, kept = x.clone().requires_grad_(), x.log_softmax(-1), F.cross_entropy
    calls = {
        "cross_entropy": lambda: kept(scores, y),
        "kl_div": lambda: torch.kl_div(log_probabilities, x.softmax(-1)),
        "mse_loss": lambda: torch.ops.aten.mse_loss(scores, x),
        "log_softmax, gather": lambda: -scores.log_softmax(-1).gather(1, y[:, None]).squeeze(1).mean(),
        "log_softmax, mul": lambda: (-F.log_softmax(scores, -1) * 0.2).sum(),
        "logsumexp, sub": lambda: scores[:, 0] - scores.logsumexp(1),
        "log_sigmoid": lambda: -F.logsigmoid(scores)[:, 0].mean(),
    }
    expected = {name: call() for name, call in calls.items()}
    with losskit.accelerate() as report, report.misses() as missed:
        for name, call in calls.items():
            assert torch.equal(call(), expected[name])
        assert nn.CrossEntropyLoss()(scores, y).isfinite()  # losskit's, and so no miss
        assert nn.functional.l1_loss(y, y, reduction="sum") == 0  # left to torch, and reported where that is told
        assert (scores.exp() * 2 - scores.sigmoid()).isfinite().all()
    found = [site.function for site in missed.sites.by_calls]
    assert sorted(found) == sorted([*calls.keys() - {"log_sigmoid"}, "log_sigmoid, getitem"])
    assert [site.function for site in report.sites] == ["cross_entropy", "l1_loss"]
    assert str(report).count("kept from before") == 1


def test_calls_nest_and_must_agree(report):
    assert losskit.accelerate() is report
    report.undo()
    assert F.mse_loss is not TORCHS[1]
    with pytest.raises(ValueError, match="the same until undo"):
        losskit.accelerate(refused="raise")
    with pytest.raises(ValueError, match="only must be among"):
        losskit.accelerate(only="softmax")
    with pytest.raises(ValueError, match="refused must be"):
        losskit.accelerate(refused="no")
    with pytest.raises(ValueError, match="steps must be"):
        report.shadow(-1)


def test_what_somebody_else_has_replaced_stays():
    with losskit.accelerate() as report:
        F.mse_loss = other = lambda *a: None
    left, F.mse_loss = F.mse_loss, TORCHS[1]
    assert left is other
    assert "torch.nn.functional.mse_loss" in str(report)


def test_a_mode_of_ones_own_stays():
    losskit.checks("nan")
    with losskit.accelerate():
        assert state.checks == "nan"
    losskit.checks("raise")
    with losskit.accelerate():
        losskit.checks("off")
    assert state.checks == "off"
    losskit.checks("raise")


def test_threads(report):
    threads = [threading.Thread(target=lambda: [F.mse_loss(x, x) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(site.calls for site in report.sites) == 200


def test_a_program_is_adapted_when_it_comes(monkeypatch):
    """timm's own formulas, in a module that is imported later."""

    class SoftTargetCrossEntropy(nn.Module):
        def forward(self, x, target):
            return torch.sum(-target * F.log_softmax(x, dim=-1), dim=-1).mean()

    module = types.ModuleType("timm.loss.cross_entropy")
    module.SoftTargetCrossEntropy = SoftTargetCrossEntropy
    own = SoftTargetCrossEntropy.forward
    monkeypatch.setitem(sys.modules, module.__name__, module)
    target = torch.rand(8, 5).softmax(1)
    expected = SoftTargetCrossEntropy()(x, target)
    with losskit.accelerate():
        assert SoftTargetCrossEntropy.forward is not own
        torch.testing.assert_close(SoftTargetCrossEntropy()(x, target), expected)
        torch.testing.assert_close(SoftTargetCrossEntropy()(x, 2 * target), 2 * expected)
        three = torch.randn(2, 3, 5), torch.rand(2, 3, 5)
        torch.testing.assert_close(SoftTargetCrossEntropy()(*three), own(None, *three))
    assert SoftTargetCrossEntropy.forward is own


def test_after_an_import(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_late_module.py").write_text("here = 1\n")
    seen = []
    waiting = After("a_late_module", seen.append)
    import a_late_module

    assert seen == [a_late_module]
    assert waiting not in sys.meta_path
    After("a_late_module", seen.append)
    assert seen == [a_late_module] * 2
    never = After("no_such_module", seen.append)
    never.forget()
    assert never not in sys.meta_path


SCRIPT = """
import sys, torch, torch.multiprocessing as mp
import torch.nn.functional as F
from torch.nn.functional import mse_loss

def work(rank):
    assert "losskit" in F.mse_loss.__code__.co_filename, "a process without it"
    print("rank", rank, flush=True)

if __name__ == "__main__":
    assert sys.argv[1:] == ["--lr", "3"]
    print(mse_loss(torch.ones(2), torch.zeros(2)), flush=True)
    torch.ops.aten.mse_loss(torch.ones(2), torch.zeros(2))
    mp.spawn(work, nprocs=1)
"""


def command(*arguments, **options):
    program = [sys.executable, "-m", "losskit", "accelerate", *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=300, **options)


def test_a_script_and_its_processes(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    done = command("--shadow", "2", "--misses", "train.py", "--lr", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["tensor(1.)", "rank 0"]
    assert "mse_loss" in done.stderr
    reached, missed = done.stderr.split("not reached:")
    assert "train.py:12" in reached
    assert "train.py:13" in missed
    module = command("--quiet", "-m", "train", "--lr", "3", cwd=tmp_path)
    assert (module.returncode, module.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "name a script"),
        (["--fast", "x.py"], "there is no option --fast"),
        (["nowhere.py"], "there is no script nowhere.py"),
        (["--only"], "--only needs a value"),
        (["--shadow", "few", "x.py"], "--shadow takes a number of calls"),
    ],
)
def test_what_the_command_refuses(capsys, arguments, said):
    from losskit.acceleration.script import main

    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
