"""The truth about the likelihood of a log-normal distribution."""

import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, scale):
    log_t = m.log(target)
    d = log_t - input
    q = d / scale
    value = (q * q / 2, m.log(scale), log_t, m.log(2 * m.pi) / 2)
    slope = (-log_t / scale / scale, input / scale / scale)
    by_target = (1 / target, log_t / scale / scale / target, -input / scale / scale / target)
    return value, {"input": slope, "target": by_target, "scale": (1 / scale, -q * q / scale)}


def scale(what, operands, given):
    """The logarithm of the target is rounded before the input is subtracted from it, and the difference squared."""
    if what not in ("value", "scale"):
        return 0.0
    x, t, s = (torch.as_tensor(operands[name], dtype=torch.float64) for name in ("input", "target", "scale"))
    of_value = ((t.log() - x) / s * t.log() / s).abs()
    return (of_value if what == "value" else 2 * of_value / s).nan_to_num(0.0).numpy()[()]


proof = PointwiseProof(
    name="log_normal_nll_loss",
    exact=exact,
    # Half the square of a rounded quotient of a rounded difference: 3 ULP before the sum.
    bars=Bars(value=3.2, gradient=4.1, eager_value=3.2, eager_gradient=4.1),
    others={"target": [1.0, 0.5, 40.0, 0.01], "scale": [1.0, 0.5, 4.0, 0.01]},
    infinite=("scale",),
    scale=scale,
    example=Example(
        data="""output = torch.randn(10, 1)  # predicted means of the logarithm
scale = torch.rand(10, 1) + 0.1  # predicted standard deviations of the logarithm
target = torch.randn(10, 1).exp()""",
        by_hand="by_hand = -torch.distributions.LogNormal(output, scale).log_prob(target)",
        operands="output, target, scale",
        more="""# The likelihood of the logarithm under a normal distribution, and the logarithm itself.
criterion = losskit.GaussianNLLLoss(full=True, reduction="none")
normal = criterion(output, target.log(), scale**2)
ours = losskit.LogNormalNLLLoss("none")(output, target, scale)
torch.testing.assert_close(ours, normal + target.log())""",
    ),
)
