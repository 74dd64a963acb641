"""The truth about the Lovasz extension of the Jaccard loss, of probabilities of classes.

Its unreduced loss is one number for each class and not for each row: `exact` is compared in tests/test_ordered.py.
"""

from proofs import Example, Proof

from losses.lovasz_hinge import steps


def exact(m, pixels, labels):
    """The loss of each class of a set of pixels, and its gradient by the scores of each; the weights are constants."""
    found, classes = [], len(pixels[0])
    rows = [m.softmax(row) for row in pixels]
    for c in range(classes):
        there = [int(label == c) for label in labels]
        errors = [row[1](c) if t else row[0][c] for row, t in zip(rows, there)]
        value, by_error = [], [m.zero for _ in pixels]
        for k, step in steps(m, errors, there):
            value.append(errors[k] * step)
            by_error[k] = step * (1 - 2 * there[k])
        gradient = [[g * row[0][c] * ((j == c) - row[0][j]) for j in range(classes)] for row, g in zip(rows, by_error)]
        found.append((m.sum(value), gradient))
    return found


proof = Proof(
    name="lovasz_softmax_loss",
    example=Example(
        data="""scores = torch.randn(2, 4, 3, 3)
labels = torch.randint(0, 3, (2, 3, 3))  # class 3 is absent
labels[0, 0] = torch.arange(3)""",
        by_hand="""p = scores.softmax(dim=1)
rows = []
for c in range(4):
    t = (labels == c).flatten().float()
    errors, order = (t - p[:, c].flatten()).abs().sort(descending=True)
    t = t[order]
    jaccard = 1 - (t.sum() - t.cumsum(0)) / (t.sum() + (1 - t).cumsum(0))
    steps = jaccard - torch.cat([torch.zeros(1), jaccard[:-1]])
    rows.append((errors * steps).sum() * (t.sum() > 0))
by_hand = torch.stack(rows)""",
        operands="scores, labels",
        mean="by_hand.sum() / 3",
    ),
)
