"""A teacher's best classes as the target of a head, and as scores of all classes."""

import pytest
import torch
import torch.nn.functional as F
from two_row_heads import (
    CLASSES,
    CRITERIA,
    REDUCTIONS,
    agree,
    best_of,
    never_whole,
    small_chunks,
    student_of,
    teacher_of,
)

import losskit

__all__ = ["never_whole", "small_chunks"]  # fixtures
pytestmark = pytest.mark.usefixtures("small_chunks")

FINITE = [name for name in CRITERIA if name not in ("reverse", "own")]  # where the teacher leaves classes out


@pytest.mark.parametrize("name", FINITE)
@REDUCTIONS
@pytest.mark.parametrize("lead", [(23,), (3, 7), ()], ids=str)
def test_best_classes_of_a_teacher(name, reduction, lead, never_whole):
    """As the scores of all classes with -inf for the others; log-probabilities will do, too."""
    criterion, student = CRITERIA[name](reduction), student_of(lead)
    values, indices, whole = best_of(F.linear(*teacher_of(lead)).log_softmax(-1))
    mask = torch.rand(lead, generator=torch.Generator().manual_seed(2)) < 0.8
    for extras in ({}, {"mask": mask}):
        expected = criterion(F.linear(*student), whole, **extras)
        for some in (indices, indices.int()):
            x, weight, bias = student
            loss = losskit.linear(criterion)(x, weight, values, teacher_indices=some, linear_bias=bias, **extras)
            agree(loss, expected, student)
    assert torch.equal(losskit.top_k_scores(values, indices, CLASSES), whole)


def test_rows_with_fewer_classes_are_filled():
    """-inf takes nothing away, whatever class stands beside it; of a class that is there twice the larger one counts."""
    values = torch.tensor([[1.0, -torch.inf, -torch.inf], [2.0, 3.0, 1.0]])
    indices = torch.tensor([[0, 0, 2], [1, 1, 3]])
    found = losskit.top_k_scores(values, indices, 4)
    inf = torch.inf
    assert found.tolist() == [[1.0, -inf, -inf, -inf], [-inf, 3.0, -inf, 1.0]]
    assert not losskit.top_k_scores(values.requires_grad_(), indices, 4).requires_grad


def test_an_index_that_is_no_class():
    """Refused, or the row is NaN; foreign memory is not touched."""
    student = student_of((3,), bias=False)
    head = losskit.linear(losskit.KnowledgeDistillationLoss(reduction="none"))
    values, indices = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([[0, 1], [2, CLASSES], [3, 4]])
    for call_of in (
        lambda x: head(*student, values, x),
        lambda x: losskit.top_k_scores(values, x, CLASSES).isnan().any(1),
    ):
        for bad, place in ((CLASSES, (1, 1)), (-1, (1, 1)), (1 << 40, (1, 1))):
            indices[place] = bad
            with pytest.raises(ValueError, match=rf"indices must be a class in \[0, 11\), got {bad} at index \(1, 1\)"):
                call_of(indices)
            with losskit.checks("nan"):
                found = call_of(indices).detach()
            assert (found if found.dtype == torch.bool else found.isnan()).tolist() == [False, True, False]
