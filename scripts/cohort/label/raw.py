"""The raw files behind a prepared scan, and its shell on the prepared grid."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd

from scripts.files import read_json
from transforms.attenuation import Attenuation
from transforms.errors import InputError
from transforms.scan import DAMAGE, RAS_LABELS, FiniteSignald, LoadScand, open_nifti
from transforms.spatial import ResampleToSpacingd

LEAST_MM = 40.0
"""Extent of a T1 along each axis; a head is larger, and N4 cannot work on a slice."""


@dataclass(frozen=True)
class Shell:
    """One shell of a raw scan on the grid of the prepared scan: nothing is interpolated between directions.

    Attributes:
        signal: diffusion-weighted volumes, float32, shape ``(N, X, Y, Z)``.
        b0: mean b0, shape ``(X, Y, Z)``.
        gradients: directions in world RAS and b-values of the volumes, shape ``(N, 4)``.
        mask: brain mask without voxels whose signal is not finite, bool, shape ``(X, Y, Z)``.
        affine: voxel to world RAS in mm.
    """

    signal: np.ndarray
    b0: np.ndarray
    gradients: np.ndarray
    mask: np.ndarray
    affine: np.ndarray

    @property
    def mean_attenuation(self) -> np.ndarray:
        """Mean over the directions of signal / b0, also outside the brain, 0 to 1, shape ``(X, Y, Z)``."""
        mean, b0 = (torch.from_numpy(volume)[None] for volume in (self.signal.mean(axis=0), self.b0))
        return Attenuation()(mean, b0)[0].numpy()


def raw_files(entry: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Find the raw files of a prepared scan by what its JSON says: relative to the cohort, so both may be moved.

    Returns:
        ``dwi``, ``bval``, ``bvec`` and, where there is one, ``t1w``.

    Raises:
        InputError: the JSON does not name them, or one is not there any more.
    """
    sidecar = folder / entry["image"].replace(".nii.gz", ".json")
    known = read_json(sidecar).get("RawFiles")
    if not known:
        raise InputError(
            f"{sidecar}: found no RawFiles, expected the places of the raw scan; "
            "run 'python -m scripts prepare' on this cohort again, which adds them."
        )
    files = {name: (folder / path).resolve() for name, path in known.items() if name != "brain_mask"}
    for name, path in files.items():
        if not path.is_file():
            raise InputError(
                f"{path}: no such file, expected the raw {name} of {entry['scan']} as {sidecar.name} says; "
                "if the raw cohort was moved, run 'python -m scripts prepare' again with its new folder."
            )
    return files


def _open(path: Path, ndim: int) -> nib.nifti1.Nifti1Pair:
    """Open a NIfTI image; one volume may have a fourth axis of length 1."""
    try:
        return open_nifti(path, ndim)
    except InputError:
        if ndim == 3:
            with suppress(InputError):
                image = open_nifti(path, ndim=4)
                if image.shape[3] == 1:
                    return image
        raise


def read_voxels(path: Path, ndim: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Read the voxels of a NIfTI image, and its affine; a fourth axis of length 1 of a volume is left out.

    Raises:
        InputError: no such file, a damaged one, or another number of dimensions than ``ndim``.
    """
    image = _open(path, ndim)
    try:
        voxels = np.asarray(image.dataobj)
    except DAMAGE as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected a whole NIfTI image.") from None
    return voxels.reshape(voxels.shape[:ndim]), image.affine


def read_volume(path: Path) -> MetaTensor:
    """Read a three-dimensional image, float32, shape ``(1, X, Y, Z)``; what is not finite is 0.

    Raises:
        InputError: it cannot be read.
    """
    voxels, affine = read_voxels(path)
    finite = np.nan_to_num(voxels.astype(np.float32), posinf=0.0, neginf=0.0)
    return MetaTensor(torch.from_numpy(finite)[None], affine=torch.as_tensor(affine, dtype=torch.float64))


def read_t1(path: Path) -> MetaTensor:
    """Read a T1-weighted image, as :func:`read_volume` does.

    Raises:
        InputError: it cannot be read, is blank, or is a slice or slab.
    """
    t1 = read_volume(path)
    extent = [n * size for n, size in zip(t1.shape[1:], t1.pixdim.tolist(), strict=True)]
    if min(extent) < LEAST_MM:
        found = "x".join(f"{length:.0f}" for length in extent)
        raise InputError(f"{path}: found an image of {found} mm, expected at least {LEAST_MM:g} mm along each axis.")
    if not bool((t1 > 0).any()):
        raise InputError(f"{path}: found no voxel above 0, expected a T1-weighted image of a head.")
    return t1


def load_shell(files: Mapping[str, Path], bvalue: float, mask: MetaTensor) -> Shell:
    """Take one shell of a raw scan to the grid of the prepared scan, by the steps of preparation.

    A voxel of which one volume is not finite is 0 in all of them, and lies outside the mask.

    Args:
        files: of the raw scan.
        bvalue: of the shell in s/mm2.
        mask: prepared brain mask, shape ``(1, X, Y, Z)``.

    Raises:
        InputError: the scan cannot be read, has another grid than the one that was prepared, or no finite signal.
    """
    images = ["image", "b0", "finite"]
    size = [round(length, 6) for length in mask.pixdim.tolist()]
    steps: list[Any] = [LoadScand(bvalue), FiniteSignald(), Orientationd(keys=images, axcodes="RAS", labels=RAS_LABELS)]
    data: Any = Compose([*steps, ResampleToSpacingd(keys=images, voxel_size=size)])(
        {name: str(files[name]) for name in ("dwi", "bval", "bvec")}
    )
    affine = np.asarray(mask.affine, dtype=np.float64)
    whole = np.asarray(data["b0"].affine, dtype=np.float64)
    first = np.linalg.solve(whole, affine[:, 3])[:3]
    start, shape = np.rint(first).astype(int), np.array(mask.shape[1:])
    inside = (start >= 0).all() and (start + shape <= data["b0"].shape[1:]).all()
    if not inside or np.abs(first - start).max() > 1e-2 or not np.allclose(whole[:3, :3], affine[:3, :3], atol=1e-3):
        raise InputError(f"{files['dwi']}: found another grid than the prepared scan's, expected the scan it is from.")
    crop = (slice(None), *(slice(a, a + n) for a, n in zip(start, shape, strict=True)))
    signal, b0, finite = (np.ascontiguousarray(data[key].numpy()[crop]) for key in images)
    brain = (mask[0].numpy() > 0) & (finite[0] > 0.5)
    if not brain.any():
        raise InputError(
            f"{files['dwi']}: found no voxel of the brain that is finite in all volumes, expected a brain."
        )
    return Shell(signal, b0[0], data["gradients"], brain, affine)
