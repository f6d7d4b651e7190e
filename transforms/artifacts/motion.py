"""Motion of the head: rigid resampling, and k-space put together from several positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional

from transforms.artifacts.base import (
    Artifact,
    ArtifactParams,
    ScanInfo,
    check_integer,
    check_range,
    uniform,
)
from transforms.artifacts.rows import by_slabs, k_space_filter, on_device
from transforms.errors import InputError

MOVEMENT_JITTER = 0.3
"""Half width of the uniform jitter of a movement's time, as a fraction of the mean interval of movements (TorchIO)."""


def rotation_matrix(degrees: ArrayLike) -> np.ndarray:
    """Rotation by angles around the fixed axes y, then x, then z, as ITK's ``Euler3DTransform`` does.

    Args:
        degrees: angles around x, y and z, ``(..., 3)``.

    Returns:
        ``Rz Rx Ry``, ``(..., 3, 3)``.
    """
    (cx, cy, cz), (sx, sy, sz) = (np.moveaxis(f(np.radians(degrees)), -1, 0) for f in (np.cos, np.sin))
    rows = (
        (cz * cy - sz * sx * sy, -sz * cx, cz * sy + sz * sx * cy),
        (sz * cy + cz * sx * sy, cz * cx, sz * sy - cz * sx * cy),
        (-cx * sy, sx, cx * cy),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def read_positions(degrees: ArrayLike, translation: ArrayLike, linear: np.ndarray) -> np.ndarray:
    """Return where each voxel of a moved image is read, with coordinates in voxels from the image's centre.

    The head turns around the centre of the image and is then translated: a point p moves to ``R p + t`` in mm.

    Args:
        degrees: angles around the axes of world RAS, ``(..., 3)``.
        translation: translations in mm along the axes of world RAS, ``(..., 3)``.
        linear: mm per voxel, ``(3, 3)``.

    Returns:
        matrices M, ``(..., 3, 4)``: the voxel u of the result is read at ``M[:, :3] u + M[:, 3]``.
    """
    into = np.linalg.inv(linear) @ np.swapaxes(rotation_matrix(degrees), -1, -2)
    return np.concatenate([into @ linear, -(into @ np.asarray(translation)[..., None])], axis=-1)


@dataclass(frozen=True)
class MotionParams(ArtifactParams):
    """Drawn positions of the head during the acquisition of k-space, the same for all directions.

    Attributes:
        degrees: rotations around the axes of world RAS through the image's centre, one triple per position
            (:func:`rotation_matrix` has their order).
        translation: translations in mm along the axes of world RAS, one triple per position.
        times: times at which the head goes from each position to the next, ascending, as fractions of the acquisition
            from 0 to 1; one fewer than positions.
        axis: voxel axis along which k-space is acquired plane by plane.
    """

    artifact = "motion"

    degrees: list[list[float]]
    translation: list[list[float]]
    times: list[float]
    axis: int

    @property
    def at_rest(self) -> list[bool]:
        """Whether the head is where the image shows it, for each position."""
        return [not any(turn + shift) for turn, shift in zip(self.degrees, self.translation, strict=True)]

    @property
    def is_identity(self) -> bool:
        """Whether the head never moves."""
        return all(self.at_rest)

    def planes(self, n: int) -> np.ndarray:
        """Return the planes of k-space of each position: 0 or 1, ``(positions, n)``, zero frequency at ``n // 2``."""
        bounds = [0, *(int(n * time) for time in self.times), n]
        planes = np.zeros((len(bounds) - 1, n))
        for row, start, stop in zip(planes, bounds[:-1], bounds[1:], strict=True):
            row[start:stop] = 1.0
        return planes

    def _apply(self, rows: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
        if not len(self.degrees) == len(self.translation) == len(self.times) + 1:
            raise InputError(
                f"MotionParams: found {len(self.degrees)} rotations, {len(self.translation)} translations and "
                f"{len(self.times)} times, expected one time fewer than positions."
            )
        size, n_directions, length = rows.shape[:3], rows.shape[3], rows.shape[self.axis]
        moves = ~np.array(self.at_rest)
        positions = on_device(read_positions(self.degrees, self.translation, scan.linear)[moves], rows)
        planes = self.planes(length)
        at_rest = on_device(k_space_filter(planes[~moves].sum(axis=0)), rows)
        moved = on_device(np.concatenate([k_space_filter(part) for part in planes[moves]], axis=1), rows)
        # with the axis of k-space last, one matrix product turns a line in all positions into a line of the result
        order = [*(axis for axis in range(3) if axis != self.axis), self.axis]
        image = rows.permute(*order, 3)
        table = rows.reshape(-1, n_directions)

        def slab(part: slice) -> torch.Tensor:
            u = [torch.arange(n, device=rows.device, dtype=rows.dtype) - (n - 1) / 2 for n in size]
            u[order[0]] = u[order[0]][part]
            # (position, first, second, axis): the axis of k-space counts fastest within a position
            read = [
                positions[:, i, 3].reshape(-1, 1, 1, 1)
                + sum(
                    positions[:, i, j].reshape(-1, 1, 1, 1) * u[j].reshape([-1 if k == j else 1 for k in order])
                    for j in range(3)
                )
                + (size[i] - 1) / 2
                for i in range(3)
            ]
            read = [r.permute(1, 2, 0, 3) for r in read]
            gathered = _interpolate(table, read, size)
            lines = gathered.reshape(*gathered.shape[:2], -1, n_directions)
            return torch.matmul(moved, lines) + torch.matmul(at_rest, image[part])

        return by_slabs(image, 0, slab).permute(*np.argsort(order).tolist(), 3)


def _interpolate(table: torch.Tensor, read: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
    """Interpolate trilinearly between rows, with zero outside the image.

    Args:
        table: rows ``(X * Y * Z, C)``.
        read: voxel coordinates along each axis, of one shape.
        size: ``(X, Y, Z)``.

    Returns:
        rows, ``(*shape, C)``.
    """
    index = torch.zeros(1, dtype=torch.int32, device=table.device)
    weight = torch.ones(1, dtype=table.dtype, device=table.device)
    for coordinate, n in zip(read, size, strict=True):
        lower = coordinate.floor()
        upper_weight = coordinate - lower
        lower = lower.clamp(-2, n).int()
        neighbours = torch.stack([lower, lower + 1], dim=-1)
        inside = (neighbours >= 0) & (neighbours < n)
        weights = torch.stack([1 - upper_weight, upper_weight], dim=-1) * inside
        # combine the corners so far with the two neighbours along one more axis
        index = (index.unsqueeze(-1) * n + neighbours.clamp(0, n - 1).unsqueeze(-2)).flatten(-2)
        weight = (weight.unsqueeze(-1) * weights.unsqueeze(-2)).flatten(-2)
    corners = functional.embedding_bag(
        index.reshape(-1, 8), table, mode="sum", per_sample_weights=weight.reshape(-1, 8)
    )
    return corners.reshape(*read[0].shape, -1)


class Motion(Artifact[MotionParams]):
    """Motion between parts of the k-space acquisition (Shaw et al., MIDL 2019), shared by all directions.

    The position of the head is piecewise constant in time. K-space is put together from the spectra of the image in
    each position. The head is at rest in the part with the centre of k-space (to one plane), as in TorchIO, so the
    image as a whole stays where it is. Values from outside the image are zero.

    Args:
        prob: probability of the artifact.
        degrees: range of each rotation angle, uniform.
        translation: range of each translation in mm, uniform.
        num_transforms: number of movements. They are evenly spaced, except for a uniform jitter (``MOVEMENT_JITTER``).
        axis: voxel axis along which k-space is acquired plane by plane.

    Raises:
        InputError: an argument is out of its limits.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> params = Motion(degrees=(-5, 5), num_transforms=1).sample(generator, (64, 40, 48, 32))
        >>> params.apply(torch.rand(6, 16, 20, 12), ScanInfo()).shape
        torch.Size([6, 16, 20, 12])
    """

    name = MotionParams.artifact

    def __init__(
        self,
        *,
        prob: float = 0.5,
        degrees: Sequence[float] = (-10.0, 10.0),
        translation: Sequence[float] = (-10.0, 10.0),
        num_transforms: int = 2,
        axis: int = 2,
    ) -> None:
        super().__init__(prob)
        self.degrees = check_range("degrees", degrees)
        self.translation = check_range("translation", translation)
        self.num_transforms = check_integer("num_transforms", num_transforms, 1)
        self.axis = check_integer("axis", axis, 0, 2)

    def sample(self, generator: torch.Generator, shape: Sequence[int]) -> MotionParams:
        """Draw movements; they do not depend on the shape."""
        step = 1 / (self.num_transforms + 1)
        jitter = uniform(generator, (-step * MOVEMENT_JITTER, step * MOVEMENT_JITTER), self.num_transforms)
        times = [step * (index + 1) + late for index, late in enumerate(jitter)]
        degrees = uniform(generator, self.degrees, self.num_transforms, 3)
        translation = uniform(generator, self.translation, self.num_transforms, 3)
        centre = sum(time <= 0.5 for time in times)
        for positions in (degrees, translation):
            positions.insert(centre, [0.0, 0.0, 0.0])
        return MotionParams(degrees, translation, times, self.axis)
