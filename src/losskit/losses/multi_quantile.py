"""MultiQuantileLoss: several quantiles of each target, predicted at once."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.losses.pinball import LEVELS, PinballLoss


class MultiQuantileLoss(PointwiseLoss):
    """The mean of the pinball losses of several quantiles, which the last dimension of the predictions holds.

    Choose it for prediction intervals and for forecasts with their uncertainty, without a distribution to believe in.
    Prefer PinballLoss for one quantile, GaussianCRPSLoss or StudentTNLLLoss where a distribution fits.

    With evenly spaced quantiles, twice this loss tends to the continuous ranked probability score. Nothing here keeps
    the quantiles in order: a price of q on crossing is
    `q * losskit.MarginRankingLoss()(input[..., 1:], input[..., :-1], torch.ones_like(input[..., 1:]))`.
    """

    quantiles: Tensor = param(domain=LEVELS, doc="The quantiles that are estimated, of shape (Q,).")

    rows = "mean"
    operands = {
        "input": Operand("Predicted quantiles, of shape (..., Q)."),
        "target": Operand("True values, of shape (...).", per_row=True, broadcast=True),
    }

    @staticmethod
    def value(input, target, quantiles):
        return PinballLoss.value(input, target, quantiles)

    @staticmethod
    def grad(input, target, quantiles):
        return PinballLoss.grad(input, target, quantiles)

    @staticmethod
    def textbook(input, target, quantiles):
        return PinballLoss.textbook(input, target, quantiles)

    facts = Facts(
        convex=True,
        smooth=False,
        lipschitz="max(quantiles, 1 - quantiles)",
        minimum=0.0,
        symmetric=False,
        robust=True,
    )
    cases = [
        Case(input=[[1.0, 2.0, 4.0]], target=[2.5], quantiles=[0.1, 0.5, 0.9], value=0.18333333333333333,
             grad=[[-0.03333333333333333, -0.16666666666666666, 0.03333333333333333]], source="by hand"),
        Case(input=[[2.0, 1.0]], target=[1.0], quantiles=[0.25, 0.75], value=0.375, grad=[[0.375, 0.0]],
             source="by hand: a tie has no slope"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-forecasting",
            "pytorch_forecasting.metrics.QuantileLoss([0.125, 0.25, 0.5, 0.75, 0.875])"
            ".loss(input[:, None], target[:, None])[:, 0].mean(-1) / 2",
            "multi_quantile_loss(input, target, quantiles, reduction='none')",
            given={"quantiles": [0.125, 0.25, 0.5, 0.75, 0.875]},
            why="QuantileLoss there is twice the pinball loss.",
        ),
    ]
    aliases = "mq quantiles multi_horizon_quantile"
    task = "regression"
    best_for = "Prediction intervals: several quantiles at once."
    not_for = "Means; one quantile."
    reference = (
        "Wen, R. et al. (2017). A multi-horizon quantile recurrent forecaster. arXiv:1711.11053. The loss of each: "
        "Koenker, R. and Bassett, G. (1978). Regression quantiles. Econometrica 46, 33-50."
    )
