"""Every mistake is one sentence that names the loss and the argument; the kinds tested are the kinds that exist."""

import re

import pytest
import torch

import losskit
import losskit.functional as LF
from losskit import plans
from losskit.declaration import OPEN
from losskit.errors import MESSAGES

x, t = torch.randn(4, 3), torch.randn(4, 3)
p = torch.rand(4, 3)
labels = torch.ones(4, 3)
scores, classes = torch.zeros(4, 5), torch.tensor([0, 1, 2, 3])


def with_nan_refused(loss, *operands):
    with losskit.checks(nan="raise"):
        return loss(*operands)


# kind -> [(what the user does, the whole message)]
def freed(*shape):
    """A tensor whose memory is gone, as FSDP's parameters between uses."""
    made = torch.ones(shape)
    made.untyped_storage().resize_(0)
    return made


def unchecked(loss, *operands):
    with losskit.checks("off"):
        loss(*operands)


MISTAKES = {
    "not_a_tensor": [
        (lambda: LF.mse_loss([1.0], t), "mse_loss: input must be a tensor, got list. Use torch.as_tensor(input)."),
        (lambda: LF.mse_loss(x, None), "mse_loss: target must be a tensor, got NoneType."),
        (lambda: LF.mse_loss(x, t, sample_weight=2.0), "mse_loss: sample_weight must be a tensor, got float. "
            "Use torch.as_tensor(sample_weight)."),
    ],
    "not_strided": [
        (
            lambda: LF.l1_loss(x, t.to_sparse()),
            "l1_loss: target must be a dense (strided) tensor, got torch.sparse_coo.",
        ),
    ],
    "not_floating": [
        (
            lambda: LF.huber_loss(x.long(), t),
            "huber_loss: input must be floating point, got torch.int64. Use input.float().",
        ),
    ],
    "complex": [
        (lambda: LF.mse_loss(x + 0j, t), "mse_loss: input must be real, got torch.complex64."),
    ],
    "mask_dtype": [
        (
            lambda: LF.mse_loss(x, t, mask=torch.ones(4, 3)),
            "mse_loss: mask must be boolean (True = counts), got torch.float32. Use mask.bool().",
        ),
    ],
    "device": [
        (lambda: LF.mse_loss(x, t.to("meta")), "mse_loss: target is on meta but input is on cpu."),
        (lambda: LF.mse_loss(x, t, mask=(t > 0).to("meta")), "mse_loss: mask is on meta but input is on cpu."),
    ],
    "shapes": [
        (
            lambda: LF.huber_loss(torch.zeros(4, 1), torch.zeros(4)),
            "huber_loss: input (4, 1) and target (4,) must have the same shape. Did you mean target.unsqueeze(1)?",
        ),
        (
            lambda: LF.mse_loss(torch.zeros(4), torch.zeros(4, 1)),
            "mse_loss: input (4,) and target (4, 1) must have the same shape. Did you mean target.squeeze(1)?",
        ),
        (
            lambda: LF.margin_ranking_loss(x, x, labels[:2]),
            "margin_ranking_loss: input1 (4, 3) and target (2, 3) must have the same shape.",
        ),
    ],
    "apart": [(lambda: unchecked(LF.mse_loss, x, t[:2]), re.compile("mse_loss: .* one, got input .4, 3., target .2, 3"))],
    "not_broadcastable": [
        (
            lambda: LF.gaussian_nll_loss(x, t, torch.ones(2, 3)),
            "gaussian_nll_loss: var (2, 3) must broadcast to (4, 3).",
        ),
        (
            lambda: LF.mse_loss(x, t, weight=torch.ones(4)),
            "mse_loss: weight (4,) must broadcast to (4, 3). Did you mean weight.unsqueeze(1), one for each row?",
        ),
        (
            lambda: LF.multilabel_soft_margin_loss(x, labels, sample_weight=torch.ones(4, 3)),
            "multilabel_soft_margin_loss: sample_weight (4, 3) must broadcast to (4,).",
        ),
    ],
    "no_class_dimension": [
        (
            lambda: LF.multilabel_soft_margin_loss(torch.tensor(0.5), torch.tensor(1.0)),
            "multilabel_soft_margin_loss: input must have a dimension of classes, got a scalar.",
        ),
    ],
    "domain": [
        (
            lambda: LF.binary_cross_entropy(torch.tensor([[0.5, 1.5]]), torch.ones(1, 2)),
            "binary_cross_entropy: input must be in [0, 1], got 1.5 at index (0, 1). For raw scores use "
            "binary_cross_entropy_with_logits.",
        ),
        (
            lambda: LF.binary_cross_entropy_with_logits(x, torch.full((4, 3), 5)),
            "binary_cross_entropy_with_logits: target must be in [0, 1], got 5 at index (0, 0). "
            "Labels are 0 and 1; for more classes use cross_entropy.",
        ),
        (
            lambda: LF.soft_margin_loss(torch.zeros(2), torch.tensor([1, 0])),
            "soft_margin_loss: target must be -1 or 1, got 0 at index (1,). For labels 0 and 1 pass 2 * target - 1.",
        ),
        (
            lambda: LF.gaussian_nll_loss(torch.tensor(1.0), torch.tensor(1.0), -2.0),
            "gaussian_nll_loss: var must be non-negative, got -2 at index (). Predict log(var) and pass its "
            "exponential.",
        ),
        (
            lambda: LF.kl_div(torch.tensor([-1.0, 0.5]), p[0, :2]),
            "kl_div: input must be a log-probability (at most 0), got 0.5 at index (1,). Pass log-probabilities, "
            "such as log_softmax(scores, dim=-1).",
        ),
        (
            lambda: LF.poisson_nll_loss(-p - 1, torch.ones(4, 3), log_input=False),
            re.compile(
                r"poisson_nll_loss: input must be non-negative, got -1\.\d+ at index \(0, 0\)\. Pass log_input=True"
            ),
        ),
    ],
    "no_features": [
        (
            lambda: LF.cosine_embedding_loss(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(1.0)),
            "cosine_embedding_loss: input1 must have a dimension of features, got a scalar.",
        ),
    ],
    "not_one_per_row": [
        (
            lambda: LF.cosine_embedding_loss(x, t, torch.ones(3)),
            "cosine_embedding_loss: target must have one entry per row, (4,), got (3,).",
        ),
    ],
    "no_classes": [
        (
            lambda: LF.cross_entropy(torch.zeros(4, 0), classes),
            "cross_entropy: input must have at least one class, got shape (4, 0).",
        ),
    ],
    "class_indices": [
        (
            lambda: LF.cross_entropy(scores, classes[:, None]),
            "cross_entropy: target must be class indices of shape (4,) for input (4, 5), got torch.int64 of shape "
            "(4, 1). Did you mean target.squeeze(1)?",
        ),
    ],
    "class_probabilities": [
        (
            lambda: LF.cross_entropy(scores, classes.float()),
            "cross_entropy: target must be class indices of shape (4,) or probabilities of shape (4, 5), got "
            "torch.float32 of shape (4,). Use target.long() for class indices.",
        ),
    ],
    "open": [
        (
            lambda: plans._checked(losskit.CrossEntropyLoss, [-100, OPEN]),
            "cross_entropy: label_smoothing must be a number in a compiled function, got a tensor. Use a number: each new "
            "one compiles again.",
        ),
    ],
    "components": [
        (
            lambda: LF.generalized_box_iou_loss(torch.zeros(3, 5), torch.zeros(3, 5)),
            "generalized_box_iou_loss: the last dimension of input must be the 4 numbers x1, y1, x2, y2, got shape (3, 5).",
        ),
    ],
    "by_keyword": [
        (
            lambda: losskit.HuberLoss()(x, t, torch.ones(4, 3)),
            "HuberLoss: a call takes input, target, got 3 arguments. Give sample_weight, mask and normalizer by keyword.",
        ),
    ],
    "script": [
        (
            losskit.HuberLoss().__prepare_scriptable__,
            "HuberLoss: torch.jit.script cannot compile losskit's losses. Use torch.jit.trace, which records torch's "
            "operators, or call the loss outside of the scripted module.",
        ),
    ],
    "class_index": [
        (
            lambda: LF.cross_entropy(scores, torch.tensor([0, 1, 5, 2])),
            "cross_entropy: target must be a class in [0, 5), got 5 at row (2,). Class indices start at 0.",
        ),
    ],
    "ignored_probabilities": [
        (
            lambda: LF.cross_entropy(scores, scores, ignore_index=2),
            "cross_entropy: ignore_index=2 needs class indices, got probabilities.",
        ),
    ],
    "per_class": [
        (
            lambda: LF.cross_entropy(scores, classes, torch.ones(4)),
            "cross_entropy: weight must have one entry for each of 5 classes, got shape (4,).",
        ),
    ],
    "head": [
        (
            lambda: LF.linear_cross_entropy(torch.ones(3, 4), torch.ones(5, 2), classes),
            "cross_entropy: linear_weight must have the shape (C, 4) for input (3, 4), got (5, 2).",
        ),
    ],
    "head_dtype": [
        (
            lambda: LF.linear_cross_entropy(torch.ones(3, 4), torch.ones(5, 4).double(), classes),
            "cross_entropy: linear_weight is torch.float64 but input is torch.float32. Use "
            "linear_weight.to(input.dtype), or autocast.",
        ),
    ],
    "teacher": [
        (lambda: losskit.linear(losskit.ReverseKLDivLoss())(torch.ones(3, 4), torch.ones(5, 4), torch.ones(3, 2)),
         "reverse_kl_div: target must be the teacher's scores (3, 5), got (3, 2). Features of a teacher need "
         "teacher_weight, scores of some classes teacher_indices."),
    ],
    "one_teacher": [
        (lambda: losskit.linear(losskit.ReverseKLDivLoss())(*[torch.ones(3, 4)] * 4, teacher_indices=classes),
         "reverse_kl_div: a target is either features beside teacher_weight, or scores beside teacher_indices, got both."),
    ],
    "of_teacher": [
        (lambda: losskit.linear(losskit.ReverseKLDivLoss())(*[torch.ones(4, 4)] * 3, teacher_bias=torch.ones(4)),
         "reverse_kl_div: teacher_bias is that of a teacher's last layer, which needs teacher_weight, got None."),
    ],
    "no_teacher": [
        (lambda: losskit.linear(losskit.CrossEntropyLoss(), teacher_soft_cap=30.0), "linear(CrossEntropyLoss): "
         "teacher_soft_cap is for losses of a student's and a teacher's scores, such as KnowledgeDistillationLoss."),
    ],
    "weight_dtype": [
        (
            lambda: LF.cross_entropy(scores, classes, torch.ones(5).half()),
            "cross_entropy: weight is torch.float16 but input is torch.float32. Use weight.to(input.dtype).",
        ),
    ],
    "normalizer": [
        (
            lambda: LF.mse_loss(x, t, normalizer=-1),
            "mse_loss: normalizer must be a non-negative number or one-element tensor, got -1.",
        ),
        (
            lambda: LF.mse_loss(x, t, normalizer=torch.ones(2)),
            "mse_loss: normalizer must be a non-negative number or one-element tensor, got a tensor of shape (2,).",
        ),
    ],
    "arguments": [
        (
            lambda: losskit.HuberLoss(detla=2.0),
            "HuberLoss: got an unexpected keyword argument 'detla'. Did you mean delta?",
        ),
        (lambda: losskit.HuberLoss("sum", 1.0, 2.0), "HuberLoss: too many positional arguments."),
    ],
    "parameter": [
        (
            lambda: LF.dpo_loss(x, x, x, x, loss_type="hinge", label_smoothing=0.1),
            "dpo_loss: label_smoothing must be 0.0 with loss_type='hinge', got 0.1.",
        ),
        (
            lambda: LF.grpo_loss(-p, -p, x, beta=0.04),
            "grpo_loss: beta must be 0.0 without ref_log_prob, got 0.04.",
        ),
        (lambda: losskit.HuberLoss(delta=0), "huber_loss: delta must be positive, got 0."),
        (lambda: LF.smooth_l1_loss(x, t, beta=-1.0), "smooth_l1_loss: beta must be non-negative, got -1.0."),
        (lambda: LF.huber_loss(x, t, delta=float("nan")), "huber_loss: delta must be positive, got nan."),
    ],
    "parameter_type": [
        (lambda: LF.huber_loss(x, t, delta="2"), "huber_loss: delta must be a number, got '2'. Use float(delta)."),
        (lambda: LF.huber_loss(x, t, delta=[1.0]), "huber_loss: delta must be a number, got [1.0]."),
        (lambda: losskit.KLDivLoss(log_target=1), "kl_div: log_target must be True or False, got 1."),
        (lambda: losskit.BCELoss(weight=2.0), "binary_cross_entropy: weight must be a tensor or None, got 2.0."),
    ],
    "freed": [
        (
            lambda: LF.mse_loss(freed(2, 3), torch.ones(2, 3)),
            "mse_loss: input of shape (2, 3) has a storage of 0 bytes, too few to hold it: its memory was freed.",
        ),
    ],
    "reduction": [
        (
            lambda: losskit.MSELoss(reduction="average"),
            "mse_loss: reduction must be one of 'none', 'mean', 'sum', got 'average'.",
        ),
        (
            lambda: losskit.HuberLoss(2.0),
            "huber_loss: reduction must be one of 'none', 'mean', 'sum', got 2.0. Did you mean delta=2.0?",
        ),
        (
            lambda: LF.mse_loss(x, t, reduction="batchmean"),
            "mse_loss: reduction must be one of 'none', 'mean', 'sum', got 'batchmean'.",
        ),
    ],
    "operands": [
        (
            lambda: losskit.MSELoss(x, t),
            "MSELoss: MSELoss(...) makes the loss and takes no tensors of a call, got one as size_average. "
            "Call losskit.MSELoss()(input, target) or losskit.functional.mse_loss(input, target).",
        ),
    ],
    "not_a_number": [
        (
            lambda: with_nan_refused(LF.mse_loss, x, torch.where(t == t[2, 1], float("nan"), t)),
            "mse_loss: target is NaN at index (2, 1), the first of 1.",
        ),
    ],
    # -- warnings, which are errors in this suite
    "probabilities": [
        (
            lambda: LF.cross_entropy(x.softmax(1), classes.clamp(max=2)),
            "cross_entropy: input looks like probabilities, each row is in [0, 1] and sums to 1: softmax is built in. "
            "Pass the scores before it.",
        ),
    ],
    "softmaxed": [
        (
            lambda: LF.knowledge_distillation_loss(x, x.softmax(1)),
            "knowledge_distillation_loss: target looks like probabilities, each row is in [0, 1] and sums to 1: softmax "
            "is built in. Pass the scores, or log-probabilities.",
        ),
    ],
    "sigmoid": [
        (
            lambda: LF.soft_margin_loss(p, labels),
            "soft_margin_loss: input looks like probabilities, all of it is in [0, 1]: a sigmoid is built in. "
            "Pass the scores before it.",
        ),
    ],
    "one_class": [
        (
            lambda: LF.cross_entropy(x[:, :1], torch.zeros(4, dtype=torch.long)),
            "cross_entropy: input has one class, so that the loss says nothing. For yes or no use "
            "binary_cross_entropy_with_logits, or two channels.",
        ),
    ],
    "outside": [
        (
            lambda: LF.poisson_nll_loss(x, -p),
            "poisson_nll_loss: target should be non-negative, some of it is not. A Poisson distribution gives no "
            "probability to what is below 0.",
        ),
    ],
    "setting": [
        (lambda: losskit.checks("on"), "checks: mode must be one of 'off', 'nan', 'raise', 'torch', got 'on'."),
        (lambda: losskit.checks(nan="stop"), "checks(nan=...): mode must be one of 'pass', 'raise', got 'stop'."),
        (lambda: losskit.empty("0"), "empty: mode must be one of 'nan', 'zero', got '0'."),
    ],
    "unknown_loss": [
        (lambda: losskit.get("hubber_loss"), "\"no loss is called 'hubber_loss'. Did you mean huber_loss?\""),
    ],
    "several_losses": [
        (lambda: losskit.get("FocalLoss"), "\"no loss is called 'FocalLoss'; it may mean SigmoidFocalLoss (a label for each "
         "score) or SoftmaxFocalLoss (one class of several).\""),
    ],
    "sum_shapes": [
        (lambda: (losskit.MSELoss() + losskit.L1Loss(reduction="none"))(x, t),
         "weighted_sum: the parts have losses of different shapes: mse_loss (), l1_loss (4, 3). Give all parts the same "
         "reduction."),
    ],
    "config": [
        (lambda: losskit.create("mse"), "create: config must be a dict with a 'name', got 'mse'."),
    ],
}  # fmt: skip
# Of DTensors and groups: told, and tested, in sharded_calls.py and sharded_head_calls.py.
OF_RANKS = {"mesh", "part", "not_plain", "elsewhere", "ranks", "settings", "sequences", "features", "shared_rows"}


def test_every_kind_is_tested():
    assert set(MISTAKES) | OF_RANKS == set(MESSAGES)


@pytest.mark.parametrize(("kind", "number"), [(kind, i) for kind, rows in MISTAKES.items() for i in range(len(rows))])
def test_message(kind, number):
    mistake, message = MISTAKES[kind][number]
    with pytest.raises(MESSAGES[kind][0]) as caught:
        mistake()
    text = str(caught.value)
    if isinstance(message, re.Pattern):
        assert message.match(text), text
    else:
        assert text == message
    assert caught.value.__cause__ is None


def test_a_typo_in_a_call_is_a_type_error():
    with pytest.raises(TypeError, match="detla"):
        LF.huber_loss(x, t, detla=1.0)
    with pytest.raises(TypeError, match="weights"):
        losskit.MSELoss()(x, t, weights=x)
