"""CTCLoss: labels without an alignment."""

from torch import nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.sequence import SequenceLoss


class CTCLoss(SequenceLoss, nn.CTCLoss):
    """Connectionist temporal classification: minus the log-probability of all alignments of the labels together.

    Choose it where an input is much longer than its labels, in the same order, and nobody says which frame is which:
    speech, handwriting, base calling. Give it raw scores with `from_scores=True`: the log-softmax is fused in.
    Prefer CrossEntropyLoss when every frame has its label, an attention decoder when the order may change.
    """

    blank: int = param(default=0, domain=nonnegative, doc="The class that stands for no label, in [0, C).")
    zero_infinity: bool = param(
        default=False, doc="Whether a sample whose labels cannot fit into its frames costs 0 instead of infinity."
    )
    from_scores: bool = param(
        default=False, doc="Whether the input is raw scores: the log-softmax is then part of the loss, and faster."
    )
    exact_gradient: bool = param(
        default=False,
        doc="Whether the gradient is that by log_probs itself; by default it is torch's, which is right when log_probs "
        "come from a log-softmax.",
    )

    name = "ctc_loss"
    arguments = "blank reduction zero_infinity from_scores exact_gradient"
    operands = {
        "log_probs": Operand("Log-probabilities (T, N, C), or (T, C) of one sample; scores with from_scores."),
        "targets": Operand("Labels (N, S), padded with anything, or one after another (L,); (S,) of one sample."),
        "input_lengths": Operand(
            "Frames of each sample, (N,): a tensor of any integer dtype or a list.", type="Tensor | Sequence[int]"
        ),
        "target_lengths": Operand(
            "Labels of each sample, (N,): a tensor of any integer dtype or a list.", type="Tensor | Sequence[int]"
        ),
    }

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(log_probs=[[-0.6931471805599453, -0.6931471805599453], [-0.6931471805599453, -0.6931471805599453]],
             targets=[1], input_lengths=2, target_lengths=1, value=0.28768207245178096,
             grad=[[1 / 6, -1 / 6], [1 / 6, -1 / 6]],
             source="three of four paths give the label: -log(3/4); 1/2 less the share of the paths in each class"),
        Case(log_probs=[[-0.6931471805599453, -0.6931471805599453], [-0.6931471805599453, -0.6931471805599453]],
             targets=[1], input_lengths=2, target_lengths=1, value=0.28768207245178096,
             grad=[[-1 / 3, -2 / 3], [-1 / 3, -2 / 3]], exact_gradient=True,
             source="minus the share of the three paths that are in each class"),
        Case(log_probs=[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], targets=[1, 1], input_lengths=3, target_lengths=2,
             value=2.0794415416798357, grad=[[0.5, -0.5], [-0.5, 0.5], [0.5, -0.5]], from_scores=True,
             source="one of eight paths, label blank label: log(8)"),
    ]  # fmt: skip
    deviations = [
        Deviation(
            "A sample whose labels cannot fit has no gradient: its loss is infinite whatever the scores are.",
            {"log_probs": [[[-0.7, -0.7]]], "targets": [[1, 1]], "input_lengths": [1], "target_lengths": [2],
             "reduction": "sum"},
            float("nan"), 0.0, of="log_probs",
        ),
        Deviation(
            "NaN in gives NaN out, in a class that is not in the target too.",
            {"log_probs": [[[-0.7, -0.7, float("nan")]]], "targets": [[1]], "input_lengths": [1], "target_lengths": [1],
             "reduction": "sum"},
            0.7, float("nan"),
        ),
    ]  # fmt: skip
    peers = [
        Peer(
            "optax",
            "optax.losses.ctc_loss(scores.transpose(1, 0, 2), jnp.zeros((2, 4)), targets, jnp.zeros((2, 2)))",
            "ctc_loss(scores.log_softmax(-1), targets, torch.tensor([4, 4]), torch.tensor([2, 2]), reduction='none')",
            agrees=1e-6,
            given={
                "scores": [
                    [[0.1, 1.0, -0.5], [0.4, -0.3, 0.2]],
                    [[0.7, 0.2, 0.1], [1.2, 0.5, -1.0]],
                    [[-0.2, 0.3, 0.9], [0.0, 0.8, 0.6]],
                    [[0.5, -0.7, 1.1], [0.3, 0.1, -0.4]],
                ],
                "targets": [[1, 2], [2, 1]],
            },
            why="optax takes scores of samples first, and paddings in place of lengths.",
        ),
        Peer(
            "keras",
            "keras.losses.CTC()(targets, scores.transpose(0, 1))",
            (
                "ctc_loss(scores.log_softmax(-1), targets, torch.tensor([4, 4]), torch.tensor([2, 2]), "
                "reduction='sum') / 2"
            ),
            agrees=1e-6,
            given={
                "scores": [
                    [[0.1, 1.0, -0.5], [0.4, -0.3, 0.2]],
                    [[0.7, 0.2, 0.1], [1.2, 0.5, -1.0]],
                    [[-0.2, 0.3, 0.9], [0.0, 0.8, 0.6]],
                    [[0.5, -0.7, 1.1], [0.3, 0.1, -0.4]],
                ],
                "targets": [[1, 2], [2, 1]],
            },
            why="Keras divides by the number of samples; torch's mean divides each by the length of its target first.",
        ),
    ]
    aliases = "connectionist_temporal_classification"
    task = "sequence"
    best_for = "Speech and handwriting recognition without alignments."
    not_for = "Labels in another order than the input; frames with known labels."
    reference = (
        "Graves, A., Fernandez, S., Gomez, F. and Schmidhuber, J. (2006). Connectionist temporal classification: "
        "labelling unsegmented sequence data with recurrent neural networks. ICML, 369-376."
    )
