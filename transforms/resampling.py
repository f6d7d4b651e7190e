"""Resampling in space: to another voxel size without aliasing, or to the grid of another image.

Resampling to another voxel size along the same axes is separable: one small matrix per axis does it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, ResampleToMatch, Transform
from scipy.special import erf

from transforms.errors import InputError

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
"""Full width at half maximum of a Gaussian of standard deviation 1."""


def antialiasing_sigma(old: float, new: float) -> float:
    """Return the width of the Gaussian that widens the point spread of one voxel size to that of another.

    The point spread of a voxel counts as a Gaussian whose full width at half maximum is the voxel size. Variances of
    Gaussians add (Cardoso et al., "Scale factor point spread function matching", MICCAI 2015).

    Args:
        old: old voxel size in mm.
        new: new voxel size in mm.

    Returns:
        standard deviation in mm; 0 where the new voxels are not larger.
    """
    return math.sqrt(max(new**2 - old**2, 0.0)) / FWHM_PER_SIGMA


def smoothing_matrix(n: int, sigma: float) -> np.ndarray:
    """Return Gaussian smoothing of ``n`` samples as a matrix ``(n, n)`` whose rows add up to 1, at the borders as well.

    The Gaussian is integrated over each sample, which adds up to 1/12 to the variance. This damps frequencies that
    would alias better than a sampled Gaussian does, or a Gaussian of the exact variance.

    Args:
        n: number of samples.
        sigma: standard deviation in samples; 0 gives the identity.
    """
    if sigma == 0:
        return np.eye(n)
    distance = np.arange(n)[None] - np.arange(n)[:, None]
    scale = math.sqrt(2.0) * sigma
    weights = erf((distance + 0.5) / scale) - erf((distance - 0.5) / scale)
    return weights / weights.sum(axis=1, keepdims=True)


def linear_interpolation_matrix(n: int, positions: np.ndarray) -> np.ndarray:
    """Return linear interpolation of ``n`` samples at ``positions`` ``(m,)``, in samples, as a matrix ``(m, n)``.

    Positions beyond the first or last sample get the value of that sample.
    """
    clipped = np.clip(positions, 0, n - 1)
    return np.maximum(0.0, 1.0 - np.abs(clipped[:, None] - np.arange(n)[None]))


def apply_along_axes(image: torch.Tensor, matrices: Sequence[np.ndarray]) -> torch.Tensor:
    """Multiply a plain tensor ``(C, X, Y, Z)`` by one matrix ``(n_out, n_in)`` along each of its spatial axes."""
    for axis, matrix in enumerate(matrices, start=1):
        # most clinical scans have the wanted voxel size already
        if np.array_equal(matrix, np.eye(len(matrix))):
            continue
        weights = torch.as_tensor(matrix, dtype=image.dtype, device=image.device)
        image = torch.tensordot(image, weights, dims=([axis], [1])).movedim(-1, axis)
    return image.contiguous()


class ResampleToSpacing(Transform):
    """Resample to a voxel size; axes that get coarser are smoothed first, so that nothing aliases.

    The image keeps its axes (an oblique scan stays oblique) and the centre of its field of view.

    Args:
        voxel_size: voxel size in mm, one number or three.

    Examples:
        >>> image = MetaTensor(torch.ones(1, 20, 24, 10), affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])))
        >>> coarse = ResampleToSpacing(4.0)(image)
        >>> coarse.shape, coarse.pixdim.tolist()
        (torch.Size([1, 10, 12, 8]), [4.0, 4.0, 4.0])
    """

    def __init__(self, voxel_size: float | Sequence[float] = 2.4) -> None:
        sizes = [voxel_size] * 3 if isinstance(voxel_size, (int, float)) else list(voxel_size)
        self.voxel_size = [float(size) for size in sizes]

    def __call__(self, image: MetaTensor) -> MetaTensor:
        """Resample ``image`` ``(C, X, Y, Z)`` by its affine, and return it as float32."""
        matrices, corner, ratios = [], [], []
        for n, before, after in zip(image.shape[1:], image.pixdim.tolist(), self.voxel_size, strict=True):
            # headers round voxel sizes; a thousandth of a voxel is no reason to interpolate
            ratio = 1.0 if math.isclose(after, before, rel_tol=1e-3) else after / before
            n_new = max(1, math.ceil(n / ratio - 1e-3))
            first = (n - 1) / 2 - ratio * (n_new - 1) / 2
            smoothing = smoothing_matrix(n, antialiasing_sigma(1.0, ratio))
            matrices.append(linear_interpolation_matrix(n, first + ratio * np.arange(n_new)) @ smoothing)
            corner.append(first)
            ratios.append(ratio)
        affine = image.affine.clone()
        affine[:3, 3] += affine[:3, :3] @ torch.tensor(corner, dtype=affine.dtype)
        affine[:3, :3] *= torch.tensor(ratios, dtype=affine.dtype)
        return MetaTensor(apply_along_axes(image.as_tensor().float(), matrices), affine=affine)


class ResampleToSpacingd(MapTransform):
    """Dictionary form of :class:`ResampleToSpacing`.

    Args:
        keys: keys of the images to resample.
        voxel_size: voxel size in mm, one number or three.

    Examples:
        >>> ResampleToSpacingd("image", voxel_size=2.0)({"image": MetaTensor(torch.ones(1, 20, 24, 10))})["image"].shape
        torch.Size([1, 10, 12, 5])
    """

    def __init__(
        self,
        keys: KeysCollection,
        voxel_size: float | Sequence[float] = 2.4,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.resample = ResampleToSpacing(voxel_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample each key of ``data``."""
        result = dict(data)
        for key in self.key_iterator(data):
            result[key] = self.resample(data[key])
        return result


def crop_to(image: MetaTensor, reference: MetaTensor) -> MetaTensor:
    """Cut from an image ``(C, X, Y, Z)`` the part that lies on the voxels of a reference, without interpolation.

    Raises:
        InputError: the voxels of the reference are not voxels of the image.
    """
    whole, part = (np.asarray(grid.affine, dtype=np.float64) for grid in (image, reference))
    first = np.linalg.solve(whole, part[:, 3])[:3]
    start, shape = np.rint(first).astype(int), np.array(reference.shape[1:])
    inside = (start >= 0).all() and (start + shape <= image.shape[1:]).all()
    if not inside or np.abs(first - start).max() > 1e-2 or not np.allclose(whole[:3, :3], part[:3, :3], atol=1e-3):
        raise InputError("found a grid that is not a part of the image's, expected one that is.")
    crop = (slice(None), *(slice(a, a + n) for a, n in zip(start, shape, strict=True)))
    return MetaTensor(image.as_tensor()[crop].contiguous(), affine=reference.affine)


class ResampleToGrid(Transform):
    """Resample an image to the grid of another image, in one trilinear step by the two affines.

    The affines hold padding, cropping, voxel size, orientation and obliqueness, so one step undoes them together. Axes
    that get coarser are smoothed first. Outside the image's field of view the result is 0.

    Examples:
        >>> fine = MetaTensor(torch.ones(1, 20, 24, 10))
        >>> coarse = MetaTensor(torch.ones(1, 10, 12, 5), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
        >>> ResampleToGrid()(fine, coarse).shape
        torch.Size([1, 10, 12, 5])
    """

    def __init__(self) -> None:
        self.match = ResampleToMatch(mode="bilinear", padding_mode="zeros", align_corners=True, dtype=np.float32)

    def __call__(self, image: MetaTensor, reference: MetaTensor) -> MetaTensor:
        """Resample ``image`` ``(C, X, Y, Z)`` to the spatial grid of ``reference``, and return it as float32."""
        # voxel sizes of the reference along the axes of the image, which may be permuted
        old = image.pixdim.double()
        spans = torch.linalg.inv(reference.affine[:3, :3].double()) @ (image.affine[:3, :3] / image.pixdim).double()
        new = 1.0 / torch.linalg.norm(spans, dim=0)
        smoothing = [
            smoothing_matrix(n, antialiasing_sigma(1.0, ratio))
            for n, ratio in zip(image.shape[1:], (new / old).tolist(), strict=True)
        ]
        smooth = MetaTensor(apply_along_axes(image.as_tensor().float(), smoothing), meta=image.meta)
        matched = torch.as_tensor(self.match(smooth, img_dst=reference)).as_subclass(torch.Tensor)
        return MetaTensor(matched, affine=reference.affine)


class ResampleToGridd(MapTransform):
    """Dictionary form of :class:`ResampleToGrid`.

    Args:
        keys: keys of the images to resample.
        reference_key: key of an image on the wanted grid.

    Examples:
        >>> data = {"t1": MetaTensor(torch.ones(1, 20, 24, 10)), "b0": MetaTensor(torch.ones(1, 16, 20, 8))}
        >>> ResampleToGridd("t1", reference_key="b0")(data)["t1"].shape
        torch.Size([1, 16, 20, 8])
    """

    def __init__(self, keys: KeysCollection, reference_key: str) -> None:
        super().__init__(keys)
        self.reference_key = reference_key
        self.resample = ResampleToGrid()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample each key of ``data`` to the reference's grid."""
        result = dict(data)
        for key in self.key_iterator(data):
            result[key] = self.resample(data[key], data[self.reference_key])
        return result
