"""The pairs family: extremes, parameters that learn, blocks, losses of one's own, refusals."""

import math

import pytest
import test_rows
import torch
import torch.nn.functional as F
from pair_samples import FIRST, SAMPLES, normal, same, value_and_gradients
from row_samples import without_kernels
from torch import nn

import losskit
import losskit.functional as LF
from losskit.errors import LossError
from losskit.families import pairs_blocks
from losskit.families.pairs_plan import PairsPlan

EACH = pytest.mark.parametrize("sample", SAMPLES, ids=str)
FEW = pytest.mark.parametrize("sample", FIRST, ids=str)
REDUCTIONS = test_rows.REDUCTIONS

# ---------------------------------------------------------------------------------------------------------
# Extremes


def test_nan_in_nan_out():
    """A row meets all others, so one NaN is a NaN of every row that counts."""
    for sample in FIRST:
        for dtype in test_rows.DTYPES:
            operands = sample.operands(8, dtype)
            operands[0][2, 1] = math.nan
            assert sample(*operands).isnan(), sample
            counts = sample(*sample.operands(8, dtype), reduction="none") != 0
            rows = sample(*operands, reduction="none")
            if losskit.get(sample.name).pairing == "labels":
                assert rows[counts].isnan().all(), sample


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scales_do_not_matter_to_cosines(dtype):
    x, y = normal(9, 5).to(dtype), torch.arange(9) % 3
    right = value_and_gradients(lambda x: LF.sup_con_loss(x, y), x)
    small, large = (1e-30, 1e30) if dtype == torch.float32 else (1e-200, 1e200)
    for factor in (small, large):
        got = value_and_gradients(lambda x: LF.sup_con_loss(x, y), x * factor)
        same([got[0], got[1] * factor], right, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-6)
    zero = value_and_gradients(lambda x: LF.sup_con_loss(x, y), torch.cat([torch.zeros(1, 5, dtype=dtype), x[1:]]))
    assert zero[0].isfinite()
    assert not zero[1][0].any()
    assert zero[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_certain_row_keeps_its_digits(dtype):
    """Where the positive is nearly certain, the loss is the sum of the others' exponentials."""
    a = torch.eye(2, dtype=dtype)
    for temperature in (0.05, 0.02):
        value, gradient = value_and_gradients(lambda x: LF.info_nce_loss(x, a, temperature), a)
        right = math.exp(-1 / temperature)
        assert value.item() == pytest.approx(right, rel=1e-5)
        slope = torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=dtype) * right / temperature
        same([gradient], [slope], rtol=1e-5, atol=0.0)


def test_distances_keep_their_digits():
    """Of rows that are near each other and far from 0, of equal rows, and beyond the range of squares."""
    near = torch.tensor([[1000.0, 0.0], [1000.0 + 2**-10, 0.0], [1000.0, 2**-9], [1000.0, 2**-9 + 2**-11]])
    for dtype in (torch.float32, torch.float64):
        got = LF.batch_hard_triplet_loss(near.to(dtype), torch.tensor([0, 0, 1, 1]), reduction="none", margin=1.0)
        x = near.double()
        d = (x.unsqueeze(1) - x).norm(dim=2)
        right = torch.stack([d[0, 1] - d[0, 2], d[1, 0] - d[1, 2], d[2, 3] - d[2, 0], d[3, 2] - d[3, 0]]) + 1.0
        torch.testing.assert_close(got, right.to(dtype), rtol=1e-7, atol=0.0)
    same_rows = torch.ones(4, 3, requires_grad=True)
    loss = LF.batch_hard_triplet_loss(same_rows, torch.tensor([0, 0, 1, 1]))
    assert loss == 1.0
    assert not torch.autograd.grad(loss, same_rows)[0].any()
    big = torch.tensor([[0.0, 0.0], [3e200, 4e200], [0.0, 1e200], [1e200, 0.0]], dtype=torch.float64)
    rows = LF.batch_hard_triplet_loss(big, torch.tensor([0, 0, 1, 1]), reduction="none")
    torch.testing.assert_close(rows[0], torch.tensor(4e200, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------------------
# Parameters that learn


@pytest.mark.parametrize("name, number", [("info_nce_loss", "temperature"), ("clip_loss", "logit_scale"),
                                          ("siglip_loss", "logit_scale"), ("siglip_loss", "logit_bias")])  # fmt: skip
@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_learned_parameters(name, number, shape, monkeypatch):
    """A tensor gives what the number gives, and its gradient is that of the composition."""
    a, b = normal(7, 5), normal(7, 5, seed=1)
    cls, function = losskit.get(name), getattr(LF, name)
    value = {"temperature": 0.3, "logit_scale": 2.5, "logit_bias": -1.5}[number]
    learned = torch.full(shape, value, dtype=torch.float64, requires_grad=True)
    for reduction in REDUCTIONS:
        right = function(a, b, **{number: value}, reduction=reduction)
        calls = []
        for eager in (False, True):
            with monkeypatch.context() as patch:
                if eager:
                    without_kernels(patch)
                x = a.clone().requires_grad_()
                loss = function(x, b, **{number: learned}, reduction=reduction)
                torch.testing.assert_close(loss, right)
                calls.append(torch.autograd.grad(loss.sum(), (x, learned)))
        same(*calls)
        assert torch.autograd.gradcheck(lambda t: function(a, b, **{number: t}, reduction=reduction), learned)
    criterion = cls(**{number: nn.Parameter(learned.detach())})
    assert [key for key, _ in criterion.named_parameters()] == [number]
    criterion(a, b).backward()
    assert getattr(criterion, number).grad.shape == shape
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b, **{number: learned}), function(a, b, **{number: learned}))


def test_halves_are_computed_in_float32():
    for dtype in (torch.float16, torch.bfloat16):
        a, b = normal(20, 8).to(dtype), normal(20, 8, seed=1).to(dtype)
        for function in (LF.info_nce_loss, LF.siglip_loss, LF.clip_loss):
            got = value_and_gradients(function, a, b)
            wide = value_and_gradients(function, a.float(), b.float())
            assert [x.dtype for x in got] == [dtype] * 3
            for x, y in zip(got, wide, strict=True):
                assert torch.equal(x, y.to(dtype))


# ---------------------------------------------------------------------------------------------------------
# Blocks


@FEW
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_several_blocks(sample, dtype):
    """Blocks of 2 MB, of which these rows fill some, the last one in part: what the whole matrix gives."""
    operands, weight = sample.operands(1100, dtype), torch.linspace(0.5, 2.0, 1100, dtype=dtype)
    for reduction in REDUCTIONS:
        got = test_rows.call(sample, operands, reduction, sample_weight=weight)
        with pytest.MonkeyPatch.context() as patch:
            without_kernels(patch)
            right = test_rows.call(sample, operands, reduction, sample_weight=weight)
        tolerance = 4e-6 if dtype == torch.float32 else 1e-11
        for a, b in zip(got, right, strict=True):
            # Circle loss multiplies the rounding of similarities by gamma.
            same([a], [b], rtol=tolerance, atol=80.0 * tolerance * float(b.abs().max()))


@FEW
@pytest.mark.parametrize("size", [1, 7, 64])
def test_blocks_by_the_formula(sample, size, monkeypatch):
    """As on devices for which there is no kernel: the formula and torch's gradient of it, block by block."""
    operands = sample.operands(40)
    mask, weight = torch.arange(40) % 7 != 3, torch.linspace(0.5, 2.0, 40, dtype=torch.float64)
    if losskit.get(sample.name).pairing == "views":
        mask[20:] = mask[:20]
    given = {"mask": mask, "sample_weight": weight}
    whole = [test_rows.call(sample, operands, reduction, **given) for reduction in REDUCTIONS]
    without_kernels(monkeypatch)
    monkeypatch.setattr(pairs_blocks, "takes", lambda arguments: True)
    monkeypatch.setattr(pairs_blocks, "rows_of_block", lambda rows, *_: min(rows, size))
    for reduction, right in zip(REDUCTIONS, whole, strict=True):
        same(test_rows.call(sample, operands, reduction, **given), right)


def test_nothing_of_the_size_of_the_matrix_is_stored():
    """The matrix of 3000 rows would have 36 MB."""
    x, y = normal(3000, 8, dtype=torch.float32), torch.arange(3000) // 8
    for sample in FIRST:
        cls = losskit.get(sample.name)
        operands = [x, y] if cls.pairing == "labels" else [x, normal(3000, 8, seed=1, dtype=torch.float32)]
        with torch.profiler.profile(profile_memory=True) as profile:
            operands[0].grad = None
            cls.functional(operands[0].requires_grad_(), *operands[1:]).backward()
        largest = max(event.self_cpu_memory_usage for event in profile.events())
        assert largest < 16e6, f"{sample.name}: {largest}"


@FEW
def test_autocast_does_not_narrow_similarities(sample, monkeypatch):
    """Not those of the kernel, and not those of the formula."""
    operands = sample.operands(12, torch.float32)
    right = test_rows.call(sample, operands)
    for eager in (False, True):
        leaves = [x.requires_grad_(i in sample.gradients) for i, x in enumerate(operands)]
        with monkeypatch.context() as patch, torch.autocast("cpu", dtype=torch.bfloat16):
            if eager:
                without_kernels(patch)
            loss = sample(*leaves)
        got = [loss.detach(), *torch.autograd.grad(loss, [leaves[i] for i in sample.gradients])]
        for a, b in zip(got, right, strict=True):
            same([a], [b], rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_why():
    a = normal(300, 4, dtype=torch.float32)
    said = str(losskit.why(losskit.InfoNCELoss(), a, a))
    assert said.startswith("fused CPU kernel: similarities of 300 rows to 300 columns, some rows at a time, one pass")
    weight = torch.ones(300, requires_grad=True)
    said = losskit.why(losskit.InfoNCELoss(), a, a, sample_weight=weight)
    assert said.implementation == "eager formula"
    assert said.reason.endswith("; the whole matrix of similarities is stored")


@pytest.mark.parametrize("name", ["sup_con_loss", "batch_hard_triplet_loss", "clip_loss", "siglip_loss"])
def test_the_bits_do_not_depend_on_threads(name):
    x, y, labels = *(normal(700, 16, seed=i, dtype=torch.float32) for i in (0, 1)), torch.arange(700) // 4
    by_labels = losskit.get(name).pairing == "labels"
    function = lambda x, y: getattr(LF, name)(x, labels) + 0.0 * y.sum() if by_labels else getattr(LF, name)(x, y)
    runs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        runs.append(value_and_gradients(function, x, y))
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows, columns, width", [(1, 1, 1), (12, 33, 31), (13, 32, 33), (97, 300, 300), (49, 49, 0)])
def test_products_of_any_size(rows, columns, width, dtype):
    """Of fewer rows than a tile has, and one more; of columns that fill a strip, or not; of more than a tile adds up."""
    x, y = normal(rows, width, dtype=dtype), normal(columns, width, seed=1, dtype=dtype)

    def by_hand(x, y):
        s = 0.25 * x @ y.T + 0.5
        signs = 2.0 * torch.eye(rows, columns, dtype=dtype) - 1.0
        return -F.logsigmoid(signs * s).sum() / rows

    function = lambda x, y: LF.siglip_loss(x, y, 0.25, 0.5, normalize=False)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-14
    for got, right in zip(value_and_gradients(function, x, y), value_and_gradients(by_hand, x, y), strict=True):
        same([got], [right], rtol=tolerance, atol=4 * tolerance * (float(right.abs().max()) if right.numel() else 0.0))


# ---------------------------------------------------------------------------------------------------------
# Losses of one's own


class OwnPairsLoss(losskit.PairsLoss):
    """All aggregates, of terms of their own."""

    weight_of_max: float = losskit.param(default=0.25, doc="Of the largest.")
    arguments = "weight_of_max temperature reduction"
    pairing = "labels"
    measure = "dot"
    needs = "both"

    @staticmethod
    def positive(similarity):
        return similarity * similarity

    @staticmethod
    def value(
        positive_max, positive_sum, negative_min, negative_mean, negative_log_sum_exp, negative_max, weight_of_max
    ):
        lead = weight_of_max * (positive_max - negative_max) + 0.5 * negative_min
        return positive_sum * 0.125 - negative_mean + negative_log_sum_exp - lead


@pytest.mark.parametrize("eager", [False, True], ids=["fused", "eager"])
def test_own_loss(eager, monkeypatch):
    if eager:
        without_kernels(monkeypatch)
    x, y = normal(9, 4), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3])

    def by_hand(x):
        s = x @ x.T / 2.0
        alike = y.unsqueeze(1) == y
        positive, negative = alike & ~torch.eye(9, dtype=torch.bool), ~alike
        p, inf = s * s, math.inf
        lead = 0.25 * (p.masked_fill(~positive, -inf).amax(1) - s.masked_fill(alike, -inf).amax(1))
        lead = lead + 0.5 * s.masked_fill(alike, inf).amin(1)
        mean = (s * negative).sum(1) / negative.sum(1)
        rows = (p * positive).sum(1) * 0.125 - mean + s.masked_fill(alike, -inf).logsumexp(1) - lead
        return rows[:8].mean()

    same(
        value_and_gradients(lambda x: OwnPairsLoss.functional(x, y, temperature=2.0), x),
        value_and_gradients(by_hand, x),
    )


class BothScalesLoss(losskit.PairsLoss):
    """A temperature and a scale, of which the temperature counts."""

    arguments = "temperature logit_scale reduction"
    measure = "dot"

    @staticmethod
    def value(positive_sum, negative_log_sum_exp):
        return negative_log_sum_exp - positive_sum


def test_beside_a_temperature_there_is_no_scale():
    a, b = normal(5, 3), normal(5, 3, seed=1)
    found = [
        BothScalesLoss.functional(a, b, temperature=t, logit_scale=s)
        for t in (0.5, torch.tensor(0.5))
        for s in (2.0, torch.tensor(2.0), 3.0)
    ]
    same(found, found[:1] * 6)


# ---------------------------------------------------------------------------------------------------------
# Refusals

A, B, Y = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 0, 1, 1])
REFUSED = [
    (lambda: LF.info_nce_loss(A[0], B), "info_nce_loss: query must be of shape (N, D), got shape (3,)."),
    (lambda: LF.info_nce_loss(B, A), "info_nce_loss: key must be of shape (5 or more, 3), got shape (4, 3)."),
    (lambda: LF.info_nce_loss(A, B, symmetric=True), "info_nce_loss: query (4, 3) and key (5, 3) must have the same shape."),
    (lambda: LF.clip_loss(A, B), "clip_loss: image (4, 3) and text (5, 3) must have the same shape."),
    (lambda: LF.nt_xent_loss(A, B), "nt_xent_loss: input1 (4, 3) and input2 (5, 3) must have the same shape."),
    (lambda: LF.nt_xent_loss(A, A, A[:, :2]), "nt_xent_loss: negatives must be of shape (K, 3), got shape (4, 2)."),
    (lambda: LF.sup_con_loss(A[0], Y), "sup_con_loss: input must be of shape (N, D) or (N, V, D), got shape (3,)."),
    (lambda: LF.sup_con_loss(A, Y.float()), "sup_con_loss: target must be integer labels, got torch.float32."),
    (lambda: LF.sup_con_loss(A, Y[:3]), "sup_con_loss: target must have one entry per row, (4,), got (3,)."),
    (lambda: LF.sup_con_loss(A.long(), Y), "sup_con_loss: input must be floating point, got torch.int64."),
    (lambda: LF.sup_con_loss(A, Y, B), "sup_con_loss: memory needs memory_target, the labels of its rows."),
    (lambda: LF.sup_con_loss(A, Y, memory_target=Y), "sup_con_loss: memory_target needs memory, the rows that it labels."),
    (lambda: LF.sup_con_loss(A, Y, temperature=0), "sup_con_loss: temperature must be positive, got 0."),
    (lambda: LF.sup_con_loss(A, Y, temperature=torch.tensor(-1.0)), "sup_con_loss: temperature must be positive, got -1."),
    (lambda: LF.clip_loss(A, A, torch.ones(2)), "clip_loss: logit_scale must be a number or a tensor with one element, got shape (2,)."),
    (lambda: losskit.gather_rows(torch.tensor(1.0)), "gather_rows: x must be rows, got a scalar."),
]  # fmt: skip


def call_before():
    """Calls after which the kernel is tried on arguments as they are given."""
    for _ in range(2):
        for symmetric in (False, True):
            LF.info_nce_loss(A, A, symmetric=symmetric)
        LF.clip_loss(A, A)
        LF.clip_loss(A, A, torch.ones(()))
        LF.nt_xent_loss(A, A)
        LF.nt_xent_loss(A, A, A)
        LF.sup_con_loss(A, Y)
        LF.sup_con_loss(A, Y, A, Y)
        LF.sup_con_loss(A, Y, temperature=torch.ones(()))


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals(number):
    call_before()
    call, sentence = REFUSED[number]
    with pytest.raises(LossError) as problem:
        call()
    assert str(problem.value).startswith(sentence)


@EACH
def test_calls_as_they_are_given(sample, monkeypatch):
    """The second call of a plan goes to the kernel without validation: the same bits, and no Python on its way."""
    operands = sample.operands(10, torch.float32)
    first = test_rows.call(sample, operands)
    with monkeypatch.context() as patch:
        patch.setattr(PairsPlan, "validated", None)
        second = test_rows.call(sample, operands)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("wanted", [(True, False), (False, True)], ids=["rows", "columns"])
@pytest.mark.parametrize("name", ["info_nce_loss", "clip_loss", "siglip_loss"])
def test_gradients_of_one_operand(name, wanted):
    """As those of both, and with a scale that learns beside columns that do not."""
    a, b, scale = normal(9, 5), normal(9, 5, seed=1), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    number = "temperature" if name == "info_nce_loss" else "logit_scale"
    for given in ({}, {number: scale}):
        right = value_and_gradients(lambda x, y, given=given: getattr(LF, name)(x, y, **given), a, b)[1:]
        x, y = a.clone().requires_grad_(wanted[0]), b.clone().requires_grad_(wanted[1])
        scale.grad = None
        getattr(LF, name)(x, y, **given).backward()
        for leaf, want, gradient in zip((x, y), wanted, right, strict=True):
            assert (leaf.grad is not None) == want
            assert leaf.grad is None or torch.equal(leaf.grad, gradient)
        if given:
            of_scale = torch.autograd.grad(getattr(LF, name)(a, b, **given), scale)[0]
            torch.testing.assert_close(scale.grad, of_scale, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_rows_as_they_lie(dtype):
    """Steps between numbers, rows and views; operands of two dtypes; memory that is shared by all rows."""
    wide, y = normal(6, 3, 10).to(dtype), torch.arange(6) % 3
    for x in (wide[:, :, ::2], wide.transpose(0, 1)[:, :, :5].transpose(0, 1), wide[:, :1, :5].expand(6, 3, 5)):
        for reduction in REDUCTIONS:
            function = lambda x, reduction=reduction: LF.sup_con_loss(x, y, reduction=reduction)
            for got, right in zip(
                value_and_gradients(function, x), value_and_gradients(function, x.contiguous()), strict=True
            ):
                assert torch.equal(got, right)
    a, b = normal(5, 4).to(dtype), normal(8, 4, seed=1)
    got = value_and_gradients(LF.info_nce_loss, a, b)
    assert [x.dtype for x in got] == [torch.float64, dtype, torch.float64]
    same(got[2:], value_and_gradients(LF.info_nce_loss, a.double(), b)[2:])
