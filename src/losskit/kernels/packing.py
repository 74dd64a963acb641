"""Fields side by side in one integer: how a call's options are packed for kernels.

A field is a number, or a list with an entry for each operand of a formula.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

MAX_ENTRIES = 8  # of a list
ENTRY = 3  # bits of an entry of a list


def entry(packed: int, operand: int) -> int:
    """What a list from bit 0 on says of an operand; 0 where it has ended."""
    return packed >> ENTRY * operand & (1 << ENTRY) - 1


@dataclass(frozen=True)
class Field:
    """Some bits of an integer: a number, or a list that says what each operand of a formula is."""

    shift: int
    width: int
    members: type[IntEnum] | None = None  # of a list: what an entry may be; 0 where the list has ended

    def pack(self, value: Any) -> int:
        """The bits of a value, not yet shifted. Entries of a list are given by name."""
        bits = int(value) if self.members is None else self._packed(self.members, value)
        if not 0 <= bits < 1 << self.width:
            raise ValueError(f"{value} does not fit into {self.width} bits")
        return bits

    def _packed(self, members: type[IntEnum], value: Iterable[str]) -> int:
        return sum(members[name.upper()] << ENTRY * i for i, name in enumerate(value))

    def unpack(self, code: int) -> Any:
        """The number, or the members of the list."""
        bits = code >> self.shift & (1 << self.width) - 1
        if self.members is None:
            return bits
        entries = (entry(bits, operand) for operand in range(MAX_ENTRIES))
        return [self.members(one) for one in entries if one]


class Layout:
    """Fields side by side in one integer, from the lowest bit on; each is declared by its width, a list by its members.

    >>> layout = Layout(rows=1, result=6)
    >>> layout.pack(rows=True, result=7), layout.unpack(15)
    (15, {'rows': 1, 'result': 7})
    """

    def __init__(self, **declared: int | type[IntEnum]) -> None:
        self.fields: dict[str, Field] = {}
        shift = 0
        for name, own in declared.items():
            one = Field(shift, own) if isinstance(own, int) else Field(shift, ENTRY * MAX_ENTRIES, own)
            self.fields[name] = one
            shift += one.width
        self.width = shift

    def pack(self, **values: Any) -> int:
        """The integer of some fields; the others are 0."""
        return sum(self.fields[name].pack(value) << self.fields[name].shift for name, value in values.items())

    def unpack(self, code: int) -> dict[str, Any]:
        """The value of each field."""
        return {name: one.unpack(code) for name, one in self.fields.items()}

    def shift(self, name: str) -> int:
        """Where a field begins."""
        return self.fields[name].shift

    def mask(self, name: str) -> int:
        """All bits of a field."""
        return (1 << self.fields[name].width) - 1 << self.fields[name].shift
