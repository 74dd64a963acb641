"""The proof that the truth is awake: broken formulas, each of which must be caught.

Every node of every traced formula, value and gradients, is broken in every way that fits it; the truth must see it.
A mutant that computes the same numbers on another, dense grid is no mutant; those are counted.
"""

import functools
import math

import grids
import pointwise_truth
import pytest
import samples
import test_truth
import torch
from tiers import REPRESENTATIVES, full, rest

from losskit.graph import topological
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


# Two formulas: one of labels and a parameter that is a tensor, one of three operands.
SOME = [i for i, setups in enumerate(by_formula()) if REPRESENTATIVES & set(map(str, setups))][:2]
INDICES = rest(range(len(by_formula())), SOME, "elements: broken formulas of every loss")


@pytest.mark.parametrize("index", INDICES, ids=lambda index: str(by_formula()[index][0]))
def test_broken_formulas_are_caught(index):
    found = judged(index)
    assert not found["survivors"], f"{len(found['survivors'])} survivors:\n" + "\n".join(found["survivors"])
    assert len(found["caught"]) >= 5


@full("elements: broken formulas of every loss")
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


@pytest.mark.parametrize("setup", samples.everything("elements: broken formulas of every loss"))
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
        assert set(loss.params) - {"weight"} == seen - set(loss._optional_operands()), loss.name
