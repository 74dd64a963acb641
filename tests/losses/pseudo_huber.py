"""The truth about the pseudo-Huber loss: a hyperbola less its height."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, delta):
    d = input - target
    root = m.sqrt(d * d + delta * delta)
    endless = abs(d) == m.inf
    value = m.where(endless, m.inf, delta * d * d / (root + delta))
    slope = m.where(endless, delta * m.sign(d), delta * d / root)
    return (value,), {"input": (slope,), "target": (-slope,)}


proof = PointwiseProof(
    name="pseudo_huber_loss",
    exact=exact,
    variants=[{"delta": 0.5}, {"delta": 3.0}],
    # A rounded difference, squared: 1 ULP, and a root, a quotient and two factors beside it.
    bars=Bars(value=3.7, gradient=2.4, eager_value=3.7, eager_gradient=2.3),
    example=Example(
        data="""output = torch.randn(10, 1)
target = torch.randn(10, 1)
delta = 0.5""",
        by_hand="by_hand = delta**2 * ((1 + ((output - target) / delta) ** 2).sqrt() - 1)",
        operands="output, target",
        arguments="delta=delta, ",
        more="""# Far out it is Huber's line, delta^2 / 2 lower.
far = torch.tensor([1e4])
huber = losskit.HuberLoss(delta=delta)(far, 0 * far)
pseudo = losskit.PseudoHuberLoss(delta)(far, 0 * far)
torch.testing.assert_close(huber - pseudo, torch.tensor(delta**2 / 2), rtol=0, atol=1e-3)
print("Huber", huber, "pseudo-Huber", pseudo)""",
    ),
)
