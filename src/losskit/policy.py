"""The two settings of losskit: what happens to bad values, and what the mean over nothing is.

Both work as a call (for the process, from now on) and as a `with` block (restored on leaving it).
"""

from __future__ import annotations

from losskit.errors import error

CHECKS = ("off", "nan", "raise")  # in the order of the kernel's enum
EMPTY = ("nan", "zero")


class State:
    """The current settings; one instance, `state`, for the process."""

    checks: str = "raise"
    nan: str = "pass"  # or "raise"
    empty: str = "nan"


state = State()


class _Setting:
    name: str
    modes: tuple[str, ...]

    def __init__(self, mode: str) -> None:
        if mode not in self.modes:
            raise error("setting", setting=self.name, expected=", ".join(map(repr, self.modes)), got=repr(mode))
        self._before = getattr(state, self.name)
        setattr(state, self.name, mode)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        setattr(state, self.name, self._before)


class checks(_Setting):  # noqa: N801  # used like a function
    """What happens to values outside their domain: labels, ranges, probabilities.

    "raise" (the default): a `ValueError` that names the argument, the value and its index. "nan": the result of
    a bad value is NaN. "off": no check, and mismatched shapes broadcast silently, as in torch. On a GPU "raise" is
    "nan", since the host would have to wait for the device; `losskit.last_violation()` gives the sentence.

    `nan="raise"` also refuses a NaN in an operand or weight that counts: the first one, by argument and index. It is a
    pass of its own over every tensor, which a GPU waits for; "pass" (the default) lets NaN in give NaN out.

        >>> import losskit
        >>> losskit.checks("nan")  # doctest: +SKIP
        >>> with losskit.checks("off"):
        ...     pass
    """

    name = "checks"
    modes = CHECKS

    def __init__(self, mode: str | None = None, *, nan: str | None = None) -> None:
        self._nan = state.nan
        if nan not in (None, "pass", "raise"):
            raise error("setting", setting="checks(nan=...)", expected="'pass', 'raise'", got=repr(nan))
        super().__init__(state.checks if mode is None and nan is not None else mode)  # type: ignore[arg-type]
        state.nan = nan or ("pass" if mode == "off" else state.nan)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        state.nan = self._nan


class empty(_Setting):  # noqa: N801
    """The mean over nothing (no elements, all masked, weights that sum to 0): "nan", as in torch, or "zero".

    The gradient is 0 either way, and the sum over nothing is 0.

        >>> import losskit, torch
        >>> with losskit.empty("zero"):
        ...     losskit.MSELoss()(torch.empty(0), torch.empty(0))
        tensor(0.)
    """

    name = "empty"
    modes = EMPTY
