"""Small raw scans with known signal, in several orientations, laid out as BIDS or as the HCP does."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from transforms.diffusion.scheme import default_scheme

SHAPE = (20, 24, 18)
CENTRE = np.array([2.0, -5.0, 3.0])
"""Centre of the head in world RAS, in mm."""
SEMI_AXES = np.array([22.0, 27.0, 19.0])
LINEAR = {
    "RAS": np.diag([3.0, 3.0, 3.0]),
    "LAS": np.diag([-3.0, 3.0, 3.0]),
    "LPS": np.diag([-3.0, -3.0, 3.0]),
    "oblique": Rotation.from_euler("xyz", [12, -9, 17], degrees=True).as_matrix() @ np.diag([-3.0, 3.0, 3.0]),
}


def spread(n: int) -> np.ndarray:
    """Some well spread directions ``(n, 3)``: a Fibonacci spiral on a half sphere, turned off the axes."""
    z = 1 - (np.arange(n) + 0.5) / n
    azimuth, radius = np.arange(n) * np.pi * (3 - np.sqrt(5)), np.sqrt(1 - z**2)
    spiral = np.column_stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z])
    return Rotation.from_euler("xyz", [20, 35, 50], degrees=True).apply(spiral)


def table(*shells: tuple[float, int]) -> np.ndarray:
    """Gradient table ``(N, 4)`` in world RAS of ``(b, number of volumes)``, in this order."""
    rows = []
    for b, n in shells:
        directions = np.zeros((n, 3)) if b < 50 else spread(n)
        rows.append(np.column_stack([directions, np.full(n, b)]))
    return np.vstack(rows)


ONE_SHELL = table((0, 1), (1000, 16))


@dataclass(frozen=True)
class Raw:
    """Files of a raw scan and what they were made of; ``bvecs`` are in FSL's axes."""

    dwi: Path
    bval: Path
    bvec: Path
    mask: Path | None
    affine: np.ndarray
    gradients: np.ndarray
    bvecs: np.ndarray


def world_grid(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """World coordinates of the voxel centres, shape ``(*shape, 3)``."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape[:3]), indexing="ij"), axis=-1)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def in_head(world: np.ndarray, scale: float = 1.0) -> np.ndarray:
    return (((world - CENTRE) / SEMI_AXES / scale) ** 2).sum(axis=-1) < 1


def _affine(orientation: str) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = LINEAR[orientation]
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


def _signal(affine: np.ndarray, gradients: np.ndarray, seed: int) -> np.ndarray:
    """Left and right differ in intensity and in fibre direction; noise is fixed to places in the world."""
    world = world_grid(affine, SHAPE)
    inside = in_head(world)
    offset = world - CENTRE
    b0 = np.where(inside, 800.0 + 8.0 * offset[..., 0] + 4.0 * offset[..., 1], 0.0)
    fibre = np.where(offset[..., :1] > 0, [0.8, 0.6, 0.0], [0.0, 0.6, 0.8])
    along = np.einsum("xyzi,ni->nxyz", fibre, gradients[:, :3]) ** 2
    b = gradients[:, 3][:, None, None, None]
    signal = b0 * np.exp(-b * (0.3e-3 + 1.2e-3 * along))
    phase = np.random.default_rng(seed).uniform(0, 6, (len(gradients), 3))
    ripple = np.sin(np.einsum("xyzi,ni->nxyz", offset, phase))
    return signal + 3.0 * (1.0 + ripple)


def write_scan(
    dwi: Path,
    seed: int = 0,
    orientation: str = "LAS",
    gradients: np.ndarray = ONE_SHELL,
    dtype: type = np.int16,
    mask: Path | None = None,
    bval: Path | None = None,
    bvec: Path | None = None,
) -> Raw:
    """Write one scan with its gradient files."""
    stem = str(dwi).removesuffix(".nii.gz")
    bval, bvec = bval or Path(f"{stem}.bval"), bvec or Path(f"{stem}.bvec")
    dwi.parent.mkdir(parents=True, exist_ok=True)
    affine = _affine(orientation)
    signal = np.moveaxis(_signal(affine, gradients, seed), 0, -1)
    stored = np.round(signal) if np.issubdtype(dtype, np.integer) else signal
    nib.save(nib.Nifti1Image(stored.astype(dtype), affine), dwi)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    bvecs = gradients[:, :3] @ axes
    if np.linalg.det(axes) > 0:
        bvecs = bvecs * [-1, 1, 1]
    np.savetxt(bval, gradients[None, :, 3], fmt="%g")
    np.savetxt(bvec, bvecs.T, fmt="%.8f")
    if mask is not None:
        write_mask(mask, affine)
    return Raw(dwi, bval, bvec, mask, affine, gradients, bvecs)


def write_mask(path: Path, affine: np.ndarray, scale: float = 1.0, shape: Sequence[int] = SHAPE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(in_head(world_grid(affine, shape), scale).astype(np.uint8), affine), path)
    return path


def write_bids(root: Path, subjects: Sequence[str], **options) -> dict[str, Raw]:
    """Write a raw BIDS dataset; participants differ by their noise."""
    describe(root, "raw")
    return {
        subject: write_scan(root / subject / "dwi" / f"{subject}_dwi.nii.gz", seed=int(subject[4:]), **options)
        for subject in subjects
    }


def describe(root: Path, kind: str) -> None:
    """Write a ``dataset_description.json``."""
    root.mkdir(parents=True, exist_ok=True)
    text = {"Name": "test", "BIDSVersion": "1.10.0", "DatasetType": kind, "GeneratedBy": [{"Name": "test"}]}
    (root / "dataset_description.json").write_text(json.dumps(text))


def write_hcp(root: Path, subjects: Sequence[str], **options) -> dict[str, Raw]:
    """Write scans as the HCP's preprocessing leaves them."""
    scans = {}
    for subject in subjects:
        folder = root / subject / "T1w" / "Diffusion"
        scans[subject] = write_scan(
            folder / "data.nii.gz",
            seed=int(subject),
            mask=folder / "nodif_brain_mask.nii.gz",
            bval=folder / "bvals",
            bvec=folder / "bvecs",
            **options,
        )
    return scans


@pytest.fixture(scope="session")
def heads() -> SimpleNamespace:
    """What tests make scans with, and compare with."""
    tools = (write_scan, write_mask, write_bids, write_hcp, describe, table, world_grid, in_head)
    return SimpleNamespace(**{tool.__name__: tool for tool in tools})


@pytest.fixture(scope="session")
def scheme(tmp_path_factory) -> Path:
    """Reference scheme of 12 directions, other ones than those of the scans."""
    path = tmp_path_factory.mktemp("scheme") / "scheme12.bvec"
    np.savetxt(path, default_scheme()[np.linspace(0, 63, 12).astype(int)].T, fmt="%.8f")
    return path


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory) -> str:
    """One database for all tests that track: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
