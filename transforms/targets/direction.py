"""Target of direction: the axis of the largest fODF peak, as two angles or as a dyad.

An axis has no sign: ``v`` and ``-v`` are the same fibre. A unit vector in world RAS has two encodings:

``angles``
    Polar angle from +z and azimuth from +x in the plane of x and y, as ``(theta, phi) / pi``, each in [0, 1]. They are
    the angles of ``v`` or ``-v``, whichever has y > 0. This is the target of Weninger et al., BVM 2022. The code is
    short, but it has a seam: where y is 0, neighbours are encoded as ``(theta, 0)`` and ``(1 - theta, 1)``. At the
    poles phi means nothing.
``dyad``
    The six entries ``xx, yy, zz, xy, xz, yz`` of ``v v^T``, each in [-1, 1], the diagonal in [0, 1]. The code is the
    same for ``v`` and ``-v`` and continuous everywhere. Any six numbers are a symmetric matrix. Its main eigenvector,
    that of the largest eigenvalue, is the axis whose dyad is nearest to the matrix (Frobenius norm, up to a scale).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from transforms.errors import InputError, counted

CHANNELS = {"angles": 2, "dyad": 6}
"""Number of channels of each encoding."""

DYAD_ORDER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Row and column of each channel of a dyad: xx, yy, zz, xy, xz, yz."""

MATRICES_AT_ONCE = 16384
"""Number of symmetric matrices in one eigendecomposition. On GPUs the batched solver of cuSOLVER is reported to fail
above about 32,000, and a brain has over 100,000 voxels."""


def to_hemisphere(vectors: torch.Tensor) -> torch.Tensor:
    """Return each vector or its opposite, whichever has y > 0.

    Where y is 0, x decides in the same way; where x is 0 as well, z does.

    Args:
        vectors: vectors ``(3, ...)``; NaN stays NaN.
    """
    x, y, z = vectors
    opposite = (y < 0) | ((y == 0) & ((x < 0) | ((x == 0) & (z < 0))))
    # adding 0 takes the sign from -0, because atan2(0, -0) is pi
    return torch.where(opposite, -vectors, vectors) + 0.0


def encode_direction(axes: torch.Tensor, encoding: str) -> torch.Tensor:
    """Encode axes.

    Args:
        axes: vectors ``(3, ...)`` of any length in world RAS; NaN and zero vectors have no direction.
        encoding: ``angles`` or ``dyad``, see the module.

    Returns:
        ``(2, ...)`` in [0, 1] or ``(6, ...)`` in [-1, 1], NaN where there is no direction.

    Raises:
        InputError: there is no such encoding.

    Examples:
        >>> encode_direction(torch.tensor([0.0, 1.0, 0.0]), "dyad").tolist()
        [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
        >>> encode_direction(torch.tensor([0.0, -1.0, 0.0]), "angles").tolist()
        [0.5, 0.5]
    """
    _check(encoding)
    length = torch.linalg.vector_norm(axes, dim=0)
    unit = torch.where(length > 0, axes / length, torch.nan)
    if encoding == "dyad":
        return torch.stack([unit[row] * unit[column] for row, column in DYAD_ORDER])
    x, y, z = to_hemisphere(unit)
    # arccos(z) is inexact near the poles
    theta = torch.atan2(torch.hypot(x, y), z)
    return torch.stack([theta, torch.atan2(y, x)]) / torch.pi


def decode_direction(code: torch.Tensor, encoding: str) -> torch.Tensor:
    """Turn encoded axes, or what a network returned for them, into unit vectors.

    Args:
        code: ``(2, ...)`` or ``(6, ...)``, any real numbers; angles beyond [0, 1] continue around the sphere.
        encoding: ``angles`` or ``dyad``, see the module.

    Returns:
        unit vectors ``(3, ...)`` in world RAS with y >= 0. Where all directions are equally good (a dyad of zeros),
        some unit vector; where any channel is not finite, NaN.

    Raises:
        InputError: there is no such encoding, or it has another number of channels.

    Examples:
        >>> decode_direction(torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0, 0.0]), "dyad").abs().tolist()
        [0.0, 0.0, 1.0]
    """
    _check(encoding)
    if len(code) != CHANNELS[encoding]:
        found = counted(len(code), "channel")
        raise InputError(f"direction: found {found}, expected {CHANNELS[encoding]} for {encoding}.")
    # an eigendecomposition raises an error if it meets NaN
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
    """Make ``label`` for the task ``direction``: the encoded axis in white matter, NaN elsewhere and for zero vectors.

    Args:
        peak_key: key of the axis, a unit vector in world RAS, ``(3, X, Y, Z)``.
        white_matter_key: key of the mask of white matter, ``(1, X, Y, Z)``.
        label_key: key of the target, ``(6, X, Y, Z)`` or ``(2, X, Y, Z)``, float32.
        encoding: ``dyad`` or ``angles``, see ``encode_direction``.

    Raises:
        InputError: there is no such encoding, or the peak is no image of vectors.

    Examples:
        >>> peak, white = torch.zeros(3, 2, 1, 1), torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
        >>> peak[0] = 1.0
        >>> EncodeDirectiond()({"peak": peak, "white_matter": white})["label"].flatten(1)[0]
        tensor([1., nan])
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
            found = counted(len(peak), "volume")
            raise InputError(f"{self.peak_key}: found {found}, expected the 3 components of a vector.")
        inside = data[self.white_matter_key] > 0.5
        label = torch.where(inside, encode_direction(peak.float(), self.encoding), torch.nan)
        return {**data, self.label_key: label}


class DecodeDirectiond(MapTransform):
    """Turn encoded axes into unit vectors: zero vectors outside the mask, NaN where the code is NaN.

    Args:
        keys: keys of the encoded axes, ``(6, X, Y, Z)`` or ``(2, X, Y, Z)``: the output of a network or a target. They
            become unit vectors, ``(3, X, Y, Z)``.
        encoding: ``dyad`` or ``angles``, see ``decode_direction``.
        mask_key: key of the mask, ``(1, X, Y, Z)``, on the same grid: the brain, or white matter if it is known.

    Raises:
        InputError: there is no such encoding, or it has another number of channels.

    Examples:
        >>> dyad = encode_direction(torch.tensor([0.6, 0.8, 0.0]).reshape(3, 1, 1, 1), "dyad")
        >>> axis = DecodeDirectiond("pred")({"pred": dyad, "mask": torch.ones(1, 1, 1, 1)})["pred"].flatten()
        >>> torch.allclose(axis, torch.tensor([0.6, 0.8, 0.0]), atol=1e-5)
        True
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
            # decode_direction skips NaN, so voxels outside cost no eigendecomposition
            vectors = decode_direction(torch.where(inside, code, torch.nan), self.encoding)
            result[key] = torch.where(inside | missing, vectors, 0.0)
        return result
