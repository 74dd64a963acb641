"""Every message that losskit raises, in one voice: the loss, the argument, what is allowed, what came, the way out.

A kind of mistake is one line of `MESSAGES`. `tests/test_errors.py` asserts that the set of kinds that exist is
the set that is tested.
"""

from __future__ import annotations


class DeclarationError(TypeError):
    """A loss is declared wrongly; raised when its class is made, not when it is used."""


MESSAGES: dict[str, tuple[type[Exception], str]] = {
    # -- arguments of a call ------------------------------------------------------------------------------
    "not_a_tensor": (TypeError, "{loss}: {argument} must be a tensor, got {got}."),
    "not_strided": (TypeError, "{loss}: {argument} must be a dense (strided) tensor, got {got}."),
    "not_floating": (TypeError, "{loss}: {argument} must be floating point, got {got}. Use {argument}.float()."),
    "complex": (TypeError, "{loss}: {argument} must be real, got {got}."),
    "mask_dtype": (TypeError, "{loss}: mask must be boolean (True = counts), got {got}. Use mask.bool()."),
    "device": (ValueError, "{loss}: {argument} is on {got} but {first} is on {expected}."),
    "shapes": (ValueError, "{loss}: {first} {expected} and {argument} {got} must have the same shape.{hint}"),
    "not_broadcastable": (ValueError, "{loss}: {argument} {got} must broadcast to {expected}.{hint}"),
    "no_class_dimension": (ValueError, "{loss}: {argument} must have a dimension of classes, got a scalar."),
    "no_features": (ValueError, "{loss}: {argument} must have a dimension of features, got a scalar."),
    "not_one_per_row": (ValueError, "{loss}: {argument} must have one entry per row, {expected}, got {got}.{hint}"),
    "no_classes": (ValueError, "{loss}: input must have at least one class, got shape {got}."),
    "class_indices": (
        ValueError,
        "{loss}: target must be class indices of shape {rows} for input {input}, got {dtype} of shape {got}.{hint}",
    ),
    "class_probabilities": (
        ValueError,
        "{loss}: target must be class indices of shape {rows} or probabilities of shape {input}, "
        "got {dtype} of shape {got}.{hint}",
    ),
    "class_index": (ValueError, "{loss}: target must be a class in [0, {classes}), got {got} at row {index}.{hint}"),
    "ignored_probabilities": (ValueError, "{loss}: ignore_index={got} needs class indices, got probabilities."),
    "per_class": (ValueError, "{loss}: {argument} must have one entry for each of {classes} classes, got shape {got}."),
    "weight_dtype": (TypeError, "{loss}: weight is {got} but input is {expected}. Use weight.to(input.dtype)."),
    "domain": (ValueError, "{loss}: {argument} must be {expected}, got {got} at index {index}.{hint}"),
    "normalizer": (ValueError, "{loss}: normalizer must be a non-negative number or one-element tensor, got {got}."),
    "arguments": (TypeError, "{loss}: {problem}.{hint}"),
    "script": (
        TypeError,
        "{loss}: torch.jit.script cannot compile losskit's losses. Use torch.jit.trace, which records torch's operators, or "
        "call the loss outside of the scripted module.",
    ),
    # -- parameters ---------------------------------------------------------------------------------------
    "parameter": (ValueError, "{loss}: {argument} must be {expected}, got {got}."),
    "parameter_type": (TypeError, "{loss}: {argument} must be {expected}, got {got}."),
    "reduction": (ValueError, "{loss}: reduction must be one of {expected}, got {got}."),
    # -- settings and the registry ------------------------------------------------------------------------
    "setting": (ValueError, "{setting}: mode must be one of {expected}, got {got}."),
    "unknown_loss": (KeyError, "no loss is called {got}.{hint}"),
    "config": (TypeError, "create: config must be a dict with a 'name', got {got}."),
}  # fmt: skip


def error(kind: str, **context: object) -> Exception:
    """The exception of a kind, its sentence filled in; the caller raises it."""
    exception, template = MESSAGES[kind]
    return exception(template.format(**context))
