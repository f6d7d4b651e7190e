"""Brain masks: what a coil receives weakly is brain, and what is unusual of a mask is said."""

import logging
import sys

import numpy as np
import pytest
import torch
from dipy.segment.mask import multi_median
from dipy.segment.threshold import otsu
from monai.data import MetaTensor

from transforms.errors import InputError
from transforms.mask import (
    BrainMaskd,
    above_after_medians,
    doubts_about,
    find_brain,
    largest_part,
    otsu_after_medians,
    slices_filled,
)

SIZE = 2.4
AXES = np.array([68.0, 84.0, 70.0])
"""Semi-axes of the ellipsoid that stands for a brain, in mm."""


def brain_with_base(base=-0.45, margin=5):
    """Normalised radius on a grid of 2.4 mm whose lowest slice cuts the ellipsoid at ``base`` of its height."""
    sides = [np.arange(-half - margin * SIZE, half + margin * SIZE, SIZE) for half in AXES[:2]]
    height = np.arange(base * AXES[2], AXES[2] + margin * SIZE, SIZE)
    x, y, z = np.meshgrid(*sides, height, indexing="ij")
    return np.sqrt((x / AXES[0]) ** 2 + (y / AXES[1]) ** 2 + (z / AXES[2]) ** 2)


def scanned(radius, sensitivity, noise=8.0):
    """Mean b0 ``(1, X, Y, Z)``: a brain of 1000 that coils receive by ``s + (1 - s) r^2``, with Rician noise."""
    signal = 1000 * (radius <= 1) * (sensitivity + (1 - sensitivity) * radius**2)
    real, imaginary = np.random.default_rng(0).normal(0, noise, (2, *radius.shape))
    b0 = np.hypot(signal + real, imaginary).astype(np.float32)
    affine = torch.diag(torch.tensor([SIZE, SIZE, SIZE, 1.0], dtype=torch.float64))
    return MetaTensor(torch.from_numpy(b0)[None], affine=affine)


@pytest.mark.parametrize("sensitivity", [1.0, 0.6, 0.35, 0.25, 0.2])
def test_a_brain_that_is_open_to_its_base_is_found_whole(sensitivity):
    radius = brain_with_base()
    brain = radius <= 1
    assert brain[..., 0].any(), "cut by the field of view"
    b0 = scanned(radius, sensitivity)
    found = find_brain(b0)
    assert found.shape == radius.shape
    assert (brain & ~found).sum() < 0.01 * brain.sum()
    assert (found & ~brain).sum() < 0.05 * brain.sum()
    deep = radius < 0.5
    assert found[deep].mean() > 0.999
    assert doubts_about(found, np.full(3, SIZE), b0[0].numpy()) == []


def test_what_is_above_a_threshold_after_medians_is_what_dipys_medians_leave():
    volume = np.random.default_rng(0).gamma(2, size=(13, 17, 11)).astype(np.float32)
    volume[4:9, 5:12, 3:8] += 3
    for size, passes in ((3, 1), (5, 2)):
        filtered = multi_median(volume, size // 2, passes)
        for threshold in (0.0, 1.7, 3.2, float(np.median(filtered)), 99.0):
            found = above_after_medians(volume, threshold, size, passes)
            np.testing.assert_array_equal(found, filtered > threshold)


@pytest.mark.parametrize(("sensitivity", "noise"), [(1.0, 8.0), (0.35, 8.0), (0.35, 60.0)])
def test_otsus_threshold_after_medians_finds_what_it_finds_in_dipys_filtered_image(sensitivity, noise):
    """A bright spot that the filters remove does not count."""
    volume = scanned(brain_with_base(), sensitivity, noise)[0].numpy()[::2, ::2, ::2].copy()
    volume[10, 10, 10] = 20000
    filtered = multi_median(volume, 2, 2)
    assert filtered.max() < 2000
    found, expected = filtered > otsu_after_medians(volume), filtered > otsu(filtered)
    assert (found ^ expected).sum() < 0.001 * expected.sum()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:dipy")
def test_a_volume_without_contrast_has_a_threshold_below_it():
    for brightness in (0.0, 5.0):
        volume = np.full((9, 8, 7), brightness, np.float32)
        assert above_after_medians(volume, otsu_after_medians(volume)).all()


def test_a_tongue_of_signal_is_cut_off():
    """Two voxels thick, it hangs on the brain and leads to a bright lump."""
    radius = brain_with_base(base=-1.1, margin=14)
    b0 = scanned(radius, 1.0)
    brain = radius <= 1
    lump = np.zeros_like(brain)
    middle = [n // 2 for n in brain.shape]
    lump[middle[0] - 4 : middle[0] + 4, 1:8, middle[2] - 4 : middle[2] + 4] = True
    bridge = np.zeros_like(brain)
    bridge[middle[0] : middle[0] + 2, 1:16, middle[2] : middle[2] + 2] = True
    b0[0][torch.from_numpy(lump | bridge)] = 1000.0
    found = find_brain(b0)
    assert not found[lump].any()
    assert (brain & ~found).sum() < 0.01 * brain.sum()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_tunnel_through_a_mask_is_filled_along_any_axis(axis):
    mask = np.zeros((9, 11, 13), dtype=bool)
    mask[1:8, 1:10, 1:12] = True
    tunnel = [slice(3, 5)] * 3
    tunnel[axis] = slice(None)
    open_ = mask.copy()
    open_[tuple(tunnel)] = False
    np.testing.assert_array_equal(slices_filled(open_), mask)
    assert not open_[tuple(tunnel)].any(), "the input is left as it was"


def test_the_largest_part_is_kept_and_what_hangs_on_it_by_a_neck_is_not():
    x, y, z = np.meshgrid(np.arange(44), np.arange(30), np.arange(26), indexing="ij")
    brain = ((x - 14) / 12) ** 2 + ((y - 15) / 13) ** 2 + ((z - 12) / 11) ** 2 <= 1
    mask = brain.copy()
    mask[24:34, 14:16, 11:13] = True  # a neck
    mask[32:42, 8:20, 6:18] = True  # a smaller lump
    found = largest_part(mask)
    # opening rounds corners off; nothing but brain and the root of the neck, and nearly all of the brain
    assert not found[30:].any()
    assert not (found & ~mask).any()
    assert found[brain].mean() > 0.98


# doubts


def ellipsoid(semi=(68, 84, 70), shape=(66, 78, 67)):
    grid = np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * SIZE for n in shape], indexing="ij"), axis=-1)
    return ((grid / np.array(semi)) ** 2).sum(axis=-1) <= 1, grid


def doubts(mask, size=SIZE):
    return doubts_about(mask, np.full(3, size), np.ones(mask.shape))


def test_a_usual_brain_raises_no_doubt():
    mask, _ = ellipsoid()
    volume = 4 / 3 * np.pi * 68 * 84 * 70 / 1000
    assert mask.sum() * SIZE**3 / 1000 == pytest.approx(volume, rel=0.01)
    assert doubts(mask) == []


@pytest.mark.parametrize(("factor", "millilitres"), [(0.7, 574), (1.15, 2547)])
def test_an_unusual_volume_is_said(factor, millilitres):
    mask, _ = ellipsoid(np.array([68, 84, 70]) * factor, (80, 90, 80))
    (doubt,) = doubts(mask)
    said = float(doubt.split()[4])
    assert said == pytest.approx(millilitres, rel=0.01)
    assert doubt == f"the brain mask has {said:.0f} ml, usual are 700 to 2200"


def test_a_small_volume_in_a_small_field_of_view_is_no_doubt():
    """A slab, or a phantom: only in a whole field of view a whole brain is expected."""
    mask, _ = ellipsoid(np.array([68, 84, 70]) * 0.7)
    assert mask.sum() * SIZE**3 < 6e5
    assert doubts(mask) != []
    assert doubts(mask[:, :, 20:60]) == [], "96 mm high"


@pytest.mark.parametrize("open_", [False, True])
def test_holes_are_said_enclosed_and_open_to_the_base(open_):
    mask, grid = ellipsoid()
    mask = mask[:, :, 20:]
    hole = (grid[:, :, 20:, :2] ** 2).sum(axis=-1) < 15**2
    hole &= (grid[:, :, 20:, 2] < 10) & (open_ | (grid[:, :, 20:, 2] > -10))
    broken = mask & ~hole
    (doubt,) = doubts(broken)
    part = (mask & hole).sum() / broken.sum()
    assert part > 0.01
    assert doubt == f"the brain mask has holes of {part:.1%} of its volume, usual are less than 1%"
    small = mask & ~((grid[:, :, 20:] ** 2).sum(axis=-1) < 10**2)
    assert doubts(small) == []


@pytest.mark.parametrize("side", [1, -1])
def test_a_missing_side_is_said(side):
    mask, grid = ellipsoid()
    mask &= ~((side * grid[..., 0] > 15) & (grid[..., 1] > -10))
    (doubt,) = doubts(mask)
    said = float(doubt.split(" Dice of ")[1].split(",")[0])
    inside = mask[mask.any(axis=(1, 2))]
    assert said == pytest.approx((inside & inside[::-1]).sum() / inside.sum(), abs=0.006)
    assert said < 0.8
    assert doubt.startswith("left and right half of the brain mask overlap")


def test_a_mask_of_everything_is_said():
    assert doubts(np.ones((20, 22, 18), dtype=bool)) == ["the brain mask fills the field of view"]


@pytest.mark.parametrize(("axis", "steps"), [(1, 3), (1, -3), (2, 4), (2, -4)])
def test_a_mask_that_lies_beside_the_brain_is_said(axis, steps):
    mask, _ = ellipsoid()
    b0 = np.where(mask, 600.0, 5.0)
    assert doubts_about(mask, np.full(3, SIZE), b0) == []
    moved = np.roll(mask, steps, axis)
    share = (moved & ~mask).sum() / mask.sum()
    (doubt,) = doubts_about(moved, np.full(3, SIZE), b0)
    assert doubt == f"{share:.1%} of the brain mask is air, usual are less than 3%: does it lie on the scan?"
    assert share > 0.03


def test_an_asymmetry_from_front_to_back_is_none_from_left_to_right():
    mask, grid = ellipsoid()
    assert doubts(mask & (grid[..., 1] < 30)) == []


# the transform


def test_doubts_stand_in_log_and_notes_with_the_scans_name(caplog):
    mask, grid = ellipsoid()
    mask &= (grid**2).sum(axis=-1) > 25**2
    data = {
        "raw_scan": "sub-01_dwi.nii.gz",
        "notes": "volume 3 left out: no signal",
        "b0": MetaTensor(torch.ones(1, *mask.shape), affine=torch.diag(torch.tensor([SIZE, SIZE, SIZE, 1.0]))),
        "mask": MetaTensor(torch.from_numpy(mask)[None].float()),
    }
    with caplog.at_level(logging.WARNING, logger="transforms.mask"):
        result = BrainMaskd()(data)
    (message,) = caplog.messages
    assert message.startswith("sub-01_dwi.nii.gz: the brain mask has holes of ")
    assert result["notes"] == "volume 3 left out: no signal; " + message.removeprefix("sub-01_dwi.nii.gz: ")
    np.testing.assert_array_equal(result["mask"][0].numpy(), mask)
    np.testing.assert_array_equal(result["mask"].affine, data["b0"].affine)


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("given", [True, False])
def test_a_slice_is_no_scan_of_a_brain(axis, given):
    b0 = scanned(brain_with_base(), 1.0)
    thin = b0[(slice(None), *(slice(30, 31) if index == axis else slice(None) for index in range(3)))]
    data = {"raw_scan": "sub-01_dwi.nii.gz", "b0": thin}
    if given:
        data["mask"] = MetaTensor((thin.as_tensor() > 500).float())
    with pytest.raises(
        InputError, match=r"^sub-01_dwi\.nii\.gz: found a field of view of 2\.4 mm along an axis, expec"
    ):
        BrainMaskd()(data)


def test_less_than_a_millilitre_is_no_brain():
    mask = np.zeros((12, 13, 14), dtype=bool)
    mask[4:8, 4:8, 4:8] = True  # 64 voxels of 13.8 mm3
    data = {
        "raw_scan": "sub-01_dwi.nii.gz",
        "b0": MetaTensor(torch.ones(1, *mask.shape), affine=torch.diag(torch.tensor([SIZE, SIZE, SIZE, 1.0]))),
        "mask": MetaTensor(torch.from_numpy(mask)[None].float()),
    }
    with pytest.raises(InputError, match=r"^sub-01_dwi\.nii\.gz: found 0\.88 ml of brain, expected a head\.$"):
        BrainMaskd()(data)


def test_a_missing_simpleitk_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError, match=r"SimpleITK: found no such package, expected .* a brain mask"):
        find_brain(scanned(brain_with_base(), 0.5))
