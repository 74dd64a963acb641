"""Printing formulas as Python, C++, Triton, LaTeX and JavaScript, from the spellings in `formula.PRIMITIVES`."""

from __future__ import annotations

import hashlib
import linecache
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from losskit import formula
from losskit.formula import PRIMITIVES
from losskit.graph import Expr, topological

_PRECEDENCE = {
    "either": 1, "both": 2, "lt": 3, "le": 3, "gt": 3, "ge": 3, "eq": 3, "ne": 3,
    "add": 4, "sub": 4, "mul": 5, "div": 5, "neg": 6,
}  # fmt: skip
_LATEX_PRECEDENCE = {**_PRECEDENCE, "div": 9, "times": 5, "xlogy": 5, "power": 7}
_ATOM = 9


def _spelling(node: Expr, language: str) -> tuple[str, int]:
    """The template of a node and how tightly its result binds."""
    primitive = PRIMITIVES[node.op]
    if language == "python":
        call = f"{node.op}({', '.join(f'{{{i}}}' for i in range(primitive.arity))})"
        return _PYTHON.get(node.op, call), _PRECEDENCE.get(node.op, _ATOM)
    table = _LATEX_PRECEDENCE if language == "latex" else _PRECEDENCE
    template: str = getattr(primitive, language)
    return template, _ATOM if template.startswith("lk.") else table.get(node.op, _ATOM)


_PYTHON = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "neg": "-{0}",
    "lt": "{0} < {1}", "le": "{0} <= {1}", "gt": "{0} > {1}", "ge": "{0} >= {1}", "eq": "{0} == {1}",
    "ne": "{0} != {1}", "both": "{0} & {1}", "either": "{0} | {1}",
}  # fmt: skip


def print_number(value: float, language: str) -> str:
    if math.isnan(value) or math.isinf(value):
        name = "nan" if math.isnan(value) else "inf"
        minus = "-" if value < 0 else ""
        return {
            "python": f"{minus}{name}",
            "cpp": f"{minus}std::numeric_limits<T>::{'quiet_NaN' if name == 'nan' else 'infinity'}()",
            "triton": f"float('{minus}{name}')",
            "latex": f"{minus}{'' if name == 'nan' else chr(92) + 'infty'}" or r"\mathrm{NaN}",
            "javascript": f"{minus}{'NaN' if name == 'nan' else 'Infinity'}",
        }[language]
    if language == "cpp":
        return f"T({value!r})"
    latex = _LATEX_NUMBERS.get(value) or (str(int(value)) if value == int(value) else repr(value))
    return latex if language == "latex" else repr(value)


_LATEX_NUMBERS = {0.5: r"\tfrac{1}{2}", 2 * math.pi: r"2\pi", 0.5 * math.log(2 * math.pi): r"\tfrac{1}{2}\log 2\pi"}


def _render(node: Expr, language: str, names: dict[Expr, str]) -> tuple[str, int]:
    if node in names:
        return names[node], _ATOM
    if node.op == "constant":
        return print_number(node.value, language), _ATOM if node.value >= 0 or language == "cpp" else 6
    if node.op == "variable":
        text = rf"\mathrm{{{node.value}}}".replace("_", r"\_") if language == "latex" else node.value
        return text + "_" * (text == "var" and language == "javascript"), _ATOM  # where var is a keyword
    if language == "latex" and node.op == "mul" and node.args[0] is node.args[1]:
        atom = node.args[0].op in ("variable", "absolute")
        return ("{}^2" if atom else r"\left({}\right)^2").format(_render(node.args[0], language, names)[0]), 7
    template, precedence = _spelling(node, language)
    parts = []
    for position, arg in enumerate(node.args):
        text, inner = _render(arg, language, names)
        # The order of operations is the author's: a + (b + c) keeps its parentheses.
        loose = inner < precedence or (inner == precedence and (position > 0 or node.op == "neg"))
        loose |= language == "latex" and position > 0 and text.startswith("-")
        # In Python, & and | bind more tightly than comparisons.
        if precedence < _ATOM and (loose or (arg.is_condition and node.op in ("both", "either"))):
            text = rf"\left({text}\right)" if language == "latex" else f"({text})"
        parts.append(text)
    return template.format(*parts), precedence


def print_expr(root: Expr, language: str, names: dict[Expr, str] | None = None) -> str:
    """One formula as one expression in a language; `names` are spellings of variables, such as Greek letters."""
    return _render(root, language, names or {})[0]


def print_statements(
    roots: Sequence[Expr], language: str, taken: Sequence[str] = (), named: dict[Expr, str] | None = None
) -> tuple[list[str], list[str]]:
    """Several formulas with their shared subexpressions as named temporaries, besides the nodes that are `named`.

    Returns the lines that define the temporaries, in order, and one expression per root.
    """
    order = topological(roots)
    uses = Counter([*roots, *(arg for node in order for arg in node.args)])
    declare = {"cpp": "const {kind} {name} = {text};", "javascript": "const {name} = {text};"}
    line = declare.get(language, "{name} = {text}")
    names = dict(named or {})
    lines: list[str] = []
    for node in order:
        if not node.args or uses[node] < 2 or (node.op == "neg" and not node.args[0].args):
            continue
        text = _render(node, language, names)[0]
        name = _fresh_name(node, [*taken, *names.values()])
        lines.append(line.format(kind="bool" if node.is_condition else "T", name=name, text=text))
        names[node] = name
    return lines, [_render(root, language, names)[0] for root in roots]


_TEMPORARY = {
    "add": "sum", "sub": "difference", "mul": "product", "div": "ratio", "neg": "minus", "where": "chosen",
    "lt": "below", "le": "below", "gt": "above", "ge": "above", "eq": "equal", "ne": "unequal",
    "absolute": "magnitude", "exp": "exponential", "log": "logarithm", "sqrt": "root",
}  # fmt: skip


def _fresh_name(node: Expr, taken: Sequence[str]) -> str:
    base = _TEMPORARY.get(node.op, f"{node.op}_value")
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}{count}"
    return name


def function(
    root: Expr, arguments: Sequence[str], instead: Mapping[str, Callable[..., Any]] | None = None
) -> Callable[..., Any]:
    """A graph as an ordinary Python function of tensors, mpmath numbers or Python numbers.

    It is source code that debuggers show and torch.compile traces. `instead` replaces primitives by name.
    """
    statements, (result,) = print_statements([root], "python", arguments)
    lines = [f"def formula({', '.join(arguments)}):", *(f"    {line}" for line in [*statements, f"return {result}"])]
    source = "\n".join(lines) + "\n"
    primitives = PRIMITIVES.keys() & vars(formula).keys()  # the others are operators
    scope = (
        {name: vars(formula)[name] for name in primitives} | {"inf": math.inf, "nan": math.nan} | dict(instead or {})
    )
    return run_source(source, f"formula {hashlib.sha256(source.encode()).hexdigest()[:12]}", scope)["formula"]


def run_source(source: str, title: str, scope: dict[str, Any]) -> dict[str, Any]:
    """Execute generated Python in `scope`; tracebacks and debuggers show its lines."""
    filename = f"<losskit {title}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    exec(compile(source, filename, "exec", dont_inherit=True), scope)
    return scope
