"""Printing formulas as Python, C++, Triton, LaTeX, JavaScript and plain text, as `formula.PRIMITIVES` spells them.

LaTeX and plain text (Unicode) are for people: they leave out what only infinities and the signs of zeros need.
"""

from __future__ import annotations

import hashlib
import linecache
import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, cast

from losskit import formula
from losskit.formula import PRIMITIVES
from losskit.graph import Expr, topological

_PRECEDENCE = {
    "either": 1, "both": 2, "lt": 3, "le": 3, "gt": 3, "ge": 3, "eq": 3, "ne": 3,
    "add": 4, "sub": 4, "mul": 5, "div": 5, "neg": 6,
}  # fmt: skip
_FOR_PEOPLE = {**_PRECEDENCE, "where": 0, "times": 5, "mute": 5, "xlogy": 5, "power": 7}
_LATEX_PRECEDENCE = {**_FOR_PEOPLE, "div": 9, "where": 9}
_ATOM = 9


def _spelling(node: Expr, language: str) -> tuple[str, int]:
    """The template of a node and how tightly its result binds."""
    call = f"{node.op}({', '.join(f'{{{i}}}' for i in range(len(node.args)))})"
    if language == "plain":
        return _PLAIN.get(node.op, call), _FOR_PEOPLE.get(node.op, _ATOM)
    if language == "python":
        return _PYTHON.get(node.op, call), _PRECEDENCE.get(node.op, _ATOM)
    table = _LATEX_PRECEDENCE if language == "latex" else _PRECEDENCE
    template: str = _LOGISTIC_PARTS.get(node.op) or getattr(PRIMITIVES[node.op], language)
    return template, _ATOM if template.startswith("lk.") else table.get(node.op, _ATOM)


# What kernels.codegen makes of softplus and sigmoid, in C++.
_LOGISTIC_PARTS = {
    "exp_nabs": "lk::exp_nabs({0})",
    "softplus_of": "lk::softplus({0}, {1})",
    "sigmoid_of": "lk::sigmoid({0}, {1})",
}
_PYTHON = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "neg": "-{0}",
    "lt": "{0} < {1}", "le": "{0} <= {1}", "gt": "{0} > {1}", "ge": "{0} >= {1}", "eq": "{0} == {1}",
    "ne": "{0} != {1}", "both": "{0} & {1}", "either": "{0} | {1}",
}  # fmt: skip
_PLAIN = {
    **_PYTHON, "sub": "{0} − {1}", "mul": "{0}·{1}", "times": "{0}·{1}", "mute": "{0}·{1}", "neg": "−{0}",
    "le": "{0} ≤ {1}", "ge": "{0} ≥ {1}", "eq": "{0} = {1}", "ne": "{0} ≠ {1}", "both": "{0} and {1}",
    "either": "{0} or {1}", "where": "{1} if {0}, else {2}", "absolute": "|{0}|", "sqrt": "√({0})",
    "expm1": "(exp({0}) − 1)", "log1p": "log(1 + {0})", "sigmoid": "σ({0})", "log_sigmoid": "log σ({0})",
    "lgamma": "log Γ({0})", "digamma": "ψ({0})", "trigamma": "ψ′({0})", "maximum": "max({0}, {1})",
    "minimum": "min({0}, {1})", "floor": "⌊{0}⌋", "xlogy": "{0}·log({1})", "logaddexp": "log(exp({0}) + exp({1}))",
    "hypot": "√({0}² + {1}²)",
}  # fmt: skip
_RAISED = str.maketrans("0123456789pnkγβφ", "⁰¹²³⁴⁵⁶⁷⁸⁹ᵖⁿᵏᵞᵝᵠ")


def print_number(value: float, language: str) -> str:
    if math.isnan(value) or math.isinf(value):
        name = "nan" if math.isnan(value) else "inf"
        minus = "-" if value < 0 else ""
        return {
            "python": f"{minus}{name}",
            "plain": f"{'−' * bool(minus)}{'∞' if name == 'inf' else name}",
            "cpp": f"{minus}std::numeric_limits<T>::{'quiet_NaN' if name == 'nan' else 'infinity'}()",
            "triton": f"float('{minus}{name}')",
            "latex": f"{minus}{'' if name == 'nan' else chr(92) + 'infty'}" or r"\mathrm{NaN}",
            "javascript": f"{minus}{'NaN' if name == 'nan' else 'Infinity'}",
        }[language]
    if language == "cpp":
        return f"T({value!r})"
    if language in ("latex", "plain"):
        known = _NUMBERS.get(abs(value))
        shown = _figures(abs(value), language) if known is None else known[language == "plain"]
        return ("−" if language == "plain" else "-") * (value < 0) + shown
    return repr(value)


def _figures(value: float, language: str) -> str:
    """A number with a power of ten as people write it."""
    figures, _, exponent = f"{value:.10g}".partition("e")
    if not exponent:
        return figures
    power = str(int(exponent))
    raised = f"10^{{{power}}}" if language == "latex" else f"10{power.replace('-', '⁻').translate(_RAISED)}"
    times = r" \cdot " if language == "latex" else "·"
    return raised if figures == "1" else f"{figures}{times}{raised}"


_NUMBERS = {
    math.log(2.0): (r"\log 2", "log 2"),
    0.5: (r"\tfrac{1}{2}", "½"), 0.25: (r"\tfrac{1}{4}", "¼"), 0.75: (r"\tfrac{3}{4}", "¾"),
    math.pi: (r"\pi", "π"), 2 * math.pi: (r"2\pi", "2π"), 2**0.5: (r"\sqrt{2}", "√2"),
    0.5 * math.log(2 * math.pi): (r"\tfrac{1}{2}\log 2\pi", "½ log 2π"),
}  # fmt: skip


def _render(root: Expr, language: str, names: dict[Expr, str], like: str = "") -> tuple[str, int]:
    """The text of a node and how tightly it binds; nodes below it that have a name are spelt by that name.

    like: in Python, the operand that a choice between two numbers takes its dtype from.
    """
    found: dict[Expr, tuple[str, int]] = {}
    for node in topological([root], names):  # not recursive: a formula may be deeper than Python's stack
        parts = [found[arg] for arg in node.args] if node not in names else []
        found[node] = _text(node, language, names, parts, like)
    return found[root]


def _text(
    node: Expr, language: str, names: dict[Expr, str], rendered: list[tuple[str, int]], like: str
) -> tuple[str, int]:
    """The text of one node from those of its arguments."""
    if node in names:
        return names[node], _ATOM
    if node.op == "constant":
        return print_number(node.value, language), _ATOM if node.value >= 0 or language == "cpp" else 6
    if node.op == "variable":
        text = rf"\mathrm{{{node.value}}}".replace("_", r"\_") if language == "latex" else node.value
        return text + "_" * (text == "var" and language == "javascript"), _ATOM  # where var is a keyword
    if language in ("latex", "plain") and node.op == "mul" and node.args[0] is node.args[1]:
        atom = node.args[0].op in ("variable", "absolute", "maximum", "minimum")
        bare, bound = ("{}^2", r"\left({}\right)^2") if language == "latex" else ("{}²", "({})²")
        return (bare if atom else bound).format(rendered[0][0]), 7
    if (
        language in ("latex", "plain")
        and node.op == "add"
        and node.args[1].op == "constant"
        and node.args[1].value == 0.0
    ):
        return rendered[0]  # it only takes the sign from a zero
    template, precedence = _spelling(node, language)
    chosen = like if node.op == "where" and all(_is_number(arg, names) for arg in node.args[1:]) else ""
    parts = []
    for position, (arg, (text, inner)) in enumerate(zip(node.args, rendered, strict=True)):
        # The order of operations is the author's: a + (b + c) keeps its parentheses.
        loose = inner < precedence or (inner == precedence and (position > 0 or node.op == "neg"))
        if language in ("latex", "plain"):
            loose |= position > 0 and 4 <= precedence < 7 and text.startswith(("-", "−"))
            loose &= not (node.op == "neg" and _FOR_PEOPLE.get(arg.op) == _FOR_PEOPLE["mul"])
            loose &= not (node.op == "power" and position > 0 and language == "latex")
            # TeX refuses a raised power of a power, and of a fraction it is read as one of the numerator.
            loose |= node.op == "power" and position == 0 and language == "latex" and arg.op in ("exp", "div")
        # In Python, & and | bind more tightly than comparisons.
        if precedence < _ATOM and (loose or (arg.is_condition and node.op in ("both", "either"))):
            text = rf"\left({text}\right)" if language == "latex" else f"({text})"
        parts.append(f"number_like_({chosen}, {text})" if chosen and position else text)
    if language == "plain":
        return _joined(node, parts) or template.format(*parts), precedence
    if language == "latex" and node.op == "where":  # cases within the last case are cases of the same brace
        parts[2] = parts[2] if node.args[2].op == "where" else rf"{parts[2]} & \text{{otherwise}}"
        parts[2] = parts[2].removeprefix(r"\begin{cases} ").removesuffix(r" \end{cases}")
    return template.format(*parts), precedence


def _joined(node: Expr, parts: Sequence[str]) -> str:
    """A product without its dot, or a raised power, where people write them so."""
    left, right = parts[0], parts[-1]
    if node.op == "power":
        raised = right.translate(_RAISED)
        return left + (raised if len(right) == 1 and raised != right else f"^{right}")
    if node.op not in ("mul", "times", "mute"):
        return ""
    number, symbol = node.args[0].op == "constant", len(left) <= 2 and not left[0].isdigit()
    close = right[0] in "(|√" or (number and len(right) <= 2 and right.isalpha())
    return left + right if (number or symbol) and close else ""


def _is_number(node: Expr, names: dict[Expr, str]) -> bool:
    return node.op == "constant" or (node in names and node.trace.parametric(node))


def print_expr(root: Expr, language: str, names: dict[Expr, str] | None = None) -> str:
    """One formula as one expression in a language; `names` are spellings of variables, such as Greek letters."""
    if root.size > 20_000:  # shared parts are written out at each use
        return r"\dots" if language == "latex" else "..."
    return _render(root, language, names or {})[0]


Expr.__repr__ = lambda node: print_expr(cast(Expr, node), "python")  # type: ignore[method-assign]  # see `graph`


def print_part(root: Expr, language: str, names: dict[Expr, str]) -> tuple[str, bool]:
    """As `print_expr`, and whether the text needs parentheses behind a factor: a sum, a choice."""
    if root.size > 20_000:
        return print_expr(root, language), False
    text, precedence = _render(root, language, names)
    return text, precedence < _PRECEDENCE["mul"]


def print_statements(
    roots: Sequence[Expr],
    language: str,
    taken: Sequence[str] = (),
    named: dict[Expr, str] | None = None,
    like: str = "",
) -> tuple[list[str], list[str]]:
    """Several formulas with their shared subexpressions as named temporaries, besides the nodes that are `named`.

    Returns the lines that define the temporaries, in order, and one expression per root.
    """
    names = dict(named or {})
    order = topological(roots, names)
    uses = Counter([*roots, *(arg for node in order if node not in names for arg in node.args)])
    declare = {"cpp": "const {kind} {name} = {text};", "javascript": "const {name} = {text};"}
    line = declare.get(language, "{name} = {text}")
    lines: list[str] = []
    depth: dict[Expr, int] = {}
    count = Counter[str]()
    used = {*taken, *names.values()}
    for node in order:
        if not node.args or node in names:
            continue
        depth[node] = 1 + max((depth[arg] for arg in node.args if arg in depth and arg not in names), default=0)
        shared = uses[node] > 1 and not (node.op == "neg" and not node.args[0].args)
        if not shared and depth[node] < _DEEPEST:
            continue
        text = _render(node, language, names, like)[0]
        name = _fresh_name(node, used, count)
        used.add(name)
        lines.append(line.format(kind="bool" if node.is_condition else "T", name=name, text=text))
        names[node] = name
    return lines, [_render(root, language, names, like)[0] for root in roots]


_DEEPEST = 60  # compilers, Python's too, give up on expressions of thousands of operations
_TEMPORARY = {
    "add": "sum", "sub": "difference", "mul": "product", "div": "ratio", "neg": "minus", "where": "chosen",
    "lt": "below", "le": "below", "gt": "above", "ge": "above", "eq": "equal", "ne": "unequal",
    "absolute": "magnitude", "exp": "exponential", "log": "logarithm", "sqrt": "root",
}  # fmt: skip


def _fresh_name(node: Expr, taken: Container[str], count: Counter[str]) -> str:
    base = _TEMPORARY.get(node.op, f"{node.op}_value")
    while True:
        count[base] += 1
        name = base if count[base] == 1 else f"{base}{count[base]}"
        if name not in taken:
            return name


def function(
    root: Expr,
    arguments: Sequence[str],
    named: dict[Expr, str] | None = None,
    instead: Mapping[str, Callable[..., Any]] | None = None,
) -> Callable[..., Any]:
    """A graph as an ordinary Python function of tensors, mpmath numbers or Python numbers.

    It is source code that debuggers show and torch.compile traces. The first argument is an operand; `named` are parts
    of the graph that are arguments; `instead` replaces primitives by name.
    """
    named = named or {}
    given = [f"    # {name}: {print_expr(node, 'python')}" for node, name in named.items() if 1 < node.size < 99]
    statements, (result,) = print_statements([root], "python", arguments, named, arguments[0] if arguments else "")
    body = [*given, *(f"    {line}" for line in [*statements, f"return {result}"])]
    source = "\n".join([f"def formula({', '.join(arguments)}):", *body]) + "\n"
    primitives = PRIMITIVES.keys() & vars(formula).keys()  # the others are operators
    scope = {name: vars(formula)[name] for name in primitives}
    scope |= {"inf": math.inf, "nan": math.nan, "number_like_": formula.number_like} | dict(instead or {})
    return run_source(source, f"formula {hashlib.sha256(source.encode()).hexdigest()[:12]}", scope)["formula"]


def run_source(source: str, title: str, scope: dict[str, Any]) -> dict[str, Any]:
    """Execute generated Python in `scope`; tracebacks and debuggers show its lines."""
    filename = f"<losskit {title}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    exec(compile(source, filename, "exec", dont_inherit=True), scope)
    return scope
