"""The truth about connectionist temporal classification: the probability of a target over all alignments."""

from functools import partial

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, normal

ON_BATCH = (1, 0, 0, 0)  # (T, N, C)


def lattice(m, p, target, blank):
    """The probability of a target, and the posterior of each class in each frame, of probabilities p."""
    frames, states = len(p), [blank]
    for label in target:
        states += [label, blank]
    last = len(states) - 1
    skips = [s > 1 and states[s] != blank and states[s] != states[s - 2] for s in range(last + 1)]
    alpha, beta = ([[m.zero] * (last + 1) for _ in range(frames)] for _ in range(2))
    for t in range(frames):
        for s, c in enumerate(states):
            old = alpha[t - 1]
            before = old[s] + (old[s - 1] if s else 0) + (old[s - 2] if skips[s] else 0) if t else s < 2
            alpha[t][s] = before * p[t][c]
    for t in reversed(range(frames)):
        for s in range(last + 1):
            if t == frames - 1:
                beta[t][s] = m.one * (s >= last - 1)
                continue
            following = [s, *([s + 1] if s < last else []), *([s + 2] if s + 1 < last and skips[s + 2] else [])]
            beta[t][s] = sum(beta[t + 1][n] * p[t + 1][states[n]] for n in following)
    total = m.sum(alpha[-1][-2:]) if frames else m.one * (not target)
    posterior = [[m.zero] * len(row) for row in p]
    for t in range(frames if total else 0):
        for s, c in enumerate(states):
            posterior[t][c] += alpha[t][s] * beta[t][s] / total
    return total, posterior


def exact(m, log_probs, targets, input_length, target_length, blank=0, zero_infinity=False, from_scores=False,
          exact_gradient=False):  # fmt: skip
    """By default the gradient is the one that is right after a log-softmax, as torch's."""
    softmax = lambda row: m.softmax(row)[0] if from_scores else [m.exp(x) for x in row]
    p = [softmax(row) for row in log_probs[:input_length]]
    total, posterior = lattice(m, p, targets[:target_length], blank)
    nothing = [[m.zero] * len(row) for row in log_probs]
    if not total:
        return (m.zero if zero_infinity else m.inf,), {0: nothing}
    used = [[-q if exact_gradient else v - q for v, q in zip(*rows)] for rows in zip(p, posterior)]
    return (-m.log(total),), {0: used + nothing[input_length:]}


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


def scores(kind, frames, classes, target, seed):
    """What a network gives of which some alignment of the target is right."""
    x = torch.randn(frames, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    path = [0] * frames
    for i, label in enumerate(target):
        path[(2 * i + 1) * frames // (2 * len(target))] = label
    return KINDS[kind](x, torch.nn.functional.one_hot(torch.tensor(path), classes).double())


def network(kind, dtype):
    """Scores of a kind of network, with repeated labels, without any, of one frame, with another class as blank."""
    for seed, (frames, classes, target, blank) in enumerate(
        (
            (30, 7, [1, 3, 3, 6, 2], 0),
            (24, 5, [0, 1, 0, 0, 2, 3], 4),
            (12, 4, [], 1),
            (9, 40, [3, 3, 7, 2], 0),
            (1, 3, [1], 0),
        )
    ):
        x = scores(kind, frames, classes, target, seed).to(dtype)
        lengths = torch.tensor([frames]), torch.tensor([len(target)])
        for mode in ({}, {"exact_gradient": True}, {"from_scores": True}):
            given = x if mode.get("from_scores") else x.double().log_softmax(1)
            yield (given[:, None], torch.tensor([target], dtype=torch.int64), *lengths), {"blank": blank, **mode}


def sequences(n, g):
    """Log-probabilities, labels, and the lengths of both."""
    frames = 9
    target = torch.randint(1, CLASSES, (n, 3), generator=g)
    lengths = torch.arange(n) % 4
    return normal(frames, n, CLASSES, g=g).log_softmax(-1), target, frames - torch.arange(n) % 2, lengths


proof = RowProof(
    name="ctc_loss",
    exact=exact,
    # float64 has products of as many rounded factors as there are frames, or sums of as many logarithms.
    bars=Bars(value=2.0, gradient=15.0, eager_value=2.2, eager_gradient=31.0),
    points={kind: partial(network, kind) for kind in KINDS},
    scale=scale,
    variants=[
        Variant("blank", sequences, {"zero_infinity": True}, batch=ON_BATCH),
        Variant("scores", sequences, {"from_scores": True, "blank": 0}, batch=ON_BATCH),
        Variant("exact", sequences, {"exact_gradient": True}, batch=ON_BATCH),
    ],
    example=Example(
        data="""from itertools import groupby, product

frames, classes = 4, 3  # class 0 is the blank
log_p = torch.randn(frames, 2, classes).log_softmax(dim=2)  # (T, N, C): two sequences
targets = torch.tensor([[1, 2], [2, 2]])
input_lengths, target_lengths = torch.tensor([4, 4]), torch.tensor([2, 2])
""",
        by_hand="""def labels(path):
    return [c for c, _ in groupby(path) if c != 0]  # repeats merge, then blanks go


rows = []
for n in range(2):
    paths = product(range(classes), repeat=frames)
    alignments = [list(p) for p in paths if labels(p) == targets[n].tolist()]
    total = sum(log_p[range(frames), n, p].sum().exp() for p in alignments)
    rows.append(-total.log())
by_hand = torch.stack(rows)""",
        operands="log_p, targets, input_lengths, target_lengths",
        mean="(by_hand / target_lengths).mean()",
        more="""# from_scores=True takes raw scores and does the log-softmax itself.
# Log-probabilities are scores too.
fused = losskit.CTCLoss(from_scores=True)(log_p, targets, input_lengths, target_lengths)
torch.testing.assert_close(fused, reductions["mean"])
print("from_scores=True", fused)""",
    ),
)
