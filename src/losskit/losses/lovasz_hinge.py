"""LovaszHingeLoss: the intersection over union of a mask, as a hinge."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.facts import Facts
from losskit.families.ordered import OrderedLoss
from losskit.formula import maximum, stop


class LovaszHingeLoss(OrderedLoss):
    """The convex surrogate of the Jaccard loss of a binary mask: hinges of the pixels, weighed by what each costs.

    Choose it to train or fine-tune a segmentation that is judged by intersection over union, small objects among them.
    Prefer BCEWithLogitsLoss to begin with, and where probabilities are needed: no pixel beyond its margin is pushed.

    Errors are sorted, and each weighs what it adds to the Jaccard loss; the weights are constants for the gradient.
    Equal errors keep the order of the input. Without a positive pixel the loss is the largest error. An image of which
    no pixel counts does not count.
    """

    per_image: bool = param(default=True, doc="Whether each image is a set of its own; else the whole batch is one.")

    name = "lovasz_hinge_loss"
    arguments = "per_image reduction"
    operands = {
        "input": Operand("Scores of the pixels, (N, ...), or (P,) of one image.", kind="logit"),
        "target": Operand("1 for pixels of the object, else 0, of the same shape.", differentiable=False),
        "element_mask": Operand("Boolean, True = counts, of the shape of input; other pixels may be NaN.",
                                optional=True, differentiable=False),
    }  # fmt: skip
    units = "images"

    @staticmethod
    def value(error, step):
        return stop(step) * maximum(0.0, error)

    facts = Facts(convex=True, smooth=False, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.5, -1.4, -0.3], target=[1, 0, 0, 1], value=0.933333, grad=[0.0, 1 / 3, 0.0, -1 / 3],
             source="mpmath"),
        Case(input=[2.0, -3.0], target=[1, 0], value=0.0, grad=[0.0, 0.0], source="beyond the margin"),
        Case(input=[-2.0, 0.5], target=[0, 0], value=1.5, grad=[0.0, 1.0], source="no positive: the largest error"),
    ]  # fmt: skip
    peers = [
        Peer(
            "kornia",
            "kornia.losses.lovasz_hinge_loss(input, target)",
            "lovasz_hinge_loss(input.squeeze(1), target)",
            agrees=1e-6,
            given={
                "input": [[[[2.0, 0.5], [-1.4, -0.3]]], [[[0.7, -0.2], [1.1, 0.4]]]],
                "target": [[[1, 0], [0, 1]], [[0, 0], [1, 1]]],
            },
            why="kornia takes a dimension of one channel in the input, which is squeezed here.",
        ),
    ]
    aliases = "lovasz binary_lovasz"
    task = "binary"
    best_for = "Fine-tuning masks that are judged by intersection over union."
    not_for = "Probabilities; the first epochs of a training."
    reference = (
        "Berman, M., Rannen Triki, A. and Blaschko, M. B. (2018). The Lovasz-softmax loss: a tractable surrogate for "
        "the optimization of the intersection-over-union measure in neural networks. CVPR. arXiv:1705.08790."
    )
