"""Scanner of phantoms: each artifact of a volume against geometry, spectra and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantom_scans import (
    EDDY,
    PEAK,
    POSE,
    SHAPE,
    SIZES,
    ball,
    blob,
    draw,
    gradient_table,
    middle,
    perfect,
    scanned,
    turn,
    world,
)
from scipy.ndimage import affine_transform
from scipy.stats import rice

from scripts.phantom.artifacts import AUXILIARY, Strengths
from scripts.phantom.scanner import head_gradients, rician, volume_map
from transforms.artifacts import EddyParams, ScanInfo
from transforms.errors import InputError


def centre_of_mass(image, affine) -> np.ndarray:
    return np.average(world(affine, image.shape).reshape(-1, 3), axis=0, weights=image.ravel())


# motion


def test_motion_moves_the_centre_of_mass(affine):
    place, centre = middle(affine, 1.5, -2.0, 1.0), middle(affine, -7.0, 4.0, 5.0)
    moved = scanned(blob(affine, place), perfect(centre=centre, **POSE), affine)
    expected = turn(POSE["rotation"]) @ (place - centre) + centre + POSE["translation"]
    np.testing.assert_allclose(centre_of_mass(moved, affine), expected, atol=0.01)


def test_motion_there_and_back_is_none(affine):
    centre, matrix = middle(affine, 5.0, 3.0, -4.0), turn(POSE["rotation"])
    back = {"rotation": np.negative(POSE["rotation"]), "translation": -matrix.T @ POSE["translation"]}
    original = blob(affine, middle(affine), (4.5, 4.5, 4.5))
    moved = scanned(original, perfect(centre=centre, **POSE), affine)
    returned = scanned(moved, perfect(centre=centre, **back), affine)
    assert np.abs(moved - original).max() > 0.1 * PEAK
    assert np.abs(returned - original).max() < 0.01 * PEAK


def test_head_that_is_turned_shows_turned_fibres():
    """The signal is that of two tensors in closed form. A turn by 90 degrees about z takes a fibre along x to y."""

    def signal(table, axes):
        """Signal of two tensors with principal axes ``axes`` (columns)."""
        tensors = (axes @ np.diag(values) @ axes.T for values in diffusivities)
        weighting = (np.exp(-table[:, 3] * np.sum(table[:, :3] @ d * table[:, :3], axis=1)) for d in tensors)
        return sum(share * attenuation for share, attenuation in zip((0.7, 0.3), weighting, strict=True))

    diffusivities = np.array([[1.7, 0.4, 0.2], [0.3, 1.5, 0.5]]) * 1e-3
    nominal, axes = gradient_table(np.random.default_rng(3), 30), turn((20.0, 35.0, -50.0))
    for rotation in ((0.0, 0.0, 90.0), (10.0, -25.0, 40.0)):
        head = head_gradients(nominal, perfect(30, rotation=rotation))
        turned_fibres = signal(nominal, turn(rotation) @ axes)
        np.testing.assert_allclose(signal(head, axes), turned_fibres, rtol=1e-10)
        assert np.abs(signal(nominal, axes) - turned_fibres).max() > 0.1
        np.testing.assert_array_equal(head[:, 3], nominal[:, 3])
    quarter = head_gradients(np.array([[1.0, 0, 0, 1000]]), perfect(rotation=(0, 0, 90)))
    np.testing.assert_allclose(quarter, [[0, -1, 0, 1000]], atol=1e-12)


def test_scan_of_a_moving_head_is_that_of_the_moved_anatomy(affine):
    """The anatomy is a blob that is longer along its fibre, computed in the moved pose."""
    rotation, centre, b = (0.0, 14.0, 20.0), middle(affine, 3.0, 1.0, -2.0), 1000.0
    matrix, place, spread = turn(rotation), middle(affine), (5.0, 3.5, 3.5)
    nominal = np.array([[0.6, 0.64, 0.48, b]])
    artifacts = perfect(rotation=rotation, translation=POSE["translation"], centre=centre)
    (head,) = head_gradients(nominal, artifacts)
    first = blob(affine, place, spread) * np.float32(np.exp(-b * 1.4e-3 * head[0] ** 2))
    moved_place = matrix @ (place - centre) + centre + POSE["translation"]
    fibre = matrix @ (1, 0, 0)
    truth = blob(affine, moved_place, spread, matrix) * np.exp(-b * 1.4e-3 * (nominal[0, :3] @ fibre) ** 2)
    result = scanned(first, artifacts, affine)
    assert np.abs(result - truth).max() < 0.01 * truth.max()
    assert np.abs(first - truth).max() > 0.1 * truth.max()


@pytest.mark.parametrize("pose", [POSE, {"translation": (-14.0, 9.0, 16.0)}], ids=["turned", "at the border"])
def test_what_is_around_the_image_does_not_matter(pose, affine):
    """The computed box gives the same result as an image with zeros all around."""
    generator, margin = np.random.default_rng(5), 10
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[4:13, 3:20, 1:9] = generator.uniform(500, PEAK / 2, (9, 17, 8))
    artifacts = perfect(centre=middle(affine), eddy=EDDY, **pose)
    matrix, offset = volume_map(0, artifacts, affine, SHAPE)
    inverse = np.linalg.inv(matrix)
    padded = np.pad(volume, margin)
    source = inverse @ (np.zeros(3) - offset) + margin
    expected = affine_transform(padded, inverse, source, output_shape=SHAPE, order=3).clip(0) / (1 + EDDY[1])
    assert np.abs(scanned(volume, artifacts, affine) - expected).max() <= 1e-3 * PEAK


def test_head_that_left_the_image_is_not_seen(affine):
    far = perfect(translation=affine[:3, 1] / SIZES[1] * 1.5 * 60, centre=middle(affine))
    assert not scanned(blob(affine, middle(affine)), far, affine).any()


def test_spline_leaves_no_false_signal_where_it_is_negative():
    edge = np.zeros(SHAPE, dtype=np.float32)
    edge[8:18] = 1000
    moved = scanned(edge, perfect(translation=(0.5, 0, 0)))[:, 16, 8]
    assert moved[8] == pytest.approx(500, abs=1)  # half a voxel
    assert moved[7] == 0  # -118 without the limit
    assert 1050 < moved[9] < 1150


# eddy currents


@pytest.mark.parametrize("phase_axis", [0, 1])
def test_eddy_currents_displace_in_proportion_along_phase_encoding(phase_axis, affine):
    """y' = y + shift + stretch y + shear_x x + shear_z z, in mm along the voxel axes from the image centre."""
    directions = affine[:3, :3] / SIZES
    x, z = (axis for axis in range(3) if axis != phase_axis)
    place = np.array([3.0, -4.0, 5.0])
    original = blob(affine, middle(affine) + directions @ place)
    artifacts = perfect(eddy=EDDY, phase_axis=phase_axis)
    result = scanned(original, artifacts, affine)
    shift, stretch, shear_x, shear_z = EDDY
    expected = place.copy()
    expected[phase_axis] += shift + stretch * place[phase_axis] + shear_x * place[x] + shear_z * place[z]
    found = directions.T @ (centre_of_mass(result, affine) - middle(affine))
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert result.sum(dtype=float) == pytest.approx(original.sum(dtype=float), rel=1e-3)


def test_eddy_currents_are_those_of_the_artifact_that_networks_learn(affine):
    shift, stretch, shear_x, shear_z = EDDY
    original = blob(affine, middle(affine, 2.0, -3.0, 1.0), (5, 5, 5))
    params = EddyParams(1, [1 + stretch], [shift / SIZES[1]], [shear_x], [shear_z])
    artifact = params.apply(torch.tensor(original)[None], ScanInfo(affine))[0]
    result = scanned(original, perfect(eddy=EDDY), affine)
    assert np.abs(result - artifact.numpy()).max() < 0.015 * PEAK  # the artifact interpolates linearly


def test_eddy_currents_displace_what_has_moved(affine):
    """Motion in the world comes first, then displacement in the image."""
    artifacts = perfect(eddy=EDDY, centre=middle(affine, 4.0, 2.0, -6.0), **POSE)
    matrix, offset = volume_map(0, artifacts, affine, SHAPE)
    directions = affine[:3, :3] / SIZES
    place = middle(affine, 3.0, -2.0, 4.0)
    posed = turn(POSE["rotation"]) @ (place - artifacts.centre) + artifacts.centre + POSE["translation"]
    x, y, z = directions.T @ (posed - middle(affine))
    shift, stretch, shear_x, shear_z = EDDY
    expected = np.array([x, y + shift + stretch * y + shear_x * x + shear_z * z, z])
    voxel = matrix @ np.linalg.solve(affine[:3, :3], place - affine[:3, 3]) + offset
    np.testing.assert_allclose((voxel - (np.array(SHAPE) - 1) / 2) * SIZES, expected, atol=1e-9)
    found = centre_of_mass(scanned(blob(affine, place), artifacts, affine), affine)
    np.testing.assert_allclose(directions.T @ (found - middle(affine)), expected, atol=0.02)


# ghost


@pytest.mark.parametrize("phase_axis", [0, 1])
def test_ghost_is_a_phase_between_odd_and_even_lines(phase_axis):
    phase = 0.4
    image = np.zeros(SHAPE, dtype=np.float32)
    image[5:21, 4:24, 2:15] = np.random.default_rng(0).uniform(100, 1000, (16, 20, 13))  # image and ghost overlap
    spectrum = np.fft.fft(image, axis=phase_axis)
    sign = (-1.0) ** np.arange(SHAPE[phase_axis])
    lines = np.exp(0.5j * phase * sign).reshape([-1 if axis == phase_axis else 1 for axis in range(3)])
    expected = np.abs(np.fft.ifft(spectrum * lines, axis=phase_axis))
    result = scanned(image, perfect(ghost_phase=np.array([phase]), phase_axis=phase_axis))
    np.testing.assert_allclose(result, expected, atol=0.501)
    assert np.sum(result.astype(float) ** 2) == pytest.approx(np.sum(image.astype(float) ** 2), rel=1e-4)
    assert result[image == 0].max() > 100


def test_ghost_needs_an_even_number_of_lines():
    odd = np.ones((8, 9, 5), dtype=np.float32)
    with pytest.raises(InputError, match="ghost: found 9 voxels along the phase encoding, expected an even number"):
        scanned(odd, perfect(slices=5, ghost_phase=np.array([0.1])))
    with pytest.raises(InputError, match="ghost: found 9 voxels"):
        draw(brain=odd > 0)
    np.testing.assert_array_equal(scanned(odd, perfect(slices=5)), 1)
    assert not draw(AUXILIARY, brain=odd > 0).ghost_phase.any()


# lost slices


def test_lost_slices_are_darker_and_no_others():
    volume = np.random.default_rng(0).uniform(100, 1000, SHAPE).astype(np.float32)
    dropout = np.ones((3, SHAPE[2]))
    dropout[1, [4, 11]] = 0.25, 0.5
    artifacts = replace(perfect(3), dropout=dropout)
    for index in (0, 2):
        np.testing.assert_array_equal(scanned(volume, artifacts, index=index), np.rint(volume))
    result = scanned(volume, artifacts, index=1)
    np.testing.assert_allclose(result, volume * dropout[1], atol=0.501)


# noise


@pytest.mark.parametrize("snr", [0.0, 2.0, 20.0])
def test_noise_is_rician(snr):
    sigma, shape = 300.0, (60, 50, 40)
    volume = np.full(shape, snr * sigma, dtype=np.float32)
    result = scanned(volume, perfect(slices=40, noise_sigma=sigma)).astype(float)
    mean, variance = rice.stats(snr, scale=sigma, moments="mv")
    assert result.mean() == pytest.approx(float(mean), abs=4 * np.sqrt(variance / volume.size))
    assert result.var() == pytest.approx(float(variance), rel=0.02)


def test_snr_of_a_b0_is_found_in_a_corner_without_signal():
    signal, snr = 600.0, 30.0
    brain = ball()
    drawn = draw(sigma=signal / snr)
    result = scanned(np.where(brain, signal, 0).astype(np.float32), replace(drawn, ghost_phase=np.zeros(65)))
    corner = result[:7, :9, :5].astype(float)
    assert not brain[:7, :9, :5].any()
    assert result[brain].mean() / np.sqrt(np.mean(corner**2) / 2) == pytest.approx(snr, rel=0.05)


def test_noise_differs_between_volumes_and_repeats_with_the_generator():
    image = np.full((20, 18, 13), 100, dtype=np.float32)
    generator = np.random.default_rng(1)
    first, second = rician(image, 20.0, generator), rician(image, 20.0, generator)
    np.testing.assert_array_equal(first, rician(image, 20.0, np.random.default_rng(1)))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


# all together


def test_perfect_scan_is_the_rounded_signal():
    volume = np.random.default_rng(0).uniform(0, 5000, SHAPE).astype(np.float32)
    volume[0, 0, :4] = 0, 0.5, 1.5, 40000
    result = scanned(volume, perfect())
    assert result.dtype == np.int16
    np.testing.assert_array_equal(result, np.minimum(np.rint(volume), 32767))
    nothing = draw(Strengths(), sigma=0.0)
    for index in (0, 33):
        np.testing.assert_array_equal(scanned(volume, nothing, index=index), result)


def test_volume_is_left_as_it_was():
    volume = blob(np.eye(4), middle(np.eye(4)))
    before = volume.copy()
    for index in (0, 7):
        scanned(volume, draw(), index=index)
    np.testing.assert_array_equal(volume, before)
