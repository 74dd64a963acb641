"""The class-scores kernel at its edges: rows without a maximum, odd rows, wild indices, nothing, shifts, formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from class_scores_kernel import INF, LAYOUTS, MEAN, NAN, NOT, OFF, RAISE, STEP, SUM, TINY, call

from losskit import PointwiseLoss
from losskit.declaration import param
from losskit.formula import exp, expm1, log1p
from losskit.kernels import library, wire


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c", [4, 20, 100])
@pytest.mark.parametrize("layout", ["rows", "transposed"])
def test_rows_without_a_finite_maximum(c: int, dtype: torch.dtype, layout: str) -> None:
    z = torch.randn(6, c, dtype=dtype)
    z[0, 1] = INF  # the target alone is infinite: loss 0
    z[1, 2] = INF  # another one is
    z[2, 1] = z[2, 2] = INF  # both: log 2
    z[3] = -INF
    z[4, 0] = NOT
    y = torch.ones(6, dtype=torch.int64)
    z = LAYOUTS[layout](z)
    loss, dz = call(z, y)[0], call(z, y, grads=1, upstream=torch.ones(6, dtype=dtype))[1]
    assert loss[0] == 0
    assert (dz[0] == 0).all()
    assert loss[1] == INF
    assert dz[1, 2] == 1
    assert dz[1, 1] == -1
    assert dz[1].abs().sum() == 2
    assert abs(loss[2].item() - math.log(2)) < 1e-6
    assert dz[2, 1] == -0.5
    assert dz[2, 2] == 0.5
    assert dz[2, 0] == 0
    for row in (3, 4):
        assert loss[row].isnan()
        assert dz[row].isnan().all()
    assert loss[5].isfinite()
    assert dz[5].isfinite().all()
    masked = torch.zeros(2, c, dtype=dtype)
    masked[0, 1:] = -INF
    zero = torch.zeros(2, dtype=torch.int64)
    assert call(masked, zero, eps=0.1)[0][0] == INF
    assert call(masked, torch.nn.functional.one_hot(zero, c).to(dtype))[0][0] == 0


@pytest.mark.parametrize("c", [64, 70, 95, 1029, 1040])
def test_odd_rows_among_ordinary_ones(c: int) -> None:
    """What the loop over ordinary rows leaves to its caller does not disturb the rows around it."""
    torch.manual_seed(0)
    z = torch.randn(24, c)
    z[3] += 1e4  # far from 0
    z[7, 1] = INF
    z[11] = NOT
    z[15, :2] = torch.tensor([60.0, -60.0])  # certain: a gradient below the smallest normal number
    mask = torch.ones(24, dtype=torch.bool)
    mask[19] = False
    y = torch.randint(0, c, (24,))
    y[15], y[20] = 0, c - 1
    up = torch.rand(24)
    up[22] = 1e-37
    t = torch.softmax(torch.randn(24, c), 1)
    t[16] = torch.nn.functional.one_hot(z[16].argmax(), c)
    for target in (y, t):
        loss, dz = call(z, target, mask=mask)[0], call(z, target, grads=1, mask=mask, upstream=up)[1]
        for row in range(24):
            one = target[row : row + 1]
            given = {"mask": mask[row : row + 1]}
            alone = call(z[row : row + 1].double(), one.double() if target is t else one, **given)[0]
            slope = call(z[row : row + 1].double(), one.double() if target is t else one, grads=1,
                         upstream=up[row : row + 1].double(), **given)[1]  # fmt: skip
            torch.testing.assert_close(loss[row], alone[0].float(), rtol=1e-6, atol=0, equal_nan=True)
            room = max(1e-7 * float(slope.nan_to_num().abs().max()), TINY[torch.float32])
            torch.testing.assert_close(dz[row], slope[0].float(), rtol=2e-6, atol=room, equal_nan=True)


@pytest.mark.parametrize("c", [5, 100])
def test_indices_out_of_range(c: int) -> None:
    z = torch.randn(40, c)
    y = torch.randint(0, c, (40,))
    y[7], y[9] = c, -5
    assert call(z, y, checks=RAISE)[3] == wire.ClassScoresViolation.CLASS_INDEX
    for checks in (NAN, OFF):
        loss, dz = call(z, y, checks=checks)[0], call(z, y, checks=checks, grads=1, upstream=torch.ones(40))[1]
        bad = torch.zeros(40, dtype=torch.bool)
        bad[[7, 9]] = True
        assert loss[bad].isnan().all()
        assert loss[~bad].isfinite().all()
        assert dz[bad].isnan().all()
        assert dz[~bad].isfinite().all()
    assert call(z, y, ignore=-5, checks=NAN)[0][9] == 0
    t = torch.softmax(z, 1)
    t[3, 1] = 1.5
    assert call(z, t, checks=RAISE)[3] == wire.ClassScoresViolation.PROBABILITY
    assert call(z, t, checks=NAN)[0][3].isnan()
    assert call(z, t, checks=OFF)[0].isfinite().all()
    mask = torch.ones(40, dtype=torch.bool)
    mask[[3, 7, 9]] = False
    assert call(z, y, mask=mask)[3] == 0
    assert call(z, t, mask=mask)[3] == 0


def test_nothing() -> None:
    z, y = torch.randn(0, 4), torch.zeros(0, dtype=torch.int64)
    loss, dz, *_, status = call(z, y, red=MEAN, grads=1)
    assert loss.isnan()
    assert dz.shape == (0, 4)
    assert status == 0
    assert call(z, y, red=MEAN, zero=True)[0] == 0
    assert call(z, y, red=SUM)[0] == 0
    ignored = call(torch.randn(3, 4), torch.full((3,), -100), red=MEAN, grads=1)
    assert ignored[0].isnan()
    assert (ignored[1] == 0).all()
    assert call(torch.randn(3, 0), torch.zeros(3, dtype=torch.int64))[3] == wire.DECLINED
    one = call(torch.randn(3, 1), torch.zeros(3, dtype=torch.int64), eps=0.3)
    assert (one[0] == 0).all()


def test_declined() -> None:
    z, y = torch.randn(3, 4), torch.zeros(3, dtype=torch.int64)
    for a, b, more in (
        (z, y[:2], {}),
        (z, z[:, :3], {}),
        (z, y.bool(), {}),
        (z.long(), y, {}),
        (z.to(torch.complex64), y, {}),
        (z, y, {"weight": torch.ones(3)}),
        (z, y, {"weight": torch.ones(4).long()}),
        (z, y, {"shift": torch.ones(3)}),
        (z, y, {"mask": torch.ones(3)}),
        (z, y, {"sample_weight": torch.ones(2)}),
        (z, y, {"plain": False, "stats": ["log_probability"]}),
        (z, y, {"picked": True, "eps": 0.1}),
    ):
        assert call(a, b, **more)[3] == wire.DECLINED


def test_small_gradients_survive() -> None:
    for shape in ((1, 3), (1, 80)):
        z = torch.full(shape, -1e4)
        z[0, 0], z[0, 1] = 0.0, -100.0  # p = 4e-44, subnormal
        y = torch.zeros(1, dtype=torch.int64)
        assert abs(call(z, y, grads=1, upstream=torch.ones(1))[1][0, 1].item() / math.exp(-100.0) - 1) < 0.02
        back = call(z, y, grads=1, upstream=torch.full((1,), 1e20))[1]
        assert abs(back[0, 1].item() / (1e20 * math.exp(-100.0)) - 1) < 1e-6
        back = call(z, y, grads=1, upstream=torch.full((1,), 1e-20))[1]
        assert back[0, 1].item() == 0
        z[0, 1] = -1.0
        back = call(z, y, grads=1, upstream=torch.full((1,), 1e-30))[1]
        assert abs(back[0, 1].item() / (1e-30 / (1 + math.e)) - 1) < 1e-6


def test_shift_is_added_to_the_scores() -> None:
    for shape in ((9, 5), (9, 90), (3, 6, 40)):
        z, shift = torch.randn(shape), torch.randn(shape[1])
        y = torch.randint(0, shape[1], (shape[0], *shape[2:]))
        moved = z + shift.view(-1, *[1] * (len(shape) - 2))
        for k in (0, 1):
            got, expected = (call(x, y, red=MEAN, grads=1, shift=v)[k] for x, v in ((z, shift), (moved, None)))
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_log_probabilities_as_given(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for shape in ((20, 5), (4, 6, 7), (3, 200)):
        lp = torch.log_softmax(torch.randn(shape), 1).to(dtype)
        y = torch.randint(0, shape[1], (shape[0], *shape[2:]))
        y.view(-1)[1] = -100
        w = torch.rand(shape[1]).to(dtype) + 0.5
        x = lp.double().requires_grad_()
        expected = torch.nn.functional.nll_loss(x, y, weight=w.double())
        expected.backward()
        got = call(lp, y, picked=True, weight=w, red=MEAN, grads=1)
        step = max(STEP[dtype], 1e-12)
        torch.testing.assert_close(got[0].double(), expected.detach(), rtol=step, atol=step)
        torch.testing.assert_close(got[1].double(), x.grad, rtol=step, atol=step)
        assert call(lp + 100, y, picked=True)[3] == wire.ClassScoresViolation.LOG_PROBABILITY
        assert call(lp + 100, y, picked=True, checks=NAN)[0].isnan().sum() == y.numel() - 1


class KernelTestFocalLoss(PointwiseLoss):
    """Focal loss of the log-probability of the target.

    Choose it in this test. Prefer another elsewhere.
    """

    gamma: float = param(default=2.0, doc="Power.")
    name = "kernel_test_focal"

    @staticmethod
    def value(log_probability, gamma):
        return exp(gamma * log1p(-exp(log_probability))) * -log_probability


class KernelTestThreeLoss(PointwiseLoss):
    """A formula of all three statistics.

    Choose it in this test. Prefer another elsewhere.
    """

    name = "kernel_test_three"

    @staticmethod
    def value(log_probability, log_sum_exp, mean_log_probability):
        p = expm1(log_probability)
        return 0.1 * log_sum_exp * log_sum_exp - log_probability - 0.2 * mean_log_probability + p * p


def focal(z: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    logs = torch.log_softmax(z, 1)
    return (q * ((1 - logs.exp()) ** 2 * -logs)).sum(1)


def three(z: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    logs, lse = torch.log_softmax(z, 1), z.logsumexp(1, keepdim=True)
    return (q * (0.1 * lse * lse - logs - 0.2 * logs.mean(1, keepdim=True) + torch.expm1(logs) ** 2)).sum(1)


@pytest.mark.parametrize(("loss", "eager", "params"), [
    (KernelTestFocalLoss, focal, (2.0,)), (KernelTestThreeLoss, three, ())
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_formulas_of_row_statistics(loss: Any, eager: Any, params: tuple[float, ...], dtype) -> None:
    formula = next(iter(loss._formulas.values()))
    kernel = library.find(formula)
    if not kernel:
        pytest.skip("no compiler")
    torch.manual_seed(0)
    for shape in ((40, 5), (12, 100), (3, 7, 50), (700, 70)):
        z = (torch.randn(shape) * 2).to(dtype)
        rows = (shape[0], *shape[2:])
        y, w = torch.randint(0, shape[1], rows), torch.rand(shape[1]).to(dtype) + 0.5
        up = torch.rand(rows).to(dtype)
        hot = torch.nn.functional.one_hot(y, shape[1]).movedim(-1, 1).double()
        soft = torch.softmax(torch.randn(shape), 1).to(dtype)
        weights = w.double().view(-1, *[1] * (len(shape) - 2))
        for target, eps in ((y, 0.0), (y, 0.1), (soft, 0.0), (soft, 0.1)):
            x = z.double().requires_grad_()
            base = soft.double() if target is soft else hot
            q = (base * (1 - eps) + eps / shape[1]) * weights
            expected = eager(x, q)
            (slope,) = torch.autograd.grad(expected, x, up.double())
            given = {"kernel": kernel, "plain": False, "stats": formula.operands, "params": params}
            given |= {"eps": eps, "weight": w}
            loss_got = call(z, target, **given)[0]
            dz = call(z, target, grads=1, upstream=up, **given)[1]
            step = max(STEP[dtype], 1e-11) * 4
            torch.testing.assert_close(loss_got.double(), expected.detach(), rtol=step, atol=step)
            torch.testing.assert_close(dz.double(), slope, rtol=step, atol=step)
