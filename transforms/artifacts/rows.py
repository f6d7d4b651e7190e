"""Images as rows: one voxel after the other with all its directions side by side, and operators on one spatial axis.

In this layout a voxel is read once for all directions, so that an interpolation of 64 directions costs little more than
one of a few, and what works along one axis is a plain matrix product. It is torch's ``channels_last_3d``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike

SLABS = 16
"""Parts along an axis in which a CPU works through whole images, so that what is held meanwhile stays in its cache."""


def as_rows(image: torch.Tensor) -> torch.Tensor:
    """``(C, X, Y, Z)`` as contiguous ``(X, Y, Z, C)``; nothing is copied where memory has that order already."""
    return image.movedim(0, -1).contiguous()


def from_rows(rows: torch.Tensor) -> torch.Tensor:
    """``(X, Y, Z, C)`` as ``(C, X, Y, Z)``, a view."""
    return rows.movedim(-1, 0)


def slabs(n: int) -> Iterator[slice]:
    """Cut ``n`` planes into at most ``SLABS`` parts of one size, the last of which may be smaller."""
    step = -(-n // SLABS)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def cut(tensor: torch.Tensor, axis: int, slab: slice) -> torch.Tensor:
    """Planes of one slab along an axis, a view."""
    return tensor.narrow(axis, slab.start, slab.stop - slab.start)


def by_slabs(
    rows: torch.Tensor, axis: int, function: Callable[[slice], torch.Tensor], result: torch.Tensor | None = None
) -> torch.Tensor:
    """Put together an image like ``rows`` from what ``function`` gives for each slab of a spatial axis.

    On a GPU, where each kernel costs a launch, the whole image is one slab. Else it is written over ``result``, where
    that is given.
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
    """Operator of an image axis that multiplies the planes of k-space along it.

    The Fourier transforms along the other axes cancel, so that ``F^-1 diag(weights) F`` along this one is all there is:
    a circulant matrix, of which the real part is what a real image gives as the real part of its result.

    Args:
        weights: of the n planes, ``(n,)``, that of zero frequency at ``n // 2``.

    Returns:
        real matrix ``(n, n)``.
    """
    kernel = np.fft.ifft(np.fft.ifftshift(weights)).real
    index = np.arange(len(kernel))
    return kernel[(index[:, None] - index) % len(kernel)]


def on_device(values: object, like: torch.Tensor) -> torch.Tensor:
    """Numbers as a tensor of the type and on the device of ``like``, without waiting for a GPU."""
    tensor = torch.as_tensor(values, dtype=like.dtype)
    return tensor.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else tensor.to(like.device)
