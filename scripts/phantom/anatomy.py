"""Anatomy of a phantom subject: tissue of the MNI152 template in a head with its own shape, pose and ventricles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template
from scipy import ndimage
from scipy.spatial.transform import Rotation

TEMPLATE_CENTRE = np.array([0.0, -17.0, 5.0])
"""Middle of the box around the MNI152 brain, in MNI mm."""

TEMPLATE_SIDES = np.array([180.0, 216.0, 180.0])
"""Sides in mm of a box with room around that brain. The search for folds in a bend covers this box."""

MAX_SCALE = 0.05
"""Largest relative deviation of a head's size from the template."""

MAX_ROTATION = 3.0
"""Largest rotation in degrees about each axis of the head in the scanner."""

N_WAVES = 12
"""Number of plane waves that bend the template into a subject."""

WAVELENGTHS = (80.0, 200.0)
"""Range in mm of the wavelengths of that bend. Lobes change their shape; a gyrus moves as a whole."""

WAVE_STEEPNESS = 0.009
"""Amplitude of a wave as a share of its wavelength. The mean displacement is 5 mm."""

VENTRICLES = np.array([(x, y, z) for x, y, z in ((12, 14, 10), (16, -14, 20), (24, -40, 12)) for x in (-x, x)])
"""Middles in MNI mm of the frontal horns, bodies and atria of the lateral ventricles."""

VENTRICLE_WIDTH = 13.0
"""Standard deviation in mm of the region that grows or shrinks about each of these middles."""

VENTRICLE_PULLS = (-0.35, 0.15)
"""Range of the relative pull of template positions towards those middles. A pull of -0.35 makes the ventricle larger by
1 / (1 - 0.35) along each axis."""

MIN_DETERMINANT = 0.2
"""Smallest local change of volume that a bend may cause. At 0 the bend folds."""

SHARPENING = 2.0
"""Power of the template's tissue fractions, which are then scaled to the sum 1. The template is a mean of 152 brains,
and its cortex is blurred. With squared fractions, more voxels belong to one tissue, as in a single brain."""

ANTIALIASING = 0.35
"""Standard deviation of the low-pass filter before sampling, in steps. A box as wide as a step has 0.29."""

COARSE = 5.0
"""Distance in template mm between the places of the first, coarse search for the brain."""

MIN_WHITE_MATTER = 0.05
"""Smallest fraction of white matter at a place; a smaller one counts as gray matter. So every fibre of the truth shows
in the scan."""


@dataclass(frozen=True)
class Warp:
    """Smooth map from scanner space to the template.

    The map takes a point ``x`` through three steps. It scales and turns the point, ``y = linear x``. It bends space,
    ``z = y + sum_k a_k sin(k.y + phase_k)``. It pulls the point towards or away from the ventricles,
    ``m = z + sum_v p (z - c_v) exp(-|z - c_v|^2 / 2 w^2)``.

    Attributes:
        linear: scanner mm to template mm, rotation and scale, shape ``(3, 3)``.
        rotation: rotation of the head in the scanner, template axes to scanner axes, shape ``(3, 3)``.
        waves: wave vectors in 1/mm, shape ``(K, 3)``.
        phases: phases in radians, shape ``(K,)``.
        amplitudes: displacements in template mm, shape ``(K, 3)``.
        pull: relative pull ``p``. Below 0, the subject's ventricles are larger than the template's.
    """

    linear: np.ndarray
    rotation: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    amplitudes: np.ndarray
    pull: float

    @property
    def scale(self) -> float:
        """Size of the head in the scanner relative to the template."""
        return float(np.cbrt(1 / np.linalg.det(self.linear)))

    def to_template(self, points: np.ndarray) -> np.ndarray:
        """Template position in MNI mm of ``points`` in scanner mm, both ``(N, 3)``."""
        y = points @ self.linear.T
        z = y + np.sin(y @ self.waves.T + self.phases) @ self.amplitudes
        return z + sum(self._weight(z - centre) * (z - centre) for centre in VENTRICLES)

    def jacobian(self, points: np.ndarray) -> np.ndarray:
        """Derivative of the template position by the scanner position at ``points`` ``(N, 3)``, shape ``(N, 3, 3)``."""
        y = points @ self.linear.T
        angles = y @ self.waves.T + self.phases
        bend = np.eye(3) + np.einsum("nk,ki,kj->nij", np.cos(angles), self.amplitudes, self.waves, optimize=True)
        z = y + np.sin(angles) @ self.amplitudes
        pull = np.tile(np.eye(3), (len(points), 1, 1))
        for centre in VENTRICLES:
            offset = z - centre
            outer = offset[:, :, None] * offset[:, None, :] / VENTRICLE_WIDTH**2
            pull += self._weight(offset)[..., None] * (np.eye(3) - outer)
        return pull @ bend @ self.linear

    def _weight(self, offset: np.ndarray) -> np.ndarray:
        """Pull ``(N, 1)`` at an ``offset`` ``(N, 3)`` from the middle of a ventricle."""
        square = np.sum(offset**2, axis=1, keepdims=True)
        return np.asarray(self.pull * np.exp(-0.5 * square / VENTRICLE_WIDTH**2))


def sample_warp(generator: np.random.Generator, size: float) -> Warp:
    """Draw a head: its scale, rotation, bend and ventricles. The bend has no folds.

    Args:
        generator: source of the random numbers.
        size: size of the head relative to life, 0.5 for a head of half the size.

    Returns:
        map from the scanner to the template.
    """
    scale = size * generator.uniform(1 - MAX_SCALE, 1 + MAX_SCALE)
    rotation = random_rotation(generator, MAX_ROTATION)
    lengths = generator.uniform(*WAVELENGTHS, N_WAVES)
    axes = generator.standard_normal((N_WAVES, 3))
    waves = 2 * np.pi / lengths[:, None] * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    phases = generator.uniform(0, 2 * np.pi, N_WAVES)
    amplitudes = WAVE_STEEPNESS * lengths[:, None] * generator.standard_normal((N_WAVES, 3))
    pull = generator.uniform(*VENTRICLE_PULLS)

    steps = [np.arange(-side / 2, side / 2 + 1, 6.0) for side in TEMPLATE_SIDES]
    life_size = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3) + TEMPLATE_CENTRE
    while True:
        bend = Warp(np.eye(3), rotation, waves, phases, amplitudes, pull)
        if np.linalg.det(bend.jacobian(life_size)).min() > MIN_DETERMINANT:
            return Warp(rotation.T / scale, rotation, waves, phases, amplitudes, pull)
        amplitudes = 0.8 * amplitudes


def random_rotation(generator: np.random.Generator, limit: float) -> np.ndarray:
    """Rotation matrix ``(3, 3)`` by up to ``limit`` degrees about each axis."""
    matrix: np.ndarray = Rotation.from_euler("xyz", generator.uniform(-limit, limit, 3), degrees=True).as_matrix()
    return matrix


def world_points(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """World RAS positions in mm of voxel indices, both ``(N, 3)``."""
    return np.asarray(voxels @ affine[:3, :3].T + affine[:3, 3])


@lru_cache(maxsize=2)
def _template_maps(blur: float) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of GM, WM and CSF of the template ``(3, X, Y, Z)``, blurred by ``blur`` mm; world to voxel.

    The maps of gray and white matter and the brain mask come with nilearn (ICBM 2009a nonlinear symmetric, Fonov et
    al., NeuroImage 54:313-327, 2011). CSF fills the rest of the brain.
    """
    images = [load(resolution=1) for load in (load_mni152_gm_template, load_mni152_wm_template, load_mni152_brain_mask)]
    gray, white, brain = (image.get_fdata(dtype=np.float32) for image in images)
    maps = np.stack([gray, white, np.maximum(1 - gray - white, 0)]) ** SHARPENING
    maps *= (brain > 0.5) / maps.sum(axis=0)
    return np.stack([ndimage.gaussian_filter(part, blur, truncate=3) for part in maps]), np.linalg.inv(images[0].affine)


def tissue_at(template_points: np.ndarray, step: float) -> np.ndarray:
    """Tissue of the template at some positions.

    Args:
        template_points: positions in MNI mm, shape ``(N, 3)``.
        step: distance in template mm between the positions. A filter removes finer detail.

    Returns:
        fractions of gray matter, white matter and CSF, float32, shape ``(3, N)``. Their sum is 1 in the brain, 0
        outside, and between 0 and 1 at the surface of the brain.
    """
    maps, to_voxel = _template_maps(round(ANTIALIASING * step, 3))
    where = world_points(template_points, to_voxel).T
    gray, white, csf = (ndimage.map_coordinates(part, where, order=1) for part in maps)
    none = white < MIN_WHITE_MATTER
    return np.stack([gray + np.where(none, white, 0), np.where(none, 0, white), csf])


@dataclass(frozen=True)
class Tissue:
    """Tissue on a grid, sampled at ``P`` places within each voxel.

    Attributes:
        fractions: fractions of gray matter, white matter and CSF, means over the places, float32, shape
            ``(3, X, Y, Z)``. Their sum is the share of the voxel inside the brain.
        voxels: indices of the ``N`` voxels with white matter in the flattened grid, shape ``(N,)``.
        white: fractions of white matter at the places in these voxels, float32, shape ``(N, P)``.
    """

    fractions: np.ndarray
    voxels: np.ndarray
    white: np.ndarray


def places(shape: tuple[int, int, int], per_axis: int, voxels: np.ndarray) -> np.ndarray:
    """Voxel coordinates of ``per_axis**3`` places, evenly spread within each voxel.

    Args:
        shape: shape of the grid.
        per_axis: number of places along each axis of a voxel.
        voxels: indices in the flattened grid, shape ``(N,)``.

    Returns:
        shape ``(N, per_axis**3, 3)``.
    """
    steps = (np.arange(per_axis) + 0.5) / per_axis - 0.5
    offsets = np.array(list(product(steps, repeat=3)))
    return np.stack(np.unravel_index(voxels, shape), axis=-1)[:, None] + offsets


def sample_tissue(warp: Warp, shape: tuple[int, int, int], affine: np.ndarray, per_axis: int, step: float) -> Tissue:
    """Sample the template's tissue in a subject, at several places in each voxel to model partial volume.

    Args:
        warp: map from the scanner to the template.
        shape: shape of the grid.
        affine: voxel-to-world matrix of the grid.
        per_axis: number of places along each axis of a voxel.
        step: distance between the places in template mm.
    """

    def look_up(part: np.ndarray, per_axis: int) -> np.ndarray:
        points = places(shape, per_axis, part).reshape(-1, 3)
        return tissue_at(warp.to_template(world_points(points, affine)), step).reshape(3, len(part), -1)

    # a coarse search limits the fine one to voxels near the brain
    everywhere = np.arange(np.prod(shape))
    stride = max(1, round(COARSE / step / per_axis))
    coarse = everywhere.reshape(shape)[::stride, ::stride, ::stride]
    found = look_up(coarse.ravel(), 1).any(axis=(0, 2)).reshape(coarse.shape)
    near = ndimage.binary_dilation(found, np.ones((3, 3, 3)))
    for axis, length in enumerate(shape):
        near = near.repeat(stride, axis).take(range(length), axis)
    parts = np.array_split(np.flatnonzero(near), shape[0])
    fractions = np.zeros((3, len(everywhere)), dtype=np.float32)
    voxels, white = [], []
    for part in parts:
        tissue = look_up(part, per_axis)
        fractions[:, part] = tissue.mean(axis=2)
        with_white = tissue[1].any(axis=1)
        voxels.append(part[with_white])
        white.append(tissue[1, with_white])
    return Tissue(fractions.reshape(3, *shape), np.concatenate(voxels), np.concatenate(white))
