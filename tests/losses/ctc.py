"""Calls of connectionist temporal classification, and the loss by hand. Its truth is in tests/test_ctc.py."""

import torch
from proofs import Example, RowProof, Variant
from row_operands import CLASSES, normal

ON_BATCH = (1, 0, 0, 0)  # (T, N, C)


def sequences(n, g):
    """Log-probabilities, labels, and the lengths of both."""
    frames = 9
    target = torch.randint(1, CLASSES, (n, 3), generator=g)
    lengths = torch.arange(n) % 4
    return normal(frames, n, CLASSES, g=g).log_softmax(-1), target, frames - torch.arange(n) % 2, lengths


proof = RowProof(
    name="ctc_loss",
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
