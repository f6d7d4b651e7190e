"""Truth of a phantom on another grid, such as that of its prepared scan."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine


def at_nearest_voxels(path: Path, reference: nib.nifti1.Nifti1Pair) -> np.ndarray:
    """Resample an image to the grid of a reference by nearest neighbours, which keeps labels and axes whole.

    Args:
        path: file of an image of shape ``(I, J, K)`` or ``(I, J, K, N)``.
        reference: image of shape ``(X, Y, Z)``, of any orientation.

    Returns:
        values of the nearest voxels, shape ``(X, Y, Z)`` or ``(X, Y, Z, N)``, in the image's type; 0 outside of the
        image.
    """
    image = nib.nifti1.Nifti1Image.from_filename(path)
    voxels = np.moveaxis(np.indices(reference.shape[:3]), 0, -1)
    nearest = np.rint(apply_affine(np.linalg.inv(image.affine) @ reference.affine, voxels)).astype(int)
    inside = ((nearest >= 0) & (nearest < image.shape[:3])).all(axis=-1)
    stored = np.asarray(image.dataobj)
    found = np.zeros((*reference.shape[:3], *image.shape[3:]), dtype=stored.dtype)
    found[inside] = stored[tuple(nearest[inside].T)]
    return found
