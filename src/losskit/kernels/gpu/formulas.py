"""From a traced formula to the Triton functions that a family's template calls.

`evaluate(x0, x1, ..., numbers, T)` gives the value and the derivatives, `violation(x0, x1, ...)` which operand leaves
its domain (counted from 1, 0 for none) and its value, `settled(x0, x1, ..., s0, s1, ...)` the operands, with values
beyond a closed bound by at most their slack moved onto it. One template must serve every formula of its family, so
all functions take as many operands as the template has places for; the compiler removes the unused ones.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.domains import Domain, Signs
from losskit.graph import Expr, topological
from losskit.kernels.gpu import primitives
from losskit.printing import print_number, print_statements, run_source
from losskit.traced import Formula


class Functions(NamedTuple):
    """A formula's functions; Triton compiles them with the kernel that calls them."""

    evaluate: Any
    violation: Any
    settled: Any


def functions(formula: Formula, places: int = 4) -> Functions:
    """The Triton functions of a formula, made once, for a template with so many places for operands."""
    if formula.triton is None:
        formula.triton = _functions(formula, places)
    return formula.triton


def _functions(formula: Formula, places: int) -> Functions:
    text = source(formula, places)
    title = f"{formula.loss.name} in Triton {'-'.join(f'{k}={v}' for k, v in formula.switches.items())}"
    scope = {"tl": tl, "lk": primitives, "libdevice": libdevice, "__name__": __name__}
    made = run_source(text, title, scope)
    return Functions(triton.jit(made["evaluate"]), triton.jit(made["violation"]), triton.jit(made["settled"]))


def source(formula: Formula, places: int = 4) -> str:
    """The text of the functions."""
    all_places = ", ".join(f"x{i}_" for i in range(places))
    operands, numbers = formula.operands, formula.kernel_numbers
    roots = [formula.value, *formula.guarded]
    named = _constants(roots, formula.hoisted)
    taken = [*operands, *numbers]
    statements, (value, *gradients) = print_statements(roots, "triton", taken, {**formula.hoisted, **named})
    texts = [
        text if _varies(root, operands) else f"{text} + tl.zeros_like(x0_)"
        for root, text in zip(roots, [value, *gradients], strict=True)
    ]
    padded = [*texts, *["value_"] * (places - len(gradients))]
    lines = [f"def evaluate({all_places}, numbers_, T_: tl.constexpr):"]
    lines += [f"    {name} = x{i}_" for i, name in enumerate(operands)]
    lines += [f"    {name} = tl.load(numbers_ + {i}).to(T_)" for i, name in enumerate(numbers)]
    lines += [f"    {name} = tl.full((), {print_number(node.value, 'triton')}, T_)" for node, name in named.items()]
    lines += [f"    {statement}" for statement in statements]
    lines += [f"    value_ = {padded[0]}", f"    return value_, {', '.join(padded[1:])}", "", ""]
    lines += [f"def violation({all_places}):"]
    lines += ["    which = tl.zeros_like(x0_).to(tl.int32)", "    found = x0_"]
    for i, domain in reversed(list(enumerate(formula.required))):  # the first operand's violation is reported
        if not domain.everything:
            tested = f"(x{i}_ - x{i - domain.back}_)" if domain.back else f"x{i}_"
            lines += [f"    outside = {_outside(domain, tested)}"]
            lines += [
                f"    which = tl.where(outside, {i + 1}, which)",
                f"    found = tl.where(outside, {tested}, found)",
            ]
    lines += ["    return which, found", "", ""]
    lines += [f"def settled({all_places}, {all_places.replace('x', 's')}):"]
    for i, domain in enumerate(formula.required):
        lines += [f"    {line}" for line in _settled(domain, f"x{i}_", f"s{i}_")]
    return "\n".join([*lines, f"    return {all_places}"]) + "\n"


def _settled(domain: Domain, x: str, slack: str) -> list[str]:
    """Statements that move values beyond a closed bound by at most `slack` onto it. The distance is compared, because
    Triton 3.6 folds the sum of two constants, bound and slack, in float32."""
    if isinstance(domain, Signs) or domain.back:
        return []
    lines = []
    if domain.low > -math.inf and not domain.low_open:
        low = print_number(domain.low, "triton")
        lines.append(f"{x} = tl.where(({x} < {low}) & ({low} - {x} <= {slack}), {low}, {x}).to({x}.dtype)")
    if domain.high < math.inf and not domain.high_open:
        high = print_number(domain.high, "triton")
        lines.append(f"{x} = tl.where(({x} > {high}) & ({x} - {high} <= {slack}), {high}, {x}).to({x}.dtype)")
    return lines


def _constants(roots: list[Expr], hoisted: dict[Expr, str]) -> dict[Expr, str]:
    """Names for constants that are arguments of functions: Triton makes a choice between two literals float32."""
    operators = {"add", "sub", "mul", "neg", "lt", "le", "gt", "ge", "eq", "ne"}
    order = [node for node in topological(roots, hoisted) if node not in hoisted]
    arguments = dict.fromkeys(a for node in order if node.op not in operators for a in node.args)
    constants = [node for node in arguments if node.op == "constant"]
    constants += [root for root in roots if root.op == "constant" and root not in constants]
    return {node: f"constant{i}_" for i, node in enumerate(dict.fromkeys(constants))}


def _varies(root: Expr, operands: list[str]) -> bool:
    """Whether a result varies with the operands, so that it is a block and not a number."""
    return not root.variables.isdisjoint(operands)


def _outside(domain: Domain, x: str) -> str:
    if isinstance(domain, Signs):
        return f"({x} != 1.0) & ({x} != -1.0) & ({x} == {x})"
    tests = []
    if domain.low > -math.inf or domain.low_open:
        tests.append(f"({x} {'<=' if domain.low_open else '<'} {print_number(domain.low, 'triton')})")
    if domain.high < math.inf or domain.high_open:
        tests.append(f"({x} {'>=' if domain.high_open else '>'} {print_number(domain.high, 'triton')})")
    return " | ".join(tests)
