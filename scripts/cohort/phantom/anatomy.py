"""Anatomy of a phantom subject: tissue fractions of the MNI152 template in a head of its own shape and position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template
from scipy import ndimage
from scipy.spatial.transform import Rotation

TEMPLATE_CENTRE = np.array([0.0, -17.0, 5.0])
"""Middle of the box around the MNI152 brain, in MNI mm."""

FIELD_OF_VIEW = np.array([180.0, 216.0, 180.0])
"""Sides in mm of the scanned box of a life-size head, about those of the HCP's scans."""

MAX_SCALE = 0.05
"""Largest relative deviation of a head's size from the template."""

MAX_ROTATION = 3.0
"""Largest rotation in degrees about each axis of the head in the scanner."""

N_WAVES = 12
"""Number of plane waves that bend the template into a subject."""

WAVELENGTHS = (80.0, 200.0)
"""Range in mm of the wavelengths of that bend: lobes change shape, a gyrus moves as a whole."""

WAVE_STEEPNESS = 0.009
"""Amplitude of a wave as a share of its wavelength: displacements of 5 mm in the mean."""

MIN_DETERMINANT = 0.3
"""Smallest local change of volume that a bend may cause; 0 would be a fold."""

ANTIALIASING = 0.35
"""Standard deviation of the low-pass filter before sampling, in voxels (a box as wide as a voxel has 0.29)."""

MIN_WHITE_MATTER = 0.05
"""Below this fraction a voxel counts as without white matter, so that every fibre of the truth shows in the scan."""


@dataclass(frozen=True)
class Warp:
    """Smooth map from scanner space to the template, ``m = y + sum_k a_k sin(k.y + phase_k)`` with ``y = linear x``.

    Attributes:
        linear: scanner mm to template mm, rotation and scale, shape ``(3, 3)``.
        rotation: rotation of the head in the scanner, template axes to scanner axes, shape ``(3, 3)``.
        waves: wave vectors in 1/mm, shape ``(K, 3)``.
        phases: phases in radians, shape ``(K,)``.
        amplitudes: displacements in template mm, shape ``(K, 3)``.
    """

    linear: np.ndarray
    rotation: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    amplitudes: np.ndarray

    def to_template(self, points: np.ndarray) -> np.ndarray:
        """Template position in MNI mm of ``points`` in scanner mm, both ``(N, 3)``."""
        y = points @ self.linear.T
        return y + np.sin(y @ self.waves.T + self.phases) @ self.amplitudes

    def jacobian(self, points: np.ndarray) -> np.ndarray:
        """Derivative of the template position by the scanner position at ``points`` ``(N, 3)``, shape ``(N, 3, 3)``."""
        slopes = np.cos(points @ self.linear.T @ self.waves.T + self.phases)
        bend = np.einsum("nk,ki,kj->nij", slopes, self.amplitudes, self.waves, optimize=True)
        return (bend + np.eye(3)) @ self.linear


def sample_warp(generator: np.random.Generator, size: float) -> Warp:
    """Draw a head: scale within ``MAX_SCALE``, rotation within ``MAX_ROTATION``, and a bend that folds nothing.

    Args:
        generator: source of the random numbers.
        size: size of the head relative to life, 0.5 for a half-scale brain.

    Returns:
        map from the scanner to the template.
    """
    scale = size * generator.uniform(1 - MAX_SCALE, 1 + MAX_SCALE)
    angles = generator.uniform(-MAX_ROTATION, MAX_ROTATION, 3)
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    lengths = generator.uniform(*WAVELENGTHS, N_WAVES)
    axes = generator.standard_normal((N_WAVES, 3))
    waves = 2 * np.pi / lengths[:, None] * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    phases = generator.uniform(0, 2 * np.pi, N_WAVES)
    amplitudes = WAVE_STEEPNESS * lengths[:, None] * generator.standard_normal((N_WAVES, 3))

    steps = [np.arange(-side / 2, side / 2 + 1, 8.0) for side in FIELD_OF_VIEW]
    life_size = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3) + TEMPLATE_CENTRE
    while True:
        bend = Warp(np.eye(3), rotation, waves, phases, amplitudes)
        if np.linalg.det(bend.jacobian(life_size)).min() > MIN_DETERMINANT:
            return Warp(rotation.T / scale, rotation, waves, phases, amplitudes)
        amplitudes = 0.8 * amplitudes


def scan_grid(
    generator: np.random.Generator, size: float, voxel_size: float, max_tilt: float
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Voxel grid of a scan, stored left-anterior-superior (x runs to the left), as scanners' converters write it.

    Args:
        generator: source of the tilt of the slices.
        size: size of the head relative to life.
        voxel_size: side of a voxel in mm.
        max_tilt: largest tilt of the grid in degrees about each axis, 0 for a grid along the scanner's axes.

    Returns:
        shape, and voxel-to-world affine ``(4, 4)`` in world RAS mm.
    """
    shape = tuple(int(2 * np.ceil(side * size / voxel_size / 2)) for side in FIELD_OF_VIEW)
    tilt = Rotation.from_euler("xyz", generator.uniform(-max_tilt, max_tilt, 3), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.diag([-voxel_size, voxel_size, voxel_size])
    affine[:3, 3] = size * TEMPLATE_CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return (shape[0], shape[1], shape[2]), affine


def world_points(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """World RAS positions in mm of voxel indices, both ``(N, 3)``."""
    return voxels @ affine[:3, :3].T + affine[:3, 3]


@lru_cache(maxsize=1)
def _template_maps(blur: float) -> tuple[np.ndarray, np.ndarray]:
    """Gray matter, white matter and brain of the template ``(3, X, Y, Z)``, blurred by ``blur`` mm; world to voxel."""
    images = [load(resolution=1) for load in (load_mni152_gm_template, load_mni152_wm_template, load_mni152_brain_mask)]
    maps = [ndimage.gaussian_filter(image.get_fdata(dtype=np.float32), blur, truncate=3) for image in images]
    return np.stack(maps), np.linalg.inv(images[0].affine)


def tissue_fractions(warp: Warp, shape: tuple[int, int, int], affine: np.ndarray, size: float) -> np.ndarray:
    """Sample the template's tissue maps in a subject.

    The maps of gray and white matter are those in nilearn (ICBM 2009a nonlinear symmetric, Fonov et al., NeuroImage
    54:313-327, 2011); CSF is what they leave of the brain.

    Args:
        warp: map from the scanner to the template.
        shape: of the scan.
        affine: voxel-to-world matrix of the scan.
        size: size of the head relative to life.

    Returns:
        fractions of gray matter, white matter and CSF, float32, shape ``(3, X, Y, Z)``; they sum to 1 in the brain and
        to 0 outside.
    """
    blur = ANTIALIASING * float(np.linalg.norm(affine[:3, 0])) / size
    maps, to_voxel = _template_maps(round(blur, 3))
    tissue = np.zeros((3, *shape), dtype=np.float32)
    columns = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), axis=-1).reshape(-1, 2)
    for k in range(shape[2]):
        voxels = np.column_stack([columns, np.full(len(columns), k)])
        template = world_points(warp.to_template(world_points(voxels, affine)), to_voxel).T
        gray, white, brain = (ndimage.map_coordinates(m, template, order=1).reshape(shape[:2]) for m in maps)
        white = np.where(white < MIN_WHITE_MATTER, 0, white)
        fractions = np.stack([gray, white, np.maximum(brain - gray - white, 0)])
        total = fractions.sum(axis=0)
        tissue[..., k] = np.where(brain > 0.5, fractions / np.where(total > 0, total, 1), 0)
    return tissue
