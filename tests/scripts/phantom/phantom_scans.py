"""Simple scans and their artifacts: what tests of the scanner, of its receive field and of the draws share."""

from dataclasses import replace

import numpy as np
from scipy.linalg import expm

from scripts.phantom.artifacts import CLINICAL, ScanArtifacts, sample_scan_artifacts
from scripts.phantom.receive_field import receive_field
from scripts.phantom.scanner import acquire

SHAPE = (26, 32, 17)
SIZES = np.array([2.0, 1.5, 3.0])
PEAK = 30000.0
"""Height of a blob: rounding to integers hardly changes it."""

POSE = {"rotation": (6.0, -9.0, 12.0), "translation": (2.0, -1.5, 1.0)}
EDDY = (1.2, -0.05, 0.08, -0.06)


def turn(rotation) -> np.ndarray:
    """Rotation matrix of a vector in degrees: exponential of the cross product with it."""
    x, y, z = np.radians(rotation)
    return expm(np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))


def perfect(volumes=1, slices=SHAPE[2], **changes) -> ScanArtifacts:
    """Artifacts of a perfect scan, except for ``changes`` in every volume."""
    zeros = np.zeros((volumes, 3))
    nothing = ScanArtifacts(
        noise_sigma=0.0,
        bias_strength=0.0,
        bias=np.zeros(10),
        centre=np.zeros(3),
        rotation=zeros,
        translation=zeros,
        eddy=np.zeros((volumes, 4)),
        ghost_phase=np.zeros(volumes),
        dropout=np.ones((volumes, slices)),
    )
    per_volume = {"rotation": 3, "translation": 3, "eddy": 4}
    return replace(
        nothing,
        **{
            name: np.tile(value, (volumes, 1)).astype(float) if name in per_volume else value
            for name, value in changes.items()
        },
    )


def scanned(volume, artifacts, affine=None, index=0, seed=0) -> np.ndarray:
    field = receive_field(artifacts.bias, volume.shape)
    affine = np.eye(4) if affine is None else affine
    return acquire(volume, index, artifacts, affine, field, np.random.default_rng(seed))


def world(affine, shape=SHAPE) -> np.ndarray:
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def middle(affine, *offset) -> np.ndarray:
    """World place in mm of the image's middle, or ``offset`` mm from it."""
    return affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + affine[:3, 3] + (offset or 0)


def blob(affine, place, spread=(3.5, 3.5, 3.5), axes=None) -> np.ndarray:
    """Gaussian about ``place`` in world mm, ``spread`` mm wide along ``axes`` (columns); None for the world's axes."""
    distance = (world(affine) - place) @ (np.eye(3) if axes is None else axes) / spread
    return (PEAK * np.exp(-0.5 * np.sum(distance**2, axis=-1))).astype(np.float32)


def gradient_table(generator, volumes=65, b=1000.0) -> np.ndarray:
    directions = generator.standard_normal((volumes, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    table = np.column_stack([directions, np.full(volumes, b)])
    table[0] = 0
    return table


def ball(shape=SHAPE) -> np.ndarray:
    inside = (np.indices(shape).T - (np.array(shape) - 1) / 2) / np.array(shape) * 2.6
    return (np.sum(inside**2, axis=-1) < 1).T


def draw(strengths=CLINICAL, seed=0, gradients=None, brain=None, sigma=20.0, affine=None) -> ScanArtifacts:
    generator = np.random.default_rng(seed)
    gradients = gradient_table(np.random.default_rng(99)) if gradients is None else gradients
    affine = np.diag([*SIZES, 1.0]) if affine is None else affine
    return sample_scan_artifacts(generator, strengths, gradients, affine, ball() if brain is None else brain, sigma)
