"""The lists family: worked numbers, lists without a pair, padding, ties, layouts, transforms, messages."""

from __future__ import annotations

import pytest
import torch

import losskit
import losskit.functional as LF
from losskit.domains import nonnegative
from losskit.families.lists import ListsLoss
from losskit.formula import absolute, softplus
from losskit.kernels.dispatch import why

NAN = float("nan")
LOSSES = {
    "rank_net": LF.rank_net_loss,
    "lambda": LF.lambda_loss,
    "ndcg2": lambda *a, **k: LF.lambda_loss(*a, scheme="ndcg2", **k),
    "list_net": LF.list_net_loss,
    "list_net, normalized": lambda *a, **k: LF.list_net_loss(*a, target_transform="normalize", **k),
}
OF_PAIRS = ("rank_net", "lambda", "ndcg2")
every = pytest.mark.parametrize("name", LOSSES)
pairwise = pytest.mark.parametrize("name", OF_PAIRS)


class LambdaMRRLoss(ListsLoss):
    """A pair weighs what exchanging its items changes in the reciprocal rank."""

    @staticmethod
    def value(difference, rank, other_rank):
        return absolute(1.0 / rank - 1.0 / other_rank) * softplus(-difference)


def lists(rows, items, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, items, generator=g, dtype=torch.float64).to(dtype)
    return scores, torch.randint(0, 4, (rows, items), generator=g), torch.rand(rows, items, generator=g) < 0.7


def eagerly(function, *operands, **given):
    """The loss by the formula, which alone runs under vmap."""
    first = [x.unsqueeze(0) for x in operands]
    return torch.func.vmap(lambda *x: function(*x, **given))(*first).squeeze(0)


def with_gradient(function, x, *operands, **given):
    x = x.detach().clone().requires_grad_()
    value = function(x, *operands, **given)
    value.sum().backward()
    return value.detach(), x.grad


# ---------------------------------------------------------------------------------------------------------
# What a loss is


def test_worked_numbers():
    """By hand: two items, one pair; the ranks are 2 and 1, the largest DCG is 1."""
    scores, grades = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([1, 0])
    logistic = torch.tensor(1.0, dtype=torch.float64).exp().log1p()
    swap = 1 - 1 / torch.tensor(3.0, dtype=torch.float64).log2()
    assert LF.rank_net_loss(scores, grades).item() == pytest.approx(logistic.item(), rel=1e-15)
    assert LF.lambda_loss(scores, grades).item() == pytest.approx((swap * logistic).item(), rel=1e-15)
    assert LF.lambda_loss(scores, grades, scheme="ndcg2++", mu=3.0).item() == pytest.approx(
        (4 * swap * logistic).item(), rel=1e-15
    )


@pytest.mark.parametrize("items", [1, 2, 3, 17, 129, 300, 1500])
@pytest.mark.parametrize("k", [None, 3])
@pairwise
def test_the_kernel_is_the_formula(name, k, items):
    """Short lists share blocks, long ones are cut into tiles; both sorts."""
    for dtype, close in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        scores, grades, there = lists(3, items, dtype)
        for operands in ((grades,), (grades, there)):
            ours = with_gradient(LOSSES[name], scores, *operands, reduction="none", k=k)
            formula = lambda x, *o: eagerly(LOSSES[name], x, *o, reduction="none", k=k)
            torch.testing.assert_close(ours, with_gradient(formula, scores, *operands), rtol=close, atol=close)


def test_the_order_of_equal_scores_is_that_of_the_items():
    scores, grades = torch.zeros(3, dtype=torch.float64), torch.tensor([0, 1, 2])
    nearly = -1e-12 * torch.arange(3, dtype=torch.float64)
    for scheme in ("lambdarank", "ndcg2"):
        for k in (None, 2):
            ours, apart = (LF.lambda_loss(x, grades, scheme=scheme, k=k) for x in (scores, nearly))
            assert ours.item() == pytest.approx(apart.item(), rel=1e-9)


@pairwise
def test_equal_relevance_makes_no_pair(name):
    """A list's loss is that of the list without an item that is as relevant as all others of its grade."""
    scores, gradient = with_gradient(LOSSES[name], torch.tensor([[0.3, 0.1, -2.0]]), torch.tensor([[2, 2, 2]]))
    assert scores.isnan()
    assert not gradient.any()


def test_a_custom_loss_of_ranks():
    scores, grades, _ = lists(4, 9)
    ours = with_gradient(LambdaMRRLoss.functional, scores, grades)
    formula = lambda x, y: eagerly(LambdaMRRLoss.functional, x, y)
    torch.testing.assert_close(ours, with_gradient(formula, scores, grades))
    one = LambdaMRRLoss.functional(torch.tensor([0.0, 1.0]), torch.tensor([1, 0]))
    assert one.item() == pytest.approx(0.5 * 1.3132616875, rel=1e-6)


def test_k_counts_ranks():
    """The items ranked 1 and 2 are c and a; b is beyond. The largest DCG has two places, too."""
    scores, grades = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), torch.tensor([1, 2, 0])
    value, gradient = with_gradient(LF.lambda_loss, scores, grades, k=2)
    largest = 3.0 + 1.0 / torch.log2(torch.tensor(3.0, dtype=torch.float64)).item()
    swap = 1.0 - 1.0 / torch.log2(torch.tensor(3.0, dtype=torch.float64)).item()
    assert value.item() == pytest.approx(swap / largest * softplus_of(1.5), rel=1e-12)
    assert gradient[1] == 0
    assert gradient[0] == -gradient[2] != 0
    # No pair within the first place: the list has pairs, so it counts, with a loss of 0.
    assert LF.lambda_loss(scores, grades, k=1) == 0


def softplus_of(x):
    return torch.nn.functional.softplus(torch.tensor(x, dtype=torch.float64)).item()


def test_large_scores_and_relevance():
    """Differences leave float32 on the way, 2^relevance leaves float64; the losses do not."""
    value, gradient = with_gradient(LF.rank_net_loss, torch.tensor([[-3e38, 3e38, 3e38]]), torch.tensor([[1, 0, 1]]))
    assert value.item() == pytest.approx(3e38, rel=1e-6)  # the mean of 6e38 and log 2
    assert gradient.isfinite().all()
    value, gradient = with_gradient(
        LF.rank_net_loss, torch.tensor([[-3e38, 1e38, 1e38, 1e38]]), torch.tensor([[1, 0, 0, 1]])
    )
    assert value.item() == pytest.approx(2 * 4e38 / 4, rel=1e-6)
    value, _ = with_gradient(LF.lambda_loss, torch.tensor([[0.0, 1.0]]), torch.tensor([[5000.0, 4999.0]]))
    small, _ = with_gradient(LF.lambda_loss, torch.tensor([[0.0, 1.0]]), torch.tensor([[60.0, 59.0]]))
    assert value.item() == pytest.approx(small.item(), rel=1e-6)


# ---------------------------------------------------------------------------------------------------------
# What does not count


@every
@pytest.mark.parametrize("path", ["kernel", "formula"])
def test_lists_without_a_loss(name, path):
    """They are exactly 0 under 'none', add nothing to 'sum', and the mean does not count them or their weight."""
    function = LOSSES[name] if path == "kernel" else lambda *a, **k: eagerly(LOSSES[name], *a, **k)
    scores = torch.tensor([[1.0, 2.0, 0.5], [NAN, 3.0, 4.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
    grades = torch.tensor([[2, 1, 0], [0, 0, 0], [1, 1, 0]])
    there = torch.tensor([[True] * 3, [False] * 3, [True] * 3])
    each, gradient = with_gradient(function, scores, grades, there, reduction="none")
    assert each[1] == 0 and not gradient[1].any()
    kept = [0, 2]
    alone = with_gradient(function, scores[kept], grades[kept], reduction="none")
    torch.testing.assert_close((each[kept], gradient[kept]), alone, rtol=1e-14, atol=0)
    assert with_gradient(function, scores, grades, there, reduction="sum")[0] == pytest.approx(alone[0].sum().item())
    weight = torch.tensor([2.0, 7.0, 1.0], dtype=torch.float64)
    for given, expected in (({}, alone[0].mean()), ({"sample_weight": weight}, (alone[0] @ weight[kept]) / 3.0)):
        value, gradient = with_gradient(function, scores, grades, there, **given)
        assert value.item() == pytest.approx(expected.item(), rel=1e-14)
        assert not gradient[1].any()
    value, gradient = with_gradient(function, scores[1:2], grades[1:2], there[1:2])
    assert value.isnan() and not gradient.any()
    with losskit.empty("zero"):
        value, gradient = with_gradient(function, scores[1:2], grades[1:2], there[1:2])
    assert value == 0 and not gradient.any()


@pairwise
def test_a_list_of_equal_grades_is_left_out(name):
    scores, grades, _ = lists(3, 5)
    grades[1] = 3
    each = LOSSES[name](scores, grades, reduction="none")
    assert each[1] == 0
    assert LOSSES[name](scores, grades).item() == pytest.approx((each.sum() / 2).item(), rel=1e-14)


@every
@pytest.mark.parametrize("path", ["kernel", "formula"])
def test_padded_items_count_for_nothing(name, path):
    """A padded list is the list without its padding, whatever stands there, also a relevance that would be refused."""
    function = LOSSES[name] if path == "kernel" else lambda *a, **k: eagerly(LOSSES[name], *a, **k)
    scores, grades, there = lists(4, 11)
    there[:, 0] = there[:, 1] = True
    grades[:, 0], grades[:, 1] = 3, 1
    padded = torch.where(there, scores, NAN)
    relevance = torch.where(
        there, grades.double(), torch.tensor([-1.0, NAN, 9.0, 2.0], dtype=torch.float64).unsqueeze(1)
    )
    each, gradient = with_gradient(function, padded, relevance, there, reduction="none")
    for row in range(4):
        kept = there[row]
        short, of_short = with_gradient(function, scores[row][kept], grades[row][kept], reduction="none")
        assert each[row].item() == pytest.approx(short.item(), rel=1e-13)
        torch.testing.assert_close(gradient[row][kept], of_short, rtol=1e-12, atol=1e-15)
        assert not gradient[row][~kept].any()


@every
def test_nan_in_gives_nan_out(name):
    scores, grades, _ = lists(3, 4)
    grades[:, 0], grades[:, 1] = 3, 0
    scores[1, 2] = NAN
    each, gradient = with_gradient(LOSSES[name], scores, grades, reduction="none")
    assert each.isnan().tolist() == [False, True, False]
    assert gradient.isnan().all(1).tolist() == [False, True, False]
    mask = torch.tensor([True, False, True])
    value, gradient = with_gradient(LOSSES[name], scores, grades, mask=mask)
    assert value.isfinite()
    assert not gradient[1].any()
    relevance = grades.double()
    relevance[0, 3] = NAN
    assert LOSSES[name](scores, relevance, reduction="none").isnan().tolist() == [True, True, False]


# ---------------------------------------------------------------------------------------------------------
# Layouts, transforms, derivatives


@every
def test_layouts(name):
    scores, grades, there = lists(6, 8)
    expected = with_gradient(LOSSES[name], scores, grades, there)
    turned = [x.t().contiguous().t() for x in (scores, grades, there)]
    torch.testing.assert_close(with_gradient(LOSSES[name], *turned), expected)
    wide = torch.stack([scores, scores], -1)[..., 0]
    torch.testing.assert_close(with_gradient(LOSSES[name], wide, grades.int(), there), expected)
    one = with_gradient(LOSSES[name], scores[0], grades[0], there[0])
    torch.testing.assert_close(
        one, tuple(x if x.ndim == 0 else x[0] for x in with_gradient(LOSSES[name], scores[:1], grades[:1], there[:1]))
    )


@pairwise
def test_the_same_bits_on_any_number_of_threads(name):
    scores, grades, _ = lists(700, 40, torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(with_gradient(LOSSES[name], scores, grades))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for pair in found[1:] for a, b in zip(found[0], pair, strict=True))


@every
def test_derivatives(name):
    scores, grades, there = lists(3, 5)
    scores.requires_grad_()
    for given in ({}, {"reduction": "none"}):
        for operands in ((grades,), (grades, there)):
            function = lambda x, o=operands, g=given: LOSSES[name](x, *o, **g)
            assert torch.autograd.gradcheck(function, scores)
            assert torch.autograd.gradgradcheck(function, scores)


@every
def test_compiled_and_exported(name):
    scores, grades, there = lists(3, 5, torch.float32)
    expected = with_gradient(LOSSES[name], scores, grades, there)
    compiled = torch.compile(LOSSES[name], fullgraph=True)
    torch.testing.assert_close(with_gradient(compiled, scores, grades, there), expected)


@every
def test_halves_and_autocast(name):
    scores, grades, there = lists(3, 5, torch.bfloat16)
    value = LOSSES[name](scores, grades, there)
    assert value.dtype == torch.bfloat16
    assert value == LOSSES[name](scores.float(), grades, there).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert LOSSES[name](scores, grades, there).dtype == torch.float32


# ---------------------------------------------------------------------------------------------------------
# Messages


@every
def test_refusals(name):
    scores, grades, there = lists(2, 3)
    function = LOSSES[name]
    with pytest.raises(
        ValueError, match=r"target must be non-negative, got -1 at index \(0, 2\). For padded items use"
    ):
        function(scores, torch.tensor([[1, 0, -1], [0, 1, 2]]))
    with pytest.raises(ValueError, match=r"input must be of shape \(N, K\) or \(K,\), got shape \(2, 3, 1\)"):
        function(scores.unsqueeze(-1), grades.unsqueeze(-1))
    with pytest.raises(ValueError, match=r"input \(2, 3\) and target \(2,\) must have the same shape"):
        function(scores, grades[:, 0])
    with pytest.raises(
        ValueError, match=r"mask \(2, 3\) must broadcast to \(2,\). Lists have a mask; items have element_mask"
    ):
        function(scores, grades, mask=there)
    with pytest.raises(TypeError, match=r"element_mask must be boolean \(True = counts\), got torch.float64"):
        function(scores, grades, there.double())
    with pytest.raises(TypeError, match=r"input must be floating point, got torch.int64. Input looks like labels"):
        function(grades, scores)


@pairwise
def test_refused_relevance_by_policy(name):
    scores, grades = torch.zeros(3, 2), torch.tensor([[1, 0], [-1, -1], [2, 2]])
    with pytest.raises(ValueError, match=r"got -1 at index \(1, 0\)"):
        LOSSES[name](scores, grades)
    with losskit.checks("nan"):
        assert LOSSES[name](scores, grades, reduction="none").isnan().tolist() == [False, True, False]
    with losskit.checks("off"):
        assert LOSSES[name](scores, grades, reduction="none")[1] == 0


def test_refused_parameters():
    scores, grades, _ = lists(2, 3)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        LF.lambda_loss(scores, grades, k=0)
    with pytest.raises(TypeError, match=r"k must be an integer, got 2\.5"):
        losskit.RankNetLoss(k=2.5)
    with pytest.raises(ValueError, match=r"mu must be 10.0 with scheme='lambdarank', got 2.0"):
        LF.lambda_loss(scores, grades, mu=2.0)
    with pytest.raises(
        TypeError, match=r"scheme must be 'lambdarank', 'ndcg2', 'ndcg2\+\+', got 'ndcg'. Did you mean 'ndcg2'"
    ):
        losskit.LambdaLoss(scheme="ndcg")
    with pytest.raises(TypeError, match=r"`pairs` must be 'sum' or 'mean'"):

        class Bad(ListsLoss):
            """Bad."""

            pairs = "all"

            @staticmethod
            def value(difference):
                return softplus(-difference)

    with pytest.raises(TypeError, match=r"must speak of the difference of the scores"):

        class Silent(ListsLoss):
            """Silent."""

            @staticmethod
            def value(rank):
                return rank


@every
def test_why(name):
    scores, grades, there = lists(2, 3)
    loss = losskit.get(
        {"rank_net": "rank_net_loss", "lambda": "lambda_loss", "ndcg2": "lambda_loss"}.get(name, "list_net_loss")
    )
    assert why(loss(), scores, grades, there).implementation == "fused CPU kernel"


def test_relevance_is_not_negative():
    assert nonnegative.outside(torch.tensor([-1, 0, 1])).tolist() == [True, False, False]


@pytest.mark.parametrize("items", [63, 64, 100, 333, 1030, 2500])
@pytest.mark.parametrize("scale", [0.01, 1.0, 200.0])
@pytest.mark.parametrize("grades", [torch.int64, torch.float32])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_list_net_makes_probabilities_in_the_kernel(items, scale, grades, reduction):
    """Of long lists; scores and relevance beyond 100 take another way, with the same results."""
    scores, relevance, _ = lists(7, items, seed=items)
    scores, relevance = (scale * scores).float(), (relevance * max(1.0, scale)).to(grades)
    scores[2, 5] = scores[2].max()

    def by_hand(x, y):
        return reduced(-(y.double().softmax(1) * x.double().log_softmax(1)).sum(1))

    reduced = {"none": torch.clone, "mean": torch.mean}[reduction]
    found = with_gradient(LF.list_net_loss, scores, relevance, reduction=reduction)
    expected = with_gradient(by_hand, scores.double(), relevance)
    for got, right in zip(found, expected, strict=True):
        torch.testing.assert_close(got, right, check_dtype=False, rtol=2e-6, atol=1e-6 * right.abs().max().item())
    assert torch.equal(LF.list_net_loss(scores, relevance, reduction=reduction), found[0])


@pytest.mark.parametrize("items", [5, 100])
def test_list_net_of_lists_out_of_the_ordinary(items):
    scores, relevance, _ = lists(4, items, torch.float32)
    relevance = relevance.float()
    relevance[2, 3] = -1.0
    with pytest.raises(ValueError, match=r"target must be non-negative, got -1 at index \(2, 3\)"):
        LF.list_net_loss(scores, relevance)
    with losskit.checks("nan"):
        assert LF.list_net_loss(scores, relevance, reduction="none").isnan().tolist() == [False, False, True, False]
    expected = -(relevance.softmax(1) * scores.log_softmax(1)).sum(1)
    with losskit.checks("off"):
        torch.testing.assert_close(LF.list_net_loss(scores, relevance, reduction="none"), expected)
    relevance[2, 3] = 1.0
    scores[1, 2], scores[3, 0] = NAN, float("inf")
    found = LF.list_net_loss(scores, relevance, reduction="none")
    assert found.isfinite().tolist() == [True, False, True, False] and found[1].isnan()
    relevance[2, 0] = NAN
    assert LF.list_net_loss(scores, relevance, reduction="none").isnan().tolist() == [False, True, True, False]
