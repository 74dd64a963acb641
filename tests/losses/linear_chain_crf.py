"""The truth about the linear-chain conditional random field: a chain of tags among all chains."""

from functools import partial

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import normal

TAGS = 4


def exact(m, emissions, target, transitions, start=None, end=None, length=None):
    """By products of masses, forward and backward; the right tag's gradient is minus the sum of the others'."""
    tags, length = len(transitions), len(emissions) if length is None else int(length)
    nothing = [[m.zero] * tags for _ in emissions]
    of_pairs = [[m.zero] * tags for _ in range(tags)]
    begin, finish = ([m.zero] * tags if side is None else side for side in (start, end))
    if not length:
        return (m.zero,), {0: nothing, 2: of_pairs, 3: [m.zero] * tags, 4: [m.zero] * tags}
    e = [[m.exp(x) for x in row] for row in emissions[:length]]
    move = [[m.exp(x) for x in row] for row in transitions]
    alpha = [[m.exp(begin[k]) * e[0][k] for k in range(tags)]]
    for t in range(1, length):
        alpha.append([m.sum([alpha[-1][j] * move[j][k] for j in range(tags)]) * e[t][k] for k in range(tags)])
    beta = [[m.exp(x) for x in finish]]
    for t in reversed(range(1, length)):
        beta.insert(0, [m.sum([move[j][k] * e[t][k] * beta[0][k] for k in range(tags)]) for j in range(tags)])
    total = m.sum([a * b for a, b in zip(alpha[-1], beta[-1])])
    score = [*(emissions[t][target[t]] for t in range(length)), begin[target[0]], finish[target[length - 1]]]
    score += [transitions[target[t - 1]][target[t]] for t in range(1, length)]
    gradient = [[a * b / total for a, b in zip(*rows)] for rows in zip(alpha, beta)]
    for t, row in enumerate(gradient):
        row[target[t]] = -m.sum([x for k, x in enumerate(row) if k != target[t]])
    counts = [[0] * tags for _ in range(tags)]
    for t in range(1, length):
        counts[target[t - 1]][target[t]] += 1
        for j in range(tags):
            for k in range(tags):
                of_pairs[j][k] += alpha[t - 1][j] * move[j][k] * e[t][k] * beta[t][k] / total
    pairs = [[(x, -n) for x, n in zip(*rows)] for rows in zip(of_pairs, counts)]
    gradients = {0: gradient + nothing[length:], 2: pairs, 3: gradient[0], 4: gradient[length - 1]}
    return (m.log(total), *(-x for x in score)), gradients


KINDS = {"new": 1.0, "sure": 8.0, "extreme": 60.0}


def tagger(kind, dtype):
    """Scores of a new model, of one that is sure of right tags or wrong ones, of many steps, of one, of one tag."""
    for seed, (steps, tags) in enumerate(((12, 3), (5, 9), (40, 2), (1, 4), (3, 1))):
        g = torch.Generator().manual_seed(seed)
        x, moves, start, end = (
            KINDS[kind] * torch.randn(*shape, generator=g, dtype=torch.float64)
            for shape in ((steps, tags), (tags, tags), (tags,), (tags,))
        )
        for target in (x.argmax(1), torch.randint(0, tags, (steps,), generator=g)):
            operands = (x, target, moves, start, end, torch.tensor(steps))
            yield tuple(y[None].to(dtype) if y.is_floating_point() else y[None] for y in operands), {}


def chains(n, g):
    """Each sample has transitions of its own: losses of rows know nothing that rows share."""
    steps = 6
    scores = normal(n, TAGS, TAGS, g=g), normal(n, TAGS, g=g), normal(n, TAGS, g=g)
    target = torch.randint(0, TAGS, (n, steps), generator=g)
    return normal(n, steps, TAGS, g=g), target, *scores, steps - torch.arange(n) % 3


def without_ends(n, g):
    """Emissions, tags and transitions alone."""
    return chains(n, g)[:3]


proof = RowProof(
    name="linear_chain_crf_loss",
    exact=exact,
    # In float64, scores of hundreds leave their rounding in the exponentials of a step; in float32 the kernel's
    # gradients are the rounded truth. The eager formula takes the right tag's posterior from 1.
    bars=Bars(value=2.0, gradient=119.5, eager_value=2.0, eager_gradient=1725.0),
    points={kind: partial(tagger, kind) for kind in KINDS},
    variants=[
        Variant("whole", chains, gradients=(0, 2, 3, 4), batch=(0,) * 6),
        Variant("without ends", without_ends, gradients=(0, 2), batch=(0,) * 3),
    ],
    example=Example(
        data="""from itertools import product

steps, tags = 4, 3
emissions = torch.randn(2, steps, tags)
target = torch.tensor([[0, 1, 1, 2], [2, 2, 0, 1]])
transitions = torch.randn(tags, tags)  # from a tag (row) to the next one (column)
start, end = torch.randn(tags), torch.randn(tags)
""",
        by_hand="""def score(n, chain):
    moves = sum(transitions[a, b] for a, b in zip(chain, chain[1:]))
    return (
        emissions[n, range(steps), list(chain)].sum()
        + moves
        + start[chain[0]]
        + end[chain[-1]]
    )


rows = []
for n in range(2):
    every = torch.stack([score(n, chain) for chain in product(range(tags), repeat=steps)])
    rows.append(every.logsumexp(0) - score(n, target[n].tolist()))
by_hand = torch.stack(rows)""",
        operands="emissions, target, transitions, start, end",
    ),
)
