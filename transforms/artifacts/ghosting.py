"""Ghosting: planes of k-space that are weaker than their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from transforms.artifacts.base import (
    Artifact,
    ArtifactParams,
    ScanInfo,
    check_integer,
    check_range,
    uniform,
    whole_number,
)
from transforms.artifacts.rows import along_axis, k_space_filter, on_device
from transforms.errors import InputError


@dataclass(frozen=True)
class GhostingParams(ArtifactParams):
    """Drawn ghosting, the same for all directions.

    Attributes:
        num_ghosts: distance in planes between those that are weakened; 0 for none.
        axis: voxel axis of the ghosts.
        intensity: weakening of the planes; 0 for none, 1 removes them.
        restore: fraction of k-space around its centre that is kept. ``None``, and a fraction below two planes, keep the
            central plane alone.
    """

    artifact = "ghosting"

    num_ghosts: int
    axis: int
    intensity: float
    restore: float | None

    @property
    def is_identity(self) -> bool:
        """Whether no plane is weakened."""
        return self.num_ghosts == 0 or self.intensity == 0

    def planes(self, n: int) -> list[float]:
        """Return the factors of ``n`` planes of k-space, with zero frequency at ``n // 2``."""
        half = round((self.restore or 0) * n) // 2
        kept = range(n // 2 - half, n // 2 + half) if half else range(n // 2, n // 2 + 1)
        return [1.0 if k in kept or k % self.num_ghosts else 1.0 - self.intensity for k in range(n)]

    def _apply(self, rows: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
        matrix = k_space_filter(self.planes(rows.shape[self.axis]))
        return along_axis(on_device(matrix, rows), rows, self.axis)


class Ghosting(Artifact[GhostingParams]):
    """Ghosting: every n-th plane of k-space is weakened, the same for all directions.

    The image gets copies shifted by 1/n of the field of view along the axis, so n = 2 shows one ghost beside it. Planes
    count from the edge of k-space, as in TorchIO: with n = 2 they include the central plane if half the number of
    voxels, rounded down, is even. The central plane itself is never weakened, so mean brightness stays. The result may
    be negative.

    Args:
        prob: probability of the artifact.
        num_ghosts: range of n, whole numbers, uniform, both ends included. 0 applies nothing.
        axes: voxel axes, one of which is drawn; in a 2D acquisition only the phase encoding is physical.
        intensity: range of the weakening, 0 to 1, uniform; planes are multiplied by ``1 - intensity``.
        restore: range of the fraction of k-space that is kept around its centre, 0 to 1, uniform, or ``None``.

    Raises:
        InputError: an argument is out of its limits.

    Examples:
        >>> params = Ghosting(num_ghosts=(2, 3), axes=(1,)).sample(torch.Generator().manual_seed(0), (6, 16, 20, 12))
        >>> image = torch.rand(6, 16, 20, 12)
        >>> torch.allclose(params.apply(image, ScanInfo()).mean(), image.mean())
        True
    """

    name = GhostingParams.artifact

    def __init__(
        self,
        *,
        prob: float = 0.5,
        num_ghosts: Sequence[int] = (2, 2),
        axes: Sequence[int] = (0, 1, 2),
        intensity: Sequence[float] = (0.5, 1.0),
        restore: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prob)
        low, high = check_range("num_ghosts", num_ghosts, minimum=0)
        if not low.is_integer() or not high.is_integer():
            raise InputError(f"num_ghosts: found {num_ghosts!r}, expected a range [low, high] of whole numbers.")
        self.num_ghosts = int(low), int(high)
        if not isinstance(axes, Sequence) or not axes:
            raise InputError(f"axes: found {axes!r}, expected a list of voxel axes, such as [0, 1, 2].")
        self.axes = tuple(check_integer("axes", axis, 0, 2) for axis in axes)
        self.intensity = check_range("intensity", intensity, 0, 1)
        self.restore = None if restore is None else check_range("restore", restore, 0, 1)

    def sample(self, generator: torch.Generator, shape: Sequence[int]) -> GhostingParams:
        """Draw ghosting; it does not depend on the shape."""
        return GhostingParams(
            num_ghosts=whole_number(generator, *self.num_ghosts),
            axis=self.axes[whole_number(generator, 0, len(self.axes) - 1)],
            intensity=uniform(generator, self.intensity),
            restore=None if self.restore is None else uniform(generator, self.restore),
        )
