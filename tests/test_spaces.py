"""Numbers of the wrong space: what is defined but not meant is told once, at the caller's line; what is right is not."""

import subprocess
import sys
import warnings

import pytest
import torch

import losskit
import losskit.functional as LF
from losskit import SpaceWarning

torch.manual_seed(5)
SCORES, LABELS = torch.randn(8, 3, requires_grad=True), torch.randint(0, 3, (8,))
ZERO_ONE = torch.randint(0, 2, (8, 3)).float()
EAGER = {"sample_weight": torch.ones((), requires_grad=True)}  # a gradient that the kernel does not give


class SpaceFocalLoss(losskit.ClassScoresLoss):
    """A loss of class scores of a user's own."""

    gamma: float = losskit.param(default=2.0, doc="Focus.")

    @staticmethod
    def value(log_probability, gamma):
        from losskit.formula import exp, power

        return -power(1.0 - exp(log_probability), gamma) * log_probability


class SpaceLogitLoss(losskit.PointwiseLoss):
    """A loss of logits of a user's own."""

    operands = {"input": losskit.Operand("Scores.", kind="logit")}

    @staticmethod
    def value(input, target):
        return (input - target) * (input - target)


def softmax(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=torch.float32).softmax(min(1, len(shape) - 1)).to(dtype)


PROBABILITIES = {
    "rows": lambda **k: LF.cross_entropy(SCORES.softmax(1), LABELS, **k),
    "module": lambda **k: losskit.CrossEntropyLoss()(SCORES.softmax(1), LABELS, **k),
    "smoothed": lambda **k: LF.cross_entropy(SCORES.softmax(1), LABELS, label_smoothing=0.1, reduction="none", **k),
    "soft targets": lambda **k: LF.cross_entropy(SCORES.softmax(1), softmax(8, 3), **k),
    "images": lambda **k: LF.cross_entropy(softmax(2, 5, 4, 4), torch.randint(0, 5, (2, 4, 4)), **k),
    "many classes": lambda **k: LF.cross_entropy(softmax(4, 300), torch.randint(0, 300, (4,)), **k),
    "channels last": lambda **k: LF.cross_entropy(softmax(9, 7).t().softmax(0).t(), torch.randint(0, 7, (9,)), **k),
    "double": lambda **k: LF.cross_entropy(softmax(4, 6, dtype=torch.float64), torch.randint(0, 6, (4,)), **k),
    "bfloat16": lambda **k: LF.cross_entropy(softmax(4, 6, dtype=torch.bfloat16), torch.randint(0, 6, (4,)), **k),
    "float16": lambda **k: LF.cross_entropy(softmax(4, 6, dtype=torch.float16), torch.randint(0, 6, (4,)), **k),
    "a custom loss": lambda **k: SpaceFocalLoss()(SCORES.softmax(1), LABELS, **k),
    "a single row": lambda **k: LF.cross_entropy(softmax(5), torch.tensor(2), **k),
}  # fmt: skip
SIGMOIDS = {
    "bce": lambda **k: LF.binary_cross_entropy_with_logits(SCORES.sigmoid(), ZERO_ONE, **k),
    "bce module": lambda **k: losskit.BCEWithLogitsLoss()(SCORES.sigmoid(), ZERO_ONE, **k),
    "bce of bool": lambda **k: LF.binary_cross_entropy_with_logits(SCORES.sigmoid(), ZERO_ONE > 0, **k),
    "bce column": lambda **k: LF.binary_cross_entropy_with_logits(
        torch.linspace(0, 1, 9)[:, None], torch.ones(9, 1), **k
    ),
    "bce strided": lambda **k: LF.binary_cross_entropy_with_logits(SCORES.sigmoid().t(), ZERO_ONE.t(), **k),
    "soft margin": lambda **k: LF.soft_margin_loss(SCORES.sigmoid(), 2 * ZERO_ONE - 1, **k),
    "multi-label": lambda **k: LF.multilabel_soft_margin_loss(SCORES.sigmoid(), ZERO_ONE, **k),
    "a custom loss": lambda **k: SpaceLogitLoss()(SCORES.sigmoid(), ZERO_ONE, **k),
}
ONE_CLASS = {
    "cross entropy": lambda **k: LF.cross_entropy(SCORES[:, :1], torch.zeros(8, dtype=torch.long), **k),
    "soft targets": lambda **k: LF.cross_entropy(SCORES[:, :1], ZERO_ONE[:, :1], **k),
    "masks": lambda **k: LF.cross_entropy(torch.randn(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), **k),
    "a custom loss": lambda **k: SpaceFocalLoss()(SCORES[:, :1], torch.zeros(8, dtype=torch.long), **k),
}
COUNTS = {
    "counts": lambda **k: LF.poisson_nll_loss(SCORES, SCORES, **k),
    "rates": lambda **k: LF.poisson_nll_loss(SCORES.exp(), SCORES, log_input=False, **k),
}
SUSPICIOUS = [
    pytest.param(call, text, id=f"{text}-{name}")
    for calls, text in (
        (PROBABILITIES, "softmax is built in"), (SIGMOIDS, "a sigmoid is built in"), (ONE_CLASS, "has one class"),
        (COUNTS, "should be non-negative"),
    )
    for name, call in calls.items()
]  # fmt: skip


@pytest.mark.parametrize("extra", [{}, EAGER], ids=["fused", "eager"])
@pytest.mark.parametrize(("call", "text"), SUSPICIOUS)
def test_a_wrong_space_is_told_where_the_call_is(call, text, extra):
    for mode in ("raise", "nan"):
        with losskit.checks(mode), pytest.warns(SpaceWarning, match=text) as told:
            loss = call(**extra)
        assert len(told) == 1
        assert told[0].filename == __file__
        assert told[0].lineno == call.__code__.co_firstlineno
    with losskit.checks("off"):
        assert torch.equal(call(**extra).detach(), loss.detach()) or "soft targets" in text or loss.isfinite().all()


@pytest.mark.parametrize(("call", "text"), SUSPICIOUS)
def test_a_graph_is_not_looked_at(call, text):
    grad = torch.func.grad(lambda w: call(sample_weight=w).sum())
    assert grad(torch.ones(())).isfinite()


def test_once_for_each_line():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            PROBABILITIES["rows"]()
            PROBABILITIES["module"]()
    assert len(told) == 2


def test_backward_is_silent():
    with pytest.warns(SpaceWarning):
        loss = LF.cross_entropy(SCORES.softmax(1), LABELS, **EAGER)
    with pytest.warns(SpaceWarning):
        once = LF.binary_cross_entropy_with_logits(SCORES.sigmoid(), ZERO_ONE, reduction="none")
    for output in (loss, once.sum()):  # warnings are errors here
        (slope,) = torch.autograd.grad(output, SCORES, create_graph=True)
        torch.autograd.grad(slope.sum(), SCORES)


RIGHT = {
    "scores": lambda s: LF.cross_entropy(torch.randn(6, 4, generator=s), torch.randint(0, 4, (6,), generator=s)),
    "small scores": lambda s: LF.cross_entropy(torch.randn(2, 2, generator=s) * 0.1, torch.tensor([0, 1])),
    "positive scores": lambda s: LF.cross_entropy(torch.rand(6, 4, generator=s), torch.tensor([0, 1, 2, 3, 0, 1])),
    "zeros": lambda s: LF.cross_entropy(torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)),
    "by hand": lambda s: LF.cross_entropy(torch.eye(4), torch.tensor([0, 1, 2, 3])),
    "no rows": lambda s: LF.cross_entropy(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), reduction="sum"),
    "one row of several": lambda s: LF.cross_entropy(
        torch.cat([torch.tensor([[0.25, 0.75]]), torch.randn(3, 2, generator=s)]), torch.tensor([0, 1, 0, 1])
    ),
    "logits": lambda s: LF.binary_cross_entropy_with_logits(torch.randn(16, generator=s), torch.ones(16)),
    "small logits": lambda s: LF.binary_cross_entropy_with_logits(torch.randn(8, generator=s) * 0.1, torch.ones(8)),
    "logits near a bias": lambda s: LF.binary_cross_entropy_with_logits(
        0.5 + 0.02 * torch.randn(32, generator=s), torch.ones(32)
    ),
    "zero logits": lambda s: LF.binary_cross_entropy_with_logits(torch.zeros(128), torch.ones(128)),
    "equal logits": lambda s: LF.binary_cross_entropy_with_logits(torch.full((128,), 0.5), torch.ones(128)),
    "steps": lambda s: LF.binary_cross_entropy_with_logits(torch.randint(0, 2, (128,), generator=s).float(), torch.ones(128)),
    "few": lambda s: LF.binary_cross_entropy_with_logits(torch.rand(7, generator=s), torch.ones(7)),
    "regression": lambda s: LF.mse_loss(torch.rand(64, generator=s), torch.rand(64, generator=s)),
    "probabilities": lambda s: LF.binary_cross_entropy(torch.rand(64, generator=s), torch.ones(64)),
    "log-probabilities": lambda s: LF.nll_loss(torch.rand(4, 1, generator=s).log(), torch.zeros(4, dtype=torch.long)),
    "no counts": lambda s: LF.poisson_nll_loss(torch.randn(9, generator=s), torch.arange(9.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_no_false_alarm(name):
    """Warnings are errors here."""
    for seed in range(200):
        RIGHT[name](torch.Generator().manual_seed(seed))


def test_masked_counts_do_not_warn():
    target = torch.tensor([1.0, -1.0, 2.0])
    LF.poisson_nll_loss(torch.zeros(3), target, mask=target >= 0)


def test_counts_below_zero_have_a_loss():
    x, t = torch.tensor([0.5, -1.0], requires_grad=True), torch.tensor([-2.0, -0.5])
    for extra in ({}, EAGER):
        with pytest.warns(SpaceWarning):
            loss = LF.poisson_nll_loss(x, t, reduction="none", **extra)
        torch.testing.assert_close(loss, x.exp() - t * x)
        (slope,) = torch.autograd.grad(loss.sum(), x)
        torch.testing.assert_close(slope, x.exp() - t)
        with pytest.raises(ValueError, match="target must be non-negative, got -2 at"):
            LF.poisson_nll_loss(x, t, full=True, **extra)


def test_the_line_of_a_script_is_shown(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import torch, losskit\n"
        "criterion = losskit.CrossEntropyLoss()\n"
        "for step in range(3):\n"
        "    criterion(torch.randn(4, 3).softmax(1), torch.tensor([0, 1, 2, 0]))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stderr.count("SpaceWarning") == 1
    assert "train.py:4: SpaceWarning: cross_entropy: input looks like probabilities" in done.stderr


RAW = torch.randn(20, 2, 5, generator=torch.Generator().manual_seed(2))
TARGETS, FRAMES, LENGTHS = torch.tensor([[1, 2, 3, 4], [2, 2, 1, 0]]), torch.tensor([20, 15]), torch.tensor([4, 3])


@pytest.mark.parametrize("extra", [{}, EAGER], ids=["fused", "eager"])
def test_scores_are_no_log_probabilities_to_ctc(extra):
    way_out = r"Pass log_softmax\(scores, dim=-1\), or from_scores=True"
    with pytest.raises(ValueError, match=rf"ctc_loss: log_probs must be log-probabilities .*{way_out}"):
        LF.ctc_loss(RAW, TARGETS, FRAMES, LENGTHS, **extra)
    with pytest.raises(ValueError, match=way_out):
        LF.ctc_loss(RAW[:, 0], TARGETS[0], 20, 4, **extra)
    right = LF.ctc_loss(RAW, TARGETS, FRAMES, LENGTHS, from_scores=True, **extra)
    known = RAW.log_softmax(2)
    known[15:, 1] = 3.0  # frames that are not used
    torch.testing.assert_close(LF.ctc_loss(known, TARGETS, FRAMES, LENGTHS, **extra), right)
    known[14, 1, 2] = 3.0
    with pytest.raises(ValueError, match=r"got 3 at index \(14, 1, 2\)"):
        LF.ctc_loss(known, TARGETS, FRAMES, LENGTHS, **extra)
    if not extra:
        assert LF.ctc_loss(known, TARGETS, FRAMES, LENGTHS, mask=torch.tensor([True, False])).isfinite()
    with losskit.checks("nan"):
        each = LF.ctc_loss(known, TARGETS, FRAMES, LENGTHS, reduction="none", **extra)
    assert each.isnan().tolist() == [False, True]
    with losskit.checks("off"):
        each = LF.ctc_loss(known, TARGETS, FRAMES, LENGTHS, reduction="none", **extra)
    torch.testing.assert_close(each, torch.nn.functional.ctc_loss(known, TARGETS, FRAMES, LENGTHS, reduction="none"))
    known[14, 1, 2] = 0.005  # rounding, as in kl_div and nll_loss
    assert LF.ctc_loss(known, TARGETS, FRAMES, LENGTHS, **extra).isfinite()


def test_scores_are_refused_in_graphs():
    with pytest.raises(ValueError, match="ctc_loss: log_probs must be log-probabilities"):
        torch.func.grad(lambda x: LF.ctc_loss(x, TARGETS, FRAMES, LENGTHS))(RAW)
