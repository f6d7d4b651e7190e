"""A raw diffusion scan that was opened: its image, its gradient table and one shell of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from transforms.diffusion.gradients import (
    B0_MAX,
    SHELL_TOLERANCE,
    b0_volumes,
    describe_shells,
    shell_volumes,
    unique_axes,
)
from transforms.diffusion.scheme import MIN_AXES, SAME_AXIS_DEGREES
from transforms.errors import DAMAGE, InputError


@dataclass(frozen=True, eq=False)
class Scan:
    """A raw diffusion scan, opened once: ``scripts.io.raw_scan.open_scan`` makes one of files.

    Attributes:
        image: NIfTI image ``(X, Y, Z, N)``, any affine; its voxels are read when they are asked for.
        gradients: gradient table of all volumes in world RAS, shape ``(N, 4)``.
        bvalue: b-value of the shell in s/mm2.
        tolerance: half width of the shell in s/mm2.
        mask: a given brain mask on the scan's grid, 0 or 1, ``(1, X, Y, Z)``, or None.
        files: what the scan was opened from: ``dwi``, ``bval``, ``bvec`` and, where a mask was given, ``brain_mask``.

    Raises:
        InputError: there is no b0, no volume in the shell, or fewer than 6 distinct axes in it.
    """

    image: nib.nifti1.Nifti1Pair
    gradients: np.ndarray
    bvalue: float = 1000.0
    tolerance: float = SHELL_TOLERANCE
    mask: MetaTensor | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = describe_shells(self.gradients)
        if not len(self.b0):
            raise InputError(f"{self.path}: found {found}, expected at least one volume of b <= {B0_MAX:g}.")
        if not len(self.shell):
            expected = f"a shell of b = {self.bvalue:g} +- {self.tolerance:g} s/mm2"
            raise InputError(f"{self.path}: found {found}, expected {expected}.")
        axes = unique_axes(self.shell_gradients[:, :3], SAME_AXIS_DEGREES)
        if axes < MIN_AXES:
            raise InputError(
                f"{self.path}: found {axes} distinct axes at b = {self.bvalue:g}, expected at least {MIN_AXES}."
            )

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """File of the image."""
        return self.files.get("dwi", Path("scan"))

    @property
    def affine(self) -> np.ndarray:
        """Voxel to world RAS in mm, ``(4, 4)``."""
        return np.asarray(self.image.affine, dtype=np.float64)

    @cached_property
    def b0(self) -> np.ndarray:
        """Indices of the b0 volumes."""
        return b0_volumes(self.gradients)

    @cached_property
    def shell(self) -> np.ndarray:
        """Indices of the volumes of the shell."""
        return shell_volumes(self.gradients, self.bvalue, self.tolerance)

    @property
    def shell_gradients(self) -> np.ndarray:
        """Gradient table of the shell, shape ``(n, 4)``."""
        return self.gradients[self.shell]

    @property
    def grid(self) -> MetaTensor:
        """Image of zeros, ``(1, X, Y, Z)``, which stands for the scan's grid."""
        return self._on_grid(np.zeros((1, *self.image.shape[:3]), dtype=np.float32))

    def volumes(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read some volumes as they stand in the file, float32, shape ``(len(indices), X, Y, Z)``.

        Raises:
            InputError: the file ends early or is damaged.
        """
        signal = np.empty((len(indices), *self.image.shape[:3]), dtype=np.float32)
        try:
            for row, index in enumerate(indices):
                signal[row] = self.image.dataobj[..., int(index)]
        except DAMAGE as error:
            raise InputError(f"{self.path}: found a damaged file ({error}), expected a whole NIfTI image.") from None
        return signal

    def mean_b0(self) -> MetaTensor:
        """Read the mean of the b0 volumes, ``(1, X, Y, Z)``."""
        return self._on_grid(self.volumes(self.b0).mean(axis=0, keepdims=True))

    def shell_signal(self) -> MetaTensor:
        """Read the volumes of the shell, ``(n, X, Y, Z)``."""
        return self._on_grid(self.volumes(self.shell))

    def _on_grid(self, volumes: np.ndarray) -> MetaTensor:
        return MetaTensor(torch.from_numpy(volumes), affine=torch.as_tensor(self.affine))
