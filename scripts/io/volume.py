"""Volumes as MetaTensors; a module of its own, for MONAI takes seconds to import and the phantoms do without it."""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from monai.data import MetaTensor

from scripts.io.nifti import read_voxels


def as_volume(voxels: np.ndarray, affine: np.ndarray) -> MetaTensor:
    """Channels ``(C, X, Y, Z)`` with their voxel-to-world matrix."""
    return MetaTensor(torch.from_numpy(voxels), affine=torch.as_tensor(affine, dtype=torch.float64))


def read_volume(path: str | PathLike[str]) -> MetaTensor:
    """Read a three-dimensional image, float32, shape ``(1, X, Y, Z)``; what is not finite is 0.

    Raises:
        InputError: it cannot be read.
    """
    voxels, affine = read_voxels(path)
    return as_volume(np.nan_to_num(voxels.astype(np.float32), posinf=0.0, neginf=0.0)[None], affine)
