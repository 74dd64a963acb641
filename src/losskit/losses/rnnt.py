"""RNNTLoss: labels without an alignment, each depending on those before it."""

from losskit.declaration import Case, Operand, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.transducer import TransducerLoss


class RNNTLoss(TransducerLoss):
    """The transducer loss (RNN-T): minus the log-probability of all ways to emit the labels while frames pass.

    Choose it for streaming speech recognition: unlike CTC, a label may depend on the labels before it, and a frame may
    emit several. The log-softmax is fused in; `fastemit_lambda` rewards emitting early.
    Prefer CTCLoss when labels are independent given the frames, for it needs no joint network and far less memory.
    """

    blank: int = param(default=-1, doc="The class that stands for no label; a negative one counts from the last.")
    clamp: float = param(
        default=-1.0, doc="Limit of each number of the gradient of a sample's loss; none if not positive."
    )
    fused_log_softmax: bool = param(
        default=True, doc="Whether logits are raw scores, and the log-softmax part of the loss."
    )
    fastemit_lambda: float = param(
        default=0.0, domain=nonnegative, doc="FastEmit: the gradient of emitted labels is multiplied by 1 plus this."
    )

    name = "rnnt_loss"
    arguments = "blank clamp reduction fused_log_softmax fastemit_lambda"
    operands = {
        "logits": Operand("Scores (N, T, U + 1, C) of the joint network, or (T, U + 1, C) of one sample."),
        "targets": Operand("Labels (N, U), padded with anything; (U,) of one sample."),
        "logit_lengths": Operand(
            "Frames of each sample, (N,): a tensor of any integer dtype or a list.", type="Tensor | Sequence[int]"
        ),
        "target_lengths": Operand(
            "Labels of each sample, (N,): a tensor of any integer dtype or a list.", type="Tensor | Sequence[int]"
        ),
    }

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(logits=[[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]], targets=[1],
             logit_lengths=2, target_lengths=1, blank=0, value=2.6026896854443837,
             grad=[[[-1 / 6, -1 / 6, 1 / 3], [-1 / 3, 1 / 6, 1 / 6]], [[1 / 6, -1 / 3, 1 / 6], [-2 / 3, 1 / 3, 1 / 3]]],
             source="two paths of three arcs of probability 1/3: log(27/2)"),
        Case(logits=[[[0.1, 0.6, 0.1], [0.1, 0.1, 0.6]], [[0.1, 0.2, 0.8], [0.1, 0.6, 0.1]]], targets=[1],
             logit_lengths=2, target_lengths=1, blank=0, value=2.9170100956751934,
             grad=[[[-0.0984995266, -0.1755690924, 0.2740686191], [-0.4554724724, 0.1719593819, 0.2835130906]],
                   [[0.0904527929, -0.2726023495, 0.1821495566], [-0.7259313809, 0.4518627619, 0.2740686191]]],
             source="the two paths by hand"),
    ]  # fmt: skip
    aliases = "transducer_loss rnn_transducer_loss fastemit_loss"
    task = "sequence"
    best_for = "Streaming speech recognition with a joint network of frames and labels."
    not_for = "Labels in another order than the frames; models without a joint network."
    reference = (
        "Graves, A. (2012). Sequence transduction with recurrent neural networks. arXiv:1211.3711. FastEmit: Yu, J. et "
        "al. (2021). Low-latency streaming ASR with sequence-level emission regularization. ICASSP, 6004-6008."
    )
