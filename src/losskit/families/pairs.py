"""The pairs family: each row of a batch meets every column, and a pair of them is positive or negative.

1. A formula speaks of aggregates of a row: the log-sum-exp, sum, mean, largest and smallest of its positive pairs, and
   the same of its negative ones. Of a pair they take its similarity, or what `positive` and `negative` make of it.
2. Who belongs together says `pairing`: row and column of the same place ("diagonal"), two views of one example
   ("views"), or rows of one label ("labels"). All three are labels to the kernels. More columns than rows are
   negatives: a queue, or what other ranks have (`losskit.gather_rows`).
3. A row without the pairs that it needs has no loss: it is 0 and not counted, as if it were masked. It stays a column
   of the other rows. What `mask` takes out is neither row nor column.
4. The matrix of similarities is never stored. A block of its rows is made at a time, turned into its own gradient where
   it lies, and used for two products. A block has all columns, so that a row needs no second pass. Only the eager
   formula stores all of it.
5. Similarities of float32 are sums of D products in float32, whose rounding, some 1e-7 times what multiplies them, is
   larger than that of everything after. Lengths of embeddings and all sums over pairs are in float64.
6. An aggregate of no pair is 0 where it is a sum or a mean, -inf for log-sum-exp and the largest, inf for the smallest.
   Of several largest or smallest pairs the first has the gradient.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from torch import Tensor

from losskit import curves
from losskit.declaration import Operand, Param, param
from losskit.display import LOSS, Mathematics, Statistic, Writer, Written, gradient_by, symbol, text_of
from losskit.domains import positive as above_zero
from losskit.draw import Draw
from losskit.errors import DeclarationError
from losskit.families.base import Family
from losskit.families.pairs_plan import AGGREGATES, SIDES, PairsPlan
from losskit.graph import Expr
from losskit.reduction import Reduction
from losskit.traced import Formula
from losskit_guide.card import Curve, Equation, Given, Pairs, Variant

_AGGREGATES = {
    "log_sum_exp": (r"\operatorname{lse}", "lse", "log-sum-exp"), "sum": ("S", "S", "sum"),
    "mean": ("M", "M", "mean"), "max": (r"\max", "max", "largest"), "min": (r"\min", "min", "smallest"),
}  # fmt: skip
_SETS = {"positive": ("P", "p", "+", "₊"), "negative": ("N", "n", "-", "₋")}


def _statistic(side: str, aggregate: str) -> Statistic:
    latex, plain, meaning = _AGGREGATES[aggregate]
    _, _, sign, small = _SETS[side]
    return Statistic(f"{side}_{aggregate}", Written(f"{latex}_{sign}", f"{plain}{small}"),
                     f"{meaning} of the {side} pairs of a row")  # fmt: skip


SPOKEN = tuple(_statistic(side, aggregate) for side in SIDES for aggregate in AGGREGATES)
_WORDS = {
    "pairing": ("diagonal", "views", "labels"),
    "measure": ("cosine", "dot", "distance"),
    "needs": ("positive", "both", "nothing"),
}
_MEMORY = Operand("More columns, (K, D), with labels: a queue, or the rows of other ranks.", optional=True)
_USUAL_OPERANDS = {
    "diagonal": {
        "input1": Operand("Embeddings of shape (N, D)."),
        "input2": Operand("Embeddings of shape (M, D); row i belongs to row i of the first, what follows to none."),
    },
    "views": {
        "input1": Operand("Embeddings of shape (N, D)."),
        "input2": Operand("Embeddings of the other view of the same examples, (N, D)."),
        "negatives": Operand("More columns, (K, D), which belong to no row: what other ranks have.", optional=True),
    },
    "labels": {
        "input": Operand("Embeddings of shape (N, D), or (N, V, D) of V views."),
        "target": Operand("Label of each example, (N,), of any integer dtype."),
        "memory": _MEMORY,
        "memory_target": Operand("Label of each row of memory, (K,).", optional=True),
    },
}  # fmt: skip


class PairTerm:
    """`positive` or `negative` of a declaration, as `Formula` takes it: a formula of one number, the similarity."""

    grad = textbook = None
    operands: ClassVar[dict[str, Operand]] = {}
    _harmless: ClassVar[dict[str, float]] = {}
    _in_steps: ClassVar[bool] = False
    _statistics = None

    def __init__(self, loss: Any, side: str) -> None:
        self.value = getattr(loss, side)
        self.__name__, self.name = f"{loss.__name__}, {side}", f"{loss.name}_{side}"
        self.params: dict[str, Param] = {
            name: loss.params[name] for name in inspect.signature(self.value).parameters if name in loss.params
        }

    def _formula_params(self) -> list[Param]:
        return list(self.params.values())

    def _operand_params(self) -> list[Param]:
        return []


class PairsLoss(Family, abstract=True):
    """A loss of all pairs of a batch's rows; the base class of built-in and custom ones.

    A subclass declares a docstring, parameters, `facts`, `cases` and the rest as every loss does, and

    - `value`, a static method over the formula language: its arguments are aggregates of a row's pairs, any of
      `positive_log_sum_exp`, `positive_sum`, `positive_mean`, `positive_max`, `positive_min` and the same of
      `negative_`, and then the parameters;
    - optionally `positive(similarity, ...)` and `negative(similarity, ...)`: what is aggregated, formulas of the
      similarity of one pair and of parameters;
    - `pairing`: "diagonal" (row i and column i belong together), "views" (the same of two inputs that are rows and
      columns at once) or "labels" (rows of the same label);
    - `measure`: "cosine", "dot" (the product of embeddings) or "distance" (the Euclidean one);
    - `both_ways`: whether the loss is the mean of those of the row and of the column of the same place;
    - `needs`: what a row must have to count, "positive", "both" or "nothing";
    - optionally `operands`, in the order of those of the pairing, by names of its own.

    The parameters `temperature`, `logit_scale`, `logit_bias`, `symmetric` and `normalize` are there for every loss
    whose `arguments` name them. Instances also take, by keyword, `sample_weight`, `mask` (of rows: False leaves a row
    out, as a column, too) and `normalizer`.
    """

    reduction: Reduction = param(default="mean", doc="'none': a loss per row; 'mean': their mean; 'sum': their sum.")
    temperature: float | Tensor = param(
        default=0.1, domain=above_zero, doc="By which similarities are divided: a number, or a tensor that may learn."
    )
    logit_scale: float | Tensor = param(
        default=10.0, domain=above_zero,
        doc="By which similarities are multiplied: a number, or a tensor that may learn.",
    )  # fmt: skip
    logit_bias: float | Tensor = param(
        default=-10.0, doc="What is added to similarities then: a number, or a tensor that may learn."
    )
    symmetric: bool = param(
        default=False, doc="Whether columns look for their rows, too: the mean of both losses, of as many as rows."
    )
    normalize: bool = param(default=True, doc="Whether embeddings are divided by their lengths first.")

    pairing: ClassVar[str] = "diagonal"
    measure: ClassVar[str] = "cosine"
    both_ways: ClassVar[bool] = False
    needs: ClassVar[str] = "positive"
    positive: ClassVar[Callable[..., Any] | None] = None
    negative: ClassVar[Callable[..., Any] | None] = None
    _statistics = SPOKEN
    _plan_class = PairsPlan
    _several = True
    _label = "pairs"
    _usual_shape = (1024, 128)

    @classmethod
    def _declare(cls) -> None:
        for attribute, words in _WORDS.items():
            given = getattr(cls, attribute)
            if given not in words:
                known = ", ".join(map(repr, words))
                raise DeclarationError(f"{cls.__name__}: `{attribute}` must be one of {known}, got {given!r}")
        if not cls.operands:
            cls.operands = _USUAL_OPERANDS[cls.pairing]
        usual = list(_USUAL_OPERANDS[cls.pairing].values())
        if [x.optional for x in cls.operands.values()] != [x.optional for x in usual][: len(cls.operands)]:
            raise DeclarationError(f"{cls.__name__}: `operands` must be those of the pairing, in their order")
        super()._declare()
        cls._terms()  # traces them, or says what is wrong

    # -- what is asked for ----------------------------------------------------------------------------------

    @classmethod
    @cache  # a class is never freed
    def _terms(cls) -> dict[str, Formula]:
        """The formulas of one pair, by side, where there are any."""
        found = {}
        for side in SIDES:
            if getattr(cls, side) is not None:
                formula = Formula(PairTerm(cls, side), {})
                if formula.operands != ["similarity"]:
                    raise DeclarationError(f"{cls.__name__}.{side} must take `similarity` and parameters")
                found[side] = formula
        return found

    @classmethod
    def _call_operands(cls) -> list[str]:
        return list(cls.operands)

    @classmethod
    def _used_elsewhere(cls) -> set[str]:
        taken = [getattr(cls, side) for side in SIDES if getattr(cls, side) is not None]
        return {name for function in taken for name in inspect.signature(function).parameters}

    @classmethod
    def _operand_params(cls) -> list[Param]:
        return [p for p in cls.params.values() if p.tensor]

    @classmethod
    def _built_in_formulas(cls) -> list[Formula]:
        return [*super()._built_in_formulas(), *cls._terms().values()]

    # -- for people -----------------------------------------------------------------------------------------

    @classmethod
    def _unreduced(cls) -> str:
        first = cls._call_operands()[0]
        if cls.pairing == "views":
            return "a tensor of shape (2 N,), the rows of both views one after the other"
        return f"a tensor of the shape of {first} without the last dimension"

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        first = draw.normal(*shape)
        if cls.pairing == "labels":  # some eight rows of each label
            return [first, draw.integers(0, max(2, shape[0] // 8), shape[0])]
        return [first, 0.5 * first + draw.normal(*shape)]

    @classmethod
    def _curve(cls) -> Curve | None:
        distance = cls.measure == "distance"
        measured = "distance" if distance else "similarity"
        scales = [name for name in ("temperature", "logit_scale", "logit_bias") if name in cls.params]
        of_terms = [p.name for p in cls.params.values() if p.name in cls._used_elsewhere()]

        def statistics(x: Expr) -> dict[str, Any]:
            pairs = {"positive": x, "negative": x.trace.variable(f"negative_{measured}")}
            found: dict[str, Any] = {}
            for side, s in pairs.items():
                for name in scales:
                    number = x.trace.variable(name)
                    s = s / number if name == "temperature" else s * number if name == "logit_scale" else s + number
                term = getattr(cls, side)
                numbers = {name: x.trace.variable(name) for name in of_terms}
                if term is not None:
                    taken = inspect.signature(term).parameters
                    s = term(**{name: v for name, v in ({"similarity": s} | numbers).items() if name in taken})
                found |= {f"{side}_{aggregate}": s for aggregate in AGGREGATES}
            return found

        ways = []
        for f in cls._formulas.all():
            if not any(f.switches.get(name) for name in cls._optional_operands()):
                ways.append((f.switches, list(dict.fromkeys([*scales, *f.numbers, *of_terms])), statistics))
        limits = (0.0, 4.0) if distance else (-1.0, 1.0)
        given = [Given(f"negative_{measured}", f"{measured} of the negative", 1.0 if distance else 0.0, *limits)]
        label = f"{measured} of the positive, of a row with one positive and one negative"
        kind = "distance" if distance else "cosine"
        return curves.of_trace(cls, f"positive_{measured}", kind, limits, given, ways, label)

    @classmethod
    def _units(cls) -> Pairs:
        return Pairs(cls.pairing, cls.measure, cls.both_ways, cls.needs, terms={
            side: Variant({}, [], names, text_of(term.value, names), {"similarity": text_of(term.gradients[0], names)})
            for side, term in cls._terms().items()
            for names in [[*term.operands, *term.numbers]]
        })  # fmt: skip

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        write.letters = {x.name: x.letter for x in SPOKEN}
        equations = [write.equation("loss", Written(rf"{LOSS.latex}_i", f"{LOSS.plain}ᵢ"), write.value)]
        equations += [
            cls._slope(write, side) for side in SIDES if any(x.startswith(side) for x in write.formula.operands)
        ]
        equations += [_definition(write, name) for name in write.formula.operands]
        equations += cls._similarity(write)
        names = [*write.formula.numbers, *(p.name for p in cls.params.values() if p.name in cls._used_elsewhere())]
        names += [name for name in ("temperature", "logit_scale", "logit_bias") if name in cls.params]
        symbols = [symbol(name, x.doc, cls._letter(i, name)) for i, (name, x) in enumerate(cls.operands.items())]
        symbols += [symbol("P", "the positive pairs of row i", Written("P", "P")),
                    symbol("N", "its negative pairs", Written("N", "N"))]  # fmt: skip
        return Mathematics(equations, symbols + [symbol(name, cls.params[name].doc) for name in dict.fromkeys(names)])

    @classmethod
    def _letter(cls, place: int, name: str) -> Written:
        """Of an operand: rows are x, columns of their own y, labels t."""
        letter = "t" if "target" in name else "y" if place > 1 or (place and cls.pairing == "diagonal") else "x"
        return Written(letter, letter)

    @classmethod
    def _slope(cls, write: Writer, side: str) -> Equation:
        """The gradient by the similarity of a pair."""
        letter, index, *_ = _SETS[side]
        total: Any = 0.0
        for name in write.formula.operands:
            if name.startswith(side):
                _, _, aggregate = name.partition("_")
                share = write.trace.variable(f"{name}_share")
                names = {"letter": letter, "index": index, "small": _INDICES[index]}
                write.letters[f"{name}_share"] = Written(*(text.format(**names) for text in _SHARES[aggregate]))
                slope = write.slope(name)
                total = total + (slope if aggregate == "sum" else slope * share)
        by = Written(f"t_{index}", f"t{_INDICES[index]}")
        return write.equation(f"gradient by a {side} pair", gradient_by(by), write.simplified(write.trace.lift(total)))

    @classmethod
    def _similarity(cls, write: Writer) -> list[Equation]:
        """What a pair is, of rows x and columns y."""
        cosine = r"\frac{x_i}{\|x_i\|} \cdot \frac{y_j}{\|y_j\|}", "xᵢ/‖xᵢ‖ · yⱼ/‖yⱼ‖"
        found = {"cosine": cosine, "dot": (r"x_i \cdot y_j", "xᵢ · yⱼ"),
                 "distance": (r"\|x_i - y_j\|", "‖xᵢ − yⱼ‖")}[cls.measure]  # fmt: skip
        latex, plain = found
        if "temperature" in cls.params:
            latex, plain = rf"\frac{{1}}{{\mathrm{{temperature}}}} {latex}", f"({plain}) / temperature"
        if "logit_scale" in cls.params:
            latex, plain = rf"\mathrm{{logit\_scale}} \; {latex}", f"logit_scale · ({plain})"
        if "logit_bias" in cls.params:
            latex, plain = rf"{latex} + \mathrm{{logit\_bias}}", f"{plain} + logit_bias"
        equations = [Equation("where", f"s_{{ij}} = {latex}", f"sᵢⱼ = {plain}")]
        for side in SIDES:
            index = _SETS[side][1]
            term = cls._terms().get(side)
            text = Written(f"s_{{i{index}}}", f"sᵢ{_INDICES[index]}")
            if term is not None:
                own = Writer(term.loss, term)
                own.letters = {"similarity": text}
                text = own.write(own.value)
            equations.append(Equation("where", f"t_{index} = {text.latex}", f"t{_INDICES[index]} = {text.plain}"))
        return equations


_INDICES = {"p": "ₚ", "n": "ₙ"}
_SHARES = {  # of a pair in the derivative of an aggregate, LaTeX and plain
    "log_sum_exp": (r"\frac{{e^{{t_{index}}}}}{{\sum_{letter} e^t}}", "(e^t{small} / Σ({letter}) e^t)"),
    "sum": ("1", "1"),
    "mean": (r"\frac{{1}}{{|{letter}|}}", "(1/|{letter}|)"),
    "max": (r"[\mathrm{{largest}}]", "[largest]"),
    "min": (r"[\mathrm{{smallest}}]", "[smallest]"),
}


def _definition(write: Writer, name: str) -> Equation:
    """What an aggregate is."""
    side, _, aggregate = name.partition("_")
    letter, index, *_ = _SETS[side]
    t, plain_t = f"t_{index}", f"t{_INDICES[index]}"
    latex, plain = {
        "log_sum_exp": (rf"\log \sum_{{{index} \in {letter}}} e^{{{t}}}", f"log Σ({index}∈{letter}) e^{plain_t}"),
        "sum": (rf"\sum_{{{index} \in {letter}}} {t}", f"Σ({index}∈{letter}) {plain_t}"),
        "mean": (
            rf"\frac{{1}}{{|{letter}|}} \sum_{{{index} \in {letter}}} {t}",
            f"1/|{letter}| Σ({index}∈{letter}) {plain_t}",
        ),
        "max": (rf"\max_{{{index} \in {letter}}} {t}", f"max({index}∈{letter}) {plain_t}"),
        "min": (rf"\min_{{{index} \in {letter}}} {t}", f"min({index}∈{letter}) {plain_t}"),
    }[aggregate]
    own = write.letters[name]
    return Equation("where", f"{own.latex} = {latex}", f"{own.plain} = {plain}")
