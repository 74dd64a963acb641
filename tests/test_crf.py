"""The chain of tags: worked numbers, lengths, what samples share, refusals, transforms. Its truth is that of its proof."""

import itertools

import pytest
import torch

import losskit
from losskit.functional import linear_chain_crf_loss as crf

NAN, INF = float("nan"), float("inf")
STEPS, TAGS = 6, 4


def batch(dtype=torch.float64, each=False):
    """Emissions, padded tags, transitions, ends, lengths; each: samples have transitions and ends of their own."""
    g = torch.Generator().manual_seed(7)
    scores = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
    own = (4,) if each else ()
    target = torch.randint(0, TAGS, (4, STEPS), generator=g)
    target[1, 2:], target[2, 1:] = 99, -1
    return (scores(4, STEPS, TAGS), target, scores(*own, TAGS, TAGS), scores(*own, TAGS), scores(*own, TAGS),
            torch.tensor([6, 2, 1, 4]))  # fmt: skip


def both(*operands, **kwargs):
    """Value and gradients of the kernel and of the eager formula, which must agree."""
    results = []
    for eager in (False, True):
        leaves = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in operands]
        one = torch.ones(1, dtype=operands[0].dtype, requires_grad=eager)  # a gradient by a weight: no kernel
        weight = kwargs.get("sample_weight")
        given = {**kwargs, "sample_weight": one if weight is None else weight * one}
        loss = crf(*leaves, **(given if eager else kwargs))
        finite = torch.where(loss.isinf(), 0.0, loss)
        wanted = [x for x in leaves if x.requires_grad]
        results.append((loss.detach(), *torch.autograd.grad(finite.sum(), wanted)))
    within = {torch.float64: 1e-12, torch.float32: 1e-5}.get(operands[0].dtype, 2e-2)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within, equal_nan=True)
    return results[0]


def test_a_sample_is_the_sum_over_chains():
    x, target, moves, start, end, lengths = batch()
    losses = crf(x, target, moves, start, end, lengths, reduction="none")
    for i, n in enumerate(lengths.tolist()):
        score = lambda tags, i=i: (
            sum(x[i, t, k] for t, k in enumerate(tags)) + sum(moves[a, b] for a, b in itertools.pairwise(tags))
            + start[tags[0]] + end[tags[-1]]
        )  # fmt: skip
        every = torch.stack([score(tags) for tags in itertools.product(range(TAGS), repeat=n)])
        torch.testing.assert_close(losses[i], every.logsumexp(0) - score(target[i, :n].tolist()))


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_kernel_and_formula(reduction, each):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        operands = batch(dtype, each)
        for extra in ({}, {"mask": torch.tensor([True, False, True, True])},
                      {"sample_weight": torch.tensor([0.5, 1, 2, 0], dtype=dtype)}, {"normalizer": 2.5}):  # fmt: skip
            both(*operands, reduction=reduction, **extra)
        x, target, *rest = operands
        both(x, target.clamp(0, TAGS - 1), rest[0], reduction=reduction)
        slope = both(*operands, reduction=reduction)[1]
        assert slope[1, 2:].count_nonzero() == slope[2, 1:].count_nonzero() == 0
        x[1, 2:] = NAN
        assert torch.equal(both(x, target, *rest, reduction=reduction)[1], slope)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_sample_of_no_steps_is_masked(reduction):
    operands = batch()
    lengths = torch.tensor([6, 0, 1, 4])
    got = both(*operands[:5], lengths, reduction=reduction)
    expected = both(*operands, reduction=reduction, mask=torch.tensor([True, False, True, True]))
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
    nothing = crf(*(x[:1] for x in operands[:2]), operands[2], lengths=[0], reduction=reduction)
    assert nothing.isnan() if reduction == "mean" else not nothing.any()


def test_impossible_tags_and_nan():
    x, target, moves, *rest = batch()
    target[0, :3] = torch.tensor([0, 1, 2])
    moves[1, 2] = -INF
    loss, *slopes = both(x, target, moves, *rest, reduction="none")
    assert loss.isinf().tolist()[0]
    assert slopes[0][0].count_nonzero() == 0
    assert all(slope.isfinite().all() for slope in slopes)
    x[1, 1, 3] = NAN
    loss, slope, *_ = both(x, target, moves, *rest, reduction="none")
    assert loss.isnan().tolist() == [False, True, False, False]
    assert slope[1, :2].isnan().all()


@pytest.mark.parametrize("each", [False, True])
def test_a_bad_length_makes_what_is_its_own_nan(each):
    """Of transitions and ends that samples share the gradient is a sum over them, so it is NaN; a mask leaves one out."""
    x, target, *ends, lengths = batch(each=each)
    bad = torch.where(torch.arange(4) == 1, STEPS + 1, lengths)
    rest = torch.tensor([True, False, True, True])
    with losskit.checks("nan"):
        loss, slope, *of_ends = both(x, target, *ends, bad, reduction="none")
        masked = both(x, target, *ends, bad, reduction="sum", mask=rest)
    assert loss.isnan().tolist() == slope[:, 0, 0].isnan().tolist() == [False, True, False, False]
    for found in of_ends:
        assert found.flatten(1).isnan().all(1).tolist() == [False, True, False, False] if each else found.isnan().all()
    right = both(x, target, *ends, lengths, reduction="sum", mask=rest)
    for a, b in zip(masked, right, strict=True):
        assert torch.equal(a, b)


def test_scores_that_contradict_each_other_run_in_log_space():
    """Masses that underflow in scaled linear space: the kernel declines, and the loss is right."""
    x = torch.zeros(1, 40, 2, dtype=torch.float64)
    x[:, :20, 0], x[:, 20:, 1] = 300.0, 300.0
    moves = torch.tensor([[0.0, -1e5], [0.0, 0.0]], dtype=torch.float64)
    target = torch.ones(1, 40, dtype=torch.int64)
    start = torch.tensor([0.0, -5500.0], dtype=torch.float64)
    loss, slope, *_ = both(x, target, moves, start)
    assert loss.item() == pytest.approx(0.0, abs=1e-9) or loss.isfinite()
    assert slope.isfinite().all()


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_derivatives(reduction):
    x, _, *more, _ = batch()
    leaves = [y.requires_grad_() for y in (x[:2, :3, :3].clone(), *(m[..., :3].clone() for m in more))]
    leaves[1] = more[0][:3, :3].clone().detach().requires_grad_()
    tags = torch.tensor([[0, 2, 1], [1, 1, 77]])
    loss = lambda *y: crf(y[0], tags, *y[1:], torch.tensor([3, 2]), reduction=reduction)
    torch.autograd.gradcheck(loss, leaves)
    torch.autograd.gradgradcheck(loss, leaves)
    if reduction == "none":
        return
    expected = torch.autograd.grad(loss(*leaves), leaves)
    plain = [y.detach() for y in leaves]
    for a, b in zip(torch.func.grad(loss, argnums=(0, 1, 2, 3))(*plain), expected, strict=True):
        torch.testing.assert_close(a, b)
    several = torch.func.vmap(torch.func.grad(loss), (0, None, None, None))(torch.stack([plain[0]] * 2), *plain[1:])
    torch.testing.assert_close(several[1], expected[0])
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=False)
    for a, b in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_threads():
    g = torch.Generator().manual_seed(1)
    x, moves = torch.randn(70, 30, 5, generator=g), torch.randn(5, 5, generator=g)
    target, results = torch.randint(0, 5, (70, 30), generator=g), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaves = x.clone().requires_grad_(), moves.clone().requires_grad_()
        loss = crf(leaves[0], target, leaves[1])
        loss.backward()
        results.append([loss.detach(), *(y.grad for y in leaves)])
    torch.set_num_threads(1)
    for one in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, results[0], strict=True))


X, TARGET, MOVES, START, END, LENGTHS = batch()
ONE = torch.ones(1, dtype=torch.float64, requires_grad=True)


def changed(tensor, index, value):
    result = tensor.clone()
    result[index] = value
    return result


REFUSED = {
    "target must be tags in [0, 4), got 4 at index (3, 2).": (X, changed(TARGET, (3, 2), 4), MOVES, START, END, LENGTHS),
    "lengths must be in [0, 6], the number of steps, got 7 at index (1,).": (
        X, TARGET, MOVES, START, END, changed(LENGTHS, 1, 7)),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_violations(message):
    for extra in ({}, {"sample_weight": ONE}):
        with pytest.raises(ValueError) as refused:  # noqa: PT011  # the text is compared
            crf(*REFUSED[message], **extra)
        assert str(refused.value) == "linear_chain_crf_loss: " + message
    for checks in ("nan", "off"):
        with losskit.checks(checks):
            assert crf(*REFUSED[message], reduction="none").isnan().sum() == 1


MISTAKES = {
    "emissions must be of shape (N, T, K) or (T, K) with at least one step and one tag, got shape (4,).": lambda: crf(
        X[:, 0, 0], TARGET, MOVES),
    "target must be integer tags, got torch.float64.": lambda: crf(X, TARGET.double(), MOVES),
    "target must be of shape (4, 6), got shape (6, 4).": lambda: crf(X, TARGET.T, MOVES),
    "transitions must be of shape (4, 4) or (4, 4, 4), got shape (3, 4).": lambda: crf(X, TARGET, MOVES[:3]),
    "start must be of shape (4,) or (4, 4), got shape (3,).": lambda: crf(X, TARGET, MOVES, START[:3]),
    "end must be floating point, got torch.int64. Use end.float().": lambda: crf(X, TARGET, MOVES, end=END.long()),
    "lengths must be 4 integers, one for each sample, got shape (3,).": lambda: crf(
        X, TARGET, MOVES, lengths=LENGTHS[:3]),
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes(message):
    with pytest.raises((ValueError, TypeError)) as refused:
        MISTAKES[message]()
    assert str(refused.value) == "linear_chain_crf_loss: " + message


def test_why():
    operands = X, TARGET, MOVES, START, END, LENGTHS
    assert losskit.why(losskit.LinearChainCRFLoss(), *operands).implementation == "fused CPU kernel"
    assert losskit.why(losskit.LinearChainCRFLoss(), X, TARGET, MOVES).implementation == "fused CPU kernel"
