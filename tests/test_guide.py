"""What the guide says about the losses: cards, curves, formulas, names. All of it against torch or the formula itself."""

import itertools
import math

import mpmath
import pytest
import samples
import torch

import losskit
from losskit import PointwiseLoss, formula
from losskit.declaration import TASKS
from losskit.describe import explain
from losskit_guide import scalar
from losskit_guide.card import LANGUAGES, catalogue
from losskit_guide.lines import Line, line, points
from losskit_guide.names import _bare, find_name

NAMES = samples.names()
CURVES = [(name, n) for name in NAMES if (curve := catalogue()[name].curve) for n in range(len(curve.variants))]


def lines(name, number, **more):
    """The line of a variant, its tensor parameters given."""
    card = catalogue()[name]
    return Line(card, {**card.curve.variants[number].switches, **more})


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_has_a_whole_card(name):
    card = catalogue()[name]
    assert card.summary
    assert card.best_for
    assert card.not_for
    assert card.reference
    assert card.task in TASKS
    assert card.alternatives, "the docstring should name the loss to prefer elsewhere"
    assert any(line.startswith("Choose") for line in card.advice)
    assert any(line.startswith("Prefer") for line in card.advice)
    assert card.curve is not None or card.family == "composed"
    assert card.variants
    assert all(symbol["meaning"] and symbol["latex"] and symbol["plain"] for symbol in card.symbols)
    assert card.to_dict() == explain(name).to_dict()
    for variant in card.variants:
        for text in (variant.value, *variant.gradients.values()) if card.family != "composed" else ():
            assert set(LANGUAGES) <= set(text)


@pytest.mark.parametrize("name", sorted(formula.PRIMITIVES.keys() & vars(scalar).keys()))
def test_primitives_of_floats_are_torch_s(name):
    primitive = formula.PRIMITIVES[name]
    numbers = [-1e30, -700.0, -30.0, -2.5, -1.0, -1e-9, 0.0, 1e-9, 0.3, 1.0, 2.0, 7.5, 30.0, 700.0, 1e30]
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        picks = torch.randint(len(numbers), (primitive.arity,), generator=generator).tolist()
        x = [numbers[i] for i in picks]
        tensors = [torch.tensor(v, dtype=torch.float64) for v in x]
        if name == "where":
            x[0], tensors[0] = x[0] > 0, tensors[0] > 0
        got = float(getattr(scalar, name)(*x))
        if name in ("lgamma", "digamma", "trigamma"):
            if x[0] <= 0:
                continue  # poles: no formula goes there
            expected = float(primitive.mpmath(mpmath.mpf(x[0])))  # torch's trigamma has nine digits
        elif (name == "clamp" and x[1] > x[2]) or (name == "xlogy" and x[1] < 0):
            continue
        else:
            expected = primitive.torch(*tensors).item()
        assert got == pytest.approx(expected, rel=2e-13, abs=1e-300, nan_ok=True), (name, x)


@pytest.mark.parametrize(("name", "number"), CURVES)
def test_slope_and_curvature_are_derivatives(name, number):
    if samples.stopped(losskit.get(name)):
        pytest.skip("its gradient is not that of its value")
    one = lines(name, number)
    variant, curve = one.variant, one.curve
    functions = [
        scalar.evaluate(t["python"], variant.arguments) for t in (variant.value, variant.slope, variant.curvature)
    ]
    numbers = {g.name: g.value for g in curve.given}
    low, high = curve.low, curve.high
    if not all(math.isfinite(one.at(x)[0]) for x in points(low, high, 11)):
        low = max(low, 0.05)
    h, checked = 1e-5, 0
    for x in points(low + 0.037 * (high - low), high - 0.041 * (high - low), 23):

        def at(f, y):
            return f(*({**numbers, curve.variable: y}[argument] for argument in variant.arguments))

        for f, df in itertools.pairwise(functions):
            left, middle, right = at(df, x - h), at(df, x), at(df, x + h)
            if abs(left - right) > 1e-3 * (1 + abs(middle)):
                continue  # a kink, or too steep for a difference
            assert (at(f, x + h) - at(f, x - h)) / (2 * h) == pytest.approx(middle, rel=1e-4, abs=1e-5), (x, f)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("name", [n for n in NAMES if losskit.get(n).__mro__[1] is PointwiseLoss])
def test_curves_are_what_the_function_computes(name):
    card = catalogue()[name]
    names = [operand["name"] for operand in card.operands]
    for x in points(card.curve.low, card.curve.high, 7):
        given = {g.name: g.value for g in card.curve.given}
        given[card.curve.variable] = x
        cls = losskit.get(name)
        required = {n: torch.tensor([given[n]], dtype=torch.float64) for n, p in cls.params.items() if p.required}
        parts = {n: [f"{n}_{part}" for part in cls.operands[n].components] or [n] for n in names}
        given = {n: [given[part] for part in own] for n, own in parts.items() if own[0] in given}
        of_rows = {n: bool(cls.rows) and not cls.operands[n].per_row for n in given}
        made = {n: torch.tensor(own, dtype=torch.float64) for n, own in given.items()}
        tensors = {n: (x[None] if of_rows[n] else x).requires_grad_() for n, x in made.items()}
        loss = getattr(losskit.functional, name)(**tensors, **required, reduction="sum")
        loss.backward()
        value, slope = line(name).at(x)
        assert value == pytest.approx(loss.item(), rel=1e-12, abs=1e-14)
        place = [part for n in tensors for part in parts[n]].index(card.curve.variable)
        gradients = torch.cat([torch.zeros(1) if x.grad is None else x.grad.reshape(-1) for x in tensors.values()])
        assert slope == pytest.approx(gradients[place].item(), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_curve_of_class_scores_is_that_of_two_classes(smoothing):
    one = line(f"cross_entropy:label_smoothing={smoothing}")
    for z in points(-6.0, 6.0, 9):
        scores = torch.tensor([[z, 0.0]], dtype=torch.float64, requires_grad=True)
        loss = losskit.functional.cross_entropy(scores, torch.tensor([0]), label_smoothing=smoothing)
        loss.backward()
        assert one.at(z) == pytest.approx((loss.item(), scores.grad[0, 0].item()), rel=1e-12)


def test_bce_against_mse_on_a_sigmoid():
    """The comparison of the tutorials: target 0, logits 0, 1.09864 and 10."""
    logits = torch.tensor([0.0, 1.09864, 10.0], dtype=torch.float64, requires_grad=True)
    for name in ("binary_cross_entropy", "mse_loss"):
        losses = getattr(torch.nn.functional, name)(logits.sigmoid(), torch.zeros(3).double(), reduction="none")
        (slopes,) = torch.autograd.grad(losses.sum(), logits)
        got = [line(name, target=0.0).at(x, "logit") for x in logits.tolist()]
        assert [value for value, _ in got] == pytest.approx(losses.tolist(), rel=1e-9)
        assert [slope for _, slope in got] == pytest.approx(slopes.tolist(), rel=1e-6)
    p = 0.3
    assert line("binary_cross_entropy_with_logits").at(p, "probability")[0] == pytest.approx(-math.log(p))
    assert line("nll_loss").at(p, "probability") == pytest.approx((-math.log(p), -1 / p))


# Of divergences of two rows only the sums over a row are the same: see test_two_rows.
OF_TERMS = [n for n in NAMES if losskit.get(n).textbook and not issubclass(losskit.get(n), losskit.TwoRowsLoss)]


@pytest.mark.parametrize("name", OF_TERMS)
def test_the_textbook_says_what_is_computed(name):
    cls = losskit.get(name)
    generator = torch.Generator().manual_seed(3)
    for traced in cls._formulas.values():
        book = traced.traced(cls.textbook)
        names = [*traced.operands, *traced.numbers]
        computed = scalar.evaluate([losskit.printing.print_expr(traced.value, "python")], names)
        printed = scalar.evaluate([losskit.printing.print_expr(book, "python")], names)
        domains = [*traced.domains, *(cls.params[n].domain for n in traced.numbers)]
        columns = [domain.sample((40,), generator).tolist() for domain in domains]
        if "p" in traced.numbers:
            columns[names.index("p")] = [1.0, 2.0] * 20
        if "cosine" in names:
            columns[names.index("cosine")] = [math.tanh(x) for x in columns[names.index("cosine")]]
            columns[names.index("cosine_distance")] = [1.0 - x for x in columns[names.index("cosine")]]
        for numbers in zip(*columns):
            expected = printed(*numbers)
            if math.isfinite(expected):
                assert computed(*numbers) == pytest.approx(expected, rel=1e-9, abs=1e-12), (names, numbers)


def test_no_two_losses_share_a_name():
    bare = [_bare(text) for card in catalogue().values() for text in {card.name, card.class_name, *card.aliases}]
    doubled = [text for text in set(bare) if bare.count(text) > 1]
    for text in doubled:  # a loss may have the same bare name twice: kl_div, KLDivLoss
        assert (
            len({find_name(x, [(c.name, c.class_name, *c.aliases)]) for x in [text] for c in catalogue().values()}) == 2
        )


@pytest.mark.parametrize("module", [losskit, losskit.functional])
def test_a_missing_attribute_names_what_was_meant(module):
    hint = r"Did you mean losskit.MSELoss, or losskit.functional.mse_loss\?"
    for name in ("MSE", "l2", "mse", "MSELos"):
        with pytest.raises(AttributeError, match=hint):
            getattr(module, name)
    with pytest.raises(AttributeError, match=r"has no attribute 'qqq'$"):
        _ = module.qqq
    assert not hasattr(module, "__mse__")
