"""ApproxNDCGLoss: one less the NDCG of smooth ranks."""

import math

import torch

from losskit.declaration import Case, Operand, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss
from losskit.families.soft_ranks import missed_by_kernel, parts
from losskit.losses._ndcg import by_blocks, gains


class ApproxNDCGLoss(ComposedLoss):
    """One less NDCG, with ranks made smooth: an item's rank is 1 and the sigmoids of all differences to its score.

    Choose it to optimise the metric itself, on lists with graded relevance.
    Prefer LambdaLoss where scores start at random, for its gradient reaches items that are far apart; NeuralNDCGLoss
    for a sorting that is smooth instead of ranks.

    A list in which nothing is relevant has no loss: it is left out of the mean, like a masked one.
    """

    temperature: float = param(default=0.1, domain=positive, doc="The smaller, the nearer are smooth ranks to ranks.")

    name = "approx_ndcg_loss"
    arguments = "temperature reduction"
    operands = {
        "input": Operand("Scores of the items of a list, of shape (..., K).", shape="(..., K)"),
        "target": Operand("Relevance of each item.", domain=nonnegative, differentiable=False, shape="(..., K)"),
        "element_mask": Operand("Which items of a padded list count.", differentiable=False, optional=True,
                                shape="(..., K)", boolean=True),
    }  # fmt: skip
    unit = "(...)"

    @staticmethod
    def value(input, target, element_mask, temperature):
        gain, has_loss = gains(target, element_mask)
        ranks = _ranks(_wins(input, temperature), element_mask)
        return 1.0 - (gain / torch.log2(1.0 + ranks)).sum(-1), has_loss

    @staticmethod
    def value_and_grad(input, target, element_mask, temperature):
        found = missed_by_kernel(input, torch.exp2(target) - 1.0, element_mask, temperature)
        if found is not None:
            return found[0], {"input": found[1]}
        gain, has_loss = gains(target, element_mask)

        def of_block(scores, gain, counts):
            scaled = scores / temperature
            # Not by torch's sigmoid, of which the last digits depend on the number of threads.
            odds = (scaled.unsqueeze(-1) - scaled.unsqueeze(-2)).clamp_(-_FAR, _FAR).exp_()
            wins = (odds + 1.0).reciprocal_()
            after = 1.0 + _ranks(wins, counts)
            logs = torch.log2(after)
            loss = 1.0 - (gain / logs).sum(-1)
            slopes = gain / (logs.square() * after) / (temperature * math.log(2.0))
            both = odds.mul_(wins).mul_(wins)  # the slope of a sigmoid, the same for both items of a pair
            both.diagonal(dim1=-2, dim2=-1).zero_()  # an item does not pull itself, and would hide what others do
            ones = torch.ones_like(slopes) if counts is None else counts.to(slopes.dtype)
            pulled, pushed = (torch.stack([slopes, ones], -2) @ both).unbind(-2)
            return loss, (pulled - slopes * pushed) * ones

        loss, gradient = by_blocks(input, gain, element_mask, of_block)
        return (loss, has_loss), {"input": gradient}

    parts = staticmethod(parts)
    equations = {
        "loss": (
            r"\ell = 1 - \sum_i \frac{G_i}{\log_2(1 + \pi_i)}, \quad "
            r"\pi_i = 1 + \sum_{j \ne i} \sigma\Big(\frac{s_j - s_i}{\tau}\Big)",
            "ℓ = 1 − Σᵢ Gᵢ / log₂(1 + πᵢ), πᵢ = 1 + Σ(j ≠ i) σ((sⱼ − sᵢ) / τ)",
        ),
        "where": (
            r"G_i = (2^{y_i} - 1) \Big/ \sum_r \frac{2^{y_{(r)}} - 1}{\log_2(1 + r)}",
            "Gᵢ = (2^yᵢ − 1) / Σᵣ (2^y₍ᵣ₎ − 1) / log₂(1 + r), y₍₁₎ ≥ y₍₂₎ ≥ …",
        ),
        "gradient by input": (
            r"\frac{\partial \ell}{\partial s_k} = \sum_i (a_i - a_k) \frac{\sigma_{ik} (1 - \sigma_{ik})}{\tau}"
            r", \quad a_i = \frac{G_i \ln 2}{(1 + \pi_i) \ln^2(1 + \pi_i)}",
            "∂ℓ/∂sₖ = Σᵢ (aᵢ − aₖ) σᵢₖ(1 − σᵢₖ)/τ, aᵢ = Gᵢ ln 2 / ((1 + πᵢ) ln²(1 + πᵢ))",
        ),
    }
    letters = {
        "input": ("s_i", "sᵢ", "score of item i"),
        "target": ("y_i", "yᵢ", "relevance of item i"),
        "temperature": (r"\tau", "τ", ""),
        "pi": (r"\pi_i", "πᵢ", "smooth rank of item i"),
        "sigma": (r"\sigma_{ij}", "σᵢⱼ", "sigmoid of the difference of two scores, over τ"),
    }

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.6, 0.8], target=[1.0, 0.0], value=0.344893, grad=[-0.225657, 0.225657],
             source="the example of TensorFlow Ranking's documentation"),
        Case(input=[0.2, 1.5, -0.3], target=[2.0, 0.0, 1.0], temperature=1.0, value=0.349645,
             grad=[-0.0467662, 0.0272655, 0.0195007], source="mpmath"),
    ]  # fmt: skip
    task = "ranking"
    best_for = "Optimising NDCG itself, from a model that ranks already."
    not_for = "Scores that are far apart: at a small temperature their gradient vanishes."
    reference = (
        "Qin, T., Liu, T.-Y. and Li, H. (2010). A general approximation framework for direct optimization of "
        "information retrieval measures. Information Retrieval 13, 375-397."
    )


_FAR = 80.0  # a win so unlikely is none; its odds must not be infinite, nor subnormal, which is slow


def _wins(input, temperature):
    """In row i, column j, how far item j is before item i, between 0 and 1."""
    return torch.sigmoid((input.unsqueeze(-2) - input.unsqueeze(-1)) / temperature)


def _ranks(wins, counts):
    """From 1 on: an item is half before itself."""
    return 0.5 + (wins if counts is None else wins * counts.unsqueeze(-2)).sum(-1)
