"""Scans on which artifacts are tested: odd and even, non-cubic shapes, with affines of anisotropic voxels."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from transforms.artifacts import Acquisition, BiasField, Eddy, Ghosting, Motion, Noise, ScanInfo, Undersampling
from transforms.diffusion.scheme import default_scheme

SHAPE = (10, 16, 19, 13)
DIRECTIONS = default_scheme()[: SHAPE[0]]

VOXEL_SIZE = np.diag([2.0, 1.5, 3.0])
LINEAR = {
    "cubes": np.diag([2.4, 2.4, 2.4]),
    "RAS": VOXEL_SIZE,
    "LAS": np.diag([-1.0, 1.0, 1.0]) @ VOXEL_SIZE,
    "oblique": Rotation.from_euler("xyz", [12, -20, 31], degrees=True).as_matrix() @ VOXEL_SIZE,
}

ARTIFACTS = {
    "motion": Motion(prob=1.0, degrees=(2.0, 9.0), translation=(1.0, 4.0)),
    "eddy": Eddy(prob=1.0, shift=(-1.0, 1.0), shear_x=(-0.1, 0.1), shear_z=(-0.1, 0.1)),
    "bias field": BiasField(prob=1.0),
    "ghosting": Ghosting(prob=1.0, num_ghosts=(2, 4)),
    "noise": Noise(prob=1.0, mean=(-0.1, 0.1), std=(0.05, 0.2)),
    "acquisition": Acquisition(eddy_quadratic=0.5, dropout=(0.1, 0.2), ghost_phase=(5.0, 12.0)),
    "undersampling": Undersampling(prob=1.0, measured=(6, 6)),
}
"""One artifact of each kind; each changes every image."""

NOTHING = {
    "motion": Motion(degrees=(0, 0), translation=(0, 0)),
    "eddy": Eddy(stretch=(1, 1)),
    "bias field": BiasField(coefficients=(0, 0)),
    "ghosting": Ghosting(intensity=(0, 0)),
    "noise": Noise(std=(0, 0)),
    "undersampling": Undersampling(measured=(64, 64)),
}
"""Artifacts of severity 0."""


def generator(seed):
    return torch.Generator().manual_seed(seed)


def make_scan(linear=VOXEL_SIZE, shape=SHAPE, seed=3, dtype=torch.float32):
    """Image of ``shape`` with values from 0.1 to 0.9, and what is known of its scan."""
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = (-21.0, -30.0, -17.0)
    image = 0.1 + 0.8 * torch.rand(shape, generator=generator(seed), dtype=dtype)
    b0 = 100 + 50 * torch.rand((1, *shape[1:]), generator=generator(seed + 1), dtype=dtype)
    return image, ScanInfo(affine, default_scheme()[: shape[0]], b0, torch.ones(1, *shape[1:]))


def blob(shape, centre_offset=(0.0, 0.0, 0.0), width=(2.5, 2.5, 2.5), dtype=torch.float32):
    """Gaussian blob ``(1, X, Y, Z)`` near the image centre, away from the border; ``width`` in voxels."""
    axes = [(np.arange(n) - (n - 1) / 2 - o) / w for n, o, w in zip(shape, centre_offset, width, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return torch.tensor(np.exp(-sum(g**2 for g in grid) / 2), dtype=dtype)[None]


def centre_of_mass(volume):
    """Centre of mass of a volume ``(X, Y, Z)``, in voxels from the image's centre."""
    weights = np.asarray(volume, dtype=np.float64)
    grid = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in weights.shape), indexing="ij")
    return np.array([(weights * g).sum() / weights.sum() for g in grid])


def assert_uniform(numbers, low, high):
    counts, _ = np.histogram(numbers, bins=10, range=(low, high))
    assert counts.sum() == np.size(numbers)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 27.9  # chi2 of 9 degrees of freedom, p = 0.001
