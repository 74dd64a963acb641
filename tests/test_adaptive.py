"""Adaptive log-softmax: torch's module with the same parameters, its values and gradients, without its graph break."""

from __future__ import annotations

import copy

import pytest
import torch

import losskit
from losskit.layers.adaptive_log_softmax import AdaptiveLogSoftmaxWithLoss

INF, NAN = float("inf"), float("nan")
SHAPE = (16, 40, [5, 15, 39])  # the last cluster holds one class
CONFIGS = [{}, {"div_value": 2.0}, {"head_bias": True}]


def both(dtype=torch.float64, **config):
    torch.manual_seed(0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(*SHAPE, **{"div_value": 2.0, **config}, dtype=dtype)
    torch.manual_seed(0)
    ours = AdaptiveLogSoftmaxWithLoss(*SHAPE, **{"div_value": 2.0, **config}, dtype=dtype)
    return ours, theirs


def data(rows=30, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, SHAPE[0], generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, SHAPE[1], (rows,), generator=generator)


def gradients(module, x, y, **extras):
    leaf = x.clone().requires_grad_()
    output, loss = module(leaf, y, **extras)
    found = torch.autograd.grad(loss, [leaf, *module.parameters()], allow_unused=True, materialize_grads=True)
    return [output.detach(), loss.detach(), *found]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_parameters_are_torch_s(config):
    ours, theirs = both(**config)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    ours.load_state_dict(theirs.state_dict())
    torch.manual_seed(5)
    ours.reset_parameters()
    torch.manual_seed(5)
    theirs.reset_parameters()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    for name in (
        "in_features",
        "n_classes",
        "cutoffs",
        "div_value",
        "head_bias",
        "shortlist_size",
        "n_clusters",
        "head_size",
    ):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_values_and_gradients_are_torch_s(config):
    ours, theirs = both(**config)
    x, y = data()
    torch.testing.assert_close(gradients(ours, x, y), gradients(theirs, x, y), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    assert torch.equal(ours.predict(x), theirs.predict(x))
    torch.testing.assert_close(ours(x, y).output, ours.log_prob(x).gather(1, y[:, None])[:, 0])
    for alone in (0, 4, 5, 14, 15, 39):
        torch.testing.assert_close(ours(x[0], torch.tensor(alone)), theirs(x[0], torch.tensor(alone)))
        some = torch.full((30,), alone)  # all rows in one part
        torch.testing.assert_close(gradients(ours, x, some), gradients(theirs, x, some), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_dtypes(dtype):
    ours, _ = both(dtype)
    x, y = data(dtype=dtype)
    output, loss = ours(x, y.to(torch.int16))
    assert output.dtype == loss.dtype == dtype
    wide = copy.deepcopy(ours).double()(x.double(), y)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.double(), wide.output, rtol=tolerance, atol=4 * tolerance)
    torch.testing.assert_close(loss.double(), wide.loss, rtol=tolerance, atol=tolerance)


def test_a_well_classified_row_keeps_its_digits():
    """log p of a row whose head is certain by a margin of 30: torch gives 0 in float32."""
    ours, theirs = (module.float() for module in both())
    with torch.no_grad():
        for module in (ours, theirs):
            module.head.weight.zero_()
            module.head.weight[2, 0] = 30.0
    x = torch.zeros(1, 16)
    x[0, 0] = 1.0
    truth = 7 * 9.357622968840174e-14  # the other seven scores of the head
    assert theirs(x, torch.tensor([2])).loss == 0
    assert ours(x, torch.tensor([2])).loss.item() == pytest.approx(truth, rel=1e-6)


def test_weights_masks_normalizers():
    ours, _ = both()
    x, y = data()
    rows = -ours(x, y).output
    weight, mask = torch.rand(30, dtype=torch.float64), torch.arange(30) % 3 != 0
    torch.testing.assert_close(ours(x, y, sample_weight=weight).loss, (rows * weight).sum() / weight.sum())
    torch.testing.assert_close(ours(x, y, normalizer=7.0).loss, rows.sum() / 7)
    spoiled, behind = x.clone(), y.clone()
    spoiled[~mask], behind[~mask] = NAN, 999
    output, loss, by_input, *by_parameters = gradients(ours, spoiled, behind, mask=mask, sample_weight=weight)
    torch.testing.assert_close(loss, (rows * weight * mask).sum().detach() / (weight * mask).sum())
    assert not output[~mask].any()
    assert not by_input[~mask].any()
    assert all(g.isfinite().all() for g in by_parameters)
    torch.testing.assert_close(ours(x[0], y[0], mask=torch.tensor(True)), ours(x[0], y[0]))


def test_nothing():
    ours, _ = both()
    x, y = data(0)
    output, loss, *found = gradients(ours, x, y)
    assert output.shape == (0,)
    assert loss.isnan()
    assert not any(g.any() for g in found)
    assert ours.log_prob(x).shape == (0, 40)
    assert ours.predict(x).shape == (0,)
    with losskit.empty("zero"):
        assert ours(x, y).loss == 0


def test_compiled_without_graph_break():
    ours, _ = both()
    x, y = data()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, x, y), gradients(ours, x, y), rtol=1e-11, atol=1e-12)
    with pytest.raises(ValueError, match=r"target must be a class in \[0, 40\), got 40 at row \(3,\)"):
        compiled(x, torch.where(torch.arange(30) == 3, 40, y))
    predict = torch.compile(ours.predict, fullgraph=True, backend="aot_eager")
    assert torch.equal(predict(x), ours.predict(x))


def test_derivatives_of_every_kind():
    ours, _ = both()
    x, y = data(4)
    y = torch.tensor([1, 7, 20, 39])
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: ours(a, y).loss, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda a: ours(a, y).loss, x)
    vmapped = torch.vmap(lambda a, b: ours(a, b).output)(x, y)
    torch.testing.assert_close(vmapped, ours(x, y).output)
    with pytest.raises(ValueError, match="got -1"):
        torch.vmap(lambda a, b: ours(a, b).output)(x, y - 2)
    meta = copy.deepcopy(ours).to("meta")
    assert meta(torch.empty(4, 16, device="meta", dtype=torch.float64), y.to("meta")).output.shape == (4,)


def test_refusals():
    ours, _ = both()
    x, y = data(4)
    name = "adaptive_log_softmax_with_loss: "
    for call, message in [
        (lambda: ours(x, y + 40), "target must be a class in [0, 40), got"),
        (lambda: ours(x, torch.tensor([0, 1, -1, 2])), "target must be a class in [0, 40), got -1 at row (2,)."),
        (lambda: ours(x[0], torch.tensor(40)), "target must be a class in [0, 40), got 40 at row (0,)."),
        (
            lambda: ours(x, y.double()),
            "target must be class indices of shape (4,) for input (4, 16), got torch.float64",
        ),
        (lambda: ours(x, y[:3]), "target must be class indices of shape (4,) for input (4, 16), got torch.int64 of sh"),
        (lambda: ours(x[:, :3], y), "input must be of shape (N, 16) or (16,), got shape (4, 3)."),
        (lambda: ours(x.long(), y), "input must be floating point, got torch.int64. Use input.float()."),
        (lambda: ours(x, y, mask=y), "mask must be boolean (True = counts), got torch.int64. Use mask.bool()."),
    ]:
        with pytest.raises((ValueError, TypeError)) as raised:
            call()
        assert str(raised.value).startswith(name + message)
    for cutoffs in ([], [0, 3], [3, 3], [5, 4], [40], [2.5]):
        with pytest.raises(ValueError, match=r"cutoffs must be increasing integers in \[1, 39\]"):
            AdaptiveLogSoftmaxWithLoss(16, 40, cutoffs)
    with pytest.raises(ValueError, match="div_value must be such that cluster 1 of 16 features is at least 1 wide"):
        AdaptiveLogSoftmaxWithLoss(16, 40, [5, 15], div_value=8.0)
    for mode in ("nan", "off"):
        with losskit.checks(mode):
            output = ours(x, torch.tensor([0, 40, -1, 39])).output
            assert output.isnan().tolist() == [False, True, True, False]
