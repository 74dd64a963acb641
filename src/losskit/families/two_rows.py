"""The two-rows family: a student's and a teacher's row of scores for the same classes, and how far apart they are.

1. A formula speaks of one class: `teacher` and `student`, its probabilities q and p in the softmax of either row, and
   `log_ratio`, log p - log q. The loss of a row is the sum over its classes.
2. The teacher is a constant. There is no gradient by it, whatever the formula; to have one, exchange the rows.
3. p = q exp(log_ratio), so that a formula has one derivative: by the student's log-probability, with which both p and
   the ratio move. `grad` gives it; where there is none it is derived.
4. A student that is almost its teacher must still learn from it. The sum of q (log q - log p) has no digits then: it
   adds what cancels. So `log_ratio` comes from differences of scores, exact where they are near, and formulas are
   written so that the terms of a divergence are not negative: see `losses/_divergences.py`.
5. The temperature divides both rows. Gradients shrink with its square, so losses are multiplied by that (`scaled`),
   as in Hinton's paper: then the temperature can be changed without another learning rate.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from losskit import curves
from losskit.calculus import derivative, guarded
from losskit.declaration import Operand, param
from losskit.display import LOSS, NOTHING, Mathematics, Statistic, Writer, Written, gradient_by, joined, symbol
from losskit.domains import nonnegative, positive
from losskit.draw import Draw
from losskit.errors import DeclarationError
from losskit.families.base import Family
from losskit.families.two_rows_plan import TwoRowsPlan
from losskit.formula import exp, softplus
from losskit.graph import Expr
from losskit.reduction import Reduction
from losskit.traced import Formula
from losskit_guide.card import Curve, Equation, Given


def by_student(cls: type[TwoRowsLoss]) -> Callable[..., Any]:
    """The derivative of `value` by the student's log-probability, as an entry for each argument of `value`."""
    own: Callable[..., Any] | None = cls.__dict__["grad"].__func__ if "grad" in cls.__dict__ else None
    signature = inspect.signature(cls.value)
    spoken = [name for name in signature.parameters if name not in cls.params]
    if own is not None and list(inspect.signature(own).parameters) != list(signature.parameters):
        taken = ", ".join(signature.parameters)
        raise DeclarationError(f"{cls.__name__}: `grad` must take the arguments of `value`: {taken}")

    def grad(*values: Any, **named: Any) -> Any:
        arguments = signature.bind(*values, **named).arguments
        ratio, student = arguments["log_ratio"], arguments.get("student")
        if own is not None:
            slope = own(**arguments)
        else:
            value = ratio.trace.lift(cls.value(**arguments))
            slope = guarded(_moving(value, ratio, student), value, spoken)
        return tuple(slope if name == "log_ratio" else None for name in spoken)

    grad.__signature__ = signature  # type: ignore[attr-defined]
    return grad


def _moving(value: Expr, ratio: Expr, student: Expr | None) -> Expr:
    """The derivative of a formula by the student's log-probability, which moves the ratio and the probability."""
    slope = derivative(value, ratio)
    return slope if student is None else slope + student * derivative(value, student)


def _two_classes(cls: type[TwoRowsLoss], formula: Formula) -> Callable[..., dict[str, Any]]:
    """The loss of a row of two classes, by the student's margin between them; the teacher's is given."""

    def statistics(margin: Expr, function: Callable[..., Any] = cls.value) -> dict[str, Any]:
        right = margin.trace.variable("teacher_margin")
        numbers = {name: margin.trace.variable(name) for name in formula.numbers}
        taken = inspect.signature(function).parameters
        total = margin.trace.constant(0.0)
        temperature = margin.trace.variable("temperature") if "temperature" in cls.params else 1.0
        for sign in (1.0, -1.0):
            log_p = -softplus(-sign * margin / temperature)
            log_q = -softplus(-sign * right / temperature)
            known = {"teacher": exp(log_q), "student": exp(log_p), "log_ratio": log_p - log_q} | numbers
            total = total + function(**{name: x for name, x in known.items() if name in taken})
        squared = temperature * temperature if cls.scaled and "temperature" in cls.params else 1.0
        return {"result": squared * total}

    return statistics


SPOKEN = (
    Statistic("teacher", Written("q_j", "qⱼ"), "the teacher's probability of class j", nonnegative, constant=True),
    Statistic("student", Written("p_j", "pⱼ"), "the student's probability of class j", nonnegative, constant=True),
    Statistic("log_ratio", Written(r"\log \frac{p_j}{q_j}", "log(pⱼ/qⱼ)"), "log-probability of the student less that "
              "of the teacher"),
)  # fmt: skip
SCORES = {
    "input": Operand("The student's scores, (..., C): the classes are the last dimension."),
    "target": Operand(
        "The teacher's scores, of the same shape. There is no gradient by it: the teacher is a constant.",
        differentiable=False,
    ),
}


class TwoRowsLoss(Family, abstract=True):
    """A loss of two rows of class scores, the student's and the teacher's; the base class of built-in and custom ones.

    A subclass declares a docstring, parameters, `facts`, `cases` and the rest as every loss does, and

    - `value`, a static method over the formula language: its arguments are `log_ratio`, the log-probability of a class
      in the student's row less that in the teacher's, optionally `teacher` and `student`, the two probabilities, and
      then the parameters. The loss of a row is the sum over the classes;
    - optionally `grad` with the same arguments: the derivative by the student's log-probability, with which `student`
      and `log_ratio` move together (without: it is derived);
    - optionally `scaled = False`: the loss is not multiplied by the square of the temperature.

    Instances are called with `input`, the student's scores (..., C), and `target`, the teacher's, of the same shape;
    by keyword with `sample_weight`, `mask` (both of the unreduced loss, one number for each row) and `normalizer`. The
    parameter `temperature` divides both rows, in every loss whose `arguments` name it. A class that only the teacher
    leaves out (a score of -inf) has no `teacher` probability and an infinite `log_ratio`.
    """

    reduction: Reduction = param(default="mean", doc="'none': a loss per row; 'mean': their mean; 'sum': their sum.")
    temperature: float = param(
        default=1.0, domain=positive,
        doc="Divides the scores of both rows. The loss is multiplied by its square, so that gradients keep their size.",
    )  # fmt: skip

    operands = SCORES
    scaled: ClassVar[bool] = True
    _statistics = SPOKEN
    _harmless = {"log_ratio": 0.0}
    _in_steps = True
    _plan_class = TwoRowsPlan
    _label = "two rows"

    @classmethod
    def _declare(cls) -> None:
        if inspect.isfunction(cls.__dict__.get("value", None) and cls.value):
            if "log_ratio" not in inspect.signature(cls.value).parameters:
                raise DeclarationError(
                    f"{cls.__name__}: `value` must take log_ratio; teacher and student are there beside it"
                )
            own = cls.__dict__.get("grad")
            if own is None or isinstance(own, staticmethod):
                cls.grad = staticmethod(by_student(cls))
        super()._declare()

    @classmethod
    def _curve(cls) -> Curve | None:
        ways = [(f.switches, _numbers(cls, f), _two_classes(cls, f)) for f in cls._formulas.all()]
        given = [Given("teacher_margin", "the teacher's margin between the two classes", 1.0, -6.0, 6.0)]
        label = "score of one class less that of the other, of two classes"
        return curves.of_trace(cls, "score_margin", "logit", (-6.0, 6.0), given, ways, label)

    @classmethod
    def _sight(cls, formula: Formula) -> curves.Sight | None:
        operands = {"input": [["score_margin", 0.0]], "target": [["teacher_margin", 0.0]]}
        hot = "temperature" in cls.params
        student, teacher = ("(input / {temperature})", "(target / {temperature})") if hot else ("input", "target")
        of_classes = curves.called(
            formula, student=f"{student}.softmax(1)", teacher=f"{teacher}.softmax(1)",
            log_ratio=f"{student}.log_softmax(1) - {teacher}.log_softmax(1)",
        )  # fmt: skip
        squared = "{temperature} ** 2 * " if hot and cls.scaled else ""
        return curves.sight(
            formula, "score_margin", _two_classes(cls, formula), operands, ("input", (0, 0)),
            f"{squared}{of_classes}.sum(1)",
        )  # fmt: skip

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        return [draw.normal(*shape), draw.normal(*shape)]

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        hot = "temperature" in cls.params
        squared = Written("T^2 ", "T² ") if hot and cls.scaled else NOTHING
        times = NOTHING if not hot else Written("T ", "T ") if cls.scaled else Written(r"\frac{1}{T} ", "1/T ")
        divided = Written(" / T", " / T") if hot else NOTHING
        write.letters = {statistic.name: statistic.letter for statistic in SPOKEN}
        # What is the same for all classes, times p, changes no gradient: books' formulas have the shorter derivatives.
        of_book = _moving(write.value, write.trace.variable("log_ratio"), write.trace.variable("student"))
        forms = [write.simplified(root) for root in (write.computed("log_ratio"), of_book)]
        texts = {root: write.write(root).plain for root in forms}
        slope = min(forms, key=lambda root: ("..." in texts[root], len(texts[root])))  # what is too long is no text
        summed = Written(r"\sum_j ", "Σⱼ ")
        g, by = Written("g_j", "gⱼ"), gradient_by(Written("x_j", "xⱼ"))
        equations = [
            write.equation("loss", LOSS, write.value, joined(squared, summed)),
            Equation(
                "gradient by input",
                rf"{by.latex} = {times.latex}\left(g_j - p_j \sum_k g_k\right)",
                f"{by.plain} = {times.plain}(gⱼ − pⱼ Σₖ gₖ)",
            ),
            write.equation("where", g, slope),
            *(
                Equation(
                    "where",
                    rf"{letter}_j = \operatorname{{softmax}}({row}{divided.latex})_j",
                    f"{letter}ⱼ = softmax({row}{divided.plain})ⱼ",
                )
                for letter, row in (("p", "x"), ("q", "t"))
            ),
        ]
        known = [
            symbol("input", "the student's score of class j", Written("x_j", "xⱼ")),
            symbol("target", "the teacher's scores", Written("t", "t")),
        ]
        if hot:
            known.append(symbol("temperature", cls.params["temperature"].doc, Written("T", "T")))
        return Mathematics(equations, known + [symbol(name, cls.params[name].doc) for name in write.formula.numbers])

    @classmethod
    def _call_operands(cls) -> list[str]:
        return ["input", "target"]

    @classmethod
    def _unreduced(cls) -> str:
        return "a tensor of the shape of input without the last dimension"


def _numbers(cls: type[TwoRowsLoss], formula: Formula) -> list[str]:
    """The numbers of a formula, and the temperature."""
    return [*formula.numbers, *(["temperature"] if "temperature" in cls.params else [])]
