"""Every message that losskit raises, in one voice: the loss, the argument, what is allowed, what came, the way out.

1. A kind of mistake is one line of `MESSAGES`. `tests/test_errors.py` asserts that the set of kinds that exist is
   the set that is tested.
2. torch raises for the same mistake now a ValueError, now a RuntimeError, for a class index an IndexError, for a dtype
   a NotImplementedError. The exceptions here are all of these at once, so that a script that catches torch's
   catches losskit's.
3. What is nearly certainly wrong, but defined, is a warning: a `SpaceWarning`, told at the caller's line.
"""

from __future__ import annotations

from typing import Any


class DeclarationError(TypeError):
    """A loss is declared wrongly; raised when its class is made, not when it is used."""


class LossError(Exception):
    """A loss cannot be computed, or made, from what it was given; the base of the kinds below."""


class LossValueError(LossError, ValueError, RuntimeError):
    """A shape, a device, a parameter or a value that is not allowed. torch raises ValueError or RuntimeError."""


class LossIndexError(LossValueError, IndexError):
    """A class index or a dimension that does not exist. torch raises IndexError, or RuntimeError."""


class LossTypeError(LossError, TypeError, NotImplementedError):
    """Something of the wrong type or dtype. torch raises TypeError, RuntimeError or NotImplementedError."""


class NotATensorError(LossTypeError, AttributeError):
    """What is no tensor, where one belongs. torch raises TypeError, or misses an attribute of it."""


class UnknownLossError(LossError, KeyError):
    """No loss has this name."""


class RankError(LossError, RuntimeError):
    """Another rank of a DTensor stopped."""


class SpaceWarning(UserWarning):
    """The numbers are nearly certainly not what the loss takes: probabilities for scores, one class, negative counts.

    The result is the one that was asked for. `losskit.checks("off")` silences it, and so do Python's warning filters.
    """


class WatchWarning(UserWarning):
    """What `losskit.watch` has found in a training; Python's warning filters silence it."""


MESSAGES: dict[str, tuple[type[LossError] | type[SpaceWarning], str]] = {
    # -- arguments of a call ------------------------------------------------------------------------------
    "not_a_tensor": (NotATensorError, "{loss}: {argument} must be a tensor, got {got}.{hint}"),
    "not_strided": (LossTypeError, "{loss}: {argument} must be a dense (strided) tensor, got {got}."),
    "not_floating": (LossTypeError, "{loss}: {argument} must be floating point, got {got}.{hint}"),
    "complex": (LossTypeError, "{loss}: {argument} must be real, got {got}."),
    "mask_dtype": (LossTypeError, "{loss}: mask must be boolean (True = counts), got {got}. Use mask.bool()."),
    "device": (LossValueError, "{loss}: {argument} is on {got} but {first} is on {expected}."),
    "apart": (LossValueError, "{loss}: the shapes must broadcast to one, got {got}."),
    "shapes": (LossValueError, "{loss}: {first} {expected} and {argument} {got} must have the same shape.{hint}"),
    "components": (
        LossValueError,
        "{loss}: the last dimension of {argument} must be the {count} numbers {expected}, got shape {got}.",
    ),
    "not_broadcastable": (LossValueError, "{loss}: {argument} {got} must broadcast to {expected}.{hint}"),
    "no_class_dimension": (LossIndexError, "{loss}: {argument} must have a dimension of classes, got a scalar."),
    "no_features": (LossIndexError, "{loss}: {argument} must have a dimension of features, got a scalar."),
    "not_one_per_row": (
        LossValueError,
        "{loss}: {argument} must have one entry per row, {expected}, got {got}.{hint}",
    ),
    "no_classes": (LossIndexError, "{loss}: input must have at least one class, got shape {got}."),
    "class_indices": (
        LossValueError,
        "{loss}: target must be class indices of shape {rows} for input {input}, got {dtype} of shape {got}.{hint}",
    ),
    "class_probabilities": (
        LossValueError,
        "{loss}: target must be class indices of shape {rows} or probabilities of shape {input}, "
        "got {dtype} of shape {got}.{hint}",
    ),
    "class_index": (
        LossIndexError,
        "{loss}: target must be a class in [0, {classes}), got {got} at row {index}.{hint}",
    ),
    "ignored_probabilities": (LossValueError, "{loss}: ignore_index={got} needs class indices, got probabilities."),
    "per_class": (
        LossValueError,
        "{loss}: {argument} must have one entry for each of {classes} classes, got shape {got}.",
    ),
    "head": (LossValueError, "{loss}: {argument} must have the shape {expected} for {first} {input}, got {got}."),
    "head_dtype": (
        LossTypeError,
        "{loss}: {argument} is {got} but {first} is {expected}. Use {argument}.to({first}.dtype), or autocast.",
    ),
    "teacher": (
        LossValueError,
        "{loss}: target must be the teacher's scores {expected}, got {got}. Features of a teacher need teacher_weight, "
        "scores of some classes teacher_indices.",
    ),
    "one_teacher": (
        LossValueError,
        "{loss}: a target is either features beside teacher_weight, or scores beside teacher_indices, got both.",
    ),
    "of_teacher": (
        LossValueError,
        "{loss}: {argument} is that of a teacher's last layer, which needs teacher_weight, got None.",
    ),
    "no_teacher": (
        LossValueError,
        "{loss}: {argument} is for losses of a student's and a teacher's scores, such as KnowledgeDistillationLoss.",
    ),
    "shared_rows": (
        LossTypeError,
        "{loss}: ranks cannot share {what} of a loss of two rows, got {got}. Use {hint}.",
    ),
    "weight_dtype": (LossTypeError, "{loss}: weight is {got} but input is {expected}. Use weight.to(input.dtype)."),
    "freed": (
        LossValueError,
        "{loss}: {argument} of shape {got} has a storage of {bytes} bytes, too few to hold it: its memory was freed.",
    ),
    "domain": (LossValueError, "{loss}: {argument} must be {expected}, got {got} at index {index}.{hint}"),
    "normalizer": (
        LossValueError,
        "{loss}: normalizer must be a non-negative number or one-element tensor, got {got}.",
    ),
    "arguments": (LossTypeError, "{loss}: {problem}.{hint}"),
    "not_a_number": (LossValueError, "{loss}: {argument} is NaN at index {index}, the first of {count}."),
    "by_keyword": (
        LossTypeError,
        "{loss}: a call takes {expected}, got {got} arguments. Give sample_weight, mask and normalizer by keyword.",
    ),
    "script": (
        LossTypeError,
        "{loss}: torch.jit.script cannot compile losskit's losses. Use torch.jit.trace, which records torch's "
        "operators, or call the loss outside of the scripted module.",
    ),
    # -- what is defined, but nearly certainly not meant --------------------------------------------------
    "probabilities": (
        SpaceWarning,
        "{loss}: input looks like probabilities, each row is in [0, 1] and sums to 1: softmax is built in. "
        "Pass the scores before it.",
    ),
    "softmaxed": (
        SpaceWarning,
        "{loss}: {argument} looks like probabilities, each row is in [0, 1] and sums to 1: softmax is built in. "
        "Pass the scores, or log-probabilities.",
    ),
    "sigmoid": (
        SpaceWarning,
        "{loss}: {argument} looks like probabilities, all of it is in [0, 1]: a sigmoid is built in. "
        "Pass the scores before it.",
    ),
    "one_class": (
        SpaceWarning,
        "{loss}: input has one class, so that the loss says nothing. For yes or no use "
        "binary_cross_entropy_with_logits, or two channels.",
    ),
    "outside": (SpaceWarning, "{loss}: {argument} should be {expected}, some of it is not.{hint}"),
    # -- DTensors ------------------------------------------------------------------------------------------
    "mesh": (
        LossValueError,
        "{loss}: {argument} is a DTensor on another mesh than {first}. Use {argument}.full_tensor(): "
        "a plain tensor is taken as whole, the same on every rank.",
    ),
    "part": (
        LossValueError,
        "{problem} A plain tensor beside a DTensor is taken as whole, the same on every rank; for a rank's part use "
        "DTensor.from_local.",
    ),
    "not_plain": (LossTypeError, "{loss}: {argument} must be a plain tensor, got a DTensor. Use {hint}."),
    "ranks": (
        LossValueError,
        "{loss}: rank {rank} of the group has {got} {what}, rank 0 has {expected}. Ranks that share classes call with "
        "the same features and targets; with sequence_parallel=True each with its own rows.",
    ),
    "settings": (
        LossValueError,
        "{loss}: rank {rank} of the group calls with other settings than rank 0: the loss and its parameters, dtypes, "
        "the target's dimensions, which arguments are given and which want gradients must be the same on all ranks.",
    ),
    "features": (
        LossTypeError,
        "{loss}: linear_weight is a DTensor but input is a plain tensor, which may differ between ranks. If it is the "
        "same on all ranks, pass DTensor.from_local(input, mesh, [Replicate()]). With FSDP, call the loss in the "
        "forward of the module that has the weights.",
    ),
    "sum_shapes": (
        LossValueError,
        "{loss}: the parts have losses of different shapes: {got}. Give all parts the same reduction.",
    ),
    "sequences": (
        LossValueError,
        "{loss}: with sequence_parallel=True the target must be class indices. Probabilities need the features of all "
        "rows: gather them, and leave sequence_parallel out.",
    ),
    "elsewhere": (RankError, "{loss}: rank {rank} stopped with {got}"),
    # -- parameters ---------------------------------------------------------------------------------------
    "parameter": (LossValueError, "{loss}: {argument} must be {expected}, got {got}.{hint}"),
    "parameter_type": (LossTypeError, "{loss}: {argument} must be {expected}, got {got}.{hint}"),
    "reduction": (LossValueError, "{loss}: reduction must be one of {expected}, got {got}.{hint}"),
    "operands": (
        LossTypeError,
        "{loss}: {loss}(...) makes the loss and takes no tensors of a call, got one as {argument}. Call {call}.",
    ),
    "open": (
        LossTypeError,
        "{loss}: {argument} must be a number in a compiled function, got a tensor. "
        "Use a number: each new one compiles again.",
    ),
    # -- settings and the registry ------------------------------------------------------------------------
    "setting": (LossValueError, "{setting}: mode must be one of {expected}, got {got}."),
    "unknown_loss": (UnknownLossError, "no loss is called {got}.{hint}"),
    "several_losses": (UnknownLossError, "no loss is called {got}; it may mean {choices}."),
    "config": (LossTypeError, "create: config must be a dict with a 'name', got {got}."),
}  # fmt: skip


def error(kind: str, *, hint: str = "", **context: object) -> Exception:
    """The exception of a kind, its sentence filled in; the caller raises it. hint: the way out, after a space."""
    exception, template = MESSAGES[kind]
    made: Any = exception(template.format(hint=hint, **context))
    made.kind, made.context = kind, {"hint": hint, **context}  # what other ranks of a DTensor are told
    return made
