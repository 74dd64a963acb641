"""What a watch says: a finding is one sentence about one line of a program, the fix, and where to read on."""

from __future__ import annotations

from dataclasses import dataclass

PAGE = "docs/guides/watching.md"
# Kinds of mistakes, and the heading of the page that explains each.
KINDS = {
    "applied_twice": "applied-twice", "space": "another-space", "labels": "labels", "one_class": "one-class",
    "shapes": "shapes", "imbalance": "imbalance", "saturated": "saturated", "few_rows": "few-rows",
    "nothing": "nothing", "halves": "halves", "nan": "nan",
}  # fmt: skip

Told = tuple[str, str, str]  # a kind, a sentence, a fix


@dataclass(frozen=True)
class Finding:
    """A mistake of a training.

    kind: one of `losskit.watching.findings.KINDS`. sentence: what is seen. fix: what to do. loss: the function that
    was called. file, line: the line that called it. call: which call of that line it was, counted from 1.
    """

    kind: str
    sentence: str
    fix: str
    loss: str
    file: str
    line: int
    call: int

    @property
    def page(self) -> str:
        """The page that explains it, in losskit's documentation."""
        return f"{PAGE}#{KINDS[self.kind]}"

    def __str__(self) -> str:
        return f"{self.loss}, call {self.call}: {self.sentence} {self.fix} See {self.page}."
