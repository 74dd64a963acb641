"""A card: everything that is known about a loss, as plain data.

Cards of the built-in losses lie in catalogue.json; `losskit.explain` makes one of any declaration. Equations are for
people, in LaTeX and plain text; formulas in programming languages are what the kernels compute.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from losskit_guide.names import choices, close_name, find_name

LANGUAGES = ("python", "cpp", "triton", "javascript")  # that compute
Text = dict[str, list[str]]  # by language: statements, the last of which is the result
Switches = dict[str, bool | str]  # what selects a formula: a word, whether a switch is on, whether something is there


@dataclass(frozen=True)
class Equation:
    """One equation: what it is of ("loss", "gradient by input", "where"), as LaTeX and as text of one or more lines."""

    title: str
    latex: str
    plain: str


@dataclass(frozen=True)
class Variant:
    """The formula under one setting of the switches, with its derivative by each operand.

    `equations` are the loss in the operands of a call, with its gradients; `value` and `gradients` are what the kernels
    compute, by what the formula speaks of.
    """

    switches: Switches
    equations: list[Equation]
    arguments: list[str]
    value: Text
    gradients: dict[str, Text]


@dataclass(frozen=True)
class Limits:
    """The numbers that an operand or a parameter may be; None: without end."""

    description: str
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    choices: list[float] = field(default_factory=list)

    def includes(self, x: float) -> bool:
        """Whether the library would take this number."""
        if self.choices:
            return x in self.choices
        above = self.low is None or (x > self.low if self.low_open else x >= self.low)
        below = self.high is None or (x < self.high if self.high_open else x <= self.high)
        return above and below


@dataclass(frozen=True)
class CurveVariant:
    """Value, slope and curvature over the natural variable under one setting of the switches."""

    switches: Switches
    arguments: list[str]  # the variable, what is given, the parameters
    domains: dict[str, Limits]  # of each argument
    value: Text
    slope: Text
    curvature: Text


@dataclass(frozen=True)
class Given:
    """What is held fixed along a curve: a target, a variance, a parameter."""

    name: str
    label: str
    value: float
    low: float
    high: float
    choices: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """A loss as a function of one number, its natural variable.

    kind: what the variable is, which says how it moves with a probability: "prediction", "logit", "probability",
    "log_probability", "distance", "cosine".
    """

    variable: str
    label: str
    kind: str
    low: float
    high: float
    given: list[Given]
    variants: list[CurveVariant]

    @property
    def switches(self) -> dict[str, list[bool | str]]:
        """What selects the variant, and what each may be."""
        found = {name: [v.switches[name] for v in self.variants] for name in self.variants[0].switches}
        return {k: [False, True] if isinstance(x[0], bool) else list(dict.fromkeys(x)) for k, x in found.items()}


@dataclass(frozen=True)
class Rows:
    """How the loss of a row of class scores comes from the formula, where a line of a table can hold the row.

    scores: what a row has for each class, in words ("scores").
    softmax: the formula speaks of the softmax of the scores; they must not be probabilities themselves.
    terms: what is added up: "class", the formula of the right class; "pairs", that of each right class with each other
        one, divided by the number of classes.
    several: a row may have several right classes.
    """

    scores: str
    softmax: bool
    terms: str
    several: bool = False


@dataclass(frozen=True)
class Pairs:
    """How the pairs of a batch become what the formula speaks of, where each row meets every column.

    pairing: who belongs together: "diagonal" (row and column of the same place), "views", "labels".
    measure: what a pair is compared by: "cosine", "dot", "distance".
    both_ways: the loss is the mean of those of rows and of columns.
    needs: the pairs that a row must have to count: "positive", "both", "nothing".
    terms: by "positive" and "negative", what is aggregated, where it is not the similarity itself.
    """

    pairing: str
    measure: str
    both_ways: bool
    needs: str
    terms: dict[str, Variant]


@dataclass(frozen=True)
class Card:
    """Everything that is known about a loss."""

    name: str
    class_name: str
    aliases: list[str]
    family: str
    task: str
    summary: str
    advice: list[str]
    notes: list[str]
    best_for: str
    not_for: str
    alternatives: list[str]
    signature: str
    operands: list[dict[str, str]]
    parameters: list[dict[str, Any]]
    unreduced: str
    symbols: list[dict[str, str]]
    reductions: list[Equation]
    variants: list[Variant]
    facts: dict[str, Any]
    cases: list[dict[str, Any]]
    deviations: list[dict[str, Any]]
    peers: list[dict[str, Any]]  # calls of other libraries: library, there, here, differs, why
    reference: str
    curve: Curve | None
    rows: Rows | None = None
    pairs: Pairs | None = None
    values: dict[str, Any] = field(default_factory=dict)  # of the parameters, where they are not the defaults
    usual: Switches = field(default_factory=dict)  # at the defaults, without operands that may be missing

    def to_dict(self) -> dict[str, Any]:
        """The card as plain data that JSON can hold: infinities and NaN are texts."""
        return plain(asdict(self))

    def setting(self, values: Mapping[str, Any]) -> Switches:
        """The setting of the switches under these values of parameters and operands."""
        own = {name: x for name, x in values.items() if name in self.usual}
        return self.usual | {name: x if isinstance(x, bool | str) else x is not None for name, x in own.items()}

    @property
    def properties(self) -> list[str]:
        """The facts in a few words; none where none are declared."""
        facts = self.facts
        if not facts:
            return []
        slope = facts["lipschitz"]
        return [
            convexity(facts),
            "smooth" if facts["smooth"] else "with a kink",
            "unbounded gradient" if slope is None else f"gradient at most {number(slope)}",
            *(word for word in ("robust", "symmetric") if facts[word]),
        ]


def convexity(facts: dict[str, Any]) -> str:
    """Whether a loss is convex, and in what."""
    convex = facts["convex"]
    return f"convex in {convex} alone" if isinstance(convex, str) else "convex" if convex else "not convex"


def number(x: float | str) -> str:
    """A bound as people write it: a parameter by its name, a root as one."""
    if isinstance(x, str):
        return x
    square = round(x * x)
    return f"√{square}" if not x.is_integer() and math.isclose(x * x, square, rel_tol=1e-12) else f"{x:g}"


def missing(what: str, problem: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error that says what to install for something that needs more than losskit itself."""
    package = (problem.name or "").partition(".")[0]
    return ModuleNotFoundError(f"{what} needs {package}: pip install {package}", name=package)


def plain(data: Any) -> Any:
    """Data with infinities and NaN as texts, which JSON has no numbers for."""
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def card_of(data: dict[str, Any]) -> Card:
    """A card from plain data."""
    curve = data["curve"]
    if curve is not None:
        curve = Curve(**{
            **curve,
            "given": [Given(**given) for given in curve["given"]],
            "variants": [_curve_variant(variant) for variant in curve["variants"]],
        })  # fmt: skip
    rows = data["rows"] and Rows(**data["rows"])
    variants = [Variant(**{**variant, "equations": _equations(variant["equations"])}) for variant in data["variants"]]
    pairs = data.get("pairs")
    if pairs is not None:
        pairs = Pairs(**{**pairs, "terms": {side: Variant(**term) for side, term in pairs["terms"].items()}})
    made = {"curve": curve, "rows": rows, "pairs": pairs, "variants": variants}
    made |= {"reductions": _equations(data["reductions"])}
    return Card(**{**data, **made})


def _equations(data: list[dict[str, str]]) -> list[Equation]:
    return [Equation(**equation) for equation in data]


def _curve_variant(data: dict[str, Any]) -> CurveVariant:
    return CurveVariant(**{**data, "domains": {name: Limits(**limits) for name, limits in data["domains"].items()}})


@cache
def catalogue() -> dict[str, Card]:
    """The cards of the built-in losses by function name."""
    return {data["name"]: card_of(data) for data in _cards("losses")}


@cache
def heads() -> dict[str, Card]:
    """The cards of losses that are called with features and the weights of a last layer."""
    return {data["name"]: card_of(data) for data in _cards("heads")}


def _cards(which: str) -> list[dict[str, Any]]:
    text = files("losskit_guide").joinpath("catalogue.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)[which]
    return found


def find(name: str) -> Card:
    """The card of a built-in loss by the name of its function or class, or an alias."""
    cards = catalogue() | heads()
    names = [(card.name, card.class_name, *card.aliases) for card in cards.values()]
    found = find_name(name, names)
    if found is None:
        several = choices(name, names)
        if several:
            raise LookupError(f"there is no loss called {name!r}; it may mean {several}.")
        close = close_name(name, names)
        hint = f" Did you mean {close}?" if close else " `losskit list` names them all."
        raise LookupError(f"there is no loss called {name!r}.{hint}")
    return cards[found]
