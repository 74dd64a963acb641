"""CrossEntropyLoss: how little probability the scores give to the right class."""

from torch import nn

from losskit.declaration import Case, Deviation, Peer
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss
from losskit.losses._scores import LOGITS


class CrossEntropyLoss(ClassScoresLoss, nn.CrossEntropyLoss):
    """Cross entropy of class scores: minus the log-probability of the right class, the softmax built in.

    Choose it for classes that exclude each other: the standard of classification, segmentation, language models.
    Prefer BCEWithLogitsLoss when several classes may be right at once, NLLLoss when the model gives log-probabilities.

    A right and confident row keeps its loss and gradient down to the smallest numbers, where torch rounds both to 0.
    """

    name = "cross_entropy"
    arguments = "weight size_average ignore_index reduce reduction label_smoothing"
    operands = LOGITS

    @staticmethod
    def value(log_probability):
        return -log_probability

    facts = Facts(convex=True, smooth=True, lipschitz=2.0**0.5, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=0, value=0.169846, grad=[-0.156205, 0.114195, 0.0420101], source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=0, label_smoothing=0.1, value=0.336513,
             grad=[-0.0895386, 0.0808619, 0.00867673], source="mpmath"),
        Case(input=[30.0, 0.0, -5.0], target=0, value=9.42067e-14, grad=[-9.42067e-14, 9.35762e-14, 6.30512e-16],
             source="mpmath"),
        Case(input=[0.0, 0.0], target=[0.25, 0.75], value=0.6931471805599453, grad=[0.25, -0.25], source="log 2"),
    ]  # fmt: skip
    deviations = [
        Deviation(
            reason="A well-classified row keeps its loss: torch rounds it to 0 from a margin of 17 in float32.",
            arguments={"input": [[20.0, 0.0]], "target": [0]},
            torch=0.0,
            losskit=2.0611537e-09,
        ),
        Deviation(
            reason="A well-classified row keeps the gradient of its true class.",
            arguments={"input": [[20.0, 0.0]], "target": [0]},
            torch=0.0,
            losskit=-2.0611537e-09,
            of="input",
        ),
        Deviation(
            reason="A class without probability costs nothing, also at a score of -inf: torch computes 0 * inf.",
            arguments={"input": [[0.0, float("-inf")]], "target": [[1.0, 0.0]]},
            torch=float("nan"),
            losskit=0.0,
        ),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.SparseCategoricalCrossentropy(from_logits=True)(target, input)",
            agrees=1e-6,
        ),
        Peer(
            "keras",
            "keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(F.one_hot(target, 5), input)",
            "cross_entropy(input, target, label_smoothing=0.1)",
            agrees=1e-6,
        ),
        Peer(
            "optax",
            "optax.losses.softmax_cross_entropy_with_integer_labels(input, target)",
            "cross_entropy(input, target, reduction='none')",
        ),
        Peer(
            "timm",
            "timm.loss.LabelSmoothingCrossEntropy()(input, target)",
            "cross_entropy(input, target, label_smoothing=0.1)",
            why="timm smooths by 0.1 unless told otherwise.",
        ),
        Peer(
            "timm",
            "timm.loss.SoftTargetCrossEntropy()(input, target)",
            "cross_entropy(input, target)",
            given={
                "target": [
                    [0.7, 0.3, 0.0, 0.0, 0.0],
                    [0.7, 0.3, 0.0, 0.0, 0.0],
                    [0.7, 0.3, 0.0, 0.0, 0.0],
                    [0.7, 0.3, 0.0, 0.0, 0.0],
                    [0.7, 0.3, 0.0, 0.0, 0.0],
                    [0.7, 0.3, 0.0, 0.0, 0.0],
                ]
            },
        ),
        Peer(
            "segmentation-models-pytorch",
            "smp.losses.SoftCrossEntropyLoss(smooth_factor=0.1)(input, target)",
            "cross_entropy(input, target, label_smoothing=0.1)",
        ),
        Peer(
            "scikit-learn",
            "sklearn.metrics.log_loss(target, scipy.special.softmax(input, -1), labels=range(5))",
            why="scikit-learn takes probabilities.",
        ),
    ]
    aliases = "ce xent softmax_cross_entropy categorical_cross_entropy sparse_categorical_cross_entropy"
    task = "multi-class"
    best_for = "Classes that exclude each other."
    not_for = "Several right classes at once; probabilities as input."
    reference = (
        "Bridle, J. S. (1990). Probabilistic interpretation of feedforward classification network outputs. "
        "Neurocomputing, NATO ASI Series F68, 227-236. Label smoothing: Szegedy, C. et al. (2016), arXiv:1512.00567."
    )
