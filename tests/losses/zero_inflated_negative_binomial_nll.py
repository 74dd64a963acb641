"""The truth about the likelihood of a negative binomial distribution some of whose zeros have a cause of their own."""

import torch
from proofs import Bars, Example, PointwiseProof

from losses import negative_binomial_nll


def empty_of(m, input, dispersion, log_input):
    """The loss of a count of 0 without the gate."""
    return m.softplus((input if log_input else m.log(input)) + m.log(dispersion)) / dispersion


def exact(m, input, target, gate, dispersion, log_input):
    plain, slopes = negative_binomial_nll.exact(m, input, target, dispersion, log_input)
    zero, empty, idle = target == 0, empty_of(m, input, dispersion, log_input), 0 * gate + 0 * target
    own, rest = m.sigmoid(gate), m.sigmoid(-gate)
    above = -m.expm1(-empty)
    none = m.where(rest * above < 0.5, -m.log1p(-rest * above), -m.log(own + rest * m.exp(-empty)))
    value = (m.where(zero, none, m.softplus(gate)), *(m.where(zero, idle, term) for term in plain))
    share = m.where(zero, m.sigmoid(-gate - empty), 1 + idle)
    by_gate = m.where(zero, -m.sigmoid(gate + empty) * rest * above, own)
    return value, {
        "input": tuple(m.times(share, term) for term in slopes["input"]),
        "target": slopes["target"],
        "gate": (by_gate,),
        "dispersion": tuple(m.times(share, term) for term in slopes["dispersion"]),
    }


def scale(what, operands, given):
    """Of a count of 0 an exponential of the rounded loss without the gate is taken, which may be far above 1."""
    if what == "value":
        return negative_binomial_nll.scale(what, operands, given)
    if what == "target":
        return 0.0
    names = ("input", "target", "gate", "dispersion")
    x, t, gate, alpha = (torch.as_tensor(operands[name], dtype=torch.float64) for name in names)
    log_mean = x if given["log_input"] else x.log()
    empty = torch.logaddexp(torch.zeros_like(x), log_mean + alpha.log()) / alpha
    score, nothing = gate + empty, torch.zeros_like(x)
    share, own = (torch.exp(-torch.logaddexp(nothing, side)) for side in (score, -score))
    slope = torch.sigmoid(log_mean + alpha.log()) / alpha
    by_input = slope if given["log_input"] else slope / x
    size = {"input": share * by_input, "gate": own * share, "dispersion": share * empty / alpha}[what]
    return (empty * size * (t == 0)).nan_to_num(0.0, 0.0).numpy()[()]


proof = PointwiseProof(
    name="zero_inflated_negative_binomial_nll_loss",
    exact=exact,
    variants=[{"log_input": False}],
    # As of the negative binomial distribution; the gradients are those times a probability.
    bars=Bars(value=5.8, gradient=9.2, eager_value=6.8, eager_gradient=7.6),
    others={"target": [0.0, 1.0, 3.0, 0.0], "gate": [0.0, -2.0, 1.0, 30.0], "dispersion": [1.0, 0.5, 0.01, 4.0]},
    scale=scale,
    example=Example(
        data="""log_means = torch.randn(10, 1)  # the model predicts the logarithm of the mean
dispersion = torch.rand(10, 1) + 0.1  # how much more than Poisson's the counts vary
gate = torch.randn(10, 1)  # and the score of a zero with a cause of its own
target = torch.poisson(torch.full((10, 1), 1.0))  # counts""",
        by_hand="""size = 1 / dispersion
logits = log_means + dispersion.log()
counts = torch.distributions.NegativeBinomial(total_count=size, logits=logits)
probability = torch.sigmoid(-gate) * counts.log_prob(target).exp()
probability = probability + torch.sigmoid(gate) * (target == 0)
by_hand = -probability.log()""",
        operands="log_means, target, gate, dispersion",
        more="""# With a gate that is shut it is the negative binomial distribution itself.
shut = losskit.ZeroInflatedNegativeBinomialNLLLoss()(log_means, target, -100.0, dispersion)
plain = losskit.NegativeBinomialNLLLoss()(log_means, target, dispersion)
torch.testing.assert_close(shut, plain)""",
    ),
)
