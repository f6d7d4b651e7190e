"""Images with NaN or infinity are refused before a network learns from them."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from transforms.errors import InputError
from transforms.finite import RequireFinited


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metadata", [True, False])
def test_an_image_with_a_voxel_that_is_not_finite_is_refused_by_name(value, metadata):
    voxels = torch.zeros(2, 3, 4, 5)
    voxels[0, 1, 2, 3] = value
    voxels[1, 1, 2, 3] = value  # the same voxel in another channel
    voxels[1, 2, 3, 4] = value
    image = MetaTensor(voxels, meta={"filename_or_obj": "folder/sub-01_dwi.nii.gz"}) if metadata else voxels
    name = r"folder/sub-01_dwi\.nii\.gz" if metadata else "image"
    with pytest.raises(InputError, match=rf"^{name}: found NaN or infinity in 2 voxels, expected numbers\.$"):
        RequireFinited(["mask", "image"])({"mask": torch.ones(1, 3, 4, 5), "image": image})


def test_finite_images_pass_as_they_are():
    data = {
        "image": torch.rand(2, 3, 4, 5),
        "label": torch.zeros(1, 3, 4, 5, dtype=torch.uint8),
        "other": torch.full((1, 3, 4, 5), torch.nan),
        "scan": "sub-01",
    }
    result = RequireFinited(["image", "label"])(data)
    assert result.keys() == data.keys()
    assert all(result[key] is data[key] for key in data)


def test_a_missing_image_is_an_error():
    with pytest.raises(KeyError):
        RequireFinited(["image"])({})
