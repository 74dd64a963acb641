"""From a traced formula to the Triton functions that a family's template calls.

`evaluate(x0, x1, x2, x3, numbers, T)` gives the value and four derivatives, `violation(x0, x1, x2, x3)` which operand
leaves its domain (counted from 1, 0 for none) and its value. Both take four operands, whatever the formula takes, so
that one template serves every formula; what a kernel does not use is removed by the compiler.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.domains import Domain, Signs
from losskit.graph import Expr, topological
from losskit.kernels.gpu import primitives
from losskit.printing import print_number, print_statements, run_source

if TYPE_CHECKING:
    from losskit.families.base import Formula

SLOTS = 4


class Functions(NamedTuple):
    """A formula's functions, compiled when a kernel that calls them is."""

    evaluate: Any
    violation: Any


def functions(formula: Formula) -> Functions:
    """The Triton functions of a formula, made once."""
    if formula.triton is None:
        formula.triton = _functions(formula)
    return formula.triton


def _functions(formula: Formula) -> Functions:
    text = source(formula)
    title = f"{formula.loss.name} in Triton {'-'.join(f'{k}={v}' for k, v in formula.switches.items())}"
    scope = {"tl": tl, "lk": primitives, "libdevice": libdevice, "__name__": __name__}
    made = run_source(text, title, scope)
    return Functions(triton.jit(made["evaluate"]), triton.jit(made["violation"]))


def source(formula: Formula) -> str:
    """The text of both functions."""
    operands, numbers = formula.operands, formula.numbers
    roots = [formula.value, *formula.gradients]
    named = _constants(roots)
    statements, (value, *gradients) = print_statements(roots, "triton", [*operands, *numbers], named)
    texts = [
        text if _varies(root, operands) else f"{text} + tl.zeros_like(x0_)"
        for root, text in zip(roots, [value, *gradients], strict=True)
    ]
    padded = [*texts, *["value_"] * (SLOTS - len(gradients))]
    lines = ["def evaluate(x0_, x1_, x2_, x3_, numbers_, T_: tl.constexpr):"]
    lines += [f"    {name} = x{i}_" for i, name in enumerate(operands)]
    lines += [f"    {name} = tl.load(numbers_ + {i}).to(T_)" for i, name in enumerate(numbers)]
    lines += [f"    {name} = tl.full((), {print_number(node.value, 'triton')}, T_)" for node, name in named.items()]
    lines += [f"    {statement}" for statement in statements]
    lines += [f"    value_ = {padded[0]}", f"    return value_, {', '.join(padded[1:])}", "", ""]
    lines += ["def violation(x0_, x1_, x2_, x3_):"]
    lines += ["    which = tl.zeros_like(x0_).to(tl.int32)", "    found = x0_"]
    for i, domain in reversed(list(enumerate(formula.domains))):  # the first operand's violation is the one told
        if not domain.everything:
            lines += [f"    outside = {_outside(domain, f'x{i}_')}"]
            lines += [f"    which = tl.where(outside, {i + 1}, which)", f"    found = tl.where(outside, x{i}_, found)"]
    return "\n".join([*lines, "    return which, found"]) + "\n"


def _constants(roots: list[Expr]) -> dict[Expr, str]:
    """Names for numbers that are arguments of functions: a choice between two plain numbers would be float32."""
    operators = {"add", "sub", "mul", "neg", "lt", "le", "gt", "ge", "eq", "ne"}
    arguments = dict.fromkeys(a for node in topological(roots) if node.op not in operators for a in node.args)
    constants = [node for node in arguments if node.op == "constant"]
    constants += [root for root in roots if root.op == "constant" and root not in constants]
    return {node: f"number{i}_" for i, node in enumerate(dict.fromkeys(constants))}


def _varies(root: Expr, operands: list[str]) -> bool:
    """Whether a result is a block; a number is made one."""
    return any(node.op == "variable" and node.value in operands for node in topological([root]))


def _outside(domain: Domain, x: str) -> str:
    if isinstance(domain, Signs):
        return f"({x} != 1.0) & ({x} != -1.0) & ({x} == {x})"
    tests = []
    if domain.low > -math.inf or domain.low_open:
        tests.append(f"({x} {'<=' if domain.low_open else '<'} {print_number(domain.low, 'triton')})")
    if domain.high < math.inf or domain.high_open:
        tests.append(f"({x} {'>=' if domain.high_open else '>'} {print_number(domain.high, 'triton')})")
    return " | ".join(tests)
