"""Calls of cross entropy, and the loss by hand. Its truth is in tests/test_class_scores.py."""

from proofs import Example, RowProof, Variant
from row_operands import CLASSES, WEIGHT, indices, normal


def probabilities(n, g):
    """Scores, and a probability for each class."""
    return normal(n, CLASSES, g=g), normal(n, CLASSES, g=g).softmax(1)


proof = RowProof(
    name="cross_entropy",
    variants=[
        Variant("indices", indices),
        Variant("smoothing", indices, {"label_smoothing": 0.2}),
        Variant("weight", indices, {"weight": WEIGHT, "ignore_index": 1}),
        Variant("weight_smoothing", indices, {"weight": WEIGHT, "label_smoothing": 0.2}),
        Variant("probabilities", probabilities, gradients=(0, 1)),
        Variant("probabilities_weight", probabilities, {"weight": WEIGHT, "label_smoothing": 0.1}, gradients=(0, 1)),
    ],
    example=Example(
        data="""logits = torch.randn(10, 5)  # (B, C): a score for each of 5 classes
target = torch.randint(0, 5, (10,))""",
        by_hand="""log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()  # log-softmax
by_hand = -log_p[torch.arange(10), target]  # the log-probability of the right class""",
        operands="logits, target",
        more="""# Soft targets: a probability for each class.
soft = torch.randn(10, 5).softmax(dim=1)
loss = losskit.CrossEntropyLoss()(logits, soft)
torch.testing.assert_close(loss, -(soft * log_p).sum(dim=1).mean())
print("soft targets", loss)

# It is the log-softmax followed by NLLLoss.
torch.testing.assert_close(losskit.NLLLoss()(log_p, target), by_hand.mean())""",
    ),
)
