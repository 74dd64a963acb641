"""The fused kernel of the class-scores family, called directly and compared with 60 and more digits.

1. Every mode, layout, number of classes around the sizes where the kernel changes its path, and the rows that have no
   finite maximum.
2. Errors are counted in units in the last place of the larger of the terms that a result is the difference of: for
   index targets without smoothing that is the result itself.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from losskit import PointwiseLoss
from losskit.declaration import param
from losskit.formula import exp, expm1, log1p
from losskit.kernels import library, wire

library._own()
NONE, MEAN, SUM = 0, 1, 2
OFF, NAN, RAISE = 0, 1, 2
INF, NOT = math.inf, math.nan
CLASSES = (1, 2, 3, 5, 10, 15, 16, 17, 21, 47, 63, 64, 65, 100, 1000, 5000)
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}
TINY = {torch.float32: 2.0**-149, torch.float64: 2.0**-1074}


def call(a, b, *, red=NONE, grads=0, checks=RAISE, plain=True, picked=False, stats=(), zero=False, result=-1,
         kernel=0, weight=None, sample_weight=None, mask=None, upstream=None, eps=0.0, normalizer=NOT, factor=1.0,
         ignore=-100, params=(), shift=None):  # fmt: skip
    family = wire.CLASS_SCORES.family.pack(plain=plain, log_probabilities=picked, statistics=stats)
    code = wire.OPTIONS.pack(
        reduction=red, gradients=grads, checks=checks, empty_is_zero=zero, result=result + 1, family=family
    )
    numbers = [normalizer, factor, eps, float(ignore), *params]
    return torch.ops.losskit.class_scores(
        kernel, code, a, b, shift, None, weight, sample_weight, mask, upstream, numbers
    )


def row_truth(z: list[float], q: list[float]) -> tuple[Any, list[Any], list[Any], list[Any]]:
    """The loss sum_c q_c (-l_c), its gradient by the scores, -l_c, and the size of the gradient's terms."""
    finite = [x for x in z if x > -INF]
    top = max(finite)
    mpmath.mp.dps = 60 + int(min(top - min(finite), 1000.0) / 2.3)
    m = mpmath.mpf(top)
    e = [mpmath.exp(mpmath.mpf(x) - m) if x > -INF else mpmath.mpf(0) for x in z]
    total = mpmath.fsum(e)
    minus_l = [mpmath.log(total) - (mpmath.mpf(x) - m) if x > -INF else mpmath.inf for x in z]
    weights = [mpmath.mpf(x) for x in q]
    loss = mpmath.fsum(w * v for w, v in zip(weights, minus_l, strict=True) if w != 0)
    all_weights = mpmath.fsum(weights)
    dz, size = [], []
    for c in range(len(z)):
        others = mpmath.fsum(w for k, w in enumerate(weights) if k != c and w != 0) if q[c] != 0 else all_weights
        plus = others * e[c] / total
        minus = weights[c] * (total - e[c]) / total if q[c] != 0 else mpmath.mpf(0)
        dz.append(plus - minus)
        soft = q[c] != 0 and others != 0
        size.append(max(all_weights * e[c] / total, weights[c]) if soft else max(plus, minus))
    return loss, dz, minus_l, size


def ulp(got: float, true: Any, dtype: torch.dtype, size: Any = None) -> float:
    """The error in units in the last place of `size` (default: of the true value)."""
    limit = torch.finfo(dtype).max
    if true == mpmath.inf or abs(true) > limit:
        return 0.0 if got == (INF if true > 0 else -INF) else INF
    if not math.isfinite(got):
        return INF
    scale = abs(true) if size is None else max(abs(true), abs(size))
    if scale == 0:
        return 0.0 if got == 0 else INF
    exponent = int(mpmath.floor(mpmath.log(scale, 2)))
    unit = max(mpmath.mpf(2) ** exponent * EPS[dtype], mpmath.mpf(TINY[dtype]))
    return float(abs(mpmath.mpf(got) - true) / unit)


def scores(kind: str, n: int, c: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, c, generator=generator, dtype=torch.float64)
    if kind == "wide":
        z = z * 20
    elif kind == "huge":
        z = z * 3000
    elif kind == "offset":
        z = z * 3 + 1e4
    elif kind == "ties":
        z = z.round()
    elif kind == "masked":
        z[torch.rand(n, c, generator=generator) < 0.4] = -INF
        z[:, 0] = 0.5
    elif kind == "certain":
        z[torch.arange(n), torch.randint(0, c, (n,), generator=generator)] += 5 + 12 * torch.arange(n)
    return z.to(dtype)


KINDS = ("plain", "wide", "huge", "offset", "ties", "masked", "certain")


def rows_for(c: int) -> int:
    return 1 if c >= 100 else 2 if c > 21 else 6


def kinds_for(c: int) -> list[tuple[int, str]]:
    """Fewer for many classes, where the reference takes its time."""
    return list(enumerate(KINDS))[:: 3 if c >= 1000 else 1]


def assert_exact(z: torch.Tensor, q: np.ndarray, loss: torch.Tensor, dz: torch.Tensor, kind: str) -> None:
    """Losses within 3 ULP, gradients within 8 each, and within 4 of the row's largest one."""
    dtype = z.dtype
    worst = [0.0, 0.0, 0.0]
    for row in range(z.shape[0]):
        value, gradient, _, size = row_truth(z[row].double().tolist(), q[row].tolist())
        worst[0] = max(worst[0], ulp(loss[row].item(), value, dtype))
        largest = max(abs(g) for g in gradient)
        for c, g in enumerate(dz[row].tolist()):
            worst[1] = max(worst[1], ulp(g, gradient[c], dtype, size[c]))
            worst[2] = max(worst[2], ulp(g, gradient[c], dtype, max(largest, size[c])))
    assert all(w <= bar for w, bar in zip(worst, (3, 8, 4), strict=True)), (kind, worst)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c", CLASSES)
def test_index_targets_are_exact(c: int, dtype: torch.dtype) -> None:
    for seed, kind in kinds_for(c):
        n = rows_for(c)
        z = scores(kind, n, c, dtype, seed)
        targets = [torch.arange(n) % c, z.argmax(1)]
        for y in targets:
            q = np.zeros((n, c))
            q[np.arange(n), y.numpy()] = 1
            loss = call(z, y)[0]
            dz = call(z, y, grads=1, upstream=torch.ones(n, dtype=dtype))[1]
            assert_exact(z, q, loss, dz, kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c", [c for c in CLASSES if c < 5000])
def test_smoothing_and_weights(c: int, dtype: torch.dtype) -> None:
    for seed, kind in kinds_for(c):
        if kind == "masked":
            continue
        n = rows_for(c)
        z = scores(kind, n, c, dtype, seed)
        y = torch.arange(n) % c
        eps = 0.1
        w = torch.rand(c, dtype=dtype) + 0.25 if seed % 2 else None
        weights = w.double().numpy() if w is not None else np.ones(c)
        q = np.tile(eps / c * weights, (n, 1))
        q[np.arange(n), y.numpy()] += (1 - eps) * weights[y.numpy()]
        loss = call(z, y, eps=eps, weight=w)[0]
        dz = call(z, y, eps=eps, weight=w, grads=1, upstream=torch.ones(n, dtype=dtype))[1]
        assert_exact(z, q, loss, dz, kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c", [c for c in CLASSES if c < 5000])
def test_probability_targets(c: int, dtype: torch.dtype) -> None:
    for seed, kind in kinds_for(c):
        n = rows_for(c)
        z = scores(kind, n, c, dtype, seed)
        one_hot = torch.nn.functional.one_hot(z.argmax(1), c).to(dtype)
        soft = torch.softmax(torch.randn(n, c, dtype=dtype), 1)
        soft[z == -INF] = 0
        for t in (one_hot, soft):
            loss = call(z, t)[0]
            _, dz, dt, *_ = call(z, t, grads=3, upstream=torch.ones(n, dtype=dtype))
            assert_exact(z, t.double().numpy(), loss, dz, kind)
            minus_l = row_truth(z[0].double().tolist(), t[0].double().tolist())[2]
            assert max(ulp(x, true, dtype) for x, true in zip(dt[0].tolist(), minus_l, strict=True)) <= 3


def reference(z, y, *, weight=None, eps=0.0, ignore=-100, reduction="mean"):
    return torch.nn.functional.cross_entropy(
        z.double(), y.double() if y.is_floating_point() else y.long(),
        weight=None if weight is None else weight.double(), label_smoothing=eps, ignore_index=ignore,
        reduction=reduction)  # fmt: skip


LAYOUTS = {
    "rows": lambda z: z.contiguous(),
    "classes last": lambda z: z.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda z: z.transpose(0, 1).contiguous().transpose(0, 1),
    "every other": lambda z: torch.stack([z, z], -1).flatten(-2)[..., ::2],
    "flipped dims": lambda z: z.permute(*reversed(range(z.dim()))).contiguous().permute(*reversed(range(z.dim()))),
    "expanded": lambda z: z[:1].expand_as(z),
}
SHAPES = [
    (40, 10),
    (7, 3, 5, 6),
    (3, 21, 9, 30),
    (9, 200, 7),
    (300, 2),
    (5, 70),
    (2, 17, 1),
    (20, 1),
    (64, 130),
    (1, 300),
]
STEP = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", STEP)
def test_layouts_and_dtypes(layout: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for shape in SHAPES:
        z = LAYOUTS[layout]((torch.randn(shape) * 3).to(dtype))
        rows = (shape[0], *shape[2:])
        probabilities = torch.softmax(torch.randn(shape), 1).to(dtype)
        for y in (torch.randint(0, shape[1], rows), LAYOUTS[layout](probabilities)):
            for eps in (0.0, 0.2):
                weight = torch.rand(shape[1]).to(dtype) + 0.5 if eps else None
                x = z.detach().double().requires_grad_()
                expected = reference(x, y, weight=weight, eps=eps)
                expected.backward()
                got = call(z, y, weight=weight, eps=eps, red=MEAN, grads=1, checks=OFF)
                assert got[5] == 0
                close = {"rtol": STEP[dtype], "atol": STEP[dtype] * float(x.grad.abs().max()) / 8}
                torch.testing.assert_close(got[0].double(), expected.detach(), rtol=STEP[dtype], atol=STEP[dtype])
                torch.testing.assert_close(got[1].double(), x.grad, **close)
                assert got[1].dtype == dtype
                assert got[0].dtype == dtype
                if layout != "expanded" and layout != "every other":
                    strides = zip(shape, got[1].stride(), z.stride(), strict=True)
                    assert all(mine == own for size, mine, own in strides if size > 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_rounded_once(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    for shape in ((50, 10), (20, 100)):
        z, y = (torch.randn(shape) * 2).to(dtype), torch.randint(0, shape[1], shape[:1])
        up = torch.ones(shape[0], dtype=dtype)
        loss, dz = call(z, y)[0], call(z, y, grads=1, upstream=up)[1]
        exact, slope = call(z.double(), y)[0], call(z.double(), y, grads=1, upstream=up)[1]
        for got, true in ((loss, exact), (dz, slope)):
            unit = (true.to(dtype).nextafter(torch.tensor(INF, dtype=dtype)) - true.to(dtype)).double().abs()
            assert ((got.double() - true).abs() <= 0.51 * unit).all()


@pytest.mark.parametrize("c", [3, 12, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_weights_reductions(c: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    z = torch.randn(30, c, 4, dtype=dtype)
    y = torch.randint(0, c, (30, 4), dtype=torch.int32)
    y[3] = 255
    w, s = torch.rand(c, dtype=dtype) + 0.1, torch.rand(30, 1, dtype=dtype)
    mask = torch.rand(30, 4) < 0.7
    z[~mask.unsqueeze(1).expand_as(z)] = NOT
    counts = mask & (y != 255)
    clean = torch.where(counts.unsqueeze(1), z, 0.0).double().requires_grad_()
    losses = reference(clean, torch.where(counts, y, 0), weight=w, reduction="none") * counts * s.double()
    divisor = (w.double()[torch.where(counts, y, 0).long()] * counts * s.double()).sum()
    for red, expected in ((MEAN, losses.sum() / divisor), (SUM, losses.sum()), (NONE, losses)):
        given = {"weight": w, "sample_weight": s, "mask": mask, "ignore": 255}
        up = torch.rand(30, 4, dtype=dtype)
        (slope,) = torch.autograd.grad(expected, clean, up.double() if red == NONE else None, retain_graph=True)
        got = call(z, y, red=red, grads=0 if red == NONE else 1, **given)
        back = call(z, y, red=red, grads=1, upstream=up, **given) if red == NONE else got
        close = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-7}
        torch.testing.assert_close(got[0].double(), expected.detach(), **close)
        torch.testing.assert_close(back[1].double(), slope, **close)
        assert (back[1][~counts.unsqueeze(1).expand_as(z)] == 0).all()
        if red == NONE:
            assert (got[0][~counts] == 0).all()
    half = call(z, y, red=MEAN, grads=1, normalizer=2.0, factor=3.0, **given)
    full = call(z, y, red=SUM, grads=1, **given)
    torch.testing.assert_close(half[0] * 2, full[0])
    torch.testing.assert_close(half[1] / 1.5, full[1])


def test_every_integer_type_and_unbatched() -> None:
    z = torch.randn(5, 4)
    y = torch.tensor([0, 3, 1, 2, 2])
    expected = call(z, y)[0]
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert torch.equal(call(z, y.to(dtype))[0], expected)
    assert torch.equal(call(z[1], y[1])[0], expected[1])
    assert call(z[1], y[1], red=MEAN, grads=1)[1].shape == (4,)
    for c in (20, 300):
        x = torch.randn(c)
        torch.testing.assert_close(call(x, torch.tensor(3))[0], reference(x, torch.tensor(3)).float())


@pytest.mark.parametrize("shape", [(3000, 33), (4000, 10), (700, 1000), (20, 7, 60, 60)])
def test_same_bits_for_any_number_of_threads(shape: tuple[int, ...]) -> None:
    z, y = torch.randn(shape), torch.randint(0, shape[1], (shape[0], *shape[2:]))
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        results.append(call(z, y, red=MEAN, grads=1)[:2])
    torch.set_num_threads(before)
    for loss, dz in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(dz, results[0][1])


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
    assert call(z, y, checks=RAISE)[5] == wire.ClassScoresViolation.CLASS_INDEX
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
    assert call(z, t, checks=RAISE)[5] == wire.ClassScoresViolation.PROBABILITY
    assert call(z, t, checks=NAN)[0][3].isnan()
    assert call(z, t, checks=OFF)[0].isfinite().all()
    mask = torch.ones(40, dtype=torch.bool)
    mask[[3, 7, 9]] = False
    assert call(z, y, mask=mask)[5] == 0
    assert call(z, t, mask=mask)[5] == 0


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
    assert call(torch.randn(3, 0), torch.zeros(3, dtype=torch.int64))[5] == wire.DECLINED
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
        assert call(a, b, **more)[5] == wire.DECLINED


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
        assert call(lp + 100, y, picked=True)[5] == wire.ClassScoresViolation.LOG_PROBABILITY
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
