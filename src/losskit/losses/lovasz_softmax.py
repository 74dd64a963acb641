"""LovaszSoftmaxLoss: the mean intersection over union of classes, made differentiable."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.facts import Facts
from losskit.families.ordered import OrderedLoss
from losskit.formula import stop


class LovaszSoftmaxLoss(OrderedLoss):
    """The surrogate of the mean Jaccard loss over classes: errors of probabilities, weighed by what each costs.

    Choose it to fine-tune a segmentation that is judged by mean intersection over union, best beside a cross entropy.
    Prefer CrossEntropyLoss to begin with, LovaszHingeLoss for one mask.

    The softmax is built in. The unreduced loss is one number for each class: the mean is over the classes that are in
    the batch, and `mask` of shape (C,) leaves out a class such as the background. With `per_image` it is one for each
    class of each image, and the mean is over the classes of all images together.
    """

    per_image: bool = param(default=False, doc="Whether each image is a set of its own; else the whole batch is one.")

    name = "lovasz_softmax_loss"
    arguments = "per_image classes ignore_index reduction"
    operands = {
        "input": Operand("Scores of shape (N, C, ...).", kind="logit"),
        "target": Operand("Class indices of shape (N, ...).", differentiable=False),
    }
    units = "classes"
    _usual_shape = (4, 19, 128, 128)

    @staticmethod
    def value(error, step):
        return stop(step) * error

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [-1.0, 0.2, 0.4]], target=[0, 1, 1], value=0.780252,
             source="mpmath; class 2 is absent"),
        Case(input=[[0.0, 0.0]], target=[1], value=0.5, grad=[[0.25, -0.25]], source="one pixel: its error"),
    ]  # fmt: skip
    peers = [
        Peer(
            "kornia",
            "kornia.losses.lovasz_softmax_loss(input, target)",
            "lovasz_softmax_loss(input, target, classes='all', per_image=True)",
            agrees=1e-6,
            given={
                "input": [[[[2.0, 0.5], [-1.0, 0.1]], [[0.0, 1.0], [0.2, 0.3]], [[-1.0, 0.0], [0.4, 0.9]]]],
                "target": [[[0, 1], [1, 0]]],
            },
            why="It takes all classes of each image; the authors, and losskit by default, those that are in the batch.",
        ),
    ]
    aliases = "lovasz_multiclass"
    task = "multi-class"
    best_for = "Fine-tuning segmentations that are judged by mean intersection over union."
    not_for = "Well calibrated probabilities; the first epochs of a training."
    reference = (
        "Berman, M., Rannen Triki, A. and Blaschko, M. B. (2018). The Lovasz-softmax loss: a tractable surrogate for "
        "the optimization of the intersection-over-union measure in neural networks. CVPR. arXiv:1705.08790."
    )
