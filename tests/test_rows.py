"""What every loss of rows must do, whatever its family: reductions, weights, masks, layouts, dtypes, transforms.

Truth is tested by family; here the fused kernel is held against the eager formula, and both against the laws.
"""

import copy
import math
import pickle

import pytest
import torch
from row_samples import ROWS, SAMPLES, everything, losses, without_kernels
from samples import stopped
from tiers import rest
from torch.func import grad as func_grad
from torch.func import jvp, vmap

import losskit
from losskit.kernels import fused, library, node, wire

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
REDUCTIONS = ("none", "mean", "sum")
ALL = pytest.mark.parametrize("sample", everything())
SOME = pytest.mark.parametrize("sample", everything("rows: laws, layouts, dtypes and transforms of every loss"))


def call(sample, operands, reduction="mean", upstream=None, **extra):
    """The loss and the gradients that a sample names, the upstream gradient being exact in every dtype."""
    leaves = list(operands)
    for i in sample.gradients:
        leaves[i] = operands[i].detach().requires_grad_()
    loss = sample(*leaves, reduction=reduction, **extra)
    if upstream is None:
        upstream = ((torch.arange(loss.numel()) % 5 - 1.5) / 2).reshape(loss.shape) if loss.ndim else torch.ones(())
    grads = torch.autograd.grad(loss, [leaves[i] for i in sample.gradients], upstream.to(loss.dtype))
    return [loss.detach(), *grads]


def assert_same(got, expected, what, rtol=1e-11, atol=1e-12):
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        torch.testing.assert_close(
            a, b, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text, n=number: f"{what}, result {n}: {text}"
        )


def gapped(x):
    """The same numbers in memory with gaps, another order, or both."""
    if x.ndim == 0:
        return [x]
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)[..., 1::2]
    turned = x.new_zeros(x.shape[::-1]).permute(*reversed(range(x.ndim)))
    return [part.copy_(x) for part in (wide, turned)]


def extras(n=ROWS):
    weight = torch.linspace(0.25, 2.0, n, dtype=torch.float64)
    mask = torch.arange(n) % 3 != 1
    return [
        {},
        {"sample_weight": weight},
        {"mask": mask},
        {"sample_weight": weight, "mask": mask},
        {"normalizer": 2.5},
        {"sample_weight": weight[:1], "mask": mask, "normalizer": torch.tensor(3.0)},
    ]


def test_every_loss_is_sampled():
    named = {sample.name for sample in SAMPLES}
    assert {cls.name for cls in losses()} | {"triplet_margin_with_distance_loss"} == named
    for cls in losses():
        varied = {name for sample in SAMPLES if sample.name == cls.name for name in sample.params}
        elsewhere = losskit.RegionsLoss.params if issubclass(cls, losskit.RegionsLoss) else {}  # test_regions.py
        assert set(cls.params) - varied - set(elsewhere) == set(), cls.name


@ALL
@pytest.mark.parametrize(
    "reduction", rest(REDUCTIONS, ["mean"], "rows: laws, layouts, dtypes and transforms of every loss")
)
def test_fused_is_eager(sample, reduction, monkeypatch):
    """Value and gradients of the kernel and of the formula, in each combination of weights and masks."""
    for dtype in (torch.float64, torch.float32):
        operands = sample.operands(dtype=dtype)
        every = [{k: v.to(dtype) if k == "sample_weight" else v for k, v in e.items()} for e in extras()]
        got = [call(sample, operands, reduction, **e) for e in every]
        with monkeypatch.context() as patch:
            without_kernels(patch)
            expected = [call(sample, operands, reduction, **e) for e in every]
        rtol, atol = (1e-11, 1e-12) if dtype == torch.float64 else (2e-5, 2e-6)
        for e, a, b in zip(every, got, expected, strict=True):
            assert_same(a, b, f"{sample} {reduction} {list(e)} {dtype}", rtol, atol)


@ALL
def test_the_kernel_runs(sample, monkeypatch):
    """Ordinary calls do not fall back to the formula."""
    plan_class = sample.loss._plan_class
    if plan_class.no_kernel:
        pytest.skip(plan_class.no_kernel)
    monkeypatch.setattr(plan_class, "eager", lambda *args: pytest.fail("the eager formula ran"))
    for dtype in DTYPES:
        operands = sample.operands(dtype=dtype)
        for reduction in REDUCTIONS:
            call(sample, operands, reduction)
            call(sample, operands, reduction, mask=torch.arange(ROWS) % 2 == 0, sample_weight=torch.ones(ROWS))
        for x in gapped(operands[0]):
            call(sample, [x, *operands[1:]])


@SOME
def test_reductions_of_rows(sample):
    """none.sum() == sum; mean is the weighted mean of the rows."""
    operands = sample.operands()
    rows = sample(*operands, reduction="none")
    assert rows.shape == (ROWS,)
    assert_same([sample(*operands, reduction="sum")], [rows.sum()], "sum")
    weight, mask = torch.rand(ROWS, dtype=torch.float64) + 0.1, torch.arange(ROWS) % 3 != 1
    assert_same([sample(*operands, reduction="none", sample_weight=weight, mask=mask)], [rows * weight * mask], "none")
    if sample.name == "ctc_loss":  # torch's mean is that of losses per label
        rows = rows / operands[3].clamp(min=1)
    counts = operands[1].clamp(max=3) + 1 if sample.name == "corn_loss" else torch.ones(ROWS)  # questions asked
    counts = (operands[2] * (operands[3:] or [1])[0]).sum(-1) if sample.name == "cox_ph_loss" else counts  # events
    counts = (rows != 0).double() if sample.loss._label == "lists" else counts
    if issubclass(sample.loss, losskit.ListsLoss):  # lists with a pair, also with none within the first k
        items = operands[2] if len(operands) > 2 else torch.ones_like(operands[1], dtype=torch.bool)
        low, high = (operands[1].masked_fill(~items, end) for end in (math.inf, -math.inf))
        counts = (low.amin(-1) < high.amax(-1)).double()
    assert_same([sample(*operands, normalizer=3.5)], [rows.sum() / 3.5], "normalizer")
    plain = sample.kwargs(torch.float64)
    if not isinstance(plain.get("weight"), torch.Tensor):
        assert_same([sample(*operands)], [rows.sum() / counts.sum()], "mean")
        expected = (rows * weight * mask).sum() / (weight * mask * counts).sum()
        assert_same([sample(*operands, sample_weight=weight, mask=mask)], [expected], "weighted mean")


@SOME
def test_order_of_rows_does_not_matter(sample):
    operands = sample.operands()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    turned = sample.cut(operands, order)
    assert_same([sample(*turned, reduction="none")], [sample(*operands, reduction="none")[order]], "none")
    assert_same([sample(*turned)], [sample(*operands)], "mean")


@SOME
def test_micro_batches_compose(sample):
    """With a common normalizer, the means of parts add up to that of the whole, gradients too."""
    operands = sample.operands()
    whole = call(sample, operands, "mean", normalizer=float(ROWS))
    parts = [call(sample, sample.cut(operands, part), normalizer=float(ROWS)) for part in (slice(0, 2), slice(2, ROWS))]
    assert_same([sum(part[0] for part in parts)], [whole[0]], "value")
    for position, i in enumerate(sample.gradients, 1):
        joined = torch.cat([part[position] for part in parts], sample.batch[i])
        assert_same([joined], [whole[position]], "gradient")


@SOME
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_masked_rows_are_exact_zeros(sample, bad):
    for dtype in DTYPES:
        operands = sample.operands(dtype=dtype)
        mask = torch.tensor([True, False, True, True, False, True])
        spoilt = [x.clone() for x in operands]
        for i, x in enumerate(spoilt):
            view = x.movedim(sample.batch[i], 0)
            view[~mask] = bad if x.is_floating_point() else (0 if sample.name == "ctc_loss" and i > 1 else 77)
        for reduction in REDUCTIONS:
            got, expected = (call(sample, o, reduction, mask=mask) for o in (spoilt, operands))
            for a, b in zip(got, expected, strict=True):
                tolerance = 8 * torch.finfo(dtype).eps
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
            if reduction == "none":
                assert not got[0][~mask].any()
            for i, gradient in zip(sample.gradients, got[1:], strict=True):
                assert not gradient.movedim(sample.batch[i], 0)[~mask].any()


@SOME
def test_nothing(sample):
    """No rows, or none that counts: mean NaN (or 0), sum 0, gradients 0."""
    for operands, extra in (
        (sample.operands(0), {}),
        (sample.operands(), {"mask": torch.zeros(ROWS, dtype=torch.bool)}),
        (sample.operands(), {"sample_weight": torch.zeros(ROWS, dtype=torch.float64)}),
    ):
        value, *gradients = call(sample, operands, "mean", **extra)
        assert value.isnan()
        assert not any(g.any() for g in gradients)
        assert call(sample, operands, "sum", **extra)[0] == 0
        with losskit.empty("zero"):
            value, *gradients = call(sample, operands, "mean", **extra)
        assert value == 0
        assert not any(g.any() for g in gradients)


@SOME
def test_nan_in_gives_nan_out(sample):
    for dtype in DTYPES:
        for i in sample.gradients:
            operands = sample.operands(dtype=dtype)
            plain = operands[i].movedim(sample.batch[i], 0)[3]
            plain[(0,) * plain.ndim if sample.name != "nll_loss" else int(operands[1][3])] = math.nan
            rows = sample(*operands, reduction="none")
            labels = operands[1] if len(operands) > 1 else operands[0]
            ignored = not labels.is_floating_point() and (labels == sample.params.get("ignore_index"))
            if not (torch.is_tensor(ignored) and ignored.flatten()[3]):
                assert rows.isnan().tolist() == [False, False, False, True, False, False]
                assert sample(*operands).isnan()


@SOME
def test_dtype_ladder(sample):
    """Each dtype gives the double-precision result of its own numbers to its own accuracy, and its own dtype back."""
    for dtype in DTYPES[1:]:
        narrow = sample.operands(dtype=dtype, seed=3)
        wide = [x.double() if x.is_floating_point() else x for x in narrow]
        params = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in sample.kwargs(dtype).items()}
        for reduction in REDUCTIONS:
            with losskit.checks("off"):
                got = sample(*narrow, reduction=reduction)
                truth = sample.loss.functional(*wide, **params, reduction=reduction)
            assert got.dtype == dtype
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(got.double(), truth, rtol=4 * eps, atol=4 * eps)


@SOME
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts(sample, dtype):
    """Gaps and other orders of memory change no bit of the results and nothing in the operands."""
    operands = sample.operands(dtype=dtype)
    for i, x in enumerate(operands):
        for other in gapped(x):
            given = [*operands[:i], other, *operands[i + 1 :]]
            for reduction in REDUCTIONS:
                got, expected = call(sample, given, reduction), call(sample, operands, reduction)
                tolerance = 8 * torch.finfo(dtype).eps
                assert_same(got, expected, f"{sample} operand {i} {reduction}", tolerance, tolerance)
            assert torch.equal(other, x)


@SOME
def test_integer_dtypes(sample):
    """Integers of any width as targets and lengths."""
    operands = sample.operands()
    expected = call(sample, operands)
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8):
        given = [x if x.is_floating_point() or x.dtype == torch.bool else x.to(dtype) for x in operands]
        if dtype == torch.uint8 and any((x < 0).any() for x in operands if not x.is_floating_point()):
            continue
        assert_same(call(sample, given), expected, f"{dtype}")


@SOME
def test_threads(sample):
    """The bits do not depend on the number of threads."""
    rows = 4000
    for dtype in (torch.float32, torch.float64):
        operands = sample.operands(rows, dtype)
        weight = torch.linspace(0.5, 1.5, rows, dtype=dtype)
        for reduction in REDUCTIONS:
            runs = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                runs.append(call(sample, operands, reduction, sample_weight=weight))
            for one, two in zip(*runs, strict=True):
                assert torch.equal(one, two), f"{sample} {reduction}"


@SOME
def test_calculus(sample):
    """gradcheck, gradgradcheck and forward mode, by the operands that models produce."""
    if stopped(sample.loss) or str(sample) in ("rnnt_loss-fastemit", "rnnt_loss-clamp") or sample.name == "lambda_loss":
        pytest.skip("its gradient is not that of its value")
    for reduction, extra in (("none", {}), ("mean", {"sample_weight": torch.rand(3, dtype=torch.float64) + 0.5})):
        operands = sample.operands(3, seed=5)
        leaves = [operands[i].requires_grad_() for i in sample.gradients]

        def function(*given, operands=operands, reduction=reduction, extra=extra):
            full = list(operands)
            for i, x in zip(sample.gradients, given, strict=True):
                full[i] = x
            if sample.name == "ctc_loss" and sample.label == "blank":  # torch's convention is right after a log-softmax
                full[0] = full[0].log_softmax(-1)
            with losskit.checks("off"):
                return sample(*full, reduction=reduction, **extra)

        assert torch.autograd.gradcheck(function, leaves, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, leaves)
        plain = [x.detach() for x in leaves]
        tangents = [torch.randn(x.shape, dtype=x.dtype) for x in plain]
        value, slope = jvp(function, tuple(plain), tuple(tangents))
        grads = torch.autograd.grad(function(*leaves).sum(), leaves)
        dot = sum((g * t).sum() for g, t in zip(grads, tangents, strict=True))
        torch.testing.assert_close(slope.sum(), dot)
        torch.testing.assert_close(value, function(*plain))


@SOME
def test_vmap(sample):
    operands = [torch.stack(x) for x in zip(sample.operands(4, seed=0), sample.operands(4, seed=1), strict=True)]
    per_row = vmap(lambda *given: sample(*given, reduction="none"))(*operands)
    expected = torch.stack([sample(*(x[i] for x in operands), reduction="none") for i in range(2)])
    torch.testing.assert_close(per_row, expected)
    slopes = vmap(func_grad(lambda *given: sample(*given)))(*operands)
    by_hand = torch.stack([call(sample, [x[i] for x in operands])[1] for i in range(2)])
    torch.testing.assert_close(slopes, by_hand)


@SOME
def test_compile(sample):
    """Traced without a break, eager's numbers."""
    torch._dynamo.reset()
    operands = sample.operands()
    for reduction in ("mean", "none"):
        expected = call(sample, operands, reduction)
        leaves = [x.detach().clone() for x in operands]
        for i in sample.gradients:
            leaves[i].requires_grad_()
        extra = {"reduction": reduction, **sample.kwargs(torch.float64)}
        compiled = torch.compile(sample.loss.functional, fullgraph=True, backend="aot_eager")
        loss = compiled(*leaves, **extra)
        upstream = ((torch.arange(loss.numel()) % 5 - 1.5) / 2).reshape(loss.shape) if loss.ndim else torch.ones(())
        grads = torch.autograd.grad(loss, [leaves[i] for i in sample.gradients], upstream.double())
        assert_same([loss.detach(), *grads], expected, f"{sample} {reduction}")


@SOME
def test_module(sample):
    """The module is the function; it survives pickle, copies and config; export gives its numbers."""
    operands = sample.operands()
    criterion = sample.loss(**sample.kwargs(torch.float64))
    expected = sample(*operands)
    for again in (
        criterion, pickle.loads(pickle.dumps(criterion)), copy.deepcopy(criterion), losskit.create(criterion.config()),
    ):  # fmt: skip
        assert torch.equal(again(*operands), expected)
        assert repr(again) == repr(criterion)
    kernel = "eager formula" if sample.loss._plan_class.no_kernel else "fused CPU kernel"
    assert losskit.why(criterion, *operands).implementation == kernel
    exported = torch.export.export(criterion, tuple(operands)).module()
    torch.testing.assert_close(exported(*operands), expected)


@SOME
def test_backward(sample):
    """Upstream gradients, retained graphs, no gradient work without need, halves under a loss scaler."""
    operands = sample.operands()
    first = sample.gradients[0]
    one = call(sample, operands, upstream=torch.ones(()))[1]
    assert_same([call(sample, operands, upstream=torch.tensor(3.0))[1]], [3 * one], "scaled")
    leaves = list(operands)
    leaves[first] = x = operands[first].clone().requires_grad_()
    loss = sample(*leaves)
    for _ in range(3):
        loss.backward(retain_graph=True)
    assert_same([x.grad], [3 * one], "retained")
    each = sample(*leaves, reduction="none")
    upstream = torch.linspace(0.5, 2.0, each.numel(), dtype=each.dtype).reshape(each.shape)
    first_time, again = (torch.autograd.grad(each, x, upstream, retain_graph=True) for _ in range(2))
    assert_same(again, first_time, "retained, unreduced")
    for dtype in (torch.bfloat16, torch.float16):
        small = call(sample, sample.operands(dtype=dtype), upstream=torch.tensor(1024.0))[1]
        wide = [o.double() if o.is_floating_point() else o for o in sample.operands(dtype=dtype)]
        with losskit.checks("off"):
            right = call(sample, wide, upstream=torch.tensor(1024.0))[1]
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(small.double(), right, rtol=4 * eps, atol=4 * eps * float(right.abs().max()))


def test_no_gradient_work_without_grad(monkeypatch):
    assert library.loaded()
    monkeypatch.setattr(node, "on", False)
    for sample in [x for x in SAMPLES if not x.loss._plan_class.no_kernel]:
        codes = []
        op = sample.loss._plan_class.op
        real = getattr(torch.ops.losskit, op).default._op
        monkeypatch.setitem(fused._ops, op, lambda *args, real=real, codes=codes: codes.append(args[1]) or real(*args))
        operands = sample.operands()
        leaves = [x.requires_grad_(i in sample.gradients) for i, x in enumerate(operands)]
        with torch.no_grad():
            sample(*leaves)
        sample(*leaves)
        wanted = [wire.OPTIONS.unpack(code)["gradients"] for code in codes]
        assert wanted[0] == 0
        assert {*wanted[1:]} == {sum(1 << i for i in sample.gradients)}  # twice where the op declines raw arguments


@SOME
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(sample, dtype):
    operands = sample.operands(dtype=dtype)
    leaves = list(operands)
    leaves[sample.gradients[0]] = x = operands[sample.gradients[0]].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sample(*leaves)
    loss.backward()
    assert loss.dtype == torch.float32
    assert x.grad.dtype == dtype
