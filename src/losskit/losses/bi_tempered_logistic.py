"""BiTemperedLogisticLoss: cross entropy with a bounded logarithm and a heavy-tailed softmax."""

import torch

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss
from losskit.families.tempered import parts, shift_by_kernel


class BiTemperedLogisticLoss(ComposedLoss):
    """Logistic loss with two temperatures: `t1` below 1 bounds the loss, `t2` above 1 gives the softmax a heavy tail.

    Choose it for noisy labels: a far outlier costs no more than a bounded amount, a label that is wrong near the
    boundary pulls less.
    Prefer CrossEntropyLoss, which is t1 = t2 = 1, for clean labels, GeneralizedCrossEntropyLoss for a bounded loss with
    the ordinary softmax.

    The normalisation is found by Newton's method to the last digit; other implementations stop after five fixed-point
    steps, where probabilities of many classes or of large scores do not add up to 1.
    """

    t1: float = param(default=0.8, domain=Interval("at most 1", high=1.0, typical=0.5),
                      doc="Temperature of the logarithm; in [0, 1) the loss is bounded.")  # fmt: skip
    t2: float = param(default=1.2, domain=Interval("at least 1", low=1.0, typical=1.5),
                      doc="Temperature of the softmax; the larger, the heavier its tail.")  # fmt: skip

    arguments = "t1 t2 reduction"
    operands = {
        "input": Operand("Scores of shape (N, C), (N, C, d1, ...) or (C,).", shape="(N, C, ...) or (C,)", kind="logit"),
        "target": Operand("Class indices in [0, C) of any integer dtype, of the shape of input without C.",
                          differentiable=False, shape="(N, ...) or ()", index="C"),
    }  # fmt: skip
    unit = "(N, ...) or ()"

    @staticmethod
    def value(input, target, t1, t2):
        own = _own(input, target)
        scores = _shifted(input)
        shift = _normalised(scores.detach(), t2, _STEPS)
        for _ in range(2):  # from the root, two steps have the derivatives of the root up to the third
            shift = _step(scores, shift, t2)
        logs = _logs(scores, shift, t2)
        powers = ((2.0 - t1) * logs).exp()
        return _loss(logs, logs.exp(), powers, own, target.unsqueeze(-1), t1)

    @staticmethod
    def value_and_grad(input, target, t1, t2):
        own, index = _own(input, target), target.unsqueeze(-1)
        scores = _shifted(input)
        shift = shift_by_kernel(scores, t2)
        if shift is None:
            shift = _normalised(scores, t2, _STEPS, until=4 * torch.finfo(scores.dtype).eps)
        logs = _logs(scores, shift, t2)
        p = logs.exp()
        weights = ((t2 - t1) * logs).exp_()
        escort = (t2 * logs).exp_()
        powers = p * weights if t2 == 1.0 else ((2.0 - t1) * logs).exp_()
        loss = _loss(logs, p, powers, own, index, t1)
        # v = p^(t2 - t1) (p - [j = t]), of the label by the others' sum; then v - w sum(v), w = p^t2 / sum(p^t2).
        of_own = escort.gather(-1, index)
        of_others = escort.masked_fill(own, 0.0).sum(-1, keepdim=True)
        rest = p.masked_fill(own, 0.0).sum(-1, keepdim=True)
        label = -weights.gather(-1, index) * rest
        p.mul_(weights).masked_fill_(own, 0.0)
        added = p.sum(-1, keepdim=True)
        total = of_own + of_others
        gradient = p.sub_(escort.mul_((added + label) / total))
        gradient.scatter_(-1, index, (label * of_others - of_own * added) / total)
        return loss, {"input": gradient.movedim(-1, 1) if input.ndim > 1 else gradient}

    parts = staticmethod(parts)
    equations = {
        "loss": (
            r"\ell = -\log_{t_1} p_t - \frac{1}{2 - t_1} \Big(1 - \sum_j p_j^{2 - t_1}\Big), \quad "
            r"p_j = \exp_{t_2}(x_j - \lambda)",
            "ℓ = −log_t1(pₜ) − (1 − Σⱼ pⱼ^(2 − t1)) / (2 − t1), pⱼ = exp_t2(xⱼ − λ)",
        ),
        "where": (
            r"\log_u z = \frac{z^{1 - u} - 1}{1 - u}, \quad \exp_u z = (1 + (1 - u) z)^{1 / (1 - u)}",
            "log_u(z) = (z^(1 − u) − 1) / (1 − u), exp_u(z) = (1 + (1 − u)z)^(1 / (1 − u))",
        ),
        "gradient by input": (
            r"\frac{\partial \ell}{\partial x_j} = v_j - \frac{p_j^{t_2}}{\sum_k p_k^{t_2}} \sum_k v_k, \quad "
            r"v_j = p_j^{t_2 - t_1} (p_j - [j = t])",
            "∂ℓ/∂xⱼ = vⱼ − pⱼ^t2 / (Σₖ pₖ^t2) · Σₖ vₖ, vⱼ = pⱼ^(t2 − t1) (pⱼ − [j = t])",
        ),
    }
    letters = {
        "input": ("x_j", "xⱼ", "score of class j in the row"),
        "target": ("t", "t", "class of the row"),
        "t1": ("t_1", "t1", ""),
        "t2": ("t_2", "t2", ""),
        "lambda": (r"\lambda", "λ", "the number by which the probabilities of a row add up to 1"),
    }

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=0, value=0.159964, grad=[-0.120939, 0.0855077, 0.0354310], source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=1, value=1.46335, grad=[0.426238, -0.438083, 0.0118456], source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=1, t1=1.0, t2=1.0, value=2.16985, grad=[0.843795, -0.885805, 0.0420101],
             source="cross entropy"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-toolbelt",
            "pytorch_toolbelt.losses.bitempered_loss.bi_tempered_logistic_loss("
            "input, target, t1=0.8, t2=1.2, num_iters=50, reduction='none')",
            "bi_tempered_logistic_loss(input, target, reduction='none')",
            agrees=1e-9,
            why="After fifty of its fixed-point steps; by default it takes five.",
        ),
    ]
    aliases = "bi_tempered tempered_softmax"
    task = "multi-class"
    best_for = "Noisy labels, among them outliers."
    not_for = "Clean labels: with a bounded loss they are learned more slowly."
    reference = (
        "Amid, E., Warmuth, M. K., Anil, R. and Koren, T. (2019). Robust bi-tempered logistic loss based on Bregman "
        "divergences. NeurIPS. arXiv:1906.03361."
    )


_STEPS = 10  # 9 are the most seen: 1e-16 off, of up to 50,000 classes, scores of 0.1 to 10,000, t2 from 1 to 4


def _shifted(input):
    """Scores less the largest of the row, classes last."""
    scores = input.movedim(1, -1) if input.ndim > 1 else input
    return scores - scores.detach().amax(-1, keepdim=True)


def _own(input, target):
    classes = input.shape[1] if input.ndim > 1 else input.shape[0]
    return torch.arange(classes, device=input.device) == target.unsqueeze(-1)


def _logs(scores, shift, t2):
    """The log-probabilities of a row with this normalisation, log exp_t2(scores - shift)."""
    below = shift - scores
    return torch.log1p(below * (t2 - 1.0)) / (1.0 - t2) if t2 != 1.0 else -below


def _step(scores, shift, t2):
    """A step of Newton's method to total(shift)^(1 - t2) = 1.

    This is concave in the shift, and linear both of one class alone and of classes that are alike. From a total of 1 or
    more steps stay below the root, and a few of them reach it.
    """
    logs = _logs(scores, shift, t2)
    total, slope = logs.exp().sum(-1, keepdim=True), (t2 * logs).exp().sum(-1, keepdim=True)
    grown = total.log()
    if t2 == 1.0:
        return shift + grown
    return shift - torch.expm1((1.0 - t2) * grown) / (t2 - 1.0) * total.pow(t2) / slope


def _normalised(scores, t2, steps, until=None):
    """The shift with which probabilities add up to 1; until: the change from which on there is no more step."""
    shift = torch.zeros_like(scores[..., :1])
    look = until is not None and scores.device.type == "cpu" and scores.numel() > 0
    for _ in range(1 if t2 == 1.0 else steps):
        before, shift = shift, _step(scores, shift, t2)
        if look and bool((shift - before <= until * shift.abs()).all()):
            break
    return shift


def _loss(logs, p, powers, own, index, t1):
    """The sum of what the label and the others add; near 1, the label's log-probability is that of the others' sum."""
    rest = p.masked_fill(own, 0.0).sum(-1)
    label = logs.gather(-1, index).squeeze(-1)
    near = rest < 0.5
    label = torch.where(near, torch.log1p(-torch.where(near, rest, 0.0)), label)
    first = -label if t1 == 1.0 else torch.expm1((1.0 - t1) * label) / (t1 - 1.0)
    others = powers.masked_fill(own, 0.0).sum(-1)
    return first + (torch.expm1((2.0 - t1) * label) + others) / (2.0 - t1)
