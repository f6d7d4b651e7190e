"""Images as rows, one per voxel with all its directions side by side, and operators on one spatial axis.

In this layout a voxel is read once for all directions, so interpolating 64 directions costs little more than
interpolating a few. An operator along one axis is a plain matrix product. The layout is torch's ``channels_last_3d``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike

MAX_SLABS = 16
"""Largest number of slabs into which a CPU cuts an image along an axis: intermediate results stay in its cache."""


def as_rows(image: torch.Tensor) -> torch.Tensor:
    """Return ``(C, X, Y, Z)`` as contiguous ``(X, Y, Z, C)``, without a copy if memory has that order already."""
    return image.movedim(0, -1).contiguous()


def from_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return ``(X, Y, Z, C)`` as ``(C, X, Y, Z)``, a view."""
    return rows.movedim(-1, 0)


def slabs(n: int) -> Iterator[slice]:
    """Cut ``n`` planes into at most ``MAX_SLABS`` parts of one size; the last part may be smaller."""
    step = -(-n // MAX_SLABS)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def cut(tensor: torch.Tensor, axis: int, slab: slice) -> torch.Tensor:
    """Return the planes of one slab along an axis, a view."""
    return tensor.narrow(axis, slab.start, slab.stop - slab.start)


def by_slabs(
    rows: torch.Tensor, axis: int, function: Callable[[slice], torch.Tensor], result: torch.Tensor | None = None
) -> torch.Tensor:
    """Build an image like ``rows`` from what ``function`` returns for each slab of a spatial axis.

    On a GPU each kernel costs a launch, so the whole image is one slab. On a CPU the image is written over ``result``,
    if one is given.
    """
    if rows.device.type != "cpu":
        return function(slice(0, rows.shape[axis]))
    result = torch.empty_like(rows) if result is None else result
    for slab in slabs(rows.shape[axis]):
        cut(result, axis, slab).copy_(function(slab))
    return result


def along_axis(matrix: torch.Tensor, rows: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply ``rows`` ``(X, Y, Z, C)`` along a spatial axis of length n by ``matrix`` ``(m, n)``."""
    before, after = rows.shape[:axis], rows.shape[axis + 1 :]
    product = torch.matmul(matrix, rows.reshape(*before, rows.shape[axis], -1))
    return product.reshape(*before, len(matrix), *after)


def k_space_filter(weights: ArrayLike) -> np.ndarray:
    """Return the matrix along an image axis that multiplies the planes of k-space by weights.

    The Fourier transforms along the other axes cancel. What remains is the circulant matrix ``F^-1 diag(weights) F``.
    The image is real, so the real part of this matrix gives the real part of the result.

    Args:
        weights: weights of the n planes, ``(n,)``, with zero frequency at ``n // 2``.

    Returns:
        real matrix ``(n, n)``.
    """
    kernel = np.fft.ifft(np.fft.ifftshift(weights)).real
    index = np.arange(len(kernel))
    return kernel[(index[:, None] - index) % len(kernel)]


def on_device(values: object, like: torch.Tensor) -> torch.Tensor:
    """Return numbers as a tensor of the type and on the device of ``like``, without waiting for a GPU."""
    tensor = torch.as_tensor(values, dtype=like.dtype)
    return tensor.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else tensor.to(like.device)
