"""A raw diffusion scan that was opened: its image, its gradient table and one shell of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.spatialimages import HeaderDataError

from transforms.damage import DAMAGE, read_to_end
from transforms.diffusion.gradients import (
    B0_MAX,
    SHELL_TOLERANCE,
    b0_volumes,
    describe_shells,
    shell_notes,
    shell_volumes,
    voxel_axes,
)
from transforms.diffusion.sh import sh_order
from transforms.errors import InputError, SignalError
from transforms.signal_checks import usable_volumes

VOXEL_MM = (0.1, 10.0)
"""Sides of voxels in mm: finer are no scans of a head, and coarser ones stand for an affine in another unit. The grid
of the network, which follows from the field of view, would not fit the memory."""

USUAL_BVALUES = (5.0, 1e5)
"""The largest b-value of a diffusion scan in s/mm2: in ms/um2 it is a thousandth, in s/m2 a million times as much."""

MAX_SHEAR_DEGREES = 5.0
"""Angle in degrees that the voxel axes may be off a right angle: of sheared axes no rule says what a b-vector is."""

SAME_DEGREES = 2.0
"""Angle in degrees up to which two matrices of a header are one orientation."""

SAME_SIDES = 0.02
"""Relative difference up to which two voxel sizes are one."""


@dataclass(frozen=True, eq=False)
class Signal:
    """Voxels of one shell of a scan, as they stand in the file; volumes that cannot be used are left out.

    Attributes:
        b0: mean of the b0 volumes, ``(1, X, Y, Z)``.
        b0_volumes: their indices in the scan.
        shell: volumes of the shell, ``(n, X, Y, Z)``.
        shell_volumes: their indices in the scan, shape ``(n,)``.
        gradients: gradient table of these volumes, shape ``(n, 4)``.
        notes: what is unusual of header and shell, and which volumes were left out, and why.
        checksum: SHA-256 of the voxels of all volumes, however they are stored; None where it was not asked for.
    """

    b0: MetaTensor
    b0_volumes: np.ndarray
    shell: MetaTensor
    shell_volumes: np.ndarray
    gradients: np.ndarray
    notes: list[str]
    checksum: str | None


@dataclass(frozen=True, eq=False)
class Scan:
    """A raw diffusion scan, opened once: ``scripts.io.raw_scan.open_scan`` makes one of files.

    Attributes:
        image: NIfTI image ``(X, Y, Z, N)``, any affine; its voxels are read when they are asked for.
        gradients: gradient table of all volumes in world RAS, shape ``(N, 4)``.
        bvalue: b-value of the shell in s/mm2.
        tolerance: half width of the shell in s/mm2.
        b0_max: largest b-value in s/mm2 that counts as b0.
        mask: a given brain mask on the scan's grid, 0 or 1, ``(1, X, Y, Z)``, or None.
        files: what the scan was opened from: ``dwi``, ``bval``, ``bvec`` and, where a mask was given, ``brain_mask``.

    Raises:
        InputError: its voxels have no size of a scan of a head, there is no b0, no volume in the shell, or its
            directions determine no signal in between.

    Examples:
        >>> scan.bvalue, len(scan.b0), len(scan.shell)
        (1000.0, 1, 64)
        >>> scan.read().shell.shape
        torch.Size([64, 40, 48, 36])
    """

    image: nib.nifti1.Nifti1Pair
    gradients: np.ndarray
    bvalue: float = 1000.0
    tolerance: float = SHELL_TOLERANCE
    b0_max: float = B0_MAX
    mask: MetaTensor | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sides = np.linalg.norm(self.affine[:3, :3], axis=0)
        if sides.min() < VOXEL_MM[0] or sides.max() > VOXEL_MM[1]:
            expected = f"sides of {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm; is the affine in another unit?"
            raise InputError(f"{self.path}: found voxels of {_by(sides)} mm, expected {expected}")
        cosines = np.triu((self.affine[:3, :3] / sides).T @ (self.affine[:3, :3] / sides), 1)
        if (shear := np.degrees(np.arcsin(np.clip(np.abs(cosines).max(), 0, 1)))) > MAX_SHEAR_DEGREES:
            found = f"an affine whose axes are {shear:.0f} degrees off a right angle"
            raise InputError(f"{self.path}: found {found}, expected axes of voxels at right angles.")
        found = describe_shells(self.gradients, self.b0_max)
        if not len(self.b0):
            raise InputError(f"{self.path}: found {found}, expected at least one volume of b <= {self.b0_max:g}.")
        if not len(self.shell):
            expected = f"a shell of b = {self.bvalue:g} +- {self.tolerance:g} s/mm2"
            largest = float(self.gradients[:, 3].max())
            if 0 < largest < USUAL_BVALUES[0] or largest > USUAL_BVALUES[1]:
                expected += f"; the largest b-value is {largest:g}: is it in another unit?"
                raise InputError(f"{self.path}: found {found}, expected {expected}")
            raise InputError(f"{self.path}: found {found}, expected {expected}.")
        self._check_directions(self.shell_gradients)

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
        return b0_volumes(self.gradients, self.b0_max)

    @cached_property
    def shell(self) -> np.ndarray:
        """Indices of the volumes of the shell."""
        return shell_volumes(self.gradients, self.bvalue, self.tolerance, self.b0_max)

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
        for row, index in enumerate(indices):
            signal[row] = self._volume(int(index))
        return signal

    def read(self, checksum: bool = False) -> Signal:
        """Read the b0 volumes and the shell, in one pass through the file, and check them.

        Args:
            checksum: whether all other volumes are read as well, for the checksum of the voxels.

        Raises:
            InputError: the file is damaged, or what is left of the volumes shows no diffusion.
        """
        digest = hashlib.sha256(str(self.image.shape).encode())
        b0 = np.empty((len(self.b0), *self.image.shape[:3]), dtype=np.float32)
        shell = np.empty((len(self.shell), *self.image.shape[:3]), dtype=np.float32)
        places = {int(index): b0[row] for row, index in enumerate(self.b0)}
        places |= {int(index): shell[row] for row, index in enumerate(self.shell)}
        for index in range(len(self.gradients)):
            if checksum or index in places:
                volume = self._volume(index)
                digest.update(volume.tobytes())
                if index in places:
                    places[index][:] = volume
        self._finish()
        return self.usable(b0, shell, digest.hexdigest() if checksum else None)

    def usable(self, b0: np.ndarray, shell: np.ndarray, checksum: str | None = None) -> Signal:
        """Check volumes that were read, and leave out those that cannot be used.

        Args:
            b0: all b0 volumes, shape ``(m, X, Y, Z)``.
            shell: all volumes of the shell, shape ``(n, X, Y, Z)``.
            checksum: of the voxels of all volumes, where it is known.

        Raises:
            InputError: what is left of the volumes shows no diffusion.
        """
        try:
            use_b0, use_shell, notes = usable_volumes(b0, shell, self.b0, self.shell)
        except SignalError as error:
            raise InputError(f"{self.path}: {error}") from None
        gradients = self.shell_gradients[use_shell]
        self._check_directions(gradients)
        return Signal(
            b0=self._on_grid(b0[use_b0].mean(axis=0, keepdims=True)),
            b0_volumes=self.b0[use_b0],
            shell_volumes=self.shell[use_shell],
            shell=self._on_grid(shell if use_shell.all() else shell[use_shell]),
            gradients=gradients,
            notes=[
                *self._orientation_notes(),
                *shell_notes(self.gradients, self.bvalue, self.tolerance, self.b0_max),
                *notes,
            ],
            checksum=checksum,
        )

    def _orientation_notes(self) -> list[str]:
        """Say where the header states no orientation or voxel size, or two of them."""
        header = self.image.header
        sform, qform = int(header["sform_code"]), int(header["qform_code"])
        if not sform and not qform:
            return ["the header states no orientation (codes of sform and qform are 0)"]
        notes = []
        if sform and qform:
            try:
                turn = voxel_axes(self.affine) @ voxel_axes(self.image.get_qform()).T
            except (ValueError, HeaderDataError):
                return ["the qform of the header is not a rotation: the sform is taken"]
            degrees = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
            if np.linalg.det(turn) < 0:
                notes.append("sform and qform of the header disagree on left and right: the sform is taken")
            elif degrees > SAME_DEGREES:
                notes.append(f"sform and qform of the header disagree by {degrees:.0f} degrees: the sform is taken")
        sides, stated = np.linalg.norm(self.affine[:3, :3], axis=0), header["pixdim"][1:4]
        if not np.allclose(sides, stated, rtol=SAME_SIDES):
            notes.append(f"the header states voxels of {_by(stated)} mm, its sform {_by(sides)}: the sform is taken")
        return notes

    def _volume(self, index: int) -> np.ndarray:
        try:
            return np.asarray(self.image.dataobj[..., index], dtype=np.float32)
        except DAMAGE as error:
            raise self._damaged(error) from None

    def _finish(self) -> None:
        try:
            read_to_end(self.image)
        except DAMAGE as error:
            raise self._damaged(error) from None

    def _damaged(self, error: BaseException) -> InputError:
        return InputError(f"{self.path}: found a damaged file ({error}), expected a whole NIfTI image.")

    def _check_directions(self, gradients: np.ndarray) -> None:
        try:
            sh_order(gradients[:, :3])
        except SignalError as error:
            raise InputError(f"{self.path}: at b = {self.bvalue:g} {error}") from None

    def _on_grid(self, volumes: np.ndarray) -> MetaTensor:
        return MetaTensor(torch.from_numpy(volumes), affine=torch.as_tensor(self.affine))


def _by(sides: np.ndarray) -> str:
    """Sides of a voxel in words, ``2.4x2.4x3``."""
    return "x".join(f"{side:.4g}" for side in sides)
