"""SquaredEpsilonInsensitiveLoss: nothing within epsilon, a parabola beyond."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, maximum, sign


class SquaredEpsilonInsensitiveLoss(PointwiseLoss):
    """Nothing within `epsilon` of the target, beyond it the square of what is more: no half, as in MSELoss.

    Choose it where errors below a tolerance do not matter and the loss should be smooth.
    Prefer EpsilonInsensitiveLoss when targets have outliers, MSELoss where every error counts.
    """

    epsilon: float = param(default=0.1, domain=nonnegative, doc="Residual up to which an error costs nothing.")

    arguments = "epsilon reduction"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, epsilon):
        over = maximum(absolute(input - target) - epsilon, 0.0)
        return over * over

    @staticmethod
    def grad(input, target, epsilon):
        d = input - target
        slope = (2.0 * sign(d)) * maximum(absolute(d) - epsilon, 0.0)
        return slope, -slope

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=1.0, target=0.5, value=0.16, grad=0.8, source="by hand"),
        Case(input=1.0, target=1.05, value=0.0, grad=0.0, source="by hand"),
        Case(input=1.0, target=2.5, epsilon=1.0, value=0.25, grad=-1.0, source="by hand"),
    ]
    peers = [
        Peer(
            "scikit-learn",
            (
                "np.array([[sklearn.linear_model._sgd_fast.SquaredEpsilonInsensitive(0.5).py_loss(x, t) for x, t in "
                "zip(xs, ts)] for xs, ts in zip(input, target)])"
            ),
            "squared_epsilon_insensitive_loss(input, target, epsilon=0.5, reduction='none')",
            why="The loss of SGDRegressor(loss='squared_epsilon_insensitive'), which scikit-learn keeps private.",
        ),
    ]
    aliases = "l2_svr"
    task = "regression"
    best_for = "Errors within a tolerance that do not matter, with a smooth loss."
    not_for = "Targets with outliers."
    reference = "Vapnik, V. N. (1995). The Nature of Statistical Learning Theory. Springer."
