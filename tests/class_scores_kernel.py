"""Calls of the class-scores kernel at the boundary of its op, and the truth about a row in mpmath."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import torch

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
    numbers = [normalizer, factor, eps, float(ignore), 1.0, *params]
    operands = [x for x in (a, b, shift) if x is not None]
    loss, gradients, status = torch.ops.losskit.class_scores(
        kernel, code, operands, weight, sample_weight, mask, upstream, numbers
    )
    one = iter(gradients)
    dz, dt = (next(one, None) if grads >> operand & 1 else None for operand in range(2))
    return loss, dz, dt, status


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


STEP = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}
