"""Losses of a student's and a teacher's rows on features and weights: what the loss of the scores gives, in chunks."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap
from two_row_heads import (
    CRITERIA,
    EACH,
    REDUCTIONS,
    agree,
    best_of,
    call,
    never_whole,
    small_chunks,
    student_of,
    teacher_of,
)

import losskit
from losskit.layers import head_calls, heads

__all__ = ["never_whole", "small_chunks"]  # fixtures
pytestmark = pytest.mark.usefixtures("small_chunks")


@EACH
@REDUCTIONS
@pytest.mark.parametrize("lead", [(23,), (3, 7), ()], ids=str)
def test_it_is_the_loss_of_the_scores(name, reduction, lead, never_whole):
    criterion = CRITERIA[name](reduction)
    rows = torch.Generator().manual_seed(2)
    every = {
        "sample_weight": torch.rand(lead, generator=rows, dtype=torch.float64),
        "mask": torch.rand(lead, generator=rows) < 0.8,
    }
    for bias in (True, False):
        student, teacher = student_of(lead, bias=bias), teacher_of(lead, bias=bias)
        scores = F.linear(*teacher)
        for extras in ({}, every, {"normalizer": 3.0}):
            expected = criterion(F.linear(*student), scores, **extras)
            for given in (teacher, scores):
                agree(call(losskit.linear(criterion), student, given, **extras), expected, student)


def test_names_of_arguments():
    """The order of other libraries' fused distillation, and every name by keyword."""
    (x, weight, bias), (target, of_teacher, teacher_bias) = student_of((6,)), teacher_of((6,))
    criterion = losskit.linear(losskit.JensenShannonLoss())
    by_place = criterion(x, weight, target, of_teacher, linear_bias=bias, teacher_bias=teacher_bias)
    by_name = criterion(
        x, weight, target, teacher_weight=of_teacher, linear_bias=bias, teacher_bias=teacher_bias
    )  # fmt: skip
    assert torch.equal(by_place, by_name)


@REDUCTIONS
def test_caps_and_z_loss(reduction):
    student, teacher = student_of((13,)), teacher_of((13,))
    mask = torch.arange(13) % 3 != 0
    criterion = losskit.KnowledgeDistillationLoss(reduction=reduction)
    head = losskit.linear(criterion, soft_cap=2.0, z_loss=0.1, teacher_soft_cap=1.5)
    scores, known = 2.0 * torch.tanh(F.linear(*student) / 2.0), 1.5 * torch.tanh(F.linear(*teacher) / 1.5)
    each = F.kl_div(scores.log_softmax(1), known.log_softmax(1), log_target=True, reduction="none").sum(1)
    each = torch.where(mask, each + 0.1 * scores.logsumexp(1) ** 2, 0.0)
    expected = {"none": each, "sum": each.sum(), "mean": each.sum() / mask.sum()}[reduction]
    agree(call(head, student, teacher, mask=mask), expected, student)
    assert losskit.create(head.config()).teacher_soft_cap == 1.5
    assert "teacher_soft_cap=1.5" in repr(head)


def test_a_teacher_is_a_constant(never_whole):
    """What wants a gradient there has none, and nothing is stored for one."""
    student = student_of((9,))
    teacher = [x.requires_grad_() for x in teacher_of((9,))]
    head = losskit.linear(losskit.KnowledgeDistillationLoss())
    call(head, student, teacher).backward()
    call(head, student, F.linear(*[x.detach() for x in teacher]).requires_grad_()).backward()
    assert all(x.grad is None for x in teacher)
    assert all(x.grad is not None for x in student)
    with torch.no_grad():
        assert not call(head, student, teacher).requires_grad
    student[1] = student[1].detach()  # frozen weights
    loss = call(head, student, teacher)
    assert torch.autograd.grad(loss, student[0])[0].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@EACH
def test_halves(name, dtype, reduction, never_whole):
    """The scores are those of halves; the loss of them is computed in float32 and rounded once."""
    student = student_of((64,), dtype=dtype, bias=False)
    teacher = teacher_of((64,), dtype=dtype, bias=False)
    criterion = CRITERIA[name](reduction)
    scores = F.linear(*student).detach().double().requires_grad_()
    expected = criterion(scores, F.linear(*teacher).double())
    loss = call(losskit.linear(criterion), student, teacher)
    assert loss.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), expected, rtol=eps, atol=1e-5)
    (slope,) = torch.autograd.grad(expected.sum(), scores)
    truths = slope @ student[1].double(), slope.T @ student[0].double()
    for found, truth in zip(torch.autograd.grad(loss.sum(), student), truths, strict=True):
        assert (found.double() - truth).abs().max() < 4 * eps * truth.abs().max()


def test_a_teacher_of_another_dtype(never_whole):
    """A teacher in bfloat16 beside a student in float32: the loss is float32."""
    student, teacher = student_of((9,), dtype=torch.float32), teacher_of((9,), dtype=torch.bfloat16)
    criterion = losskit.JensenShannonLoss()
    loss = call(losskit.linear(criterion), student, teacher)
    agree(loss, criterion(F.linear(*student), F.linear(*teacher)), student, rtol=1e-5, atol=1e-7)
    narrow = student_of((9,), dtype=torch.bfloat16)
    assert call(losskit.linear(criterion), narrow, teacher_of((9,), dtype=torch.float32)).dtype == torch.float32


def test_autocast(never_whole):
    student, teacher = student_of((9,), dtype=torch.float32), teacher_of((9,), dtype=torch.float32)
    criterion = losskit.KnowledgeDistillationLoss()
    with torch.autocast("cpu", torch.bfloat16):
        loss = call(losskit.linear(criterion), student, teacher)
        expected = criterion(F.linear(*student), F.linear(*teacher))
    assert loss.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-5)
    loss.backward()
    assert {x.grad.dtype for x in student} == {torch.float32}


def test_transforms():
    """Derivatives of derivatives and torch.func: all scores at once."""
    x, weight, bias = (leaf.detach() for leaf in student_of((6,)))
    teacher = teacher_of((6,))
    scores = F.linear(*teacher)
    kd = losskit.KnowledgeDistillationLoss(temperature=2.0)
    head = losskit.linear(kd)

    def chunked(x, weight):
        return head(x, weight, *teacher[:2], teacher_bias=teacher[2], linear_bias=bias)

    def plain(x, weight):
        return kd(F.linear(x, weight, bias), scores)

    assert torch.autograd.gradcheck(chunked, (x.requires_grad_(), weight.requires_grad_()))
    assert torch.autograd.gradgradcheck(chunked, (x, weight))
    x, weight = x.detach(), weight.detach()
    tangents = torch.ones_like(x), torch.ones_like(weight)
    for transform in (
        lambda f: grad(f, argnums=(0, 1))(x, weight),
        lambda f: jvp(f, (x, weight), tangents),
        lambda f: vmap(f, in_dims=(None, 0))(x, torch.stack([weight, 2 * weight])),
    ):
        torch.testing.assert_close(transform(chunked), transform(plain))


@REDUCTIONS
@pytest.mark.parametrize("form", ["features", "capped", "scores", "best"])
def test_compiled(form, reduction, never_whole):
    """Chunks are an op of the graph."""
    torch._dynamo.reset()
    student, teacher = student_of((3, 4), dtype=torch.float32), teacher_of((3, 4), dtype=torch.float32)
    caps = {"soft_cap": 3.0, "teacher_soft_cap": 4.0, "z_loss": 0.1} if form == "capped" else {}
    head = losskit.linear(losskit.KnowledgeDistillationLoss(temperature=2.0, reduction=reduction), **caps)
    values, indices, _ = best_of(F.linear(*teacher))
    given, best = {"scores": F.linear(*teacher), "best": values}.get(form, teacher), {"teacher_indices": indices}
    mask = torch.arange(12).view(3, 4) != 5

    def loss(x, weight, bias):
        return call(head, [x, weight, bias], given, mask=mask, **(best if form == "best" else {})) * 2

    found = torch.compile(loss, backend="aot_eager", fullgraph=True)(*student)
    expected = loss(*student)
    torch.testing.assert_close(found, expected)
    upstream = torch.ones_like(expected)
    for a, b in zip(*(torch.autograd.grad(x, student, upstream) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("classes", [1, 11, 64, 513, 1025, 2500])
def test_a_gradient_over_its_scores_has_the_same_bits(classes, dtype):
    """Also of rows that are near, far, infinite, missing, masked, of one class."""
    generator = torch.Generator().manual_seed(classes)
    teacher = torch.randn(14, classes, generator=generator).to(dtype)
    scores = (teacher + torch.randn(14, classes, generator=generator)).to(dtype)
    inf, nan = float("inf"), float("nan")
    scores[0] = teacher[0]
    for row, x in ((2, 200.0), (3, -3e4), (4, inf), (5, nan), (6, 60.0)):
        scores[row, row % classes] = x
    scores[7], scores[8, 1:], teacher[9, 1:], teacher[10, 0], scores[11] = -inf, -inf, -inf, inf, nan
    mask = torch.arange(14) != 11
    for name, make in CRITERIA.items():
        term = head_calls.Term(make("sum")._planned(), [], None)
        whole = head_calls.Call([term], None, (classes,), [teacher], None, mask, None)
        leaf, given = scores.clone().requires_grad_(), scores.clone()
        with losskit.checks("off"):
            loss = whole.of(leaf)
            (expected,) = torch.autograd.grad(loss, leaf)
            found = whole.over(given, loss.dtype)
        assert found is not None, name
        assert torch.equal(found[0].nan_to_num(), loss.detach().nan_to_num()), name
        assert torch.equal(found[1].nan_to_num(), expected.nan_to_num()), name
        assert found[1].data_ptr() == given.data_ptr()


def largest_allocation(function):
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        function()
    return max((event.cpu_memory_usage for event in seen.events()), default=0)


def test_memory(monkeypatch):
    """Neither row is ever there as a whole: neither forward nor backward allocates as much."""
    rows, classes = 4096, 512
    x, weight = torch.randn(rows, 4, requires_grad=True), torch.randn(classes, 4, requires_grad=True)
    teacher = torch.randn(rows, 3), torch.randn(classes, 3)
    monkeypatch.setattr(heads, "_CHUNK", 1 << 16)
    kd = losskit.KnowledgeDistillationLoss()
    chunked = largest_allocation(lambda: losskit.linear(kd)(x, weight, *teacher).backward())
    best = torch.randn(rows, 8), torch.randint(0, classes, (rows, 8))
    of_best = largest_allocation(lambda: losskit.linear(kd)(x, weight, *best).backward())
    stored = largest_allocation(lambda: kd(F.linear(x, weight), F.linear(*teacher)).backward())
    assert 0 < chunked < rows * classes * 4 / 16
    assert 0 < of_best < rows * classes * 4 / 16
    assert stored >= rows * classes * 4


def test_scores_of_a_teacher_that_are_apart(never_whole):
    """All but the last of each sequence, or classes that are not dense: no copy of all of them is made."""
    student, criterion = student_of((3, 7)), losskit.ReverseKLDivLoss(reduction="none")
    scores = F.linear(*teacher_of((3, 8)))
    for given in (scores[:, :-1], scores.movedim(-1, 0).contiguous().movedim(0, -1)[:, 1:]):
        agree(call(losskit.linear(criterion), student, given), criterion(F.linear(*student), given), student)


def test_memory_of_scores_that_are_apart(monkeypatch):
    monkeypatch.setattr(heads, "_CHUNK", 1 << 16)
    x, weight = torch.randn(4, 1024, 4, requires_grad=True), torch.randn(512, 4, requires_grad=True)
    teacher, head = torch.randn(4, 1025, 512)[:, :-1], losskit.linear(losskit.KnowledgeDistillationLoss())
    assert 0 < largest_allocation(lambda: head(x, weight, teacher).backward()) < teacher.numel() * 4 / 16


def test_nothing_counts():
    student, teacher = student_of((4,)), teacher_of((4,))
    head = losskit.linear(losskit.KnowledgeDistillationLoss())
    nothing = torch.zeros(4, dtype=torch.bool)
    for target in (teacher, F.linear(*teacher)):
        loss = call(head, student, target, mask=nothing)
        assert loss.isnan()
        assert all((g == 0).all() for g in torch.autograd.grad(loss, student))
        with losskit.empty("zero"):
            assert call(head, student, target, mask=nothing) == 0.0
    none = call(head, student_of((0,)), teacher_of((0,)))
    assert none.isnan()


def test_what_is_masked_may_be_nan(never_whole):
    student, teacher = student_of((9,)), teacher_of((9,))
    mask = torch.arange(9) != 4
    head = losskit.linear(losskit.ReverseKLDivLoss())
    expected = call(head, student, teacher, mask=mask).detach()
    with torch.no_grad():
        student[0][4], teacher[0][4] = torch.nan, torch.inf
    loss = call(head, student, teacher, mask=mask)
    assert loss == expected
    (slope,) = torch.autograd.grad(loss, student[0])
    assert (slope[4] == 0).all()
    assert slope.isfinite().all()


def test_why():
    student, teacher = student_of((9,)), teacher_of((9,))
    head = losskit.linear(losskit.KnowledgeDistillationLoss())
    choice = losskit.why(head, *student[:2], *teacher[:2])
    assert choice.implementation == "fused CPU kernel"
    assert "of 9 rows at a time" in choice.reason
    assert "the student's and the teacher's scores" in choice.reason
    assert "written over the scores in forward" in choice.reason
    best = torch.zeros(9, 2, dtype=torch.float64), torch.zeros(9, 2, dtype=torch.int64)
    assert "the student's and the teacher's scores" in losskit.why(head, *student[:2], *best).reason
    assert "teacher" not in losskit.why(head, *student[:2], F.linear(*teacher)).reason
    late = losskit.linear(losskit.KnowledgeDistillationLoss(reduction="none"))
    assert "made again in backward" in losskit.why(late, *student[:2], *teacher[:2]).reason
    capped = losskit.linear(losskit.KnowledgeDistillationLoss(), soft_cap=2.0)
    assert "written beside the scores" in losskit.why(capped, *student[:2], *teacher[:2]).reason
    weights = torch.ones(9, dtype=torch.float64, requires_grad=True)
    assert losskit.why(head, *student[:2], *teacher[:2], sample_weight=weights).implementation == "all scores at once"


X, W, T, TW = torch.randn(20, 5), torch.randn(4, 5), torch.randn(20, 7), torch.randn(4, 7)
KD = losskit.KnowledgeDistillationLoss()
HEAD = losskit.linear(KD)
REFUSED = [
    (lambda: losskit.linear(losskit.KnowledgeDistillationLoss), TypeError, r"Use KnowledgeDistillationLoss\(\)"),
    (lambda: losskit.linear(KD, teacher_soft_cap=-1.0), ValueError, "teacher_soft_cap must be positive, got -1"),
    (lambda: losskit.linear(losskit.CrossEntropyLoss(), teacher_soft_cap=1.0), ValueError,
     "teacher_soft_cap is for losses of a student's and a teacher's scores"),
    (lambda: losskit.linear(losskit.CrossEntropyLoss())(X, W, T.argmax(1) % 4, teacher_weight=TW), ValueError,
     "teacher_weight is for losses of a student's and a teacher's scores"),
    (lambda: HEAD(X, W), TypeError, "takes input, linear_weight, target, teacher_weight, got 2 arguments"),
    (lambda: HEAD(X, W, T, TW, TW), TypeError, "got 5 arguments"),
    (lambda: HEAD(X, W, T), ValueError, r"the teacher's scores \(20, 4\), got \(20, 7\). Features of a teacher need"),
    (lambda: HEAD(X, W, X[:, :4], teacher_bias=X[0, :4]), ValueError, "teacher_bias is that of a teacher's last layer"),
    (lambda: losskit.linear(KD, teacher_soft_cap=1.0)(X, W, X[:, :4]), ValueError, "teacher_soft_cap is that of a"),
    (lambda: HEAD(X, W[:, :4], T, TW), ValueError, r"linear_weight must have the shape \(C, 5\) for input \(20, 5\)"),
    (lambda: HEAD(X, W[:, None], T, TW), ValueError, r"linear_weight must have the shape \(C, 5\)"),
    (lambda: HEAD(X, W, T, TW[:3]), ValueError, r"teacher_weight must have the shape \(4, 7\) for target \(20, 7\)"),
    (lambda: HEAD(X, W, T, TW[:, :5]), ValueError, r"teacher_weight must have the shape \(4, 7\) for target"),
    (lambda: HEAD(X, W, T, TW, teacher_bias=X[0]), ValueError, r"teacher_bias must have the shape \(4,\) for target"),
    (lambda: HEAD(X, W, T[:19], TW), ValueError, r"target must have the shape \(20, 7\) for input \(20, 5\)"),
    (lambda: HEAD(X, W, T, TW.double()), TypeError, "teacher_weight is torch.float64 but target is torch.float32"),
    (lambda: HEAD(X, W, T.argmax(1), TW), TypeError, "target must be floating"),
    (lambda: HEAD(X, W, X[:, :4].long()), TypeError, "for class indices use cross_entropy"),
    (lambda: HEAD(X, W, T, TW, teacher_indices=T.long()), ValueError, "either features beside teacher_weight, or scores"),
    (lambda: HEAD(X, W, T, teacher_indices=T), TypeError, "teacher_indices must be a tensor of integers, got torch.float"),
    (lambda: HEAD(X, W, T, T.long()[:, :3]), ValueError, r"target \(20, 7\) and teacher_indices \(20, 3\) must have"),
    (lambda: HEAD(X, W, T[:19], T[:19].long() * 0), ValueError, r"target must have the shape \(20, 7\) for input"),
    (lambda: HEAD(X, W, T, teacher_indices=[0]), TypeError, "teacher_indices must be a tensor"),
    (lambda: losskit.top_k_scores(T, T.long(), 0), ValueError, "classes must be a positive integer, got 0"),
    (lambda: losskit.top_k_scores(T.long(), T.long(), 4), TypeError, "values must be floating"),
    (lambda: losskit.top_k_scores(T[0, 0], T[0, 0].long(), 4), IndexError, "a dimension of classes"),
    (lambda: HEAD(X, W, T.tolist(), TW), TypeError, "target must be a tensor"),
    (lambda: HEAD(X, W, T[0, 0], TW), IndexError, "target must have a dimension of features"),
    (lambda: HEAD(X, W, T, TW, mask=T[:, 0]), TypeError, "mask must be boolean"),
    (lambda: HEAD(X, W, T, TW, sample_weight=X), ValueError, "must broadcast"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "kind", "words"), REFUSED)
def test_refusals(mistake, kind, words):
    with pytest.raises(kind, match=words):
        mistake()
