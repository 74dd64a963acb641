"""MSELoss: squared error."""

from torch import nn

from losskit.declaration import Case, Operand, Peer
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss


class MSELoss(PointwiseLoss, nn.MSELoss):
    """Squared error: large errors count quadratically, small ones hardly at all.

    Choose it for general regression with roughly normal errors; its minimiser is the mean.
    Prefer L1Loss or HuberLoss when outliers are many, GaussianNLLLoss when the noise level varies.
    """

    arguments = "size_average reduce reduction weight"
    weight_in_mean = True
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target):
        d = input - target
        return d * d

    @staticmethod
    def grad(input, target):
        slope = 2.0 * (input - target)
        return slope, -slope

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=3.0, target=1.0, value=4.0, grad=4.0, source="by hand"),
        Case(input=-0.5, target=0.25, value=0.5625, grad=-1.5, source="by hand"),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.MeanSquaredError()(target, input)",
            agrees=1e-6,
        ),
        Peer(
            "scikit-learn",
            "sklearn.metrics.mean_squared_error(target, input)",
        ),
        Peer(
            "optax",
            "optax.losses.squared_error(input, target)",
            "mse_loss(input, target, reduction='none')",
        ),
        Peer(
            "optax",
            "optax.losses.l2_loss(input, target)",
            "0.5 * mse_loss(input, target, reduction='none')",
            why="optax.l2_loss is half the square.",
        ),
    ]
    aliases = "l2 mean_squared_error squared_error"
    task = "regression"
    best_for = "General regression with normal errors."
    not_for = "Data with many outliers."
    reference = "Gauss, C. F. (1809). Theoria motus corporum coelestium."
