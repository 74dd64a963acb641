"""Losses of the pairs of lists on a GPU: the eager formula in float64, ranks, padding, layouts, lists without a pair."""

import itertools
import math

import pytest
import torch

import losskit
from losskit import LambdaLoss, ListNetLoss, RankNetLoss
from losskit.formula import absolute, softplus
from losskit.kernels.gpu import lists

from .conftest import ON_GPU, assert_near

NAN, INF = math.nan, math.inf
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class ReciprocalRankLoss(losskit.ListsLoss):
    """A pair weighs what exchanging its items changes in the reciprocal rank."""

    @staticmethod
    def value(difference, rank, other_rank, relevance_difference):
        return absolute(1.0 / rank - 1.0 / other_rank) * softplus(-difference) * relevance_difference


LOSSES = {
    "rank_net": lambda **given: RankNetLoss(**given),
    "weighted": lambda **given: RankNetLoss(pair_weight="relevance", sigma=0.5, **given),
    "lambda": lambda **given: LambdaLoss(**given),
    "ndcg2++": lambda **given: LambdaLoss(scheme="ndcg2++", **given),
    "mrr": lambda **given: ReciprocalRankLoss(**given),
}
every = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture(autouse=True)
def _several_programs(monkeypatch):
    """A list is several programs', and the items of a pair several blocks."""
    monkeypatch.setattr(lists, "TILE", 32)
    monkeypatch.setattr(lists, "ACROSS", 8)
    monkeypatch.setattr(lists, "LISTS", 2)


def ranking(rows, items, dtype=torch.float32):
    """Scores with ties, grades, and which items there are."""
    generator = torch.Generator("cuda" if ON_GPU else "cpu").manual_seed(0)
    scores = torch.randn(rows, items, generator=generator, dtype=torch.float64).mul(4.0).round().div(2.0)
    scores += 0.01 * torch.randn(rows, items, generator=generator, dtype=torch.float64).relu()
    grades = torch.randint(0, 4, (rows, items), generator=generator)
    return scores.to(dtype), grades, torch.rand(rows, items, generator=generator) < 0.7


def got_and_expected(loss, input, target, items=None, **extras):
    """Loss and gradient from the kernel, and from the eager formula in float64."""
    given = {"sample_weight": None, "mask": None, "normalizer": None, **extras}
    operands = [target] if items is None else [target, items]
    assert losskit.why(loss, input, *operands, **extras).implementation == "fused GPU kernel"
    plan, results = loss._planned(items is not None), []
    for wide in (False, True):
        leaf = (input.detach().double() if wide else input.detach()).requires_grad_()
        if wide:
            value = plan.eager(plan.validated((leaf, *operands), None, **given), "nan")
        else:
            value = loss(leaf, *operands, **extras)
        upstream = torch.linspace(1.0, 2.0, max(value.numel(), 1)).to(value.dtype)[: value.numel()]
        results.append([value.detach(), *torch.autograd.grad(value, leaf, upstream.reshape(value.shape))])
    return results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every
def test_the_formula_in_double(name, dtype):
    scores, grades, there = ranking(3, 13, dtype)
    for items, k, reduction in ((None, None, "none"), (there, None, "mean"), (there, 4, "none"), (None, 3, "sum")):
        assert_near(*got_and_expected(LOSSES[name](k=k, reduction=reduction), scores, grades, items), dtype, 32.0)


@pytest.mark.parametrize("items", [1, 2, 8, 9, 33])
def test_sizes(items):
    for name, rows in itertools.product(("rank_net", "ndcg2++"), (1, 5)):
        scores, grades, there = ranking(rows, items)
        assert_near(*got_and_expected(LOSSES[name](reduction="none"), scores, grades, there), torch.float32, 32.0)
        got, expected = got_and_expected(LOSSES[name](), scores[0], grades[0], there[0])
        assert_near(got, expected, torch.float32, 32.0)


def test_grades_of_every_dtype():
    scores, grades, _ = ranking(3, 9)
    for name in ("weighted", "lambda"):
        wanted = LOSSES[name]()(scores, grades)
        for dtype in (torch.uint8, torch.int8, torch.int32, torch.float16, torch.float32, torch.float64):
            assert LOSSES[name]()(scores, grades.to(dtype)) == wanted
        assert_near(*got_and_expected(LOSSES[name](), scores, grades > 1), torch.float32, 32.0)


@every
def test_layouts_weights_and_masks(name):
    scores, grades, there = ranking(4, 6)
    mask, weight = torch.tensor([True, False, True, True]), torch.tensor([1.0, 2.0, 0.5, 0.0])
    hidden = scores.clone()
    hidden[1] = NAN
    wrong = grades.clone()
    wrong[1, 2] = -1
    for number, extras in enumerate(
        ({"mask": mask}, {"mask": mask, "sample_weight": weight}, {"mask": mask, "normalizer": 2.5},
         {"mask": torch.tensor(False)})
    ):  # fmt: skip
        moved = (hidden, hidden.t().contiguous().t(), torch.stack([hidden, hidden], -1)[..., 0], hidden)[number]
        for reduction in ("none", "mean"):
            found = got_and_expected(LOSSES[name](reduction=reduction), moved, wrong, there, **extras)
            assert_near(*found, torch.float32, 32.0)
    assert losskit.last_violation() is None


@every
def test_padded_items_count_for_nothing(name):
    scores, grades, there = ranking(4, 11)
    there[:, 0] = there[:, 1] = True
    grades[:, 0], grades[:, 1] = 3, 1
    spoiled = torch.where(there, scores, NAN)
    relevance = torch.where(there, grades.double(), torch.tensor([-1.0, NAN, 9.0, 2.0], dtype=torch.float64)[:, None])
    loss = LOSSES[name](reduction="none")
    (each, slope), (expected, gradient) = (
        got_and_expected(loss, x, y, there)[0] for x, y in ((spoiled, relevance), (scores, grades))
    )
    assert torch.equal(each, expected) and torch.equal(slope, gradient)
    assert not slope[~there].any()
    for row in range(4):
        kept = there[row]
        value, own = got_and_expected(loss, scores[row][kept], grades[row][kept])[0]
        upstream = torch.linspace(1.0, 2.0, 4)[row]
        torch.testing.assert_close((each[row], slope[row][kept]), (value, upstream * own), rtol=1e-5, atol=1e-6)


@every
def test_lists_without_a_pair_and_nan(name):
    """They are left out, whatever their scores; a NaN makes its list NaN."""
    scores, grades, there = ranking(5, 4)
    grades[:, 0], grades[:, 1], there[:, :2] = 3, 0, True
    grades[1], there[3] = 2, False
    scores[1, 0], scores[2, 3], there[2] = NAN, NAN, True
    for reduction in ("none", "mean", "sum"):
        found = got_and_expected(LOSSES[name](reduction=reduction), scores, grades, there)
        torch.testing.assert_close(found[0][0].double(), found[1][0], rtol=1e-5, atol=0.0, equal_nan=True)
        slope = found[0][1]
        assert slope[2].isnan().all() and not slope[[1, 3]].any() and slope[[0, 4]].isfinite().all()
    relevance = grades.double()
    relevance[0, 3], there[0] = NAN, True
    each = LOSSES[name](reduction="none")(scores, relevance, there)
    assert each.isnan().tolist() == [True, False, True, False, False]
    nothing = got_and_expected(LOSSES[name](), scores[1:2], grades[1:2], there[1:2])[0]
    assert nothing[0].isnan() and not nothing[1].any()
    with losskit.empty("zero"):
        assert LOSSES[name]()(scores[1:2], grades[1:2], there[1:2]) == 0


def test_large_scores_and_relevance():
    """Differences leave float32 on the way, 2^relevance leaves float64; the losses do not."""
    for scores, grades in (
        ([[-3e38, 3e38, 3e38]], [[1, 0, 1]]), ([[-3e38, 1e38, 1e38, 1e38]], [[1, 0, 0, 1]]),
    ):  # fmt: skip
        got, expected = got_and_expected(RankNetLoss(), torch.tensor(scores), torch.tensor(grades))
        assert got[0].isfinite() and got[1].isfinite().all()
        assert_near(got, expected, torch.float32, 8.0)
    large = got_and_expected(LambdaLoss(), torch.tensor([[0.0, 1.0]]), torch.tensor([[5000.0, 4999.0]]))
    assert_near(*large, torch.float32, 8.0)
    assert large[0][0] > 0


def test_no_lists_and_no_items():
    for shape in ((0, 3), (2, 0)):
        x = torch.zeros(shape, requires_grad=True)
        for reduction, wanted in (("sum", 0.0), ("mean", NAN)):
            got = RankNetLoss(reduction=reduction)(x, torch.zeros(shape))
            torch.testing.assert_close(got, torch.tensor(wanted), equal_nan=True)
            assert torch.autograd.grad(got, x)[0].shape == shape
        assert not RankNetLoss(reduction="none")(x, torch.zeros(shape)).any()


def test_refused_relevance(unwatched):
    scores, grades = torch.zeros(3, 2), torch.tensor([[1, 0], [-1, -1], [2, 2]])
    with unwatched:
        each = RankNetLoss(reduction="none")(scores, grades)
    assert each.isnan().tolist() == [False, True, False]
    assert losskit.last_violation() == (
        "rank_net_loss: target must be non-negative, got -1 at index (1, 0). For padded items use "
        "element_mask=target >= 0."
    )
    with losskit.checks("off"):
        assert RankNetLoss(reduction="none")(scores, grades)[1] == 0


@every
def test_the_same_bits_and_no_waiting(name, unwatched):
    scores, grades, there = ranking(3, 9)
    found = []
    for _ in range(2):
        leaf = scores.clone().requires_grad_()
        with unwatched:
            loss = LOSSES[name]()(leaf, grades, there)
            (slope,) = torch.autograd.grad(loss, leaf)
        found.append((loss.detach(), slope))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_upstream_gradients_and_a_second_backward():
    for dtype in (torch.float32, torch.float16):
        scores, grades, _ = ranking(3, 9, dtype)
        x, wide = scores.requires_grad_(), scores.detach().double().requires_grad_()
        loss = LambdaLoss()(x, grades)
        (first,) = torch.autograd.grad(64.0 * loss, x, retain_graph=True)
        (second,) = torch.autograd.grad(loss, x)
        (expected,) = torch.autograd.grad(LambdaLoss()(wide, grades), wide)
        assert_near([first, second], [64.0 * expected, expected], dtype, 32.0)


def test_compiled():
    x, grades, there = ranking(3, 9)
    x.requires_grad_()
    for loss in (RankNetLoss(), LambdaLoss(reduction="none")):
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda z, of=loss: of(2 * z, grades, there).sum() * 3, backend="aot_eager", fullgraph=True
        )
        want, got = loss(2 * x, grades, there).sum() * 3, compiled(x)
        torch.testing.assert_close(got, want)
        (of_eager,), (of_compiled,) = torch.autograd.grad(want, x), torch.autograd.grad(got, x)
        torch.testing.assert_close(of_compiled, of_eager)


def test_list_net_is_one_of_class_scores():
    scores, grades, there = ranking(3, 9)
    assert losskit.why(ListNetLoss(), scores, grades, there).implementation == "fused GPU kernel"
