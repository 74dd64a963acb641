"""The truth about log-cosh: a parabola near zero, lines far out."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target):
    d = input - target
    a = abs(d)
    u = m.expm1(m.where(a < 1, a, 0 * d + 1))
    near = m.log1p(u * u / (2 * (1 + u)))
    return (m.where(a < 1, near, a - m.log(2) + m.log1p(m.exp(-2 * a))),), {
        "input": (m.tanh(d),),
        "target": (m.tanh(-d),),
    }


proof = PointwiseProof(
    name="log_cosh_loss",
    exact=exact,
    # A rounded difference, squared: 1 ULP before the first function.
    bars=Bars(value=2.7, gradient=2.4, eager_value=2.7, eager_gradient=2.4),
    example=Example(
        data="""output = torch.randn(10, 1)
target = torch.randn(10, 1)""",
        by_hand="by_hand = (output - target).cosh().log()",
        operands="output, target",
        more="""# The hyperbolic cosine overflows, and loses small residuals; the loss does neither.
far, near = torch.tensor([100.0]), torch.tensor([1e-4])
print("by hand", far.cosh().log(), near.cosh().log())
print("losskit", losskit.LogCoshLoss()(far, 0 * far), losskit.LogCoshLoss()(near, 0 * near))""",
    ),
)
