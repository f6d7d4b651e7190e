"""Target of direction: the axis of the largest fODF peak, as two angles or as a dyad.

An axis has no sign: ``v`` and ``-v`` are the same fibre. Two encodings of a unit vector in world RAS:

``angles``
    Polar angle from +z and azimuth from +x in the plane of x and y, ``(theta, phi) / pi``, each in [0, 1], of the one
    of ``v`` and ``-v`` that has y > 0; the target of Weninger et al., BVM 2022. Short, but it has a seam: where y is 0,
    neighbours are encoded as ``(theta, 0)`` and ``(1 - theta, 1)``; and at the poles phi means nothing.
``dyad``
    The six entries ``xx, yy, zz, xy, xz, yz`` of ``v v^T``, each in [-1, 1], the diagonal in [0, 1]. It is the same for
    ``v`` and ``-v`` and continuous everywhere. Any six numbers are a symmetric matrix, and its main eigenvector, that
    of the largest eigenvalue, is the axis whose dyad is nearest to it (Frobenius norm, up to a scale).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from transforms.errors import InputError

CHANNELS = {"angles": 2, "dyad": 6}
"""Encodings and their number of channels."""

DYAD_ORDER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Row and column of each channel of a dyad: xx, yy, zz, xy, xz, yz."""

MATRICES_AT_ONCE = 16384
"""Symmetric matrices that are given to one eigendecomposition: on GPUs the batched solver of cuSOLVER is reported to
fail above about 32,000, and a brain has over 100,000 voxels."""


def to_hemisphere(vectors: torch.Tensor) -> torch.Tensor:
    """Choose of each vector and its opposite the one with y > 0; where y is 0 that with x > 0, else that with z > 0.

    Args:
        vectors: ``(3, ...)``, NaN stays NaN.
    """
    x, y, z = vectors
    opposite = (y < 0) | ((y == 0) & ((x < 0) | ((x == 0) & (z < 0))))
    # a zero has no sign either: atan2(0, -0) is pi
    return torch.where(opposite, -vectors, vectors) + 0.0


def encode_direction(axes: torch.Tensor, encoding: str) -> torch.Tensor:
    """Encode axes.

    Args:
        axes: ``(3, ...)``, vectors of any length in world RAS; NaN and zero vectors have no direction.
        encoding: ``angles`` or ``dyad``, see the module.

    Returns:
        ``(2, ...)`` in [0, 1] or ``(6, ...)`` in [-1, 1], NaN where there is no direction.

    Raises:
        InputError: another encoding.
    """
    _check(encoding)
    length = torch.linalg.vector_norm(axes, dim=0)
    unit = torch.where(length > 0, axes / length, torch.nan)
    if encoding == "dyad":
        return torch.stack([unit[row] * unit[column] for row, column in DYAD_ORDER])
    x, y, z = to_hemisphere(unit)
    # arccos(z) would be blind near the poles
    theta = torch.atan2(torch.hypot(x, y), z)
    return torch.stack([theta, torch.atan2(y, x)]) / torch.pi


def decode_direction(code: torch.Tensor, encoding: str) -> torch.Tensor:
    """Turn encoded axes, or what a network returned for them, into unit vectors.

    Args:
        code: ``(2, ...)`` or ``(6, ...)``, any real numbers; angles beyond [0, 1] go on around the sphere.
        encoding: ``angles`` or ``dyad``, see the module.

    Returns:
        ``(3, ...)``, unit vectors in world RAS with y >= 0; some unit vector where all directions are equally good (a
        dyad of zeros), and NaN where any channel is not finite.

    Raises:
        InputError: another encoding, or another number of channels.
    """
    _check(encoding)
    if len(code) != CHANNELS[encoding]:
        raise InputError(f"direction: found {len(code)} channels, expected {CHANNELS[encoding]} for {encoding}.")
    # an eigendecomposition ends with an error where it meets a NaN
    valid = torch.isfinite(code).all(dim=0)
    vectors = torch.full((3, *code.shape[1:]), torch.nan, dtype=code.dtype, device=code.device)
    if encoding == "dyad":
        entries = torch.zeros(3, 3, dtype=torch.long, device=code.device)
        for channel, (row, column) in enumerate(DYAD_ORDER):
            entries[row, column] = entries[column, row] = channel
        matrices = code[:, valid].T[:, entries]
        # eigenvalues come in ascending order
        main = [torch.linalg.eigh(part).eigenvectors[..., -1] for part in matrices.split(MATRICES_AT_ONCE)]
        vectors[:, valid] = torch.cat(main).T
    else:
        theta, phi = code[:, valid] * torch.pi
        vectors[:, valid] = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()])
    return to_hemisphere(vectors)


def _check(encoding: str) -> None:
    if encoding not in CHANNELS:
        raise InputError(f"encoding: found {encoding!r}, expected one of {', '.join(CHANNELS)}.")


class EncodeDirectiond(Transform):
    """Make ``label`` for the task ``direction``: the encoded axis in white matter, NaN elsewhere and where it is zero.

    Args:
        peak_key: where the axis stands, a unit vector in world RAS, ``(3, X, Y, Z)``.
        white_matter_key: where the mask of white matter stands, ``(1, X, Y, Z)``.
        label_key: where the target goes, ``(6, X, Y, Z)`` or ``(2, X, Y, Z)``, float32.
        encoding: ``dyad`` or ``angles``, see ``encode_direction``.

    Raises:
        InputError: another encoding, or a peak that is no image of vectors.
    """

    def __init__(
        self,
        peak_key: str = "peak",
        white_matter_key: str = "white_matter",
        label_key: str = "label",
        encoding: str = "dyad",
    ) -> None:
        _check(encoding)
        self.peak_key = peak_key
        self.white_matter_key = white_matter_key
        self.label_key = label_key
        self.encoding = encoding

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the target to ``data``."""
        peak = data[self.peak_key]
        if len(peak) != 3:
            raise InputError(f"{self.peak_key}: found {len(peak)} volumes, expected the 3 components of a vector.")
        inside = data[self.white_matter_key] > 0.5
        label = torch.where(inside, encode_direction(peak.float(), self.encoding), torch.nan)
        return {**data, self.label_key: label}


class DecodeDirectiond(MapTransform):
    """Turn encoded axes into unit vectors; outside the mask zero vectors, NaN where the code is NaN.

    Args:
        keys: ``(6, X, Y, Z)`` or ``(2, X, Y, Z)``, the output of a network or a target; become ``(3, X, Y, Z)``.
        encoding: ``dyad`` or ``angles``, see ``decode_direction``.
        mask_key: where the mask stands, ``(1, X, Y, Z)``, on the same grid: the brain, or white matter if it is known.

    Raises:
        InputError: another encoding, or another number of channels.
    """

    def __init__(self, keys: KeysCollection, encoding: str = "dyad", mask_key: str = "mask") -> None:
        super().__init__(keys)
        _check(encoding)
        self.encoding = encoding
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Decode each key of ``data``."""
        result = dict(data)
        for key in self.key_iterator(data):
            code = data[key].float()
            inside = (data[self.mask_key] > 0.5).to(code.device)
            missing = torch.isnan(code).any(dim=0, keepdim=True)
            # what lies outside is not worth an eigendecomposition
            vectors = decode_direction(torch.where(inside, code, torch.nan), self.encoding)
            result[key] = torch.where(inside | missing, vectors, 0.0)
        return result
