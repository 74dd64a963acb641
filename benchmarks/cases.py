"""What is timed: every loss with the example operands of its family, and beside these rows what is special.

A new loss has its row by itself: operands, width of a row and gradients come from the declaration, and its peer is
torch's function of the same name, or where torch has none a composition of its operations (compositions*.py), or the
textbook's formula: `against` names it. By hand are other widths of class scores, options, data that the family does not
draw, and what is asked of a row.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature

import compositions
import compositions_of_composed
import compositions_of_images
import compositions_of_lists
import compositions_of_ordered
import compositions_of_pairs
import compositions_of_regions
import compositions_of_sequences
import compositions_of_two_rows
import torch
import torch.nn.functional as torch_functional

import losskit
from losskit.draw import Draw
from losskit.families.base import Family

COMPOSITIONS = (
    compositions, compositions_of_composed, compositions_of_images, compositions_of_lists, compositions_of_ordered,
    compositions_of_pairs, compositions_of_regions, compositions_of_sequences, compositions_of_two_rows,
)  # fmt: skip
Shape = tuple[int, ...]
# Of run.py: about so many elements, or pairs of them where a loss computes those.
SMALL = {"32x10": 320, "256x10": 2560, "4096x10": 40960}
LARGE = {"1M": 2**20, "16M": 2**24}


def rows_of(width):
    """Rows of so many numbers."""
    return lambda elements: (elements // width, width) if elements >= width else None


def alike(usual):
    """A shape of more than two dimensions, each of which grows by the same factor."""

    def shape(elements):
        factor = (elements / math.prod(usual)) ** (1 / len(usual))
        return tuple(max(2, round(factor * n)) for n in usual)

    return shape


def images(elements):
    """Eight images with scores of 21 classes for each pixel."""
    pixels = math.isqrt(elements // (21 * 8))
    return (8, 21, pixels, pixels) if pixels else None


def sequences(elements):
    """Frames, samples, classes. At a million torch's lattice would take all the time of the run: a quarter of it."""
    large = {2**18: (200, 16, 80), 2**20: (200, 16, 80), 2**22: (400, 64, 164), 2**26: (800, 64, 1310)}
    return {320: (25, 4, 10), 2**10: (25, 4, 10), **large}.get(elements)


@dataclass(frozen=True)
class Case:
    """One loss to time: its function, what differs from the defaults, and how much faster it is asked to be.

    shape: of the first operand, for about so many elements; None where there is no such size. `small` is the shape of
        the smallest size, `grows` its dimensions that grow, alike; `square` says that all samples meet all others.
    sizes: of run.py, where "small" is those of SMALL. A case without any is for GPUs, as are the fields in `on_gpu`.
    options: arguments of the function; `data` has operands that the family's example draws otherwise. Texts in them
        name entries of DATA.
    torch: torch's way to the same loss where that is not the function of the same name with the same options, and
        `jax` JAX's. compiles: torch.compile is a peer; liger: Liger's cross entropy is one.
    asked: the smallest torch / losskit ratio accepted at 1M elements on one thread, `asked_16m` the one at 16M elements
        on two threads, `asked_jax` the smallest jax / losskit ratio at 1M elements on one thread, all in float32; None
        where nothing is asked.
    """

    name: str
    function: str
    shape: Callable[[int], Shape | None]
    small: Shape = (32, 10)
    grows: tuple[int, ...] = (0,)
    square: bool = False
    sizes: tuple[str, ...] = ("small", *LARGE)
    options: Mapping[str, object] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    torch: Callable | None = None
    jax: Callable | None = None
    compiles: bool = True
    liger: bool = False
    on_gpu: Mapping[str, object] = field(default_factory=dict)
    asked: float | None = None
    asked_16m: float | None = None
    asked_jax: float | None = None

    @property
    def loss(self):
        """Its class."""
        return losskit.get(self.function)

    @property
    def shapes(self):
        """The shapes of run.py by size."""
        found = {size: self.grown(elements) for size, elements in SMALL.items() if "small" in self.sizes}
        found |= {size: self.shape(elements) for size, elements in LARGE.items() if size in self.sizes}
        return {size: shape for size, shape in found.items() if shape is not None}

    def grown(self, elements):
        """The small shape, grown to about so many elements; None where it has far more.

        A small shape of fewer elements than the smallest size is of a loss that computes more of them, such as pairs.
        """
        factor = elements / max(SMALL["32x10"], math.prod(self.small))
        each = factor ** (0.5 if self.square else 1 / len(self.grows))
        grown = tuple(round(each * n) if i in self.grows else n for i, n in enumerate(self.small))
        return grown if factor > 0.5 else None

    def arguments(self, shape, dtype, device="cpu"):
        """The operands, the same ones each time, and the options. What is no target has a gradient."""
        draw = Draw(dtype, device)
        example, names = self.loss._example(shape, draw), self.loss._call_operands()
        if len(example) < len(names):
            names = [name for name in names if name not in self.loss._optional_operands()]
        operands = dict(zip(names, example, strict=True))
        operands |= {name: DATA[entry](shape, draw) for name, entry in self.data.items()}
        operands = {name: x.to(device) for name, x in operands.items()}
        constant = ["target", "targets", *(k for k, x in self.loss.operands.items() if not x.differentiable)]
        for name, x in operands.items():
            x.requires_grad_(x.is_floating_point() and name not in constant)
        options = {k: DATA[x](shape, draw) if isinstance(x, str) else x for k, x in self.options.items()}
        return [*operands.values()], options


# Data that is drawn otherwise than the family does it.
DATA = {
    "distribution": lambda shape, draw: draw.normal(*shape).softmax(-1),
    "log_distribution": lambda shape, draw: draw.normal(*shape).log_softmax(-1),
    "column_weight": lambda shape, draw: draw.normal(shape[-1]).abs() + 0.5,
    "labels": lambda shape, draw: (draw.normal(*shape) > 1.0).to(draw.dtype),
    "counts": lambda shape, draw: torch_functional.softplus(2.0 * draw.normal(*shape)).round(),
    "levels": lambda shape, draw: ((torch.arange(shape[1]) + 0.5) / shape[1]).to(draw.dtype),
    "pixels": lambda shape, draw: draw.integers(0, shape[1], shape[0], *shape[2:]),
    "shares": lambda shape, draw: draw.normal(*shape).sigmoid(),
    "softmax": lambda shape, draw: "softmax",
    # Alike, since scales without any likeness lose the digits of float32.
    "image": lambda shape, draw: (
        0.05 * draw.normal(*shape)
        + 0.4 * torch.sin(0.05 * torch.arange(math.prod(shape), device=draw.device)).reshape(shape).to(draw.dtype)
    ),
    # Normal numbers in any order, of which no two of a row are alike, nor one and minus the other.
    "distinct": lambda shape, draw: torch.special.ndtri(
        (draw.normal(*shape).argsort(-1).double() + 0.3) / shape[-1]
    ).to(draw.dtype),
    "breslow": lambda shape, draw: "breslow",
    "counts_of_classes": lambda shape, draw: 1.0 + 1000.0 * draw.normal(shape[1]).abs(),
    "degrees": lambda shape, draw: 1.0 + 5.0 * draw.normal(*shape).abs(),
    "variance": lambda shape, draw: torch_functional.softplus(draw.normal(*shape)) + 0.01,
}


def ctc_of_scores(scores, targets, input_lengths, target_lengths):
    """torch's two calls for what losskit does in one."""
    return torch_functional.ctc_loss(scores.log_softmax(-1), targets, input_lengths, target_lengths)


def optax_of_labels(scores, labels):
    """Cross entropy of class indices, as JAX's users write it."""
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(scores, labels, axis=1).mean()


def optax_of_smoothed_labels(scores, labels):
    """optax smooths one-hot labels only."""
    import jax
    import optax

    shares = optax.smooth_labels(jax.nn.one_hot(labels, scores.shape[1]), 0.1)
    return optax.softmax_cross_entropy(scores, shares).mean()


def optax_of_probabilities(scores, probabilities):
    """Cross entropy of a distribution over the classes."""
    import optax

    return optax.softmax_cross_entropy(scores, probabilities).mean()


_SEQUENCES = {
    "shape": sequences, "small": (8, 4, 10), "grows": (0, 1), "sizes": ("small", "1M"), "compiles": False,
}  # fmt: skip
_IMAGES = {"grows": (2, 3)}
_LABELS = {"jax": optax_of_labels, "liger": True, "asked_jax": 1}
_BOXES = {"shape": lambda elements: (elements, 4), "small": (80, 4)}
_RANKS = {"shape": rows_of(10)}
_REGIONS = ("dice", "generalized_dice", "log_cosh_dice", "tversky", "focal_tversky", "jaccard", "lovasz_softmax")
# So many pairs, in lists of 100 items.
_LISTS = {"shape": lambda pairs: (pairs // 10_000, 100) if pairs >= 10_000 else None, "small": (4, 10)}
# So many, of rows of 128 numbers.
_PAIRS = {"shape": lambda pairs: (math.isqrt(pairs), 128), "small": (18, 16), "square": True}
# What is known of the rows of single losses, by the names of their files.
KNOWN = {
    "mse": {"asked": 1.3, "asked_16m": 1.5},
    "l1": {"asked": 4},
    "smooth_l1": {"asked": 1.3},
    "huber": {"asked": 1.3},
    "bce_with_logits": {"asked": 3, "asked_16m": 3},
    "bce": {"asked": 15},
    "kl_div": {"data": {"input": "log_distribution", "target": "distribution"}, "asked": 5},
    "poisson_nll": {"asked": 4},
    "ssim": {**_IMAGES, "small": (1, 1, 18, 18), "asked": 3},
    "ms_ssim": {**_IMAGES, "small": (1, 1, 176, 176), "data": {"input": "image", "target": "image"}, "asked": 3},
    # What they compute of a list is its square.
    "approx_ndcg": {"shape": lambda elements: (max(1, elements // 2**12), 64), "small": (4, 10)},
    "neural_ndcg": {"shape": lambda elements: (max(1, elements // 2**14), 64), "small": (4, 10)},
    "cox_ph": {"options": {"ties": "breslow"}},
    # Where two errors are alike, the slopes are those of either order, and torch's sort takes any.
    "lovasz_hinge": {"data": {"input": "distinct"}},
    "seesaw": {"options": {"counts": "counts_of_classes"}},
    # Variances next to 0 have gradients beyond the range of halves.
    "gaussian_nll": {"data": {"var": "variance"}, "asked": 7, "asked_16m": 4},
    "soft_margin": {"asked": 5},
    "hinge_embedding": {"asked": 25},
    "margin_ranking": {"asked": 9},
    "multilabel_soft_margin": {"asked": 6},
    "cross_entropy": {**_LABELS, "asked": 2, "asked_16m": 2},
    "multi_margin": {"asked": 9},
    "multilabel_margin": {"compiles": False, "asked": 25},  # compiled, it takes 4655 ns per element
    "cosine_embedding": {"asked": 6},
    "triplet_margin": {"asked": 6},
    "rank_net": {**_LISTS, "asked": 5},
    "lambda_loss": {**_LISTS, "asked": 5},
    "clip": {**_PAIRS, "asked": 2},
    "nt_xent": {**_PAIRS, "asked": 2},
    "info_nce": {**_PAIRS, "asked": 1.8},
    "siglip": {**_PAIRS, "asked": 2.1},
    "sup_con": {**_PAIRS, "asked": 2.7},
    "circle": {**_PAIRS, "asked": 4},
    "multi_similarity": {**_PAIRS, "asked": 2.5},
    "batch_hard_triplet": {**_PAIRS, "asked": 2.3},
    "knowledge_distillation": {"asked": 4},
    "jensen_shannon": {"asked": 6},
    "ctc": _SEQUENCES,
    "rnnt": {"grows": (0, 1, 2), "sizes": ("small", "1M"), "compiles": False, "asked": 5},
    "soft_dtw": {
        "shape": lambda elements: (max(1, elements // 2**13), 64, 8),  # a series' matrix has 4 times its numbers
        "small": (4, 10, 8),
        "sizes": ("small", "1M"),
        "compiles": False,
        "asked": 10,
    },
    "linear_chain_crf": {
        "shape": lambda elements: (max(1, elements // 1600), 100, 16),
        "small": (4, 10, 8),
        "grows": (0, 1),
        "sizes": ("small", "1M"),
        "compiles": False,
        "asked": 8,
    },
    "sigmoid_focal": {"data": {"target": "labels"}, "asked": 6},
    "asymmetric": {"data": {"target": "labels"}, "asked": 5},
    "softmax_focal": {"asked": 4},
    "negative_binomial_nll": {"data": {"target": "counts", "dispersion": "variance"}, "asked": 4},
    "zero_inflated_negative_binomial_nll": {"data": {"target": "counts", "dispersion": "variance"}, "asked": 3},
    "gaussian_crps": {"data": {"scale": "variance"}, "asked": 3},
    "student_t_nll": {"data": {"scale": "variance", "df": "degrees"}, "asked": 3},
    "generalized_box_iou": {**_BOXES, "asked": 15},
    "distance_box_iou": {**_BOXES, "asked": 6},
    "complete_box_iou": {**_BOXES, "asked": 6},
    "ldam": {"options": {"counts": "counts_of_classes"}},
    "multi_quantile": {**_RANKS, "options": {"quantiles": "levels"}, "asked": 3},
    "coral": _RANKS,
    "corn": _RANKS,
    "logistic_hazard": _RANKS,
    **{name: {**_IMAGES, "small": (2, 4, 6, 7)} for name in _REGIONS},
    "soft_cldice": {**_IMAGES, "small": (2, 1, 12, 13)},
    "evidential_classification": {"shape": rows_of(100), "small": (32, 10)},
}
_V32000 = {"shape": rows_of(32000)}  # vocabularies, where the CPU's benchmark has a thousand classes
_NOT_16M = ("small", "1M")
SPECIAL = [
    Case(
        "bce_with_logits_pos_weight", "binary_cross_entropy_with_logits", rows_of(1000),
        options={"pos_weight": "column_weight"},
    ),
    Case(
        "kl_div_log_target", "kl_div", rows_of(1000), options={"log_target": True},
        data={"input": "log_distribution", "target": "log_distribution"},
    ),
    Case("poisson_full", "poisson_nll_loss", rows_of(1000), options={"full": True}, asked=15),
    Case("cross_entropy_c10", "cross_entropy", rows_of(10), sizes=_NOT_16M, **_LABELS, asked=10),
    Case("cross_entropy_c2", "cross_entropy", rows_of(2), (32, 2), sizes=_NOT_16M, **_LABELS, asked=5),
    Case("cross_entropy_v32000", "cross_entropy", rows_of(32000), sizes=("1M", "16M"), **_LABELS, asked=1.9),
    Case("cross_entropy_v128256", "cross_entropy", rows_of(128256), sizes=(), liger=True),
    Case(
        "cross_entropy_2d", "cross_entropy", images, (2, 3, 8, 8), **_IMAGES,
        jax=optax_of_labels, asked=2.5, asked_jax=1,
    ),
    Case(
        "cross_entropy_smoothed", "cross_entropy", rows_of(1000), sizes=_NOT_16M, options={"label_smoothing": 0.1},
        jax=optax_of_smoothed_labels, liger=True, asked=2.2,
        on_gpu={"name": "cross_entropy_smoothed_v32000", **_V32000},
    ),
    Case(
        "cross_entropy_soft", "cross_entropy", rows_of(1000), sizes=_NOT_16M, data={"target": "distribution"},
        jax=optax_of_probabilities, on_gpu={"name": "cross_entropy_soft_v32000", **_V32000}, asked=2,
    ),
    Case(
        "dice_softmax", "dice_loss", alike((4, 4, 256, 256)), (2, 4, 6, 7), **_IMAGES, data={"target": "pixels"},
        options={"activation": "softmax"}, asked=2.5,
    ),
    Case(
        "dice_soft_label", "dice_loss", alike((4, 4, 256, 256)), (2, 4, 6, 7), **_IMAGES, data={"target": "shares"},
        options={"soft_label": True},
    ),
    Case(
        "ctc_of_scores", "ctc_loss", **_SEQUENCES, options={"from_scores": True}, torch=ctc_of_scores, asked=12,
    ),
]  # fmt: skip


def row_of(cls):
    """The row of a loss, under the name of its file."""
    usual = cls._usual_shape
    name = cls.__module__.rsplit(".", 1)[-1]
    if len(usual) == 2:
        case = Case(name, cls.name, rows_of(usual[1]))
    else:
        case = Case(name, cls.name, alike(usual), small=alike(usual)(SMALL["32x10"]))
    return replace(case, **KNOWN.get(name, {}))


def cases():
    """Every built-in loss with a function of one formula, each followed by its special rows."""
    found = [cls for cls in losskit.list_losses().values() if issubclass(cls, Family)]
    rows = [row_of(cls) for cls in found if cls.__module__.startswith("losskit.losses.")]
    return sorted([*rows, *SPECIAL], key=lambda case: case.function)


CASES = cases()


def torch_way(case, options):
    """torch's function for a case with its options; where torch has none, the loss as people write it in torch: a
    composition by hand, or the textbook's formula."""
    return _peer(case, options)[1:]


def against(case, options):
    """What `torch_way` is, by name: "F.mse_loss", "compositions.dpo_loss"; "textbook", the formula as books print it;
    "formula", that of the declaration."""
    return _peer(case, options)[0]


def _peer(case, options):
    if case.torch is not None:
        return f"{case.torch.__module__}.{case.torch.__name__}", case.torch, {}
    for module in (torch_functional, *COMPOSITIONS):
        if hasattr(module, case.function):
            where = "F" if module is torch_functional else module.__name__
            return f"{where}.{case.function}", getattr(module, case.function), options
    loss = case.loss(**(case.loss._needed() | options))
    if issubclass(case.loss, losskit.PointwiseLoss) and not options:
        fields = {
            name: getattr(loss, name) for name in case.loss.params if name in signature(case.loss.value).parameters
        }
        told, book = ("textbook", case.loss.textbook) if case.loss.textbook else ("formula", case.loss.value)
        return told, lambda *operands: book(*operands, **fields).mean(), {}
    plan, parameters = loss._planned(), loss._slot_params()

    def formula(*operands):
        return plan.eager(plan.validated([*operands, *parameters], None, None, None, None), "off")

    return "formula", formula, {}


def takes(case, dtype):
    """Whether torch's function takes a dtype; some of its kernels do not know halves."""
    operands, options = case.arguments(case.small, dtype)
    function, options = torch_way(case, options)
    try:
        function(*operands, **options).backward()
    except RuntimeError:  # NotImplementedError is one
        return False
    return True
