"""What an audit finds: verdicts, and the registry of checks.

A check is a function of the subject that yields what it finds; one that yields nothing has passed. A new check is one
function with the decorator, in the file of its theme.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from losskit.audit.subject import Subject

# fault: a wrong result. warning: fragile, a right result that is lost under conditions which do occur. note: a property
# to know. skipped: the check says nothing about this loss, and why.
VERDICTS = ("fault", "warning", "note", "skipped", "pass")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    verdict: one of `VERDICTS`. sentence: what is wrong. call: a line of code that shows it, on the smallest input that
    was found; "" where there is none. data: numbers behind it. check: the name of the check; `run` sets it.
    """

    verdict: str
    sentence: str
    call: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    check: str = ""


def fault(sentence: str, call: str = "", **data: Any) -> Finding:
    """A wrong result."""
    return Finding("fault", sentence, call, data)


def warning(sentence: str, call: str = "", **data: Any) -> Finding:
    """A right result that is lost under conditions which do occur."""
    return Finding("warning", sentence, call, data)


def note(sentence: str, call: str = "", **data: Any) -> Finding:
    """A property to know."""
    return Finding("note", sentence, call, data)


def passed(sentence: str, **data: Any) -> Finding:
    """What a check that has passed has measured."""
    return Finding("pass", sentence, "", data)


class Skipped(Exception):  # noqa: N818  # no error
    """A check does not apply; the reason."""


Check = Callable[["Subject"], Iterator[Finding]]


@dataclass(frozen=True)
class Registered:
    """A check, its theme, what it asks in words, and whether a quick audit leaves it out."""

    name: str
    theme: str
    question: str
    run: Check
    slow: bool
    shrinks: bool


CHECKS: dict[str, Registered] = {}
THEMES = ("derivatives", "numbers", "learning", "batches", "inputs", "execution", "facts")


def check(theme: str, question: str, *, slow: bool = False, shrinks: bool = False) -> Callable[[Check], Check]:
    """Register a check under its function's name.

    shrinks: whether it gives the smallest input itself; of others the audit runs the check on smaller ones.
    """

    def registered(function: Check) -> Check:
        name = function.__name__
        CHECKS[name] = Registered(name, theme, question, function, slow, shrinks or slow)
        return function

    return registered
