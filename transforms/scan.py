"""A raw scan on disk to the input of the network: one shell, RAS, one voxel size, attenuation, reference scheme."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from dipy.segment.mask import median_otsu
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    DeleteItemsd,
    MapTransform,
    MaskIntensityd,
    Orientationd,
    ThresholdIntensityd,
    Transform,
)
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from transforms.attenuation import Attenuationd, has_b0_signal
from transforms.errors import InputError
from transforms.gradients import (
    B0_MAX,
    SHELL_TOLERANCE,
    b0_volumes,
    describe_shells,
    read_gradients,
    shell_volumes,
    unique_axes,
)
from transforms.qspace import MIN_SH_ORDER, SAME_AXIS_DEGREES, InterpolateQSpaced, n_coefficients
from transforms.spatial import ResampleToSpacingd

MASK_MEDIAN_RADIUS = 2
"""Voxels of 2.4 mm. DIPY's default of 4 is meant for smaller voxels and is many times slower."""

MASK_PASSES = 2
"""Median filter passes before Otsu's threshold."""

RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))

DAMAGE = (OSError, EOFError, ValueError, zlib.error)
"""What reading a damaged file raises."""

SMALLEST_VOXEL = 1e-9
"""Volume in mm3 under which an affine is taken for singular."""

MIN_BRAIN_ML = 1.0
"""A brain mask below this volume in millilitres is no brain."""


def strip_nifti(path: str | PathLike[str]) -> str:
    """Return the path without ``.nii`` or ``.nii.gz``."""
    return str(path).removesuffix(".gz").removesuffix(".nii")


def open_nifti(path: str | PathLike[str], ndim: int) -> nib.nifti1.Nifti1Pair:
    """Open a NIfTI image without reading its voxels.

    Raises:
        InputError: no such file, no readable image, or another number of dimensions than ``ndim``.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, expected a NIfTI image.")
    try:
        # one file handle, or each volume of a compressed scan would be read from the start
        image = nib.load(path, keep_file_open=True)
    except (ImageFileError, *DAMAGE) as error:
        raise InputError(f"{path}: found no readable image ({error}), expected a NIfTI image.") from None
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        raise InputError(f"{path}: found a {type(image).__name__}, expected a NIfTI image.")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: found voxels of type {image.get_data_dtype()}, expected real numbers.")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine)) < SMALLEST_VOXEL:
        raise InputError(f"{path}: found the affine {image.affine.tolist()}, expected one that can be inverted.")
    if len(image.shape) != ndim:
        found = "x".join(map(str, image.shape))
        raise InputError(f"{path}: found an image of shape {found}, expected {ndim} dimensions.")
    return image


class Scan:
    """A raw diffusion scan: its file, gradient table, and one shell of it.

    Args:
        dwi: NIfTI file, shape ``(X, Y, Z, N)``, any affine.
        bval: b-values; by default the file of the scan's name that ends in ``.bval``.
        bvec: b-vectors; by default the file of the scan's name that ends in ``.bvec``.
        bvalue: b-value of the shell in s/mm2.
        tolerance: half width of the shell in s/mm2.

    Attributes:
        gradients: gradient table of the whole scan, shape ``(N, 4)``.
        b0: indices of the b0 volumes.
        shell: indices of the volumes of the shell.

    Raises:
        InputError: a file is missing or unreadable, there is no b0, or the shell has fewer than 6 axes.
    """

    def __init__(
        self,
        dwi: str | PathLike[str],
        bval: str | PathLike[str] | None = None,
        bvec: str | PathLike[str] | None = None,
        bvalue: float = 1000.0,
        tolerance: float = SHELL_TOLERANCE,
    ) -> None:
        self.path = Path(dwi)
        self.bval = Path(bval or strip_nifti(dwi) + ".bval")
        self.bvec = Path(bvec or strip_nifti(dwi) + ".bvec")
        self.nifti = open_nifti(dwi, ndim=4)
        self.gradients = read_gradients(self.bval, self.bvec, self.nifti.affine, self.nifti.shape[3])
        found = describe_shells(self.gradients)
        self.b0 = b0_volumes(self.gradients)
        if not len(self.b0):
            raise InputError(f"{dwi}: found {found}, expected at least one volume of b <= {B0_MAX:g}.")
        self.shell = shell_volumes(self.gradients, bvalue, tolerance)
        if not len(self.shell):
            raise InputError(f"{dwi}: found {found}, expected a shell of b = {bvalue:g} +- {tolerance:g} s/mm2.")
        axes, least = unique_axes(self.shell_gradients[:, :3], SAME_AXIS_DEGREES), n_coefficients(MIN_SH_ORDER)
        if axes < least:
            raise InputError(f"{dwi}: found {axes} distinct axes at b = {bvalue:g}, expected at least {least}.")

    @property
    def shell_gradients(self) -> np.ndarray:
        """Gradient table of the shell, shape ``(n, 4)``."""
        return self.gradients[self.shell]

    def volumes(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read some volumes as they stand in the file, float32, shape ``(len(indices), X, Y, Z)``.

        Raises:
            InputError: the file ends early or is damaged.
        """
        signal = np.empty((len(indices), *self.nifti.shape[:3]), dtype=np.float32)
        try:
            for row, index in enumerate(indices):
                signal[row] = self.nifti.dataobj[..., int(index)]
        except DAMAGE as error:
            raise InputError(f"{self.path}: found a damaged file ({error}), expected a whole NIfTI image.") from None
        return signal


class LoadScand(Transform):
    """Read one shell of a raw scan.

    Reads ``dwi`` (a path) and, where given, ``bval``, ``bvec`` and ``brain_mask`` (paths) from the dictionary. Writes
    ``image`` (the shell's signal, ``(N, X, Y, Z)``), ``b0`` (mean of the b0 volumes, ``(1, X, Y, Z)``), ``gradients``
    (the shell's table, ``(N, 4)``), and ``mask`` (``(1, X, Y, Z)``) where a mask was given; all as in the file.

    Args:
        bvalue: b-value of the shell in s/mm2.
        tolerance: half width of the shell in s/mm2.
    """

    def __init__(self, bvalue: float = 1000.0, tolerance: float = SHELL_TOLERANCE) -> None:
        self.bvalue = bvalue
        self.tolerance = tolerance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the scan that ``data`` names."""
        result = dict(data)
        scan = Scan(data["dwi"], data.get("bval"), data.get("bvec"), self.bvalue, self.tolerance)
        affine = torch.as_tensor(scan.nifti.affine, dtype=torch.float64)
        b0 = scan.volumes(scan.b0).mean(axis=0, keepdims=True)
        result["b0"] = MetaTensor(torch.from_numpy(b0), affine=affine)
        result["image"] = MetaTensor(torch.from_numpy(scan.volumes(scan.shell)), affine=affine)
        result["gradients"] = scan.shell_gradients
        if data.get("brain_mask"):
            result["mask"] = read_mask(data["brain_mask"], scan)
        return result


class FiniteSignald(Transform):
    """Take a voxel of which one volume is not finite out of all volumes: its signal and b0 are 0, in place.

    Resampling would spread what is not finite. A voxel that is 0 in signal and b0 alike leaves the attenuation of
    resampled neighbours as it is.

    Expects ``image`` ``(N, X, Y, Z)`` and ``b0`` ``(1, X, Y, Z)``. Adds ``finite`` ``(1, X, Y, Z)``, 1 or 0.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take them out."""
        image, b0 = data["image"].as_tensor(), data["b0"].as_tensor()
        # a sum is finite where all its terms are, and takes no memory of the size of the scan
        finite = (image.sum(dim=0, keepdim=True) + b0).isfinite()
        for volumes in (image, b0):
            volumes.masked_fill_(~finite, 0.0)
        return {**data, "finite": MetaTensor(finite.float(), affine=data["b0"].affine)}


def read_mask(path: str | PathLike[str], scan: Scan) -> MetaTensor:
    """Read a brain mask of a scan, 0 or 1, shape ``(1, X, Y, Z)``.

    Raises:
        InputError: it is damaged, or lies on another grid than the scan.
    """
    image = open_nifti(path, ndim=3)
    if image.shape != scan.nifti.shape[:3] or not np.allclose(image.affine, scan.nifti.affine, atol=1e-2):
        raise InputError(
            f"{path}: found a mask on another grid ({'x'.join(map(str, image.shape))}), "
            f"expected that of {scan.path.name} ({'x'.join(map(str, scan.nifti.shape[:3]))})."
        )
    try:
        mask = (np.asarray(image.dataobj) > 0).astype(np.float32)
    except DAMAGE as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected a whole NIfTI image.") from None
    return MetaTensor(torch.from_numpy(mask)[None], affine=torch.as_tensor(image.affine, dtype=torch.float64))


def _largest_part(mask: np.ndarray, neck: int = 2) -> np.ndarray:
    """Keep the largest part of a mask, cut free of parts (tongue, eyes) that a neck of up to ``2 neck`` voxels joins.

    The head may leave the field of view, so that its border counts as inside while eroding.
    """
    core = ndimage.binary_erosion(mask, iterations=neck, border_value=1)
    parts, n_parts = ndimage.label(core)
    if not n_parts:
        return mask
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return ndimage.binary_dilation(largest, iterations=neck, mask=mask)


class BrainMaskd(MapTransform):
    """Make ``mask`` a binary brain mask: the given one, else DIPY's ``median_otsu`` on the mean b0.

    Of the latter, holes are filled and the largest connected part is kept.

    Args:
        b0_key: where the mean b0 stands, shape ``(1, X, Y, Z)``, voxels of about 2.4 mm.
        mask_key: where a given mask stands, resampled to values in ``[0, 1]``, and where the mask goes, 0 or 1.
    """

    def __init__(self, b0_key: str = "b0", mask_key: str = "mask") -> None:
        super().__init__([b0_key])
        self.b0_key = b0_key
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask.

        Raises:
            InputError: less than a millilitre of brain was found.
        """
        result = dict(data)
        b0 = data[self.b0_key]
        if self.mask_key in data:
            mask = data[self.mask_key].as_tensor() > 0.5
        else:
            volume = np.nan_to_num(b0[0].numpy())
            _, found = median_otsu(volume, median_radius=MASK_MEDIAN_RADIUS, numpass=MASK_PASSES)
            # of a volume without contrast the threshold lets everything through
            found = found.astype(bool) & has_b0_signal(b0.as_tensor())[0].numpy()
            mask = torch.from_numpy(_largest_part(ndimage.binary_fill_holes(found)))[None]
        millilitres = float(mask.sum()) * float(torch.prod(b0.pixdim)) / 1000.0
        if millilitres < MIN_BRAIN_ML:
            raise InputError(f"{data.get('dwi', 'scan')}: found {millilitres:.2f} ml of brain, expected a head.")
        result[self.mask_key] = MetaTensor(mask.float(), meta=b0.meta)
        return result


class ScanToInput(Compose):
    """All steps from a raw scan on disk to the network's input, as preparation and inference both do them.

    Reads the keys of :class:`LoadScand`; writes ``image`` (attenuation in ``[0, 1]`` on the scheme, 0 outside the
    brain, ``(M, X, Y, Z)``), ``b0``, ``mask`` and ``gradients`` (the scheme's table), RAS, cropped to the brain.

    Raw signals are resampled, not attenuations: averaging signals is what a larger voxel does.

    Args:
        scheme: path of a scheme file, or None for the 64 directions that ship with the bundle.
        bvalue: b-value of the shell in s/mm2.
        voxel_size: in mm, one number or three.
        margin: voxels kept around the brain, so that what an artifact displaces stays in view.
    """

    def __init__(
        self,
        scheme: str | None = None,
        bvalue: float = 1000.0,
        voxel_size: float | Sequence[float] = 2.4,
        margin: int = 3,
    ) -> None:
        images = ["image", "b0", "mask"]
        super().__init__(
            [
                LoadScand(bvalue),
                FiniteSignald(),
                DeleteItemsd(keys="finite"),
                Orientationd(keys=images, axcodes="RAS", labels=RAS_LABELS, allow_missing_keys=True),
                ResampleToSpacingd(keys=images, voxel_size=voxel_size, allow_missing_keys=True),
                BrainMaskd(),
                Attenuationd(keys="image"),
                InterpolateQSpaced(keys="image", scheme=scheme),
                # the harmonics overshoot where the attenuation touches its limits
                ThresholdIntensityd(keys="image", threshold=0.0, above=True, cval=0.0),
                ThresholdIntensityd(keys="image", threshold=1.0, above=False, cval=1.0),
                MaskIntensityd(keys="image", mask_key="mask"),
                CropForegroundd(keys=images, source_key="mask", margin=margin, allow_smaller=True),
            ]
        )
