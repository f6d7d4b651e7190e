"""A raw diffusion scan, opened from its files."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from scripts.io.gradients import read_gradients
from scripts.io.nifti import describe_grid, open_nifti, read_voxels, strip_nifti
from scripts.io.volume import as_volume
from transforms.diffusion.gradients import B0_MAX, SHELL_TOLERANCE
from transforms.errors import InputError, counted
from transforms.scan import Scan


def open_scan(
    dwi: str | PathLike[str] | None,
    bval: str | PathLike[str] | None = None,
    bvec: str | PathLike[str] | None = None,
    brain_mask: str | PathLike[str] | None = None,
    bvalue: float = 1000.0,
    tolerance: float = SHELL_TOLERANCE,
    b0_max: float = B0_MAX,
) -> Scan:
    """Open a raw diffusion scan and check it; the voxels of its volumes are read later.

    Args:
        dwi: NIfTI file, shape ``(X, Y, Z, N)``, any affine.
        bval: b-values; by default the file of the scan's name that ends in ``.bval``.
        bvec: b-vectors; by default the file of the scan's name that ends in ``.bvec``.
        brain_mask: mask on the scan's grid, or None.
        bvalue: b-value of the shell in s/mm2.
        tolerance: half width of the shell in s/mm2.
        b0_max: largest b-value in s/mm2 that counts as b0.

    Raises:
        InputError: a file is missing or unreadable, there is no b0, the shell has too few axes, or the mask lies
            on another grid.
    """
    if dwi is None:
        raise InputError("--dwi: found nothing, expected the NIfTI file of a diffusion scan.")
    files = {
        "dwi": Path(dwi),
        "bval": Path(bval or strip_nifti(dwi) + ".bval"),
        "bvec": Path(bvec or strip_nifti(dwi) + ".bvec"),
    }
    image = open_nifti(dwi, ndim=4)
    gradients = read_gradients(files["bval"], files["bvec"], image.affine, image.shape[3], b0_max)
    scan = Scan(image, gradients, bvalue, tolerance, b0_max, files=files)
    if not brain_mask:
        return scan
    mask, files = _read_mask(Path(brain_mask), scan), {**files, "brain_mask": Path(brain_mask)}
    return Scan(image, gradients, bvalue, tolerance, b0_max, mask, files)


def _read_mask(path: Path, scan: Scan) -> MetaTensor:
    """Read a brain mask of a scan, 0 or 1, shape ``(1, X, Y, Z)``.

    Raises:
        InputError: it is damaged, lies on another grid than the scan, or has more than two values.
    """
    mask, affine = read_voxels(path)
    if mask.shape != scan.image.shape[:3] or not np.allclose(affine, scan.affine, atol=1e-2):
        raise InputError(
            f"{path}: found a mask on another grid ({describe_grid(mask.shape, scan.image.shape[:3])}), "
            f"expected that of {scan.path.name} ({'x'.join(map(str, scan.image.shape[:3]))})."
        )
    values = np.unique(mask)
    if len(values) > 2 or not np.isfinite(values).all() or values.min() < 0 or (len(values) == 2 and values.min() > 0):
        shown = ", ".join(f"{value:g}" for value in values[:5])
        raise InputError(f"{path}: found {counted(len(values), 'value')} ({shown}), expected a mask of 0 and 1.")
    return as_volume((mask > 0).astype(np.float32)[None], affine)
