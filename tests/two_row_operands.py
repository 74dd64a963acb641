"""A student's and a teacher's scores, for the proofs of divergences, and what these have in common."""

from __future__ import annotations

import math

import torch
from row_operands import normal

CLASSES = 7


def pairs(n, g):
    """Scores of a student and of its teacher."""
    return normal(n, CLASSES, g=g), normal(n, CLASSES, g=g)


def softened(m, input, target, temperature):
    """The probabilities of both rows and their logarithms, student first."""
    (p, _, log_p), (q, _, log_q) = (m.softmax([x / temperature for x in row]) for row in (input, target))
    return p, q, [log_p(c) for c in range(len(p))], [log_q(c) for c in range(len(q))]


def relative(m, p, log_p, log_q):
    """The sum of p (log p - log q); what has no probability adds nothing."""
    return m.sum(a * (x - y) if a else m.zero for a, x, y in zip(p, log_p, log_q))


def spread(m, p, slopes):
    """The gradient by scores from slopes by log-probabilities, as two terms: they cancel where a student is certain."""
    every = m.sum(slopes)
    return [(h, -a * every) for h, a in zip(slopes, p)]


def near(dtype):
    """Students that are almost their teachers, also with another number added to all scores."""
    smallest = torch.finfo(dtype).eps
    for apart in (8 * smallest, 1e-4, 1e-2, 0.3):
        for offset in (0.0, 0.25, 100.0):
            g = torch.Generator().manual_seed(3)
            teacher = (torch.randn(4, 9, generator=g, dtype=torch.float64) * 2.0).to(dtype).double()
            student = (teacher * (1.0 + apart * torch.randn(4, 9, generator=g, dtype=torch.float64)) + offset).to(dtype)
            yield (student.double(), teacher), {}


def scales(dtype):
    """Rows of every width, from nearly even ones to nearly certain ones."""
    for scale, width in ((1e-3, 9), (1.0, 2), (1.0, 16), (1.0, 100), (10.0, 9), (30.0, 9)):
        g = torch.Generator().manual_seed(5)
        yield tuple(torch.randn(4, width, generator=g, dtype=torch.float64) * scale for _ in range(2)), {}


def left_out(dtype):
    """Classes that a teacher, or both, give no probability."""
    g = torch.Generator().manual_seed(7)
    student, teacher = (torch.randn(4, 9, generator=g, dtype=torch.float64) * 2.0 for _ in range(2))
    teacher[:, 3:6] = -math.inf
    student[:, 4] = -math.inf
    yield (student, teacher), {}
    yield (student + teacher.clamp(max=0.0), teacher), {}


POINTS = {"near": near, "scales": scales, "left_out": left_out}
