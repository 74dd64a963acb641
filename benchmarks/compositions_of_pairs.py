"""Losses of pairs in torch operations, the peers of their rows: as repositories have them, the matrix stored.

Masks are filled in where a sum would do, only where that is faster; rows without a positive are left out.
"""

import torch
import torch.nn.functional as F


def info_nce_loss(query, key, temperature=0.1):
    similarities = F.normalize(query) @ F.normalize(key).T / temperature
    return F.cross_entropy(similarities, torch.arange(len(query), device=query.device))


def nt_xent_loss(input1, input2, temperature=0.5):
    rows = F.normalize(torch.cat([input1, input2]))
    n, itself = len(input1), torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    similarities = (rows @ rows.T / temperature).masked_fill(itself, float("-inf"))
    return F.cross_entropy(similarities, torch.arange(2 * n, device=rows.device).roll(n))


def clip_loss(image, text, logit_scale=14.285714285714286):
    similarities = logit_scale * F.normalize(image) @ F.normalize(text).T
    own = torch.arange(len(image), device=image.device)
    return 0.5 * (F.cross_entropy(similarities, own) + F.cross_entropy(similarities.T, own))


def siglip_loss(image, text, logit_scale=10.0, logit_bias=-10.0):
    similarities = logit_scale * F.normalize(image) @ F.normalize(text).T + logit_bias
    signs = 2.0 * torch.eye(len(image), dtype=image.dtype, device=image.device) - 1.0
    return -F.logsigmoid(signs * similarities).sum() / len(image)


def _alike(target):
    alike = target.unsqueeze(1) == target
    return alike, alike & ~torch.eye(len(target), dtype=torch.bool, device=target.device)


def _mean(rows, counts):
    return torch.where(counts, rows, 0.0).sum() / counts.sum()


def sup_con_loss(input, target, temperature=0.1):
    rows = F.normalize(input)
    similarities = rows @ rows.T / temperature
    alike, positive = _alike(target)
    count = positive.sum(1)
    total = similarities.masked_fill(alike & ~positive, float("-inf")).logsumexp(1)
    return _mean(total - (similarities * positive).sum(1) / count.clamp(min=1), count > 0)


def circle_loss(input, target, margin=0.4, gamma=80.0):
    rows = F.normalize(input)
    similarities = rows @ rows.T
    alike, positive = _alike(target)
    up = (1 + margin - similarities.detach()).clamp(min=0) * (1 - margin - similarities)
    down = (similarities.detach() + margin).clamp(min=0) * (similarities - margin)
    near = (gamma * up).masked_fill(~positive, float("-inf")).logsumexp(1)
    far = (gamma * down).masked_fill(alike, float("-inf")).logsumexp(1)
    counts = positive.any(1) & ~alike.all(1)
    return _mean(F.softplus(torch.where(counts, near, 0.0) + torch.where(counts, far, 0.0)), counts)


def multi_similarity_loss(input, target, alpha=2.0, beta=50.0, base=0.5):
    rows = F.normalize(input)
    similarities = rows @ rows.T
    alike, positive = _alike(target)
    near = torch.log1p((torch.exp(-alpha * (similarities - base)) * positive).sum(1)) / alpha
    far = torch.log1p((torch.exp(beta * (similarities - base)) * ~alike).sum(1)) / beta
    return (near + far).mean()


def batch_hard_triplet_loss(input, target, margin=1.0):
    distances = torch.cdist(input, input)
    alike, positive = _alike(target)
    farthest = distances.masked_fill(~positive, -1.0).amax(1)
    nearest = distances.masked_fill(alike, float("inf")).amin(1)
    counts = positive.any(1) & ~alike.all(1)
    return _mean(F.relu(farthest - torch.where(counts, nearest, 0.0) + margin), counts)
