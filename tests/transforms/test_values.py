"""Prepared images and labels whose values cannot be are refused before a network learns from them."""

import re

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from transforms.errors import InputError
from transforms.values import RequireValuesd


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
        RequireValuesd(["mask", "image"])({"mask": torch.ones(1, 3, 4, 5), "image": image})


def test_finite_images_pass_as_they_are():
    data = {
        "image": torch.rand(2, 3, 4, 5),
        "label": torch.zeros(1, 3, 4, 5, dtype=torch.uint8),
        "other": torch.full((1, 3, 4, 5), torch.nan),
        "scan": "sub-01",
    }
    result = RequireValuesd(["image", "label"])(data)
    assert result.keys() == data.keys()
    assert all(result[key] is data[key] for key in data)


def test_a_missing_image_is_an_error():
    with pytest.raises(KeyError):
        RequireValuesd(["image"])({})


def prepared():
    """Return a scan as ``prepare`` and ``label`` leave it: a brain of 2 x 3 x 4 voxels in a grid of 4 x 5 x 6."""
    mask = torch.zeros(1, 4, 5, 6)
    mask[:, 1:3, 1:4, 1:5] = 1.0
    return {
        "image": 0.5 * mask.repeat(64, 1, 1, 1),
        "b0": 1000.0 * mask,
        "mask": mask,
        "white_matter": mask.clone(),
        "tissue": 3.0 * mask,
        "tissue_prob": mask.repeat(4, 1, 1, 1) / 4,
        "nufo": 2.0 * mask,
        "peak": mask.repeat(3, 1, 1, 1),
    }


def test_what_prepare_and_label_write_passes():
    data = prepared()
    result = RequireValuesd(list(data))(data)
    assert all(result[key] is data[key] for key in data)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("image", 500.0, "found 500 in 1 voxel, expected attenuations from 0 to 1"),
        ("image", -0.25, "found -0.25 in 1 voxel, expected attenuations from 0 to 1"),
        ("b0", -3.0, "found -3 in 1 voxel, expected a signal of at least 0"),
        ("mask", 2.0, "found 2 in 1 voxel, expected 0 and 1"),
        ("mask", 0.5, "found 0.5 in 1 voxel, expected 0 and 1"),
        ("white_matter", 255.0, "found 255 in 1 voxel, expected 0 and 1"),
        ("tissue", 1.5, "found 1.5 in 1 voxel, expected whole numbers from 0 to 3"),
        ("tissue", 4.0, "found 4 in 1 voxel, expected whole numbers from 0 to 3"),
        ("tissue", -1.0, "found -1 in 1 voxel, expected whole numbers from 0 to 3"),
        ("tissue_prob", 1.5, "found 1.5 in 1 voxel, expected probabilities from 0 to 1"),
        ("nufo", 0.5, "found 0.5 in 1 voxel, expected whole numbers from 0 to 10"),
        ("nufo", 255.0, "found 255 in 1 voxel, expected whole numbers from 0 to 10"),
        ("mask", 0.9999997, "found 0.9999997 in 1 voxel, expected 0 and 1"),
        ("peak", 1e30, "found 1e+30 in 1 voxel, expected vectors of components from -1e+06 to 1e+06"),
        ("peak", torch.nan, "found NaN or infinity in 1 voxel, expected numbers"),
    ],
)
def test_a_value_that_a_prepared_scan_does_not_hold_is_refused(key, value, found):
    data = prepared()
    data[key][-1, 2, 1, 3] = value
    with pytest.raises(InputError, match=f"^{key}: {re.escape(found)}"):
        RequireValuesd(list(data))(data)


def test_all_wrong_values_of_an_image_are_counted():
    data = prepared()
    data["image"] *= 1000
    with pytest.raises(InputError, match="image: found 500 in 24 voxels"):
        RequireValuesd("image")(data)
    data["image"][0, 1, 1, 1] = 2000
    with pytest.raises(InputError, match="image: found 500 to 2000 in 24 voxels"):
        RequireValuesd("image")(data)


def test_attenuations_may_exceed_their_limits_by_the_rounding_of_a_file():
    data = prepared()
    data["image"][3, 1, 1, 1] = 1.0005
    data["image"][3, 1, 1, 2] = -0.0005
    RequireValuesd("image")(data)


@pytest.mark.parametrize("key", ["image", "b0", "mask", "white_matter", "tissue", "tissue_prob", "nufo", "peak"])
def test_an_empty_image_is_refused(key):
    data = prepared()
    data[key] = torch.zeros_like(data[key])
    with pytest.raises(InputError, match=f"^{key}: found 0 in all voxels"):
        RequireValuesd(key)(data)


def test_an_empty_volume_of_an_image_is_refused():
    data = prepared()
    data["image"][[3, 7]] = 0
    with pytest.raises(InputError, match=r"^image: found 0 in all voxels of 2 volumes, expected attenuations"):
        RequireValuesd("image")(data)


PLACES = {
    ("mask", "image"): "where the scan has no signal",
    ("mask", "b0"): "where the b0 has no signal",
    ("tissue", "mask"): "outside the brain mask",
    ("white_matter", "mask"): "outside the brain mask",
    ("white_matter", "peak"): "where there is no peak",
}


@pytest.mark.parametrize(("key", "other"), PLACES)
def test_a_label_or_mask_that_lies_elsewhere_is_refused(key, other):
    data = prepared()
    data[key] = data[key].roll(1, dims=1)  # the brain is 2 voxels wide, so half of it still overlaps
    RequireValuesd([key, other])(data)
    data[key] = data[key].roll(1, dims=3)  # and 3 of 4 voxels high
    with pytest.raises(InputError, match=rf"^{key}: found 62% of it {PLACES[key, other]}, expected at most 50%"):
        RequireValuesd([key, other])(data)
