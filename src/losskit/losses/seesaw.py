"""SeesawLoss: cross entropy in which frequent classes punish rare ones less."""

import math

import torch
from torch import Tensor, nn

from losskit.declaration import Case, Operand, param
from losskit.domains import Interval, nonnegative
from losskit.facts import Facts
from losskit.families.compensated import compensated_by_kernel, parts
from losskit.families.composed import ComposedLoss


class SeesawLoss(ComposedLoss):
    """Cross entropy whose gradient on the scores of rarer classes is reduced, and raised again where they are mistaken.

    Choose it for long tails in detection and segmentation, where samples of frequent classes push the scores of rare
    ones down all the time.
    Prefer LogitAdjustedCrossEntropyLoss for one correction that is undone at test time, LDAMLoss for margins.

    `counts` is a buffer of the module: give the counts of the training data, or add to it while you train, for example
    `criterion.counts += torch.bincount(target, minlength=C)`, from ones on. The factors are constants for the gradient.
    """

    counts: Tensor = param(domain=Interval("at least 1", low=1.0, typical=1.0),
                           doc="How many samples each class has, of shape (C,).")  # fmt: skip
    p: float = param(default=0.8, domain=nonnegative, doc="How much a rarer class is spared: 0 spares none.")
    q: float = param(
        default=2.0, domain=nonnegative, doc="How much a mistaken class is punished again: 0 is not at all."
    )

    arguments = "counts p q reduction"
    operands = {
        "input": Operand("Scores of shape (N, C), (N, C, d1, ...) or (C,).", shape="(N, C, ...) or (C,)", kind="logit"),
        "target": Operand("Class indices in [0, C) of any integer dtype, of the shape of input without C.",
                          differentiable=False, shape="(N, ...) or ()", index="C"),
    }  # fmt: skip
    unit = "(N, ...) or ()"
    stopped = True

    @staticmethod
    def value(input, target, counts, p, q):
        scores, index = _last(input), target.unsqueeze(-1)
        changed = scores + _factors(scores.detach(), target, counts, p, q)
        ahead = (changed - scores.gather(-1, index)).scatter(-1, index, -math.inf)
        others = ahead.logsumexp(-1)
        # ONNX has this, and no logaddexp. log(1 + e^x) is x in float64 from 40 on, not from torch's 20 on.
        return nn.functional.softplus(others, threshold=40.0)

    @staticmethod
    def value_and_grad(input, target, counts, p, q):
        scores, index = _last(input), target.unsqueeze(-1)
        found = compensated_by_kernel(scores, target, counts, p, q)
        if found is not None:
            return found[0], {"input": found[1].movedim(-1, 1) if input.ndim > 2 else found[1]}
        own = scores.gather(-1, index)
        changed = _factors(scores, target, counts, p, q).add_(scores).scatter_(-1, index, own)
        highest = changed.amax(-1, keepdim=True)
        # Step by step: torch's softmax of ten classes takes longer than these steps.
        gradient = changed.sub_(highest).exp_()
        total = gradient.sum(-1, keepdim=True)
        rest = gradient.div_(total).scatter_(-1, index, 0.0).sum(-1, keepdim=True)
        # The logarithm of a near label's probability is that of what the others have.
        loss = torch.where(rest < 0.5, -torch.log1p(-rest), total.log() + (highest - own))
        gradient.scatter_(-1, index, -rest)
        return loss.squeeze(-1), {"input": gradient.movedim(-1, 1) if input.ndim > 2 else gradient}

    parts = staticmethod(parts)
    equations = {
        "loss": (
            r"\ell = -x_t + \log\Big(e^{x_t} + \sum_{j \ne t} S_{tj} e^{x_j}\Big)",
            "ℓ = −xₜ + log(exp(xₜ) + Σ(j ≠ t) Sₜⱼ exp(xⱼ))",
        ),
        "where": (
            r"S_{tj} = \min\Big(1, \frac{n_j}{n_t}\Big)^p \max\Big(1, \frac{p_j}{\max(p_t, 0.01)}\Big)^q",
            "Sₜⱼ = min(1, nⱼ/nₜ)^p · max(1, pⱼ/max(pₜ, 0.01))^q",
        ),
        "gradient by input": (
            r"\frac{\partial \ell}{\partial x_j} = \mathrm{softmax}(x + \log S_t)_j - [j = t]",
            "∂ℓ/∂xⱼ = softmax(x + log Sₜ)ⱼ − [j = t]",
        ),
    }
    letters = {
        "input": ("x_j", "xⱼ", "score of class j in the row"),
        "target": ("t", "t", "class of the row"),
        "counts": ("n_j", "nⱼ", "number of samples of class j"),
        "p": ("p", "p", ""),
        "q": ("q", "q", ""),
        "probability": ("p_j", "pⱼ", "probability of class j, the softmax of the scores"),
        "S": ("S_{tj}", "Sₜⱼ", "a constant for the gradient"),
    }

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=0, counts=[5000.0, 100.0, 7.0], value=0.00615924,
             grad=[-0.00614031, 0.00588248, 0.000257836], source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=1, counts=[5000.0, 100.0, 7.0], value=6.00258,
             grad=[0.997419, -0.997528, 0.000108366], source="mpmath"),
    ]  # fmt: skip
    task = "multi-class"
    best_for = "Detection and segmentation with a long tail of classes."
    not_for = "Balanced classes: with p = q = 0 it is cross entropy, which is faster."
    reference = (
        "Wang, J., Zhang, W., Zang, Y., Cao, Y., Pang, J., Gong, T., Chen, K., Liu, Z., Loy, C. C. and Lin, D. (2021). "
        "Seesaw loss for long-tailed instance segmentation. CVPR. arXiv:2008.10032."
    )


_FLOOR = math.log(0.01)  # what the probability of the label is at least, where it is divided by


def _last(input):
    """With classes last."""
    return input.movedim(1, -1) if input.ndim > 2 else input


def _factors(scores, target, counts, p, q):
    """The logarithm of S, by differences of scores: those of log-probabilities would be rounded twice."""
    least = scores.logsumexp(-1, keepdim=True) + _FLOOR
    own = torch.maximum(scores.gather(-1, target.unsqueeze(-1)), least)
    often = counts.log()
    # A comparison would fix the size of the batch in what is compiled or exported.
    if torch.compiler.is_compiling() or len(counts) > target.numel():
        rarer = (often - often[target].unsqueeze(-1)).clamp(max=0.0)
    else:
        rarer = nn.functional.embedding(target, (often - often.unsqueeze(-1)).clamp(max=0.0))
    return torch.add(q * (scores - own).clamp(min=0.0), rarer, alpha=p)
