"""Formulas as people know them: in the operands of a call, with their gradients, as LaTeX and as plain text.

A family says what its formulas speak of (`_equations`); here is how an equation is written. What is displayed is
compared with what is computed, at ordinary numbers and at kinks, and refused where it differs.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from losskit.calculus import derivative
from losskit.domains import Domain, Interval, Signs, real
from losskit.graph import Expr, topological
from losskit.printing import print_expr, print_part, print_statements
from losskit.simplify import rebuilt, simplified, with_powers
from losskit.traced import Formula
from losskit_guide.card import LANGUAGES, Equation, Text, Variant
from losskit_guide.scalar import evaluate


class Written(NamedTuple):
    """A piece of mathematics, twice."""

    latex: str
    plain: str


LOSS = Written(r"\ell", "ℓ")
LONG = 320  # characters of a formula, from which on what it repeats gets letters
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
NOTHING = Written("", "")

# The letters of usual operands and parameters; others are written out.
LETTERS = {
    "input": Written("x", "x"), "target": Written("t", "t"), "input1": Written("x_1", "x₁"),
    "input2": Written("x_2", "x₂"), "var": Written("v", "v"), "pos_weight": Written("w_+", "w₊"),
    "margin": Written("m", "m"), "scale": Written("s", "s"), "eps": Written(r"\varepsilon", "ε"),
}  # fmt: skip
GREEK = dict(zip(
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi psi omega".split(),
    "αβγδεζηθκλμνξρστφψω", strict=True,
))  # fmt: skip


def letter(name: str) -> Written:
    """How a variable is written."""
    if name in LETTERS:
        return LETTERS[name]
    if name in GREEK:
        return Written(f"\\{name}", GREEK[name])
    return Written(name if len(name) == 1 else rf"\mathrm{{{name}}}".replace("_", r"\_"), name)


def letter_index(number: object) -> str:
    """A number below a letter, in plain text."""
    return str(number).translate(_SUBSCRIPTS)


@dataclass(frozen=True)
class Statistic:
    """A number that the formulas of a family speak of: how it is written, what it means, what it may be.

    constant: whether it is one for differentiation.
    """

    name: str
    letter: Written
    meaning: str
    domain: Domain = real
    constant: bool = False


class Writer:
    """Writes the formula of a declaration under one setting of its switches."""

    def __init__(self, cls: Any, formula: Formula) -> None:
        self.cls, self.formula, self.trace = cls, formula, formula.trace
        self.letters: dict[str, Written] = {}  # a family's own, by variable
        self.parts: dict[Expr, Written] = {}  # letters for what long equations have in common

        book = formula.traced(cls.textbook) if cls.textbook else formula.value
        self.value: Expr = with_powers(book)  # as books have it

    def computed(self, name: str) -> Expr:
        """The derivative by an operand, as the kernels have it."""
        return self.formula.gradients[self.formula.operands.index(name)]

    def slope(self, name: str, computed: Expr | None = None) -> Expr:
        """The derivative of `value` by an operand, in its shortest form that says what is computed."""
        computed = self.computed(name) if computed is None else computed
        forms = [self.simplified(root) for root in (derivative(self.value, self.trace.variable(name)), computed)]
        texts = {root: print_expr(root, "plain") for root in forms}
        forms.sort(key=lambda root: (texts[root] == "...", len(texts[root])))  # what is too long to print is no text
        return next((form for form in forms if self.agree(form, computed)), computed)

    def simplified(self, root: Any) -> Expr:
        """A formula as people write it."""
        pairs = zip(self.formula.operands, self.formula.domains, strict=True)
        signs = [name for name, domain in pairs if isinstance(domain, Signs)]
        return simplified(self.trace.lift(root), [*self.formula.operands, *self.formula.numbers], signs)

    def replaced(self, root: Expr, name: str, by: Any) -> Expr:
        """A formula with something in place of a variable."""
        variable = self.trace.variable(name)
        return rebuilt(root, lambda node, _: by if node is variable else None)

    def agree(self, shown: Expr, computed: Expr) -> bool:
        """Whether two formulas have the same values wherever both are ordinary numbers."""
        formula = self.formula
        names = [*formula.operands, *formula.numbers]
        texts = [print_statements([root], "python", names) for root in (shown, computed)]
        both = [evaluate([*lines, *result], names) for lines, result in texts]
        for numbers in self._places():
            a, b = (function(*numbers) for function in both)
            if math.isfinite(a) and math.isfinite(b) and not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6):
                return False
        return True

    def _places(self) -> Iterator[tuple[float, ...]]:
        """Operands and parameters, kinks of differences among them."""
        formula, generator = self.formula, torch.Generator().manual_seed(0)
        numbers = [self.cls.params[name] for name in formula.numbers]
        columns = [_column(domain, generator) for domain in formula.domains]
        settings = (_settings(self.cls._ordinary(p.name), p.domain) for p in numbers)
        for setting in itertools.islice(itertools.product(*settings), 16):
            for operands in zip(*columns, strict=True):
                yield *operands, *setting
                others, domain = operands[1:], formula.domains[0]
                for other, number in itertools.product(others or (0.0,), (0.0, *setting)):
                    for kink in (other - number, other + number, number):
                        if domain.includes(kink):
                            yield kink, *others, *setting

    # -- long formulas ------------------------------------------------------------------------------------

    def split(self, roots: Sequence[Expr]) -> None:
        """Give letters to what stands more than once in these formulas, if they are long."""
        if max(len(print_expr(root, "plain")) for root in roots) <= LONG:
            return
        parents = Counter(arg for node in topological(roots) for arg in node.args)
        shared = [node for node in topological(roots) if parents[node] > 1 and node.size >= 4 and not node.is_condition]
        self.parts = {node: Written(f"a_{{{i}}}", f"a{letter_index(i)}") for i, node in enumerate(shared, 1)}

    def wheres(self) -> list[Equation]:
        """What the letters of parts stand for."""
        found = []
        for node, written in self.parts.items():
            text = self.write(node, whole=node)
            found.append(Equation("where", f"{written.latex} = {text.latex}", f"{written.plain} = {text.plain}"))
        return found

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, root: Any, bound: bool = False, whole: Expr | None = None) -> Written:
        """A formula; bound: in parentheses where something before it would not hold it together; whole: a part that is
        written out, although it has a letter."""
        root = self.trace.lift(root)
        found = []
        for which, language in enumerate(("latex", "plain")):
            nodes = (node for node in topological([root]) if node.op == "variable")
            names = {node: self.letters.get(node.value, letter(node.value))[which] for node in nodes}
            names |= {node: written[which] for node, written in self.parts.items() if node is not whole}
            text, loose = print_part(root, language, names)
            pair = ("\\left(", "\\right)") if language == "latex" else ("(", ")")
            found.append(text.join(pair) if bound and (loose or text.startswith(("-", "−"))) else text)
        return Written(*found)

    def equation(self, title: str, left: Written, right: Any, before: Written = NOTHING) -> Equation:
        """`left` = `before` `right`; a choice at the outside of plain text has a line for each case."""
        root = self.trace.lift(right)
        written = self.write(root, bound=bool(before.plain))
        plain = f"{left.plain} = {before.plain}{written.plain}"
        if root.op == "where" and not before.plain:
            plain = self._cases(left.plain, root)
        return Equation(title, f"{left.latex} = {before.latex}{written.latex}", plain)

    def _cases(self, left: str, root: Expr) -> str:
        rows = []
        while root.op == "where":
            rows.append((self.write(root.args[1]).plain, f"if {self.write(root.args[0]).plain}"))
            root = root.args[2]
        rows.append((self.write(root).plain, "otherwise"))
        width = max(len(value) for value, _ in rows)
        braces = ["⎧", *["⎨" if 2 * i + 1 == len(rows) else "⎪" for i in range(1, len(rows) - 1)], "⎩"]
        middle = len(rows) // 2 if len(rows) > 2 else 0
        lines = [f"{value:<{width}}   {condition}" for value, condition in rows]
        return "\n".join(
            f"{f'{left} =' if i == middle else '':>{len(left) + 2}} {brace} {line}"
            for i, (brace, line) in enumerate(zip(braces, lines, strict=True))
        )


class Mathematics(NamedTuple):
    """A loss in the operands of a call: equations, and what their letters stand for."""

    equations: list[Equation]
    symbols: list[dict[str, str]]


def gradient_by(by: Written, of: Written = LOSS) -> Written:
    """The left side of a gradient."""
    return Written(rf"\frac{{\partial {of.latex}}}{{\partial {by.latex}}}", f"∂{of.plain}/∂{by.plain}")


def joined(*parts: Written) -> Written:
    """Pieces one after another."""
    return Written("".join(part.latex for part in parts), "".join(part.plain for part in parts))


def uses(root: Expr, name: str) -> int:
    """How often a variable stands in a formula that is written out."""
    found: dict[Expr, int] = {}
    for node in topological([root]):
        found[node] = sum(found[arg] for arg in node.args) + (node.op == "variable" and node.value == name)
    return found[root]


def symbol(name: str, meaning: str, written: Written | None = None) -> dict[str, str]:
    """What a letter stands for."""
    written = written or letter(name)
    return {"name": name, "latex": written.latex, "plain": written.plain, "meaning": meaning}


def _column(domain: Domain, generator: torch.Generator) -> Sequence[float]:
    """Ordinary members of a domain."""
    sampled: list[float] = domain.sample((12,), generator).tolist()
    return [*(x for x in (0.0, 1.0, -1.0, 0.5) if domain.includes(x)), *sampled][:12]


def _settings(default: float, domain: Domain) -> Iterable[float]:
    """The default of a parameter and other values of it."""
    counted = isinstance(domain, Interval) and domain.high - domain.low < 4 and domain.low == int(domain.low)
    others = [domain.low, domain.high] if counted and isinstance(domain, Interval) else [default * 1.75, 0.75]
    return dict.fromkeys([float(default), *(float(x) for x in others if domain.includes(x))])


def text_of(root: Expr, arguments: Sequence[str]) -> Text:
    """A formula in every language that computes."""
    result: Text = {}
    for language in LANGUAGES:
        statements, (last,) = print_statements([root], language, arguments)
        result[language] = [*statements, last]
    return result


def variant_of(cls: Any, formula: Formula, written: Mathematics) -> Variant:
    """A formula as the card has it: for people, and in every language that computes."""
    arguments = [*formula.operands, *formula.numbers]
    gradients = dict(zip(formula.operands, formula.gradients, strict=True))
    return Variant(
        switches=cls._shown(formula.switches),
        equations=written.equations,
        arguments=arguments,
        value=text_of(formula.value, arguments),
        gradients={
            name: text_of(root, arguments)
            for name, root in gradients.items()
            if name not in cls.params and not (name == "target" and len(gradients) > 1)
        },
    )


def written_of(cls: Any) -> tuple[list[Variant], list[dict[str, str]]]:
    """The formulas of a declaration under each setting of its switches, and what their letters stand for."""
    pairs = [(formula, cls._mathematics(Writer(cls, formula))) for formula in cls._formulas.all()]
    symbols = {entry["name"]: entry for _, written in pairs for entry in written.symbols}
    return [variant_of(cls, formula, written) for formula, written in pairs], list(symbols.values())
