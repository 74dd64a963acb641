"""What losses of regions share."""

from losskit.declaration import param
from losskit.domains import nonnegative
from losskit.formula import where

SMOOTH = param(
    default=1e-5, domain=nonnegative,
    doc="Added to numerator and denominator of the score: without any pixel, actual or predicted, the loss is 0.",
)  # fmt: skip


def whole(wrong, both, smooth):
    """What the parts are divided by, and whether there is nothing."""
    size = both + wrong + smooth
    return where(size == 0.0, 1.0, size), size == 0.0


def ratio(wrong, both, smooth):
    """The part of two regions that is wrong, 1 less the score: 0 where they are empty."""
    size, _ = whole(wrong, both, smooth)
    return wrong / size


def slopes(wrong, both, smooth):
    """The derivatives of `ratio` by what is wrong and by what both have; 0 where they are empty."""
    size, nothing = whole(wrong, both, smooth)
    return where(nothing, 0.0, (both + smooth) / size / size), -(wrong / size) / size
