"""NIfTI images: how they are opened, read and written."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener

from scripts.io.files import whole_file
from transforms.damage import DAMAGE, read_to_end, with_one_handle
from transforms.errors import InputError

MAX_COMPRESSION = 1100
"""Bytes that gzip can make of one at most, a little over 1,000."""

SMALLEST_VOXEL = 1e-9
"""Volume in mm3 under which an affine is taken for singular."""

UNIT_STEPS = 65535
"""Numbers from 0 to 1 are stored as 16-bit integers: steps of 1.5e-5, far below any scanner's noise, at half the
size."""


def strip_nifti(path: str | PathLike[str]) -> str:
    """Return the path without ``.nii`` or ``.nii.gz``."""
    return str(path).removesuffix(".gz").removesuffix(".nii")


def open_nifti(path: str | PathLike[str], ndim: int) -> nib.nifti1.Nifti1Pair:
    """Open a NIfTI image without reading its voxels.

    A volume may have a fourth axis of length 1, as some tools write it.

    Raises:
        InputError: no such file, no readable image, or another number of dimensions than ``ndim``.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, expected a NIfTI image.")
    try:
        image = with_one_handle(nib.load(path), path)
    except Exception as error:  # whatever a broken header makes nibabel raise
        raise InputError(f"{path}: found no readable image ({error}), expected a NIfTI image.") from None
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        raise InputError(f"{path}: found a {type(image).__name__}, expected a NIfTI image.")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: found voxels of type {image.get_data_dtype()}, expected real numbers.")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine)) < SMALLEST_VOXEL:
        raise InputError(f"{path}: found the affine {image.affine.tolist()}, expected one that can be inverted.")
    if not int(image.header["sform_code"]) and (0 in (sides := _stored_sides(path, image))):
        found = "x".join(f"{side:g}" for side in sides)
        raise InputError(f"{path}: found a header with voxels of {found} mm and no sform, expected sides above 0.")
    if min(image.shape) < 1:
        found = "x".join(map(str, image.shape))
        raise InputError(f"{path}: found an image of shape {found}, expected sides of at least one voxel.")
    claimed, stored = math.prod(image.shape) * image.get_data_dtype().itemsize, Path(path).stat().st_size
    if claimed > (MAX_COMPRESSION if str(path).endswith(".gz") else 1) * stored:
        raise InputError(
            f"{path}: found a damaged file of {stored} bytes whose header claims {claimed} of voxels, "
            "expected a whole one."
        )
    least = image.header.single_vox_offset if isinstance(image, nib.nifti1.Nifti1Image) else 0
    if (offset := getattr(image.dataobj, "offset", least)) < least:
        raise InputError(f"{path}: found voxels that begin at byte {offset}, expected byte {least} or a later one.")
    if len(image.shape) != ndim and not (ndim == 3 and image.shape[3:] == (1,)):
        found = "x".join(map(str, image.shape))
        raise InputError(f"{path}: found an image of shape {found}, expected {ndim} dimensions.")
    return image


def describe_grid(shape: Sequence[int], expected: Sequence[int]) -> str:
    """Say in which way a grid is another than expected: by its shape, ``3x4x5``, else by its affine."""
    return "another affine" if tuple(shape) == tuple(expected) else "x".join(map(str, shape))


def _stored_sides(path: str | PathLike[str], image: nib.nifti1.Nifti1Pair) -> list[float]:
    """Sides of the voxels as they stand in the file; nibabel puts 1 mm in the place of 0."""
    holder = image.file_map.get("header") or image.file_map["image"]
    with ImageOpener(str(holder.filename or path)) as file:
        return [float(side) for side in type(image.header).from_fileobj(file, check=False)["pixdim"][1:4]]


def read_voxels(path: str | PathLike[str], ndim: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Read the voxels of a NIfTI image, and its affine; a fourth axis of length 1 of a volume is left out.

    Raises:
        InputError: no such file, a damaged one, or another number of dimensions than ``ndim``.
    """
    image = open_nifti(path, ndim)
    try:
        voxels = np.asarray(image.dataobj)
        read_to_end(image)
    except DAMAGE as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected a whole NIfTI image.") from None
    return voxels.reshape(voxels.shape[:ndim]), image.affine


def write_nifti(
    path: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    slope: float | None = None,
    header: nib.nifti1.Nifti1Header | None = None,
) -> None:
    """Write a NIfTI image in the type of ``voxels``.

    Args:
        path: ends in ``.nii.gz``.
        voxels: shape ``(X, Y, Z)`` or ``(X, Y, Z, N)``.
        affine: voxel to world RAS, in mm.
        slope: what a stored integer is multiplied with; 1 where not given.
        header: of the image that this one goes on from, for its space and repetition time.
    """
    image = nib.nifti1.Nifti1Image(voxels, affine, header)
    image.set_data_dtype(voxels.dtype)
    if header is None:
        image.header.set_xyzt_units("mm", "sec")
    if slope is not None:
        image.header.set_slope_inter(slope, 0.0)
    with whole_file(path) as partial:
        nib.save(image, partial)


def write_unit_range(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write numbers from 0 to 1 in ``UNIT_STEPS`` steps; see :func:`write_nifti`."""
    write_nifti(path, np.rint(voxels * UNIT_STEPS).astype(np.uint16), affine, slope=1 / UNIT_STEPS)


def write_volumes(
    path: Path,
    volumes: Iterable[np.ndarray],
    affine: np.ndarray,
    dtype: type,
    count: int = 1,
    seconds: float = 1.0,
    unit: float = 1.0,
) -> None:
    """Write volumes ``(X, Y, Z)`` one by one, never all in memory; equal volumes make equal files.

    Args:
        path: ends in ``.nii.gz``.
        volumes: as many as ``count``.
        affine: voxel to world RAS, in mm.
        dtype: of what is stored.
        count: the image has four dimensions where it is above 1.
        seconds: between volumes.
        unit: integers are stored in multiples of it.
    """
    volumes = iter(volumes)
    first = next(volumes)
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape((*first.shape, count) if count > 1 else first.shape)
    header.set_zooms([*np.linalg.norm(affine[:3, :3], axis=0).tolist(), seconds][: 4 if count > 1 else 3])
    header.set_xyzt_units("mm", "sec")
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_slope_inter(unit, 0)
    header["vox_offset"] = 352
    # no name and no time in the gzip header: equal data make equal files
    with (
        whole_file(path) as partial,
        partial.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as file,
    ):
        file.write(header.binaryblock + bytes(4))
        for volume in chain([first], volumes):
            stored = volume if unit == 1 else np.rint(volume / unit)
            file.write(stored.astype(dtype).tobytes(order="F"))
