"""The truth about the mean over a row's labels of their cross entropies. A row of the tests has a single label."""

from proofs import Bars, Example, PointwiseProof

from losses.bce_with_logits import exact as of_one_label


def exact(m, input, target):
    return of_one_label(m, input, target)


proof = PointwiseProof(
    name="multilabel_soft_margin_loss",
    exact=exact,
    bars=Bars(value=1.8, gradient=3.2, eager_value=1.8, eager_gradient=2.4),
    example=Example(
        data="""logits = torch.randn(10, 5)  # 5 labels, each may apply
target = torch.randint(0, 2, (10, 5)).float()""",
        by_hand="""p = logits.sigmoid()
each = -(target * p.log() + (1 - target) * (1 - p).log())
by_hand = each.mean(dim=1)  # a row's loss is the mean over its labels""",
        operands="logits, target",
    ),
)
