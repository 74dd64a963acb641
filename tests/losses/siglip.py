"""The truth about yes or no for each pair."""

from pair_rows import of_diagonal, pairs, queued
from proofs import Bars, Example, PairsProof, Variant


def exact(m, image, text, logit_scale=10.0, logit_bias=-10.0, normalize=True):
    def of_row(positives, negatives):
        value = m.sum([*(m.softplus(-s) for s in positives), *(m.softplus(s) for s in negatives)])
        return value, [-m.sigmoid(-s) for s in positives], [m.sigmoid(s) for s in negatives]

    scale, bias = logit_scale * m.one, logit_bias * m.one
    return of_diagonal(m, of_row, image, text, False, "cosine" if normalize else "dot", scale, bias)


proof = PairsProof(
    name="siglip_loss",
    exact=exact,
    bars=Bars(value=1.4, gradient=1.4, eager_value=1.8, eager_gradient=1.6),
    variants=[
        Variant("default", pairs, gradients=(0, 1)),
        Variant("more_texts", queued, {"logit_scale": 3.0, "logit_bias": 0.5}, gradients=(0, 1)),
        Variant("dots", pairs, {"logit_scale": 0.5, "normalize": False}, gradients=(0, 1)),
    ],
    example=Example(
        data="""image = torch.randn(10, 8)
text = image + torch.randn(10, 8)  # row i belongs to image i
logit_scale, logit_bias = 10.0, -10.0""",
        by_hand="""normalized = torch.nn.functional.normalize
similarities = logit_scale * normalized(image) @ normalized(text).T + logit_bias
sign = 2 * torch.eye(10) - 1  # 1 for a pair, -1 for what is none
by_hand = -torch.nn.functional.logsigmoid(sign * similarities).sum(dim=1)""",
        operands="image, text",
        arguments="logit_scale=logit_scale, logit_bias=logit_bias, ",
    ),
)
