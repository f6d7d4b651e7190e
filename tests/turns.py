"""Copies of a raw cohort whose world is turned, or whose voxels are stored backwards."""

import shutil

import nibabel as nib
import numpy as np

TURNS = {
    "x": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    "y": [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
    "z": [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
}
"""Rotation matrices of 90 degrees about each world axis."""


def turned_copy(raw, folder, rotation, flip=None):
    """Copy of the raw cohort with its world turned by a rotation matrix, or with a voxel axis stored backwards."""
    shutil.copytree(raw, folder, ignore=shutil.ignore_patterns("derivatives"))
    world = np.eye(4)
    world[:3, :3] = rotation
    for path in folder.rglob("*.nii.gz"):
        image = nib.load(path)
        data, affine = np.asarray(image.dataobj), world @ image.affine
        if flip is not None:
            data = np.flip(data, flip)
            affine[:3, 3] += affine[:3, flip] * (data.shape[flip] - 1)
            affine[:3, flip] *= -1
        nib.save(nib.Nifti1Image(np.ascontiguousarray(data), affine), path)
        bvec = path.with_name(path.name.replace(".nii.gz", ".bvec"))
        if flip is not None and bvec.is_file():
            vectors = np.loadtxt(bvec)
            # FSL's rule: voxel axes, and x negated where the affine's determinant is positive
            was_positive = np.linalg.det(image.affine) > 0
            vectors[0] *= -1 if was_positive else 1
            vectors[flip] *= -1
            vectors[0] *= 1 if was_positive else -1
            np.savetxt(bvec, vectors, fmt="%.8f")
    return folder
