"""Losses of embeddings on a GPU: truth at every scale and near cosine 1, and what the eager formula says in float64."""

import itertools
import math

import pytest
import test_embeddings as truth
import torch
import triton.language as tl
from row_truth import errors_of

import losskit
import losskit.functional as LF
from losskit import Case, CosineEmbeddingLoss, EmbeddingsLoss, Facts, Operand, TripletMarginLoss, param
from losskit.formula import maximum, where
from losskit.kernels.gpu import embeddings, rows

from .conftest import ON_GPU, assert_near

NAN, INF = math.nan, math.inf
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# NumPy's warning, under the interpreter, about the largest of nothing but NaN.
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")


@pytest.fixture(autouse=True)
def _several_rows_a_program(monkeypatch):
    monkeypatch.setattr(rows, "PROGRAMS", 2)


class ContrastiveForGpuTest(EmbeddingsLoss):
    """Contrastive loss of distances."""

    margin: float = param(default=1.0, doc="Distance from which a dissimilar pair costs nothing.")
    arguments = "margin p eps reduction"
    operands = {"input1": Operand("One."), "input2": Operand("Other."), "target": Operand("1 similar, 0 not.")}

    @staticmethod
    def value(distance, target, margin):
        apart = maximum(margin - distance, 0.0)
        return target * (distance * distance) + (1.0 - target) * where(distance > 0.0, apart * apart, 1.0)

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=None, symmetric=True)
    cases = [Case(input1=[[0.0]], input2=[[2.0]], target=[1.0], eps=0.0, value=4.0, source="by hand")]


def normal(*shape, dtype=torch.float32, scale=1.0, seed=0):
    generator = torch.Generator("cuda" if ON_GPU else "cpu").manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def labels(*shape):
    return torch.tensor([1, -1, 1, 1, -1]).repeat(20)[: math.prod(shape)].reshape(shape)


def leaves_of(operands, dtype=None):
    floating = [x.is_floating_point() for x in operands]
    made = [x.detach().to(dtype) if f and dtype else x.detach() for x, f in zip(operands, floating)]
    return [x.requires_grad_() if f else x for x, f in zip(made, floating)]


def differentiated(loss, leaves):
    """The loss, and its gradients for upstream gradients that differ."""
    wanted = [x for x in leaves if x.requires_grad]
    upstream = torch.linspace(1.0, 2.0, max(loss.numel(), 1)).to(loss.dtype)[: loss.numel()].reshape(loss.shape)
    return [loss.detach(), *torch.autograd.grad(loss, wanted, upstream)]


def got_and_expected(loss, operands, **extras):
    """Results of the kernel, and of the eager formula in float64."""
    plan = loss._planned()
    assert losskit.why(loss, *operands, **extras).implementation == "fused GPU kernel"
    leaves, wide = leaves_of(operands), leaves_of(operands, torch.float64)
    given = {"weight": None, "sample_weight": None, "mask": None, "normalizer": None, **extras}
    got = differentiated(loss(*leaves, **extras), leaves)
    return got, differentiated(plan.eager(plan.validated(wide, **given), "nan"), wide)


LOSSES = {
    "cosine": (CosineEmbeddingLoss, {"margin": -0.3}, 2, True),
    "triplet": (TripletMarginLoss, {"margin": 3.0}, 3, False),
    "swap": (TripletMarginLoss, {"margin": 3.0, "swap": True}, 3, False),
    "p1": (TripletMarginLoss, {"margin": 3.0, "p": 1.0, "swap": True}, 3, False),
    "p0": (TripletMarginLoss, {"p": 0.0}, 3, False),
    "p3.5": (TripletMarginLoss, {"margin": 3.0, "p": 3.5}, 3, False),
    "pinf": (TripletMarginLoss, {"margin": 3.0, "p": INF, "swap": True}, 3, False),
    "contrastive": (ContrastiveForGpuTest, {"margin": 3.0}, 2, True),
}


def call_of(name, rows, width, dtype, **more):
    loss, parameters, count, targeted = LOSSES[name]
    operands = [normal(*rows, width, dtype=dtype, seed=i) for i in range(count)]
    if targeted:
        target = labels(*rows)
        operands.append((target > 0).to(dtype) if name == "contrastive" else target)
    return loss(**parameters, **more), operands


# ---------------------------------------------------------------------------------------------------------
# Truth


@pytest.mark.parametrize("dtype", truth.FLOATS, ids=str)
def test_cosines_near_one(dtype):
    """Value and gradient of rows of any relation: 1 - cosine keeps its digits."""
    x, y = normal(24, 6, dtype=dtype), normal(24, 6, dtype=dtype, seed=1)
    eps = torch.finfo(dtype).eps
    nearness = (0.5, 0.1, 1e-2, 1e-3, 1e-5, 20 * eps, 2 * eps, 0.0)
    for at, (near, sign) in enumerate(itertools.product(nearness, (1.0, -1.0, 3.7))):
        y[at] = sign * (x[at] + near * y[at])
    for label in (1.0, -1.0):
        leaves = leaves_of([x, y])
        loss = LF.cosine_embedding_loss(*leaves, torch.full((24,), label), margin=-1.5, reduction="none")
        gradients = torch.autograd.grad(loss.sum(), leaves)
        operands = [x, y, torch.full((24,), label)]
        found = errors_of("cosine_embedding_loss", operands, {"margin": -1.5}, loss, dict(enumerate(gradients)))
        assert found.value <= 4 and found.gradient <= 8, found.where


@pytest.mark.parametrize("dtype", truth.FLOATS, ids=str)
def test_cosines_at_every_scale(dtype):
    some = (1e-43, 1e-20, 1.0, 5e37) if dtype == torch.float32 else (1e-320, 1e-160, 1.0, 1e307)
    for left, right in itertools.product(some, repeat=2):
        leaves = leaves_of([normal(2, 9, dtype=dtype, scale=left), normal(2, 9, dtype=dtype, scale=right, seed=1)])
        loss = LF.cosine_embedding_loss(*leaves, torch.ones(2), reduction="none")
        gradients = torch.autograd.grad(loss.sum(), leaves)
        assert not any(g.isnan().any() for g in gradients)
        found = errors_of("cosine_embedding_loss", [*leaves, torch.ones(2)], {}, loss, dict(enumerate(gradients)))
        assert found.value <= 4 and found.gradient <= 8, found.where


@pytest.mark.parametrize("dtype", truth.FLOATS, ids=str)
@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.0, 100.0, INF])
def test_distances_at_every_scale(dtype, p):
    for scale in (1e-43, 1e-20, 1.0, 1e36) if dtype == torch.float32 else (1e-320, 1e-160, 1.0, 1e300):
        x, y = normal(3, 7, dtype=dtype, scale=scale), normal(3, 7, dtype=dtype, scale=scale, seed=1)
        x[0] = y[0]
        leaves = leaves_of([x, y])
        loss = LF.triplet_margin_loss(*leaves, x, p=p, eps=0.0, margin=1e-45, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), leaves[1:])
        given = {"p": p, "eps": 0.0, "margin": 1e-45}
        found = errors_of("triplet_margin_loss", [*leaves, x], given, loss, {1: gradient})
        assert found.value <= 4 and found.gradient <= 8, found.where


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_formula(name, dtype):
    loss, operands = call_of(name, (6,), 20, dtype, reduction="none")
    assert_near(*got_and_expected(loss, operands), dtype)


# ---------------------------------------------------------------------------------------------------------
# Reductions, layouts, sizes


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", ["cosine", "swap", "contrastive"])
def test_weights_masks_normalizers(name, reduction):
    loss, operands = call_of(name, (7,), 5, torch.float32, reduction=reduction)
    weight, mask = torch.rand(7) + 0.5, torch.tensor([True, False, True, True, False, True, True])
    for extras in (
        {}, {"mask": mask}, {"sample_weight": weight}, {"mask": mask, "sample_weight": weight},
        {"normalizer": 3.5}, {"normalizer": torch.tensor(3.5), "mask": mask}, {"mask": torch.tensor(False)},
    ):  # fmt: skip
        spoiled = [x.clone() for x in operands]
        if "mask" in extras:
            for x in spoiled:
                x[~mask] = NAN if x.is_floating_point() else 9
        got, expected = got_and_expected(loss, spoiled, **extras)
        assert_near(got, expected, torch.float32, 16.0)
        if "mask" in extras:
            assert all(g[~mask].eq(0).all() for g in got[1:])


@pytest.mark.parametrize("longest", [embeddings.LONGEST, 8])
@pytest.mark.parametrize("width", [0, 1, 3, 16, 37])
def test_sizes(width, longest, monkeypatch):
    """Rows that are held whole, and rows that are read in blocks."""
    monkeypatch.setattr(embeddings, "LONGEST", longest)
    for name in ("cosine", "swap", "pinf"):
        loss, operands = call_of(name, (5,), width, torch.float32)
        if width > 1:  # of one number the cosine has no gradient, which float64 knows only to its own precision
            assert_near(*got_and_expected(loss, operands), torch.float32)
        else:
            got, expected = (z[0] for z in got_and_expected(loss, operands))
            assert_near([got], [expected], torch.float32)
    near = [normal(5, width), normal(5, width)]
    near[1] *= 1 + 1e-5 * normal(5, width, seed=3)
    got, expected = got_and_expected(CosineEmbeddingLoss(reduction="none"), [*near, torch.ones(5)])
    torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-6, atol=1e-30)


def test_layouts():
    base = normal(3, 4, 6)
    others = {
        "expanded": base[:1, :1].expand(3, 4, 6), "partly expanded": base[:, :1].expand(3, 4, 6),
        "transposed": base.transpose(0, 2).contiguous().transpose(0, 2), "gaps": torch.stack([base, base], -1)[..., 0],
        "rows apart": torch.cat([base, base], -1)[..., :6], "swapped": base.transpose(0, 1).contiguous().transpose(0, 1),
        "offset": torch.cat([base[0, 0, :1], base.reshape(-1)])[1:].reshape(3, 4, 6),
    }  # fmt: skip
    for other in others.values():
        plain = normal(3, 4, 6, seed=1)
        target = labels(3, 4)
        assert_near(*got_and_expected(CosineEmbeddingLoss(), [other, plain, target]), torch.float32)
        assert_near(*got_and_expected(TripletMarginLoss(), [plain, other, normal(3, 4, 6, seed=2)]), torch.float32)
    weight = torch.rand(4).expand(3, 4)
    loss = CosineEmbeddingLoss(reduction="none")
    operands = [normal(3, 4, 6), normal(3, 4, 6, seed=1), torch.ones(()).expand(3, 4)]
    assert_near(*got_and_expected(loss, operands, sample_weight=weight, mask=torch.ones(3, 1) > 0), torch.float32)
    one = [normal(6), normal(6, seed=1), torch.tensor(1)]
    assert_near(*got_and_expected(loss, one), torch.float32)


def test_broadcast_gradients_are_summed_back():
    a, b, c = leaves_of([normal(3, 1, 5), normal(1, 4, 5, seed=1), normal(3, 4, 5, seed=2)])
    ours = torch.autograd.grad(LF.triplet_margin_loss(a, b, c, margin=4.0), (a, b, c))
    theirs = torch.autograd.grad(torch.nn.functional.triplet_margin_loss(a, b, c, margin=4.0), (a, b, c))
    for x, y in zip(ours, theirs):
        torch.testing.assert_close(x, y)


def test_mixed_dtypes():
    a, b, c = leaves_of([normal(6, 5, dtype=dtype) for dtype in (torch.float16, torch.float32, torch.bfloat16)])
    with torch.no_grad():
        b.mul_(1.5)
    loss = LF.triplet_margin_loss(a, b, c)
    assert loss.dtype == torch.float32
    assert [g.dtype for g in torch.autograd.grad(loss, (a, b, c))] == [x.dtype for x in (a, b, c)]
    wide = LF.cosine_embedding_loss(b, b * c.float(), torch.ones(6, dtype=torch.float64))
    assert wide.dtype == torch.float64
    for kind in (torch.int8, torch.bool, torch.int64):
        assert LF.cosine_embedding_loss(b, c, torch.ones(6, dtype=kind)) == LF.cosine_embedding_loss(
            b, c, torch.ones(6)
        )


def test_offsets_beyond_int32(monkeypatch):
    monkeypatch.setattr(embeddings, "index_type", lambda numel: tl.int64)
    loss, operands = call_of("swap", (9,), 11, torch.float32)
    assert_near(*got_and_expected(loss, operands), torch.float32)


def test_nothing():
    x = torch.empty(0, 4, requires_grad=True)
    for reduction, expected in (("mean", NAN), ("sum", 0.0)):
        loss = LF.triplet_margin_loss(x, x, x, reduction=reduction)
        torch.testing.assert_close(loss, torch.tensor(expected), equal_nan=True)
        assert torch.autograd.grad(loss, x)[0].shape == (0, 4)
    assert LF.triplet_margin_loss(x, x, x, reduction="none").shape == (0,)
    with losskit.empty("zero"):
        assert LF.triplet_margin_loss(x, x, x) == 0


# ---------------------------------------------------------------------------------------------------------
# Limits, bad values, autograd


def test_zero_vectors_and_ties():
    zero, one = torch.zeros(3, 4), normal(3, 4)
    for target, expected in ((1.0, 1.0), (-1.0, 0.5)):
        leaves = leaves_of([zero, one])
        loss = LF.cosine_embedding_loss(*leaves, torch.full((3,), target), margin=-0.5, reduction="none")
        assert loss.tolist() == [expected] * 3
        assert all(g.eq(0).all() for g in torch.autograd.grad(loss.sum(), leaves))
    for p in truth.POWERS:
        leaves = leaves_of([one])
        loss = LF.triplet_margin_loss(leaves[0], one, one, p=p, eps=0.0)
        assert loss == 1.0
        assert torch.autograd.grad(loss, leaves)[0].eq(0).all()
    truth.test_kinks_are_torchs()
    truth.test_distances_beyond_the_largest_number()


@pytest.mark.parametrize("name", LOSSES)
def test_nan_in_nan_out(name):
    loss, operands = call_of(name, (4,), 5, torch.float32, reduction="none")
    for which in range(len(operands) - ("target" in loss._call_operands())):
        spoiled = [x.clone() for x in operands]
        spoiled[which][1, 3] = NAN
        spoiled[which][2] = NAN
        assert loss(*spoiled).isnan().tolist() == [False, True, True, False]


def test_bad_targets():
    x, y = leaves_of([normal(5, 3), normal(5, 3, seed=1)])
    target = torch.tensor([1.0, 0.0, 3.0, -1.0, NAN])
    loss = LF.cosine_embedding_loss(x, y, target, margin=-1.0, reduction="none")
    assert loss.isnan().tolist() == [False, True, True, False, True]
    gradient = torch.autograd.grad(loss, x, torch.ones(5))[0]
    assert gradient.isnan().all(1).tolist() == [False, True, True, False, False]
    assert losskit.last_violation() == (
        "cosine_embedding_loss: target must be -1 or 1, got 0 at index (1,). For labels 0 and 1 pass 2 * target - 1."
    )
    assert losskit.last_violation() is None
    assert LF.cosine_embedding_loss(x, y, target, mask=target.abs() == 1).isfinite()
    with losskit.checks("off"):
        assert LF.cosine_embedding_loss(x, y, target[:4].repeat(2)[:5]).isfinite()
    assert losskit.last_violation() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_backward(dtype):
    """Upstream gradients, a second backward pass, derivatives of gradients."""
    a, b, c = leaves_of([normal(4, 5, dtype=dtype, seed=i) for i in range(3)])
    loss = LF.triplet_margin_loss(a, b, c, margin=4.0)
    first = torch.autograd.grad(loss, (a, b, c), retain_graph=True)
    second = torch.autograd.grad(loss, (a, b, c), torch.tensor(3.0, dtype=dtype), retain_graph=True)
    for x, y in zip(first, second):
        torch.testing.assert_close(3.0 * x, y)
    (again,) = torch.autograd.grad(loss, a, create_graph=True)
    torch.testing.assert_close(again, first[0])
    (twice,) = torch.autograd.grad(again.square().sum(), b)
    assert twice.isfinite().all() and twice.ne(0).any()


def test_the_host_does_not_wait(unwatched):
    a, b, c = leaves_of([normal(4, 5, seed=i) for i in range(3)])
    target, mask = labels(4), torch.tensor([True, False, True, True])
    with unwatched:
        loss = LF.triplet_margin_loss(a, b, c, mask=mask, sample_weight=torch.ones(4))
        loss = loss + LF.cosine_embedding_loss(a, b, target, mask=mask)
        torch.autograd.grad(2.0 * loss, (a, b, c))
