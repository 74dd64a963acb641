"""NeuralNDCGLoss: one less the NDCG of a smooth sorting."""

import torch

from losskit.declaration import Case, Operand, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss
from losskit.families.soft_sorting import missed_by_kernel, parts
from losskit.losses._ndcg import by_blocks, discounts, gains


class NeuralNDCGLoss(ComposedLoss):
    """One less NDCG, with sorting made smooth: every rank has a weight for each item, which add up to 1 both ways.

    Choose it to optimise the metric itself where ties and near ties should share their ranks.
    Prefer ApproxNDCGLoss, which is several times as fast, LambdaLoss where scores start at random.

    A list in which nothing is relevant has no loss: it is left out of the mean, like a masked one.
    """

    temperature: float = param(default=1.0, domain=positive, doc="The smaller, the nearer is the sorting to sorting.")
    sinkhorn_iters: int = param(default=50, domain=nonnegative, doc="Steps of Sinkhorn: columns, then rows.")

    name = "neural_ndcg_loss"
    arguments = "temperature sinkhorn_iters reduction"
    operands = {
        "input": Operand("Scores of the items of a list, of shape (..., K).", shape="(..., K)"),
        "target": Operand("Relevance of each item.", domain=nonnegative, differentiable=False, shape="(..., K)"),
        "element_mask": Operand("Which items of a padded list count.", differentiable=False, optional=True,
                                shape="(..., K)", boolean=True),
    }  # fmt: skip
    unit = "(...)"

    @staticmethod
    def value(input, target, element_mask, temperature, sinkhorn_iters):
        gain, has_loss = gains(target, element_mask)
        items, ranks, middle = _counted(input, element_mask)
        sorting = _neural_sort(input, items, ranks, middle, temperature)
        by_rank, by_item = ranks, items
        for _ in range(sinkhorn_iters):
            by_item = _inverse(_over_ranks(by_rank, sorting), items)
            by_rank = _inverse(_over_items(sorting, by_item), ranks)
        at_rank = by_rank * _over_items(sorting, by_item * gain)
        return 1.0 - (at_rank * discounts(input.shape[-1], input)).sum(-1), has_loss

    @staticmethod
    def value_and_grad(input, target, element_mask, temperature, sinkhorn_iters):
        found = missed_by_kernel(input, torch.exp2(target) - 1.0, element_mask, temperature, sinkhorn_iters)
        if found is not None:
            return found[0], {"input": found[1]}
        gain, has_loss = gains(target, element_mask)
        discount = discounts(input.shape[-1], input)

        def of_block(scores, gain, counts):
            items, ranks, middle = _counted(scores, counts)
            sorting = _neural_sort(scores, items, ranks, middle, temperature)
            value, slope = _sinkhorn(sorting, items, ranks, gain, discount, sinkhorn_iters)
            slope.mul_(sorting)
            slope.addcmul_(sorting, slope.sum(-1, keepdim=True), value=-1.0)  # of the softmax
            total = slope.sum(-2)
            after = torch.sign(scores.unsqueeze(-1) - scores.unsqueeze(-2)).mul_(items.unsqueeze(-2))
            spread = total * after.sum(-1) - _over_ranks(total, after)  # of the sum of distances to other items
            return 1.0 - value, -(spread + _over_ranks(middle, slope)) / temperature

        loss, gradient = by_blocks(input, gain, element_mask, of_block)
        return (loss, has_loss), {"input": gradient}

    parts = staticmethod(parts)
    equations = {
        "loss": (
            r"\ell = 1 - \sum_i \frac{1}{\log_2(1 + i)} \sum_j P_{ij} G_j",
            "ℓ = 1 − Σᵢ Σⱼ Pᵢⱼ Gⱼ / log₂(1 + i)",
        ),
        "where": (
            r"P = \mathrm{Sinkhorn}\Big(\mathrm{softmax}_j \frac{(K + 1 - 2 i) s_j - \sum_l |s_j - s_l|}{\tau}\Big), "
            r"G_i = (2^{y_i} - 1) \Big/ \sum_r \frac{2^{y_{(r)}} - 1}{\log_2(1 + r)}",
            "P = Sinkhorn(softmaxⱼ(((K + 1 − 2i)sⱼ − Σₗ |sⱼ − sₗ|) / τ)), "
            "Gᵢ = (2^yᵢ − 1) / Σᵣ (2^y₍ᵣ₎ − 1) / log₂(1 + r)",
        ),
    }
    letters = {
        "input": ("s_j", "sⱼ", "score of item j"),
        "target": ("y_j", "yⱼ", "relevance of item j"),
        "temperature": (r"\tau", "τ", ""),
        "sinkhorn_iters": ("T", "T", ""),
        "P": ("P_{ij}", "Pᵢⱼ", "weight of item j at rank i, doubly stochastic after T steps"),
    }

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(input=[0.2, 1.5, -0.3], target=[2.0, 0.0, 1.0], value=0.314221, source="mpmath"),
        Case(input=[1.0, 0.5], target=[0.0, 1.0], temperature=0.5, value=0.269811969769, source="mpmath"),
    ]
    task = "ranking"
    best_for = "Optimising NDCG itself, with ties that share ranks."
    not_for = "Lists of thousands of items: a step costs their square."
    reference = (
        "Pobrotyn, P. and Białobrzeski, R. (2021). NeuralNDCG: direct optimisation of a ranking metric via "
        "differentiable relaxation of sorting. arXiv:2102.07831."
    )


_NEVER = -1e30  # the score of what is no item; a list without items has no infinity less infinity then


def _counted(input, element_mask):
    """1 for each item and each rank that there is, else 0; and each rank's place from the middle, twice as far."""
    places = torch.arange(1, input.shape[-1] + 1, device=input.device, dtype=input.dtype)
    if element_mask is None:
        items = torch.ones_like(input)
        return items, items, (2.0 * places - (input.shape[-1] + 1)).expand_as(input)
    items = element_mask.to(input.dtype)
    size = items.sum(-1, keepdim=True)
    return items, (places <= size).to(input.dtype), 2.0 * places - (size + 1.0)


def _neural_sort(input, items, ranks, middle, temperature):
    """Weights of items (columns) at ranks (rows); those of a rank add up to 1."""
    distances = ((input.unsqueeze(-1) - input.unsqueeze(-2)).abs() * items.unsqueeze(-2)).sum(-1)
    scores = (-middle.unsqueeze(-1) * input.unsqueeze(-2) - distances.unsqueeze(-2)) / temperature
    return scores.masked_fill(items.unsqueeze(-2) == 0, _NEVER).softmax(-1) * ranks.unsqueeze(-1)


def _inverse(x, counts):
    return counts / torch.where(counts > 0, x, 1.0)


def _over_ranks(x, matrix):
    return (x.unsqueeze(-2) @ matrix).squeeze(-2)


def _over_items(matrix, x):
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def _sinkhorn(sorting, items, ranks, gain, discount, steps):
    """The discounted gain of a sorting after Sinkhorn's steps, and its derivative by the sorting.

    A step changes one factor for each rank and one for each item, so the matrix is only read, and the derivative is one
    product of all steps' factors.
    """
    by_rank, by_item = [ranks], [items]
    for _ in range(steps):
        by_item.append(_inverse(_over_ranks(by_rank[-1], sorting), items))
        by_rank.append(_inverse(_over_items(sorting, by_item[-1]), ranks))
    weights, weighed = discount * by_rank[-1], by_item[-1] * gain
    at_rank = _over_items(sorting, weighed)
    value = (weights * at_rank).sum(-1)
    left, right = [weights], [weighed]
    of_rank, of_item = discount * at_rank, gain * _over_ranks(weights, sorting)
    for i in range(steps, 0, -1):
        of_sum = -of_rank * by_rank[i].square()
        left.append(of_sum)
        right.append(by_item[i])
        of_item = of_item + _over_ranks(of_sum, sorting)
        of_sum = -of_item * by_item[i].square()
        left.append(by_rank[i - 1])
        right.append(of_sum)
        of_rank, of_item = _over_items(sorting, of_sum), torch.zeros_like(of_item)
    return value, -(torch.stack(left, -1) @ torch.stack(right, -2))
