"""EvidentialClassificationLoss: evidence for each class, the parameters of a Dirichlet distribution."""

import math

import torch

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss
from losskit.families.log_share import parts, share_by_kernel


class EvidentialClassificationLoss(ComposedLoss):
    """A Dirichlet distribution over class probabilities, of which the network gives the evidence: softplus of a score.

    Choose it where one pass should say how sure it is: the sum of evidence is what the network knows, and an input
    unlike all training data has little. Raise `reg_weight` from 0 to 1 over the first epochs.
    Prefer CrossEntropyLoss where only the class matters, SoftmaxFocalLoss for calibration.

    The loss is the negative logarithm of the expected probability of the label, and `reg_weight` times the divergence
    of the evidence for wrong classes from none. The paper's code applies relu to the input; here evidence below 0 is
    refused, since relu has no gradient there.
    """

    reg_weight: float = param(default=0.0, domain=nonnegative, doc="Weight of the divergence of misleading evidence.")

    arguments = "reg_weight reduction"
    operands = {
        "input": Operand("Evidence of shape (..., C).", domain=nonnegative, shape="(..., C)"),
        "target": Operand("Class indices in [0, C) of any integer dtype, of the shape of input without C.",
                          differentiable=False, shape="(...)", index="C"),
    }  # fmt: skip
    unit = "(...)"

    @staticmethod
    def value(input, target, reg_weight):
        index = target.unsqueeze(-1)
        others = torch.scatter(input, -1, index, 0.0)
        own = input.gather(-1, index).squeeze(-1) + 1.0
        loss = ((others.sum(-1) + (input.shape[-1] - 1)) / own).log1p()
        if not reg_weight:
            return loss
        wide = others if others.device.type == "mps" else others.double()
        total = wide.sum(-1) + input.shape[-1]
        even, psi = _even(total)
        divergence = even + (input.shape[-1] - 1) * psi - _even(wide + 1.0)[0].sum(-1)
        return loss + reg_weight * (divergence - math.lgamma(input.shape[-1])).to(loss.dtype)

    @staticmethod
    def value_and_grad(input, target, reg_weight):
        found = share_by_kernel(input, target, 1.0)
        loss, gradient = _share(input, target) if found is None else found
        if reg_weight:
            classes = input.shape[-1]
            others = torch.scatter(input, -1, target.unsqueeze(-1), 0.0)
            wide = others if others.device.type == "mps" else others.double()
            total = wide.sum(-1, keepdim=True)
            even, slope = _gammas(wide + 1.0)
            slope_of_total = _gammas(total + classes)[1]
            even_of_total, psi = _even(total + classes)
            divergence = even_of_total + (classes - 1) * psi - even.sum(-1, keepdim=True)
            loss += reg_weight * (divergence.squeeze(-1) - math.lgamma(classes))
            slope.mul_(wide).sub_(total * slope_of_total).mul_(reg_weight).scatter_(-1, target.unsqueeze(-1), 0.0)
            gradient += slope
        return loss, {"input": gradient}

    parts = staticmethod(parts)
    equations = {
        "loss": (
            r"\ell = \log S - \log a_t + \lambda \, \mathrm{KL}(\mathrm{Dir}(\tilde{a}) \,\|\, \mathrm{Dir}(1))",
            "ℓ = log S − log aₜ + λ KL(Dir(ã) ‖ Dir(1))",
        ),
        "where": (
            r"a = x + 1, \; S = \sum_j a_j, \; \mathrm{KL} = \log\Gamma(\tilde{S}) - \sum_j \log\Gamma(\tilde{a}_j)"
            r" - \log\Gamma(C) + \sum_j (\tilde{a}_j - 1) (\psi(\tilde{a}_j) - \psi(\tilde{S}))",
            "a = x + 1, S = Σⱼ aⱼ, KL = log Γ(S̃) − Σⱼ log Γ(ãⱼ) − log Γ(C) + Σⱼ (ãⱼ − 1)(ψ(ãⱼ) − ψ(S̃))",
        ),
        "gradient by input": (
            r"\frac{\partial \ell}{\partial x_j} = \frac{1}{S} - \frac{[j = t]}{a_t} + \lambda [j \ne t] \big("
            r"(\tilde{a}_j - 1) \psi'(\tilde{a}_j) - (\tilde{S} - C) \psi'(\tilde{S})\big)",
            "∂ℓ/∂xⱼ = 1/S − [j = t]/aₜ + λ[j ≠ t]((ãⱼ − 1)ψ′(ãⱼ) − (S̃ − C)ψ′(S̃))",
        ),
    }
    letters = {
        "input": ("x_j", "xⱼ", "evidence for class j"),
        "target": ("t", "t", "class of the row"),
        "reg_weight": (r"\lambda", "λ", ""),
        "a": (r"\tilde{a}, \tilde{S}", "ã, S̃", "a and S with 1 in the place of the label"),
        "C": ("C", "C", "number of classes"),
        "psi": (r"\psi", "ψ", "digamma function, the derivative of log Γ"),
    }

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[3.0, 1.0, 0.5], target=0, value=0.628609, grad=[-0.116667, 0.133333, 0.133333], source="mpmath"),
        Case(input=[3.0, 1.0, 0.5], target=0, reg_weight=0.1, value=0.652518, grad=[-0.116667, 0.160518, 0.142765],
             source="mpmath"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torch-uncertainty",
            "torch_uncertainty.losses.DECLoss(reg_weight=0.1, loss_type='log', reduction='none')"
            "(input, target).squeeze(1)",
            "evidential_classification_loss(input, target, reg_weight=0.1, reduction='none')",
            agrees=1e-10,
            why="It applies relu to its input, which changes nothing where evidence is not negative.",
        ),
    ]
    aliases = "edl dec_loss"
    task = "multi-class"
    best_for = "Classifiers that should say in one pass what they do not know."
    not_for = "Scores: evidence is non-negative, softplus of a score."
    reference = (
        "Sensoy, M., Kaplan, L. and Kandemir, M. (2018). Evidential deep learning to quantify classification "
        "uncertainty. NeurIPS. arXiv:1806.01768."
    )


def _share(input, target):
    """Minus the logarithm of the label's expected probability, and its gradient."""
    index = target.unsqueeze(-1)
    own = input.gather(-1, index) + 1.0
    rest = torch.scatter(input, -1, index, 0.0).sum(-1, keepdim=True) + (input.shape[-1] - 1)
    each = 1.0 / (own + rest)
    gradient = each.expand(input.shape).contiguous().scatter_(-1, index, -rest / own * each)
    return (rest / own).log1p().squeeze(-1), gradient


_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
_SHIFT = 8  # from 9 on seven terms of the series have all digits of a double


def _even(x):
    """log Gamma(x) - (x - 1) psi(x) + x for x from 1 on, and psi(x): by their series at x + 8, and the steps back.

    The first grows like half a logarithm: the divergence is a sum of it, where its other terms would be a million times
    as large as their sum. torch's lgamma has digamma for a derivative, and that a trigamma with nine digits.
    """
    t, steps, weighted, product = x, 0.0, 0.0, 1.0
    for j in range(_SHIFT):
        steps, weighted, product = steps + 1.0 / t, weighted + (j + 1.0) / t, product * t
        t = t + 1.0
    r, gap, odd = 1.0 / t, 0.0, 0.0
    for n in range(len(_BERNOULLI), 0, -1):
        gap, odd = gap * r * r + _BERNOULLI[n - 1] / (2 * n), odd * r * r + _BERNOULLI[n - 1] / (2 * n - 1)
    gap = r * (0.5 + r * gap)  # log t - psi(t)
    even = 0.5 * (2.0 * math.pi * t).log() + 0.5 + r * odd - (_SHIFT + 1.0) * gap
    return even - (product * r**_SHIFT).log() - weighted, t.log() - gap - steps


def _gammas(x):
    """`_even` and trigamma, a block at a time and in its memory."""
    even, slope = torch.empty_like(x), torch.empty_like(x)
    size = 1 << 14 if x.device.type == "cpu" else max(1, x.numel())  # what a core keeps in its cache
    for a, b, c in zip(x.view(-1).split(size), even.view(-1).split(size), slope.view(-1).split(size), strict=True):
        steps, squares, product, t = torch.zeros_like(a), torch.zeros_like(a), torch.ones_like(a), a.clone()
        for j in range(_SHIFT):
            r = t.reciprocal()
            steps.add_(r, alpha=j + 1.0)
            squares.addcmul_(r, r)
            product.mul_(t)
            t.add_(1.0)
        r = t.reciprocal()
        square = r * r
        psi, odd, tri = torch.zeros_like(a), torch.zeros_like(a), torch.zeros_like(a)
        for n in range(len(_BERNOULLI), 0, -1):
            psi.mul_(square).add_(_BERNOULLI[n - 1] / (2 * n))
            odd.mul_(square).add_(_BERNOULLI[n - 1] / (2 * n - 1))
            tri.mul_(square).add_(_BERNOULLI[n - 1])
        psi.mul_(square).add_(r, alpha=0.5)  # log t - psi(t)
        torch.addcmul(0.5 * math.log(2.0 * math.pi) + 0.5 + 0.5 * t.log(), r, odd, out=b)
        product.mul_(square.square().square())  # over t^8
        b.sub_(psi, alpha=_SHIFT + 1.0).sub_(product.log_()).sub_(steps)
        torch.addcmul(squares.add_(r), square, tri.mul_(r).add_(0.5), out=c)
    return even, slope
