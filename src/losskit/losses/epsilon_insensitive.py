"""EpsilonInsensitiveLoss: nothing within epsilon, the absolute error beyond."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, maximum, sign, where


class EpsilonInsensitiveLoss(PointwiseLoss):
    """Nothing within `epsilon` of the target, beyond it the absolute error less epsilon: support vector regression.

    Choose it where errors below a tolerance do not matter.
    Prefer L1Loss where every error counts, SquaredEpsilonInsensitiveLoss for a smooth edge.
    """

    epsilon: float = param(default=0.1, domain=nonnegative, doc="Residual up to which an error costs nothing.")

    arguments = "epsilon reduction"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, epsilon):
        return maximum(absolute(input - target) - epsilon, 0.0)

    @staticmethod
    def grad(input, target, epsilon):
        d = input - target
        slope = where(absolute(d) > epsilon, sign(d), 0.0 * d)
        return slope, -slope

    facts = Facts(convex=True, smooth=False, lipschitz=1.0, minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=1.0, target=0.5, value=0.4, grad=1.0, source="by hand"),
        Case(input=1.0, target=1.05, value=0.0, grad=0.0, source="by hand"),
        Case(input=1.0, target=2.5, epsilon=1.0, value=0.5, grad=-1.0, source="by hand"),
        Case(input=1.0, target=1.5, epsilon=0.5, value=0.0, grad=0.0, source="the edge itself costs nothing"),
    ]
    peers = [
        Peer(
            "scikit-learn",
            (
                "np.array([[sklearn.linear_model._sgd_fast.EpsilonInsensitive(0.5).py_loss(x, t) for x, t in zip(xs, "
                "ts)] for xs, ts in zip(input, target)])"
            ),
            "epsilon_insensitive_loss(input, target, epsilon=0.5, reduction='none')",
            why="The loss of SGDRegressor(loss='epsilon_insensitive'), which scikit-learn keeps private.",
        ),
    ]
    aliases = "svr support_vector_regression dead_zone"
    task = "regression"
    best_for = "Errors within a tolerance that do not matter."
    not_for = "Losses that must tell small errors apart."
    reference = "Vapnik, V. N. (1995). The Nature of Statistical Learning Theory. Springer."
