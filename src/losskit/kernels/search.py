"""Where the first bad value stands, for the error that names it.

Kernels record it; the eager formula and the checks of parameters know only that there is one. It is looked for block by
block, so that the search needs a few megabytes whatever the size and the strides of the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

BLOCK = 1 << 18  # elements that are looked at together


def first(outside: Callable[..., Tensor], tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    """The index of the first element that is `outside`, None if there is none.

    tensors: `outside` gets a block of each. The index is one of the first tensor; the others begin with its dimensions.
    """
    shape = tensors[0].shape
    if tensors[0].numel() <= BLOCK:
        bad = outside(*tensors)
        return tuple(int(i) for i in bad.nonzero()[0]) if bool(bad.any()) else None
    dim = next(d for d, size in enumerate(shape) if size > 1)
    step = max(1, BLOCK // (tensors[0].numel() // shape[dim]))
    for start in range(0, shape[dim], step):
        count = min(step, shape[dim] - start)
        found = first(outside, [x.narrow(dim, start, count) for x in tensors])
        if found is not None:
            return (*found[:dim], start + found[dim], *found[dim + 1 :])
    return None


def place(index: Sequence[int], shape: Sequence[int]) -> int:
    """The flat index of an element; an index of fewer dimensions is one of the last ones."""
    flat = 0
    for i, size in zip((*[0] * (len(shape) - len(index)), *index), shape, strict=True):
        flat = flat * size + i
    return flat


def head(x: Tensor) -> Tensor:
    """The first elements of a tensor, along its first dimension; a block, or what is more of one step."""
    return x[: max(1, BLOCK // max(1, x[0].numel()))] if x.ndim and len(x) else x
