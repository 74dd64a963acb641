"""AdaptiveLogSoftmaxWithLoss: a softmax over very many classes that is cheap for the frequent ones.

It is a layer with parameters and not a formula of its operands, so it is no declaration and not in the registry. Each
of its two factors is a cross entropy: of the head (frequent classes, and one score for each cluster of rare ones), and
of the cluster that the target is in. They are losskit's, so a well-classified row keeps its digits, targets of any
integer dtype will do, and every order of derivative exists.

1. Eagerly, a cluster is computed for the rows whose target it holds. How many these are depends on data, which
   torch.compile(fullgraph=True), vmap and meta tensors cannot follow: there each cluster is computed for every row and
   rows outside of it are masked. The values are the same, the work is that of `log_prob`.
2. The names of parameters, their shapes and the order in which they are drawn are torch's: a state_dict goes either
   way, and the same seed gives the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor, nn

from losskit.errors import error
from losskit.kernels import eager, sharded
from losskit.kernels.torch_internals import exporting, hidden
from losskit.losses.cross_entropy import CrossEntropyLoss
from losskit.plan import Plan
from losskit.policy import state
from losskit.reduction import both, reduce_eagerly
from losskit.validation import check_extras, check_floating, check_tensor


class AdaptiveOutput(NamedTuple):
    """What a call gives: the log-probability of each target, and minus their mean."""

    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(nn.AdaptiveLogSoftmaxWithLoss):
    """Softmax over very many classes, the rare ones in clusters with narrower projections.

    Choose it for language models over large vocabularies whose words follow Zipf's law: most rows then need the head
    alone. Classes must be sorted by frequency, class 0 the most frequent.
    Prefer CrossEntropyLoss up to some ten thousand classes, or where classes are about equally frequent.

    Args:
        in_features: Width of the input.
        n_classes: Number of classes.
        cutoffs: Where clusters of rarer classes begin, increasing, each in [1, n_classes - 1].
        div_value: By how much the projection of each cluster is narrower than that of the one before.
        head_bias: Whether the head has a bias.
        device: Of the parameters.
        dtype: Of the parameters.

    Called with `input` (N, in_features) and `target` (N,), or (in_features,) and a scalar; by keyword with
    `sample_weight`, `mask` (True = counts; masked rows give log-probability 0) and `normalizer`, which replaces the
    denominator of the mean. Returns (output, loss).

    Raises:
        ValueError: Shapes do not match, cutoffs do not increase, or a target is no class; see `losskit.checks`.

    Source: Grave, E., Joulin, A., Cissé, M., Grangier, D. and Jégou, H. (2017). Efficient softmax approximation for
    GPUs. ICML. arXiv:1609.04309.
    """

    name = "adaptive_log_softmax_with_loss"

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)  # torch's class is the base so that isinstance knows this one
        edges = list(cutoffs)
        increasing = all(a < b for a, b in zip([0, *edges], [*edges, n_classes], strict=True))
        if not edges or not increasing or any(int(edge) != edge for edge in edges):
            raise error(
                "parameter", loss=type(self).__name__, argument="cutoffs", got=edges,
                expected=f"increasing integers in [1, {n_classes - 1}], at least one",
            )  # fmt: skip
        self.in_features, self.n_classes, self.cutoffs = in_features, n_classes, [*edges, n_classes]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(edges)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = nn.Linear(in_features, self.head_size, bias=head_bias, device=device, dtype=dtype)
        self.tail = nn.ModuleList()
        for i, (low, high) in enumerate(self._clusters()):
            width = int(in_features // div_value ** (i + 1))
            if width == 0:
                raise error(
                    "parameter", loss=type(self).__name__, argument="div_value", got=div_value,
                    expected=f"such that cluster {i} of {in_features} features is at least 1 wide",
                )  # fmt: skip
            narrow = nn.Linear(in_features, width, bias=False, device=device, dtype=dtype)
            wide = nn.Linear(width, high - low, bias=False, device=device, dtype=dtype)
            self.tail.append(nn.Sequential(narrow, wide))

    def _clusters(self) -> list[tuple[int, int]]:
        """The classes of each cluster: from, and up to but without."""
        return list(zip(self.cutoffs[:-1], self.cutoffs[1:], strict=True))

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as the constructor does."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, n_classes={self.n_classes}, cutoffs={self.cutoffs[:-1]}"

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> AdaptiveOutput:
        self._check(input, target, sample_weight, mask, normalizer)
        alone = input.ndim == 1
        rows, classes = (input.unsqueeze(0), target.long().unsqueeze(0)) if alone else (input, target.long())
        counts = None if mask is None else torch.broadcast_to(mask, target.shape).reshape(classes.shape)
        bad = (classes < 0) | (classes >= self.n_classes)
        poison = _apply_checks(both(bad, counts), target, self.n_classes)
        if counts is not None:
            rows = torch.where(counts.unsqueeze(1), rows, 0.0)  # a NaN behind the mask must not reach the gradient
        losses = self._of_head(rows, classes) + self._of_clusters(rows, classes)
        losses = eager.nan_where(losses, poison)
        if counts is not None:
            losses = torch.where(counts, losses, 0.0)
        losses = losses.squeeze(0) if alone else losses
        loss = reduce_eagerly(
            losses, "mean", weight=None, weight_in_mean=False, sample_weight=sample_weight, mask=mask,
            normalizer=normalizer,
        )  # fmt: skip
        return AdaptiveOutput(-losses, loss)

    def _check(
        self, input: Tensor, target: Tensor, sample_weight: Tensor | None, mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> None:  # fmt: skip
        """Refuse what is no input, or no target for it."""
        given = {"input": input, "target": target, "sample_weight": sample_weight, "mask": mask}
        for argument, x in given.items():
            if sharded.involved(x):
                hint = f"{argument}.full_tensor(), or {argument}.to_local() and normalizer="
                raise error("not_plain", loss=self.name, argument=argument, hint=hint)
        for argument, x in (("input", input), ("target", target)):
            check_tensor(self.name, argument, x, "input", input)
        check_floating(self.name, "input", input)
        if input.ndim not in (1, 2) or input.shape[-1] != self.in_features:
            raise error(
                "parameter", loss=self.name, argument="input", got=f"shape {tuple(input.shape)}",
                expected=f"of shape (N, {self.in_features}) or ({self.in_features},)",
            )  # fmt: skip
        if target.is_floating_point() or target.dtype == torch.bool or target.shape != input.shape[:-1]:
            raise error(
                "class_indices", loss=self.name, rows=tuple(input.shape[:-1]), input=tuple(input.shape),
                dtype=target.dtype, got=tuple(target.shape), hint="",
            )  # fmt: skip
        check_extras(_NAMES, input, target.shape, None, (), sample_weight, mask, normalizer)

    def _of_head(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Cross entropy of the head: of a frequent class, or of the cluster that a rare one is in."""
        index = classes.clamp(0, self.shortlist_size - 1)
        for i, (low, high) in enumerate(self._clusters()):
            index = torch.where((classes >= low) & (classes < high), self.shortlist_size + i, index)
        return _cross_entropy(self.head(rows), index)

    def _of_clusters(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Cross entropy of the target within its cluster; 0 for frequent classes."""
        whole = hidden(rows)
        total = rows.new_zeros(rows.shape[0])
        for (low, high), project in zip(self._clusters(), self.tail, strict=True):
            within = (classes >= low) & (classes < high)
            if whole:
                losses = _cross_entropy(project(rows), torch.where(within, classes - low, 0))
                total = total + torch.where(within, losses, 0.0)
                continue
            found = within.nonzero().squeeze(1)
            if len(found):
                losses = _cross_entropy(project(rows[found]), classes[found] - low)
                total = total.to(losses.dtype).index_add(0, found, losses)
        return total

    def log_prob(self, input: Tensor) -> Tensor:
        """Log-probabilities of all classes, (N, n_classes)."""
        head = torch.log_softmax(self.head(input), 1)
        parts = [head[:, : self.shortlist_size]]
        for i, project in enumerate(self.tail):
            of_cluster = head[:, self.shortlist_size + i].unsqueeze(1)
            parts.append(torch.log_softmax(project(input), 1) + of_cluster)
        return torch.cat(parts, 1)

    def predict(self, input: Tensor) -> Tensor:
        """The most probable class of each row, (N,); the tail is computed for rows that may have it there."""
        best = self.head(input).argmax(1)
        rare = best >= self.shortlist_size
        if hidden(input):
            return torch.where(rare, self.log_prob(input).argmax(1), best)
        found = rare.nonzero().squeeze(1)
        return best.index_copy(0, found, self.log_prob(input[found]).argmax(1)) if len(found) else best


_NAMES = Plan(cast(Any, AdaptiveLogSoftmaxWithLoss), "mean", 0, ["input", "target"], [])  # for messages


def _cross_entropy(scores: Tensor, index: Tensor) -> Tensor:
    if scores.shape[-1] == 1:  # a cluster of one class is right, and no mistake to be warned of
        return scores.select(-1, 0) * 0.0
    return CrossEntropyLoss.functional(scores, index, reduction="none")


def _apply_checks(bad: Tensor, target: Tensor, classes: int) -> Tensor | None:
    """Refuse targets that are no classes, or say which rows they make NaN (None: none)."""
    if state.checks in ("off", "nan") or bad.device.type != "cpu":
        return bad
    if exporting():
        return bad
    if hidden(bad):
        return bad | _refuse_class(bad, target.expand_as(bad), classes)
    if bool(bad.any()):
        _refuse(bad, target.expand_as(bad), classes)
    return None


def _refuse(bad: Tensor, target: Tensor, classes: int) -> NoReturn:
    row = tuple(int(i) for i in bad.nonzero()[0])
    raise error(
        "class_index", loss=AdaptiveLogSoftmaxWithLoss.name, classes=classes, got=int(target[row]), index=row, hint=""
    )


@torch.library.custom_op("losskit::refuse_class", mutates_args=())
def _refuse_class(bad: Tensor, target: Tensor, classes: int) -> Tensor:
    """`_refuse` as an op, for graphs that cannot branch on data; returns `bad` where it does not raise."""
    if bool(bad.any()):
        _refuse(bad, target, classes)
    return bad.clone()


@_refuse_class.register_fake
def _(bad: Tensor, target: Tensor, classes: int) -> Tensor:
    return torch.empty_like(bad)


@_refuse_class.register_vmap
def _(info: Any, in_dims: Any, bad: Tensor, target: Tensor, classes: int) -> tuple[Tensor, int]:
    # `bad` is made from `target`, so both are batched.
    bad, target = bad.movedim(in_dims[0], 0), target.movedim(in_dims[1], 0)
    return _refuse_class(bad, target, classes), 0
