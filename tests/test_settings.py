"""Settings of a block belong to its thread or task, settings of a call to the process."""

import asyncio
import subprocess
import sys
import threading

import pytest
import torch

import losskit
import losskit.functional as LF
from losskit.policy import state

bad, fine = torch.tensor([1.5]), torch.tensor([1.0])


def in_thread(function):
    """What a function gives, or raises, in another thread."""
    found = []

    def run():
        try:
            found.append(function())
        except Exception as problem:
            found.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_a_block_is_of_its_thread():
    with losskit.checks("off"), losskit.empty("zero"):
        assert (state.checks, state.empty) == ("off", "zero")
        assert in_thread(lambda: (state.checks, state.empty)) == ("raise", "nan")
        assert isinstance(in_thread(lambda: LF.binary_cross_entropy(bad, fine)), ValueError)
        LF.binary_cross_entropy(bad, fine)
    assert (state.checks, state.empty) == ("raise", "nan")


def test_overlapping_blocks_leave_nothing_behind():
    """Two threads whose blocks overlap, and end in the order in which they began."""
    begun, ended = threading.Event(), threading.Event()

    def first():
        with losskit.checks("off"):
            begun.set()
            ended.wait(10)
            return state.checks

    found = []
    thread = threading.Thread(target=lambda: found.append(first()))
    thread.start()
    begun.wait(10)
    with losskit.checks("nan"):
        ended.set()
        thread.join()
        assert state.checks == "nan"
    assert found == ["off"]
    assert state.checks == "raise"


def test_a_call_is_of_the_process():
    losskit.checks("nan")
    assert in_thread(lambda: state.checks) == "nan"
    assert in_thread(lambda: losskit.checks("off")) is not None
    assert state.checks == "off"
    with losskit.checks("raise"):
        losskit.checks("nan")  # inside a block a call is of the block
        assert state.checks == "nan"
        assert in_thread(lambda: state.checks) == "off"
    assert state.checks == "off"


def test_blocks_of_tasks():
    async def task(mode, turns):
        with losskit.checks(mode):
            for _ in range(turns):
                await asyncio.sleep(0)
                assert state.checks == mode
        return state.checks

    async def both():
        return await asyncio.gather(task("off", 3), task("nan", 5), task("raise", 1))

    assert asyncio.run(both()) == ["raise"] * 3


def test_blocks_that_are_made_again_and_again():
    setting = losskit.checks("off")
    for _ in range(2):
        with setting:
            assert state.checks == "off"
            with setting:
                assert state.checks == "off"
        assert state.checks == "raise"
    for _ in range(1000):
        losskit.checks("raise")
    assert len(losskit.checks.calls) < 100


def test_a_compiled_function_follows_the_mode_of_its_thread():
    torch._dynamo.reset()
    compiled = torch.compile(LF.binary_cross_entropy, fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match="must be in"):
        compiled(bad, fine)
    with losskit.checks("nan"):
        assert compiled(bad, fine).isnan()
        assert isinstance(in_thread(lambda: compiled(bad, fine)), ValueError)
    with pytest.raises(ValueError, match="must be in"):
        compiled(bad, fine)


@pytest.mark.parametrize("mode", ["meta"])
def test_helper_tensors_are_on_the_operands_device(mode):
    """A default device changes nothing for operands that are somewhere else, messages included."""
    scores, labels = torch.randn(6, 2, 4).log_softmax(-1), torch.tensor([1, 2, 3, 1])
    expected = LF.ctc_loss(scores, labels, [6, 6], [2, 2])
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 5])
    torch.set_default_device(mode)
    try:
        torch.testing.assert_close(LF.ctc_loss(scores, labels, [6, 6], [2, 2]), expected)
        for call, what in (
            (lambda: LF.cross_entropy(x, y), r"got 5 at row \(3,\)"),
            (lambda: LF.multi_margin_loss(x, y), r"got 5 at row \(3,\)"),
            (lambda: LF.binary_cross_entropy(bad, fine), r"got 1.5 at index \(0,\)"),
            (lambda: LF.ctc_loss(scores, labels + 9, [6, 6], [2, 2]), "got 10"),
            (lambda: LF.ctc_loss(scores, labels, [6, 9], [2, 2]), "got 9"),
            (lambda: LF.cosine_embedding_loss(x, x, y), r"got 0 at index \(0,\)"),
            (lambda: LF.nll_loss(x.abs() + 1, y.clamp(max=2)), "log-probability"),
        ):
            with pytest.raises(ValueError, match=what):
                call()
        for call in (
            lambda: LF.gaussian_nll_loss(x, x, 1.0),
            lambda: LF.huber_loss(x, x, sample_weight=x.new_ones(4, 3), normalizer=3),
            lambda: torch.func.hessian(lambda z: LF.cross_entropy(z, y.clamp(max=2)))(x),
            lambda: torch.func.grad(lambda z: LF.multilabel_margin_loss(z, y.clamp(max=2).expand(4, 4)[:, :3]))(x),
        ):
            assert call().device.type == "cpu"
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_the_command_writes_what_the_stream_can_encode(encoding):
    pytest.importorskip("typer")
    for command in (["show", "huber_loss"], ["list"], ["compare", "huber_loss", "mse_loss"]):
        done = subprocess.run(
            [sys.executable, "-m", "losskit_guide", *command],
            env={**__import__("os").environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"}, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode(encoding)
        assert len(done.stdout.decode(encoding)) > 200
