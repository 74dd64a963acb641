"""Distances of pixels from the boundary of a mask, which BoundaryLoss and HausdorffDTLoss weigh by.

1. The transform is exact and separable: the squared distance is the least over one dimension after the other, of the
   squared distance so far and the square of the step (Felzenszwalb and Huttenlocher, 2012). Along the first dimension
   two running maxima give it. Along each further one, steps of one pixel more are tried until none of them can be the
   least any more, so that the work grows with the largest distance and all of it is torch's operators, on any device.
2. It runs in float64, where squares of whole distances are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from losskit.domains import positive
from losskit.errors import error

PLANE = (1.0, 1.0)


def signed_distance(mask: Tensor, spacing: Sequence[float] = PLANE) -> Tensor:
    """The distance of each pixel to the boundary of the object in a mask, negative inside of it.

    Choose it for the `distance_map` of BoundaryLoss. Make it once for each image, in the data set, not in every step.

    A pixel outside has its Euclidean distance to the nearest pixel of the object. A pixel inside has its distance to
    the nearest one outside, less one pixel (the smallest spacing), and with a minus: the object's own boundary is 0. A
    mask without an object, or without anything else, has no boundary: it is 0 everywhere.

    Args:
        mask: True inside of the object, (..., H, W) for the default spacing. Boolean, on any device. The dimensions
            before those of space are a batch: of images, of classes.
        spacing: The size of a pixel along each dimension of space, and how many of these there are: the last
            len(spacing) dimensions of mask, so that (1, 1, 1) is for volumes. Positive.

    Returns:
        A tensor of the shape of mask, without a gradient, of torch's default dtype.

    Raises:
        TypeError: The mask is no boolean tensor, or spacing is no sequence of numbers.
        ValueError: The mask has fewer dimensions than spacing has numbers, or one of these is not positive.

    Example:
        >>> import torch, losskit
        >>> losskit.signed_distance(torch.tensor([[0, 0, 1, 1, 1, 0]]).bool())
        tensor([[ 2.,  1.,  0., -1.,  0.,  1.]])

    Source: Kervadec, H. et al. (2019). Boundary loss for highly unbalanced segmentation. MIDL. arXiv:1812.07032.
    """
    steps = _steps("signed_distance", mask, spacing)
    outside, inside = _distances(mask, steps)
    return torch.where(mask, (min(steps) - inside).clamp(max=0.0), outside).to(torch.get_default_dtype())


def distance_field(mask: Tensor, spacing: Sequence[float] = PLANE) -> Tensor:
    """The distance of each pixel from the boundary of the object in a mask, inside and outside.

    Choose it for both fields of HausdorffDTLoss: of `input > 0.5` in every step, and of the true mask once.

    A pixel outside has its Euclidean distance to the nearest pixel of the object, a pixel inside that to the nearest
    one outside, so that none is 0. A mask without an object, or without anything else, has no boundary: it is 0
    everywhere.

    Args:
        mask: True inside of the object, (..., H, W) for the default spacing. Boolean, on any device. The dimensions
            before those of space are a batch: of images, of classes.
        spacing: The size of a pixel along each dimension of space, and how many of these there are: the last
            len(spacing) dimensions of mask, so that (1, 1, 1) is for volumes. Positive.

    Returns:
        A tensor of the shape of mask, without a gradient, of torch's default dtype.

    Raises:
        TypeError: The mask is no boolean tensor, or spacing is no sequence of numbers.
        ValueError: The mask has fewer dimensions than spacing has numbers, or one of these is not positive.

    Example:
        >>> import torch, losskit
        >>> losskit.distance_field(torch.tensor([[0, 0, 1, 1, 1, 0]]).bool())
        tensor([[2., 1., 1., 2., 1., 1.]])

    Source: Karimi, D. and Salcudean, S. E. (2019). Reducing the Hausdorff distance in medical image segmentation with
        convolutional neural networks. IEEE Trans. Med. Imaging 39, 499-513. arXiv:1904.10030.
    """
    outside, inside = _distances(mask, _steps("distance_field", mask, spacing))
    return torch.where(mask, inside, outside).to(torch.get_default_dtype())


def _distances(mask: Tensor, steps: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The distances to the nearest pixel inside, and to the nearest one outside; all 0 where either is missing."""
    if not mask.numel():
        return mask.double(), mask.double()
    dims = tuple(range(-len(steps), 0))
    bounded = mask.any(dims, keepdim=True) & ~mask.all(dims, keepdim=True)
    found = []
    for wanted in (mask, ~mask):
        squares = torch.where(bounded, _along(wanted, steps[-1]), 0.0)
        for dim, step in zip(dims[-2::-1], steps[-2::-1], strict=True):
            squares = _further(squares, dim, step)
        found.append(squares.sqrt())
    return found[0], found[1]


def _along(mask: Tensor, step: float) -> Tensor:
    """The squared distances to the nearest pixel of a mask along the last dimension; infinite where there is none."""
    place = torch.arange(mask.shape[-1], dtype=torch.float64, device=mask.device)
    before = torch.where(mask, place, -math.inf).cummax(-1).values
    after = torch.where(mask, place, math.inf).flip(-1).cummin(-1).values.flip(-1)
    return (torch.minimum(place - before, after - place) * step).square()


def _further(squares: Tensor, dim: int, step: float) -> Tensor:
    """The least squared distances after steps along one more dimension."""
    found, size = squares.clone(), squares.shape[dim]
    for n in range(1, size):
        farther = (n * step) ** 2
        if not bool(found.max() > farther):
            break
        for start, source in ((n, 0), (0, n)):
            part = found.narrow(dim, start, size - n)
            torch.minimum(part, squares.narrow(dim, source, size - n) + farther, out=part)
    return found


def _steps(name: str, mask: Tensor, spacing: Sequence[float]) -> tuple[float, ...]:
    """The spacing as numbers, after a look at the arguments."""
    if not isinstance(mask, Tensor):
        raise error("not_a_tensor", loss=name, argument="mask", got=type(mask).__name__)
    if mask.dtype != torch.bool:
        raise error("parameter_type", loss=name, argument="mask", expected="boolean", got=str(mask.dtype),
                    hint=" Of probabilities pass mask > 0.5.")  # fmt: skip
    if not isinstance(spacing, Sequence) or not all(isinstance(step, Real) for step in spacing):
        raise error("parameter_type", loss=name, argument="spacing", expected="a number for each dimension of space",
                    got=repr(spacing))  # fmt: skip
    steps = tuple(float(step) for step in spacing)
    for step in steps:
        if not (positive.includes(step) and step < math.inf):
            raise error("parameter", loss=name, argument="spacing", expected="positive and finite", got=repr(step))
    if not 0 < len(steps) <= mask.ndim:
        expected = f"1 to {mask.ndim} numbers for a mask of shape {tuple(mask.shape)}"
        raise error("parameter", loss=name, argument="spacing", expected=expected, got=len(steps))
    return steps
