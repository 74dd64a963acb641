"""The class-scores family: a row of scores, one for each class, and the class that is right, or how likely each is.

1. A formula speaks of statistics of the row: `log_probability`, the log-softmax of the class in question;
   `log_sum_exp`; `mean_log_probability`, over the classes. Cross entropy is `-log_probability`; focal, poly-1 and
   generalised cross entropy are other functions of it. The kernel computes the statistics, evaluates the formula on
   arrays of them, and turns its derivatives into the gradient by the scores; none of them needs a kernel of its own.
2. A class index counts the formula of that class. Probabilities count it class by class, each with its share.
   Label smoothing takes `label_smoothing` from these shares and spreads it evenly over all classes.
3. The loss of an almost certain row must keep its digits down to the smallest numbers: where torch rounds it to 0, the
   network stops learning from the row. So the class with the largest score is the pivot of all sums, and
   log-probabilities come from the distances to it and log1p of the sum over the other classes.
4. Class weights multiply the terms of their class. As in torch the mean divides by the sum of the weights of the right
   classes for indices, and by the number of rows for probabilities.
5. Where ranks share the classes (`part`), the eager formula runs on the rank's own classes. Ranks exchange only single
   numbers per row: the largest score, the sum of exponentials, the terms of the right class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from losskit import curves
from losskit.declaration import param
from losskit.display import Mathematics, Writer
from losskit.domains import Interval, real
from losskit.draw import Draw
from losskit.errors import error
from losskit.families.base import Family
from losskit.families.class_scores_hooks import OwnScore, kept
from losskit.families.class_scores_margins import MarginsOfScoresPlan
from losskit.families.class_scores_plan import ClassScoresPlan, plain
from losskit.families.class_scores_written import SPOKEN, mathematics
from losskit.formula import softplus, times
from losskit.graph import Expr
from losskit.kernels import search
from losskit.kernels.torch_internals import observed
from losskit.plans import present
from losskit.policy import state
from losskit.reduction import Reduction
from losskit.traced import Formula
from losskit_guide.card import Curve, Equation, Given, Rows


def _two_classes(cls: type[ClassScoresLoss], formula: Formula) -> Callable[..., dict[str, Any]]:
    """The statistics of a row of two classes whose scores are a margin and 0, and the loss under smoothing."""

    def statistics(margin: Expr, function: Callable[..., Any] = cls.value) -> dict[str, Any]:
        right, wrong = -softplus(-margin), -softplus(margin)
        every = {
            "log_probability": right,
            "log_sum_exp": softplus(margin),
            "mean_log_probability": 0.5 * right + 0.5 * wrong,
        }
        if "label_smoothing" not in cls.arguments.split():
            return every
        numbers: dict[str, Any] = {name: margin.trace.variable(name) for name in formula.numbers}
        share = 0.5 * margin.trace.variable("label_smoothing")
        taken = inspect.signature(function).parameters
        own = {name: x for name, x in (every | numbers | formula.switches).items() if name in taken}
        other = own | ({"log_probability": wrong} if "log_probability" in own else {})
        return {"result": times(1.0 - share, function(**own)) + times(share, function(**other))}

    return statistics


class ClassScoresLoss(Family, abstract=True):
    """A loss of rows of class scores; the base class of built-in and custom ones.

    A subclass declares a docstring, parameters, `facts`, `cases` and the rest as every loss does, and

    - `value`, a static method over the formula language: its arguments are statistics of the row, any of
      `log_probability`, `log_sum_exp` and `mean_log_probability`, and then the parameters;
    - optionally, static methods of parameters that give a tensor with a number for each class, ordinary torch
      functions of nothing else, whose results are kept: `shift` is added to the scores (logit adjustment); `factor`
      multiplies the loss of a class, and unlike `weight` never counts in the denominator of the mean;
    - optionally `target_score`, a formula of the score of the row's own class, `score`, and parameters: the margin
      losses put it in the place of that score. It may take `own`, what the static method `own` gives for that class;
    - optionally `scaled_by`, the name of the parameter, or of an operand with a number for each row, by which all
      scores are multiplied then.

    The input is (N, C), (N, C, d1, ...) or (C,); the target is class indices, of the shape of the input without C, or
    probabilities of the shape of the input. Class `weight`, `ignore_index` and `label_smoothing` work for every loss
    whose `arguments` name them. Instances also take, by keyword, `sample_weight`, `mask` and `normalizer`.
    """

    reduction: Reduction = param(default="mean", doc="'none': a loss per row; 'mean': their mean; 'sum': their sum.")
    weight: Tensor | None = param(default=None, doc="Weight of each class, a tensor of shape (C,).")
    ignore_index: int = param(default=-100, domain=real, doc="Rows with this target do not count.")
    label_smoothing: float = param(
        default=0.0, domain=Interval("in [0, 1]", low=0.0, high=1.0),
        doc="Share of the target that is spread evenly over all classes.",
    )  # fmt: skip

    _statistics = SPOKEN
    _harmless = {"log_probability": -1.0, "mean_log_probability": -1.0}
    targets: ClassVar[bool] = True  # a call has a target; without, `value` speaks of log_sum_exp alone
    log_probabilities: ClassVar[bool] = False  # the input is log-probabilities; only that of the target is read
    shift: ClassVar[Callable[..., Any] | None] = None
    factor: ClassVar[Callable[..., Any] | None] = None
    _hooked: ClassVar[dict[str, list[str]]]
    own: ClassVar[Callable[..., Any] | None] = None
    target_score: ClassVar[Callable[..., Any] | None] = None
    scaled_by: ClassVar[str] = ""
    _plan_class = ClassScoresPlan

    _label = "class scores"

    @classmethod
    def _curve(cls) -> Curve | None:
        formulas = cls._formulas.all()
        if cls.log_probabilities:
            (spoken,) = (x for x in SPOKEN if x.name == "log_probability")
            ways = curves.as_they_are(formulas)
            return curves.of_trace(cls, spoken.name, "log_probability", (-6.0, 0.0), [], ways, spoken.meaning)
        ways = [(f.switches, f.numbers, _two_classes(cls, f)) for f in formulas]
        given = []
        if "label_smoothing" in cls.arguments.split():
            given.append(Given("label_smoothing", cls.params["label_smoothing"].doc, 0.0, 0.0, 1.0))
        label = "score of the right class less that of the other, of two classes"
        return curves.of_trace(cls, "score_margin", "logit", (-6.0, 6.0), given, ways, label)

    @classmethod
    def _sight(cls, formula: Formula) -> curves.Sight | None:
        needed = any(cls.params[name].required for names in cls._hooks().values() for name in names)
        if needed or cls.target_score or cls.scaled_by or cls._plan_class not in (ClassScoresPlan, MarginsOfScoresPlan):
            return None  # the scores are changed first, or a row has no class that is right
        target: dict[str, list[Any]] = {"target": [0]} if cls.targets else {}
        if cls.log_probabilities:
            operands = {"input": [["log_probability", -1.0]], **target}
            return curves.sight(
                formula, "log_probability", lambda x, f: {"log_probability": x}, operands, ("input", (0, 0)), ""
            )
        rows = "input.log_softmax(1)"
        spoken = {"log_probability": f"{rows}[:, 0]", "log_sum_exp": "input.logsumexp(1)",
                  "mean_log_probability": f"{rows}.mean(1)"}  # fmt: skip
        operands = {"input": [["score_margin", 0.0]], **target}
        return curves.sight(
            formula, "score_margin", _two_classes(cls, formula), operands, ("input", (0, 0)),
            curves.called(formula, **spoken),
        )  # fmt: skip

    @classmethod
    def _units(cls) -> Rows | None:
        if cls.own or cls.target_score or cls.scaled_by or not cls.targets:
            return None  # the scores are changed before the formula speaks of them, or no class is the right one
        scores = "log-probabilities" if cls.log_probabilities else "scores"
        return Rows(scores, softmax=not cls.log_probabilities, terms="class")

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        classes = 1 if len(shape) > 1 else 0
        scores = draw.normal(*shape)
        target = draw.integers(0, shape[classes], *shape[:classes], *shape[classes + 1 :])
        if not cls.targets:
            return [scores]
        if cls.scaled_by:  # cosines
            scores = torch.tanh(0.3 * scores)
        more = (
            [draw.members(cls.operands[cls.scaled_by].domain, tuple(target.shape))]
            if cls.scaled_by in cls.operands
            else []
        )
        return [scores.log_softmax(classes) if cls.log_probabilities else scores, target, *more]

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        return mathematics(cls, write)

    @classmethod
    def _means(cls) -> list[Equation]:
        weighted = Equation("mean with weight w", r"L = \frac{\sum_i \ell_i}{\sum_i w_{t_i}}", "L = Σᵢ ℓᵢ / Σᵢ w[tᵢ]")
        return super()._means() + ([weighted] if "weight" in cls.arguments.split() else [])

    @classmethod
    def _call_operands(cls) -> list[str]:
        return [
            "input",
            *(["target"] if cls.targets else []),
            *([cls.scaled_by] if cls.scaled_by in cls.operands else []),
        ]

    @classmethod
    def _unreduced(cls) -> str:
        return "a tensor of the shape of input without the classes"

    @classmethod
    def _compiled_formulas(cls) -> list[Formula]:
        return [formula for formula in cls._formulas.all() if not plain(formula)]

    @classmethod
    def _built_in_formulas(cls) -> list[Formula]:
        return [*super()._built_in_formulas(), *cls._terms().values()]

    @classmethod
    @cache  # a class is never freed
    def _terms(cls) -> dict[str, Formula]:
        """The formula of the own class's score, where the kernel changes scores."""
        if not (cls.target_score or cls.scaled_by) or cls.shift or not any(map(plain, cls._formulas.all())):
            return {}
        return {"target_score": Formula(OwnScore(cls), {})}

    @classmethod
    def _declare(cls) -> None:
        if cls.target_score or cls.scaled_by or cls.factor:
            cls._plan_class = MarginsOfScoresPlan
        super()._declare()

    @classmethod
    def _hooks(cls) -> dict[str, list[str]]:
        """The functions that make a tensor with a number for each class, and their arguments."""
        if "_hooked" not in cls.__dict__:  # every call asks, and inspect takes 20 us
            made = {"own": cls.own, "factor": cls.factor, "shift": cls.shift}
            cls._hooked = {name: list(inspect.signature(x).parameters) for name, x in made.items() if x is not None}
        return cls._hooked

    @classmethod
    def _used_elsewhere(cls) -> set[str]:
        used = {name for arguments in cls._hooks().values() for name in arguments} | {cls.scaled_by}
        return used | set(inspect.signature(cls.target_score).parameters if cls.target_score else ())

    @classmethod
    def _made_slots(cls, prefix: str, class_name: str) -> list[str]:
        hooks = [
            f"{class_name}._made({name!r}, {', '.join(f'{x}={prefix}{x}' for x in arguments)})"
            for name, arguments in cls._hooks().items()
        ]
        target = [] if cls.targets else [f"{class_name}._no_target(input)"]
        return target + ([f"*present({', '.join(hooks)})"] if hooks else [])

    @classmethod
    def _no_target(cls, input: Any) -> Any:
        """A class for each row, for the kernel of a loss that has none."""
        if not isinstance(input, Tensor):
            return None
        return input.new_zeros(input.shape[:1] + input.shape[2:] if input.ndim > 1 else (), dtype=torch.int64)

    def _slot_params(self) -> list[Tensor]:
        made = [self._made(name, **{x: getattr(self, x) for x in names}) for name, names in self._hooks().items()]
        return present(*made)

    def _with_slots(self, operands: Sequence[Any]) -> list[Any]:
        return [*operands, *([] if self.targets else [self._no_target(operands[0])]), *self._slot_params()]

    @classmethod
    def _made(cls, name: str, **parameters: Any) -> Tensor | None:
        """What a hook makes for each class."""
        return kept(cls, name, parameters, cls._made_anew)

    @classmethod
    def _made_anew(cls, name: str, **parameters: Any) -> Tensor | None:
        if name == "own":  # it may compare classes, of which a rank may have none
            parameters = {x: _whole(v) if isinstance(v, Tensor) else v for x, v in parameters.items()}
        made: Tensor | None = getattr(cls, name)(**{x: cls._in_domain(x, value) for x, value in parameters.items()})
        return made

    @classmethod
    def _in_domain(cls, name: str, x: Any) -> Any:
        """A tensor parameter of a hook, checked like an operand: an error, or NaN where it is bad."""
        domain = cls.params[name].domain if name in cls.params else cls.operands[name].domain
        if state.checks == "off" or domain.everything or not isinstance(x, Tensor):
            return x
        outside = domain.outside(x.detach())
        hidden = torch.compiler.is_compiling() or observed() or not x.is_cpu
        if state.checks == "nan" or hidden:
            return torch.where(outside, float("nan"), x)
        index = search.first(domain.outside, [x.detach()])
        if index is not None:
            hint = cls.operands[name].hint if name in cls.operands else ""
            raise error("domain", loss=cls.name, argument=name, expected=domain.description,
                        got=f"{x[index].item():.7g}", index=index, hint=f" {hint}" if hint else "")  # fmt: skip
        return x


def _whole(x: Any) -> Tensor:
    """A tensor with the parts of all ranks."""
    whole: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return whole
