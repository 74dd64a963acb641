"""losskit in programs that call torch: its functions in the place of torch.nn.functional's, until they are taken back.

1. Functions are replaced, and torch.nn's classes are not: they call the functions, and their pickles, subclasses and
   `isinstance` stay as they are.
2. Names that modules bound when they were imported (`from torch.nn.functional import cross_entropy`) are found by the
   identity of the function, in every loaded module but torch's own, and replaced, too.
3. A program that calls torch is checked as torch checks it: `losskit.checks("torch")` holds while losskit is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType
from typing import Any

import torch.nn.functional as F

from losskit import functional
from losskit.acceleration import programs
from losskit.acceleration.calls import Calls
from losskit.acceleration.misses import Misses
from losskit.acceleration.replaced import Function, Replaced
from losskit.acceleration.sites import Site
from losskit.errors import error
from losskit.policy import checks, state


def _loss(x: Any) -> bool:
    return isinstance(x, FunctionType) and x.__module__.startswith("losskit.")


FUNCTIONS = tuple(sorted(name for name, x in vars(functional).items() if hasattr(F, name) and _loss(x)))
_present: list[Acceleration] = []  # one, while losskit is there


class Acceleration:
    """losskit in the place of torch's functions: what `losskit.accelerate` gives. `print` it to see who computed."""

    def __init__(self, only: tuple[str, ...], refused: str) -> None:
        self.only, self.refused = only, refused
        self.depth = 0
        self.left: list[str] = []  # names that somebody else has replaced since
        self._calls = Calls(refused)
        self._missed = Misses()
        self._replaced = Replaced()
        self._checks: str | None = None

    def shadow(self, steps: int = 3) -> Acceleration:
        """Have both libraries compute the next calls, and note the largest difference: of each line, so many calls.

        The program gets losskit's result. Copies are compared, so it sees nothing of it but the time.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise error("parameter", loss="shadow", argument="steps", expected="a number of calls", got=repr(steps))
        with self._calls.sites.lock:
            for site in self._calls.sites.known.values():
                site.compared, site.value, site.gradient = 0, 0.0, 0.0
        self._calls.shadowed = steps
        return self

    def misses(self) -> Misses:
        """A block in which torch's calls of this thread are watched, for losses that losskit does not reach.

        `print` shows their lines. Leave it after a few steps: every call of torch takes longer.
        """
        return self._missed

    @property
    def sites(self) -> list[Site]:
        """The lines of the program that asked for a loss, those with the most calls first."""
        return self._calls.sites.by_calls

    def undo(self) -> None:
        """Give torch its functions back; what somebody else has replaced since stays, and is named by `print`."""
        self.depth = max(self.depth - 1, 0)
        if self.depth or self not in _present:
            return
        _present.remove(self)
        self.left += self._replaced.undo()
        programs.forget()
        if self._checks is not None and state.process_checks == "torch":
            checks(self._checks)

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(self, *exception: object) -> None:
        self.undo()

    def __str__(self) -> str:
        head = f"losskit.accelerate: {'on' if self in _present else 'undone'}, {len(self.only)} functions"
        parts = [head, self._calls.sites.table()]
        if compared := self._calls.sites.differences():
            parts += ["both libraries, relative to the largest number:", compared]
        if self._missed.sites.known:
            parts += ["not reached:", self._missed.sites.table()]
        if self.left:
            parts.append(f"replaced by somebody else, and left: {', '.join(self.left)}")
        return "\n".join(parts)

    __repr__ = __str__

    def _start(self) -> None:
        if state.process_checks == "raise":
            self._checks = state.process_checks
            checks("torch")
        of_names: dict[int, Function] = {}
        for name in self.only:
            theirs = getattr(F, name)
            of_names[id(theirs)] = ours = self._calls.replaced(name, theirs, getattr(functional, name))
            self._replaced.replace(F, name, ours)
        self._replaced.rebind(of_names)
        programs.adapt(self._replaced.replace, self._calls)
        _present.append(self)


def accelerate(*, only: Iterable[str] = FUNCTIONS, refused: str = "torch") -> Acceleration:
    """Have a program that calls torch's losses compute them with losskit, unedited, until `undo`.

    Choose it for training scripts and libraries that you do not want to edit: torch.nn's modules, made before or after,
    and calls of torch.nn.functional run losskit's kernels. Prefer losskit's own losses in code of your own: they check
    more, and take `mask`, `sample_weight` and `normalizer`.

    It holds for the process, all threads of it; processes that are started afterwards need a call of their own, or the
    command `python -m losskit accelerate train.py`. In a `with` block it holds until the block ends. A second call
    while it holds gives the same object, and needs an `undo` of its own. While it holds, `losskit.checks` is "torch"
    unless you have set another mode.

    What it cannot reach: `torch.ctc_loss` and other operators below torch.nn.functional, references in closures and
    dictionaries, formulas that programs write themselves. Of these it knows transformers' label smoothing, timm's
    cross entropies and trl's log-probabilities of tokens.

    Args:
        only: The functions to replace, by their names in torch.nn.functional.
        refused: "torch": what losskit refuses is left to torch's function, as is what torch must see itself (traces,
            tensor subclasses). "raise": it is an error.

    Returns:
        The acceleration: `print` says, for each line that asks for a loss, how many calls ran a fused kernel, losskit's
        formula, or torch's function, and why; `shadow` compares both libraries; `undo` ends it.

    Raises:
        ValueError: A name is no loss that both libraries have, or losskit is there already with other arguments.

    Example:
        >>> import losskit, torch
        >>> with losskit.accelerate() as report:
        ...     loss = torch.nn.CrossEntropyLoss()(torch.zeros(2, 3), torch.tensor([0, 2]))
        >>> loss, report.sites[0].fused
        (tensor(1.0986), 1)
    """
    names = tuple(dict.fromkeys([only] if isinstance(only, str) else only))
    for name in names:
        if name not in FUNCTIONS:
            known = ", ".join(FUNCTIONS)
            raise error("parameter", loss="accelerate", argument="only", expected=f"among {known}", got=repr(name))
    if refused not in ("torch", "raise"):
        expected = "'torch' or 'raise'"
        raise error("parameter", loss="accelerate", argument="refused", expected=expected, got=repr(refused))
    if not _present:
        Acceleration(names, refused)._start()
    found = _present[0]
    if (set(found.only), found.refused) != (set(names), refused):
        got = f"only={found.only!r}, refused={found.refused!r} there already"
        raise error("parameter", loss="accelerate", argument="the arguments", expected="the same until undo()", got=got)
    found.depth += 1
    return found
