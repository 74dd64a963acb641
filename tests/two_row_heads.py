"""Losses of two rows on a student's and a teacher's features and weights, and calls of them."""

import pytest
import torch

import losskit
from losskit.layers import heads
from losskit.layers.head_calls import Head

CLASSES, WIDTH, OF_TEACHER = 11, 5, 7


class SquaredOfHeadsLoss(losskit.TwoRowsLoss):
    """The squared distance of probabilities, a loss of one's own."""

    @staticmethod
    def value(log_ratio, student, teacher):
        return (student - teacher) * (student - teacher)


CRITERIA = {
    "kd": lambda r: losskit.KnowledgeDistillationLoss(temperature=2.0, reduction=r),
    "reverse": lambda r: losskit.ReverseKLDivLoss(reduction=r),
    "jsd": lambda r: losskit.JensenShannonLoss(beta=0.3, temperature=0.5, reduction=r),
    "jsd forward": lambda r: losskit.JensenShannonLoss(beta=0.0, reduction=r),
    "tv": lambda r: losskit.TotalVariationDistanceLoss(reduction=r),
    "own": lambda r: SquaredOfHeadsLoss(reduction=r),
}
EACH = pytest.mark.parametrize("name", CRITERIA)
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


@pytest.fixture
def small_chunks(monkeypatch):
    """Four rows of scores in a chunk."""
    monkeypatch.setattr(heads, "_CHUNK", 4 * CLASSES * 8)
    monkeypatch.setattr(heads, "_BLOCK", 3 * WIDTH * 2)


@pytest.fixture
def never_whole(monkeypatch):
    """Neither the student's nor the teacher's scores are made at once."""
    monkeypatch.setattr(Head, "scores", lambda head: pytest.fail("all scores were made"))


def drawn(lead, width, dtype=torch.float64, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(*lead, width), (CLASSES, width), *([(CLASSES,)] if bias else [])]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def student_of(lead, **options):
    return [x.requires_grad_() for x in drawn(lead, WIDTH, **options)]


def teacher_of(lead, **options):
    return drawn(lead, OF_TEACHER, seed=1, **options)


def biased(bias, name):
    return {name: bias[0]} if bias else {}


def call(head, student, teacher, **extras):
    """With the teacher's features and weights, or, where it is a tensor, with its scores."""
    x, weight, *bias = student
    target, *more = [teacher] if isinstance(teacher, torch.Tensor) else teacher
    given = more[:1], biased(more[1:], "teacher_bias") | biased(bias, "linear_bias")
    return head(x, weight, target, *given[0], **given[1], **extras)


def best_of(scores, count=4):
    """A teacher's best classes, and its scores without the others."""
    values, indices = scores.topk(count, -1)
    return values, indices, torch.full_like(scores, -torch.inf).scatter(-1, indices, values)


def agree(loss, expected, inputs, rtol=1e-12, atol=1e-13):
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=atol)
    upstream = torch.linspace(0.5, 2.0, max(loss.numel(), 1), dtype=loss.dtype)[: loss.numel()].reshape(loss.shape)
    wanted = torch.autograd.grad(expected, inputs, upstream, retain_graph=True)
    for again in range(2):  # the second backward makes the scores anew
        found = torch.autograd.grad(loss, inputs, upstream, retain_graph=not again)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
