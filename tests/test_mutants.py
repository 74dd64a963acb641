"""The proof that the suite is awake: broken losses, each of which must be caught by a check of the suite itself.

1. Every node of every traced formula, value and gradients, is broken in every way that fits it; `pointwise_truth.measure`'s
   truth must see it. A mutant that computes the same numbers on another, dense grid is no mutant; those are counted.
2. The code around the formulas is broken by patching, one mistake at a time; the checks of behaviour must see it.
3. Facts, cases and deviations are turned into lies; the checks that measure them must see it.
"""

import copy
import dataclasses
import functools
import math

import checks
import grids
import numpy as np
import pointwise_truth
import pytest
import samples
import test_facts
import test_truth
import torch

from losskit import dtypes, probability
from losskit.families import pointwise_plan as pointwise
from losskit.graph import topological
from losskit.kernels import eager, fused
from losskit.printing import function

# ---------------------------------------------------------------------------------------------------------
# 1. Broken formulas

FLIPPED = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}
SWAPPED = {"add": "sub", "sub": "add", "mul": "div", "div": "mul", "times": "add", "maximum": "minimum",
           "minimum": "maximum", "both": "either", "either": "both"}  # fmt: skip
CONFUSED = {"exp": "expm1", "log": "log1p", "log1p": "log", "softplus": "sigmoid", "sigmoid": "tanh",
            "lgamma": "digamma", "digamma": "log", "absolute": "sign", "sign": "tanh"}  # fmt: skip
OF_MINUS = {"exp", "softplus", "sigmoid"}
PIECES = {"add": (0, 1), "sub": (0, 1), "mul": (0, 1), "div": (0, 1), "times": (0, 1), "maximum": (0, 1), "neg": (0,),
          "minimum": (0, 1), "where": (1, 2), "clamp": (0, 1, 2), "absolute": (0,), "both": (0, 1), "either": (0, 1),
          "softplus": (0,), "sigmoid": (0,)}  # fmt: skip


def broken(node):
    """What may stand in the place of a node, with a name for each mistake."""
    make, args = node.trace.node, node.args
    if node.op == "constant":
        yield "wrong constant", node.trace.constant(node.value * 1.5 + (node.value == 0.0))
        if node.value != 0.0 and math.isfinite(node.value):
            yield "wrong sign", node.trace.constant(-node.value)
    for i in PIECES.get(node.op, ()):
        if not (node.op == "clamp" and i):
            yield f"only argument {i}", args[i]
    if node.op in FLIPPED:
        yield "flipped", make(FLIPPED[node.op], args)
    if node.op in SWAPPED:
        yield SWAPPED[node.op], make(SWAPPED[node.op], args)
    if node.op in CONFUSED:
        yield CONFUSED[node.op], make(CONFUSED[node.op], args)
    if node.op in OF_MINUS:
        yield "of minus", make(node.op, [make("neg", args)])
    if node.op in ("sub", "div"):
        yield "reversed", make(node.op, args[::-1])
    if node.op == "where":
        yield "branches swapped", make("where", [args[0], args[2], args[1]])
    if node.op == "clamp":
        yield "no lower limit", make("minimum", [args[0], args[2]])
        yield "no upper limit", make("maximum", [args[0], args[1]])


def replaced(root, old, new):
    """A formula with one node replaced."""
    made = {old: new}
    for node in topological([root]):
        if node not in made:
            args = tuple(made[arg] for arg in node.args)
            made[node] = (
                node if args == () or all(a is b for a, b in zip(args, node.args)) else node.trace.node(node.op, args)
            )
    return made[root]


def numbers_of(setup, dtype=torch.float64):
    given = grids.parameters(setup, dtype)
    return [torch.tensor(given[name], dtype=dtype) for name in grids.formula_of(setup).numbers]


def computed(setup, root, columns):
    """A root of a formula on a grid, in float64, as the eager path computes it."""
    formula = grids.formula_of(setup)
    result = function(root, [*formula.operands, *formula.numbers])(*columns.values(), *numbers_of(setup))
    like = next(iter(columns.values()))
    return result.expand(like.shape) if isinstance(result, torch.Tensor) else torch.full_like(like, result)


def size_of_terms(setup, root, columns):
    """The largest term of a sum, element by element: the unit in which two forms of it may differ."""
    if root.op in ("add", "sub", "neg"):
        return functools.reduce(torch.maximum, (size_of_terms(setup, arg, columns) for arg in root.args))
    if root.op == "where":
        taken = computed(setup, root.args[0], columns)
        return torch.where(taken, *(size_of_terms(setup, arg, columns) for arg in root.args[1:]))
    if root.op == "mul":
        return size_of_terms(setup, root.args[0], columns) * size_of_terms(setup, root.args[1], columns)
    return computed(setup, root, columns).abs()


def same_numbers(setups, root, mutant):
    """Whether a mutant is equivalent: on another, dense grid it gives what the original gives."""
    for setup in setups:
        columns = grids.grid(grids.known(setup), torch.float64, 3000, 77)
        a, b = computed(setup, root, columns), computed(setup, mutant, columns)
        finite = a.isfinite() & b.isfinite()
        scale = torch.maximum(size_of_terms(setup, root, columns), a.abs())
        near = (a - b).abs() <= 1e-12 * scale
        if not (torch.where(finite, near, (a == b) | (a.isnan() & b.isnan())) | a.isnan()).all():
            return False
    return True


def loses_nan(setup, root):
    """Whether a NaN in some operand leaves a number, as in `test_truth.check_nan`."""
    columns = grids.grid(grids.known(setup), torch.float64)
    poisoned = ({**columns, name: torch.full_like(columns[name], math.nan)} for name in columns)
    return not all(computed(setup, root, given).isnan().all() for given in poisoned)


def caught(setups, what, root, mutant):
    """Whether the truth sees a mutant at a point where the original is right."""
    if what == "value" and loses_nan(setups[0], mutant):
        return True
    for setup in setups:
        columns = grids.grid(grids.known(setup), torch.float64)
        exact = pointwise_truth.truth(grids.known(setup), torch.float64)[what]
        allowed = test_truth.bar(setup, "eager", what)
        right = exact.errors(computed(setup, root, columns)) <= allowed
        if (right & ~(exact.errors(computed(setup, mutant, columns)) <= allowed)).any():
            return True
    return False


def by_formula():
    """Every traced formula that a setup uses, with its setups."""
    found = {}
    for setup in samples.setups():
        found.setdefault(id(grids.formula_of(setup)), []).append(setup)
    return list(found.values())


def roots_of(setups):
    """The value and the gradients of the formula of some setups, by name."""
    formula = grids.formula_of(setups[0])
    return {"value": formula.value, **dict(zip(formula.operands, formula.gradients))}


def mutants_of(root):
    """Every mutant of a formula, once."""
    seen = {root}
    for node in topological([root]):
        for mistake, new in broken(node):
            mutant = replaced(root, node, new)
            if mutant not in seen:
                seen.add(mutant)
                yield f"{mistake}: {node!r}", mutant


@functools.cache
def judged(index):
    """Of one formula: the mutants caught, the equivalent ones, and the survivors."""
    setups = by_formula()[index]
    found = {"caught": [], "equivalent": [], "survivors": []}
    for what, root in roots_of(setups).items():
        for name, mutant in mutants_of(root):
            verdict = "caught" if caught(setups, what, root, mutant) else None
            verdict = verdict or ("equivalent" if same_numbers(setups, root, mutant) else "survivors")
            found[verdict].append(f"{setups[0]} {what}, {name}")
    return found


@pytest.mark.parametrize("index", range(len(by_formula())), ids=[str(setups[0]) for setups in by_formula()])
def test_broken_formulas_are_caught(index):
    found = judged(index)
    assert not found["survivors"], f"{len(found['survivors'])} survivors:\n" + "\n".join(found["survivors"])
    assert len(found["caught"]) >= 5


def test_there_are_enough_broken_formulas():
    """And few of them are excluded."""
    everything = [judged(i) for i in range(len(by_formula()))]
    count = {verdict: sum(len(found[verdict]) for found in everything) for verdict in everything[0]}
    assert count["caught"] >= 500, count
    assert count["equivalent"] <= 0.2 * count["caught"], count


# ---------------------------------------------------------------------------------------------------------
# The grid is awake, too


CHOICES = ("where", "maximum", "minimum", "clamp", "absolute", "sign")


def sides(setup, node, columns):
    """Which sides of a choice the grid takes."""
    first, *rest = (computed(setup, arg, columns) for arg in node.args)
    if node.op == "where":
        return {bool(x) for x in first.unique()}
    if node.op in ("absolute", "sign"):
        return {int(x) for x in first.sign().unique() if x == x} - ({0} if node.op == "absolute" else set())
    if node.op == "clamp":
        return {int(x) for x in ((first > rest[1]).int() - (first < rest[0]).int()).unique()}
    return {bool(x) for x in (first > rest[0]).unique()}


def asks_for_nan(condition):
    """Whether a condition is `x == x`; `test_truth.check_nan` takes its other side."""
    if condition.op == "both":
        return all(map(asks_for_nan, condition.args))
    return condition.op == "eq" and condition.args[0] is condition.args[1]


@pytest.mark.parametrize("index", range(len(by_formula())), ids=[str(setups[0]) for setups in by_formula()])
def test_the_grid_crosses_every_kink(index):
    setups = by_formula()[index]
    wanted = {"where": 2, "maximum": 2, "minimum": 2, "clamp": 3, "absolute": 2, "sign": 3}
    missed = []
    for what, root in roots_of(setups).items():
        for node in topological([root]):
            if node.op in CHOICES and not (node.op == "where" and asks_for_nan(node.args[0])):
                seen = [sides(setup, node, grids.grid(grids.known(setup), torch.float64)) for setup in setups]
                if len(set().union(*seen)) < wanted[node.op]:
                    missed.append(f"{what}: {node!r} {seen}")
    assert not missed, "\n".join(missed)


@pytest.mark.parametrize("setup", samples.everything())
def test_samples_vary_and_reach_the_edges(setup):
    for x, y, z in zip(setup.operands((200,)), setup.operands((200,)), setup.operands((200,), seed=1)):
        assert torch.equal(x, y)
        assert not torch.equal(x, z)
        assert len(x.unique()) > 1
    formula = grids.formula_of(setup)
    for dtype in test_truth.WIDE:
        for domain, column in zip(formula.domains, grids.grid(grids.known(setup), dtype).values()):
            missing = set(torch.tensor(domain.edges(), dtype=torch.float64).to(dtype).tolist()) - set(column.tolist())
            assert not {x for x in missing if domain.includes(x)}, f"{setup}: {missing}"
            assert not domain.outside(column).any()


def test_every_parameter_is_varied():
    for loss in samples.built_in():
        seen = {name for setup in samples.setups() if setup.loss is loss for name in setup.params}
        assert set(loss.params) - {"weight"} == seen, loss.name


# ---------------------------------------------------------------------------------------------------------
# 2. Broken code around the formulas. A mutant patches something; `patch` is pytest's MonkeyPatch.

MUTANTS = {}


def mutant(function):
    """Register a way to break losskit."""
    MUTANTS[function.__name__] = function
    return function


def wrapped(patch, owner, name, wrap):
    """Replace `owner.name` by `wrap(original)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, functools.wraps(original)(wrap(original)))


def packed(change):
    """A mutant of `fused.pack`, by its arguments (reduction, weight_in_mean, rows, broadcast)."""

    def wrap(pack):
        names = ("weight_in_mean", "rows", "broadcast")
        return lambda reduction, **given: (lambda r, *rest: pack(r, **dict(zip(names, rest))))(
            *change(reduction, *(given[name] for name in names))
        )

    return lambda patch: wrapped(patch, fused, "pack", wrap)


def afterwards(init, change):
    """A constructor with something changed at its end."""

    def broken(self, *args):
        init(self, *args)
        change(self)

    return broken


def attempted(change):
    """A mutant of `fused.attempt`, by its arguments as a dict."""
    names = ("plan", "numbers", "a", "b", "c", "d", "weight", "sample_weight", "mask")

    def patching(patch):
        def wrap(attempt):
            def broken(*args, **kwargs):
                given = dict(zip(names, args))
                change(given)
                return attempt(*given.values(), **kwargs)

            return broken

        wrapped(patch, fused, "attempt", wrap)

    return patching


def reduced(change):
    """A mutant of the eager reduction, by its keyword arguments."""

    def patching(patch):
        def wrap(reduce):
            def broken(values, reduction, **kwargs):
                change(values, kwargs)
                return reduce(values, reduction, **kwargs)

            return broken

        wrapped(patch, pointwise, "reduce_eagerly", wrap)

    return patching


def dropped(name):
    return lambda given: given.update({name: None})


def _count_masked(given):
    if given["mask"] is not None and math.isnan(given["numbers"][0]):
        given["numbers"] = [float(given["a"].numel()), *given["numbers"][1:]]


def count_masked_eagerly(patch):
    def wrap(counting):
        def broken(reduction, shape, like, *, mask, **kwargs):
            return mask, counting(reduction, shape, like, mask=None, **kwargs)[1]

        return broken

    wrapped(patch, pointwise, "counting", wrap)


def weighed(counts):
    """A mutant of what the eager mean divides by: whether weights count."""

    def patching(patch):
        def wrap(eager):
            def broken(self, arguments, checks):
                plan = copy.copy(self)
                plan.weight_in_mean = counts
                return eager(plan, arguments, checks)

            return broken

        wrapped(patch, pointwise.PointwisePlan, "eager", wrap)

    return patching


MUTANTS |= {
    "the mean is a sum": packed(lambda r, *rest: ("sum" if r == "mean" else r, *rest)),
    "the sum is a mean": packed(lambda r, *rest: ("mean" if r == "sum" else r, *rest)),
    "weight not in the denominator": packed(lambda r, w, *rest: (r, False, *rest)),
    "weight always in the denominator": packed(lambda r, w, *rest: (r, True, *rest)),
    "rows forgotten": packed(lambda r, w, rows, s: (r, w, False, s)),
    "everything is rows": packed(lambda r, w, rows, s: (r, w, True, s)),
    "every operand broadcasts": packed(lambda r, w, rows, s: (r, w, rows, 15)),
    "weight ignored": attempted(dropped("weight")),
    "sample_weight ignored": attempted(dropped("sample_weight")),
    "mask ignored": attempted(dropped("mask")),
    "normalizer ignored": attempted(lambda given: given.update(numbers=[math.nan, *given["numbers"][1:]])),
    "masked elements counted": attempted(_count_masked),
    "sample_weight for weight": attempted(lambda g: g.update(weight=g["sample_weight"], sample_weight=g["weight"])),
    "input and target exchanged": attempted(lambda given: given.update(a=given["b"], b=given["a"])),
    "parameters reversed": attempted(lambda g: g.update(numbers=[g["numbers"][0], *(2 * x for x in g["numbers"][1:])])),
    "eager: weight ignored": reduced(lambda values, kwargs: kwargs.update(weight=None)),
    "eager: sample_weight ignored": reduced(lambda values, kwargs: kwargs.update(sample_weight=None)),
    "eager: mask ignored": reduced(lambda values, kwargs: kwargs.update(mask=None)),
    "eager: normalizer ignored": reduced(lambda values, kwargs: kwargs.update(normalizer=None)),
    "eager: masked elements counted": count_masked_eagerly,
    "eager: weight always in the denominator": weighed(True),
    "eager: weight not in the denominator": weighed(False),
}


@mutant
def gradient_not_scaled_by_what_comes_from_above(patch):
    def backward(ctx, upstream):
        if ctx.gradients is None:
            return None, *fused._again(ctx, upstream), None, None, None
        gradients, ctx.gradients = ctx.gradients, None
        return None, *gradients, None, None, None

    patch.setattr(fused.Fused, "backward", staticmethod(backward))


@mutant
def gradient_handed_over_twice(patch):
    def wrap(original):
        def backward(ctx, upstream):
            kept = ctx.gradients
            result = original(ctx, upstream)
            ctx.gradients = kept
            return result

        return backward

    patch.setattr(fused.Fused, "backward", staticmethod(wrap(fused.Fused.backward)))


@mutant
def upstream_gradient_ignored_by_elements(patch):
    wrapped(patch, fused, "_again", lambda again: lambda ctx, upstream: again(ctx, torch.ones_like(upstream)))


@mutant
def second_derivative_ignores_upstream(patch):
    def wrap(gradients):
        return lambda *args: gradients(*args[:-2], torch.ones_like(args[-2]), args[-1])

    wrapped(patch, fused, "differentiable", wrap)


@mutant
def eager_gradient_not_scaled(patch):
    original = eager._Formula.backward
    broken = staticmethod(lambda ctx, upstream: original(ctx, torch.ones_like(upstream)))
    patch.setattr(eager._Formula, "backward", broken)


@mutant
def checks_never_raise(patch):
    patch.setattr(fused, "_CHECK_BITS", dict.fromkeys(fused._CHECK_BITS, 0))


@mutant
def nan_mode_lost(patch):
    patch.setattr(fused, "_CHECK_BITS", {**fused._CHECK_BITS, "nan": 0})


@mutant
def nan_mode_raises(patch):
    patch.setattr(fused, "_CHECK_BITS", {**fused._CHECK_BITS, "nan": fused._CHECK_BITS["raise"]})


@mutant
def off_mode_still_checks(patch):
    patch.setattr(fused, "_CHECK_BITS", {**fused._CHECK_BITS, "off": fused._CHECK_BITS["raise"]})


@mutant
def refusal_lost(patch):
    patch.setattr(pointwise.PointwisePlan, "refuse", lambda *args: None)


@mutant
def eager_checks_lost(patch):
    patch.setattr(pointwise.PointwisePlan, "_bad", lambda *args: None)


@mutant
def eager_checks_ignore_the_mask(patch):
    wrapped(
        patch,
        pointwise.PointwisePlan,
        "_bad",
        lambda bad: lambda plan, operands, mask, mode: bad(plan, operands, None, mode),
    )


@mutant
def domains_of_the_wrong_operand(patch):
    def change(plan):
        plan.checked = [(len(plan.domains) - 1 - i, domain) for i, domain in plan.checked]

    patch.setattr(pointwise.PointwisePlan, "__init__", afterwards(pointwise.PointwisePlan.__init__, change))


@mutant
def domains_all_real(patch):
    init = afterwards(pointwise.PointwisePlan.__init__, lambda plan: plan.checked.clear())
    patch.setattr(pointwise.PointwisePlan, "__init__", init)


@mutant
def the_wrong_operand_is_named(patch):
    def wrap(refusal):
        return lambda self, operand, *found: refusal(self, len(self.names) + 1 - operand, *found)

    wrapped(patch, pointwise.PointwisePlan, "_refusal", wrap)


class _Settings:
    """Settings that never change."""

    checks, empty = "raise", "nan"
    process_checks, process_empty = "raise", "nan"

    @staticmethod
    def get():
        """As a context variable outside of any block."""


@mutant
def empty_rule_ignored(patch):
    patch.setattr(fused, "state", _Settings)
    patch.setattr(fused, "empty_of_block", _Settings)


@mutant
def eager_empty_rule_ignored(patch):
    import losskit.reduction

    patch.setattr(losskit.reduction, "state", _Settings)


@mutant
def batchmean_is_mean(patch):
    def wrap(init):
        def broken(self, loss, reduction, parameters):
            init(self, loss, "mean" if reduction == "batchmean" else reduction, parameters)

        return broken

    patch.setattr(pointwise.PointwisePlan, "__init__", wrap(pointwise.PointwisePlan.__init__))


@mutant
def result_in_the_dtype_of_the_input(patch):
    patch.setattr(dtypes, "result_dtype", lambda operands: operands[0].dtype)

    def wrap(attempt):
        def broken(*args, **kwargs):
            result = attempt(*args, **kwargs)
            return result if result is None else result.to(args[2].dtype)

        return broken

    wrapped(patch, fused, "attempt", wrap)


@mutant
def autocast_ignored(patch):
    patch.setattr(torch, "is_autocast_enabled", lambda *args: False)


@mutant
def shapes_not_matched(patch):
    broadcast = lambda plan, tensors: list(torch.broadcast_tensors(*tensors))
    patch.setattr(pointwise.PointwisePlan, "_match_shapes", broadcast)


@mutant
def mask_not_validated_before_the_formula(patch):
    """The eager formula sees what is masked: a NaN behind the mask reaches the gradient."""
    patch.setattr(
        eager.torch,
        "where",
        lambda c, a, b, where=torch.where: a if b is not None and isinstance(b, float) else where(c, a, b),
    )


def seen_by_behaviour():
    """The name of the first check of behaviour that fails, or None.

    It fails by an assertion or a refusal of losskit's; any other error is the mutant's own mistake.
    """
    for name, check in checks.behaviours().items():
        try:
            check()
        except (AssertionError, ValueError):
            return name
    return None


def forget_plans():
    for setup in samples.setups():
        setup.loss._plans.clear()


def test_behaviour():
    """The checks of behaviour hold for losskit itself."""
    for check in checks.behaviours().values():
        check()


def test_broken_behaviour_is_caught():
    assert len(MUTANTS) >= 30
    survivors = []
    for name, break_it in MUTANTS.items():
        forget_plans()
        with pytest.MonkeyPatch.context() as patch:
            break_it(patch)
            if seen_by_behaviour() is None:
                survivors.append(name)
        forget_plans()
    assert seen_by_behaviour() is None, "a mutant was not undone"
    assert not survivors, f"{len(survivors)} of {len(MUTANTS)} survive: {survivors}"


# ---------------------------------------------------------------------------------------------------------
# 3. Lies about a loss


def raises(check, *args):
    try:
        check(*args)
    except AssertionError:
        return True
    return False


def lies(loss, fact):
    """False claims in the place of a true one."""
    truth = getattr(loss.facts, fact)
    if fact not in ("lipschitz", "minimum"):
        return [not truth]
    if fact == "lipschitz":
        return [1.0, 2.0] if truth is None else [None, 3.0 if isinstance(truth, str) else truth / 2, 7.0]
    if truth is None:
        return [0.0, -1e3]
    # That it depends on the target is no lie where labels may be soft: it is their entropy, and 0 for hard ones.
    soft = loss.operands["target"].domain is probability
    return [truth + 0.1, truth - 0.1, *([] if soft else [None])]


def test_false_facts_are_caught():
    """Every fact of every loss, turned around."""
    believed, count = [], 0
    for loss in samples.built_in():
        for fact, check in test_facts.CHECKS.items():
            for claim in lies(loss, fact):
                count += 1
                if not raises(check, samples.Setup(loss), claim):
                    believed.append(f"{loss.name}: {fact}={claim}")
    assert not believed, f"{len(believed)} of {count}: {believed}"


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")  # torch's, of kl_div
def test_false_cases_are_caught():
    """A wrong value or gradient in a worked example or in a deviation."""
    believed = []
    for loss in samples.built_in():
        for case in loss.cases:
            wrong = [("value", case.value + 1e-6)] + (
                [("grad", case.grad + 1e-5 * (1 + abs(case.grad)))] if case.grad is not None else []
            )
            for name, number in wrong:
                lie = copy.copy(case)
                object.__setattr__(lie, name, number)
                if not raises(test_truth.check_case, loss, lie):
                    believed.append(f"{loss.name} {lie}")
        for deviation in loss.deviations:
            for side in ("torch", "losskit"):
                true = getattr(deviation, side)
                lie = dataclasses.replace(deviation, **{side: true * 1.01 + 1.0 if math.isfinite(true) else 1.0})
                if not raises(test_truth.check_deviation, loss, lie):
                    believed.append(f"{loss.name} {lie}")
    assert not believed, believed


def test_errors_in_ulp_are_counted():
    """The measure itself: results moved by 5 ULP, made infinite, NaN or 0 are seen."""
    setup = samples.Setup(samples.built_in()[0])
    for dtype in test_truth.WIDE:
        right = pointwise_truth.fused(setup)

        def moved(operands, change, right=right):
            value, gradients = right(operands)
            return change(value), gradients

        eps = torch.finfo(dtype).eps
        for change in (
            lambda x: x * (1 + 5 * eps), lambda x: x + math.inf, lambda x: x * math.nan, torch.zeros_like, torch.neg,
        ):  # fmt: skip
            broken_loss = functools.partial(moved, change=change)
            assert raises(test_truth.check_accuracy, setup, dtype, "fused", "ordinary", broken_loss)
    half = lambda operands: tuple(
        x + x * 2**-7 if isinstance(x, torch.Tensor) else x for x in pointwise_truth.fused(setup)(operands)
    )
    assert raises(test_truth.check_halves, setup, torch.bfloat16, half)
    assert np.isinf(
        pointwise_truth.Quantity(np.ones(1), np.zeros(1), np.ones(1)).errors(torch.tensor([math.nan]))
    ).all()
