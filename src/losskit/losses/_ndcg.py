"""What losses of NDCG share: gains, discounts, and lists in blocks."""

import torch

BLOCK = 1 << 16  # pairs of items


def discounts(size, like):
    """One over the logarithm of ranks, from 1 on: what a gain there counts."""
    return 1.0 / torch.log2(torch.arange(2, size + 2, device=like.device, dtype=like.dtype))


def gains(target, element_mask):
    """2^relevance - 1 over the NDCG of the best order; which lists have one, since something is relevant in them."""
    gain = torch.exp2(target) - 1.0
    if element_mask is not None:
        gain = torch.where(element_mask, gain, 0.0)
    best = (gain.sort(-1, descending=True).values * discounts(gain.shape[-1], gain)).sum(-1)
    has_loss = best > 0
    return gain / torch.where(has_loss, best, 1.0).unsqueeze(-1), has_loss


def by_blocks(input, gain, element_mask, of_block):
    """Losses and gradients of lists, some lists at a time: their pairs should stay in the cache of a processor.

    of_block: gives both of the scores, gains and masks of some lists.
    """
    size = input.shape[-1]
    scores, gain = input.reshape(-1, size), gain.reshape(-1, size)
    counts = None if element_mask is None else element_mask.reshape(-1, size)
    step = max(1, BLOCK // (size * size)) if input.device.type == "cpu" else max(1, len(scores))
    loss, gradient = torch.empty_like(scores[:, 0]), torch.empty_like(scores)
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        loss[part], gradient[part] = of_block(scores[part], gain[part], None if counts is None else counts[part])
    return loss.view(input.shape[:-1]), gradient.view(input.shape)
