"""Eddy currents: displacement of each diffusion direction along the phase-encoding axis.

Switching a diffusion gradient leaves fields that decay through the readout. To first order these fields are constant
and linear in space. In echo planar imaging they act along the phase encoding (PE) alone, as shift, stretch and shear:
Jezzard, Barnett and Pierpaoli, Magn Reson Med 39:801-812, 1998; Andersson and Sotiropoulos, NeuroImage 125:1063-1078,
2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from transforms.artifacts.base import Artifact, ArtifactParams, ScanInfo, check_integer, check_range, uniform
from transforms.artifacts.rows import by_slabs, cut, on_device
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

    artifact = "eddy"

    axis: int
    stretch: list[float]
    shift: list[float]
    shear_x: list[float]
    shear_z: list[float]

    @property
    def is_identity(self) -> bool:
        """Whether no direction moves."""
        return all(factor == 1 for factor in self.stretch) and not any(self.shift + self.shear_x + self.shear_z)

    def _apply(self, rows: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
        lists = (self.stretch, self.shift, self.shear_x, self.shear_z)
        counts = {len(numbers) for numbers in lists}
        if len(counts) > 1 or not counts <= {1, rows.shape[3]}:
            raise InputError(
                f"EddyParams: found coefficients for {sorted(counts)} directions, expected 1 or {rows.shape[3]} as in "
                "the image."
            )
        others = [axis for axis in range(3) if axis != self.axis]
        per_voxel = scan.voxel_size[others] / scan.voxel_size[self.axis]
        stretch, shift, *shears = on_device([self.stretch, self.shift, self.shear_x, self.shear_z], rows)
        n = rows.shape[self.axis]
        centred = [
            (torch.arange(m, dtype=rows.dtype, device=rows.device) - (m - 1) / 2).reshape(
                [-1 if a == axis else 1 for a in range(4)]
            )
            for axis, m in enumerate(rows.shape[:3])
        ]
        # source of a displaced voxel, (x - shift - shears) / stretch, as a sum of terms that depend on one axis each
        source = (centred[self.axis] - shift) / stretch + (n - 1) / 2
        offsets = [
            centred[other] * (shear * ratio / stretch)
            for other, numbers, shear, ratio in zip(others, lists[2:], shears, per_voxel.tolist(), strict=True)
            if any(numbers)
        ]

        across = others[0]

        def slab(part: slice) -> torch.Tensor:
            here = source
            for offset in offsets:
                here = here - (offset if offset.shape[across] == 1 else cut(offset, across, part))
            return self._between(cut(rows, across, part), here, 1 / stretch)

        return by_slabs(rows, across, slab)

    def _between(self, rows: torch.Tensor, source: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
        """Interpolate linearly at ``source`` along PE, with zero outside the image, and multiply by ``density``."""
        n = rows.shape[self.axis]
        lower = source.floor()
        upper_weight = source - lower
        neighbours, weights = [], []
        for index, weight in ((lower, 1 - upper_weight), (lower + 1, upper_weight)):
            # expand does not copy the index along an axis on which it does not depend
            neighbours.append(rows.gather(self.axis, index.clamp(0, n - 1).long().expand(rows.shape)))
            weights.append(weight * density * ((index >= 0) & (index < n)))
        return neighbours[0].mul_(weights[0]).addcmul_(neighbours[1], weights[1])


class Eddy(Artifact[EddyParams]):
    """Eddy-current displacement along PE, by default the random stretch of Weninger et al., BVM 2022.

    Distances count from the image centre, with y along PE. The signal at ``y`` moves to
    ``y' = shift + stretch * y + shear_x * x + shear_z * z``. Intensity is divided by ``dy'/dy = stretch``, so that mass
    is conserved. Values between voxels are interpolated linearly along PE, which conserves the mass of a Gaussian
    s voxels wide to about 0.04 / s**2. Values outside the image are zero.

    All coefficients are uniform in their ranges and independent of each other. x, y and z are voxel axes, so their
    signs are anatomical in a RAS image. Shears follow the voxel size.

    Args:
        prob: probability of the artifact.
        stretch: range of the stretch factor, at least ``MIN_STRETCH``.
        shift: range of the shift in voxels along PE.
        shear_x: range of the shear in mm per mm along the first of the two other axes.
        shear_z: range of the shear in mm per mm along the second of the two other axes.
        axis: voxel axis of PE; 1 is anterior-posterior in a RAS image.
        per_direction: whether each direction (channel) has its own coefficients, or all directions share them.

    Raises:
        InputError: an argument is out of its limits.

    Examples:
        >>> params = Eddy(stretch=(1.1, 1.1)).sample(torch.Generator().manual_seed(0), (6, 16, 21, 12))
        >>> image = torch.zeros(6, 16, 21, 12)
        >>> image[:, :, 5:16] = 0.5
        >>> stretched = params.apply(image, ScanInfo())
        >>> round(stretched[0, 8, 10, 6].item(), 3), round((stretched.sum() / image.sum()).item(), 2)
        (0.455, 1.0)
    """

    name = EddyParams.artifact

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

    def sample(self, generator: torch.Generator, shape: Sequence[int]) -> EddyParams:
        """Draw coefficients for each of ``shape[0]`` directions."""
        n = shape[0] if self.per_direction else 1
        return EddyParams(
            axis=self.axis,
            stretch=uniform(generator, self.stretch, n),
            shift=uniform(generator, self.shift, n),
            shear_x=uniform(generator, self.shear_x, n),
            shear_z=uniform(generator, self.shear_z, n),
        )
