"""The truth about minus the log-probability of the right class."""

from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, WEIGHT, labels, normal


def exact(m, input, target, weight=None, ignore_index=-100):
    price = m.zero if target == ignore_index else weight[target] if weight else m.one
    return (-price * input[target],), {0: [-price if c == target else m.zero for c in range(len(input))]}


def log_probabilities(n, g):
    """Log-probabilities, and the class of each row."""
    return normal(n, CLASSES, g=g).log_softmax(1), labels(n, g=g)


proof = RowProof(
    name="nll_loss",
    exact=exact,
    bars=Bars(value=0.5, gradient=0.0, eager_value=0.5, eager_gradient=0.0),
    variants=[
        Variant("indices", log_probabilities),
        Variant("weight", log_probabilities, {"weight": WEIGHT, "ignore_index": 2}),
    ],
    example=Example(
        data="""log_p = torch.randn(10, 5).log_softmax(dim=1)  # log-probabilities of 5 classes
target = torch.randint(0, 5, (10,))""",
        by_hand="by_hand = -log_p[torch.arange(10), target]",
        operands="log_p, target",
        more="""# With class weights the mean divides by the sum of the weights that the targets have.
weight = torch.rand(5)
weighted = (weight[target] * by_hand).sum() / weight[target].sum()
loss = losskit.NLLLoss(weight=weight)(log_p, target)
torch.testing.assert_close(loss, weighted)
print("weighted mean", loss)""",
    ),
)
