"""Element-wise losses on a GPU: the same truth and the same behaviour as on the CPU, and what only a GPU has."""

import checks
import grids
import numpy as np
import pointwise_truth
import pytest
import samples
import torch

import losskit
import losskit.functional as LF
from losskit.kernels import gpu
from losskit.kernels.gpu import pointwise, shared

from .conftest import ON_GPU

SETUPS = samples.everything()
# Where it matters that the CPU raises: a GPU does not.
RAISING = {"check_domains_are_refused", "check_masked_values_are_not_refused", "check_nan_mode"}


def test_the_kernel_runs(device):
    for setup in samples.setups():
        loss = setup.loss(**setup.kwargs(torch.zeros(1, 1)))
        operands = [x.to(device) for x in setup.operands((1, 1), torch.float32)]
        assert losskit.why(loss, *operands).implementation == "fused GPU kernel", setup


def on_device(setup, device):
    """The public function with operands moved to the device, and results from there."""
    compute = pointwise_truth.fused(setup)

    def call(operands):
        value, gradients = compute([x.to(device) for x in operands])
        return value.cpu(), {name: g.cpu() for name, g in gradients.items()}

    return call


@pytest.mark.parametrize("region", ["ordinary", "tiny", "huge", "infinite"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("setup", SETUPS)
def test_accuracy(setup, dtype, region, device):
    """NVIDIA's functions may be off by some ULP more than the CPU's."""
    found = pointwise_truth.measure(setup, dtype, on_device(setup, device), region)
    bars = grids.proof_of(setup).bars
    bad = [str(x) for x in found if not x.error <= max(5.5, 3.0 + (bars.value if x.what == "value" else bars.gradient))]
    assert not bad, f"{setup}, {dtype}:\n" + "\n".join(bad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("setup", SETUPS)
def test_halves(setup, dtype, device):
    """One rounding of what float32 gives; the interpreter cuts bfloat16 off instead of rounding it."""
    operands = [x.to(device) for x in setup.operands((7, 5), dtype)]
    results = []
    for leaves in (operands, [x.to(torch.float32) for x in operands]):
        leaves = [x.clone().requires_grad_() for x in leaves]
        loss = setup(*leaves, reduction="none")
        results.append([loss, *torch.autograd.grad(loss.sum(), leaves)])
    for got, want in zip(*results):
        assert got.dtype == dtype
        exact = want.to(torch.float64)
        error = torch.where(got == want.to(dtype), 0.0, (got.to(torch.float64) - exact).abs())
        allowed = 1.0 if dtype == torch.bfloat16 and not ON_GPU else 0.5
        assert (error <= allowed * torch.finfo(dtype).eps * exact.abs() + torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("check", [c for n, c in checks.behaviours().items() if n not in RAISING])
def test_behaviour(check):
    check()


# -- layouts ----------------------------------------------------------------------------------------------

SHAPE = (3, 4, 5, 2)
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1, :, :1].expand(SHAPE),
    "reversed dimensions": lambda x: x.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0),
}
STRETCHED = [(), (1,), (2,), (5, 1), (4, 1, 1), (3, 1, 1, 1), (1, 4, 1, 2), (3, 1, 5, 1), SHAPE]


@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
def test_layouts(first, second):
    x, t = torch.randn(SHAPE), torch.randn(SHAPE)
    a, b = LAYOUTS[first](x).detach().requires_grad_(), LAYOUTS[second](t).detach().requires_grad_()
    loss = LF.huber_loss(a, b)
    loss.backward()
    torch.testing.assert_close(loss, torch.nn.functional.huber_loss(a, b))
    want = (a - b).clamp(-1.0, 1.0).detach() / a.numel()
    torch.testing.assert_close(a.grad, want)
    torch.testing.assert_close(b.grad, -want)
    none = LF.huber_loss(a, b, reduction="none")
    torch.testing.assert_close(none, torch.nn.functional.huber_loss(a, b, reduction="none"))


@pytest.mark.parametrize("of_weight, of_mask", [*zip(STRETCHED, STRETCHED[3:] + STRETCHED[:3])], ids=str)
def test_stretched_weights_and_masks(of_weight, of_mask):
    x, t = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    w, m = torch.rand(of_weight), torch.rand(of_mask) > 0.3
    loss = LF.mse_loss(x, t, sample_weight=w, mask=m)
    full = (w * m).expand(SHAPE).double()
    want = ((x - t).double() ** 2 * full).sum() / full.sum()
    if full.sum() == 0:
        assert loss.isnan()
        return
    torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=0)
    loss.backward()
    torch.testing.assert_close(x.grad.double(), 2 * (x - t).double() * full / full.sum(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("programs", [4096, 2])
@pytest.mark.parametrize("numel", [0, 1, 1023, 1024, 1025, 4095, 9001])
def test_sizes(numel, programs, monkeypatch):
    monkeypatch.setattr(pointwise, "PROGRAMS", programs)
    x, t = torch.randn(numel, requires_grad=True), torch.rand(numel)
    loss = LF.binary_cross_entropy_with_logits(x, t, reduction="sum")
    loss.backward()
    exact = torch.nn.functional.binary_cross_entropy_with_logits(x.double(), t.double(), reduction="sum")
    torch.testing.assert_close(loss.double(), exact, rtol=2e-7, atol=0)
    torch.testing.assert_close(x.grad, x.detach().sigmoid() - t, rtol=1e-5, atol=1e-7)


def test_offsets_beyond_int32(monkeypatch):
    """The 64-bit path, on few elements: what it computes does not depend on their number."""
    monkeypatch.setattr(pointwise, "index_type", lambda numel: pointwise.tl.int64)
    x, t = torch.randn(40, 70, requires_grad=True), torch.randn(70, 40).T
    loss = LF.l1_loss(x, t, mask=torch.rand(40, 1) > 0.5)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()


def test_loops_end_within_32_bits():
    """A counter goes one step beyond the end; where that leaves int32, it has 64 bits."""
    for step in (pointwise.PROGRAMS * pointwise.BLOCK, 2048 * 1024):
        assert shared.index_type(2**31 - step) == pointwise.tl.int64
    assert shared.index_type(2**30) == pointwise.tl.int32


def test_few_elements_far_apart():
    """Strides beyond int32; of the memory only three pages are touched."""
    mask = torch.zeros(2**31 + 64, dtype=torch.bool).as_strided((3, 2), (2**30 + 16, 1))
    mask[2, 1] = True
    assert LF.l1_loss(torch.arange(6.0).reshape(3, 2), torch.zeros(3, 2), mask=mask) == 5.0
    x, y, of_rows = torch.eye(3, 2), torch.tensor([0, 1, 1]), mask[:, 1]
    assert LF.cross_entropy(x, y, mask=of_rows) == LF.cross_entropy(x[2:], y[2:])
    assert LF.multi_margin_loss(x, y, mask=of_rows) == LF.multi_margin_loss(x[2:], y[2:])
    assert LF.cosine_embedding_loss(x, 1 - x, 2 * y - 1, mask=of_rows) == 1.0


@pytest.mark.skipif(not ON_GPU, reason="takes 6 GiB of a GPU")
def test_more_than_2_to_the_31_elements():
    x = torch.zeros(2**31 + 77, dtype=torch.bfloat16)
    x[-1] = 3.0
    assert LF.mse_loss(x, torch.zeros_like(x), reduction="sum") == 9.0


# -- gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("factor", [1.0, 0.5, 2.0**14])
def test_upstream(factor, dtype):
    """A loss scaler saves what 1/N leaves of a half."""
    x, t = torch.full((4096,), 1e-4, dtype=dtype, requires_grad=True), torch.zeros(4096, dtype=dtype)
    loss = LF.mse_loss(x, t)
    (loss.float() * factor).backward()
    want = (2 * x.detach().double() * factor / 4096).to(dtype)
    torch.testing.assert_close(x.grad, want, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_gradients_are_those_of_the_first_backward_too():
    x = torch.randn(10, requires_grad=True)
    loss = LF.mse_loss(x, torch.zeros(10)) * 2.0
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(loss, x)
    assert torch.equal(once, again)


def test_operands_may_be_overwritten_before_backward():
    x = torch.ones(5, requires_grad=True)
    scores = x * 2.0
    loss = LF.mse_loss(scores, torch.zeros(5))
    scores.detach().zero_()
    loss.backward()
    assert torch.equal(x.grad, torch.full((5,), 1.6))


def test_gradients_are_dense_and_own_their_memory():
    x = torch.randn(4, 4, requires_grad=True)
    t = torch.randn(4, 4, requires_grad=True)
    LF.mse_loss(x, t).backward()
    assert x.grad.data_ptr() != t.grad.data_ptr() != x.data_ptr()


def test_the_same_bits():
    x, t = torch.randn(50_000), torch.randn(50_000)
    assert len({LF.huber_loss(x, t).item() for _ in range(3)}) == 1


def test_the_sum_is_that_of_float64():
    x = torch.rand(200_003)
    got = LF.l1_loss(x, torch.zeros_like(x), reduction="sum")
    assert got == x.double().sum().float()


# -- what only a GPU has ----------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["", "mask", "sample_weight", "normalizer", "number"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_host_never_waits(reduction, extra, unwatched):
    x, t = torch.randn(30, 7, requires_grad=True), torch.rand(30, 7)
    extras = {
        "mask": torch.rand(30, 1) > 0.5, "sample_weight": torch.rand(7), "normalizer": torch.tensor(5.0), "number": 5.0
    }  # fmt: skip
    given = {"normalizer" if extra == "number" else extra: extras[extra]} if extra else {}

    def call():
        loss = LF.binary_cross_entropy_with_logits(x, t, reduction=reduction, **given)
        loss.sum().backward()

    call()  # compiles, and copies parameters to the device
    with unwatched:
        call()


@pytest.mark.parametrize("setup", SETUPS)
def test_a_bad_value_is_nan_and_told(setup):
    formula = grids.formula_of(setup)
    for i, domain in enumerate(formula.required[: len(setup.names)]):
        for wrong in domain.invalid() if not domain.everything else []:
            operands = [x.clone().requires_grad_() for x in setup.operands((40, 60), torch.float32)]
            with torch.no_grad():
                operands[i][29, 31] = wrong
            loss = setup(*operands, reduction="sum")
            assert loss.isnan()
            told = losskit.last_violation()
            assert told == refusal(setup, operands), told
            assert losskit.last_violation() is None
            loss.backward()
            assert operands[0].grad[29, 31].isnan() and operands[0].grad.isnan().sum() == 1
            with losskit.checks("off"):
                setup(*operands, reduction="sum")
            assert losskit.last_violation() is None


def refusal(setup, operands):
    """What the CPU raises."""
    plan = grids.plan_for(setup)
    given = [*(x.cpu() for x in operands), *setup.kwargs(operands[0].cpu()).values()]
    tensors = [x for x in given if isinstance(x, torch.Tensor)]
    with pytest.raises(ValueError, match=f"^{plan.name}: ") as refused:
        plan.refuse(tensors, None)
    return str(refused.value)


def test_the_first_violation_stays():
    bad = torch.tensor([[0.5, 0.5], [0.5, 2.0]])
    LF.binary_cross_entropy(bad, torch.zeros(2, 2))
    LF.binary_cross_entropy(torch.zeros(3), torch.full((3,), -1.0))
    assert "input must be in [0, 1], got 2 at index (1, 1)" in losskit.last_violation()
    assert losskit.last_violation() is None


def test_a_masked_violation_is_none():
    loss = LF.binary_cross_entropy(torch.tensor([0.5, 7.0]), torch.ones(2), mask=torch.tensor([True, False]))
    assert np.isclose(loss.item(), np.log(2)) and losskit.last_violation() is None


def test_without_triton_the_eager_formula_runs(monkeypatch):
    monkeypatch.setattr(gpu, "_missing", lambda: "Triton is not installed (pip install triton)")
    x, t = torch.randn(5), torch.zeros(5)
    choice = losskit.why(losskit.MSELoss(), x, t)
    assert str(choice) == "eager formula: Triton is not installed (pip install triton)"
    torch.testing.assert_close(losskit.MSELoss()(x, t), (x * x).mean())
    assert losskit.last_violation() is None


def test_labels_may_begin_at_any_address():
    labels = torch.arange(9) % 4
    x = torch.randn(8, 4)
    assert labels[1:].data_ptr() % 16 != 0
    torch.testing.assert_close(LF.cross_entropy(x, labels[1:]), torch.nn.functional.cross_entropy(x, labels[1:]))


def test_a_users_loss_needs_no_further_work():
    class Quartic(losskit.PointwiseLoss):
        """The fourth power of a residual, for this test."""

        scale: float = losskit.param(default=1.0, domain=losskit.positive, doc="Unit of the residual.")

        @staticmethod
        def value(input, target, scale):
            d = (input - target) / scale
            return d * d * d * d

    x, t = torch.randn(33, requires_grad=True), torch.randn(33)
    for scale in (1.0, 0.1):
        loss = Quartic(scale=scale)
        assert losskit.why(loss, x, t).implementation == "fused GPU kernel"
        (got,) = torch.autograd.grad(loss(x, t), x)
        d = (x - t).detach() / scale
        torch.testing.assert_close(got, 4 * d**3 / scale / 33)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_few_ulp_beyond_a_bound_are_the_bound(device, dtype):
    """As on the CPU, see tests/test_bounds.py; what is further away is told with its digits."""
    eps = torch.finfo(dtype).eps
    at = torch.tensor([1.0, 0.0, 0.5, 1.0], dtype=dtype, device=device)
    over = at + 4 * eps * torch.tensor([1.0, -1.0, 0.0, 1.0], dtype=dtype, device=device)
    target = torch.tensor([1.0, 0.0, 1.0, 0.25], dtype=dtype, device=device)
    found = []
    for x in (at, over):
        x = x.requires_grad_()
        loss = LF.binary_cross_entropy(x, target, reduction="none")
        found.append((loss, *torch.autograd.grad(loss.sum(), x)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert losskit.last_violation() is None
    assert LF.binary_cross_entropy(at.detach() + 8 * eps, target).isnan()
    assert "got 1.0" in losskit.last_violation()
    # Probabilities of classes, too.
    shares = torch.tensor([[1.0 + 4 * eps, -4 * eps, 0.0]], dtype=dtype, device=device)
    assert LF.cross_entropy(torch.zeros(1, 3, dtype=dtype, device=device), shares).isfinite()
    assert LF.cross_entropy(torch.zeros(1, 3, dtype=dtype, device=device), shares + 4 * eps).isnan()
