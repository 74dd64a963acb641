"""Operands with one number for each row, and places in a row: what the kernel takes as it is given, and refuses."""

import pytest
import torch

import losskit
import losskit.functional as LF

LOSSES = {
    "coral_loss": (lambda target: (target,), 1),
    "corn_loss": (lambda target: (target,), 1),
    "logistic_hazard_loss": (lambda interval: (interval, torch.ones(len(interval))), 0),
}
BAD = [(bad, dtype) for bad in (-1, 5, 127) for dtype in (torch.int8, torch.int64, torch.float32)]


def scores(rows=4, questions=3, dtype=torch.float32):
    return torch.randn(rows, questions, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("bad", "dtype"), [*BAD, (0.5, torch.float32), (-0.25, torch.float64)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_place_that_is_none_is_refused_by_its_row(name, bad, dtype, reduction):
    more, beyond = LOSSES[name]
    target = torch.tensor([0.0, 2.0, bad, 1.0]).to(dtype)
    with pytest.raises(ValueError, match=rf"a whole number from 0 to {2 + beyond}, got .* at index \(2,\)"):
        getattr(LF, name)(scores(), *more(target), reduction=reduction)


@pytest.mark.parametrize("name", LOSSES)
def test_every_place_of_a_row_is_taken_and_none_beyond(name):
    more, beyond = LOSSES[name]
    for questions in (1, 7, 70, 1500):
        last = questions - 1 + beyond
        call = getattr(LF, name)
        assert call(scores(2, questions), *more(torch.tensor([0, last]))).isfinite()
        with pytest.raises(ValueError, match="whole number"):
            call(scores(2, questions), *more(torch.tensor([0, last + 1])))


@pytest.mark.parametrize("name", LOSSES)
def test_nan_for_a_place_gives_nan_and_a_masked_one_nothing(name):
    more, _ = LOSSES[name]
    target = torch.tensor([0.0, float("nan"), 1.0, 9.0])
    mask = torch.tensor([True, False, True, False])
    call = getattr(LF, name)
    with losskit.checks("nan"):
        assert call(scores(), *more(target)).isnan()
    x = scores().requires_grad_()
    loss = call(x, *more(target), mask=mask)
    few = call(x.detach()[mask], *more(target[mask]))
    torch.testing.assert_close(loss.detach(), few)
    loss.backward()
    assert bool((x.grad[~mask] == 0).all())


def test_a_bad_number_of_a_row_is_named_by_its_row():
    with pytest.raises(ValueError, match=r"event .*got 1\.5 at index \(1,"):
        LF.logistic_hazard_loss(scores(), torch.tensor([0, 1, 2, 0]), torch.tensor([1.0, 1.5, 0.0, 0.0]))


@pytest.mark.parametrize(
    "layout", [lambda x: x, lambda x: x.t().contiguous().t(), lambda x: x.repeat_interleave(2, 1)[:, ::2]]
)
def test_numbers_of_rows_belong_to_rows_in_every_layout(layout):
    """Also where there are as many rows as numbers in a row."""
    x, target = scores(3, 3), torch.tensor([0, 1, 3])
    each = torch.stack([LF.coral_loss(x[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(LF.coral_loss(layout(x), target), each.mean())
    deviations = torch.tensor([0.5, 1.0, 2.0])
    own = torch.stack([LF.laplace_nll_loss(x[i], x[i] + 1, deviations[i].expand(3)) for i in range(3)])
    torch.testing.assert_close(LF.laplace_nll_loss(layout(x), x + 1, deviations), own.mean())


def test_a_gradient_by_numbers_of_rows_is_theirs():
    x, deviations = scores(4, 3, torch.float64), torch.full((4,), 0.7, dtype=torch.float64, requires_grad=True)
    LF.laplace_nll_loss(x, x + 1, deviations).backward()
    full = torch.full((4, 3), 0.7, dtype=torch.float64, requires_grad=True)
    LF.laplace_nll_loss(x, x + 1, full).backward()
    torch.testing.assert_close(deviations.grad, full.grad.sum(-1))


def test_the_mean_of_counted_elements_is_that_of_weighted_rows():
    x, target = scores(5, 4, torch.float64).requires_grad_(), torch.tensor([0, 4, 2, 3, 1])
    weight = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    asked = (target.unsqueeze(1) >= torch.arange(4)).double()
    above = (target.unsqueeze(1) > torch.arange(4)).double()
    each = torch.nn.functional.binary_cross_entropy_with_logits(x, above, reduction="none") * asked
    rows = weight.unsqueeze(1)
    expected = (each * rows).sum() / (asked * rows).sum()
    loss = LF.corn_loss(x, target, sample_weight=weight)
    torch.testing.assert_close(loss, expected)
    (wanted,) = torch.autograd.grad(expected, x)
    (found,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(found, wanted)
