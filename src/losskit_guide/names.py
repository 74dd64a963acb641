"""Names of losses as people write them: "huber", "HuberLoss", "BCE with logits", "mae".

A loss is found by its function's name, its class's name, or an alias of its declaration. Capitals, spaces, hyphens,
underscores and a final "loss" do not matter. A name that other people give to several losses, `FocalLoss`, finds none
of them: `AMBIGUOUS` has the choices.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

Names = tuple[str, ...]  # of one loss: of its function, of its class, its aliases

# Names that mean several losses, or one with other defaults: the classes, and how to tell which. Only those that exist
# are named. A name that is a loss's own, or an alias, is found before this table is asked.
_BOXES = {
    "GeneralizedBoxIoULoss": "boxes, GIoU",
    "DistanceBoxIoULoss": "boxes, DIoU",
    "CompleteBoxIoULoss": "boxes, CIoU",
}
_CONTRASTIVE = {
    "NTXentLoss": "two views of each sample, SimCLR",
    "InfoNCELoss": "given pairs",
    "SupConLoss": "labels",
    "CosineEmbeddingLoss": "pairs by their cosine",
    "HingeEmbeddingLoss": "pairs by their distance",
    "TripletMarginLoss": "triplets",
}
_MARGIN = {
    "MarginRankingLoss": "two scores",
    "MultiMarginLoss": "one class of several",
    "MultiLabelMarginLoss": "several classes",
    "SoftMarginLoss": "labels -1 and 1, logistic",
    "TripletMarginLoss": "embeddings",
}
_SMOOTHED = {"CrossEntropyLoss": "with label_smoothing=0.1"}
_PREFERENCE = {
    "DPOLoss": "pairs, with a reference model",
    "IPOLoss": "pairs, with a reference model and a target for the gap",
    "KTOLoss": "single answers",
    "ORPOLoss": "pairs, in one stage with fine-tuning",
    "SimPOLoss": "pairs, without a reference model",
    "CPOLoss": "pairs, for translations",
    "BradleyTerryLoss": "a reward model",
}
AMBIGUOUS: dict[str, dict[str, str]] = {
    "FocalLoss": {"SigmoidFocalLoss": "a label for each score", "SoftmaxFocalLoss": "one class of several"},
    "FocalLossWithLogits": {"SigmoidFocalLoss": "a label for each score", "SoftmaxFocalLoss": "one class of several"},
    "IoULoss": {**_BOXES, "JaccardLoss": "masks"},
    "BoxIoULoss": _BOXES,
    "BoxLoss": _BOXES,
    "ContrastiveLoss": _CONTRASTIVE,
    "PairwiseLoss": {"MarginRankingLoss": "with a margin", "BradleyTerryLoss": "logistic", "RankNetLoss": "lists"},
    "MarginLoss": _MARGIN,
    "OrdinalLoss": {"CORALLoss": "one weight for all questions", "CORNLoss": "any last layer"},
    "OrdinalRegressionLoss": {"CORALLoss": "one weight for all questions", "CORNLoss": "any last layer"},
    "SurvivalLoss": {"LogisticHazardLoss": "times in intervals", "CoxPHLoss": "one score for each subject"},
    "PreferenceLoss": _PREFERENCE,
    "RobustLoss": {
        "GeneralRobustLoss": "all of the family", "HuberLoss": "convex", "CauchyLoss": "far outliers count little",
        "TukeyBiweightLoss": "far outliers count nothing",
    },
    "BinaryFocalCrossentropy": {"SigmoidFocalLoss": "alpha=-1 is Keras's default"},
    "CategoricalFocalCrossentropy": {"SoftmaxFocalLoss": "times 0.25 is Keras's default"},
    "MulticlassHingeLoss": {"MultiMarginLoss": "the mean of all violations, as in torch, not the largest"},
    "LabelSmoothingLoss": _SMOOTHED,
    "LabelSmoothingCrossEntropyLoss": _SMOOTHED,
}  # fmt: skip


def find_name(text: str, losses: Iterable[Names]) -> str | None:
    """The function's name of the loss that `text` means, if there is one."""
    table = list(losses)
    exact = [names[0] for names in table if text in names[:2]]
    meant = exact or [names[0] for names in table if _bare(text) in map(_bare, names)]
    return meant[0] if meant else None


def close_name(text: str, losses: Iterable[Names]) -> str | None:
    """The name that `text` is probably a misspelling of, in the same style: of a class, of a function, or an alias."""
    known = {key(name): (name, names) for key in (_letters, _bare) for names in losses for name in reversed(names)}
    for wanted in (_letters(text), _bare(text)):
        close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.75)
        if close:
            name, names = known[close[0]]
            return name if name in names[2:] else names[1 if text[:1].isupper() else 0]
    return None


def choices(text: str, losses: Iterable[Names]) -> str | None:
    """The losses that an ambiguous name may mean, in words; names of functions for the name of a function."""
    functions = {names[1]: names[0] for names in losses}
    for name, meant in AMBIGUOUS.items():
        if _bare(name) == _bare(text):
            there = {cls: told for cls, told in meant.items() if cls in functions}
            shown = [f"{cls if text[:1].isupper() else functions[cls]} ({told})" for cls, told in there.items()]
            return " or ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]])) or None
    return None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _bare(name: str) -> str:
    """A name without what people leave out."""
    return _letters(name).removesuffix("loss") or _letters(name)
