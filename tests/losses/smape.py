"""The truth about the symmetric percentage error. Two zeros agree; a zero has the mean of its two slopes."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target):
    d, s = input - target, abs(input) + abs(target)
    endless = (s == m.inf) & (d == d)
    value = m.where(s == 0, s, m.where(endless, 2 + 0 * m.sign(d), 2 * m.div(abs(d), s)))
    alike = m.sign(input) * m.sign(target) > 0

    def slope(own, other, sign):
        at_zero = m.where((own == 0) & (other != 0), 2 * m.div(sign, s), 0 * sign)
        return m.where(alike, 4 * m.div(m.div(abs(other), s) * sign, s), at_zero)

    return (value,), {"input": (slope(input, target, m.sign(d)),), "target": (slope(target, input, m.sign(-d)),)}


proof = PointwiseProof(
    name="smape_loss",
    exact=exact,
    bars=Bars(value=1.9, gradient=2.9, eager_value=1.9, eager_gradient=2.9),
    example=Example(
        data="""output = 100 + 10 * torch.randn(10, 1)
target = 100 + 10 * torch.randn(10, 1)""",
        by_hand="by_hand = 2 * (output - target).abs() / (output.abs() + target.abs())",
        operands="output, target",
        more="""# Two zeros agree; by hand they are 0 / 0.
zero = torch.zeros(1)
assert losskit.SMAPELoss()(zero, zero) == 0""",
    ),
)
