"""Space: world coordinates survive resampling, nothing folds back, and the point spread is that of the new voxels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import DivisiblePadd, Invertd, Orientationd
from scipy import ndimage
from scipy.stats import norm

from transforms.resampling import (
    ResampleToGrid,
    ResampleToGridd,
    ResampleToSpacing,
    ResampleToSpacingd,
    antialiasing_sigma,
    smoothing_matrix,
)

SHAPE = (22, 27, 19)
GRADIENT = np.array([0.7, -1.3, 0.4])
"""Of a linear function of world coordinates, per mm; each axis and sign has its own."""

FWHM_TO_SIGMA = 1 / 2.354820045


def world_grid(shape, affine):
    """World coordinates of all voxel centres, shape ``(*shape, 3)``."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return voxels @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]


def linear_image(shape, affine):
    values = world_grid(shape, affine) @ GRADIENT
    return MetaTensor(torch.tensor(values, dtype=torch.float32)[None], affine=torch.tensor(affine))


def random_image(shape, affine, channels=2, seed=0):
    voxels = torch.rand((channels, *shape), generator=torch.Generator().manual_seed(seed))
    return MetaTensor(voxels, affine=torch.tensor(affine))


def positions_in(affine, world):
    """Voxel positions of world points in a grid."""
    inverse = np.linalg.inv(affine)
    return world @ inverse[:3, :3].T + inverse[:3, 3]


def distance_from_border(positions, shape):
    """In voxels, from the outermost voxel centres; negative outside them."""
    return np.minimum(positions, np.array(shape) - 1 - positions).min(axis=-1)


# to a voxel size


@pytest.mark.parametrize("voxel_size", [2.4, (1.1, 3.1, 4.0), (3.3, 1.5, 1.7)])
def test_world_coordinates_survive_a_change_of_voxel_size(affine, voxel_size):
    result = ResampleToSpacing(voxel_size)(linear_image(SHAPE, affine))
    np.testing.assert_allclose(np.linalg.norm(result.affine[:3, :3], axis=0), np.broadcast_to(voxel_size, 3), rtol=1e-6)
    world = world_grid(result.shape[1:], result.affine)
    # smoothing and clamped positions see the border; five sigmas and a voxel away nothing does
    sizes = zip((2.0, 1.5, 3.0), np.broadcast_to(voxel_size, 3), strict=True)
    sigma = max(antialiasing_sigma(old, new) / old for old, new in sizes)
    interior = distance_from_border(positions_in(affine, world), SHAPE) >= np.ceil(5 * sigma) + 1
    assert interior.sum() > 100
    error = np.abs(result[0].numpy() - world @ GRADIENT)[interior]
    assert error.max() < 1e-3


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    voxel_size=st.tuples(*[st.floats(0.8, 6)] * 3),
)
@settings(deadline=None, max_examples=60)
def test_the_field_of_view_keeps_its_centre_and_is_covered(affine_of, orientations, shape, voxel_size):
    affine = affine_of(orientations["oblique LAS"])
    result = ResampleToSpacing(voxel_size)(MetaTensor(torch.zeros((1, *shape)), affine=torch.tensor(affine)))
    before, after = np.array(shape), np.array(result.shape[1:])
    centre = affine @ [*(before - 1) / 2, 1]
    np.testing.assert_allclose(result.affine.numpy() @ [*(after - 1) / 2, 1], centre, atol=1e-6)
    old = np.linalg.norm(affine[:3, :3], axis=0)
    new = np.linalg.norm(result.affine[:3, :3].numpy(), axis=0)
    axes = affine[:3, :3] / old
    np.testing.assert_allclose(result.affine[:3, :3].numpy() / new, axes, atol=1e-9, err_msg="axes are kept")
    assert (after * new >= before * old - 2e-3 * new).all()
    assert ((after - 1) * new < before * old).all()


@pytest.mark.parametrize("voxel_size", [2.4, (1.1, 3.1, 5.0), (9.0, 0.7, 40.0)])
def test_a_constant_stays_constant_up_to_the_border(affine, voxel_size):
    image = MetaTensor(torch.full((2, *SHAPE), 437.0), affine=torch.tensor(affine))
    result = ResampleToSpacing(voxel_size)(image)
    torch.testing.assert_close(result.as_tensor(), torch.full_like(result.as_tensor(), 437.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rounding", [0.0, 4e-7, -1e-3])
def test_the_same_voxel_size_changes_nothing(affine, rounding):
    image = random_image(SHAPE, affine)
    result = ResampleToSpacing([size + rounding for size in (2.0, 1.5, 3.0)])(image)
    assert torch.equal(result.as_tensor(), image.as_tensor())
    np.testing.assert_allclose(result.affine, affine, atol=1e-9)


def test_two_voxels_become_their_mean():
    """Two to one with nothing else around: a larger voxel averages what it covers."""
    image = MetaTensor(torch.tensor([3.0, 7.0]).reshape(1, 2, 1, 1), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    result = ResampleToSpacing((4.0, 2.0, 2.0))(image)
    assert result.shape == (1, 1, 1, 1)
    assert result.item() == pytest.approx(5.0, abs=1e-5)
    np.testing.assert_allclose(result.affine[:3, 3], [1, 0, 0], atol=1e-9)


# anti-aliasing


def sine_image(frequency, axis, n=90):
    """Sine of ``frequency`` cycles per voxel along one axis; voxels of 1 mm."""
    shape = [3, 3, 3]
    shape[axis] = n
    wave = np.sin(2 * np.pi * frequency * np.arange(n) + 0.4)
    voxels = np.broadcast_to(np.moveaxis(wave[:, None, None], 0, axis), shape).astype(np.float32)
    return MetaTensor(torch.from_numpy(voxels.copy())[None], affine=torch.eye(4, dtype=torch.float64)), wave


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("size", "frequency"), [(3.0, f) for f in (0.02, 0.06, 1 / 6, 1 / 3, 0.5)] + [(1.92, 0.4)])
def test_waves_are_damped_as_a_gaussian_damps_them(axis, size, frequency):
    """Transfer of the Gaussian ``exp(-2 pi^2 sigma^2 f^2)``, times that of a sample's own width, ``sinc(f)``.

    The kernel is a sampled one, so that its transfer repeats with each whole frequency.
    """
    image, wave = sine_image(frequency, axis)
    target = [1.0, 1.0, 1.0]
    target[axis] = size
    result = ResampleToSpacing(target)(image)
    found = np.moveaxis(result[0].numpy(), axis, 0)[:, 1, 1]
    places = result.affine[axis, 3].item() + size * np.arange(len(found))
    sigma = np.sqrt(size**2 - 1) * FWHM_TO_SIGMA
    repeated = frequency + np.arange(-3, 4)
    transfer = np.sum(np.exp(-2 * (np.pi * sigma * repeated) ** 2) * np.sinc(repeated))
    expected = transfer * np.interp(places, np.arange(len(wave)), wave)
    interior = (places > 6 * sigma) & (places < len(wave) - 1 - 6 * sigma)
    np.testing.assert_allclose(found[interior], expected[interior], atol=1e-4)


def test_a_checkerboard_becomes_gray_and_a_slow_wave_stays():
    image, _ = sine_image(0.5, 1)
    amplitude = image.numpy().max()
    fine = ResampleToSpacing((1.0, 3.0, 1.0))(image)[0, 1, 5:-5, 1].numpy()
    assert np.abs(fine).max() < 0.01 * amplitude
    image, _ = sine_image(0.02, 1)
    assert ResampleToSpacing((1.0, 3.0, 1.0))(image)[0, 1, 3:-3, 1].numpy().max() > 0.95 * image.numpy().max()


def width(profile, step):
    """Full width at half maximum in mm of one sampled Gaussian, by a parabola through the logarithm of its top."""
    top = np.flatnonzero(profile > 0.3 * profile.max())
    return np.sqrt(-4 * np.log(2) / np.polyfit(top * step, np.log(profile[top]), 2)[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_point_spread_becomes_that_of_the_new_voxels(axis):
    """A blob of 5 mm (FWHM) in voxels of 1 mm is widened to what voxels of 3 mm show of it: squares of widths add."""
    n, step = [9, 9, 9], 1.0
    n[axis] = 75
    place = np.arange(75) * step - 37.0
    profile = np.exp(-0.5 * (place / (5.0 * FWHM_TO_SIGMA)) ** 2)
    voxels = np.broadcast_to(np.moveaxis(profile[:, None, None], 0, axis), n).astype(np.float32).copy()
    image = MetaTensor(torch.from_numpy(voxels)[None], affine=torch.eye(4, dtype=torch.float64))
    target = [1.0, 1.0, 1.0]
    target[axis] = 3.0
    result = np.moveaxis(ResampleToSpacing(target)(image)[0].numpy(), axis, 0)[:, 4, 4]
    # the smoothing also has the width of a sample, 1/12 mm2 of variance: 0.2 mm2 of 33
    assert width(profile, step) == pytest.approx(5.0, rel=1e-6)
    assert width(result, 3.0) == pytest.approx(np.sqrt(5.0**2 + 3.0**2 - 1.0**2), rel=0.01)


@pytest.mark.parametrize("ratio", [1.5, 1.92, 3.0, 5.0])
def test_a_voxel_becomes_a_gaussian_of_the_new_size(ratio):
    """The variances of the kernel and of the old voxel add up to that of the new one, to a tenth of its width."""
    sigma = antialiasing_sigma(1.0, ratio)
    kernel = smoothing_matrix(81, sigma)[40]
    place = np.arange(81) - 40
    assert kernel.sum() == pytest.approx(1)
    assert kernel @ place == pytest.approx(0, abs=1e-12)
    fwhm = np.sqrt(kernel @ place**2 + FWHM_TO_SIGMA**2) / FWHM_TO_SIGMA
    assert fwhm == pytest.approx(ratio, rel=0.1)


def test_finer_axes_are_not_smoothed():
    assert antialiasing_sigma(2.0, 1.25) == 0
    assert antialiasing_sigma(1.25, 2.5) == pytest.approx(1.25 * np.sqrt(3) * FWHM_TO_SIGMA)


# against scipy


def scipy_resample(voxels, spacing, target, affine, result_affine, result_shape):
    """Gaussian integrated over each sample, edge values repeated, then linear interpolation at world positions."""
    for axis, (old, new) in enumerate(zip(spacing, target, strict=True)):
        if new > old:
            sigma = np.sqrt(new**2 - old**2) * FWHM_TO_SIGMA / old
            edges = np.arange(-15.5, 16)
            kernel = np.diff(norm.cdf(edges, scale=sigma))
            voxels = ndimage.correlate1d(voxels, kernel / kernel.sum(), axis=axis, mode="nearest")
    positions = positions_in(affine, world_grid(result_shape, result_affine))
    return ndimage.map_coordinates(voxels, np.moveaxis(positions, -1, 0), order=1, mode="nearest"), positions


@pytest.mark.parametrize("voxel_size", [2.4, (1.1, 3.1, 4.0), (4.5, 1.2, 3.0)])
def test_scipy_gives_the_same_values_on_noise(affine, voxel_size):
    image = random_image(SHAPE, affine, channels=1)
    target = np.broadcast_to(voxel_size, 3)
    result = ResampleToSpacing(voxel_size)(image)
    expected, positions = scipy_resample(
        image[0].numpy().astype(float), (2.0, 1.5, 3.0), target, affine, result.affine.numpy(), result.shape[1:]
    )
    interior = distance_from_border(positions, SHAPE) > 6
    assert interior.sum() > 40
    np.testing.assert_allclose(result[0].numpy()[interior], expected[interior], atol=1e-4)


@pytest.mark.parametrize("voxel_size", [2.4, (1.1, 3.1, 4.0)])
def test_scipys_gaussian_filter_gives_the_same_values_on_a_smooth_image(affine, voxel_size):
    """The two differ by the width of a sample, of which a smooth image shows little."""
    place = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    voxels = np.cos(place @ [0.11, 0.05, -0.08]) + 0.3 * np.cos(place @ [-0.03, 0.14, 0.1])
    image = MetaTensor(torch.tensor(voxels, dtype=torch.float32)[None], affine=torch.tensor(affine))
    result = ResampleToSpacing(voxel_size)(image)
    sigmas = [
        np.sqrt(max(new**2 - old**2, 0)) * FWHM_TO_SIGMA / old
        for old, new in zip((2.0, 1.5, 3.0), np.broadcast_to(voxel_size, 3), strict=True)
    ]
    smooth = ndimage.gaussian_filter(voxels, sigmas, mode="nearest")
    positions = positions_in(affine, world_grid(result.shape[1:], result.affine))
    expected = ndimage.map_coordinates(smooth, np.moveaxis(positions, -1, 0), order=1, mode="nearest")
    interior = distance_from_border(positions, SHAPE) > 6
    np.testing.assert_allclose(result[0].numpy()[interior], expected[interior], atol=3e-3)


# to the grid of another image


@pytest.mark.parametrize("voxel_size", [(2.0, 2.0, 2.0), (1.0, 4.0, 5.0), (6.0, 1.2, 2.2)])
@pytest.mark.parametrize("other", ["RAS", "PIR", "oblique LAS"])
def test_world_coordinates_survive_a_change_of_grid(axes, affine, affine_of, orientations, other, voxel_size):
    image = linear_image(SHAPE, affine)
    centre = (affine @ [*(np.array(SHAPE) - 1) / 2, 1])[:3]
    shape = (14, 11, 13)
    linear = affine_of(orientations[other], voxel_size)[:3, :3]
    reference = np.eye(4)
    reference[:3, :3], reference[:3, 3] = (
        linear,
        centre + np.array([1.0, -2.0, 0.5]) - linear @ (np.array(shape) - 1) / 2,
    )
    result = ResampleToGrid()(image, MetaTensor(torch.zeros((1, *shape)), affine=torch.tensor(reference)))

    assert result.shape == (1, *shape)
    np.testing.assert_array_equal(result.affine, reference)
    world = world_grid(shape, reference)
    depth = distance_from_border(positions_in(affine, world), SHAPE)
    interior = depth >= 8
    assert interior.sum() >= 8
    assert np.abs(result[0].numpy() - world @ GRADIENT)[interior].max() < 1e-3
    outside = depth < -1
    assert not result[0].numpy()[outside].any()


@pytest.mark.parametrize("other", ["RAS", "LAS", "LPS", "PIR", "PIL"])
def test_a_reordered_grid_gives_back_the_same_voxels(affine, other):
    image = random_image(SHAPE, affine)
    reordered = Orientationd("image", axcodes=other, labels=(("L", "R"), ("P", "A"), ("I", "S")))({"image": image})
    result = ResampleToGrid()(image, reordered["image"])
    torch.testing.assert_close(result.as_tensor(), reordered["image"].as_tensor(), atol=1e-5, rtol=0)


def test_coarser_axes_are_smoothed_also_where_the_axes_are_permuted(affine_of, orientations):
    """Noise from 1 x 1 x 1 mm to voxels of 3 mm along world x alone, whatever its index in the reference."""
    image = random_image((40, 15, 17), affine_of(orientations["RAS"], (1, 1, 1), (0, 0, 0)), channels=1)
    expected = ndimage.correlate1d(
        image[0].numpy().astype(float),
        np.diff(norm.cdf(np.arange(-15.5, 16), scale=np.sqrt(8) * FWHM_TO_SIGMA)),
        axis=0,
    )
    # PIR: first voxel axis to P, second to I, third to R
    reference = affine_of(orientations["PIR"], (1, 1, 3), (10, 14, 16))
    result = ResampleToGrid()(image, MetaTensor(torch.zeros((1, 15, 17, 6)), affine=torch.tensor(reference)))
    np.testing.assert_allclose(
        result[0].numpy(), expected[10:27:3, ::-1, ::-1].transpose(1, 2, 0), atol=2e-4, err_msg="x is the third axis"
    )


def test_padding_is_undone_exactly(affine):
    image = random_image((13, 18, 11), affine)
    pad = DivisiblePadd("image", k=8)
    padded = pad({"image": image})
    assert tuple(padded["image"].shape) == (2, 16, 24, 16)
    back = ResampleToGrid()(padded["image"], image)
    torch.testing.assert_close(back.as_tensor(), image.as_tensor(), atol=1e-5, rtol=0)
    inverted = Invertd("image", pad, orig_keys="image")(padded)["image"]
    assert torch.equal(inverted.as_tensor(), image.as_tensor())
    np.testing.assert_allclose(inverted.affine, affine, atol=1e-9)
    # each voxel of the padded image stands where its affine says
    padded_coordinates = pad({"image": linear_image((13, 18, 11), affine)})["image"]
    inside = pad({"image": MetaTensor(torch.ones((1, 13, 18, 11)), affine=torch.tensor(affine))})["image"][0] > 0
    world = world_grid((16, 24, 16), padded_coordinates.affine)
    np.testing.assert_allclose(padded_coordinates[0].numpy()[inside], (world @ GRADIENT)[inside], atol=1e-4)


# dictionary forms


def test_dictionary_forms_do_as_the_transforms_and_keep_their_input(affine):
    image, mask = random_image(SHAPE, affine), random_image(SHAPE, affine, channels=1, seed=1)
    data = {"image": image, "mask": mask, "other": "x"}
    result = ResampleToSpacingd(["image", "mask", "absent"], 2.4, allow_missing_keys=True)(data)
    for key in ("image", "mask"):
        expected = ResampleToSpacing(2.4)(data[key])
        assert torch.equal(result[key].as_tensor(), expected.as_tensor())
        np.testing.assert_array_equal(result[key].affine, expected.affine)
    assert data["image"] is image
    back = ResampleToGridd("image", reference_key="mask")({"image": result["image"], "mask": mask})
    expected = ResampleToGrid()(result["image"], mask)
    assert torch.equal(back["image"].as_tensor(), expected.as_tensor())
    with pytest.raises(KeyError):
        ResampleToSpacingd(["absent"], 2.4)(data)
