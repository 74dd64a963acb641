"""L1Loss: absolute error."""

from torch import nn

from losskit.declaration import Case, Operand, Peer
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute


class L1Loss(PointwiseLoss, nn.L1Loss):
    """Absolute error: every unit of error costs the same, so outliers pull no harder than anything else.

    Choose it for regression on data with outliers; its minimiser is the median.
    Prefer MSELoss when large errors deserve attention, HuberLoss or SmoothL1Loss for a gradient that shrinks near
    the target.
    """

    arguments = "size_average reduce reduction weight"
    weight_in_mean = True
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target):
        return absolute(input - target)

    facts = Facts(convex=True, smooth=False, lipschitz=1.0, minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=3.0, target=1.0, value=2.0, grad=1.0, source="by hand"),
        Case(input=-0.5, target=0.25, value=0.75, grad=-1.0, source="by hand"),
        Case(input=1.0, target=1.0, value=0.0, grad=0.0, source="torch's subgradient at a tie"),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.MeanAbsoluteError()(target, input)",
            agrees=1e-6,
        ),
        Peer(
            "scikit-learn",
            "sklearn.metrics.mean_absolute_error(target, input)",
        ),
        Peer(
            "pytorch-forecasting",
            "pytorch_forecasting.metrics.MAE().loss(input, target)",
            "l1_loss(input, target, reduction='none')",
        ),
    ]
    aliases = "mae mean_absolute_error absolute_error"
    task = "regression"
    best_for = "Regression with outliers."
    not_for = "Outliers that carry information; optimisers that need a smooth gradient."
    reference = "Laplace, P. S. (1774). Mémoire sur la probabilité des causes par les évènements."
