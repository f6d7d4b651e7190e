"""The raw files behind a prepared scan, and its shell on the prepared grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd

from scripts.files import read_json
from transforms.attenuation import Attenuation
from transforms.errors import InputError
from transforms.scan import RAS_LABELS, LoadScand, open_nifti
from transforms.spatial import ResampleToSpacingd


@dataclass(frozen=True)
class Shell:
    """One shell of a raw scan on the grid of the prepared scan: nothing is interpolated between directions.

    Attributes:
        signal: diffusion-weighted volumes, float32, shape ``(N, X, Y, Z)``.
        b0: mean b0, shape ``(X, Y, Z)``.
        gradients: directions in world RAS and b-values of the volumes, shape ``(N, 4)``.
        mask: brain mask, bool, shape ``(X, Y, Z)``.
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


def read_volume(path: Path) -> MetaTensor:
    """Read a three-dimensional image, float32, shape ``(1, X, Y, Z)``; NaN is 0."""
    image = open_nifti(path, ndim=3)
    voxels = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32))
    return MetaTensor(torch.from_numpy(voxels)[None], affine=torch.as_tensor(image.affine, dtype=torch.float64))


def load_shell(files: Mapping[str, Path], bvalue: float, mask: MetaTensor) -> Shell:
    """Take one shell of a raw scan to the grid of the prepared scan, by the steps of preparation.

    Args:
        files: of the raw scan.
        bvalue: of the shell in s/mm2.
        mask: prepared brain mask, shape ``(1, X, Y, Z)``.

    Raises:
        InputError: the scan cannot be read, or has another grid than the one that was prepared.
    """
    images = ["image", "b0"]
    size = [round(length, 6) for length in mask.pixdim.tolist()]
    steps = [LoadScand(bvalue), Orientationd(keys=images, axcodes="RAS", labels=RAS_LABELS)]
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
    signal, b0 = (np.ascontiguousarray(data[key].numpy()[crop]) for key in images)
    return Shell(signal, b0[0], data["gradients"], mask[0].numpy() > 0, affine)
