"""What `wire.py` says, for C++: `csrc/generated/wire.h`, which `tools/generate.py` writes.

Each name is there as C++ spells it: `FREED` is `wire::kFreed`, the field `rows` of OPTIONS is
`wire::options::rows(code)`. A library that was built from another version would misread every call. So the digest of
the header is the name of a symbol of the library, which `kernels.library` looks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import IntEnum

from losskit.domains import SLACK_ULPS, log_probability
from losskit.kernels import packing, wire


def _spelled(name: str) -> str:
    """`IGNORE_INDEX` as kIgnoreIndex."""
    return "k" + "".join(part.capitalize() for part in name.split("_"))


def _enum(head: str, members: Mapping[str, int]) -> str:
    own = [f"{name} = {int(value)}" for name, value in members.items()]
    line = f"enum {head} {{ {', '.join(own)} }};"
    return line if len(line) <= 120 else "\n".join([f"enum {head} {{", *(f"  {one}," for one in own), "};"])


def _members(members: type[IntEnum]) -> dict[str, int]:
    return {_spelled(name): value for name, value in members.__members__.items()}


def _reader(name: str, own: packing.Field) -> str:
    """The function that reads a field."""
    if own.members is not None:
        place = f"{own.shift} + {packing.ENTRY} * operand" if own.shift else f"{packing.ENTRY} * operand"
        value = f"static_cast<Statistic>((bits >> ({place})) & {(1 << packing.ENTRY) - 1})"
        return f"constexpr Statistic {name}(int64_t bits, int operand) {{\n  return {value};\n}}"
    value = f"(bits >> {own.shift}) & {(1 << own.width) - 1}" if own.shift else f"bits & {(1 << own.width) - 1}"
    return f"constexpr {'bool' if own.width == 1 else 'int64_t'} {name}(int64_t bits) {{ return {value}; }}"


def _readers(layout: packing.Layout) -> list[str]:
    return [_reader(name, own) for name, own in layout.fields.items()]


def _namespace(name: str, lines: Iterable[str]) -> list[str]:
    return [f"namespace {name} {{", *lines, f"}}  // namespace {name}", ""]


def _of_op(op: wire.Op) -> list[str]:
    lines = [
        _enum("class Statistic", {"kAbsent": 0, **_members(own.members)})
        for own in op.family.fields.values()
        if own.members
    ]
    positions = {_spelled(name): len(wire.Number) + i for i, name in enumerate([*op.numbers, "first_parameter"])}
    lines.append(_enum("Number : size_t", positions))
    if op.violations:
        lines.append(_enum("Violation : uint8_t", _members(op.violations)))
    return lines + _readers(op.family)


def _contract() -> str:
    """Everything that is printed, but the digest of it."""
    lines = ["namespace losskit::wire {", ""]
    lines += [f"constexpr int {_spelled(name)} = {vars(wire)[name]};"
              for name in ("MAX_OPERANDS", "MAX_PARAMETERS", "MAX_DIMS")]  # fmt: skip
    lines += [f"constexpr int64_t {_spelled(name)} = {vars(wire)[name]};"
              for name in ("DECLINED", "FREED", "SUSPICIOUS")]  # fmt: skip
    lines += [f"constexpr double kMostLogProbability = {log_probability.high!r};"]
    lines += [f"constexpr double kSlackUlps = {SLACK_ULPS!r};"]
    lines += [_enum("class DType : int32_t", {f"k{name}": value for name, value in wire.SCALAR_TYPES.items()})]
    enums = {"Reduction": wire.Reduction, "Checks": wire.Checks, "Rows": wire.Rows, "Activation": wire.Activation,
             "Pairing": wire.Pairing, "Measure": wire.Measure, "Needs": wire.Needs,
             "Number : size_t": wire.Number}  # fmt: skip
    lines += [*(_enum(head, _members(members)) for head, members in enums.items()), ""]
    lines += _namespace("options", _readers(wire.OPTIONS))
    for name, op in wire.OPS.items():
        lines += _namespace(name, _of_op(op))
    return "\n".join([*lines, "}  // namespace losskit::wire"]) + "\n"


SYMBOL = f"losskit_wire_{hashlib.sha256(_contract().encode()).hexdigest()[:12]}"


def header() -> str:
    """The text of csrc/generated/wire.h, but its first comment."""
    reason = "// A symbol of the library, by which Python knows that it was built from this file."
    includes = "#pragma once\n\n#include <cstddef>\n#include <cstdint>"
    return f"{includes}\n\n{reason}\n#define LOSSKIT_WIRE {SYMBOL}\n\n{_contract()}"
