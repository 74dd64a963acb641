"""What is timed: every loss with data from its own domain, the shapes, and how much faster it is asked to be."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as torch_functional

SQUARE = {"small": (32, 10), "1M": (1024, 1024), "16M": (4096, 4096)}


@dataclass(frozen=True)
class Case:
    """One loss to time: its function, what its arguments hold, and how much faster it is asked to be.

    `arguments` names entries of DATA, in the function's order; a trailing * asks for that gradient. `shapes`
    has the shape of the first argument for each size that the case is timed at. `torch` is torch's way to the
    same loss where that is not the function of the same name with the same options, and `jax` JAX's.
    `asked` is the smallest torch / losskit ratio accepted at 1M elements on one thread, `asked_16m` the
    one at 16M elements on two threads, `asked_jax` the smallest jax / losskit ratio at 1M elements on one thread, all
    in float32; None where nothing is asked.
    """

    name: str
    function: str
    arguments: tuple[str, ...]
    options: dict = field(default_factory=dict)
    shapes: dict = field(default_factory=lambda: SQUARE)
    torch: Callable | None = None
    jax: Callable | None = None
    compiles: bool = True  # torch.compile is a peer
    halves: bool = True  # torch has it in bfloat16 and float16
    asked: float | None = None
    asked_16m: float | None = None
    asked_jax: float | None = None


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


# What the arguments hold, from the shape of the first. Labels are drawn at random, so that no branch predictor can
# learn them. The classes are dimension 1; of a sequence (frames, samples, classes), the last.
DATA = {
    "normal": lambda shape: torch.randn(shape),
    "probability": lambda shape: torch.randn(shape).sigmoid(),
    "zero_or_one": lambda shape: torch.randint(0, 2, shape).float(),
    "plus_or_minus_one": lambda shape: torch.randint(0, 2, shape).float() * 2 - 1,
    "distance": lambda shape: 2 * torch.rand(shape),
    "variance": lambda shape: torch.nn.functional.softplus(torch.randn(shape)) + 0.01,
    "log_rate": lambda shape: 0.5 * torch.randn(shape) + 1,
    "count": lambda shape: torch.poisson(torch.exp(0.5 * torch.randn(shape) + 1)),
    "distribution": lambda shape: torch.randn(shape).softmax(-1),
    "log_distribution": lambda shape: torch.randn(shape).log_softmax(-1),
    "column_weight": lambda shape: 0.5 + 2 * torch.rand(shape[-1]),
    "class_index": lambda shape: torch.randint(0, shape[1], (shape[0], *shape[2:])),
    "three_classes": lambda shape: three_classes(*shape),
    "same_or_not": lambda shape: torch.randint(0, 2, shape[:1]) * 2 - 1,
    "labels": lambda shape: torch.randint(1, shape[2], (shape[1], shape[0] // 5)),
    "all_frames": lambda shape: torch.full((shape[1],), shape[0]),
    "all_labels": lambda shape: torch.full((shape[1],), shape[0] // 5),
}


def three_classes(rows, classes):
    """Three different classes for each row, closed by -1, the rest of the row unused."""
    targets = torch.full((rows, classes), -1)
    targets[:, :3] = torch.rand(rows, classes).topk(3).indices
    return targets


def by_classes(classes, large=True):
    """Shapes of rows of so many class scores, about as many elements as the size's name says."""
    shapes = {"1M": (round(1.024e6 / classes), classes)}
    return {**shapes, "16M": (round(1.6e7 / classes), classes)} if large else shapes


SMALL = {"small": (32, 10)}
SEQUENCES = {"small": (25, 4, 10), "1M": (200, 16, 80)}  # frames, samples, classes; a label for five frames

CASES = [
    Case("mse", "mse_loss", ("normal*", "normal"), asked=1.3, asked_16m=1.5),
    Case("l1", "l1_loss", ("normal*", "normal"), asked=4),
    Case("smooth_l1", "smooth_l1_loss", ("normal*", "normal"), asked=1.3),
    Case("huber", "huber_loss", ("normal*", "normal"), asked=1.3),
    Case(
        "bce_with_logits", "binary_cross_entropy_with_logits", ("normal*", "zero_or_one"),
        asked=3, asked_16m=3,
    ),
    Case(
        "bce_with_logits_pos_weight", "binary_cross_entropy_with_logits", ("normal*", "zero_or_one"),
        {"pos_weight": "column_weight"},
    ),
    Case("bce", "binary_cross_entropy", ("probability*", "zero_or_one"), asked=15),
    Case("kl_div", "kl_div", ("log_distribution*", "distribution"), asked=5),
    Case("kl_div_log_target", "kl_div", ("log_distribution*", "log_distribution"), {"log_target": True}),
    Case("poisson", "poisson_nll_loss", ("log_rate*", "count"), asked=4),
    Case("poisson_full", "poisson_nll_loss", ("log_rate*", "count"), {"full": True}, asked=15),
    Case("gaussian_nll", "gaussian_nll_loss", ("normal*", "normal", "variance*"), asked=7, asked_16m=4),
    Case("soft_margin", "soft_margin_loss", ("normal*", "plus_or_minus_one"), asked=5),
    Case("hinge_embedding", "hinge_embedding_loss", ("distance*", "plus_or_minus_one"), asked=25),
    Case("margin_ranking", "margin_ranking_loss", ("normal*", "normal*", "plus_or_minus_one"), asked=9),
    Case("multilabel_soft_margin", "multilabel_soft_margin_loss", ("normal*", "zero_or_one"), asked=6),
    Case(
        "cross_entropy_c1000", "cross_entropy", ("normal*", "class_index"),
        shapes=by_classes(1000), jax=optax_of_labels, asked=2, asked_16m=2, asked_jax=1,
    ),
    Case(
        "cross_entropy_c10", "cross_entropy", ("normal*", "class_index"),
        shapes=SMALL | by_classes(10, large=False), jax=optax_of_labels, asked=10, asked_jax=1,
    ),
    Case(
        "cross_entropy_c2", "cross_entropy", ("normal*", "class_index"),
        shapes={"small": (32, 2)} | by_classes(2, large=False), jax=optax_of_labels, asked=5, asked_jax=1,
    ),
    Case(
        "cross_entropy_v32000", "cross_entropy", ("normal*", "class_index"),
        shapes=by_classes(32000), jax=optax_of_labels, asked=1.9, asked_jax=1,
    ),
    Case(
        "cross_entropy_2d", "cross_entropy", ("normal*", "class_index"),
        shapes={"small": (2, 3, 8, 8), "1M": (8, 21, 78, 78), "16M": (128, 21, 78, 78)},
        jax=optax_of_labels, asked=2.5, asked_jax=1,
    ),
    Case(
        "cross_entropy_smoothed", "cross_entropy", ("normal*", "class_index"), {"label_smoothing": 0.1},
        shapes=SMALL | by_classes(1000, large=False), jax=optax_of_smoothed_labels, asked=2.2,
    ),
    Case(
        "cross_entropy_soft", "cross_entropy", ("normal*", "distribution"),
        shapes=SMALL | by_classes(1000, large=False), jax=optax_of_probabilities, asked=2,
    ),
    Case("nll", "nll_loss", ("log_distribution*", "class_index"), shapes=SMALL | by_classes(1000, large=False)),
    Case(
        "multi_margin", "multi_margin_loss", ("normal*", "class_index"),
        shapes=SMALL | by_classes(1000, large=False), halves=False, asked=9,
    ),
    # compiled, it takes 4655 ns per element
    Case(
        "multilabel_margin", "multilabel_margin_loss", ("normal*", "three_classes"),
        shapes=SMALL | by_classes(1000, large=False), compiles=False, halves=False, asked=25,
    ),
    Case(
        "cosine_embedding", "cosine_embedding_loss", ("normal*", "normal*", "same_or_not"),
        shapes=SMALL | {"1M": (8192, 128), "16M": (131072, 128)}, asked=6,
    ),
    Case(
        "triplet_margin", "triplet_margin_loss", ("normal*", "normal*", "normal*"),
        shapes=SMALL | {"1M": (8192, 128), "16M": (131072, 128)}, asked=6,
    ),
    Case(
        "ctc", "ctc_loss", ("log_distribution*", "labels", "all_frames", "all_labels"),
        shapes=SEQUENCES, compiles=False, halves=False,
    ),
    Case(
        "ctc_of_scores", "ctc_loss", ("normal*", "labels", "all_frames", "all_labels"), {"from_scores": True},
        shapes=SEQUENCES, torch=ctc_of_scores, compiles=False, halves=False, asked=12,
    ),
]  # fmt: skip
