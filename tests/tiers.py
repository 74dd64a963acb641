"""Which tests `make test` leaves to `make test-all`: those with the mark `full`, each for a reason.

1. Every loss, in what a mistake in its declaration or its proof could break: about 40 tests and 4 seconds each.
2. Every family and every path - kernel, formula, compiled, the GPU's kernels interpreted, DTensors, the cache, export -
   on a few losses that represent the others.
3. Full: the same paths with every loss, dtype and size.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest

# Together: a parameter that is a tensor, one that is a number, labels, probabilities, a mean over the classes of a row,
# an operand that broadcasts; and for each family of rows two ways to call it.
REPRESENTATIVES = {
    "binary_cross_entropy_with_logits-pos_weight=2.5", "multilabel_soft_margin_loss", "gaussian_nll_loss-eps=0.3",
    "cross_entropy-probabilities_weight", "nll_loss-weight", "multi_margin_loss-p2_weight",
    "multilabel_margin_loss-lists", "cosine_embedding_loss-margin", "triplet_margin_loss-swap", "ctc_loss-blank",
    "ctc_loss-scores", "dice_loss-labels", "generalized_dice_loss-square", "knowledge_distillation_loss-temperature",
    "jensen_shannon_loss-share", "list_mle_loss-padded", "cox_ph_loss-efron",
}  # fmt: skip
NAMES = {name.split("-")[0] for name in REPRESENTATIVES}


def full(reason: str) -> pytest.MarkDecorator:
    """The mark of a test that only `make test-all` runs. The reason, a line of CONTRIBUTING, says what it covers."""
    return pytest.mark.full(reason)


def rest(values: Iterable[Any], few: Callable[[Any], bool] | Iterable[Any], reason: str) -> list[Any]:
    """Parameters of a test, all but a few of them full: those in a collection, or those of which a function is true."""
    chosen = few if callable(few) else list(few).__contains__
    return [value if chosen(value) else pytest.param(value, marks=full(reason)) for value in values]


def represented(values: Iterable[Any], reason: str | None) -> list[Any]:
    """Setups or samples as parameters with readable names; with a reason, all but the representatives full."""
    marks = lambda value: [full(reason)] if reason and str(value) not in REPRESENTATIVES else []
    return [pytest.param(value, id=str(value), marks=marks(value)) for value in values]


def first_of_each(items: Iterable[pytest.Item], reason: str) -> None:
    """Of each test function the first parameters stay, the others are full."""
    functions: dict[str, list[pytest.Item]] = {}
    for item in items:
        functions.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for calls in functions.values():
        for item in calls[1:]:
            item.add_marker(full(reason))


REASONS = pytest.StashKey[set[str]]()


def remember(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Note why tests are full, for the test that compares CONTRIBUTING."""
    config.stash[REASONS] = {mark.args[0] for item in items for mark in item.iter_markers("full")}


def in_shard(nodeid: str, shard: str) -> bool:
    """Whether a test is in a shard, "2/4". What a file asks of a loss stays together: truths are made once."""
    number, of = (int(part) for part in shard.split("/"))
    if not 1 <= number <= of:
        raise pytest.UsageError(f"SHARD must be 1/N to N/N, got {shard}")
    name, _, parameters = nodeid.partition("[")
    key = name.split("::")[0] + parameters.split("-")[0] if parameters else name
    return zlib.crc32(key.encode()) % of == number - 1


def only_shard(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the collected tests, those of the shard that the environment's SHARD names."""
    if shard := os.environ.get("SHARD"):
        kept = [item for item in items if in_shard(item.nodeid, shard)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
