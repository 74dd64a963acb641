"""The doctor of a running training: which mistakes the losses of the first batches, and of some later ones, show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from losskit.errors import error
from losskit.watching.findings import Finding
from losskit.watching.watched import Watch

__all__ = ["Finding", "Watch", "watch"]


def watch(
    *modules: nn.Module, first: int = 5, every: int = 200, on_finding: Callable[[Finding], Any] | None = None
) -> Watch:
    """Look at the losses of a training now and then, and say which mistakes they show, once each, with the fix.

    Choose it for every new training: most mistakes of losses raise no error. Prefer `losskit.autopsy` for one batch,
    and `losskit.advise` before there is a model.

    All calls of losskit's losses and torch.nn.functional's are seen, from whatever module they come, as long as
    gradients are recorded; inside of torch.compile nothing is seen. It holds for the process until `remove`, or until
    the end of a `with` block.

    Args:
        modules: Criteria of your own, that call no loss of losskit or torch; models that have such criteria within
            them, whose classes are called Loss or Criterion. Others need not be named.
        first: How many calls of each line are looked at in the beginning.
        every: Further looks: each call of this number. Before, there are looks at twice, four, eight ... times `first`.
        on_finding: Called with each finding; what it raises stops the training. None: a `losskit.WatchWarning`.

    Returns:
        The watch: `findings`, a list; `print` shows them with the lines of the program; `remove` ends it.

    Raises:
        TypeError: A module is none.
        ValueError: `first` or `every` is no positive number.

    Example:
        >>> import losskit, torch
        >>> scores = torch.randn(64, 10, requires_grad=True)
        >>> with losskit.watch(on_finding=lambda finding: print(finding.sentence)):
        ...     loss = torch.nn.CrossEntropyLoss()(scores.softmax(1), torch.arange(64) % 10)
        input has gone through a softmax, and a softmax is built into the loss: it is applied twice.
    """
    for module in modules:
        if not isinstance(module, nn.Module):
            raise error("parameter_type", loss="watch", argument="modules", expected="modules",
                        got=type(module).__name__)  # fmt: skip
    for name, number in (("first", first), ("every", every)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise error(
                "parameter", loss="watch", argument=name, expected="a number of calls, 1 or more", got=repr(number)
            )
    return Watch(modules, first, every, on_finding)
