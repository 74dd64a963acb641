"""How exact losses on features and weights are: what chunks, their sums and the fused gradient could bring in of errors."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import losskit
import losskit.functional as LF
from losskit.layers import heads

Head = tuple[Tensor, Tensor, Tensor]  # features, weights, class indices
ROWS_OF_A_CHUNK = 16
CLASSES = [50, 200]  # the gradient of 64 classes and more is written over its scores


@pytest.fixture(params=["at once", "late"])
def chunked(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """A mean, which makes gradients in its forward pass or, of losses that are not reduced, in backward."""
    late = request.param == "late"
    return lambda *head: LF.linear_cross_entropy(*head, reduction="none" if late else "mean").mean()


def plain(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight), target)


def in_chunks(monkeypatch: pytest.MonkeyPatch, head: Head) -> Head:
    """The same head, from now on some rows at a time; products of halves are added in three blocks of classes."""
    x, weight, _ = head
    monkeypatch.setattr(heads, "_CHUNK", ROWS_OF_A_CHUNK * len(weight) * x.element_size())
    monkeypatch.setattr(heads, "_BLOCK", -(-len(weight) // 3) * x.shape[1] * x.element_size())
    return head


def drawn(rows: int, width: int, classes: int, *, size: float, seed: int, dtype: torch.dtype = torch.float32) -> Head:
    """Scores with a standard deviation of `size`; every second row is right."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    weight = torch.randn(classes, width, generator=generator) * (size / width**0.5)
    target = torch.randint(0, classes, (rows,), generator=generator)
    target[::2] = F.linear(x, weight).argmax(1)[::2]
    return x.to(dtype), weight.to(dtype), target


def confident(rows: int, width: int, classes: int, *, lead: float, seed: int) -> Head:
    """Rows whose label leads every other class by about so much."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.linalg.qr(torch.randn(width, width, generator=generator))[0][:classes].contiguous()
    target = torch.randint(0, classes, (rows,), generator=generator)
    return lead * weight[target] + 0.5 * torch.randn(rows, width, generator=generator), weight, target


def gradients(loss: Callable[..., Tensor], head: Head, dtype: torch.dtype | None = None) -> list[Tensor]:
    """By features and by weights."""
    *given, target = head
    leaves = [x.to(dtype or x.dtype).requires_grad_() for x in given]
    return [x.double() for x in torch.autograd.grad(loss(*leaves, target), leaves)]


def largest(error: Tensor, truth: Tensor) -> float:
    """The largest error as a part of the largest entry."""
    return float(error.abs().max() / truth.abs().max())


def of_all(error: Tensor, truth: Tensor) -> float:
    """The root mean square of errors as a part of that of the entries."""
    return float(error.norm() / truth.norm())


def errors(loss: Callable[..., Tensor], head: Head, measure: Callable[[Tensor, Tensor], float]) -> list[float]:
    """Of the gradients by features and by weights, against float64 from the features and weights on."""
    truth = gradients(plain, head, torch.float64)
    return [measure(found - true, true) for found, true in zip(gradients(loss, head), truth)]


def over_plain(
    loss: Callable[..., Tensor], some: list[Head], measure: Callable[[Tensor, Tensor], float]
) -> list[float]:
    """Errors of the two gradients over those of the plain path, both the mean over some heads."""
    ours, theirs = (zip(*(errors(way, head, measure) for head in some)) for way in (loss, plain))
    return [fmean(a) / fmean(b) for a, b in zip(ours, theirs)]


def exact(scores: Tensor, target: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma * -log(p) in float64, from the odds against the label: exact also where p is nearly 1."""
    own = scores.double().gather(1, target[:, None])
    against = (scores.double() - own).exp().scatter(1, target[:, None], 0.0).sum(1)
    return (against / (1.0 + against)) ** gamma * against.log1p()


def ulps(found: Tensor, truth: Tensor) -> float:
    """The largest error in units in the last place of the truth in float32."""
    unit = torch.ldexp(torch.ones_like(truth), torch.frexp(truth).exponent - 24)
    return float(((found.double() - truth).abs() / unit).max())


# By loss: gamma, and the bars of losses of rows and of their mean, in ULP. A focal loss has the error of the missing
# probability gamma times. Among 2.4 million rows the largest errors are 3.5 and 11.9 ULP, among those here 2.4 and 10.1.
VALUES = {
    "cross_entropy": (lambda r: losskit.CrossEntropyLoss(reduction=r), 0.0, 3.0, 3.0),
    "focal": (lambda r: losskit.SoftmaxFocalLoss(reduction=r), 2.0, 12.0, 3.0),
}


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("size", [1.0, 6.0])
@pytest.mark.parametrize("name", VALUES)
def test_values(name, size, classes, monkeypatch):
    """Of the scores that the chunks have: the error of the matrix product is another matter."""
    make, gamma, of_rows, of_means = VALUES[name]
    worst = [0.0, 0.0]
    for seed in range(8):
        x, weight, target = in_chunks(monkeypatch, drawn(512, 32, classes, size=size, seed=seed))
        scores = torch.cat([torch.mm(part, weight.t()) for part in x.split(ROWS_OF_A_CHUNK)])
        truth = exact(scores, target, gamma)
        each = losskit.linear(make("none"))(x, weight, target)
        assert torch.equal(each, make("none")(scores, target))
        worst[0] = max(worst[0], ulps(each, truth))
        for leaf in (x, x.clone().requires_grad_()):  # gradients are made on another path
            mean = losskit.linear(make("mean"))(leaf, weight, target).detach()
            worst[1] = max(worst[1], ulps(mean, truth.mean()))
    assert worst[0] <= of_rows, worst
    assert worst[1] <= of_means, worst


def test_a_mean_of_thousands_of_chunks(monkeypatch):
    """Added up in float32, one after the other, they are 12 ULP off."""
    head = drawn(8192, 8, 50, size=1.0, seed=0)
    monkeypatch.setattr(heads, "_CHUNK", 1)
    scores = torch.cat([torch.mm(row, head[1].t()) for row in head[0].split(1)])
    assert ulps(LF.linear_cross_entropy(*head), exact(scores, head[2], 0.0).mean()) <= 3.0


@pytest.mark.parametrize("size", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(512, 32, 50), (512, 64, 200), (256, 96, 1000), (1024, 16, 300)], ids=str)
def test_gradients_are_no_worse_than_those_of_all_scores(shape, size, chunked, monkeypatch):
    """Mostly the errors of matrix products: means over six heads differ by up to 5 % for no reason."""
    some = [in_chunks(monkeypatch, drawn(*shape, size=size, seed=seed)) for seed in range(6)]
    ratios = over_plain(chunked, some, largest)
    assert max(ratios) <= 1.1, ratios


@pytest.mark.parametrize("classes", CLASSES)
def test_confident_rows_keep_their_gradients(classes, chunked, monkeypatch):
    """Labels have the probability 1 - 1e-6 or 1 - 1e-5: p - 1 of a rounded p has two digits, or one."""
    for seed in range(3):
        head = in_chunks(monkeypatch, confident(256, 256, classes, lead=17.0, seed=seed))
        against = -torch.expm1(-exact(F.linear(*head[:2]), head[2], 0.0))
        assert 1e-6 < against.mean() < 2e-5
        ratios = over_plain(chunked, [head], largest)
        assert max(ratios) <= 1 / 4, ratios


@pytest.mark.parametrize("size", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(2048, 32, 50), (4096, 16, 200)], ids=str)
def test_sums_over_many_chunks_in_bfloat16(shape, size, chunked, monkeypatch):
    """As exact as one product of all rows, but for the rounding of each chunk's product.

    128 and 256 chunks. The largest error is the rounding of one large entry, and says less than the error of all.
    """
    some = [in_chunks(monkeypatch, drawn(*shape, size=size, seed=seed, dtype=torch.bfloat16)) for seed in range(3)]
    by_input, by_weight = over_plain(chunked, some, of_all)
    assert by_input <= 1.0, by_input
    assert by_weight <= 1.1, by_weight
