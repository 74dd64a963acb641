"""Losses of ordered rows, as people write them in torch operations: the peers of their rows."""

import torch


def list_mle_loss(input, target):
    v = input.gather(-1, target.argsort(dim=-1, descending=True, stable=True))
    return (v.flip(-1).logcumsumexp(-1).flip(-1) - v).sum(-1).mean()


def cox_ph_loss(input, time, event, ties="breslow"):
    """All of a tie are at risk: Breslow's sums. Efron's take a loop over ties."""
    order = time.argsort(dim=-1, descending=True, stable=True)
    v, happened, t = (x.gather(-1, order) for x in (input, event, -time))
    last = torch.searchsorted(t, t, right=True) - 1
    return ((v.logcumsumexp(-1).gather(-1, last) - v) * happened).sum() / happened.sum()


def squared_emd_loss(input, target):
    certain = torch.nn.functional.one_hot(target, input.shape[-1])
    return (input.softmax(-1) - certain).cumsum(-1).square().sum(-1).mean()


def _extension(errors, labels):
    """The Lovasz extension of the Jaccard loss, of sets along the last dimension."""
    errors, order = errors.sort(dim=-1, descending=True)
    labels = labels.gather(-1, order)
    total = labels.sum(-1, keepdim=True)
    jaccard = 1 - (total - labels.cumsum(-1)) / (total + (1 - labels).cumsum(-1))
    steps = torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], -1)
    return (errors * steps).sum(-1)


def lovasz_hinge_loss(input, target):
    labels = target.flatten(1).to(input.dtype)
    return _extension((1 - input.flatten(1) * (2 * labels - 1)).relu(), labels).mean()


def lovasz_softmax_loss(input, target):
    p = input.softmax(1).transpose(0, 1).flatten(1)
    labels = (target.flatten() == torch.arange(p.shape[0], device=p.device).unsqueeze(1)).to(p.dtype)
    return _extension((labels - p).abs(), labels).mean()
