"""The relations between losses that the poster shows: each is computed, both sides, in float64 on random operands."""

import ast
import itertools
import re

import pytest
import torch

import losskit
from losskit.machine import arguments, usual_shape
from losskit_guide.card import catalogue
from losskit_guide.relations import RELATIONS, of

TOWARDS = {"0": (0.0, 1.0), "1": (1.0, -1.0), "2": (2.0, -1.0), "inf": (None, 1.0), "-inf": (None, -1.0)}
OWN_NAMES = {
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "sqrt": lambda x: x**0.5,
    "tensor": lambda numbers: torch.tensor(numbers, dtype=torch.float64),
}
SHAPES = {"multi_quantile_loss": (40, 1)}  # one quantile


def near(bound, k):
    """A number as near to a bound as 10 to the -k."""
    place, side = TOWARDS[bound]
    return side * 10.0**k if place is None else place + side * 10.0**-k


def ordinary(x):
    """An operand without large numbers and divisors near 0: they are late on the way to a limit."""
    return x.clamp(0.3 if x.min() > 0 else -3.0, 3.0) if x.is_floating_point() else x


def sides(relation, **letters):
    """Both sides on the same random operands; letters that no limit moves are ordinary numbers."""
    loss = relation.losses[0]
    torch.manual_seed(0)
    usual = usual_shape(loss)
    shape = SHAPES.get(loss, (40, *usual[1:]) if len(usual) < 3 else (8, 3, 5))
    operands = [ordinary(x) for x in arguments(loss, torch.float64, "cpu", shape)]
    known = dict(zip((entry["name"] for entry in catalogue()[loss].operands), operands, strict=False))

    def called(function):
        def call(*own, **settings):
            tensors = [torch.as_tensor(x, dtype=torch.float64).expand_as(operands[0]) if isinstance(x, int | float)
                       else x for x in own or operands]  # fmt: skip
            return function(*tensors, **settings, reduction="none")

        return call

    losses = {name: called(getattr(losskit.functional, name)) for name in relation.losses}
    functions = {name: getattr(torch, name) for name in ("log", "log1p", "cosh", "round", "sigmoid", "lgamma")}
    text = f"{relation.left} {relation.right}"
    used = {node.id for side in (relation.left, relation.right) for node in ast.walk(ast.parse(side))
            if isinstance(node, ast.Name)}  # fmt: skip
    free = {name: 0.3 + 0.1 * i for i, name in enumerate(sorted(name for name in used if len(name) == 1))}
    counts = torch.arange(1, shape[-1] + 1)
    tensors = {"counts": counts, "prior": counts.double() / counts.sum()}
    scope = {**functions, **OWN_NAMES, **tensors, **known, **losses, **free, **letters}
    assert used <= scope.keys(), text
    return [eval(side, {"__builtins__": {}}, scope) for side in (relation.left, relation.right)]


def distance(left, right):
    """The largest difference, of the numbers' own size."""
    assert left.dtype == right.dtype == torch.float64
    assert left.isfinite().all()
    assert left.std() > 1e-3 or left.numel() < 3, "the operands say nothing"
    return float(((left - right).abs() / (1.0 + right.abs())).max())


@pytest.mark.parametrize("relation", [r for r in RELATIONS if not r.limit], ids=str)
def test_identities(relation):
    assert distance(*sides(relation)) < 1e-12


@pytest.mark.parametrize("relation", [r for r in RELATIONS if r.limit], ids=str)
def test_limits(relation):
    """Each step to a tenth of the way brings the left side much nearer, until rounding."""
    errors = [distance(*sides(relation, **{relation.letter: near(relation.bound, k)})) for k in (0.5, 1, 2, 3, 4, 5, 6)]
    assert errors[0] > 1e-6, "that is no limit, but equal"
    assert errors[-1] < 1e-3
    assert all(later < 0.5 * earlier + 1e-7 for earlier, later in itertools.pairwise(errors[2:])), errors


def test_a_false_relation_is_noticed():
    false = RELATIONS[0]._replace(right="smooth_l1_loss(beta=d)")
    assert distance(*sides(false)) > 0.01


def test_relations_are_numbered_and_name_losses():
    assert len(set(RELATIONS)) == len(RELATIONS)
    for number, relation in enumerate(RELATIONS, 1):
        words = re.findall(r"\w+(?=\()", f"{relation.left} {relation.right}")
        assert len(relation.losses) >= 2
        assert all(number in of(name) for name in words if name in catalogue())
    assert str(RELATIONS[1]) == "huber_loss(delta=d) → (d → ∞) mse_loss / 2"
