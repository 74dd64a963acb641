"""The `facts` of every declaration, measured in float64 on its value and gradient by the first prediction.

Facts are claimed for the defaults. They are measured for the variants of `samples` too, apart from those in
`DEFAULTS_ONLY`, where a parameter is known to change them.
"""

import dataclasses
import math

import grids
import pointwise_truth
import pytest
import samples
import torch
from tiers import rest

import losskit

DEFAULTS_ONLY = {
    ("binary_cross_entropy_with_logits", "lipschitz"),  # pos_weight scales the gradient of positive labels
    ("bradley_terry_loss", "lipschitz"),  # the square that holds the level grows without end
    ("sigmoid_focal_loss", "lipschitz"),  # where the gradient is largest has no closed form
    ("asymmetric_loss", "lipschitz"),  # the same
    ("sigmoid_focal_loss", "convex"),  # with gamma = 0 it is cross entropy
    ("gamma_nll_loss", "convex"),  # with log_input=False the logarithm of the mean is concave
    ("gamma_deviance_loss", "convex"),
    ("negative_binomial_nll_loss", "convex"),
    ("tweedie_deviance_loss", "convex"),
    ("smooth_l1_loss", "smooth"),  # with beta = 0 it is the absolute error
    ("dpo_loss", "convex"),  # the types of the loss are different losses
    ("dpo_loss", "smooth"),
    ("dpo_loss", "lipschitz"),
    ("dpo_loss", "minimum"),
    ("evidential_regression_loss", "smooth"),  # without a price it has no kink
    ("grpo_loss", "smooth"),  # the divergence is so steep that the kink is not found beside it
    ("pinball_loss", "symmetric"),  # at 0.5 alone
    ("expectile_loss", "symmetric"),  # at 0.5 alone
    ("general_robust_loss", "convex"),  # where alpha is at least 1
    ("general_robust_loss", "lipschitz"),  # where alpha is at most 1, a number that depends on alpha
}


def interval(setup):
    """Where the first operand is looked at; its domain cut to ordinary numbers.

    The gradient of BCE is infinite at a wrong certainty, and its value limited below probabilities of 4e-44: facts
    hold between them.
    """
    domain = grids.formula_of(setup).domains[0]
    bounded = math.isfinite(domain.low) and math.isfinite(domain.high)
    low, high = max(domain.low + 1e-3 * domain.low_open, -20.0), min(domain.high, 20.0)
    return (1e-3, 1.0 - 1e-3) if bounded else (low, high)


def curves(setup):
    """The loss as a function of its first operand, once per choice of the others: x -> (value, gradient)."""
    choices = grids.others(setup)
    compute = pointwise_truth.eagerly(setup)
    first = grids.formula_of(setup).operands[0]

    def curve(fixed):
        def at(x):
            columns = [x, *(torch.full_like(x, number) for number in fixed)]
            value, gradients = compute(columns)
            return value, gradients[first]

        return at

    return [curve(fixed) for fixed in zip(*choices.values())]


def check_convex(setup, claim):
    """The value lies under every chord; or, where the loss is said not to be convex, above one of them."""
    low, high = interval(setup)
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(2000, 2, generator=generator, dtype=torch.float64) * (high - low) + low
    points[1000:, 1] = points[1000:, 0] + 0.1 * (points[1000:, 1] - points[1000:, 0])  # short chords
    steps = torch.linspace(low, high, 41, dtype=torch.float64)
    points = torch.cat([points, torch.cartesian_prod(steps, steps)])
    share = torch.rand(len(points), generator=generator, dtype=torch.float64)
    above = -math.inf
    for curve in curves(setup):
        a, b = points.unbind(1)
        left, right, between = (curve(x)[0] for x in (a, b, share * a + (1 - share) * b))
        chord = share * left + (1 - share) * right
        scale = 1e-12 * (1.0 + left.abs() + right.abs())
        above = max(above, float(((between - chord) / scale).max()))
    assert (above <= 1.0) == bool(claim), f"{setup}: convex={claim}, the value is {above:.3g} tolerances above a chord"


def largest_jump(curve, low, high):
    """The largest step of the gradient, relative to its size where that is above 1.

    The intervals with the largest changes are bisected, down to neighbouring numbers.
    """
    steps = torch.linspace(low, high, 2001, dtype=torch.float64)
    gradient = curve(steps)[1]
    widest = (gradient[1:] - gradient[:-1]).abs().argsort(descending=True)[:8]
    a, b = steps[widest], steps[widest + 1]
    for _ in range(80):
        middle = (a + b) / 2
        left, centre, right = curve(torch.cat([a, middle, b]))[1].chunk(3)
        first = (centre - left).abs() >= (right - centre).abs()
        a, b = torch.where(first, a, middle), torch.where(first, middle, b)
    left, right = curve(torch.cat([a, b]))[1].chunk(2)
    return float(((right - left).abs() / (1.0 + left.abs())).max())


def check_smooth(setup, claim):
    """The gradient has no jumps; or, where the loss is said not to be smooth, a jump is found."""
    low, high = interval(setup)
    jump = max(largest_jump(curve, low, high) for curve in curves(setup))
    assert (jump < 1e-9) == claim, f"{setup}: smooth={claim}, the gradient jumps by {jump:.3g}"


def steepest(setup):
    """The largest magnitude of the gradient over the whole grid, extreme points included."""
    columns = list(grids.grid(grids.known(setup), torch.float64).values())
    gradient = pointwise_truth.eagerly(setup)(columns)[1][grids.formula_of(setup).operands[0]]
    return float(gradient[~gradient.isnan()].abs().max())


def check_lipschitz(setup, claim):
    """The largest magnitude of the gradient is the constant, or what the formula gives; None: there is none."""
    found = steepest(setup)
    if claim is None:
        assert found > 1e6, f"{setup}: lipschitz=None, but no gradient is larger than {found}"
        return
    numbers = {name: setup.setting(name) for name in setup.loss.params}
    want = dataclasses.replace(setup.loss.facts, lipschitz=claim).steepest(numbers)
    assert found == pytest.approx(want, rel=1e-12), f"{setup}: lipschitz={claim}, the steepest gradient is {found}"


def smallest(setup, target=None):
    """The smallest value on the grid; for one target, over all predictions by a search in the first of them."""
    columns = dict(grids.grid(grids.known(setup), torch.float64))
    compute = pointwise_truth.eagerly(setup)
    if target is None:
        value = compute(list(columns.values()))[0]
        return float(value[~value.isnan()].min())
    columns = {name: column[::100] for name, column in columns.items()}
    first = next(iter(columns))
    columns["target"] = torch.full_like(columns["target"], target)
    domain = grids.formula_of(setup).domains[0]
    low, high = (
        torch.full_like(columns[first], x)
        for x in (max(domain.low + 1e-3 * domain.low_open, -2e3), min(domain.high, 2e3))
    )
    for _ in range(100):  # every loss is convex in its first prediction: thirds of the interval can be dropped
        third = (high - low) / 3
        left, right = (compute([x, *list(columns.values())[1:]])[0] for x in (low + third, high - third))
        low, high = torch.where(left > right, low + third, low), torch.where(left > right, high, high - third)
    points = [low, columns["target"]] if domain.includes(target) else [low]  # a step down to 0 is one point wide
    value = torch.cat([compute([x, *list(columns.values())[1:]])[0] for x in points])
    return float(value[~value.isnan()].min())


def check_minimum(setup, claim):
    """The minimum is reached and nothing is below; None: it depends on the target or a parameter, or there is none.

    A logarithm of the smallest number is -745.
    """
    low = smallest(setup)
    if claim is not None:
        assert low == pytest.approx(claim, abs=1e-12), f"{setup}: minimum={claim}, the smallest value is {low}"
        return
    targets = dict.fromkeys(grids.others(setup).get("target", [None]))
    by_target = [smallest(setup, target) for target in targets]
    variants = [s for s in samples.setups() if s.loss is setup.loss and "full" not in s.params]
    by_parameter = [smallest(variant) for variant in variants]
    varies = max(by_target) - min(by_target) > 1e-2 or any(abs(x - low) > 1e-2 for x in by_parameter)
    assert varies or low < -700.0, f"{setup}: minimum=None, but the smallest value is {low} for every target"


def check_symmetric(setup, claim):
    """Exchanging the prediction and the target (or the two predictions) changes nothing; or it does, or cannot be."""
    formula = grids.formula_of(setup)
    names = formula.operands
    second = names.index("target") if names[0] == "input" and "target" in names else 1
    if formula.domains[0] != formula.domains[second]:
        assert not claim, f"{setup}: symmetric, though {names[0]} and {names[second]} have different domains"
        return
    points = [x for x in (-3.0, -1.0, 0.25, 0.5, 1.0, 2.0) if formula.domains[0].includes(x)]
    pairs = torch.cartesian_prod(*[torch.tensor(points, dtype=torch.float64)] * 2)
    others = [1.0 if domain.includes(1.0) else domain.typical for domain in formula.domains]
    columns = [torch.full((len(pairs),), x, dtype=torch.float64) for x in others]
    columns[0], columns[second] = pairs.unbind(1)
    swapped = list(columns)
    swapped[0], swapped[second] = columns[second], columns[0]
    compute = pointwise_truth.eagerly(setup)
    same = torch.allclose(compute(columns)[0], compute(swapped)[0], rtol=1e-14, atol=0.0)
    assert same == claim, f"{setup}: symmetric={claim}"


CHECKS = {
    "convex": check_convex,
    "smooth": check_smooth,
    "lipschitz": check_lipschitz,
    "minimum": check_minimum,
    "symmetric": check_symmetric,
}


FIRST = [samples.Setup(cls, params) for cls in samples.built_in() for params in [{}, *samples.variants(cls)[:1]]]
SETUPS = rest(samples.setups(), FIRST, "elements: facts of every loss with more of its parameters")


@pytest.mark.parametrize("fact", CHECKS)
@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_fact(setup, fact):
    if setup.params and (setup.loss.name, fact) in DEFAULTS_ONLY:
        with pytest.raises(AssertionError):  # the exception is needed for at least one variant
            for variant in (s for s in samples.setups() if s.loss is setup.loss):
                CHECKS[fact](variant, getattr(setup.loss.facts, fact))
        return
    CHECKS[fact](setup, getattr(setup.loss.facts, fact))


@pytest.mark.parametrize("loss", samples.built_in(), ids=lambda loss: loss.name)
def test_convex_in_all_predictions_or_in_the_one_that_is_named(loss):
    """Along chords between pairs of all predictions (a mean and a variance), not of the first alone."""
    setup = samples.Setup(loss)
    formula = grids.formula_of(setup)
    domains = dict(zip(formula.operands, formula.domains, strict=True))
    generator = torch.Generator().manual_seed(5)
    ends = [{name: domain.sample((4000,), generator) for name, domain in domains.items()} for _ in "ab"]
    for name in domains:
        if name == "target" or name in loss.params:
            ends[1][name] = ends[0][name]
    share = torch.rand(4000, generator=generator, dtype=torch.float64)
    between = {name: share * ends[0][name] + (1 - share) * ends[1][name] for name in domains}
    compute = pointwise_truth.eagerly(setup)
    left, right, middle = (compute(list(columns.values()))[0] for columns in (*ends, between))
    chord = share * left + (1 - share) * right
    above = ((middle - chord) / (1e-9 * (1.0 + left.abs() + right.abs()))).max()
    assert (above <= 1.0) == (loss.facts.convex is True)
    assert isinstance(loss.facts.convex, bool) or loss.facts.convex in domains


@pytest.mark.parametrize("loss", samples.built_in(), ids=lambda loss: loss.name)
def test_robust_means_that_no_target_dominates(loss):
    """The pull of a far target is bounded; where targets are labels, the loss of a wrong one."""
    setup = samples.Setup(loss)
    formula = grids.formula_of(setup)
    domains = dict(zip(formula.operands, formula.domains, strict=True))
    columns = list(grids.grid(grids.known(setup), torch.float64).values())
    value = pointwise_truth.eagerly(setup)(columns)[0]
    numbers = "target" in domains and domains["target"].everything
    bounded = steepest(setup) <= 1e6 and (numbers or float(value[~value.isnan()].max()) <= 1e6)
    assert loss.facts.robust == bounded


def test_an_unbounded_gradient_is_not_robust():
    with pytest.raises(losskit.DeclarationError, match="is not robust"):
        losskit.Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=True, robust=True)


@pytest.mark.parametrize("claim", ["c / 2", "max(delta, lambda: 1)", "delta.real", "1 +", "__import__('os')"])
def test_a_slope_is_a_formula_of_the_parameters(claim):
    with pytest.raises(
        losskit.DeclarationError, match=r"lipschitz must be a number, None, or a formula of its parameters"
    ):
        losskit.Facts(True, True, claim, 0.0, True).check("HuberLoss", losskit.HuberLoss.params)
    facts = losskit.Facts(True, True, "max(delta / 2, sqrt(delta))", 0.0, True)
    facts.check("HuberLoss", losskit.HuberLoss.params)
    assert facts.steepest({"delta": 16.0}) == 8.0


def test_aliases_are_one_string():
    with pytest.raises(losskit.DeclarationError, match="`aliases` is one string of names with spaces between"):

        class AliasedLoss(losskit.PointwiseLoss):
            """A loss with names in a tuple."""

            aliases = ("one", "two")
            value = staticmethod(lambda input, target: input - target)
