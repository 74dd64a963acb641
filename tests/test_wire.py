"""What Python, C++ and Triton must agree on: every layout is read as it was packed, and the library keeps the limits.

`tools/generate.py --check` says whether csrc/generated/wire.h is what kernels/wire.py prints. Here the compiled library
is asked, and each limit is tried at its edge, by the kernel and by the formula in torch.
"""

import ctypes
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import losskit
import losskit.functional as LF
from losskit import ClassScoresLoss, EmbeddingsLoss, PointwiseLoss, param
from losskit.domains import log_probability, probability, slack_of
from losskit.errors import DeclarationError
from losskit.families import class_scores, embeddings
from losskit.kernels import fused, library, packing, wire, wire_header

LAYOUTS = {"options": wire.OPTIONS} | {name: op.family for name, op in wire.OPS.items()}
kernels = pytest.mark.skipif(not library.LIBRARY.exists(), reason="there is no compiled library")


def values(field):
    """Values of a field: numbers, or lists of statistics."""
    if field.members is None:
        return st.integers(0, (1 << field.width) - 1)
    return st.lists(st.sampled_from(list(field.members)), max_size=wire.MAX_OPERANDS)


def packable(value):
    return [member.name.lower() for member in value] if isinstance(value, list) else value


# -- layouts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
@given(data=st.data())
def test_a_layout_is_read_as_it_was_packed(name, data):
    layout = LAYOUTS[name]
    fields = {key: data.draw(values(field), label=key) for key, field in layout.fields.items()}
    code = layout.pack(**{key: packable(value) for key, value in fields.items()})
    assert layout.unpack(code) == fields
    assert 0 <= code < 1 << layout.width
    for key, value in fields.items():
        alone = layout.pack(**{key: packable(value)})
        assert alone == code & layout.mask(key)
        assert alone >> layout.shift(key) == layout.fields[key].pack(packable(value))


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_does_not_fit_is_refused(name):
    layout = LAYOUTS[name]
    for key, field in layout.fields.items():
        if field.members is None:
            for value in (-1, 1 << field.width):
                with pytest.raises(ValueError, match=f"does not fit into {field.width} bits"):
                    layout.pack(**{key: value})
        else:
            with pytest.raises(ValueError, match="does not fit"):
                layout.pack(**{key: [field.members(1).name] * (wire.MAX_OPERANDS + 1)})
            with pytest.raises(KeyError):
                layout.pack(**{key: ["no_statistic"]})
    with pytest.raises(KeyError):
        layout.pack(no_field=1)


def test_layouts_fit():
    """A code is an int64, a family's part has its place in it, and entries of lists hold every statistic."""
    assert wire.OPTIONS.width < 64
    assert all(op.family.width <= wire.OPTIONS.fields["family"].width for op in wire.OPS.values())
    lists = [field for layout in LAYOUTS.values() for field in layout.fields.values() if field.members]
    assert lists
    for field in lists:
        assert all(0 < member < 1 << packing.ENTRY for member in field.members)
    assert max(wire.SCALAR_TYPES.values()) + 1 < 1 << wire.OPTIONS.fields["result"].width
    enums = {"reduction": wire.Reduction, "checks": wire.Checks}
    assert all(max(members) < 1 << wire.OPTIONS.fields[name].width for name, members in enums.items())


def test_violations_are_below_what_is_only_suspicious():
    for op in wire.OPS.values():
        assert all(0 < violation < wire.SUSPICIOUS for violation in op.violations or ())


def test_families_speak_of_the_statistics_that_kernels_number():
    for module, members in ((class_scores, wire.ClassScoresStatistic), (embeddings, wire.EmbeddingsStatistic)):
        assert tuple(x.name for x in module.SPOKEN) == wire.names(members)


def test_every_family_has_an_op():
    from losskit.families.base import Family

    plans = {cls._plan_class for cls in losskit.list_losses().values() if issubclass(cls, Family)}
    assert {plan.op for plan in plans if not plan.no_kernel} == set(wire.OPS)


def test_numbers_begin_as_they_are_named():
    given = wire.CLASS_SCORES.given([5.0, 6.0], ignore_index=-100.0, multiple=3.0, smoothing=0.25)
    assert given[2:] == [0.25, -100.0, 3.0, 5.0, 6.0]
    assert math.isnan(given[wire.Number.NORMALIZER]) and given[wire.Number.FACTOR] == 1.0


def test_the_header_names_no_number_twice():
    """Constants of one C++ scope: one name, one value."""
    for scope in re.split(r"namespace \w+ \{|\}  // namespace", wire_header.header()):
        enums = re.findall(r"enum (?!class)[^{]*\{([^}]*)\}", scope)
        found = [pair.split(" = ")[0].strip() for enum in enums for pair in enum.split(",") if pair.strip()]
        assert len(found) == len(set(found))


# -- the compiled library ---------------------------------------------------------------------------------


@kernels
def test_the_library_was_built_from_this_wire():
    assert library.loaded()
    assert ctypes.c_char.in_dll(ctypes.CDLL(str(library.LIBRARY)), wire_header.SYMBOL)


@kernels
def test_a_library_of_another_wire_is_not_used(monkeypatch):
    monkeypatch.setattr(wire_header, "SYMBOL", "losskit_wire_of_another_version")
    library._own.cache_clear()
    try:
        with pytest.warns(UserWarning, match="built from another version of losskit; install losskit again"):
            assert not library.loaded()
    finally:
        monkeypatch.undo()
        library._own.cache_clear()
    assert library.loaded()


def code(reduction="sum", **options):
    return wire.OPTIONS.pack(reduction=wire.Reduction[reduction.upper()], **options)


def call(op, a, b, options, numbers, kernel=0):
    outputs = getattr(torch.ops.losskit, op)(kernel, options, [a, b], None, None, None, None, numbers)
    return outputs[0], outputs[2]


def pointwise(a, b, reduction="sum", parameters=(), **options):
    formula = next(iter(losskit.MSELoss._formulas.values()))
    numbers = wire.POINTWISE.given(parameters)
    return call("pointwise", a, b, code(reduction, **options), numbers, library.find(formula))


def plain(a, b, parameters=(), op=wire.CLASS_SCORES, **family):
    options = code(checks=wire.Checks.RAISE, family=op.family.pack(plain=True, **family))
    return call("class_scores", a, b, options, op.given(parameters, smoothing=0.0, ignore_index=-100.0, multiple=1.0))


@kernels
def test_reductions_and_result_types():
    a, b = torch.tensor([1.0, 5.0]), torch.tensor([0.0, 2.0])
    assert pointwise(a, b, "elements")[0].tolist() == [1.0, 9.0]
    assert pointwise(a, b, "mean")[0] == 5.0
    assert pointwise(a, b, "sum")[0] == 10.0
    for dtype, bits in fused._RESULT.items():
        assert pointwise(a, b, **wire.OPTIONS.unpack(bits) | {"reduction": "sum"})[0].dtype == dtype


@kernels
def test_dimensions_up_to_the_limit():
    for dims, declined in ((wire.MAX_DIMS, False), (wire.MAX_DIMS + 1, True)):
        x = torch.rand((2,) * 2 + (1,) * (dims - 2))
        y = torch.zeros(x.shape[:1] + x.shape[2:], dtype=torch.int64)
        assert (pointwise(x, x)[1] == wire.DECLINED) == declined
        assert (plain(x, y)[1] == wire.DECLINED) == declined


@kernels
def test_parameters_up_to_the_limit():
    x = torch.rand(3, 4)
    y = torch.zeros(3, dtype=torch.int64)
    for count, status in ((wire.MAX_PARAMETERS, 0), (wire.MAX_PARAMETERS + 1, wire.DECLINED)):
        assert pointwise(x, x, parameters=[0.0] * count)[1] == status
        assert plain(x - 5.0, y, parameters=[0.0] * count, log_probabilities=True)[1] == status


def of_parameters(count):
    """A loss with so many numbers, each of which counts."""
    names = [f"p{i}" for i in range(count)]
    scope = {}
    exec(f"def value(input, target, {', '.join(names)}):\n    return (input - target) * ({' + '.join(names)})", scope)
    fields = {name: param(default=float(2**i), doc="A factor.") for i, name in enumerate(names)}
    members = {"__doc__": "Not for use.", "__module__": __name__, "__annotations__": dict.fromkeys(names, float)}
    return type(f"WireOf{count}Loss", (PointwiseLoss,), {**members, **fields, "value": staticmethod(scope["value"])})


def test_declared_numbers_up_to_the_limit():
    most = of_parameters(wire.MAX_DECLARED)()
    assert most(torch.tensor([3.0]), torch.tensor([1.0])) == 2.0 * (2**wire.MAX_DECLARED - 1)
    with pytest.raises(DeclarationError, match=f"a loss may have {wire.MAX_DECLARED} numbers"):
        of_parameters(wire.MAX_DECLARED + 1)


# The kernel and the formula in torch, both through the public function.
PATHS = [pytest.param(True, id="kernel", marks=kernels), pytest.param(False, id="formula")]


def on_path(kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(library, "available", lambda formula: False)
        monkeypatch.setattr(fused, "attempt", lambda *given: None)


@pytest.mark.parametrize("kernel", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_log_probabilities_up_to_the_limit(kernel, dtype, monkeypatch):
    """The largest that is taken, and the next number; of a class that is right, and of one that is not looked at."""
    on_path(kernel, monkeypatch)
    most = torch.tensor(log_probability.high, dtype=dtype)
    above = most * (1 + torch.finfo(dtype).eps)
    assert above > most
    for value, refused in ((most, False), (above, True)):
        scores = torch.stack([value, torch.full_like(value, -5.0)])
        frames, lengths = scores.unsqueeze(0), torch.tensor(1)
        for call in (
            lambda scores=scores: LF.nll_loss(scores.unsqueeze(0), torch.tensor([0])),
            lambda frames=frames: LF.ctc_loss(frames, torch.tensor([1]), lengths, lengths),
        ):
            if refused:
                with pytest.raises(ValueError, match="log-probabilit"):
                    call()
            else:
                call()


@pytest.mark.parametrize("kernel", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_probabilities_up_to_the_slack(kernel, dtype, monkeypatch):
    on_path(kernel, monkeypatch)
    most = torch.tensor(probability.high + slack_of(dtype), dtype=dtype)
    above = most + torch.finfo(dtype).eps
    scores = torch.zeros(1, 2, dtype=dtype)
    for value, refused in ((most, False), (above, True)):
        target = torch.stack([value, torch.zeros_like(value)]).unsqueeze(0)
        pair = torch.full((1,), 0.5, dtype=dtype), value.reshape(1)
        for call in (
            lambda target=target: LF.cross_entropy(scores, target),
            lambda pair=pair: LF.binary_cross_entropy(*pair),
        ):
            if refused:
                with pytest.raises(ValueError, match=re.escape(probability.description)):
                    call()
            else:
                call()


# -- what they were typed apart for ------------------------------------------------------------------------


class WireTestOrderLoss(ClassScoresLoss):
    """The statistics in another order than the kernel's, each with a weight of its own."""

    @staticmethod
    def value(mean_log_probability, log_sum_exp, log_probability):
        return 0.1 * log_sum_exp * log_sum_exp - log_probability - 3.0 * mean_log_probability


class WireTestOrderOfEmbeddingsLoss(EmbeddingsLoss):
    """The target first."""

    @staticmethod
    def value(target, negative_distance, positive_distance):
        return target * positive_distance * positive_distance - 0.25 * negative_distance


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [5, 100])
def test_a_formula_may_name_its_statistics_in_any_order(classes, smoothing, monkeypatch):
    torch.manual_seed(0)
    scores, target = torch.randn(7, classes, dtype=torch.float64), torch.arange(7) % classes

    def outcome():
        loss = WireTestOrderLoss()
        x = scores.clone().requires_grad_()
        shares = torch.nn.functional.one_hot(target, classes).double() * (1 - smoothing) + smoothing / classes
        value = loss(x, target if not smoothing else shares)
        return value.detach(), torch.autograd.grad(value, x)[0]

    got = outcome()
    on_path(False, monkeypatch)
    for one, other in zip(got, outcome(), strict=True):
        torch.testing.assert_close(one, other)


def test_embeddings_may_name_their_statistics_in_any_order(monkeypatch):
    torch.manual_seed(0)
    rows, target = [torch.randn(7, 3, dtype=torch.float64) for _ in range(3)], torch.rand(7, dtype=torch.float64)

    def outcome():
        loss = WireTestOrderOfEmbeddingsLoss()
        leaves = [x.clone().requires_grad_() for x in rows]
        value = loss(*leaves, target)
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    got = outcome()
    on_path(False, monkeypatch)
    for one, other in zip(got, outcome(), strict=True):
        torch.testing.assert_close(one, other)
