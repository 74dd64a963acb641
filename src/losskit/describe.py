"""What is known about a loss, gathered from its declaration: its card, as `losskit.explain` shows it.

The guide (`losskit_guide`) needs no torch and knows the built-in losses from cards that this file makes when the
package is built. Curves are over a loss's natural variable: the prediction, or for a loss of rows what its formula
speaks of. Class scores are two classes and the margin between them, so that every statistic is a function of it.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from losskit.calculus import derivative
from losskit.display import Mathematics, Writer
from losskit.domains import Domain, Interval, Signs, log_probability, nonnegative, probability, real
from losskit.families.base import Family
from losskit.families.class_scores import ClassScoresLoss
from losskit.families.embeddings import EmbeddingsLoss
from losskit.families.margins import MarginsLoss
from losskit.families.pointwise import PointwiseLoss
from losskit.families.sequence import SequenceLoss
from losskit.forms import argument_doc, operand_doc, signature_source
from losskit.formula import log, softplus, times
from losskit.graph import Expr, Trace
from losskit.loss import Loss, Operand, Param, registered
from losskit.printing import print_statements
from losskit.registry import get
from losskit.traced import Formula
from losskit_guide import figures
from losskit_guide.card import LANGUAGES, Card, Curve, CurveVariant, Given, Limits, Text, Variant
from losskit_guide.lines import Line
from losskit_guide.render import ShownCard

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Declaration = Any  # a class of a family, or one written by hand with the same attributes

FAMILIES = {
    PointwiseLoss: "pointwise", ClassScoresLoss: "class scores", MarginsLoss: "margins", EmbeddingsLoss: "embeddings",
    SequenceLoss: "sequences",
}  # fmt: skip

# What curves are over, beside the operands of a call.
LABELS = {
    "log_probability": "log-probability of the target class",
    "cosine": "cosine of the two embeddings",
    "distance": "distance of the two embeddings",
    "positive_distance": "distance from the anchor to the positive",
    "negative_distance": "distance from the anchor to the negative",
    "probability": "probability of the labels: the sum over all alignments",
}


def explain(loss: str | Loss | type[Loss]) -> Card:
    """Everything that is known about a loss: formula, gradient, parameters, facts, advice; shown well in notebooks.

    Args:
        loss: A name, a class, or an instance, whose parameters the card then has; built-in or your own.

    >>> import losskit
    >>> losskit.explain("mse_loss").variants[0].equations[0].plain
    'ℓ = (x − t)²'
    """
    if isinstance(loss, str):
        loss = get(loss)
    if isinstance(loss, type):
        return card(loss)
    changed = {name: getattr(loss, name) for name in type(loss).params}
    return card(type(loss), {name: x for name, x in changed.items() if not isinstance(x, Tensor) and x is not None})


def plot(
    *losses: Any,
    over: str = "own",
    low: float | None = None,
    high: float | None = None,
    count: int = 401,
    **given: Any,
) -> Figure:
    """Value and gradient of losses over one axis, as a matplotlib figure.

    Args:
        losses: Names, also with settings ("huber_loss:delta=2"), loss instances or classes, or cards.
        over: "own" (each loss's natural variable), "probability" or "logit".
        low: Left end; by default what is worth looking at.
        high: Right end.
        count: How many points to compute.
        given: Settings for all losses that know them, such as target=0.

    >>> import losskit
    >>> figure = losskit.plot("mse_loss", "huber_loss:delta=2", target=0.0)
    >>> [axes.get_title() for axes in figure.axes]
    ['value', 'gradient']
    """
    shown = [loss if isinstance(loss, str | Card | Line) else explain(loss) for loss in losses]
    return figures.plot(*shown, over=over, low=low, high=high, count=count, **given)


def card(cls: Declaration, values: dict[str, Any] | None = None) -> Card:
    """The card of a declaration; `values` are parameters that differ from the defaults."""
    paragraphs = [re.sub(r"\s*\n\s*", "\n", p.strip()) for p in cls.about.split("\n\n")]
    summary, *rest = paragraphs
    advice = [line.replace("\n", " ") for p in rest[:1] for line in re.split(r"\n(?=Choose|Prefer)", p)]
    formulas = cls._formulas.all() if hasattr(cls, "value") else []
    written = [cls._mathematics(Writer(cls, formula)) for formula in formulas] or [cls._mathematics(None)]
    variants = [_variant(cls, *pair) for pair in zip(formulas, written, strict=False)] or [_of_paths(written[0])]
    named = re.findall(r"\b[A-Z]\w+Loss\b", cls.about)
    by_class = {other.__name__: other.name for other in registered.values()}
    signature = (
        signature_source(cls, annotated=True).removeprefix("def ")
        if issubclass(cls, Family)
        else f"{cls.name}{inspect.signature(cls.functional)}"
    )
    return ShownCard(
        name=cls.name,
        class_name=cls.__name__,
        aliases=cls.aliases.split(),
        family=next((name for family, name in FAMILIES.items() if issubclass(cls, family)), "by hand"),
        task=cls.task,
        summary=summary.replace("\n", " "),
        advice=advice,
        notes=[p.replace("\n", " ") for p in rest[1:]],
        best_for=cls.best_for,
        not_for=cls.not_for,
        alternatives=[by_class[name] for name in dict.fromkeys(named) if name in by_class and name != cls.__name__],
        signature=signature,
        operands=[{"name": name, "doc": operand_doc(cls, name)} for name in cls._call_operands()],
        parameters=[parameter(cls, name) for name in cls.arguments.split() if name not in ("size_average", "reduce")],
        unreduced=cls._unreduced() if issubclass(cls, Family) else "a tensor of the shape of the distances",
        symbols=list({entry["name"]: entry for each in written for entry in each.symbols}.values()),
        reductions=cls._means(),
        variants=variants,
        facts=asdict(cls.facts) if hasattr(cls, "facts") else {},
        cases=[
            {"arguments": dict(case.arguments), "value": case.value, "grad": case.grad, "source": case.source}
            for case in cls.cases
        ],
        deviations=[
            {"reason": d.reason, "arguments": dict(d.arguments), "torch": d.torch, "losskit": d.losskit, "of": d.of,
             "dtype": d.dtype}
            for d in cls.deviations
        ],
        reference=cls.reference,
        curve=_curve(cls, formulas),
        values=values or {},
    )  # fmt: skip


def parameter(cls: type[Loss], name: str) -> dict[str, Any]:
    """A parameter as data."""
    declared = cls.params.get(name)
    kind = declared.kind if declared else "choice" if name == "reduction" else "tensor"
    limits = declared.domain.description if declared and kind in ("float", "int") else ""
    return {"name": name, "kind": kind, "default": cls._default(name), "range": limits, "doc": argument_doc(cls, name)}


def text_of(root: Expr, arguments: Sequence[str]) -> Text:
    """A formula in every language that computes."""
    result: Text = {}
    for language in LANGUAGES:
        statements, (last,) = print_statements([root], language, arguments)
        result[language] = [*statements, last]
    return result


def _variant(cls: Declaration, formula: Formula, written: Mathematics) -> Variant:
    arguments = [*formula.operands, *formula.numbers]
    gradients = dict(zip(formula.operands, formula.gradients, strict=True))
    return Variant(
        switches=formula.switches,
        equations=written.equations,
        arguments=arguments,
        value=text_of(formula.value, arguments),
        gradients={
            name: text_of(root, arguments)
            for name, root in gradients.items()
            if name not in cls.params and not (name == "target" and len(gradients) > 1)
        },
    )


def _of_paths(written: Mathematics) -> Variant:
    """The loss of sequences, whose lattice is no formula, as one of the probability of the labels."""
    trace = Trace()
    probability = trace.variable("probability")
    value = -log(probability)
    gradients = {"probability": text_of(derivative(value, probability), ["probability"])}
    return Variant({}, written.equations, ["probability"], text_of(value, ["probability"]), gradients)


# ---------------------------------------------------------------------------------------------------------
# Curves


def _curve(cls: Declaration, formulas: Sequence[Formula]) -> Curve | None:
    if issubclass(cls, SequenceLoss):
        return _of_trace(cls, "probability", "probability", (1e-3, 1.0), [], [({}, [], lambda x: {"result": -log(x)})])
    if not formulas:
        return None
    if issubclass(cls, PointwiseLoss):
        return _of_elements(cls, formulas)
    operands = formulas[0].operands
    if issubclass(cls, ClassScoresLoss) and not cls.log_probabilities:
        ways = [(f.switches, f.numbers, _two_classes(cls, f)) for f in formulas]
        more = [Given("label_smoothing", cls.params["label_smoothing"].doc, 0.0, 0.0, 1.0)]
        label = "score of the right class less that of the other, of two classes"
        return _of_trace(cls, "score_margin", "logit", (-6.0, 6.0), more if _smooths(cls) else [], ways, label)
    if issubclass(cls, ClassScoresLoss):
        return _of_trace(cls, "log_probability", "log_probability", (-6.0, 0.0), [], _as_they_are(formulas))
    if issubclass(cls, MarginsLoss):
        label = "score of the target less that of another class: the loss of one pair"
        return _of_trace(cls, "difference", "logit", (-3.0, 3.0), [], _as_they_are(formulas), label)
    if "cosine" in operands or "cosine_distance" in operands:
        return _of_trace(cls, "cosine", "cosine", (-1.0, 1.0), _given(formulas[0], 0, ("target",)),
                         [(f.switches, f.numbers, _of_cosine) for f in formulas])  # fmt: skip
    first = next(name for name in operands if name.endswith("distance"))
    others = [Given(name, LABELS[name], 1.0, 0.0, 4.0) for name in operands if name not in (first, "target")]
    others += _given(formulas[0], 0, ("target",))
    return _of_trace(cls, first, "distance", (0.0, 4.0), others, _as_they_are(formulas))


def _of_cosine(cosine: Expr) -> dict[str, Any]:
    return {"cosine": cosine, "cosine_distance": 1.0 - cosine}


def _smooths(cls: type[Loss]) -> bool:
    return "label_smoothing" in cls.arguments.split()


def _as_they_are(formulas: Sequence[Formula]) -> list[Any]:
    return [(f.switches, f.numbers, lambda x: {}) for f in formulas]


def _two_classes(cls: type[Family], formula: Formula) -> Callable[[Expr], dict[str, Any]]:
    """The statistics of a row of two classes whose scores are a margin and 0, and the loss under smoothing."""

    def statistics(margin: Expr) -> dict[str, Any]:
        right, wrong = -softplus(-margin), -softplus(margin)
        every = {
            "log_probability": right,
            "log_sum_exp": softplus(margin),
            "mean_log_probability": 0.5 * right + 0.5 * wrong,
        }
        if not _smooths(cls):
            return every
        numbers: dict[str, Any] = {name: margin.trace.variable(name) for name in formula.numbers}
        share = 0.5 * margin.trace.variable("label_smoothing")
        taken = inspect.signature(cls.value).parameters
        own = {name: x for name, x in (every | numbers | formula.switches).items() if name in taken}
        other = own | ({"log_probability": wrong} if "log_probability" in own else {})
        return {"result": times(1.0 - share, cls.value(**own)) + times(share, cls.value(**other))}

    return statistics


def _of_trace(
    cls: type[Family],
    variable: str,
    kind: str,
    limits: tuple[float, float],
    given: list[Given],
    ways: Sequence[tuple[dict[str, bool], list[str], Callable[[Expr], dict[str, Any]]]],
    label: str = "",
) -> Curve:
    """A curve from `value` traced anew over the natural variable; each way is switches, numbers, statistics."""
    variants = []
    for switches, numbers, statistics in ways:
        trace = Trace()
        x = trace.variable(variable)
        names = dict.fromkeys([variable, *(g.name for g in given), *numbers])
        found = statistics(x)
        if "result" not in found:
            arguments = {name: trace.variable(name) for name in names} | switches | found
            taken = inspect.signature(cls.value).parameters
            found = {"result": cls.value(**{name: arguments.get(name) for name in taken})}
        root = trace.lift(found["result"])
        domains = {name: _RANGES.get(name, real) for name in names} | {
            name: p.domain for name, p in cls.params.items() if name in names
        }
        domains |= {name: cls.operands[name].domain for name in names if name in cls.operands}
        variants.append(_curve_variant(switches, domains, root, derivative(root, x), x, cls))
    declared = [p for p in cls.params.values() if any(p.name in way[1] for way in ways)]
    label = label or LABELS[variable]
    return Curve(variable, label, kind, *limits, given + [_of_param(p) for p in declared], variants)


def _of_elements(cls: type[Family], formulas: Sequence[Formula]) -> Curve:
    variants = []
    variable = formulas[0].operands[0]
    for formula in formulas:
        names = [*formula.operands, *formula.numbers]
        x = formula.trace.variable(variable)
        domains = dict(zip(names, [*formula.required, *(cls.params[n].domain for n in formula.numbers)], strict=True))
        variants.append(_curve_variant(formula.switches, domains, formula.value, formula.gradients[0], x, cls))
    first = max(formulas, key=lambda formula: len(formula.operands))
    operand = cls.operands.get(variable, Operand(variable))
    domain = formulas[-1].declared[variable].domain if operand.unless else operand.domain
    low, high = _limits(domain)
    if operand.kind == "distance":
        low = 0.0
    kinds = {"in [0, 1]": "probability", "a log-probability (at most 0)": "log_probability"}
    kind = operand.kind or kinds.get(domain.description, "prediction")
    numbers = [_of_param(p) for p in cls.params.values() if p.name in first.numbers]
    return Curve(variable, operand.doc, kind, low, high, _given(first, 1) + numbers, variants)


# Of what a family's formulas speak of, what is no number at all.
_RANGES: dict[str, Domain] = {
    "probability": probability, "log_probability": log_probability, "cosine": Interval("in [-1, 1]", -1.0, 1.0),
    "distance": nonnegative, "positive_distance": nonnegative, "negative_distance": nonnegative,
}  # fmt: skip


def _curve_variant(
    switches: dict[str, bool], domains: dict[str, Domain], value: Expr, slope: Expr, x: Expr, cls: type[Loss]
) -> CurveVariant:
    names = list(domains)
    whole = {name for name, p in cls.params.items() if p.kind == "int"}
    limits = {name: _allowed(domain, name in whole) for name, domain in domains.items()}
    texts = [text_of(root, names) for root in (value, slope, derivative(slope, x))]
    return CurveVariant(switches, names, limits, *({k: t[k] for k in ("python", "javascript")} for t in texts))


def _allowed(domain: Domain, whole: bool = False) -> Limits:
    """A domain as data; whole: of integers."""
    if isinstance(domain, Signs):
        return Limits(domain.description, choices=[-1.0, 1.0])
    low, high = (x if math.isfinite(x) else None for x in (domain.low, domain.high))
    counted = range(int(low), int(high) + 1) if whole and low is not None and high is not None else ()
    choices = [float(x) for x in counted]
    return Limits(domain.description, low, high, domain.low_open, domain.high_open, choices)


def _given(formula: Formula, start: int, only: tuple[str, ...] = ()) -> list[Given]:
    """What stays fixed along a curve: the other operands, at harmless values."""
    result = []
    for name in [name for name in formula.operands[start:] if not only or name in only]:
        operand = formula.declared[name]
        if isinstance(operand.domain, Signs):
            result.append(Given(name, operand.doc, 1.0, -1.0, 1.0, [-1.0, 1.0]))
            continue
        low, high = _limits(operand.domain)
        value = 0.0 if operand.domain.everything else 1.0 if operand.domain.includes(1.0) else operand.domain.typical
        result.append(Given(name, operand.doc, value, low, high))
    return result


def _of_param(p: Param) -> Given:
    low, high = _limits(p.domain)
    if p.name == "p":
        low, high = 1.0, 2.0
    return Given(p.name, p.doc, float(p.default), min(low, p.default), high, [1.0, 2.0] if p.name == "p" else [])


def _limits(domain: Domain) -> tuple[float, float]:
    """The part of a domain that is worth looking at."""
    if not isinstance(domain, Interval) or domain is real or domain.everything:
        return -4.0, 4.0
    low = domain.low if math.isfinite(domain.low) else round(domain.high) - 6.0
    high = domain.high if math.isfinite(domain.high) else domain.low + 4.0
    if low == domain.low and domain.low_open:
        low += 1e-3
    return low, min(high, 0.0) if domain.description.startswith("a log-probability") else high
