"""The losses of which DTensors are tested, among them some of one's own, and their operands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import losskit
import losskit.functional as LF
from losskit.formula import absolute, exp, log1p

Call = Callable[..., Tensor]
ROWS, CLASSES = 7, 5  # neither divides by the number of ranks


class OwnPointwiseLoss(losskit.PointwiseLoss):
    """A custom loss of elements."""

    slope: float = losskit.param(default=0.5, doc="")

    @staticmethod
    def value(input, target, slope):
        return slope * log1p(absolute(input - target)) * input


class OwnScoresLoss(losskit.ClassScoresLoss):
    """A custom loss of all three statistics of class scores."""

    gamma: float = losskit.param(default=0.5, doc="")

    @staticmethod
    def value(log_probability, log_sum_exp, mean_log_probability, gamma):
        return -log_probability * exp(gamma * log_probability) + 0.1 * log_sum_exp - 0.3 * mean_log_probability


class OwnShiftedLoss(losskit.ClassScoresLoss):
    """A custom loss of shifted class scores."""

    prior: Tensor | None = losskit.param(default=None, doc="")

    @staticmethod
    def value(log_probability):
        return -log_probability

    @staticmethod
    def shift(prior):
        return prior.log()


class OwnMarginsLoss(losskit.MarginsLoss):
    """A custom loss of margins."""

    @staticmethod
    def value(difference):
        return log1p(exp(-difference))


class OwnTwoRowsLoss(losskit.TwoRowsLoss):
    """A custom loss of two rows."""

    @staticmethod
    def value(teacher, student, log_ratio):
        return (student - teacher) * log_ratio


class OwnEmbeddingsLoss(losskit.EmbeddingsLoss):
    """A custom loss of embeddings."""

    operands = {"input": losskit.Operand("one"), "other": losskit.Operand("other")}

    @staticmethod
    def value(distance):
        return log1p(distance * distance)


def _random() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    normal, uniform = partial(torch.randn, generator=g), partial(torch.rand, generator=g)
    labels = torch.randint(0, CLASSES, (ROWS,), generator=g)
    ignored = labels.clone()
    ignored[2] = -100
    lists = torch.stack([torch.randperm(CLASSES, generator=g) for _ in range(ROWS)])
    lists[torch.arange(ROWS), torch.randint(0, CLASSES - 1, (ROWS,), generator=g)] = -1
    scores = normal(ROWS, CLASSES) * 3
    scores[4] = torch.tensor([60.0, 0.0, -3.0, 1.0, 2.0])
    return {
        "x": normal(ROWS, CLASSES), "y": normal(ROWS, CLASSES), "z": normal(ROWS, CLASSES), "scores": scores,
        "p": uniform(ROWS, CLASSES), "q": uniform(ROWS, CLASSES), "bits": (uniform(ROWS, CLASSES) > 0.5).float(),
        "signs": torch.where(uniform(ROWS, CLASSES) > 0.5, 1.0, -1.0), "row_signs": torch.where(uniform(ROWS) > 0.5, 1.0, -1.0),
        "labels": labels, "ignored": ignored, "soft": normal(ROWS, CLASSES).softmax(1), "lists": lists,
        "log_p": normal(ROWS, CLASSES).log_softmax(1), "images": normal(ROWS, CLASSES, 3), "per_class": uniform(CLASSES) + 0.5,
        "pixels": torch.randint(0, CLASSES, (ROWS, 3), generator=g), "per_row": uniform(ROWS) + 0.5,
        "mask": uniform(ROWS) > 0.3, "element_mask": uniform(ROWS, CLASSES) > 0.3, "column": uniform(ROWS, 1) + 0.5,
        "frames": normal(6, ROWS, CLASSES).log_softmax(2), "texts": torch.randint(1, CLASSES, (ROWS, 2), generator=g),
        "text": torch.randint(1, CLASSES, (2 * ROWS,), generator=g),
        "cosines": torch.tanh(normal(ROWS, CLASSES)), "events": (uniform(ROWS) > 0.5).float(),
        "frame_counts": torch.full((ROWS,), 6), "lengths": torch.tensor([2, 1, 2, 0, 2, 2, 1]),
    }  # fmt: skip


T = _random()
ELEMENTS = {"sample_weight": "column", "mask": "element_mask"}
OF_ROWS = {"sample_weight": "per_row", "mask": "mask"}


def manhattan(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().sum(-1)


def _with_distance(*operands: Tensor, **options: Any) -> Tensor:
    return LF.triplet_margin_with_distance_loss(*operands, distance_function=manhattan, **options)


# loss: the call, the operands, options, options that are tensors, what by-keyword tensors it may have in addition
Entry = tuple[Call, list[str], dict[str, Any], dict[str, str], dict[str, str]]
LOSSES: dict[str, Entry] = {
    "l1": (LF.l1_loss, ["x", "y"], {}, {}, ELEMENTS),
    "mse": (LF.mse_loss, ["x", "y"], {}, {}, ELEMENTS),
    "mse, weight": (LF.mse_loss, ["x", "y"], {}, {"weight": "q"}, ELEMENTS),
    "huber": (LF.huber_loss, ["x", "y"], {"delta": 0.7}, {}, ELEMENTS),
    "smooth_l1": (LF.smooth_l1_loss, ["x", "y"], {"beta": 0.7}, {}, ELEMENTS),
    "bce": (LF.binary_cross_entropy, ["p", "q"], {}, {"weight": "per_class"}, ELEMENTS),
    "bce_with_logits": (LF.binary_cross_entropy_with_logits, ["x", "q"], {}, {"pos_weight": "per_class"}, ELEMENTS),
    "kl_div": (LF.kl_div, ["log_p", "p"], {}, {}, ELEMENTS),
    "kl_div, log_target": (LF.kl_div, ["log_p", "z"], {"log_target": True}, {}, ELEMENTS),
    "poisson_nll": (LF.poisson_nll_loss, ["x", "p"], {"full": True}, {}, ELEMENTS),
    "gaussian_nll": (LF.gaussian_nll_loss, ["x", "y", "column"], {}, {}, ELEMENTS),
    "gaussian_nll, a variance per row": (LF.gaussian_nll_loss, ["x", "y", "per_row"], {}, {}, ELEMENTS),
    "gaussian_nll, a number": (lambda x, y, **k: LF.gaussian_nll_loss(x, y, 0.5, **k), ["x", "y"], {}, {}, ELEMENTS),
    "hinge_embedding": (LF.hinge_embedding_loss, ["p", "signs"], {"margin": 0.6}, {}, ELEMENTS),
    "soft_margin": (LF.soft_margin_loss, ["x", "signs"], {}, {}, ELEMENTS),
    "margin_ranking": (LF.margin_ranking_loss, ["x", "y", "signs"], {"margin": 0.2}, {}, ELEMENTS),
    "multilabel_soft_margin": (LF.multilabel_soft_margin_loss, ["x", "bits"], {}, {"weight": "per_class"}, OF_ROWS),
    "own, elements": (OwnPointwiseLoss.functional, ["x", "y"], {}, {}, ELEMENTS),
    "cross_entropy": (LF.cross_entropy, ["scores", "labels"], {}, {}, OF_ROWS),
    "cross_entropy, all": (LF.cross_entropy, ["scores", "ignored"], {"label_smoothing": 0.2}, {"weight": "per_class"}, OF_ROWS),
    "cross_entropy, soft": (LF.cross_entropy, ["scores", "soft"], {"label_smoothing": 0.2}, {"weight": "per_class"}, OF_ROWS),
    "cross_entropy, images": (LF.cross_entropy, ["images", "pixels"], {}, {"weight": "per_class"}, {}),
    "cross_entropy, one row": (lambda x, y, **k: LF.cross_entropy(x[0], y[0], **k), ["scores", "labels"], {}, {}, {}),
    "nll": (LF.nll_loss, ["log_p", "ignored"], {}, {"weight": "per_class"}, OF_ROWS),
    "own, scores": (OwnScoresLoss.functional, ["scores", "ignored"], {"label_smoothing": 0.2}, {"weight": "per_class"}, OF_ROWS),
    "own, soft scores": (OwnScoresLoss.functional, ["scores", "soft"], {}, {}, OF_ROWS),
    "own, shifted scores": (OwnShiftedLoss.functional, ["scores", "labels"], {}, {"prior": "per_class"}, OF_ROWS),
    "arcface": (LF.arcface_loss, ["cosines", "ignored"], {"label_smoothing": 0.2}, {"weight": "per_class"}, OF_ROWS),
    "cosface": (LF.cosface_loss, ["cosines", "labels"], {}, {}, OF_ROWS),
    "sphereface": (LF.sphereface_loss, ["cosines", "ignored", "per_row"], {}, {}, OF_ROWS),
    "ldam": (LF.ldam_loss, ["x", "labels"], {}, {"counts": "per_class"}, OF_ROWS),
    "softmax_focal, alpha": (LF.softmax_focal_loss, ["scores", "ignored"], {}, {"alpha": "per_class"}, OF_ROWS),
    "z": (LF.z_loss, ["scores"], {"coefficient": 0.1}, {}, OF_ROWS),
    "coral": (LF.coral_loss, ["x", "labels"], {}, {}, OF_ROWS),
    "corn": (LF.corn_loss, ["x", "labels"], {}, {}, OF_ROWS),
    "logistic_hazard": (LF.logistic_hazard_loss, ["x", "labels", "events"], {}, {}, OF_ROWS),
    "multi_margin": (LF.multi_margin_loss, ["x", "labels"], {"p": 2}, {"weight": "per_class"}, OF_ROWS),
    "multilabel_margin": (LF.multilabel_margin_loss, ["x", "lists"], {}, {}, OF_ROWS),
    "distillation": (LF.knowledge_distillation_loss, ["x", "y"], {"temperature": 2.0}, {}, OF_ROWS),
    "own, two rows": (OwnTwoRowsLoss.functional, ["x", "y"], {}, {}, OF_ROWS),
    "own, margins": (OwnMarginsLoss.functional, ["x", "labels"], {}, {}, OF_ROWS),
    "cosine_embedding": (LF.cosine_embedding_loss, ["x", "y", "row_signs"], {"margin": 0.1}, {}, OF_ROWS),
    "triplet_margin": (LF.triplet_margin_loss, ["x", "y", "z"], {"swap": True}, {}, OF_ROWS),
    "triplet_margin_with_distance": (_with_distance, ["x", "y", "z"], {}, {}, {}),
    "own, embeddings": (OwnEmbeddingsLoss.functional, ["x", "y"], {}, {}, OF_ROWS),
    "ctc": (LF.ctc_loss, ["frames", "texts", "frame_counts", "lengths"], {}, {}, OF_ROWS),
    "ctc, lists": (lambda f, t, **k: LF.ctc_loss(f, t, T["frame_counts"].tolist(), T["lengths"].tolist(), **k),
                   ["frames", "texts"], {"zero_infinity": True}, {}, OF_ROWS),
    "ctc, concatenated": (lambda f, t, **k: LF.ctc_loss(f, t, [6] * ROWS, [2] * ROWS, **k), ["frames", "text"], {}, {}, {}),
}  # fmt: skip
