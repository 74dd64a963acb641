"""Chains of tags on a GPU: the truth in ULP, lengths, what samples share, bad values, and what only a GPU has.

The interpreter runs every step of every program in Python: chains are as short as the case allows.
"""

import itertools

import pytest
import torch
from losses.linear_chain_crf import tagger
from row_truth import errors_of

import losskit
from losskit.kernels import gpu
from losskit.kernels.choice import from_kernel
from losskit.kernels.gpu import crf as kernels
from losskit.losses.linear_chain_crf import LinearChainCRFLoss
from losskit.plans import plan_of

crf = LinearChainCRFLoss.functional
NAN, INF = float("nan"), float("inf")
STEPS, TAGS = 5, 3
LENGTHS = [5, 2, 1, 4]


def batch(dtype=torch.float32, each=False, scale=1.0, tags=TAGS, steps=STEPS):
    """Emissions, padded tags, transitions, ends, lengths; each: samples have transitions and ends of their own."""
    g = torch.Generator(device="cpu").manual_seed(7)
    device = torch.get_default_device()

    def scores(*shape):
        return (scale * torch.randn(*shape, generator=g, dtype=torch.float64, device="cpu")).to(device, dtype)

    own = (4,) if each else ()
    target = torch.randint(0, tags, (4, steps), generator=g, device="cpu").to(device)
    target[1, 2:], target[2, 1:] = 99, -1
    lengths = torch.tensor([min(steps, n) for n in LENGTHS])
    return scores(4, steps, tags), target, scores(*own, tags, tags), scores(*own, tags), scores(*own, tags), lengths


def agree(x, target, moves, start=None, end=None, lengths=None, *, reduction="mean", upstream=None, within=1e-6,
          **extras):  # fmt: skip
    """Value and gradients of the kernel, which must be those of the eager formula in float64."""
    plan = plan_of(LinearChainCRFLoss, reduction, *(y is not None for y in (start, end, lengths)))
    given = [y for y in (x, target, moves, start, end, lengths) if y is not None]
    results = []
    for eager in (False, True):
        leaves = [(y.double() if eager else y).detach().clone().requires_grad_() if y.is_floating_point() else y
                  for y in given]  # fmt: skip
        extra = [extras.get(name) for name in ("sample_weight", "mask", "normalizer")]
        arguments = plan.validated(leaves, None, *extra)
        loss = plan.eager(arguments, "nan") if eager else plan.fused(from_kernel, arguments)
        slope = torch.ones_like(loss) if upstream is None else upstream.to(loss)
        wanted = [y for y in leaves if y.is_floating_point()]
        finite = torch.where(loss.isinf(), 0.0, loss)
        results.append((loss.detach(), *torch.autograd.grad(finite, wanted, slope)))
    for got, expected in zip(*results, strict=True):
        assert got.dtype == x.dtype
        torch.testing.assert_close(got.double(), expected, rtol=within, atol=within, equal_nan=True)
    return results[0]


@pytest.fixture(params=["registers", "columns"])
def either(request, monkeypatch):
    """The transitions' exponentials in registers, and in columns from memory."""
    if request.param == "columns":
        monkeypatch.setattr(kernels, "WHOLE", 12)
        monkeypatch.setattr(kernels, "TILE", 4)


def test_the_kernel_runs():
    assert losskit.why(losskit.LinearChainCRFLoss(), *batch()).implementation == "fused GPU kernel"
    assert losskit.why(losskit.LinearChainCRFLoss(), *batch()[:3]).implementation == "fused GPU kernel"
    many = torch.zeros(1, 2, 513), torch.zeros(1, 2, dtype=torch.int64), torch.zeros(513, 513)
    why = losskit.why(losskit.LinearChainCRFLoss(), *many)
    assert why.reason == "the GPU kernel takes at most 512 tags, and there are 513"


@pytest.mark.parametrize("kind", ["new", "sure", "extreme"])
def test_float32_in_ulp(kind, either):
    with torch.device("cpu"):
        made = [operands for operands, _ in tagger(kind, torch.float32)]
    for operands in made:
        if operands[0].shape[1] > 12:
            continue
        device = torch.get_default_device()
        leaves = [y.to(device).requires_grad_(y.is_floating_point()) for y in operands]
        loss = crf(*leaves, reduction="none")
        gradients = torch.autograd.grad(loss.sum(), [leaves[i] for i in (0, 2, 3, 4)])
        # The truth is of rows: each has transitions and ends of its own.
        rows = [leaves[0], leaves[1], *(y[None] for y in leaves[2:5]), leaves[5]] if leaves[2].ndim == 2 else leaves
        gradients = [gradients[0], *(g if g.ndim == y.ndim else g[None] for g, y in zip(gradients[1:], rows[2:5]))]
        found = errors_of("linear_chain_crf_loss", rows, {}, loss, dict(zip((0, 2, 3, 4), gradients, strict=True)))
        assert found.value <= 1, found.where
        assert found.gradient <= 1, found.where


def test_float64(either):
    agree(*batch(torch.float64), within=1e-13, reduction="sum")
    agree(*batch(torch.float64, each=True, scale=3.0), within=1e-12, reduction="sum")


def test_a_loss_near_0_has_its_digits():
    """It is what all other chains weigh beside the right one."""
    x, _, moves, *_ = batch(torch.float64, tags=2)
    x, target = x[:1], torch.tensor([[1, 0, 0, 1, 1]])
    x[0, range(STEPS), target[0]] += 60.0
    others = 0.0
    for chain in itertools.product(range(2), repeat=STEPS):
        apart = [x[0, t, k] - x[0, t, y] for t, (k, y) in enumerate(zip(chain, target[0].tolist(), strict=True))]
        pairs = zip(itertools.pairwise(chain), itertools.pairwise(target[0].tolist()), strict=True)
        apart += [moves[one] - moves[right] for one, right in pairs]
        others += sum(apart).exp().item() if list(chain) != target[0].tolist() else 0.0
    loss = crf(x, target, moves)
    assert 0 < others < 1e-24
    torch.testing.assert_close(loss.item(), others, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("upstream", [1.0, 3.0])
@pytest.mark.parametrize("dtype, within", [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_halves(dtype, within, upstream):
    agree(*batch(dtype), within=within, upstream=torch.tensor(upstream))


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_reductions(reduction, each, either):
    upstream = torch.tensor([1.0, 2.0, -3.0, 0.5]) if reduction == "none" else torch.tensor(-2.0)
    weight = torch.tensor([1.0, 2.0, 3.0, 0.0])
    _, gradient, *_ = agree(*batch(each=each), reduction=reduction, upstream=upstream, sample_weight=weight)
    assert gradient[1, 2:].count_nonzero() == gradient[2, 1:].count_nonzero() == 0


def test_weights_and_a_mask():
    x, target, *more = batch(each=True)
    mask, weight = torch.tensor([True, False, True, True]), torch.tensor([1.0, NAN, 3.0, 1.0])
    x[1] = NAN
    for part in more[:3]:
        part[1] = NAN
    target[1] = 77
    _, *gradients = agree(x, target, *more, mask=mask, sample_weight=weight)
    assert all(gradient[1].count_nonzero() == 0 for gradient in gradients)


def test_denominators():
    for extras in ({"normalizer": 7.5}, {"normalizer": torch.tensor(0.0)}, {"mask": torch.tensor(False)}):
        agree(*batch(), **extras)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_sample_of_no_steps_is_masked(reduction):
    *operands, _ = batch()
    lengths = torch.tensor([5, 0, 1, 4])
    got = agree(*operands, lengths, reduction=reduction)
    assert got[1][1].count_nonzero() == 0
    loss, *_ = agree(*operands, torch.zeros(4, dtype=torch.int64), reduction=reduction)
    assert loss.isnan().all() if reduction == "mean" else not loss.any()


def test_whole_chains_without_ends():
    x, target, moves, *_ = batch()
    target.clamp_(0, TAGS - 1)
    for reduction in ("mean", "none"):
        agree(x, target, moves, reduction=reduction)
    agree(x, target, moves, None, torch.randn(TAGS))


def test_one_sample_without_a_batch():
    x, target, moves, start, end, lengths = (y[3] for y in batch(each=True))
    loss, *_ = agree(x, target, moves, start, end, lengths, reduction="none")
    assert loss.shape == ()
    agree(x, target, moves, start, end, lengths, mask=torch.tensor(True), sample_weight=torch.tensor(2.0))


def test_no_samples():
    x, target, moves, start, end, lengths = batch()
    for reduction in ("none", "sum", "mean"):
        agree(x[:0], target[:0], moves, start, end, lengths[:0], reduction=reduction)


def test_one_tag_and_one_step():
    loss, *gradients = agree(*batch(tags=1), reduction="none")
    assert not loss.any()
    assert not any(gradient.any() for gradient in gradients)
    agree(*batch(steps=1), reduction="none")


def test_strides_and_lengths_of_any_integers():
    x, target, moves, start, end, lengths = batch()
    spread = torch.stack([target, torch.full_like(target, -9)], 2).to(torch.int16)[..., 0]
    given = (x.mT.contiguous().mT, spread, moves.t().contiguous().t(), torch.stack([start, end], 1)[:, 0], end)
    agree(*given, torch.stack([lengths, lengths], 1).to(torch.uint8)[:, 0])
    agree(x[:1].expand(4, -1, -1), target, moves.expand(4, -1, -1), start, end, lengths.cpu())


def test_more_tags_than_a_step_has_threads():
    g = torch.Generator(device="cpu").manual_seed(1)
    x, moves = (torch.randn(*shape, generator=g, device="cpu").to(torch.get_default_device())
                for shape in ((1, 3, 70), (70, 70)))  # fmt: skip
    agree(x, torch.tensor([[3, 69, 0]]), moves)


def test_scores_that_contradict_each_other(either):
    """Masses that underflow a float64, on the way and against each other."""
    x = torch.zeros(1, 12, 2)
    x[:, :6, 0], x[:, 6:, 1] = 900.0, 900.0
    moves = torch.tensor([[0.0, -1e5], [0.0, 0.0]])
    agree(x, torch.ones(1, 12, dtype=torch.int64), moves, torch.tensor([0.0, -5500.0]))
    agree(*batch(scale=5000.0), reduction="sum", within=1e-5)


def test_impossible_tags(either):
    x, target, moves, *rest = batch()
    target[0, :3] = torch.tensor([0, 1, 2])
    moves[1, 2] = -INF
    x[3, 1, 2 - int(target[3, 1] == 2)] = -INF
    loss, gradient, *others = agree(x, target, moves, *rest, reduction="none")
    assert loss.isinf().tolist()[0]
    assert gradient[0].count_nonzero() == 0
    assert all(y.isfinite().all() for y in others)
    moves.fill_(-INF)
    loss, *_ = agree(x, target, moves, *rest, reduction="none")
    assert loss.isinf().tolist() == [True, True, False, True]
    x[0, 4, 1] = torch.finfo(torch.float32).min  # of a wrong tag
    agree(x, target.clamp(0, 2), torch.zeros_like(moves), *rest)


def test_nan_and_infinity(either):
    for value in (NAN, INF):
        x, target, moves, start, end, lengths = batch()
        x[0, 1, 2], x[1, 3, 0] = value, value  # the other lies beyond its steps
        loss, gradient, *_ = agree(x, target, moves, start, end, lengths, reduction="none")
        assert loss.isnan().tolist() == [True, False, False, False]
        assert gradient[0].isnan().all()
        moves[0, 1] = value
        loss, *_ = agree(x, target, moves, start, end, lengths, reduction="none")
        assert loss.isnan().tolist() == [True, True, False, True]  # one step has no move
        end[2] = value
        assert agree(x, target, moves, start, end, lengths, reduction="none")[0].isnan().all()


BAD = {
    "tag": ([3, 2, 1, 4], (3, 2), 3),
    "negative tag": ([3, 2, 1, 4], (0, 0), -1),
    "length": ([3, 2, 6, 4], (0, 0), 0),
    "negative length": ([3, -2, 1, 4], (0, 0), 0),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_nan_and_told(case):
    lengths, place, tag = BAD[case]
    x, target, *more, _ = batch()
    target[place] = tag
    args = [target, *more, torch.tensor(lengths)]
    leaves = [y.requires_grad_() for y in (x, *more)]
    found = []
    for reduction in ("none", "mean"):
        loss = crf(x, *args, reduction=reduction)
        gradients = torch.autograd.grad(loss.sum(), leaves)
        assert loss.isnan().sum() == gradients[0].isnan().flatten(1).any(1).sum() == 1
        found.append([loss, *gradients])
    told = losskit.last_violation()
    gpu.interpreted = False
    leaves = [y.detach().cpu().requires_grad_() for y in leaves]
    args = [target.cpu(), *leaves[1:], torch.tensor(lengths, device="cpu")]
    with losskit.checks("nan"):
        for reduction, ours in zip(("none", "mean"), found, strict=True):
            loss = crf(leaves[0], *args, reduction=reduction)
            for got, expected in zip(ours, [loss, *torch.autograd.grad(loss.sum(), leaves)], strict=True):
                torch.testing.assert_close(got.cpu(), expected, equal_nan=True)
    with pytest.raises(ValueError, match=r".") as refused:
        crf(leaves[0], *args)
    assert told == str(refused.value)


def test_bad_values_unchecked():
    x, target, *more, _ = batch()
    target[3, 2] = 1000000
    with losskit.checks("off"):
        loss = crf(x, target, *more, torch.tensor([5, 2, 9, 4]), reduction="none")
    assert loss.isnan().tolist() == [False, False, True, True]
    assert losskit.last_violation() is None


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_backward_again_and_twice(reduction):
    x, target, moves, *_ = batch(torch.float64)
    leaves = [x[:2, :3].clone().requires_grad_(), moves.requires_grad_()]
    loss = crf(leaves[0], target[[0, 3], :3], leaves[1], reduction=reduction).sum()
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    again = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert all(map(torch.equal, first, again))
    slopes = torch.autograd.grad(loss, leaves, create_graph=True)
    for slope, own in zip(slopes, first, strict=True):
        torch.testing.assert_close(slope, own)
    assert torch.autograd.grad(slopes[0].square().sum(), leaves[0])[0].isfinite().all()


def test_gradients_that_are_wanted():
    operands = batch()
    everything = dict(zip((0, 2, 3, 4), agree(*operands)[1:], strict=True))
    for some in ((0,), (2,), (3, 4), (0, 4)):
        leaves = [y.clone().requires_grad_() if i in some else y for i, y in enumerate(operands)]
        found = torch.autograd.grad(crf(*leaves), [leaves[i] for i in some])
        assert all(torch.equal(got, everything[i]) for got, i in zip(found, some, strict=True))


def test_the_host_does_not_wait(unwatched):
    x, target, *more = batch(torch.float16)
    leaves = [y.requires_grad_() for y in (x, *more[:3])]
    with unwatched:
        loss = crf(leaves[0], target, *leaves[1:], more[3], mask=torch.ones(4, dtype=torch.bool))
        gradients = torch.autograd.grad(loss * 2, leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)
