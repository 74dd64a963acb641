"""torch's own samples of every loss, and the comparison of a call with torch's in both directions."""

from __future__ import annotations

import importlib
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import row_samples
import torch
import torch.nn.functional as F  # its usual name
from samples import built_in
from torch import Tensor
from torch.utils._pytree import tree_map

import losskit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # test helpers of torch import deprecated modules
    common_nn = importlib.import_module("torch.testing._internal.common_nn")
    op_db = importlib.import_module("torch.testing._internal.common_methods_invocations").op_db
    module_db = importlib.import_module("torch.testing._internal.common_modules").module_db


EVERY = [*built_in(), *row_samples.losses(), losskit.TripletMarginWithDistanceLoss]
EVERY = [loss for loss in EVERY if hasattr(F, loss.name)]  # `test_totals` knows which these are
LOSSES = {loss.name: loss for loss in EVERY}
CLASSES = {loss.__name__: loss for loss in EVERY}
OPS = {op.name.removeprefix("nn.functional."): op for op in op_db}
MODULES = {info.name.removeprefix("nn."): info for info in module_db}
VALUE_ULPS, SUM_ULPS, GRADIENT_ULPS = 2, 4, 4
INEXACT = ("ctc_loss", "CTCLoss", "cosine_embedding_loss", "CosineEmbeddingLoss")
POINTWISE = {loss.__name__ for loss in built_in()}
# Samples of torch 2.13 in each dtype, and how many of these pass the default checks. The others have labels or
# probabilities outside their domain, or shapes that broadcast. In float32 each runs a second time, strided.
OP_SAMPLES = {
    "binary_cross_entropy": (11, 11),
    "binary_cross_entropy_with_logits": (26, 26),
    "cosine_embedding_loss": (6, 0),
    "cross_entropy": (21, 21),
    "ctc_loss": (12, 12),
    "multi_margin_loss": (10, 10),
    "multilabel_margin_loss": (6, 6),
    "nll_loss": (61, 0),
    "triplet_margin_loss": (7, 7),
    "triplet_margin_with_distance_loss": (7, 7),
    "gaussian_nll_loss": (324, 180),
    "hinge_embedding_loss": (10, 9),
    "huber_loss": (9, 9),
    "kl_div": (16, 16),
    "l1_loss": (6, 6),
    "margin_ranking_loss": (24, 0),
    "mse_loss": (6, 6),
    "multilabel_soft_margin_loss": (4, 0),
    "poisson_nll_loss": (72, 72),
    "smooth_l1_loss": (8, 8),
    "soft_margin_loss": (6, 0),
}
MODULE_SAMPLES = {
    "BCELoss": (6, 6),
    "BCEWithLogitsLoss": (6, 6),
    "CTCLoss": (40, 40),
    "CosineEmbeddingLoss": (5, 5),
    "CrossEntropyLoss": (105, 105),
    "MultiLabelMarginLoss": (8, 8),
    "MultiMarginLoss": (7, 7),
    "NLLLoss": (28, 28),
    "GaussianNLLLoss": (5, 5),
    "HingeEmbeddingLoss": (10, 10),
    "HuberLoss": (4, 4),
    "KLDivLoss": (10, 2),
    "L1Loss": (5, 5),
    "MSELoss": (8, 8),
    "MarginRankingLoss": (5, 0),
    "MultiLabelSoftMarginLoss": (5, 5),
    "PoissonNLLLoss": (7, 7),
    "SmoothL1Loss": (8, 8),
    "SoftMarginLoss": (4, 4),
}


# ---------------------------------------------------------------------------------------------------------
# A call of a loss, and its comparison


@dataclass(frozen=True)
class Call:
    """Arguments of a function, or of a module and its constructor, that torch calls a sample."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    constructor: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def arguments(self) -> tuple[Any, ...]:
        return self.args, self.kwargs, self.constructor

    def run(self, library: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
        """The result and the gradients by every tensor that wants one, floating tensors in `dtype`."""
        args, kwargs, constructor = tree_map(lambda x: leaf(x, dtype), self.arguments())
        if constructor is None:
            result = getattr(library, self.name)(*args, **kwargs)
        else:
            result = getattr(library, self.name)(*constructor[0], **constructor[1])(*args, **kwargs)
        leaves = [x for x in [*args, *kwargs.values()] if isinstance(x, Tensor) and x.requires_grad]
        upstream = upstream_of(result)
        # torch has no gradient by a target that only selects: that is a gradient of 0.
        found = torch.autograd.grad(result, leaves, upstream, allow_unused=True, materialize_grads=True)
        return [result.detach(), *found]

    def elements(self) -> Call:
        """The same call with the unreduced loss."""
        if self.constructor is None:
            return replace(self, kwargs={**self.kwargs, "reduction": "none"})
        return replace(self, constructor=(self.constructor[0], {**self.constructor[1], "reduction": "none"}))

    def strided(self) -> Call:
        """The same numbers in memory with gaps."""
        args, kwargs, constructor = tree_map(gapped, self.arguments())
        return Call(self.name, args, kwargs, constructor)

    def __str__(self) -> str:
        shapes = tree_map(lambda x: tuple(x.shape) if isinstance(x, Tensor) else x, self.arguments())
        return f"{self.name}{shapes}"


def leaf(x: Any, dtype: torch.dtype | None) -> Any:
    """A tensor as a leaf of its own graph, in its own layout."""
    if not isinstance(x, Tensor):
        return x
    detached = x.detach()
    if dtype is not None and x.is_floating_point():
        detached = detached.to(dtype)
    return detached.requires_grad_(x.requires_grad)


def gapped(x: Any) -> Any:
    if not isinstance(x, Tensor) or x.ndim == 0:
        return x
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1] + 1, dtype=x.dtype)
    if x.ndim == 1 and not x.is_floating_point():
        return x  # torch's ctc_loss does not step through concatenated targets with gaps
    view = wide[..., 1::2]
    view.copy_(x.detach())
    return view.requires_grad_(x.requires_grad)


def upstream_of(result: Tensor) -> Tensor:
    """1 for a reduced loss; for an unreduced one numbers of both signs that are exact in every dtype."""
    if result.numel() == 1:
        return torch.ones_like(result)
    return ((torch.arange(result.numel()) % 7 - 3.5) / 4).reshape(result.shape).to(result.dtype)


def run_torch(call: Call, library: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
    """`call.run`, without torch's warnings about broadcasting and 'mean'."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call.run(library, dtype)


def ulp(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """The spacing of a dtype at given magnitudes, in float64."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(magnitude.double()).exponent
    spacing = torch.ldexp(torch.full_like(magnitude, info.eps, dtype=torch.float64), exponent - 1)
    return spacing.clamp(min=info.smallest_normal * info.eps)


def finite(x: Tensor) -> Tensor:
    return x.detach().double().nan_to_num(0.0, 0.0, 0.0)


def value_term(call: Call, truth: Tensor, elements: Tensor) -> Tensor:
    """What the rounding errors of a value are measured by: the largest number among operands and results."""
    sizes = [finite(x).abs().amax() for x in [*call.args, truth] if isinstance(x, Tensor) and x.numel()]
    sums = [finite(elements).abs().sum()] if reduced_to_sum(truth, elements) else []
    return torch.stack([*sizes, *sums]).amax()


def reduced_to_sum(truth: Tensor, elements: Tensor) -> bool:
    """Whether a result is the sum, not the mean, of the elements."""
    return truth.ndim == 0 and elements.numel() > 1 and torch.allclose(truth, elements.sum(), rtol=1e-9)


def gradient_term(gradients: list[Tensor], elements: Tensor, truth: Tensor) -> Tensor:
    """The same for gradients. That of a broadcast operand is a sum of those of the elements; slopes are near 1."""
    slope = 1.0 if truth.ndim or reduced_to_sum(truth, elements) else 1.0 / max(elements.numel(), 1)
    sizes = {x.numel() for x in gradients}
    norms = [finite(x).abs().sum() if len(sizes) > 1 else finite(x).abs().amax() for x in gradients if x.numel()]
    return torch.stack([torch.tensor(slope, dtype=torch.float64), *norms]).amax()


def assert_as_good(got: Tensor, own: Tensor, truth: Tensor, term: Tensor, ulps: float, what: str) -> None:
    """Same shape and dtype as torch, no farther from the truth than torch or `ulps` of the largest term."""
    assert got.shape == own.shape, f"{what}: shape {tuple(got.shape)}, torch {tuple(own.shape)}"
    assert got.dtype == own.dtype, f"{what}: {got.dtype}, torch {own.dtype}"
    known = truth.isfinite()  # where torch is NaN the limit may be finite: that is the subject of the deviations
    mine = (got.double() - truth).abs()[known]
    torchs = (own.double() - truth).abs()[known].nan_to_num(0.0)  # torch overflows in float16: no excuse
    allowed = torch.maximum(torchs, ulps * ulp(term, got.dtype).expand_as(truth)[known])
    wrong = ~(mine <= allowed)
    assert not wrong.any(), (
        f"{what}: {got[known][wrong][0].item()!r}, torch {own[known][wrong][0].item()!r}, "
        f"truth {truth[known][wrong][0].item()!r}, {int(wrong.sum())} of {wrong.numel()} elements"
    )


def compare(call: Call, torchs: Any, ours: Any, allow_off: bool) -> str:
    """Compare one call; the checks that it ran under."""
    truth, own = run_torch(call, torchs, torch.float64), run_torch(call, torchs)
    elements = run_torch(call.elements(), torchs, torch.float64)[0]
    got, checks = run_losskit(call, ours, allow_off)
    value_ulps = VALUE_ULPS if truth[0].ndim else SUM_ULPS
    # torch in float64 is the truth of float64; where it is known to be inexact, losskit may differ from it.
    several = 1e4 if own[0].dtype == torch.float64 and call.name in INEXACT else 1
    terms = [value_term(call, truth[0], elements)] + [gradient_term(truth[1:], elements, truth[0])] * len(truth[1:])
    for position, results in enumerate(zip(got, own, truth, terms, strict=True)):
        what = f"{call} in {own[0].dtype}, " + (f"gradient {position}" if position else "value")
        assert_as_good(*results, several * (GRADIENT_ULPS if position else value_ulps), what)
    return checks


def run_losskit(call: Call, ours: Any, allow_off: bool) -> tuple[list[Tensor], str]:
    """Results under the default checks or, where these refuse and the sample may be refused, without checks."""
    try:
        return call.run(ours), "raise"
    except ValueError:
        if not allow_off:
            raise
    with losskit.checks("off"):
        return call.run(ours), "off"


def count(calls: Iterator[Call], torchs: Any, ours: Any, allow_off: bool) -> tuple[int, int]:
    """Compare calls: how many there were, and how many ran under the default checks."""
    ran = Counter(compare(call, torchs, ours, allow_off) for call in calls)
    return ran.total(), ran["raise"]


# ---------------------------------------------------------------------------------------------------------
# Signatures and modules


def operands_of(name: str, shape: tuple[int, ...] = (3, 4)) -> list[Tensor]:
    loss, generator = CLASSES[name], torch.Generator().manual_seed(0)
    if not issubclass(loss, losskit.PointwiseLoss):
        own = "triplet_margin_loss" if name == "TripletMarginWithDistanceLoss" else loss.name
        return next(sample for sample in row_samples.SAMPLES if sample.name == own).operands(shape[0])
    return [loss.operands[operand].domain.sample(shape, generator) for operand in loss._call_operands()]
