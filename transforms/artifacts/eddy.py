"""Eddy currents: displacement of each diffusion direction along the phase-encoding axis.

A diffusion gradient that is switched leaves fields that decay through the readout. To first order they are constant and
linear in space, and in echo planar imaging they show along the phase encoding (PE) alone, as shift, stretch and shear:
Jezzard, Barnett and Pierpaoli, Magn Reson Med 39:801-812, 1998; Andersson and Sotiropoulos, NeuroImage 125:1063-1078,
2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from transforms.artifacts.base import ArtifactParams, RandArtifact, RandArtifactd, check_integer, check_range
from transforms.errors import InputError

MIN_STRETCH = 0.5
"""Smallest stretch factor: below it, interpolation between two neighbours skips voxels, and mass is not conserved."""


@dataclass(frozen=True)
class EddyParams(ArtifactParams):
    """Drawn eddy-current displacement; each list has one number per direction, or a single one for all directions.

    Attributes:
        axis: voxel axis of the phase encoding, 0, 1 or 2.
        stretch: factors along PE, 1 for none.
        shift: voxels along PE.
        shear_x: mm along PE per mm along the first of the other two voxel axes.
        shear_z: mm along PE per mm along the second of the other two voxel axes.
    """

    axis: int
    stretch: list[float]
    shift: list[float]
    shear_x: list[float]
    shear_z: list[float]

    @property
    def is_identity(self) -> bool:
        """Whether no direction moves."""
        return all(factor == 1 for factor in self.stretch) and not any(self.shift + self.shear_x + self.shear_z)


class RandEddy(RandArtifact[EddyParams]):
    """Random eddy-current displacement along PE, by default the random stretch of Weninger et al., BVM 2022.

    With distances from the image centre, y along PE, what is at ``y`` comes to
    ``y' = shift + stretch * y + shear_x * x + shear_z * z``, and intensity is divided by ``dy'/dy = stretch``, so that
    mass is conserved. Between voxels it is interpolated linearly along PE (the mass of a Gaussian s voxels wide then
    holds to about 0.04 / s**2); outside the image there is zero.

    All coefficients are uniform in their ranges and independent of each other. x, y and z are voxel axes: their signs
    are anatomical ones in a RAS image. Shears follow the voxel size in the affine of a MetaTensor; plain tensors have
    1 mm.

    Args:
        prob: probability that the artifact is applied.
        stretch: range of the stretch factor, from ``MIN_STRETCH``.
        shift: range of the shift in voxels along PE.
        shear_x: range of the shear in mm per mm along the first of the two other axes.
        shear_z: range of the shear in mm per mm along the second of the two other axes.
        axis: voxel axis of PE; 1 is anterior-posterior in a RAS image.
        per_direction: draw for each direction (channel), instead of once for all of them.

    Raises:
        InputError: an argument is out of its limits.
    """

    def __init__(
        self,
        *,
        prob: float = 0.5,
        stretch: Sequence[float] = (0.9, 1.1),
        shift: Sequence[float] = (0.0, 0.0),
        shear_x: Sequence[float] = (0.0, 0.0),
        shear_z: Sequence[float] = (0.0, 0.0),
        axis: int = 1,
        per_direction: bool = True,
    ) -> None:
        super().__init__(prob)
        self.stretch = check_range("stretch", stretch, minimum=MIN_STRETCH)
        self.shift = check_range("shift", shift)
        self.shear_x = check_range("shear_x", shear_x)
        self.shear_z = check_range("shear_z", shear_z)
        self.axis = check_integer("axis", axis, 0, 2)
        if not isinstance(per_direction, bool):
            raise InputError(f"per_direction: found {per_direction!r}, expected true or false.")
        self.per_direction = per_direction

    def sample(self, n_directions: int) -> EddyParams:
        """Draw coefficients for ``n_directions`` directions from ``self.R``."""
        n = n_directions if self.per_direction else 1
        return EddyParams(
            axis=self.axis,
            stretch=self.R.uniform(*self.stretch, n).tolist(),
            shift=self.R.uniform(*self.shift, n).tolist(),
            shear_x=self.R.uniform(*self.shear_x, n).tolist(),
            shear_z=self.R.uniform(*self.shear_z, n).tolist(),
        )

    @staticmethod
    def _apply(image: torch.Tensor, affine: np.ndarray, params: EddyParams) -> torch.Tensor:
        lists = (params.stretch, params.shift, params.shear_x, params.shear_z)
        counts = {len(numbers) for numbers in lists}
        if len(counts) > 1 or not counts <= {1, image.shape[0]}:
            raise InputError(
                f"EddyParams: found coefficients for {sorted(counts)} directions, expected 1 or {image.shape[0]} as in "
                "the image."
            )
        voxel_size = np.linalg.norm(affine[:3, :3], axis=0)
        coefficients = np.broadcast_to(np.array(lists), (4, image.shape[0])).T.tolist()
        result = torch.empty_like(image)
        for volume, output, (stretch, shift, *shears) in zip(image, result, coefficients, strict=True):
            if stretch == 1 and not shift and not any(shears):
                output.copy_(volume)
            else:
                output.copy_(_displace(volume, params.axis, stretch, shift, shears, voxel_size))
        return result


class RandEddyd(RandArtifactd):
    """Dictionary form of :class:`RandEddy`."""

    array_form = RandEddy


def _displace(
    volume: torch.Tensor, axis: int, stretch: float, shift: float, shears: list[float], voxel_size: np.ndarray
) -> torch.Tensor:
    """Displace one volume ``(X, Y, Z)``: each output voxel is read at its source, between two voxels along ``axis``."""
    moved: torch.Tensor | float = shift
    for other, shear in zip([a for a in range(3) if a != axis], shears, strict=True):
        if shear:
            moved = moved + shear * voxel_size[other] / voxel_size[axis] * _centred_axis(volume, other)
    length = volume.shape[axis]
    source = (_centred_axis(volume, axis) - moved) / stretch + (length - 1) / 2
    lower = source.floor()
    upper_weight = source - lower
    result = torch.zeros_like(volume)
    for index, weight in ((lower, 1 - upper_weight), (lower + 1, upper_weight)):
        inside = (index >= 0) & (index < length)
        neighbour = volume.gather(axis, index.clamp(0, length - 1).long().expand_as(volume))
        result += neighbour * (weight * inside / stretch).to(volume.dtype)
    return result


def _centred_axis(volume: torch.Tensor, axis: int) -> torch.Tensor:
    """Voxel coordinates along ``axis`` with zero in the image centre, shaped to broadcast over ``(X, Y, Z)``."""
    length = volume.shape[axis]
    shape = [length if a == axis else 1 for a in range(3)]
    return torch.arange(length, dtype=torch.float64, device=volume.device).reshape(shape) - (length - 1) / 2
