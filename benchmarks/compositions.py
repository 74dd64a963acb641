"""Losses that torch lacks, as people write them in torch operations: the peers of their rows.

Each is the fastest of what libraries and repositories have: what keeps its digits, by logsigmoid and softplus, is often
faster than the logarithm of a probability. Operands are those of losskit's function of the same name; the result is the
mean.
"""

import math

import torch
import torch.nn.functional as F


def sigmoid_focal_loss(input, target, alpha=0.25, gamma=2.0):
    p = torch.sigmoid(input)
    ce = F.binary_cross_entropy_with_logits(input, target, reduction="none")
    right = p * target + (1 - p) * (1 - target)
    loss = ce * (1 - right) ** gamma
    return ((alpha * target + (1 - alpha) * (1 - target)) * loss).mean()


def softmax_focal_loss(input, target, gamma=2.0):
    logs = F.log_softmax(input, 1).gather(1, target.unsqueeze(1)).squeeze(1)
    return ((1 - logs.exp()) ** gamma * -logs).mean()


def asymmetric_loss(input, target, gamma_neg=4.0, gamma_pos=1.0, clip=0.05):
    p = torch.sigmoid(input)
    other = (1 - p + clip).clamp(max=1)
    loss = target * torch.log(p.clamp(min=1e-8)) + (1 - target) * torch.log(other.clamp(min=1e-8))
    right = p * target + other * (1 - target)
    return -(loss * (1 - right) ** (gamma_pos * target + gamma_neg * (1 - target))).mean()


def poly_cross_entropy(input, target, epsilon=1.0):
    ce = F.cross_entropy(input, target, reduction="none")
    return (ce + epsilon * (1 - torch.exp(-ce))).mean()


def generalized_cross_entropy(input, target, q=0.7):
    logs = F.log_softmax(input, 1).gather(1, target.unsqueeze(1))
    return ((1 - torch.exp(q * logs)) / q).mean()


def symmetric_cross_entropy(input, target, alpha=0.1, beta=1.0, log_zero=-4.0):
    ce = F.cross_entropy(input, target, reduction="none")
    return (alpha * ce - beta * log_zero * (1 - torch.exp(-ce))).mean()


def logit_adjusted_cross_entropy(input, target, prior=None):
    return F.cross_entropy(input if prior is None else input + torch.log(prior / prior.sum()), target)


def z_loss(input):
    return (1e-4 * torch.logsumexp(input, 1) ** 2).mean()


def _with_margin(scores, target, changed, scale):
    """Cross entropy of scores of which the target's is changed."""
    index = torch.arange(len(scores))
    out = scores.clone()
    out[index, target] = changed(scores[index, target])
    return F.cross_entropy(out * scale, target)


def arcface_loss(input, target, margin=0.5, scale=64.0):
    def turned(c):
        sine = torch.sqrt((1 - c * c).clamp(min=1e-14))
        phi = c * math.cos(margin) - sine * math.sin(margin)
        return torch.where(c > -math.cos(margin), phi, c - margin * math.sin(margin))

    return _with_margin(input, target, turned, scale)


def cosface_loss(input, target, margin=0.35, scale=64.0):
    return _with_margin(input, target, lambda c: c - margin, scale)


def sphereface_loss(input, target, norm, margin=4):
    def turned(c):
        angle = margin * torch.acos(c)
        k = torch.floor(angle / math.pi)
        return (1 - 2 * (k % 2)) * torch.cos(angle) - 2 * k

    return _with_margin(input, target, turned, norm.unsqueeze(1))


def ldam_loss(input, target, counts, max_m=0.5, scale=30.0):
    margins = max_m * (counts.min() / counts) ** 0.25
    return _with_margin(input, target, lambda z: z - margins[target], scale)


def negative_binomial_nll_loss(input, target, dispersion):
    n = 1 / dispersion
    gammas = torch.lgamma(n + target) - torch.lgamma(n) - torch.lgamma(target + 1)
    return (
        -gammas + (n + target) * F.softplus(input + torch.log(dispersion)) - target * (input + torch.log(dispersion))
    ).mean()


def zero_inflated_negative_binomial_nll_loss(input, target, gate, dispersion):
    n, x = 1 / dispersion, input + torch.log(dispersion)
    gammas = torch.lgamma(n + target) - torch.lgamma(n) - torch.lgamma(target + 1)
    some = F.softplus(gate) - gammas + (n + target) * F.softplus(x) - target * x
    zero = F.softplus(gate) - torch.logaddexp(gate, -n * F.softplus(x))
    return torch.where(target == 0, zero, some).mean()


def student_t_nll_loss(input, target, scale, df):
    q = (input - target) / scale
    constant = torch.lgamma(0.5 * df) - torch.lgamma(0.5 * df + 0.5) + 0.5 * torch.log(math.pi * df) + torch.log(scale)
    return (constant + 0.5 * (df + 1) * torch.log1p(q * q / df)).mean()


def gaussian_crps_loss(input, target, scale):
    q = (target - input) / scale
    density = torch.exp(-0.5 * q * q) * math.sqrt(2 / math.pi)
    return (scale * (q * torch.erf(q / math.sqrt(2)) + density - 1 / math.sqrt(math.pi))).mean()


def _boxes(a, b):
    """The corners of two boxes, their overlap, their union, and the sides of the box around both."""
    x1, y1, x2, y2 = a.unbind(-1)
    u1, v1, u2, v2 = b.unbind(-1)
    overlap = (torch.min(x2, u2) - torch.max(x1, u1)).clamp(min=0) * (torch.min(y2, v2) - torch.max(y1, v1)).clamp(
        min=0
    )
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - overlap
    around = torch.max(x2, u2) - torch.min(x1, u1), torch.max(y2, v2) - torch.min(y1, v1)
    return (x1, y1, x2, y2), (u1, v1, u2, v2), overlap, union, around


def generalized_box_iou_loss(input, target, eps=1e-7):
    *_, overlap, union, (w, h) = _boxes(input, target)
    return (1 - overlap / (union + eps) + (w * h - union) / (w * h + eps)).mean()


def _distance_iou(input, target, eps):
    (x1, y1, x2, y2), (u1, v1, u2, v2), overlap, union, (w, h) = _boxes(input, target)
    centre = ((x1 + x2 - u1 - u2) / 2) ** 2 + ((y1 + y2 - v1 - v2) / 2) ** 2
    iou = overlap / (union + eps)
    return 1 - iou + centre / (w * w + h * h + eps), iou


def distance_box_iou_loss(input, target, eps=1e-7):
    return _distance_iou(input, target, eps)[0].mean()


def complete_box_iou_loss(input, target, eps=1e-7):
    loss, iou = _distance_iou(input, target, eps)
    (x1, y1, x2, y2), (u1, v1, u2, v2), *_ = _boxes(input, target)
    v = 4 / math.pi**2 * (torch.atan((u2 - u1) / (v2 - v1)) - torch.atan((x2 - x1) / (y2 - y1))) ** 2
    with torch.no_grad():
        alpha = v / (1 - iou + v + eps)
    return (loss + alpha * v).mean()


def multi_quantile_loss(input, target, quantiles):
    error = target.unsqueeze(1) - input
    return torch.maximum(quantiles * error, (quantiles - 1) * error).mean()


def coral_loss(input, target):
    levels = (target.unsqueeze(1) > torch.arange(input.shape[1])).to(input.dtype)
    return F.binary_cross_entropy_with_logits(input, levels, reduction="none").sum(1).mean()


def corn_loss(input, target):
    place = torch.arange(input.shape[1])
    asked = target.unsqueeze(1) >= place
    levels = (target.unsqueeze(1) > place).to(input.dtype)
    return (F.binary_cross_entropy_with_logits(input, levels, reduction="none") * asked).sum() / asked.sum()


def logistic_hazard_loss(input, interval, event):
    index = interval.unsqueeze(1)
    seen = torch.zeros_like(input).scatter(1, index, event.unsqueeze(1))
    return F.binary_cross_entropy_with_logits(input, seen, reduction="none").cumsum(1).gather(1, index).mean()


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1):
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))).mean()


def grpo_loss(log_prob, old_log_prob, advantage, epsilon_low=0.2, epsilon_high=0.2):
    ratio = torch.exp(log_prob - old_log_prob)
    held = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return -torch.minimum(ratio * advantage, held * advantage).mean()
