"""Losses on features and the weights of a last layer: what the loss of the scores gives, from chunks of them."""

import contextlib
import pickle

import pytest
import torch
import torch.nn.functional as F
from class_scores_of_test import NormaliserOfTest
from torch.func import grad, jvp, vmap

import losskit
import losskit.functional as LF
from losskit.layers import head_calls, heads

CLASSES, WIDTH = 11, 5
WEIGHT = torch.linspace(0.5, 2.0, CLASSES, dtype=torch.float64)
CRITERIA = [
    lambda r: losskit.CrossEntropyLoss(reduction=r),
    lambda r: losskit.CrossEntropyLoss(WEIGHT, ignore_index=3, label_smoothing=0.1, reduction=r),
    lambda r: losskit.SoftmaxFocalLoss(reduction=r),
    lambda r: losskit.SoftmaxFocalLoss(alpha=WEIGHT / 2, reduction=r),
    lambda r: losskit.PolyCrossEntropyLoss(reduction=r),
    lambda r: losskit.LogitAdjustedCrossEntropyLoss(prior=WEIGHT, reduction=r),
    lambda r: losskit.ZLoss(reduction=r),
    lambda r: NormaliserOfTest(reduction=r),
]
SHAPES = [((23,), ()), ((3, 7), ()), ((), ()), ((4,), (2, 3))]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """Four rows of scores in a chunk."""
    monkeypatch.setattr(heads, "_CHUNK", 4 * CLASSES * 8)
    monkeypatch.setattr(heads, "_BLOCK", 3 * WIDTH * 2)


def leaves(lead, more=(), dtype=torch.float64, bias=True, seed=0):
    torch.manual_seed(seed)
    shapes = [(*lead, WIDTH), (CLASSES, *more, WIDTH), *([(CLASSES, *more)] if bias else [])]
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def call(criterion, given, *operands, **extras):
    x, weight, *bias = given
    return losskit.linear(criterion)(x, weight, *operands, linear_bias=bias[0] if bias else None, **extras)


def scores_of(x, weight, bias=None):
    """The scores as losses of them take them: classes in dimension 1."""
    more = weight.shape[1:-1]
    scores = F.linear(x, weight.flatten(0, -2), None if bias is None else bias.flatten())
    return scores.unflatten(-1, (CLASSES, *more)) if more else scores.movedim(-1, min(1, x.ndim - 1))


def labels(lead, more=()):
    return torch.randint(0, CLASSES, (*lead, *more), generator=torch.Generator().manual_seed(1))


def agree(loss, expected, inputs):
    torch.testing.assert_close(loss, expected)
    upstream = torch.randn(loss.shape, dtype=loss.dtype)
    wanted = torch.autograd.grad(expected, inputs, upstream, retain_graph=True)
    for again in range(2):  # the second backward makes the scores anew
        found = torch.autograd.grad(loss, inputs, upstream, retain_graph=not again)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("lead", "more"), SHAPES, ids=str)
@pytest.mark.parametrize("number", range(len(CRITERIA)))
def test_it_is_the_loss_of_the_scores(number, lead, more, reduction):
    criterion = CRITERIA[number](reduction)
    for bias in (True, False):
        given = leaves(lead, more, bias=bias)
        operands = [labels(lead, more)] if criterion.targets else []
        every = {"sample_weight": torch.rand((*lead, *more), dtype=torch.float64), "mask": labels(lead, more) < 9}
        for extras in ({}, every, {"normalizer": 3.0}):
            loss = call(criterion, given, *operands, **extras)
            agree(loss, criterion(scores_of(*given), *operands, **extras), given)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("lead", "more"), SHAPES, ids=str)
def test_probabilities(lead, more, reduction):
    criterion = losskit.CrossEntropyLoss(reduction=reduction, label_smoothing=0.1)
    given = leaves(lead, more)
    target = torch.rand((*lead, CLASSES, *more), dtype=torch.float64).softmax(len(lead))
    own = target if more else target.movedim(-1, min(1, len(lead)))
    agree(call(criterion, given, target), criterion(scores_of(*given), own), given)


def test_a_scale_for_each_row():
    """ArcFace with magnitudes of its own: an operand after the target."""
    x, weight = (F.normalize(leaf.detach(), dim=-1).requires_grad_() for leaf in leaves((9,), bias=False))
    criterion, target = losskit.ArcFaceLoss(), labels((9,))
    agree(losskit.linear(criterion)(x, weight, target), criterion(F.linear(x, weight), target), [x, weight])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_soft_cap_and_z_loss(reduction):
    given, target = leaves((13,)), labels((13,))
    mask = labels((13,)) > 1
    loss = LF.linear_cross_entropy(
        given[0], given[1], target, linear_bias=given[2], soft_cap=2.0, z_loss=0.1, ignore_index=4, mask=mask,
        reduction=reduction,
    )  # fmt: skip
    scores, kept = 2.0 * torch.tanh(scores_of(*given) / 2.0), mask & (target != 4)
    each = F.cross_entropy(scores, target, reduction="none") + 0.1 * scores.logsumexp(1) ** 2
    each = torch.where(kept, each, 0.0)
    agree(loss, {"none": each, "sum": each.sum(), "mean": each.sum() / kept.sum()}[reduction], given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_halves(dtype, reduction):
    """The loss is rounded once, gradients by the weights are added up in float32."""
    rows, classes, width = 512, 16, 8
    torch.manual_seed(0)
    x, weight = (torch.randn(n, width).to(dtype).requires_grad_() for n in (rows, classes))
    target = torch.randint(0, classes, (rows,))
    loss = LF.linear_cross_entropy(x, weight, target, reduction=reduction)
    scores = F.linear(x, weight).detach()
    expected = F.cross_entropy(scores.double(), target, reduction=reduction)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, expected.to(dtype), rtol=1e-2 if reduction == "none" else 0.0, atol=0.0)
    loss.sum().backward()
    slope = (scores.double().softmax(1) - F.one_hot(target, classes)) / (rows if reduction == "mean" else 1)
    for got, truth in ((x.grad, slope @ weight.double()), (weight.grad, slope.T @ x.double())):
        assert (got.double() - truth).abs().max() < 3 * torch.finfo(dtype).eps * truth.abs().max()


def test_small_gradients_of_float16_reach_the_scaler():
    """1 / N of a probability underflows; a loss scaler's factor goes in before it does."""
    x, weight = (torch.randn(n, 4).half().requires_grad_() for n in (4096, 16))
    x.data[:] = x.data[:1]
    loss = LF.linear_cross_entropy(x, weight, torch.zeros(4096, dtype=torch.int64))
    (found,) = torch.autograd.grad(loss * 2.0**14, x)
    scores = F.linear(x, weight).detach().double()
    slope = (scores.softmax(1) - F.one_hot(torch.zeros(4096, dtype=torch.int64), 16)) * (2.0**14 / 4096)
    torch.testing.assert_close(found.double(), slope @ weight.detach().double(), rtol=2e-3, atol=1e-3)


def test_autocast():
    x, weight = (torch.randn(n, WIDTH).requires_grad_() for n in (9, CLASSES))
    target = labels((9,))
    with torch.autocast("cpu", torch.bfloat16):
        loss = LF.linear_cross_entropy(x, weight, target)
        expected = LF.cross_entropy(F.linear(x, weight), target)
    assert loss.dtype == expected.dtype
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0.0)
    loss.backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


def test_transforms():
    """Derivatives of derivatives and torch.func: all scores at once. torch.compile: test_heads_compiled.py."""
    x, weight, bias = (leaf.detach() for leaf in leaves((6,)))
    target = labels((6,))
    focal = losskit.SoftmaxFocalLoss()
    criterion = losskit.linear(focal)

    def chunked(x, weight):
        return criterion(x, weight, target, linear_bias=bias)

    def plain(x, weight):
        return focal(F.linear(x, weight, bias), target)

    assert torch.autograd.gradcheck(chunked, (x.requires_grad_(), weight.requires_grad_()))
    assert torch.autograd.gradgradcheck(chunked, (x, weight))
    x, weight = x.detach(), weight.detach()
    tangents = torch.ones_like(x), torch.ones_like(weight)
    for transform in (
        lambda f: grad(f, argnums=(0, 1))(x, weight),
        lambda f: jvp(f, (x, weight), tangents),
        lambda f: vmap(f, in_dims=(None, 0))(x, torch.stack([weight, 2 * weight])),
        lambda f: torch.compile(f, backend="aot_eager", fullgraph=True)(x, weight),
    ):
        torch.testing.assert_close(transform(chunked), transform(plain))
    function = torch.compile(LF.linear_cross_entropy, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        function(x, weight, target, z_loss=0.1), LF.linear_cross_entropy(x, weight, target, z_loss=0.1)
    )


def test_only_what_is_wanted():
    """Without gradients nothing is made but the loss; frozen weights have none."""
    x, weight = leaves((9,), bias=False)
    target = labels((9,))
    with torch.no_grad():
        assert not LF.linear_cross_entropy(x, weight, target).requires_grad
    LF.linear_cross_entropy(x, weight.detach(), target).backward()
    assert x.grad is not None
    assert weight.grad is None


def test_a_gradient_by_a_parameter():
    """A learned prior wants a gradient, too: all scores are made."""
    x, weight = leaves((9,), bias=False)
    prior = WEIGHT.clone().requires_grad_()
    losskit.linear(losskit.LogitAdjustedCrossEntropyLoss(prior=prior))(x, weight, labels((9,))).backward()
    assert prior.grad.abs().sum() > 0


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch 2.13 has it")
@pytest.mark.parametrize("more", [(), (2, 3)], ids=str)
def test_torchs_layer(more):
    """Names, arguments, state dict, drawn numbers and results."""
    made = []
    for cls in (torch.nn.LinearCrossEntropyLoss, losskit.LinearCrossEntropyLoss):
        torch.manual_seed(0)
        made.append(cls(WIDTH, CLASSES, out_features=more, bias=True, ignore_index=2, weight=WEIGHT.float()))
    theirs, ours = made
    assert isinstance(ours, torch.nn.LinearCrossEntropyLoss)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(pickle.loads(pickle.dumps(ours)).state_dict())
    x = leaves((8,), dtype=torch.float32)[0]
    torch.testing.assert_close(ours(x, labels((8,), more)), theirs(x, labels((8,), more)))
    options = torch.nn.LinearCrossEntropyOptions()
    weight = torch.randn(CLASSES, WIDTH)
    loss = LF.linear_cross_entropy(x, weight, labels((8,)), options=options)
    torch.testing.assert_close(loss, F.linear_cross_entropy(x, weight, labels((8,)), options=options))


X, W, T = torch.randn(20, 5), torch.randn(4, 5), torch.ones(20, dtype=torch.int64)
CE = losskit.CrossEntropyLoss()
REFUSED = [
    (
        lambda: losskit.linear(losskit.MSELoss()),
        TypeError,
        "criterion must be a loss of class scores, or of two rows of them, got MSELoss",
    ),
    (lambda: losskit.linear(losskit.NLLLoss()), TypeError, "gives no log-probabilities: use CrossEntropyLoss"),
    (lambda: losskit.linear(losskit.CrossEntropyLoss), TypeError, "Use CrossEntropyLoss()."),
    (lambda: losskit.linear(CE, soft_cap=-1.0), ValueError, "soft_cap must be positive, got -1"),
    (lambda: losskit.linear(CE, z_loss=-1.0), ValueError, "z_loss must be non-negative, got -1"),
    (lambda: losskit.linear(CE)(X, W), TypeError, "takes input, linear_weight, target, got 2 arguments"),
    (lambda: losskit.linear(CE)(X, W[:, :4], T), ValueError, r"linear_weight must have the shape \(C, 5\)"),
    (lambda: losskit.linear(CE)(X, W[0], T), ValueError, r"linear_weight must have the shape \(C, 5\)"),
    (lambda: losskit.linear(CE)(X[0, 0], W, T), IndexError, "a dimension of features"),
    (lambda: losskit.linear(CE)(X, W.double(), T), TypeError, "linear_weight is torch.float64 but input is"),
    (lambda: losskit.linear(CE)(X, W, T, linear_bias=X[0]), ValueError, r"linear_bias must have the shape \(4,\)"),
    (lambda: losskit.linear(CE)(X, W, T[:19]), ValueError, r"class indices of shape \(20,\) for input \(20, 4\)"),
    (lambda: losskit.linear(CE)(X, W, T * 4), IndexError, r"a class in \[0, 4\), got 4 at row \(0,\)"),
    (lambda: losskit.linear(CE)(X.view(4, 5, 5), W, T.view(4, 5) - 2), IndexError, r"got -1 at row \(0, 0\)"),
    (lambda: losskit.linear(CE)(X, W, torch.rand(20, 4) - 0.9), ValueError, r"in \[0, 1\], got"),
    (lambda: losskit.linear(CE)(X, W, T, mask=T), TypeError, "mask must be boolean"),
    (lambda: losskit.linear(CE)(X.tolist(), W, T), TypeError, "input must be a tensor"),
    (lambda: losskit.LinearCrossEntropyLoss(5, 4, label_smoothing=2.0), ValueError, "label_smoothing must be in"),
    (lambda: losskit.LinearCrossEntropyLoss(5, 4, weight=W), ValueError, "one entry for each of 4 classes"),
]


@pytest.mark.parametrize(("mistake", "kind", "words"), REFUSED)
def test_refusals(mistake, kind, words):
    with pytest.raises(kind, match=words):
        mistake()


def test_a_row_is_told_by_its_chunk():
    """What only a chunk can see is told with the row that its numbers count from."""
    x, weight = (F.normalize(leaf.detach(), dim=-1) for leaf in leaves((9,), bias=False))
    x[6] *= 3.0
    wrong = losskit.linear(losskit.ArcFaceLoss())
    with pytest.raises(ValueError, match=r"counted from row \d on|at index"):
        wrong(x, weight, (x @ weight.T).argmax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [11, 64, 65, 100, 1050, 2000])
def test_a_gradient_over_its_scores_has_the_same_bits(classes, dtype):
    """Also of rows that the fast loop leaves: far from 0, infinite, missing, masked, too certain."""
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn(40, classes, generator=generator).to(dtype)
    target = torch.randint(0, classes, (40,), generator=generator)
    target[3] = -100
    inf = float("inf")
    for row, x in ((5, 200.0), (6, -3e4), (7, inf), (8, float("nan")), (9, 60.0), (10, 90.0)):
        scores[row, row % classes] = x
    scores[11], scores[12, 1:], scores[13, : classes // 2] = -inf, -inf, -inf
    mask = torch.arange(40) != 20
    weight = torch.rand(classes, generator=generator, dtype=torch.float64) + 0.5
    prior, soft = weight.clone(), torch.rand(40, classes, generator=generator).softmax(1).to(dtype)
    plain = [(losskit.CrossEntropyLoss(), target), (losskit.CrossEntropyLoss(), soft)]
    others = [
        losskit.CrossEntropyLoss(weight.to(dtype), label_smoothing=0.1), losskit.SoftmaxFocalLoss(),
        losskit.SoftmaxFocalLoss(label_smoothing=0.1), losskit.PolyCrossEntropyLoss(reduction="sum"),
        losskit.LogitAdjustedCrossEntropyLoss(prior=prior),
    ]  # fmt: skip
    for criterion, labels_ in [*plain, *((other, target) for other in others)]:
        term = head_calls.Term(criterion._planned(), criterion._slot_params(), criterion.weight)
        call = head_calls.Call([term], None, (classes,), [labels_], None, mask, 1.0 / 3.0)
        leaf, given = scores.clone().requires_grad_(), scores.clone()
        loss = call.of(leaf)
        (expected,) = torch.autograd.grad(loss, leaf)
        found = call.over(given, loss.dtype)
        assert found is not None
        assert torch.equal(found[0].nan_to_num(), loss.nan_to_num())
        assert torch.equal(found[1].nan_to_num(), expected.nan_to_num())
        assert (found[1].data_ptr() == given.data_ptr()) == (classes >= 64)


def test_no_rows():
    loss = LF.linear_cross_entropy(torch.randn(0, 5, requires_grad=True), W, T[:0], reduction="sum")
    loss.backward()
    assert loss == 0.0


def test_memory():
    """The scores are never there as a whole: neither forward nor backward allocates as much."""
    rows, classes = 4096, 512
    x, weight = torch.randn(rows, 4, requires_grad=True), torch.randn(classes, 4, requires_grad=True)
    target = torch.randint(0, classes, (rows,))
    with contextlib.ExitStack() as stack:
        patch = pytest.MonkeyPatch()
        stack.callback(patch.undo)
        patch.setattr(heads, "_CHUNK", 1 << 16)
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            LF.linear_cross_entropy(x, weight, target).backward()
    largest = max((event.cpu_memory_usage for event in seen.events()), default=0)
    assert 0 < largest < rows * classes * 4 / 16
