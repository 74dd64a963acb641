"""The truth about the absolute scaled error. At a tie its slope is zero."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, scale):
    d = input - target
    slope = m.sign(d) / scale
    return (abs(d) / scale,), {"input": (slope,), "target": (-slope,), "scale": (-abs(d) / scale / scale,)}


proof = PointwiseProof(
    name="mase_loss",
    exact=exact,
    bars=Bars(value=1.4, gradient=2.1, eager_value=1.4, eager_gradient=2.1),
    others={"target": [0.0, 1.0, -3.0, 1000.0], "scale": [1.0, 0.5, 3.0, 100.0]},
    example=Example(
        data="""history = torch.randn(4, 50).cumsum(dim=1)  # four series
output = history[:, -1:] + torch.randn(4, 6)  # forecasts of six steps
target = history[:, -1:] + torch.randn(4, 6)
scale = (history[:, 1:] - history[:, :-1]).abs().mean(dim=1)  # one number per series""",
        by_hand="by_hand = (output - target).abs() / scale[:, None]",
        operands="output, target, scale",
        more="""# With a season of 7 steps the naive forecast repeats the value of 7 steps before.
seasonal = (history[:, 7:] - history[:, :-7]).abs().mean(dim=1)
print("season of 7", losskit.MASELoss()(output, target, seasonal))""",
    ),
)
