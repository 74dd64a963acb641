"""The ordered family: layouts, threads, transforms, messages, declarations of one's own."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
import torch.nn.functional as F  # its usual name
from ordered_rows import LOSSES, PATHS, WIDE, list_mle, normal, operands, take, whole, with_gradient
from row_samples import without_kernels

import losskit
import losskit.functional as LF
from losskit.kernels.dispatch import why

# ---------------------------------------------------------------------------------------------------------
# Layouts, dtypes, threads


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [*WIDE, torch.bfloat16, torch.float16], ids=str)
def test_fused_is_eager(cls, reduction, dtype, monkeypatch):
    given = operands(cls, dtype)
    shape = cls("none")(*given).shape
    weight = normal(*shape, seed=8).abs().to(dtype if dtype in WIDE else torch.float32)
    mask = whole(3, *shape, seed=9) > 0
    for extra in ({}, {"sample_weight": weight}, {"mask": mask}, {"normalizer": 3.0}):
        got = with_gradient(cls(reduction=reduction), *given, **extra)
        with monkeypatch.context() as patch:
            without_kernels(patch)
            expected = with_gradient(cls(reduction=reduction), *given, **extra)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(got, expected, rtol=4 * eps + 1e-13, atol=eps / 4)


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
def test_layouts(cls):
    """Other orders of memory and gaps change no bit."""
    given = operands(cls)
    expected = with_gradient(cls(), *given)

    def turned(x):
        order = list(reversed(range(x.ndim)))
        return x.permute(order).contiguous().permute(order)

    def gapped(x):
        return torch.stack([x, x], -1).flatten(-2)[..., ::2]

    for change in (turned, gapped):
        changed = [change(x) for x in given]
        assert why(cls(), *changed).implementation == "fused CPU kernel"
        got = with_gradient(cls(), *changed)
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
def test_the_same_bits_for_any_number_of_threads(cls):
    shape = (12, 30000) if cls is not losskit.LovaszSoftmaxLoss else (4, 12, 8192)
    x = normal(*shape, dtype=torch.float32)
    others = {
        losskit.ListMLELoss: [whole(9, *shape)], losskit.CoxPHLoss: [whole(900, *shape), whole(2, *shape, seed=2)],
        losskit.SquaredEMDLoss: [whole(shape[-1], shape[0])], losskit.LovaszHingeLoss: [whole(2, *shape)],
        losskit.LovaszSoftmaxLoss: [whole(11, 4, 8192)],
    }[cls]  # fmt: skip
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(with_gradient(cls(), x, *others))
    finally:
        torch.set_num_threads(before)
    for result, expected in itertools.product(results[1:], results[:1]):
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_one_long_list():
    """Digits of 11 bits, with 32-bit keys and 64-bit ones; three passes, and six."""
    x = normal(200_000, dtype=torch.float32)
    for t in (normal(200_000, seed=4), normal(200_000, seed=4).float(), whole(1 << 60, 200_000)):
        got, expected = (with_gradient(f, x.double(), t)[1] for f in (LF.list_mle_loss, list_mle))
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-9)


@PATHS
def test_the_dtype_is_that_of_the_scores(path, monkeypatch):
    """Keys and labels do not tell it; a target of probabilities does."""
    take(path, monkeypatch)
    x, wide = normal(2, 3, dtype=torch.float32), torch.ones(2, 3, dtype=torch.float64)
    for loss in (
        LF.list_mle_loss(x, wide), LF.cox_ph_loss(x, wide, wide), LF.lovasz_hinge_loss(x, wide),
        LF.squared_emd_loss(x, torch.tensor([0, 2])),
    ):  # fmt: skip
        assert loss.dtype == torch.float32
    assert LF.squared_emd_loss(x, wide / 3).dtype == torch.float64


# ---------------------------------------------------------------------------------------------------------
# Transforms


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_derivatives(cls, reduction):
    given = operands(cls)
    x = given[0].detach().requires_grad_()
    function = lambda x: cls(reduction=reduction)(x, *given[1:])
    assert torch.autograd.gradcheck(function, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (x,))


def test_a_distribution_is_differentiated_too():
    x, t = normal(3, 4), normal(3, 4, seed=2).softmax(-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: LF.squared_emd_loss(x, t), (x.requires_grad_(), t))
    assert "gradient by an operand" in why(losskit.SquaredEMDLoss(), x, t).reason


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
def test_vmap(cls):
    given = operands(cls)
    single = [x.unsqueeze(1) if cls is losskit.LovaszSoftmaxLoss else x for x in given]
    got = torch.func.vmap(lambda *rows: cls("sum")(*rows))(*single)
    expected = torch.stack([cls("sum")(*(x[i] for x in single)) for i in range(3)])
    torch.testing.assert_close(got, expected)
    gradients = torch.func.vmap(torch.func.grad(lambda *rows: cls("sum")(*rows)))(*single)
    torch.testing.assert_close(gradients, torch.stack([
        with_gradient(cls("sum"), *(x[i] for x in single))[1] for i in range(3)
    ]))  # fmt: skip


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
def test_compiled_and_exported(cls):
    given = operands(cls)
    for dynamic in (False, True):
        compiled = torch.compile(cls(), fullgraph=True, backend="aot_eager", dynamic=dynamic)
        got, expected = with_gradient(compiled, *given), with_gradient(cls(), *given)
        torch.testing.assert_close(got, expected)
    exported = torch.export.export(cls(), tuple(given)).module()
    torch.testing.assert_close(exported(*given), cls()(*given))


# ---------------------------------------------------------------------------------------------------------
# Refusals


X = torch.zeros(2, 3)
MESSAGES = {
    "list_mle_loss: input must be of shape (..., K): rows along the last dimension, got a scalar.":
        lambda: LF.list_mle_loss(torch.tensor(1.0), torch.tensor(1.0)),
    "list_mle_loss: input (2, 3) and target (3,) must have the same shape.":
        lambda: LF.list_mle_loss(X, torch.zeros(3)),
    "list_mle_loss: element_mask must be boolean (True = counts), got torch.int64.":
        lambda: LF.list_mle_loss(X, X, torch.ones(2, 3, dtype=torch.int64)),
    "list_mle_loss: element_mask (2,) must broadcast to (2, 3). Did you mean element_mask.unsqueeze(1), one for each "
    "along dimension 1?": lambda: LF.list_mle_loss(X, X, torch.ones(2, dtype=torch.bool)),
    "cox_ph_loss: event must be 0 or 1, got -1 at index (1, 2). Use (event + 1) / 2.":
        lambda: LF.cox_ph_loss(X, X, torch.tensor([[1, 0, 1], [0, 0, -1]])),
    "lovasz_hinge_loss: target must be 0 or 1, got 0.5 at index (0, 1).":
        lambda: LF.lovasz_hinge_loss(X, torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.0]])),
    "lovasz_softmax_loss: target must be a class in [0, 3), got 255 at row (1,). Pass ignore_index=255 to skip such "
    "pixels.": lambda: LF.lovasz_softmax_loss(X, torch.tensor([0, 255])),
    "lovasz_softmax_loss: target must be a class in [0, 3), got 3 at row (1, 0). Class indices start at 0.":
        lambda: LF.lovasz_softmax_loss(torch.zeros(2, 3, 2), torch.tensor([[0, 1], [3, 1]]), per_image=True),
    "lovasz_softmax_loss: input must be of shape (N, C, ...), got shape (3,).":
        lambda: LF.lovasz_softmax_loss(X[0], torch.tensor(0)),
    "lovasz_softmax_loss: target must be class indices of shape (2,) for input (2, 3), got torch.float32 of shape "
    "(2, 3). Use target.argmax(1).": lambda: LF.lovasz_softmax_loss(X, X),
    "squared_emd_loss: target must be a class in [0, 3), got 3 at row (0,). Class indices start at 0.":
        lambda: LF.squared_emd_loss(X, torch.tensor([3, 0])),
    "squared_emd_loss: target must be in [0, 1], got 2 at index (1, 0).":
        lambda: LF.squared_emd_loss(X, torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])),
    "squared_emd_loss: input must have at least one class, got shape (2, 0).":
        lambda: LF.squared_emd_loss(torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64)),
}  # fmt: skip


@PATHS
@pytest.mark.parametrize("text", MESSAGES)
def test_refusals(path, monkeypatch, text):
    take(path, monkeypatch)
    with pytest.raises(losskit.LossError, match=re.escape(text)):
        MESSAGES[text]()


@PATHS
def test_bad_values_become_nan(path, monkeypatch):
    """Of their unit alone."""
    take(path, monkeypatch)
    wrong = torch.tensor([[1, 0, 1], [0, 5, 1]])
    with losskit.checks("nan"):
        for loss in (
            LF.cox_ph_loss(X, X, wrong, reduction="none"), LF.lovasz_hinge_loss(X, wrong, reduction="none"),
            LF.squared_emd_loss(X, torch.tensor([0, 7]), reduction="none"),
            LF.squared_emd_loss(X, wrong.double(), reduction="none"),
            LF.lovasz_softmax_loss(torch.zeros(2, 3, 4), torch.tensor([[0, 0, 0, 0], [0, 0, 0, -1]]), per_image=True,
                                   reduction="none")[:, 0],
        ):  # fmt: skip
            assert loss.isnan().tolist() == [False, True]
    with losskit.checks("off"):  # what is neither 0 nor 1 is an event; what is no class is NaN still
        assert LF.cox_ph_loss(X, X, wrong, reduction="none").isfinite().all()
        assert LF.squared_emd_loss(X, torch.tensor([0, 7]), reduction="none").isnan().tolist() == [False, True]


def test_bad_values_that_are_masked_are_not_read():
    mask = torch.tensor([True, False])
    wrong = torch.tensor([[1, 0, 1], [0, 5, 1]])
    for loss in (LF.cox_ph_loss(X, X, wrong, mask=mask), LF.lovasz_hinge_loss(X, wrong, mask=mask),
                 LF.squared_emd_loss(X, torch.tensor([0, 7]), mask=mask)):  # fmt: skip
        assert loss.isfinite()
    padding = torch.tensor([True, True, False])
    assert LF.cox_ph_loss(X, X, torch.tensor([[1, 0, 9]] * 2), padding).isfinite()


def test_why_is_true():
    x, t = normal(2, 3, 4).requires_grad_(), whole(3, 2, 4)
    assert why(losskit.LovaszSoftmaxLoss(), x, t).implementation == "fused CPU kernel"
    assert why(losskit.LovaszSoftmaxLoss(reduction="none"), x.detach(), t).implementation == "fused CPU kernel"
    told = why(losskit.LovaszSoftmaxLoss(reduction="none"), x, t)
    assert told.implementation == "eager formula"
    assert "gradient by an operand" in told.reason


def test_declarations_of_ones_own():
    class SquaredListLoss(losskit.OrderedLoss):
        """The square of the logarithm of each share."""

        arguments = "reduction"
        operands = {"input": losskit.Operand("Scores."), "target": losskit.Operand("Relevance.", differentiable=False)}

        @staticmethod
        def value(log_share):
            return log_share * log_share

    x, t = normal(3, 5), whole(9, 3, 5)
    v = x.gather(-1, t.argsort(dim=-1, descending=True, stable=True))
    expected = (v - v.flip(-1).logcumsumexp(-1).flip(-1)).square().sum(-1)
    torch.testing.assert_close(SquaredListLoss("none")(x, t), expected)

    class TiedListLoss(losskit.OrderedLoss):
        """Minus the logarithm of each share, of lists with ties."""

        arguments = "reduction ties"
        operands = {"input": losskit.Operand("Scores."), "target": losskit.Operand("Relevance.", differentiable=False)}
        at_ties = "end of tie"

        @staticmethod
        def value(log_share):
            return -log_share

    t = whole(3, 3, 5)
    for ties in ("efron", "breslow"):  # each element is an event, of which none is said
        expected = with_gradient(LF.cox_ph_loss, x, -t, torch.ones(3, 5), ties=ties, reduction="sum")
        torch.testing.assert_close(with_gradient(TiedListLoss("sum", ties=ties), x, t), expected)

    for body, text in (
        ({"value": staticmethod(lambda error: error)}, "got error for lists"),
        ({"value": staticmethod(lambda log_share: log_share), "units": "images"}, "got log_share for images"),
        (
            {"value": staticmethod(lambda log_share: log_share), "units": "events"},
            "`operands` of events are input and 2",
        ),
    ):
        with pytest.raises(losskit.DeclarationError, match=re.escape(text)):
            type("BadLoss", (losskit.OrderedLoss,), {
                "__doc__": "Bad.", "__module__": __name__, "arguments": "reduction",
                "operands": SquaredListLoss.operands, **body,
            })  # fmt: skip


def test_the_sum_of_a_softmax_is_one():
    """The running sums at the last class are 0."""
    x = normal(4, 6)
    assert F.softmax(x, -1).sum(-1).sub(LF.squared_emd_loss(x, x.softmax(-1), reduction="none") + 1).abs().max() < 1e-14
