"""The truth about Charbonnier's loss: a hyperbola."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, eps):
    d = input - target
    root = m.sqrt(d * d + eps * eps)
    slope = m.where(abs(d) == m.inf, m.sign(d), d / root)
    return (root,), {"input": (slope,), "target": (-slope,)}


proof = PointwiseProof(
    name="charbonnier_loss",
    exact=exact,
    variants=[{"eps": 0.5}, {"eps": 3.0}],
    bars=Bars(value=1.7, gradient=1.9, eager_value=1.0, eager_gradient=1.6),
    example=Example(
        data="""output = torch.rand(2, 3, 8, 8)
target = torch.rand(2, 3, 8, 8)
eps = 1e-3""",
        by_hand="by_hand = ((output - target) ** 2 + eps**2).sqrt()",
        operands="output, target",
        arguments="eps=eps, ",
        more="""# The pseudo-Huber loss with delta = eps is eps times as high, and 0 at the target.
pseudo = losskit.PseudoHuberLoss(eps)(output, target)
torch.testing.assert_close(pseudo / eps + eps, by_hand.mean())
print("a perfect prediction costs", losskit.CharbonnierLoss(eps)(target, target))""",
    ),
)
