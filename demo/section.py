"""What a part of the demo hands to the report, and the words that all parts choose from their numbers.

Text is plain, with `code` in backticks; the report turns it into HTML, the terminal into a few lines.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class WorseThanGuessingError(Exception):
    """A model that is no better than an answer without any model: it has no place in a report."""


@dataclass(frozen=True)
class Table:
    """Rows of text. A cell that is a pair also says how it is meant: "good", "bad", "even" or "quote"."""

    heads: list
    rows: list
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """Panels side by side, on a narrow screen one below the other; each is a function of axes and a theme."""

    name: str
    caption: str
    panels: list[Callable]
    height: float = 3.4  # of a panel, in inches


@dataclass(frozen=True)
class Section:
    """A part as the report shows it; `lead` are sentences, the first one also for the terminal."""

    key: str
    title: str
    number: str  # the one number to remember
    means: str  # what that number is
    lead: list
    headline: str = ""  # a sentence for the top of the page
    pictures: list = field(default_factory=list)
    tables: list = field(default_factory=list)
    code: str = ""
    notes: list = field(default_factory=list)


def must_beat(name, score, guess, higher=True):
    """Refuse a model that does not beat guessing."""
    if not (score > guess if higher else score < guess):
        raise WorseThanGuessingError(f"{name} has {score:.3g}, guessing {guess:.3g}")


def percent(share):
    """A share of one, as the tables show it."""
    return f"{share:.1%}"


def beside(ours, theirs, wins):
    """The one number of a part: ours, and what it is compared with."""
    return f"{ours}, not {theirs}" if wins else f"{ours} and {theirs}"


def several(count, one, many=None):
    """A count with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def listed(words):
    """Words as a list in a sentence."""
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def scientific(number):
    """A number of any size in two digits."""
    if number == 0 or number != number:
        return f"{number:g}"
    digits, exponent = f"{number:.1e}".split("e")
    return digits if int(exponent) == 0 else f"{digits}·10{str(int(exponent)).translate(RAISED)}"


def duration(seconds):
    """Seconds in a unit that needs no leading zeros."""
    if seconds >= 0.1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def speed(ratio):
    """The cell of a ratio of times, marked by which side of 1 it falls on in the digits shown."""
    rounded = round(ratio, 2)
    return f"{ratio:.2f}×", "even" if rounded == 1 else "good" if rounded > 1 else "bad"
