"""Ranking losses as libraries have them, in torch operations: all items of a list with all others, K x K numbers.

Logistic losses are taken by softplus, which is stable and the fastest of torch's ways. Operands are those of losskit's
function of the same name; the result is the mean over lists.
"""

import torch
import torch.nn.functional as F


def pairs_of(scores, relevance):
    """Differences of the scores, and which of them are of a more relevant item and a less relevant one."""
    return scores.unsqueeze(2) - scores.unsqueeze(1), relevance.unsqueeze(2) > relevance.unsqueeze(1)


def rank_net_loss(input, target):
    difference, pairs = pairs_of(input, target)
    losses = torch.where(pairs, F.softplus(-difference), 0.0)
    return (losses.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)).mean()


def lambda_loss(input, target):
    difference, pairs = pairs_of(input, target)
    places = torch.arange(1, input.shape[1] + 1, device=input.device, dtype=input.dtype).expand_as(input)
    order = input.detach().argsort(1, descending=True)
    discount = 1 / torch.log2(1.0 + torch.empty_like(places).scatter_(1, order, places))
    gain = torch.exp2(target.to(input.dtype)) - 1
    best = (gain.sort(1, descending=True)[0] / torch.log2(1.0 + places)).sum(1, keepdim=True)
    gain = gain / torch.where(best > 0, best, 1.0)
    swap = (gain.unsqueeze(2) - gain.unsqueeze(1)) * (discount.unsqueeze(2) - discount.unsqueeze(1)).abs()
    return torch.where(pairs, swap * F.softplus(-difference), 0.0).sum((1, 2)).mean()


def list_net_loss(input, target):
    return -(target.to(input.dtype).softmax(1) * F.log_softmax(input, 1)).sum(1).mean()
