"""One shell of a raw scan on the grid of its prepared scan, with the scan's own directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from transforms.attenuation import Attenuation
from transforms.errors import InputError
from transforms.preprocessing import ScanToGrid
from transforms.resampling import crop_to
from transforms.scan import Scan


@dataclass(frozen=True)
class Shell:
    """The mean b0 and one shell of a raw scan; nothing is interpolated between directions.

    Attributes:
        signal: b0 first, then the diffusion-weighted volumes, float32, shape ``(1 + N, X, Y, Z)``.
        gradients: directions in world RAS and b-values of these volumes, shape ``(1 + N, 4)``; the first row is 0.
        mask: brain mask without voxels whose signal is not finite, bool, shape ``(X, Y, Z)``.
        affine: voxel to world RAS in mm.
    """

    signal: np.ndarray
    gradients: np.ndarray
    mask: np.ndarray
    affine: np.ndarray

    @property
    def b0(self) -> np.ndarray:
        """Mean b0, shape ``(X, Y, Z)``."""
        return self.signal[0]

    @property
    def usable(self) -> np.ndarray:
        """Voxels of the brain with a b0 above 0, to which a model can be fitted, bool, shape ``(X, Y, Z)``."""
        return self.mask & (self.b0 > 0)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def mean_attenuation(self) -> np.ndarray:
        """Mean over the directions of signal / b0, also outside the brain, 0 to 1, shape ``(X, Y, Z)``."""
        mean, b0 = (torch.from_numpy(volume)[None] for volume in (self.signal[1:].mean(axis=0), self.b0))
        return Attenuation()(mean, b0)[0].numpy()


def load_shell(scan: Scan, mask: MetaTensor, voxel_size: float) -> Shell:
    """Resample the shell of a raw scan to the grid of the prepared scan, by the steps of preparation.

    A voxel that is not finite in one volume is 0 in all volumes, and lies outside the mask.

    Args:
        scan: the raw scan, opened.
        mask: prepared brain mask, shape ``(1, X, Y, Z)``.
        voxel_size: voxel size of the preparation, in mm.

    Raises:
        InputError: the scan cannot be read, has another grid than the one that was prepared, or no finite signal.
    """
    data: Any = ScanToGrid(voxel_size)({"raw_scan": scan})
    try:
        image, b0, finite = (crop_to(data[key], mask).numpy() for key in ("image", "b0", "finite"))
    except InputError:
        raise InputError(
            f"{scan}: found another grid than the prepared scan's, expected the scan it is from."
        ) from None
    brain = (mask[0].numpy() > 0) & (finite[0] > 0.5)
    if not brain.any():
        raise InputError(f"{scan}: found no voxel of the brain that is finite in all volumes, expected a brain.")
    gradients = np.vstack([np.zeros(4), data["gradients"]])
    return Shell(np.concatenate([b0, image]), gradients, brain, np.asarray(mask.affine, dtype=np.float64))
