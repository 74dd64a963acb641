"""The truth about the transducer loss: the probability of labels over all ways through the lattice."""

from functools import partial

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, normal


def ways(m, p, target, blank):
    """The probability of a target, and the posterior of each class at each node, of probabilities p[t][u]."""
    frames, labels = len(p), len(target)
    alpha, beta = ([[m.zero] * (labels + 1) for _ in range(frames + 1)] for _ in range(2))
    alpha[0][0] = m.one
    for t in range(frames):
        for u in range(labels + 1):
            if t:
                alpha[t][u] += alpha[t - 1][u] * p[t - 1][u][blank]
            if u:
                alpha[t][u] += alpha[t][u - 1] * p[t][u - 1][target[u - 1]]
    beta[frames][labels] = m.one
    for t in reversed(range(frames)):
        for u in reversed(range(labels + 1)):
            beta[t][u] = beta[t + 1][u] * p[t][u][blank]
            if u < labels:
                beta[t][u] += beta[t][u + 1] * p[t][u][target[u]]
    total = beta[0][0]
    posterior = [[[m.zero] * len(node) for node in row] for row in p]
    for t in range(frames if total else 0):
        for u in range(labels + 1):
            posterior[t][u][blank] += alpha[t][u] * p[t][u][blank] * beta[t + 1][u] / total
            if u < labels:
                posterior[t][u][target[u]] += alpha[t][u] * p[t][u][target[u]] * beta[t][u + 1] / total
    return total, posterior


def exact(m, logits, targets, logit_length, target_length, blank=-1, clamp=-1.0, fused_log_softmax=True,
          fastemit_lambda=0.0):  # fmt: skip
    """FastEmit multiplies the posteriors of labels; the clamp is of a number of the gradient of a sample's loss."""
    blank = blank % len(logits[0][0])
    softmax = lambda row: m.softmax(row)[0] if fused_log_softmax else [m.exp(x) for x in row]
    gradient = [[[m.zero] * len(node) for node in row] for row in logits]
    if not logit_length:
        return (m.zero,), {0: gradient}
    p = [[softmax(node) for node in row[: target_length + 1]] for row in logits[:logit_length]]
    target = targets[:target_length]
    total, posterior = ways(m, p, target, blank)
    if not total:
        return (m.inf,), {0: gradient}
    for t, row in enumerate(p):
        for u, node in enumerate(row):
            share = [q if k == blank else (1 + fastemit_lambda) * q for k, q in enumerate(posterior[t][u])]
            for k, v in enumerate(node):
                others = m.sum(node[:k]) + m.sum(node[k + 1 :])  # 1 - v; the mass less a share would lose digits, too
                rest = m.sum(share[:k]) + m.sum(share[k + 1 :])
                slope = v * rest - share[k] * others if fused_log_softmax else -share[k]
                gradient[t][u][k] = max(min(slope, clamp), -clamp) if clamp > 0 else slope
    return (-m.log(total),), {0: gradient}


def scale(what, largest, row, given, dtype):
    """In float64 a small loss has the digits of 1, not its own: there is nothing wider to compute in."""
    return max(largest, 4) if what == "value" and dtype == torch.float64 else largest


KINDS = {
    "new": lambda x, right: x,
    "sure": lambda x, right: 8 * x,
    "extreme": lambda x, right: 60 * x,
    "right": lambda x, right: x + 8 * right,
    "perfect": lambda x, right: x + 25 * right,
    "wrong": lambda x, right: x - 40 * right,
    "far": lambda x, right: -1e4 * (1 - right) * x.abs().clamp(max=1),
    "up": lambda x, right: x + 1000,
}


def network(kind, dtype):
    """Scores of a kind of network, of which one way is right: labels in the middle, several in a frame, none, one frame."""
    for seed, (frames, classes, target, blank) in enumerate(
        ((12, 5, [1, 3, 3, 4], 0), (4, 4, [0, 1, 0, 0, 2], 3), (9, 3, [], -1), (3, 40, [3, 3, 7, 2], 0), (1, 3, [1], 0))
    ):
        columns = len(target) + 1
        x = torch.randn(frames, columns, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        right = torch.zeros_like(x)
        for t in range(frames):
            for u in range(columns):
                emits = u < len(target) and (t + 1) * len(target) > u * frames
                right[t, u, target[u] if emits else blank] = 1
        x = KINDS[kind](x, right).to(dtype)
        lengths = torch.tensor([frames]), torch.tensor([len(target)])
        for mode in ({}, {"fastemit_lambda": 0.25}, {"fused_log_softmax": False}):
            given = x.double().log_softmax(2) if mode.get("fused_log_softmax") is False else x
            yield (given[None], torch.tensor([target], dtype=torch.int64), *lengths), {"blank": blank, **mode}


def samples(n, g):
    """Scores, labels, and the lengths of both."""
    frames, labels = 5, 3
    targets = torch.randint(0, CLASSES - 1, (n, labels), generator=g)
    return normal(n, frames, labels + 1, CLASSES, g=g), targets, frames - torch.arange(n) % 3, torch.arange(n) % 4


def scores_after(n, g):
    """Log-probabilities, and no class 1 among the labels."""
    logits, targets, *lengths = samples(n, g)
    return logits.log_softmax(-1), torch.where(targets == 1, 4, targets), *lengths


proof = RowProof(
    name="rnnt_loss",
    exact=exact,
    # In float64 scores of some hundreds leave their rounding in the logarithms of paths; in float32 the gradient is
    # off by 1.1 ULP.
    bars=Bars(value=1.5, gradient=89.5, eager_value=2.2, eager_gradient=33.5),
    points={kind: partial(network, kind) for kind in KINDS},
    scale=scale,
    variants=[
        Variant("plain", samples),
        Variant("fastemit", samples, {"fastemit_lambda": 0.5, "blank": 4}),
        Variant("clamp", samples, {"clamp": 0.125}),
        Variant("log-probabilities", scores_after, {"fused_log_softmax": False, "blank": 1}),
    ],
    example=Example(
        data="""from itertools import combinations

frames, labels, classes = 3, 2, 4  # the last class is the blank
logits = torch.randn(2, frames, labels + 1, classes)  # (N, T, U + 1, C): two samples
targets = torch.tensor([[0, 1], [2, 2]])
logit_lengths, target_lengths = torch.tensor([3, 3]), torch.tensor([2, 2])
""",
        by_hand="""log_p = logits.log_softmax(dim=3)
rows = []
for n in range(2):
    ways = []
    for emits in combinations(
        range(frames - 1 + labels), labels
    ):  # the last step is always a blank
        t = u = 0
        way = torch.tensor(0.0)
        for step in range(frames + labels):
            if step in emits:
                way, u = way + log_p[n, t, u, targets[n, u]], u + 1
            else:
                way, t = way + log_p[n, t, u, -1], t + 1
        ways.append(way)
    rows.append(-torch.stack(ways).logsumexp(0))
by_hand = torch.stack(rows)""",
        operands="logits, targets, logit_lengths, target_lengths",
    ),
)
