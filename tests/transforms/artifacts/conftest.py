"""Images on which artifacts are tested: an asymmetric shape, plain and with affines of anisotropic voxels."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

SHAPE = (5, 18, 23, 15)


def _affine(linear, origin=(-21.0, -30.0, -17.0)):
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = origin
    return affine


VOXEL_SIZE = np.diag([2.0, 1.5, 3.0])
AFFINES = {
    "plain": None,
    "RAS": _affine(VOXEL_SIZE),
    "LAS": _affine(np.diag([-1.0, 1.0, 1.0]) @ VOXEL_SIZE, (21.0, -30.0, -17.0)),
    "oblique": _affine(Rotation.from_euler("xyz", [12, -20, 31], degrees=True).as_matrix() @ VOXEL_SIZE),
}


@pytest.fixture(params=list(AFFINES))
def image(request):
    """Random image; MetaTensor with an affine, other metadata and an applied operation, except for ``plain``."""
    voxels = torch.rand(SHAPE, generator=torch.Generator().manual_seed(7)) + 0.1
    affine = AFFINES[request.param]
    if affine is None:
        return voxels
    meta = {"filename_or_obj": "sub-01_dwi.nii.gz", "space": "RAS"}
    return MetaTensor(voxels, affine=torch.tensor(affine), meta=meta, applied_operations=[{"class": "Spacing"}])
