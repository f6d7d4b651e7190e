"""Acquisitions of a phantom: grids, times and gradient schemes of the auxiliary and the clinical scan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from dipy.core.sphere import HemiSphere, disperse_charges

from scripts.phantom.anatomy import random_rotation
from transforms.diffusion.scheme import default_scheme

Shape = tuple[int, int, int]

HCP_B0 = 5.0
"""b-value in s/mm2 of the b0 volumes in the files of the HCP."""

SCHEME_SEED = 1
"""Seed of the dispersion of the auxiliary directions, the same for every subject of a cohort."""

MAX_TILT = 6.0
"""Largest tilt in degrees of a clinical scan's slices about each axis."""

TEMPLATE_VERTEX = 84.0
ROOM_ABOVE = 4.0
"""Height in mm of the top of the MNI152 brain, and room in mm between it and the first slice of a clinical scan."""

MAX_SHIFT = 4.0
MAX_TURN = 3.0
"""Largest shift in mm along each axis and largest turn in degrees about each axis. A head moves by them between its
diffusion scan and its T1-weighted scan, because a patient does not lie still for half an hour."""


@dataclass(frozen=True)
class Protocol:
    """A diffusion acquisition.

    Attributes:
        shape: shape of the grid.
        voxel_size: side of a voxel in mm.
        echo_time: echo time in s.
        repetition_time: repetition time in s.
        shells: number of directions by b-value in s/mm2.
        b0_volumes: number of volumes without diffusion weighting.
    """

    shape: Shape
    voxel_size: float
    echo_time: float
    repetition_time: float
    shells: dict[float, int]
    b0_volumes: int


def _hcp(shape: Shape, shells: dict[float, int], b0_volumes: int) -> Protocol:
    """Protocol of the HCP (Sotiropoulos et al., NeuroImage 80:125-143, 2013) on the grid of its release."""
    return Protocol(shape, 1.25, 0.0895, 5.520, shells, b0_volumes)


def _clinic(shape: Shape) -> Protocol:
    return Protocol(shape, 2.4, 0.0880, 7.000, {1000.0: 64}, 1)


_ONE_SHELL = {1000.0: 90, 2000.0: 6}
_THREE_SHELLS = {1000.0: 90, 2000.0: 90, 3000.0: 90}
PROTOCOLS = {
    ("auxiliary", "small"): _hcp((73, 87, 73), _ONE_SHELL, 6),
    ("auxiliary", "standard"): _hcp((145, 174, 145), _ONE_SHELL, 6),
    ("auxiliary", "full"): _hcp((145, 174, 145), _THREE_SHELLS, 18),
    ("clinical", "small"): _clinic((46, 46, 28)),
    ("clinical", "standard"): _clinic((90, 90, 54)),
    ("clinical", "full"): _clinic((90, 90, 54)),
}
"""Protocols by kind of cohort and size. The auxiliary scans ``small`` and ``standard`` have a few directions of a
second shell, which ``prepare`` must leave out. The auxiliary ``full`` is the whole acquisition of the HCP. A clinical
scan is whole in ``standard`` already."""

T1W_VOXEL_SIZE = 1.0
T1W_SHAPE = (224, 208, 176)
"""Sides of the T1-weighted grid of a life-size head in mm: anterior to posterior, foot to head, left to right."""

T1W_REPETITION_TIME = 0.018
T1W_ECHO_TIME = 0.005
T1W_FLIP_ANGLE = 25.0
"""Times in s and flip angle in degrees of a spoiled gradient echo with T1 contrast."""


def auxiliary_grid(protocol: Protocol, size: float) -> np.ndarray:
    """Voxel-to-world affine ``(4, 4)`` of the HCP's preprocessed scans: LAS, along the axes of the head."""
    affine = np.diag([-protocol.voxel_size, protocol.voxel_size, protocol.voxel_size, 1.0])
    affine[:3, 3] = size * np.array([90.0, -126.0, -72.0])
    return affine


def clinical_grid(generator: np.random.Generator, protocol: Protocol, size: float, scale: float) -> np.ndarray:
    """Voxel-to-world affine ``(4, 4)`` of slices planned on a patient: LAS, tilted, from the vertex down.

    Args:
        generator: source of the tilt.
        protocol: protocol of the scan.
        size: size of the head relative to life.
        scale: size of this head relative to the template.
    """
    voxel_size = protocol.voxel_size
    affine = np.eye(4)
    affine[:3, :3] = random_rotation(generator, MAX_TILT) @ np.diag([-voxel_size, voxel_size, voxel_size])
    height = scale * TEMPLATE_VERTEX + size * ROOM_ABOVE - voxel_size * protocol.shape[2] / 2
    centre = np.array([0.0, scale * -17.0, height])
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(protocol.shape) - 1) / 2)
    return affine


def t1w_grid(size: float) -> tuple[Shape, np.ndarray]:
    """Shape and affine of the T1-weighted scan: sagittal slices, stored posterior-superior-right."""
    shape = tuple(int(np.ceil(size * side / T1W_VOXEL_SIZE)) for side in T1W_SHAPE)
    affine = np.eye(4)
    affine[:3, :3] = T1W_VOXEL_SIZE * np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])
    affine[:3, 3] = size * np.array([0.0, -17.0, 5.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return (shape[0], shape[1], shape[2]), affine


def sample_t1w_pose(generator: np.random.Generator, size: float) -> np.ndarray:
    """Draw the rigid map ``(4, 4)`` from world positions in the T1-weighted scan to those in the diffusion scan."""
    pose = np.eye(4)
    pose[:3, :3] = random_rotation(generator, MAX_TURN)
    pose[:3, 3] = size * generator.uniform(-MAX_SHIFT, MAX_SHIFT, 3)
    return pose


@lru_cache(maxsize=4)
def dispersed_directions(count: int) -> np.ndarray:
    """Unit vectors ``(count, 3)`` of a hemisphere, spread by electrostatic repulsion of their axes."""
    start = np.random.default_rng([SCHEME_SEED, count]).standard_normal((count, 3))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    sphere, _ = disperse_charges(HemiSphere(xyz=start), iters=400)
    return np.asarray(sphere.vertices)


def auxiliary_gradients(generator: np.random.Generator, protocol: Protocol, rotation: np.ndarray) -> np.ndarray:
    """Gradient table as in the HCP: mixed shells, b0 volumes at even distances, b-values that deviate by up to 5.

    Args:
        generator: source of the b-values' deviations.
        protocol: protocol of the scan.
        rotation: rotation of the head in the scanner, ``(3, 3)``. The HCP turns scan and directions into the axes of
            the head, so the directions of its subjects differ by the pose of the head. This function turns the scheme
            alike.

    Returns:
        gradient table in world RAS, shape ``(V, 4)``.
    """
    shells = protocol.shells.items()
    rows = np.concatenate([np.column_stack([dispersed_directions(n), np.full(n, b)]) for b, n in shells])
    rows = np.random.default_rng(SCHEME_SEED).permutation(rows)
    rows[:, 3] += generator.choice([-5.0, 0.0, 5.0], len(rows))
    rows[:, :3] = rows[:, :3] @ rotation.T
    b0 = np.array([[0, 0, 0, HCP_B0]])
    return np.concatenate([part for block in np.array_split(rows, protocol.b0_volumes) for part in (b0, block)])


def clinical_gradients() -> np.ndarray:
    """Gradient table of the clinical scan in world RAS: one b0, then 64 directions at b = 1000, shape ``(65, 4)``."""
    scheme = default_scheme()
    return np.concatenate([np.zeros((1, 4)), np.column_stack([scheme, np.full(len(scheme), 1000.0)])])
