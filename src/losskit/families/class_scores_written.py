"""How people write losses of class scores: their equations, and what the letters stand for."""

from __future__ import annotations

import inspect
from typing import Any

from losskit.display import LOSS, Mathematics, Statistic, Writer, Written, gradient_by, symbol, uses
from losskit.domains import log_probability
from losskit.families.class_scores_plan import STATISTICS
from losskit.formula import log
from losskit.simplify import simplified
from losskit_guide.card import Equation

SPOKEN = (
    Statistic(
        "log_probability", Written(r"\log p_t", "log pₜ"), "log-probability of the target class", log_probability
    ),
    Statistic(
        "log_sum_exp",
        Written(r"\operatorname{lse}(x)", "lse(x)"),
        "logarithm of the sum of the exponentials of the scores",
    ),
    Statistic(
        "mean_log_probability", Written(r"\overline{\log p}", "mean(log p)"), "mean log-probability over the classes"
    ),
)
# How people write what the family adds to it.
_LETTERS = {
    **{statistic.name: statistic.letter for statistic in SPOKEN}, "p_": Written("p_t", "pₜ"),
    "softmax_": Written(r"\operatorname{softmax}(x)_j", "softmax(x)ⱼ"), "hot_": Written("[j = t]", "[j = t]"),
    "classes_": Written("C", "C"),
}  # fmt: skip
_WRITTEN = {
    "p_": (r"p_t = \frac{e^{x_t}}{\sum_j e^{x_j}}", "pₜ = exp(xₜ) / Σⱼ exp(xⱼ)"),
    "log_sum_exp": (r"\operatorname{lse}(x) = \log \sum_j e^{x_j}", "lse(x) = log Σⱼ exp(xⱼ)"),
    "mean_log_probability": (
        r"\overline{\log p} = \frac{1}{C} \sum_j \log \operatorname{softmax}(x)_j",
        "mean(log p) = 1/C Σⱼ log softmax(x)ⱼ",
    ),
}
_WITH = {
    "weight": (r"\ell = w_t \ell_t", "ℓ = wₜ ℓₜ"),
    "label_smoothing": (r"\ell = (1 - s) \, \ell_t + \frac{s}{C} \sum_j \ell_j", "ℓ = (1 − s) ℓₜ + s/C Σⱼ ℓⱼ"),
}
_SYMBOLS = [
    symbol("input", "score of class j in the row", Written("x_j", "xⱼ")),
    symbol("target", "class of the row", Written("t", "t")),
    symbol("[j = t]", "1 for the class of the row, 0 for the others", Written("[j = t]", "[j = t]")),
    symbol("weight", "that of the class of the row", Written("w_t", "wₜ")),
    symbol("label_smoothing", "over C classes", Written("s", "s")),
]


def _of_changed(equation: Equation) -> Equation:
    """An equation of scores x as one of what is made of them, z."""
    latex, plain = equation.latex, equation.plain
    for old, new in (("x_t", "z_t"), ("x_j", "z_j"), ("(x)", "(z)")):
        latex = latex.replace(old, new)
    for old, new in (("xₜ", "zₜ"), ("xⱼ", "zⱼ"), ("(x)", "(z)")):
        plain = plain.replace(old, new)
    return Equation(equation.title.replace("by input", "by the changed scores"), latex, plain)


def _changes(cls: Any, write: Writer) -> list[Equation]:
    """What the scores z are that the loss is taken of."""
    scores = {"x_t": Written("x_t", "xₜ"), "x_j": Written("x_j", "xⱼ"), "own": Written("m_t", "mₜ")}
    scores["scale"] = Written("r", "r")  # s is label smoothing's
    write.letters |= scores | {"score": scores["x_t"]}
    trace = write.trace
    scale = trace.variable(cls.scaled_by) if cls.scaled_by else trace.constant(1.0)
    own = trace.variable("x_t")
    if cls.target_score:
        own = cls.target_score(
            **{name: trace.variable(name) for name in inspect.signature(cls.target_score).parameters}
        )
    shifts = (r" + \mathrm{shift}_t", " + shiftₜ"), (r" + \mathrm{shift}_j", " + shiftⱼ")
    found = []
    for (left, root), shift in zip({"z_t": own, "z_j": trace.variable("x_j")}.items(), shifts, strict=True):
        right = write.write(simplified(trace.lift(scale * root), [], []))
        more = shift if cls.shift else ("", "")
        plain = left.replace("_t", "ₜ").replace("_j", "ⱼ")
        condition = (r" \quad (j \ne t)", ", j ≠ t") if left == "z_j" else ("", "")
        latex = f"{left} = {right.latex}{more[0]}{condition[0]}"
        found.append(Equation("where", latex, f"{plain} = {right.plain}{more[1]}{condition[1]}"))
    return found


def mathematics(cls: Any, write: Writer) -> Mathematics:
    """A loss of class scores in the operands of a call, for people."""
    trace, used = write.trace, write.formula.operands
    value = write.value
    of_rows = [Equation("where", *_WRITTEN[name]) for name in STATISTICS[1:] if name in used]
    write.letters = dict(_LETTERS)
    probability = trace.variable("p_")
    slopes = {name: write.slope(name) for name in used}
    if cls.log_probabilities:
        write.letters["log_probability"] = Written("x_t", "xₜ")
    elif list(used) == ["log_probability"] and uses(value, "log_probability") == 1:
        ratio = Written(r"\log \frac{e^{x_t}}{\sum_j e^{x_j}}", "log(exp(xₜ) / Σⱼ exp(xⱼ))")
        write.letters["log_probability"] = ratio
    elif "log_probability" in used:  # a function of the probability
        of_rows.insert(0, Equation("where", *_WRITTEN["p_"]))
        value = write.simplified(write.replaced(value, "log_probability", log(probability)))
        slopes = {name: write.replaced(x, "log_probability", log(probability)) for name, x in slopes.items()}
    softmax, hot, share = trace.variable("softmax_"), trace.variable("hot_"), 1.0 / trace.variable("classes_")
    inner = {
        "log_probability": -hot if cls.log_probabilities else softmax - hot,
        "log_sum_exp": -softmax,
        "mean_log_probability": softmax - share,
    }  # with the sign that leaves what pushes a score down positive
    slope = write.simplified(sum(write.simplified(-x) * inner[name] for name, x in slopes.items()))
    equations = [
        write.equation("loss", LOSS, value),
        write.equation("gradient by input", gradient_by(Written("x_j", "xⱼ")), slope),
        *of_rows,
    ]
    if cls.target_score or cls.scaled_by or cls.shift:
        equations = [_of_changed(equation) for equation in equations] + _changes(cls, write)
    if cls.factor:
        equations.append(Equation("with a factor", r"\ell = f_t \, \ell_t", "ℓ = fₜ·ℓₜ"))
    with_arguments = cls.arguments.split()
    equations += [Equation(f"with {name}", *_WITH[name]) for name in _WITH if name in with_arguments]
    if cls.targets and not cls.log_probabilities and not cls.target_score:
        equations.append(Equation("with probabilities as target", r"\ell = \sum_j t_j \ell_j", "ℓ = Σⱼ tⱼ ℓⱼ"))
    known = [x for x in _SYMBOLS if x["name"] not in _WITH or x["name"] in with_arguments]
    known += [symbol(name, cls.operands[name].doc) for name in cls._call_operands() if name not in ("input", "target")]
    if not cls.targets:
        known = [x for x in known if x["name"] not in ("target", "[j = t]")]
    hooks = {
        "own": ("m_t", "mₜ", "margin of the row's class"),
        "factor": ("f_t", "fₜ", "factor of the row's class"),
    }
    hooks |= {"shift": (r"\mathrm{shift}_j", "shiftⱼ", "what is added to the score of class j")}
    known += [symbol(name, hooks[name][2], Written(*hooks[name][:2])) for name in cls._hooks()]
    of_hooks = inspect.signature(cls.target_score).parameters if cls.target_score else {}
    more = [name for name in dict.fromkeys([*of_hooks, cls.scaled_by]) if name in cls.params]
    known += [symbol(x, cls.params[x].doc, write.letters.get(x)) for x in more if x not in write.formula.numbers]
    return Mathematics(equations, known + [symbol(name, cls.params[name].doc) for name in write.formula.numbers])
