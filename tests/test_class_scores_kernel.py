"""The fused kernel of the class-scores family, called directly and compared with 60 and more digits.

1. Every mode, layout, number of classes around the sizes where the kernel changes its path, and the rows that have no
   finite maximum.
2. Errors are counted in units in the last place of the larger of the terms that a result is the difference of: for
   index targets without smoothing that is the result itself.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from class_scores_kernel import (
    CLASSES,
    INF,
    LAYOUTS,
    MEAN,
    NONE,
    NOT,
    OFF,
    STEP,
    SUM,
    assert_exact,
    call,
    kinds_for,
    reference,
    row_truth,
    rows_for,
    scores,
    ulp,
)
from tiers import rest

WHAT = "class scores: kernels at every number of classes, layout and dtype"
SOME = rest(CLASSES, [2, 17, 64], WHAT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c", SOME)
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
@pytest.mark.parametrize("c", SOME[:-1])
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
@pytest.mark.parametrize("c", SOME[:-1])
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


@pytest.mark.parametrize("layout", rest(LAYOUTS, list(LAYOUTS)[:2], WHAT))
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
                assert got[3] == 0
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
