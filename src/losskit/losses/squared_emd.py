"""SquaredEMDLoss: how far probability has to be moved over ordered classes."""

from losskit.declaration import Case, Operand
from losskit.facts import Facts
from losskit.families.ordered import OrderedLoss


class SquaredEMDLoss(OrderedLoss):
    """Squared earth mover's distance: squared differences of the cumulative probabilities, summed over ordered classes.

    Choose it for grades, ages in bins and other ordered classes when a near miss should cost less than a far one, and
    for targets that are distributions, such as ratings by many people.
    Prefer CORALLoss or CORNLoss to rank by yes-or-no questions, CrossEntropyLoss where classes have no order.

    The softmax is built in. The loss is the sum over classes, also known as ranked probability score.
    """

    name = "squared_emd_loss"
    arguments = "reduction"
    operands = {
        "input": Operand("Scores of the classes in their order, (..., K).", kind="logit"),
        "target": Operand("Class indices without the last dimension, or probabilities of the shape of input."),
    }
    units = "classes of a row"

    @staticmethod
    def value(scan):
        return scan * scan

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.0, 0.0, 0.0, 0.0], target=[0.0, 1.0, 0.0, 0.0], value=0.375,
             grad=[-0.0625, -0.1875, 0.0625, 0.1875], source="by hand"),
        Case(input=[2.0, 0.0, -1.0], target=2, value=1.62973, grad=[0.290350, -0.153420, -0.136930], source="mpmath"),
    ]  # fmt: skip
    aliases = "emd earth_mover_distance nima ranked_probability_score rps"
    task = "ordinal"
    best_for = "Ordered classes, and distributions over them."
    not_for = "Classes without an order."
    reference = (
        "Hou, L., Yu, C.-P. and Samaras, D. (2016). Squared earth mover's distance-based loss for training deep neural "
        "networks. arXiv:1611.05916. The score: Epstein, E. S. (1969), J. Appl. Meteorol. 8, 985-987."
    )
