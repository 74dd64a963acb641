"""Distances from the boundary of a mask, against SciPy's transform and against every pair of pixels."""

import math
from itertools import product

import numpy as np
import pytest
import torch

import losskit

SPACES = [((17,), (1.5,)), ((9, 7), (1.0, 1.0)), ((1, 6), (2.0, 0.7)), ((13, 11), (2.0, 0.7)), ((5, 6, 7), (3.0, 1.0, 0.5)),
          ((4, 3, 2, 5), (1.0, 2.0, 0.5, 1.0))]  # fmt: skip
SHARES = (0.5, 0.05, 0.95)


def masks(shape, share, batch=(3, 2)):
    made = torch.rand(*batch, *shape, generator=torch.Generator().manual_seed(len(shape))) < share
    made[(0,) * len(batch)] = False
    made[(-1,) * len(batch)] = True
    return made


def of_every_pair(mask, spacing):
    """The distance to the nearest pixel inside, and to the nearest outside, by looking at each."""
    places = np.stack(
        np.meshgrid(*(np.arange(n) * s for n, s in zip(mask.shape, spacing, strict=True)), indexing="ij"), -1
    )
    found = []
    for wanted in (mask, ~mask):
        others = places[wanted]
        found.append(np.sqrt(((places[..., None, :] - others) ** 2).sum(-1)).min(-1))
    return found


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("shape", "spacing"), SPACES, ids=str)
def test_distances(shape, spacing, share):
    batch = masks(shape, share)
    signed = losskit.signed_distance(batch, spacing).double().numpy()
    field = losskit.distance_field(batch, spacing).double().numpy()
    for index in product(*map(range, batch.shape[:2])):
        mask = batch[index].numpy()
        if not mask.any() or mask.all():
            assert not signed[index].any() and not field[index].any()
            continue
        outside, inside = of_every_pair(mask, spacing)
        np.testing.assert_allclose(field[index], outside + inside, rtol=1e-6)
        np.testing.assert_allclose(signed[index], np.where(mask, min(spacing) - inside, outside), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("shape", "spacing"), [*SPACES, ((60, 90), (1.0, 1.0))], ids=str)
def test_as_scipy(shape, spacing, share):
    transform = pytest.importorskip("scipy.ndimage").distance_transform_edt
    mask = masks(shape, share)[0, 1]
    mask.view(-1)[0], mask.view(-1)[-1] = True, False  # SciPy has another rule for what has no boundary
    truth = transform(mask.numpy(), sampling=spacing) + transform(~mask.numpy(), sampling=spacing)
    np.testing.assert_allclose(losskit.distance_field(mask, spacing).numpy(), truth, rtol=1e-6)


def test_whole_squares_are_exact():
    """Distances in pixels are roots of whole numbers, rounded once."""
    mask = masks((40, 30), 0.01)[1, 0]
    outside, inside = of_every_pair(mask.numpy(), (1.0, 1.0))
    squares = np.round((outside + inside) ** 2)
    assert (losskit.distance_field(mask).numpy() == np.sqrt(squares).astype(np.float32)).all()


def test_by_hand():
    """Outside it counts to the object, inside from its boundary, which is 0."""
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]]).bool()
    root = math.sqrt(2.0)
    assert losskit.signed_distance(mask[:1]).tolist() == [[1.0, 0.0, 0.0, 1.0]]
    torch.testing.assert_close(
        losskit.distance_field(mask), torch.tensor([[1.0, 1.0, 1.0, 1.0], [root, 1.0, 1.0, root]])
    )
    wide = torch.tensor([0, 1, 1, 1, 1, 1, 0]).bool()
    assert losskit.signed_distance(wide, (1.0,)).tolist() == [1.0, 0.0, -1.0, -2.0, -1.0, 0.0, 1.0]
    assert losskit.signed_distance(wide, (0.5,)).tolist() == [0.5, 0.0, -0.5, -1.0, -0.5, 0.0, 0.5]


def test_dimensions_before_space_are_a_batch():
    batch = masks((6, 5, 4), 0.3)
    whole = losskit.signed_distance(batch)
    each = torch.stack([losskit.signed_distance(part) for part in batch.flatten(0, 2)])
    assert torch.equal(whole.flatten(0, 2), each)
    volumes = losskit.signed_distance(batch, (1, 1, 1))
    assert not torch.equal(volumes, whole)


@pytest.mark.parametrize("made", [losskit.signed_distance, losskit.distance_field])
def test_layouts_and_dtypes(made):
    mask = masks((8, 6), 0.3)
    assert torch.equal(made(mask.transpose(-1, -2)), made(mask.transpose(-1, -2).contiguous()))
    assert torch.equal(made(mask), made(mask.clone(memory_format=torch.channels_last)))
    assert made(mask).dtype == torch.float32 and not made(mask).requires_grad
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert made(mask).dtype == torch.float64
    finally:
        torch.set_default_dtype(before)
    for empty in (mask[:0], mask[..., :0], mask[..., :0, :]):
        assert made(empty).shape == empty.shape


@pytest.mark.parametrize(
    ("mask", "spacing", "told"),
    [
        ([True], (1.0,), "mask must be a tensor, got list."),
        (torch.zeros(3, 3), (1.0, 1.0), "mask must be boolean, got torch.float32. Of probabilities pass mask > 0.5."),
        (torch.zeros(3).bool(), (1.0, 1.0), "spacing must be 1 to 1 numbers for a mask of shape (3,), got 2."),
        (torch.zeros(3).bool(), (), "spacing must be 1 to 1 numbers for a mask of shape (3,), got 0."),
        (torch.zeros(3, 3).bool(), (1.0, 0.0), "spacing must be positive and finite, got 0.0."),
        (torch.zeros(3, 3).bool(), (1.0, math.nan), "spacing must be positive and finite, got nan."),
        (torch.zeros(3, 3).bool(), (1.0, math.inf), "spacing must be positive and finite, got inf."),
        (torch.zeros(3, 3).bool(), 1.0, "spacing must be a number for each dimension of space, got 1.0."),
        (torch.zeros(3, 3).bool(), ("a", "b"), "spacing must be a number for each dimension of space, got ('a', 'b')."),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("made", [losskit.signed_distance, losskit.distance_field])
def test_refusals(made, mask, spacing, told):
    with pytest.raises(losskit.LossError) as caught:
        made(mask, spacing)
    assert str(caught.value) == f"{made.__name__}: {told}"
