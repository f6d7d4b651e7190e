"""Voxel grids of several orientations, directions and scans on disk: what tests of every folder need."""

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests import warm_python
from tests.unsynced import forget_the_disk

forget_the_disk()

# a training without --dataset_dir would take minutes, and fill the home of whoever runs the tests: here it fails
os.environ |= {"MPLCONFIGDIR": matplotlib.get_cachedir(), "XDG_CACHE_HOME": os.devnull}

ROOT = Path(__file__).parents[1]

VOXEL_SIZE = (2.0, 1.5, 3.0)
"""In mm along the voxel axes; no two alike, so that exchanged axes are seen."""

TURN = Rotation.from_euler("xyz", [14, -22, 33], degrees=True).as_matrix()
VOXEL_AXES = {
    "RAS": np.diag([1.0, 1.0, 1.0]),
    "LAS": np.diag([-1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "PIR": np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
    "PIL": np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
    "oblique": TURN,
    "oblique LAS": TURN @ np.diag([-1.0, 1.0, 1.0]),
}
"""Columns are the world-RAS directions of the voxel axes; every second one or so is left-handed."""


def make_affine(axes: np.ndarray, voxel_size=VOXEL_SIZE, origin=(-21.0, 33.0, -17.0)) -> np.ndarray:
    """Voxel-to-world matrix from orthonormal voxel axes (columns), voxel sizes in mm and the first voxel's place."""
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag(voxel_size)
    affine[:3, 3] = origin
    return affine


def fsl_bvecs(directions: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """World vectors as FSL writes them: along the voxel axes, x negated where these are right-handed."""
    along_axes = np.stack([directions @ axes[:, i] for i in range(3)], axis=1)
    if np.cross(axes[:, 0], axes[:, 1]) @ axes[:, 2] > 0:
        along_axes[:, 0] = -along_axes[:, 0]
    return along_axes


@pytest.fixture(params=list(VOXEL_AXES))
def axes(request) -> np.ndarray:
    """World directions of the voxel axes, as columns: each orientation in turn."""
    return VOXEL_AXES[request.param]


@pytest.fixture
def affine(axes) -> np.ndarray:
    """Voxel-to-world matrix of each orientation in turn, voxels of 2 x 1.5 x 3 mm."""
    return make_affine(axes)


@pytest.fixture(scope="session")
def orientations() -> dict[str, np.ndarray]:
    """World directions of the voxel axes, by the name of the orientation."""
    return VOXEL_AXES


@pytest.fixture(scope="session")
def affine_of() -> Callable[..., np.ndarray]:
    """Return the function from voxel axes, voxel sizes and origin to a voxel-to-world matrix."""
    return make_affine


@pytest.fixture(scope="session")
def axes_on_sphere() -> Callable[[int], np.ndarray]:
    """Return the function that spreads ``n`` unit vectors over a half sphere, along a Fibonacci spiral."""

    def spread(n: int) -> np.ndarray:
        z = 1 - (np.arange(n) + 0.5) / n
        azimuth = np.arange(n) * np.pi * (3 - np.sqrt(5))
        radius = np.sqrt(1 - z**2)
        return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)

    return spread


@pytest.fixture(scope="session")
def write_scan() -> Callable[..., Path]:
    """Return the function that writes a scan ``(X, Y, Z, N)`` with its FSL files, directions given in world RAS."""

    def write(folder: Path, signal: np.ndarray, affine: np.ndarray, directions: np.ndarray, bvals: np.ndarray) -> Path:
        dwi = folder / "sub-01_dwi.nii.gz"
        nib.Nifti1Image(signal, affine).to_filename(dwi)
        unit_axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        np.savetxt(folder / "sub-01_dwi.bvec", fsl_bvecs(directions, unit_axes).T, fmt="%.8f")
        np.savetxt(folder / "sub-01_dwi.bval", np.atleast_2d(bvals), fmt="%g")
        return dwi

    return write


@pytest.fixture(scope="session")
def python():
    """Executable like that of Python, whose commands need not import the libraries."""
    # the path of a socket has to be short
    with tempfile.TemporaryDirectory() as folder, warm_python.start(Path(folder)) as executable:
        yield executable


@pytest.fixture(scope="session")
def shell(python):
    """Run ``python ...`` in the repository; return what it printed on both streams."""

    def run(*command, check=True, **options):
        done = subprocess.run(
            [python, "-W", "ignore", *map(str, command)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **options,
        )
        assert not check or done.returncode == 0, done.stdout[-5000:]
        return done

    return run
