"""Composed losses as other libraries write them in torch operations; the results are means.

Operands are those of losskit's function of the same name.
"""

import math

import torch
import torch.nn.functional as F


def barlow_twins_loss(input1, input2, lambd=5e-3, eps=1e-5):
    a, b = (F.batch_norm(x, None, None, training=True, eps=eps) for x in (input1, input2))
    c = (a.T @ b) / a.shape[0]
    on = (c.diagonal() - 1).square().sum()
    size = c.shape[0]
    off = c.flatten()[:-1].view(size - 1, size + 1)[:, 1:].square().sum()
    return on + lambd * off


def vicreg_loss(input1, input2, invariance=25.0, variance=25.0, covariance=1.0, eps=1e-4):
    n, d = input1.shape
    loss = invariance * F.mse_loss(input1, input2)
    for x in (input1, input2):
        centred = x - x.mean(0)
        deviation = torch.sqrt(centred.var(0) + eps)
        loss = loss + 0.5 * variance * torch.mean(F.relu(1.0 - deviation))
        c = (centred.T @ centred) / (n - 1)
        off = c.flatten()[:-1].view(d - 1, d + 1)[:, 1:]
        loss = loss + covariance * off.square().sum() / d
    return loss


def evidential_classification_loss(input, target, reg_weight=0.0):
    alpha = input + 1
    y = F.one_hot(target, input.shape[-1])
    total = alpha.sum(-1, keepdim=True)
    loss = (y * (total.log() - alpha.log())).sum(-1)
    if reg_weight:
        changed = y + (1 - y) * alpha
        added = changed.sum(-1, keepdim=True)
        first = added.lgamma() - math.lgamma(input.shape[-1]) - changed.lgamma().sum(-1, keepdim=True)
        second = ((changed - 1) * (changed.digamma() - added.digamma())).sum(-1, keepdim=True)
        loss = loss + reg_weight * (first + second).squeeze(-1)
    return loss.mean()


def _log_t(u, t):
    return u.log() if t == 1.0 else (u.pow(1.0 - t) - 1.0) / (1.0 - t)


def _exp_t(u, t):
    return u.exp() if t == 1.0 else (1.0 + (1.0 - t) * u).relu().pow(1.0 / (1.0 - t))


def _normalised(scores, t, steps=5):
    with torch.no_grad():
        top = scores.amax(-1, keepdim=True)
        start = scores - top
        x, steps = start, 60 if scores.dtype == torch.float64 else steps  # five are good to seven digits
        for _ in range(steps):
            total = _exp_t(x, t).sum(-1, keepdim=True)
            x = start * total.pow(1.0 - t)
        total = _exp_t(x, t).sum(-1, keepdim=True)
        return -_log_t(1.0 / total, t) + top


class _TemperedNormalization(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, t):
        constant = _normalised(scores, t)
        ctx.save_for_backward(scores, constant)
        ctx.t = t
        return constant

    @staticmethod
    def backward(ctx, upstream):
        scores, constant = ctx.saved_tensors
        escort = _exp_t(scores - constant, ctx.t).pow(ctx.t)
        return escort / escort.sum(-1, keepdim=True) * upstream, None


def bi_tempered_logistic_loss(input, target, t1=0.8, t2=1.2):
    """Five fixed-point steps, as every port has."""
    labels = F.one_hot(target, input.shape[-1]).to(input.dtype)
    p = _exp_t(input - _TemperedNormalization.apply(input, t2), t2)
    first = labels * _log_t(labels + 1e-10, t1) - labels * _log_t(p, t1)
    second = labels.pow(2.0 - t1) / (2.0 - t1) - p.pow(2.0 - t1) / (2.0 - t1)
    return (first - second).sum(-1).mean()


def seesaw_loss(input, target, counts, p=0.8, q=2.0):
    labels = F.one_hot(target, input.shape[-1])
    weights = input.new_ones(labels.size())
    ratio = counts[None, :].clamp(min=1) / counts[:, None].clamp(min=1)
    weights = weights * (ratio.clamp(max=1.0).pow(p))[target, :]
    scores = F.softmax(input.detach(), 1)
    own = scores[torch.arange(len(scores)), target][:, None].clamp(min=0.01)
    mistaken = scores / own
    weights = weights * torch.where(mistaken > 1, mistaken.pow(q), torch.ones_like(mistaken))
    return F.cross_entropy(input + weights.log() * (1 - labels), target)


def _best(target):
    ideal = target.sort(-1, descending=True).values
    places = torch.arange(1, target.shape[-1] + 1, device=target.device, dtype=target.dtype)
    return ((2**ideal - 1) / torch.log2(1.0 + places)).sum(-1)


def approx_ndcg_loss(input, target, temperature=0.1):
    wins = torch.sigmoid((input[:, None, :] - input[:, :, None]) / temperature)
    ranks = 0.5 + wins.sum(-1)
    return (1 - ((2**target - 1) / torch.log2(1.0 + ranks)).sum(-1) / _best(target)).mean()


def neural_ndcg_loss(input, target, temperature=1.0, sinkhorn_iters=50, tolerance=1e-6):
    """With the early end of Sinkhorn's steps that allRank has."""
    n = input.shape[1]
    distances = (input[:, :, None] - input[:, None, :]).abs().sum(-1)
    scaling = (n + 1 - 2 * torch.arange(1, n + 1, device=input.device)).to(input.dtype)
    p = ((scaling[None, :, None] * input[:, None, :] - distances[:, None, :]) / temperature).softmax(-1)
    for _ in range(sinkhorn_iters):
        p = p / p.sum(1, keepdim=True).clamp(min=1e-10)
        p = p / p.sum(2, keepdim=True).clamp(min=1e-10)
        ends = (p.sum(2) - 1).abs().max() < tolerance and (p.sum(1) - 1).abs().max() < tolerance
        if bool(ends):
            break
    gains = 2**target - 1
    discounts = 1 / torch.log2(torch.arange(n, device=input.device, dtype=input.dtype) + 2)
    return (1 - (torch.matmul(p, gains[:, :, None]).squeeze(-1) * discounts).sum(-1) / _best(target)).mean()


LOG_Z = math.log(2 * math.e * float(torch.special.modified_bessel_k1(torch.tensor(1.0, dtype=torch.float64))))


def adaptive_robust_loss(input, target, alpha=1.0, scale=1.0):
    """Where alpha is a number, the partition function is one: for 1 it is 2 e K1(1), by Bessel's function."""
    beyond = 2.0 - alpha
    u = (input - target) / scale
    return (beyond / alpha * ((u * u / beyond + 1.0) ** (0.5 * alpha) - 1.0) + math.log(scale) + LOG_Z).mean()
