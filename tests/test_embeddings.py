"""The embeddings family: limits and kinks, shapes, layouts, threads, the eager formula.

The truth about its losses, at every scale, is in their proofs.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from embedding_rows import FLOATS, HALVES, POWERS, embeddings
from row_operands import every_scale

import losskit
import losskit.functional as LF
from losskit.kernels import library


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_rounded_once(dtype):
    """As the float32 result of the same numbers, rounded; also where torch overflows."""
    for scale in (1e-3, 1.0, 300.0):
        a, b, c = (x.requires_grad_() for x in embeddings(50, 20, dtype, (scale,) * 3, seed=1))
        wide = [x.detach().float().requires_grad_() for x in (a, b, c)]
        target = torch.tensor([1, -1]).repeat(25)
        for call in (
            lambda x, y, z: LF.cosine_embedding_loss(x, y, target, margin=-0.2, reduction="none"),
            lambda x, y, z: LF.triplet_margin_loss(x, y, z, p=2.0, margin=2.0, reduction="none"),
            lambda x, y, z: LF.triplet_margin_loss(x, y, z, p=3.0, margin=2.0, swap=True, reduction="none"),
        ):
            loss, right = call(a, b, c), call(*wide)
            assert torch.equal(loss, right.to(dtype))
            got = torch.autograd.grad(loss.float().sum(), (a, b, c), allow_unused=True)
            expected = torch.autograd.grad(right.sum(), wide, allow_unused=True)
            for g, e in zip(got, expected, strict=True):
                assert (g is None) == (e is None)
                assert g is None or torch.equal(g, e.to(dtype))


# ---------------------------------------------------------------------------------------------------------
# Limits and kinks


def test_zero_vectors():
    for dtype in FLOATS:
        x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
        y = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
        for target, expected in ((1.0, [1.0, 1.0, 1.0]), (-1.0, [0.5, 0.5, 0.5])):
            loss = LF.cosine_embedding_loss(x, y, torch.full((3,), target), margin=-0.5, reduction="none")
            assert loss.tolist() == expected
            for g in torch.autograd.grad(loss.sum(), (x, y)):
                assert torch.equal(g, torch.zeros_like(g))
        for p in POWERS:
            loss = LF.triplet_margin_loss(x, x.detach(), x.detach(), p=p, eps=0.0)
            (g,) = torch.autograd.grad(loss, x)
            assert loss == 1.0
            assert torch.equal(g, torch.zeros_like(g))


def test_identical_vectors_have_cosine_one():
    for dtype in FLOATS:
        (x,) = embeddings(200, 17, dtype, (1.0,))
        ones = torch.ones(200)
        assert LF.cosine_embedding_loss(x, x, ones, reduction="none").eq(0).all()
        assert LF.cosine_embedding_loss(x, -x, ones, reduction="none").eq(2).all()
        assert LF.cosine_embedding_loss(x, x * 4, -ones, reduction="none").eq(1).all()


def test_kinks_are_torchs():
    """At the margin both losses push; ties of swap and of p = inf share the gradient."""
    a = torch.tensor([[0.0, 0.0]], requires_grad=True)
    p = torch.tensor([[2.0, 0.0]], requires_grad=True)
    n = torch.tensor([[1.0, 0.0]], requires_grad=True)
    q = torch.tensor([[2.0, -2.0]], requires_grad=True)
    for kwargs, leaves in (
        ({"swap": True}, (a, p, n)), ({"p": math.inf}, (a, q, n)), ({"margin": 1.0}, (a, n, p)), ({"p": 0.5}, (a, p, n))
    ):  # fmt: skip
        ours = torch.autograd.grad(LF.triplet_margin_loss(*leaves, eps=0.0, **kwargs), leaves)
        torchs = torch.autograd.grad(F.triplet_margin_loss(*leaves, eps=0.0, **kwargs), leaves)
        for x, y in zip(ours, torchs, strict=True):
            torch.testing.assert_close(x, y)


def test_distances_beyond_the_largest_number():
    """p -> 0: only the question which distance is larger is left (torch: inf - inf)."""
    a, near, far = torch.zeros(1, 4), torch.full((1, 4), 2.0), torch.full((1, 4), 3.0)
    assert LF.triplet_margin_loss(a, near, far, p=1e-6) == 0.0
    assert LF.triplet_margin_loss(a, far, near, p=1e-6) == math.inf
    assert LF.triplet_margin_loss(a, far, far.clone(), p=1e-6) == 1.0
    assert LF.triplet_margin_loss(a, far, near, p=1e-6, swap=True) == math.inf


def test_nan_in_nan_out():
    for dtype in FLOATS:
        for which in range(3):
            rows = embeddings(4, 5, dtype, (1.0, 1.0, 1.0))
            rows[which][1, 3] = math.nan
            for p in POWERS:
                loss = LF.triplet_margin_loss(*rows, p=p, reduction="none")
                assert loss.isnan().tolist() == [False, True, False, False], p
            if which < 2:
                loss = LF.cosine_embedding_loss(rows[0], rows[1], torch.ones(4), reduction="none")
                assert loss.isnan().tolist() == [False, True, False, False]
    target = torch.tensor([1.0, math.nan])
    assert LF.cosine_embedding_loss(*embeddings(2, 3, torch.float32, (1.0, 1.0)), target, reduction="none")[1].isnan()


# ---------------------------------------------------------------------------------------------------------
# Shapes, layouts, threads


def test_shapes_of_torch():
    """One row, many rows, any leading dimensions; leading dimensions of size 1 stretch, gradients are summed back."""
    for lead, other in (((), ()), ((5,), (5,)), ((5,), (1,)), ((1,), (5,)), ((2, 5), (2, 1)), ((0,), (0,))):
        a = torch.randn(*lead, 3, dtype=torch.float64, requires_grad=True)
        b = torch.randn(*other, 3, dtype=torch.float64, requires_grad=True)
        c = torch.randn(*lead, 3, dtype=torch.float64, requires_grad=True)
        shape = torch.broadcast_shapes(lead, other)
        ours = LF.triplet_margin_loss(a, b, c, reduction="none")
        torchs = F.triplet_margin_loss(a, b, c, reduction="none")
        assert ours.shape == shape
        torch.testing.assert_close(ours, torchs)
        mine, theirs = (torch.autograd.grad(x.sum(), (a, b, c)) for x in (ours, torchs))
        for x, y in zip(mine, theirs, strict=True):
            torch.testing.assert_close(x, y)
        if len(shape) < 2:
            target = torch.ones(shape)
            torch.testing.assert_close(
                LF.cosine_embedding_loss(a, b, target, reduction="none"),
                F.cosine_embedding_loss(a, b, target, reduction="none"),
            )
    assert LF.triplet_margin_loss(torch.ones(3, 0), torch.ones(3, 0), torch.ones(3, 0)) == 1.0
    assert LF.cosine_embedding_loss(torch.ones(3, 0), torch.ones(3, 0), torch.ones(3)) == 1.0


@pytest.mark.parametrize("width", [1, 3, 15, 16, 17, 64, 5000])
def test_layouts(width, monkeypatch):
    """Any strides of any embedding give the bits of the dense call, and the kernel runs."""
    monkeypatch.setattr(losskit.TripletMarginLoss._plan_class, "eager", lambda *_: pytest.fail("the eager formula ran"))
    dense = [x.reshape(3, 4, width) for x in embeddings(12, width, torch.float32, (1.0, 1.0, 1.0))]
    target = torch.tensor([1, -1, 1]).repeat(4).reshape(3, 4)

    def results(rows):
        leaves = [x.detach().requires_grad_() for x in rows]
        losses = [LF.triplet_margin_loss(*leaves, margin=3.0), LF.cosine_embedding_loss(*leaves[:2], target)]
        return [*losses, *torch.autograd.grad(sum(losses), leaves)]

    expected = results(dense)
    for which in range(3):
        x = dense[which]
        others = [
            x.transpose(0, 1).contiguous().transpose(0, 1),
            x.transpose(0, 2).contiguous().transpose(0, 2),
            torch.stack([x, x], -1)[..., 0],
            torch.cat([x, x], -1)[..., :width],
        ]
        for other in others:
            rows = [other if i == which else y for i, y in enumerate(dense)]
            for got, right in zip(results(rows), expected, strict=True):
                assert torch.equal(got, right)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 31, 130])
def test_rows_do_not_know_their_neighbours(width, dtype):
    """Each row has the bits that it has alone, whichever way the kernel takes for it and for those around it."""
    rows = embeddings(21, width, dtype, (1.0, 1.0, 1.0), seed=9)
    for x, y in itertools.pairwise(rows):
        x[2] *= 1e-30  # squares beyond the range of float
        y[5], x[11] = x[5], 0.0  # a distance of 0, a zero vector
        y[13] = x[13] * (1 + 1e-5)  # a cosine next to 1
    rows[0][7, 0], rows[2][17, -1] = math.nan, math.inf
    target = torch.tensor([1, -1, 1]).repeat(7)

    def results(part):
        leaves = [x[part].clone().requires_grad_() for x in rows]
        found = []
        for loss in (
            LF.cosine_embedding_loss(*leaves[:2], target[part], margin=-1.0, reduction="none"),
            *(LF.triplet_margin_loss(*leaves, p=p, swap=p == 2.0, reduction="none") for p in (1.0, 2.0, 3.0)),
        ):
            grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True, retain_graph=True)
            found += [loss.detach(), *(g for g in grads if g is not None)]
        return found

    together = results(slice(None))
    for i in range(21):
        for whole, alone in zip(together, results(slice(i, i + 1)), strict=True):
            assert torch.equal(whole[i].nan_to_num(nan=7.5), alone[0].nan_to_num(nan=7.5)), i


def test_mixed_dtypes():
    a, b, c = embeddings(6, 5, torch.float64, (1.0, 1.0, 1.0))
    loss = LF.triplet_margin_loss(a.half(), b.float(), c.bfloat16())
    assert loss.dtype == torch.float32
    for target in (torch.ones(6, dtype=torch.int8), torch.ones(6, dtype=torch.bool), torch.ones(6, dtype=torch.int64)):
        assert LF.cosine_embedding_loss(a, b, target) == LF.cosine_embedding_loss(a, b, torch.ones(6).double())


def test_threads_do_not_change_bits():
    a, b, c = (x.requires_grad_() for x in embeddings(3001, 37, torch.float32, (1.0, 1.0, 1.0)))
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            loss = LF.triplet_margin_loss(a, b, c)
            found.append([loss, *torch.autograd.grad(loss, (a, b, c))])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_masked_rows_are_exact_zeros():
    a, b, c = (x.requires_grad_() for x in embeddings(5, 6, torch.float32, (1.0, 1.0, 1.0)))
    with torch.no_grad():
        a[1], b[3, 2], c[3] = math.nan, math.inf, math.nan
    mask = torch.tensor([True, False, True, False, True])
    weight = torch.tensor([1.0, math.nan, 2.0, 3.0, 0.5])
    target = torch.tensor([1, 7, -1, 0, 1])
    for reduction in ("none", "mean", "sum"):
        extra = {"mask": mask, "sample_weight": weight, "reduction": reduction}
        for loss, leaves in (
            (LF.triplet_margin_loss(a, b, c, margin=9.0, **extra), (a, b, c)),
            (LF.cosine_embedding_loss(a, b, target, margin=-1.0, **extra), (a, b)),
        ):
            assert loss.isfinite().all()
            for g in torch.autograd.grad(loss.sum(), leaves):
                assert torch.equal(g[~mask], torch.zeros_like(g[~mask]))
                assert g.isfinite().all()
                assert g[mask].ne(0).any()


# ---------------------------------------------------------------------------------------------------------
# The eager formula


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("swap", [False, True])
def test_derivatives_of_triplets(p, swap):
    leaves = [x.requires_grad_() for x in embeddings(4, 5, torch.float64, (1.0, 1.0, 1.0), seed=11)]
    function = lambda *x: LF.triplet_margin_loss(*x, p=p, swap=swap, margin=5.0)
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("label", [1, -1])
def test_derivatives_of_cosines(label):
    leaves = [x.requires_grad_() for x in embeddings(4, 5, torch.float64, (1.0, 3.0), seed=11)]
    with torch.no_grad():
        leaves[1][0] = 2.5 * leaves[0][0]  # cosine 1, where clamping must not stop the second derivative
    function = lambda x, y: LF.cosine_embedding_loss(x, y, torch.full((4,), label), margin=-2.0)
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves, atol=1e-4)


def test_zero_vectors_have_finite_derivatives_of_every_order():
    zero, one = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    losses = [lambda x: LF.cosine_embedding_loss(x, one, torch.tensor([1, -1]), margin=-0.5)]
    losses += [lambda x, p=p: LF.triplet_margin_loss(x, zero, one, p=p, eps=0.0, margin=9.0) for p in POWERS]
    for loss in losses:
        assert torch.func.grad(loss)(zero).isfinite().all()
        assert torch.func.hessian(loss)(zero).isfinite().all()
        assert torch.func.jvp(loss, (zero,), (one,))[1].isfinite()


@pytest.mark.parametrize("p", POWERS)
def test_kernel_and_formula_agree(p, monkeypatch):
    """At every scale, with the gradients."""
    for dtype in FLOATS:
        for scale in every_scale(dtype)[1:-1]:
            rows = [x.requires_grad_() for x in embeddings(6, 8, dtype, (scale,) * 3, seed=2)]
            call = lambda rows=rows, scale=scale: LF.triplet_margin_loss(*rows, p=p, eps=0.0, margin=3 * scale)
            kernel = [call(), *torch.autograd.grad(call(), rows)]
            with monkeypatch.context() as patch:
                patch.setattr(library, "available", lambda formula: False)
                formula = [call(), *torch.autograd.grad(call(), rows)]
            for x, y in zip(kernel, formula, strict=True):
                size = float(y.detach().abs().max()) if y.ndim else max(float(y.detach().abs()), scale)
                assert float((x - y).detach().abs().max()) <= 3e3 * torch.finfo(dtype).eps * size, (dtype, scale)
