"""Losses of lattices as people write them in torch operations: the recursion, a step of all samples at once.

Operands are those of losskit's function of the same name; the result is the mean.
"""

import torch


def rnnt_loss(logits, targets, logit_lengths, target_lengths, blank=-1):
    """Over anti-diagonals: entry u of diagonal d is the node (d - u, u)."""
    samples, frames, columns, _ = logits.shape
    logs = logits.log_softmax(-1)
    labels = logs[:, :, :-1].gather(3, targets[:, None, :, None].expand(-1, frames, -1, 1)).squeeze(3)
    never = logits.new_full((samples, frames, 1), -1e30)
    u = torch.arange(columns)
    t = torch.arange(frames + columns - 1)[:, None] - u
    there, t = (t >= 0) & (t < frames), t.clamp(0, frames - 1)
    blanks, labels = (torch.where(there, x[:, t, u], -1e30) for x in (logs[..., blank], torch.cat([labels, never], 2)))
    never = never[:, 0]
    alphas = [torch.cat([torch.zeros_like(never), never.expand(-1, columns - 1)], 1)]
    for d in range(1, frames + columns - 1):
        emitted = torch.cat([never, (alphas[-1] + labels[:, d - 1])[:, :-1]], 1)
        alphas.append(torch.logaddexp(alphas[-1] + blanks[:, d - 1], emitted))
    ended = torch.stack(alphas, 1) + blanks
    return -ended[torch.arange(samples), logit_lengths - 1 + target_lengths, target_lengths].mean()


def linear_chain_crf_loss(emissions, target, transitions, start, end, lengths):
    """The recursion of pytorch-crf."""
    every, steps, samples = start + emissions[:, 0], emissions.shape[1], torch.arange(len(emissions))
    score = start[target[:, 0]] + emissions[samples, 0, target[:, 0]]
    for t in range(1, steps):
        runs = t < lengths
        new = torch.logsumexp(every[:, :, None] + transitions + emissions[:, t, None], 1)
        every = torch.where(runs[:, None], new, every)
        more = transitions[target[:, t - 1], target[:, t]] + emissions[samples, t, target[:, t]]
        score = score + torch.where(runs, more, 0.0)
    score = score + end[target[samples, lengths - 1]]
    return (torch.logsumexp(every + end, 1) - score).mean()


def soft_dtw_loss(input, target, gamma=1.0):
    """Over anti-diagonals: entry i of diagonal d is the cell (i, d - i). In float64: what costs are rounded by is
    divided by gamma, and in float32 gradients were wrong by 2e-4 of the largest."""
    dtype, input, target = input.dtype, input.double(), target.double()
    samples, rows, columns = len(input), input.shape[1], target.shape[1]
    distances = (input[:, :, None] - target[:, None]).square().sum(-1)
    i = torch.arange(rows)
    j = torch.arange(rows + columns - 1)[:, None] - i
    costs = torch.where((j >= 0) & (j < columns), distances[:, i, j.clamp(0, columns - 1)], 1e10)
    never = input.new_full((samples, 1), 1e10)
    before, last = never.expand(-1, rows), torch.cat([costs[:, 0, :1], never.expand(-1, rows - 1)], 1)
    for d in range(1, rows + columns - 1):
        above, across = (torch.cat([never, x[:, :-1]], 1) for x in (last, before))
        softly = -gamma * torch.logsumexp(-torch.stack([last, above, across]) / gamma, 0)
        before, last = last, (costs[:, d] + softly).clamp(max=1e10)
    return last[:, -1].mean().to(dtype)
