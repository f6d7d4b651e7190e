"""Raw scans of several orientations, and what a network gets of them."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import DivisiblePadd

from scripts.io.gradients import read_scheme
from scripts.io.raw_scan import open_scan
from transforms.preprocessing import ScanToInput

ORIENTATIONS = ("LAS", "oblique", "RAS")
SHELLS = ((0, 1), (1000, 10), (5, 1), (3000, 6), (1000, 8), (0, 1))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.pt"
    torch.save({"w": torch.zeros(3)}, path)
    return path


def _load(raw, scheme, voxel_size):
    """Input of the network, padded as the configs of inference do, with the opened scan that it comes from."""
    scan = open_scan(raw.dwi, raw.bval, raw.bvec)
    data = ScanToInput(read_scheme(scheme), voxel_size)({"raw_scan": scan})
    return {**DivisiblePadd(keys=["image", "b0", "mask"], k=8)(data), "raw_scan": scan}


@pytest.fixture(scope="module", params=ORIENTATIONS)
def case(request, tmp_path_factory, heads, scheme):
    """A raw scan of two shells and three b0 volumes, and the network's input made of it."""
    folder = tmp_path_factory.mktemp(request.param)
    gradients = heads.table(*SHELLS)
    # two parts of one shell must not repeat their directions
    gradients[13 + 5 : -1, :3] = heads.table((1000, 24))[1::3, :3]
    raw = heads.write_scan(
        folder / "sub-01_ses-2_dwi.nii.gz", orientation=request.param, gradients=gradients, dtype=np.float32
    )
    # the b0 volumes of a scan differ, so that their mean is none of them
    image = nib.load(raw.dwi)
    voxels = image.get_fdata(dtype=np.float32)
    voxels[..., 11] *= 1.4
    nib.save(nib.Nifti1Image(voxels, image.affine), raw.dwi)
    return raw, _load(raw, scheme, 4.0)


@pytest.fixture
def load():
    return _load
