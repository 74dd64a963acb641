"""The two settings of losskit: what happens to bad values, and what the mean over nothing is.

Both work as a call and as a `with` block.

1. A call sets the mode of the process, from now on. Inside a block it sets the mode of the block, until the block ends.
2. A block sets the mode of its own thread or asyncio task; other threads do not see it. So the mode of a block lives in
   a context variable.
3. torch.compile cannot read context variables. It reads `_traced` instead, a thread-local copy, and guards on it: a
   change of mode compiles again.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar

import torch

from losskit.errors import error

CHECKS = ("off", "nan", "raise", "torch")
EMPTY = ("nan", "zero")
REFUSES_NAN = "!"  # a suffix of the mode of the checks: a NaN is refused


class _Traced(threading.local):
    """The modes of this thread's blocks, where torch.compile can see them; None outside of a block."""

    def __init__(self) -> None:
        self.checks: str | None = None
        self.empty: str | None = None


class State:
    """The modes that hold here and now; one instance, `state`."""

    def __init__(self) -> None:
        self.process_checks, self.process_empty = "raise", "nan"
        # Whether nan="raise" was ever set, and whether a block was ever entered: programs without do not pay for it.
        self.nan_asked = self.in_blocks = False

    @property
    def checks(self) -> str:
        return self._checks.removesuffix(REFUSES_NAN)

    @property
    def nan(self) -> str:
        return "raise" if self._checks.endswith(REFUSES_NAN) else "pass"

    @property
    def _checks(self) -> str:
        block = _traced.checks if torch.compiler.is_compiling() else checks_of_block.get()
        return block or self.process_checks

    @property
    def empty(self) -> str:
        block = _traced.empty if torch.compiler.is_compiling() else empty_of_block.get()
        return block or self.process_empty


state = State()
_traced = _Traced()
checks_of_block: ContextVar[str | None] = ContextVar("losskit.checks", default=None)
empty_of_block: ContextVar[str | None] = ContextVar("losskit.empty", default=None)
_lock = threading.Lock()


class _Setting:
    name: str
    modes: tuple[str, ...]
    of_block: ContextVar[str | None]
    # The calls so far; the last one is in force. A `with` begins as a call, and __enter__ takes that call out of the
    # list, where another thread's call may have followed it.
    calls: list[_Setting]

    def __init__(self, mode: str | None, suffix: str = "") -> None:
        if mode not in self.modes:
            raise error("setting", setting=self.name, expected=", ".join(map(repr, self.modes)), got=repr(mode))
        self.mode = mode + suffix
        self._before: list[str | None] = [self.of_block.get()]
        self._entered = False
        if self._before[0] is not None:
            self._set_block(self.mode)
            return
        with _lock:
            del self.calls[1:-63]  # calls so old are never taken back
            self.calls.append(self)
            self._set_process()

    def __enter__(self) -> None:
        if self._entered:  # the same object in another `with`
            self._before.append(self.of_block.get())
        else:
            self._entered = True
            with _lock:
                if self in self.calls:
                    self.calls.remove(self)
                    self._set_process()
        self._set_block(self.mode)

    def __exit__(self, *exception: object) -> None:
        self._set_block(self._before.pop())

    def _set_process(self) -> None:
        setattr(state, f"process_{self.name}", self.calls[-1].mode if self.calls else self.modes[0])

    def _set_block(self, mode: str | None) -> None:
        state.in_blocks = True
        self.of_block.set(mode)
        setattr(_traced, self.name, mode)


class checks(_Setting):  # noqa: N801  # used like a function
    """What happens to values outside their domain: labels, ranges, probabilities.

    "raise" (the default): a `ValueError` that names the argument, the value and its index. "nan": the result of
    a bad value is NaN. "off": no check, and mismatched shapes broadcast silently, as in torch. "torch": what torch's
    function of the same name refuses is refused, and nothing else; a loss that torch lacks is checked as by "raise".
    On a GPU "raise" is "nan", since the host would have to wait for the device; `losskit.last_violation()` gives the
    sentence. In a graph that is exported or traced it is "nan", too.

    A call holds for the process; a `with` block for its own thread or task, until it ends.

    `nan="raise"` also refuses a NaN in an operand or weight that counts: the first one, by argument and index. It is a
    pass of its own over every tensor, which a GPU waits for; "pass" (the default) lets NaN in give NaN out.

        >>> import losskit
        >>> losskit.checks("nan")  # doctest: +SKIP
        >>> with losskit.checks("off"):
        ...     pass
    """

    name = "checks"
    modes = CHECKS
    of_block = checks_of_block

    def __init__(self, mode: str | None = None, *, nan: str | None = None) -> None:
        if nan not in (None, "pass", "raise"):
            raise error("setting", setting="checks(nan=...)", expected="'pass', 'raise'", got=repr(nan))
        refused = (nan or ("pass" if mode in ("off", "torch") else state.nan)) == "raise"
        state.nan_asked |= refused
        super().__init__(state.checks if mode is None and nan is not None else mode, REFUSES_NAN if refused else "")


class empty(_Setting):  # noqa: N801
    """The mean over nothing (no elements, all masked, weights that sum to 0): "nan", as in torch, or "zero".

    The gradient is 0 either way, and the sum over nothing is 0. A call holds for the process; a `with` block for its
    own thread or task, until it ends.

        >>> import losskit, torch
        >>> with losskit.empty("zero"):
        ...     losskit.MSELoss()(torch.empty(0), torch.empty(0))
        tensor(0.)
    """

    name = "empty"
    modes = EMPTY
    of_block = empty_of_block


checks.calls, empty.calls = [], []
checks("raise")
empty("nan")
