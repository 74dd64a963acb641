"""Worked examples: every loss written out by hand in plain torch, and losskit's result beside it, equal.

1. The code that a page shows is the code that runs, when the site is built and in the test suite. It asserts that both
   results are equal in all three reductions, and what it prints is what the page shows.
2. `by_hand` follows the textbook, not the kernel: it is what a reader would write after reading the formula.
3. A built-in loss without an example is an error, so that nobody forgets it: see `code`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blocks import execute

PAGE = """import torch

import losskit

torch.manual_seed(0)
{data}

# By hand, from the formula.
{by_hand}
mean = {mean}
reductions = {{"none": by_hand, "mean": mean, "sum": by_hand.sum()}}

# By losskit.
for reduction, expected in reductions.items():
    criterion = losskit.{class_name}({arguments}reduction=reduction{end})
    loss = criterion({operands})
    torch.testing.assert_close(loss, expected)
    for who, x in ("by hand", expected), ("losskit", loss):
        shown = x if x.ndim == 0 else f"{{x.flatten()[:4]}}, the first of {{x.numel()}}"
        print(f"{{reduction:>4}}, {{who}}:", shown)
"""

# The same for a notebook, where one cell has made the imports and `agree`, which asserts and prints.
CELLS = (
    """torch.manual_seed(0)
{data}

{by_hand}""",
    """mean = {mean}
reductions = {{"none": by_hand, "mean": mean, "sum": by_hand.sum()}}
for reduction, expected in reductions.items():
    criterion = losskit.{class_name}({arguments}reduction=reduction{end})
    agree(reduction, expected, criterion({operands}))""",
)


@dataclass(frozen=True)
class Example:
    """Made-up outputs and targets of the right kind, the loss by hand, and how losskit is called."""

    data: str
    by_hand: str  # makes `by_hand`, the unreduced loss
    operands: str
    arguments: str = ""  # of the constructor, before `reduction`
    mean: str = "by_hand.mean()"
    more: str = ""  # what else is worth trying, with asserts of its own


_REGRESSION_4D = "output = torch.randn(10, 3, 5, 7)\ntarget = torch.randn(10, 3, 5, 7)"
_REGRESSION_2D = "output = torch.randn(10, 1)\ntarget = torch.randn(10, 1)"
_BINARY = "logits = torch.randn(10, 1)\ntarget = torch.randint(0, 2, (10, 1)).float()"
_CLASSES = "logits = torch.randn(10, 5)  # (B, C): a score for each of 5 classes\ntarget = torch.randint(0, 5, (10,))"
_TRIPLETS = "anchor, positive, negative = torch.randn(3, 10, 8)  # 10 triplets, 8 numbers each"

EXAMPLES: dict[str, Example] = {
    "l1_loss": Example(
        data=_REGRESSION_4D,
        by_hand="by_hand = (output - target).abs()",
        operands="output, target",
    ),
    "mse_loss": Example(
        data=_REGRESSION_4D,
        by_hand="by_hand = (output - target) ** 2",
        operands="output, target",
    ),
    "huber_loss": Example(
        data=_REGRESSION_2D + "\ndelta = 0.5",
        by_hand="""d = (output - target).abs()
by_hand = torch.where(d < delta, 0.5 * d**2, delta * (d - 0.5 * delta))""",
        operands="output, target",
        arguments="delta=delta, ",
        more="""# It is delta times SmoothL1Loss with beta = delta, so with delta = 1 the two are equal.
huber = losskit.HuberLoss(delta=delta)(output, target)
smooth = losskit.SmoothL1Loss(beta=delta)(output, target)
torch.testing.assert_close(huber, delta * smooth)
print("Huber", huber, "= delta * smooth L1", delta * smooth)

huber = losskit.HuberLoss()(output, target)
smooth = losskit.SmoothL1Loss()(output, target)
torch.testing.assert_close(huber, smooth)
print("with delta = beta = 1:", huber, smooth)""",
    ),
    "smooth_l1_loss": Example(
        data=_REGRESSION_4D + "\nbeta = 0.5",
        by_hand="""d = (output - target).abs()
by_hand = torch.where(d < beta, 0.5 * d**2 / beta, d - 0.5 * beta)""",
        operands="output, target",
        arguments="beta=beta, ",
    ),
    "gaussian_nll_loss": Example(
        data="""output = torch.randn(10, 1)  # predicted means
var = torch.rand(10, 1) + 0.1  # predicted variances
target = torch.randn(10, 1)
eps = 1e-6""",
        by_hand="""v = var.clamp(min=eps)
by_hand = 0.5 * (v.log() + (output - target) ** 2 / v)""",
        operands="output, target, var",
        arguments="eps=eps, ",
        more="""# One variance for each row, and a target that broadcasts.
means, truth, spread = torch.randn(10, 3), torch.randn(10, 1), torch.rand(10) + 0.1
rows = 0.5 * (spread[:, None].log() + (means - truth) ** 2 / spread[:, None])
torch.testing.assert_close(losskit.GaussianNLLLoss()(means, truth, spread), rows.mean())

# full=True adds the constant that makes it a likelihood.
full = losskit.GaussianNLLLoss(full=True)(output, target, var)
constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
torch.testing.assert_close(full, by_hand.mean() + constant)
print("full", full)""",
    ),
    "poisson_nll_loss": Example(
        data="""log_rates = torch.randn(10, 1)  # the model predicts the logarithm of a rate
target = torch.poisson(torch.full((10, 1), 2.0))  # counts""",
        by_hand="by_hand = log_rates.exp() - target * log_rates",
        operands="log_rates, target",
        more="""# log_input=False takes the rate itself; eps keeps its logarithm finite.
rates, eps = log_rates.exp(), 1e-8
plain = rates - target * (rates + eps).log()
loss = losskit.PoissonNLLLoss(log_input=False, eps=eps)(rates, target)
torch.testing.assert_close(loss, plain.mean())
print("log_input=False", loss)

# The term that depends on the target alone, exactly: log(target!).
exact = losskit.PoissonNLLLoss(full=True, stirling=False)(log_rates, target)
torch.testing.assert_close(exact, (by_hand + torch.lgamma(target + 1)).mean())
print("full=True, stirling=False", exact)""",
    ),
    "kl_div": Example(
        data="""output = torch.randn(10, 5).log_softmax(dim=1)  # predicted log-probabilities
target = torch.randn(10, 5).softmax(dim=1)  # true probabilities""",
        by_hand="by_hand = target * (target.log() - output)",
        operands="output, target",
        more="""# "mean" divides by all 50 elements; "batchmean" by the 10 rows: the divergence itself.
loss = losskit.KLDivLoss("batchmean")(output, target)
torch.testing.assert_close(loss, by_hand.sum() / 10)
print("batchmean", loss)

# log_target=True: the target is logarithms too.
log_target = target.log()
same = losskit.KLDivLoss("batchmean", log_target=True)(output, log_target)
torch.testing.assert_close(same, (log_target.exp() * (log_target - output)).sum() / 10)
print("log_target=True", same)""",
    ),
    "cross_entropy": Example(
        data=_CLASSES,
        by_hand="""log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()  # log-softmax
by_hand = -log_p[torch.arange(10), target]  # the log-probability of the right class""",
        operands="logits, target",
        more="""# Soft targets: a probability for each class.
soft = torch.randn(10, 5).softmax(dim=1)
loss = losskit.CrossEntropyLoss()(logits, soft)
torch.testing.assert_close(loss, -(soft * log_p).sum(dim=1).mean())
print("soft targets", loss)

# It is the log-softmax followed by NLLLoss.
torch.testing.assert_close(losskit.NLLLoss()(log_p, target), by_hand.mean())""",
    ),
    "nll_loss": Example(
        data="log_p = torch.randn(10, 5).log_softmax(dim=1)  # log-probabilities of 5 classes\n"
        "target = torch.randint(0, 5, (10,))",
        by_hand="by_hand = -log_p[torch.arange(10), target]",
        operands="log_p, target",
        more="""# With class weights the mean divides by the sum of the weights that the targets have.
weight = torch.rand(5)
weighted = (weight[target] * by_hand).sum() / weight[target].sum()
loss = losskit.NLLLoss(weight=weight)(log_p, target)
torch.testing.assert_close(loss, weighted)
print("weighted mean", loss)""",
    ),
    "binary_cross_entropy": Example(
        data="p = torch.rand(10, 1)  # predicted probabilities\ntarget = torch.randint(0, 2, (10, 1)).float()",
        by_hand="by_hand = -(target * p.log() + (1 - target) * (1 - p).log())",
        operands="p, target",
    ),
    "binary_cross_entropy_with_logits": Example(
        data=_BINARY,
        by_hand="""p = logits.sigmoid()
by_hand = -(target * p.log() + (1 - target) * (1 - p).log())""",
        operands="logits, target",
        more="""# pos_weight: a positive label counts three times.
pos_weight = torch.tensor([3.0])
weighted = -(pos_weight * target * p.log() + (1 - target) * (1 - p).log())
loss = losskit.BCEWithLogitsLoss(pos_weight=pos_weight)(logits, target)
torch.testing.assert_close(loss, weighted.mean())
print("pos_weight", loss)""",
    ),
    "soft_margin_loss": Example(
        data="output = torch.randn(10, 1)\ntarget = torch.randint(0, 2, (10, 1)) * 2.0 - 1.0  # -1 or 1",
        by_hand="by_hand = torch.log(1 + torch.exp(-target * output))",
        operands="output, target",
    ),
    "multilabel_soft_margin_loss": Example(
        data="logits = torch.randn(10, 5)  # 5 labels, each may apply\ntarget = torch.randint(0, 2, (10, 5)).float()",
        by_hand="""p = logits.sigmoid()
each = -(target * p.log() + (1 - target) * (1 - p).log())
by_hand = each.mean(dim=1)  # a row's loss is the mean over its labels""",
        operands="logits, target",
    ),
    "multilabel_margin_loss": Example(
        data="""scores = torch.randn(3, 4)
# The classes of each row, then -1.
target = torch.tensor([[3, 0, -1, -1], [1, -1, -1, -1], [2, 1, 0, -1]])""",
        by_hand="""rows = []
for x, labels in zip(scores, target.tolist()):
    right = labels[: labels.index(-1)]
    wrong = [c for c in range(4) if c not in right]
    rows.append(sum((1 - (x[j] - x[i])).clamp(min=0) for j in right for i in wrong) / 4)
by_hand = torch.stack(rows)""",
        operands="scores, target",
    ),
    "multi_margin_loss": Example(
        data="scores = torch.randn(10, 5)\ntarget = torch.randint(0, 5, (10,))\np, margin = 2, 1.0",
        by_hand="""difference = scores[torch.arange(10), target].unsqueeze(1) - scores
hinge = (margin - difference).clamp(min=0) ** p
hinge[torch.arange(10), target] = 0.0  # the right class has no margin to itself
by_hand = hinge.sum(dim=1) / 5""",
        operands="scores, target",
        arguments="p=p, margin=margin, ",
    ),
    "margin_ranking_loss": Example(
        data="""first, second = torch.randn(2, 10, 1)
order = torch.randint(0, 2, (10, 1)) * 2.0 - 1.0  # 1: the first is to rank higher
margin = 0.5""",
        by_hand="by_hand = (-order * (first - second) + margin).clamp(min=0)",
        operands="first, second, order",
        arguments="margin=margin, ",
    ),
    "hinge_embedding_loss": Example(
        data="""left, right = torch.randn(2, 10, 8)
distance = (left - right).abs().mean(dim=1)
target = torch.randint(0, 2, (10,)) * 2.0 - 1.0  # 1: similar; -1: not
margin = 1.5""",
        by_hand="by_hand = torch.where(target == 1, distance, (margin - distance).clamp(min=0))",
        operands="distance, target",
        arguments="margin=margin, ",
    ),
    "cosine_embedding_loss": Example(
        data="""left, right = torch.randn(2, 10, 8)  # 10 pairs of embeddings with 8 numbers
target = torch.randint(0, 2, (10,)) * 2 - 1  # 1: similar; -1: not
margin = 0.2""",
        by_hand="""cosine = (left * right).sum(dim=1) / (left.norm(dim=1) * right.norm(dim=1))
by_hand = torch.where(target == 1, 1 - cosine, (cosine - margin).clamp(min=0))""",
        operands="left, right, target",
        arguments="margin=margin, ",
    ),
    "triplet_margin_loss": Example(
        data=_TRIPLETS + "\nmargin, eps = 1.0, 1e-6",
        by_hand="""near = ((anchor - positive + eps) ** 2).sum(dim=1).sqrt()
far = ((anchor - negative + eps) ** 2).sum(dim=1).sqrt()
by_hand = (near - far + margin).clamp(min=0)""",
        operands="anchor, positive, negative",
        arguments="margin=margin, eps=eps, ",
        more="""# swap=True: the negative's distance from the positive counts where it is smaller.
other = ((positive - negative + eps) ** 2).sum(dim=1).sqrt()
swapped = (near - torch.minimum(far, other) + margin).clamp(min=0)
criterion = losskit.TripletMarginLoss(margin=margin, eps=eps, swap=True)
loss = criterion(anchor, positive, negative)
torch.testing.assert_close(loss, swapped.mean())
print("swap", loss)""",
    ),
    "triplet_margin_with_distance_loss": Example(
        data=_TRIPLETS
        + """
margin = 1.0


def manhattan(x, y):
    return (x - y).abs().sum(dim=-1)

""",
        by_hand="""near, far = manhattan(anchor, positive), manhattan(anchor, negative)
by_hand = (near - far + margin).clamp(min=0)""",
        operands="anchor, positive, negative",
        arguments="\n        distance_function=manhattan, margin=margin, ",
    ),
    "ctc_loss": Example(
        data="""from itertools import groupby, product

frames, classes = 4, 3  # class 0 is the blank
log_p = torch.randn(frames, 2, classes).log_softmax(dim=2)  # (T, N, C): two sequences
targets = torch.tensor([[1, 2], [2, 2]])
input_lengths, target_lengths = torch.tensor([4, 4]), torch.tensor([2, 2])
""",
        by_hand="""def labels(path):
    return [c for c, _ in groupby(path) if c != 0]  # repeats merge, then blanks go


rows = []
for n in range(2):
    paths = product(range(classes), repeat=frames)
    alignments = [list(p) for p in paths if labels(p) == targets[n].tolist()]
    total = sum(log_p[range(frames), n, p].sum().exp() for p in alignments)
    rows.append(-total.log())
by_hand = torch.stack(rows)""",
        operands="log_p, targets, input_lengths, target_lengths",
        mean="(by_hand / target_lengths).mean()",
        more="""# from_scores=True takes raw scores and does the log-softmax itself.
# Log-probabilities are scores too.
fused = losskit.CTCLoss(from_scores=True)(log_p, targets, input_lengths, target_lengths)
torch.testing.assert_close(fused, reductions["mean"])
print("from_scores=True", fused)""",
    ),
}


def code(name: str, class_name: str, template: tuple[str, ...] = (PAGE,)) -> list[str]:
    """The blocks of a loss's worked example, each to be run after the ones before it."""
    if name not in EXAMPLES:
        raise LookupError(f"{name} has no worked example: write it by hand in plain torch in tools/site/worked.py")
    example = EXAMPLES[name]
    parts = {field: getattr(example, field) for field in ("data", "by_hand", "operands", "arguments", "mean")}
    parts["end"] = "\n    " if "\n" in example.arguments else ""
    filled = [re.sub(r"\n{4,}", "\n\n\n", part.format(class_name=class_name, **parts)).rstrip() for part in template]
    return [*filled, *filter(None, [example.more])]


def run(name: str, class_name: str) -> list[tuple[str, str]]:
    """The blocks of a worked example, and what each prints."""
    scope: dict[str, object] = {"__name__": f"worked_{name}"}
    return [(block, execute(block, scope, f"<worked example of {name}>")) for block in code(name, class_name)]
