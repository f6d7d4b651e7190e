"""Imperfections of a phantom scan: each one against geometry, spectra and closed forms, and against its record."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.ndimage import affine_transform
from scipy.stats import rice

from scripts.cohort.phantom.imperfections import (
    AUXILIARY,
    CLINICAL,
    Imperfections,
    Strengths,
    acquire,
    from_record,
    head_gradients,
    receive_field,
    record,
    rician,
    sample_imperfections,
    sample_receive_field,
    volume_map,
)
from transforms.artifacts import EddyParams, ScanInfo
from transforms.errors import InputError

SHAPE = (26, 32, 17)
SIZES = np.array([2.0, 1.5, 3.0])
PEAK = 30000.0
"""Height of a blob: rounding to integers then hardly matters."""

POSE = {"rotation": (6.0, -9.0, 12.0), "translation": (2.0, -1.5, 1.0)}
EDDY = (1.2, -0.05, 0.08, -0.06)


def turn(rotation) -> np.ndarray:
    """Rotation matrix of a vector in degrees: exponential of the cross product with it."""
    x, y, z = np.radians(rotation)
    return expm(np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))


def perfect(volumes=1, slices=SHAPE[2], **changes) -> Imperfections:
    """A scan without imperfections but for ``changes``, which every volume has."""
    zeros = np.zeros((volumes, 3))
    nothing = Imperfections(
        noise_sigma=0.0,
        bias_strength=0.0,
        bias=np.zeros(10),
        centre=np.zeros(3),
        rotation=zeros,
        translation=zeros,
        eddy=np.zeros((volumes, 4)),
        ghost_phase=np.zeros(volumes),
        dropout=np.ones((volumes, slices)),
    )
    per_volume = {"rotation": 3, "translation": 3, "eddy": 4}
    return replace(
        nothing,
        **{
            name: np.tile(value, (volumes, 1)).astype(float) if name in per_volume else value
            for name, value in changes.items()
        },
    )


def scanned(volume, imperfections, affine=None, index=0, seed=0) -> np.ndarray:
    field = receive_field(imperfections.bias, volume.shape)
    affine = np.eye(4) if affine is None else affine
    return acquire(volume, index, imperfections, affine, field, np.random.default_rng(seed))


def world(affine, shape=SHAPE) -> np.ndarray:
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def middle(affine, *offset) -> np.ndarray:
    """World place in mm of the image's middle, or ``offset`` mm from it."""
    return affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + affine[:3, 3] + (offset or 0)


def blob(affine, place, spread=(3.5, 3.5, 3.5), axes=None) -> np.ndarray:
    """Gaussian about ``place`` in world mm, ``spread`` mm wide along ``axes`` (columns), those of the world if None."""
    distance = (world(affine) - place) @ (np.eye(3) if axes is None else axes) / spread
    return (PEAK * np.exp(-0.5 * np.sum(distance**2, axis=-1))).astype(np.float32)


def centre_of_mass(image, affine) -> np.ndarray:
    return np.average(world(affine, image.shape).reshape(-1, 3), axis=0, weights=image.ravel())


def gradient_table(generator, volumes=65, b=1000.0) -> np.ndarray:
    directions = generator.standard_normal((volumes, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    table = np.column_stack([directions, np.full(volumes, b)])
    table[0] = 0
    return table


def ball(shape=SHAPE) -> np.ndarray:
    inside = (np.indices(shape).T - (np.array(shape) - 1) / 2) / np.array(shape) * 2.6
    return (np.sum(inside**2, axis=-1) < 1).T


def draw(strengths=CLINICAL, seed=0, gradients=None, brain=None, sigma=20.0, affine=None) -> Imperfections:
    generator = np.random.default_rng(seed)
    gradients = gradient_table(np.random.default_rng(99)) if gradients is None else gradients
    affine = np.diag([*SIZES, 1.0]) if affine is None else affine
    return sample_imperfections(generator, strengths, gradients, affine, ball() if brain is None else brain, sigma)


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
    """By 90 degrees about z, a fibre along x lies along y: two compartments, tensors in closed form."""

    def signal(table, axes):
        """Of tensors with ``axes`` (columns)."""
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
    """Of a blob that is longer along its fibre, written down in the moved pose."""
    rotation, centre, b = (0.0, 14.0, 20.0), middle(affine, 3.0, 1.0, -2.0), 1000.0
    matrix, place, spread = turn(rotation), middle(affine), (5.0, 3.5, 3.5)
    nominal = np.array([[0.6, 0.64, 0.48, b]])
    imperfections = perfect(rotation=rotation, translation=POSE["translation"], centre=centre)
    (head,) = head_gradients(nominal, imperfections)
    first = blob(affine, place, spread) * np.float32(np.exp(-b * 1.4e-3 * head[0] ** 2))
    moved_place = matrix @ (place - centre) + centre + POSE["translation"]
    fibre = matrix @ (1, 0, 0)
    truth = blob(affine, moved_place, spread, matrix) * np.exp(-b * 1.4e-3 * (nominal[0, :3] @ fibre) ** 2)
    result = scanned(first, imperfections, affine)
    assert np.abs(result - truth).max() < 0.01 * truth.max()
    assert np.abs(first - truth).max() > 0.1 * truth.max()


def test_head_walks_from_its_first_pose_within_the_ranges():
    rotations, translations = [], []
    for seed in range(40):
        drawn = draw(seed=seed)
        for part in (drawn.rotation, drawn.translation):
            assert part.shape == (65, 3)
            assert not part[0].any()
        rotations.append(np.linalg.norm(drawn.rotation, axis=1).max())
        translations.append(np.linalg.norm(drawn.translation, axis=1).max())
        # a walk, not a shake: from one volume to the next far less than over the scan
        assert np.median(np.linalg.norm(np.diff(drawn.translation, axis=0), axis=1)) < 0.35 * translations[-1]
    for largest in (rotations, translations):
        assert 0.2 <= min(largest) < 0.5
        assert 1.7 < max(largest) <= 2.0


def test_jumps_are_rare_and_turn_and_move_the_head_at_once():
    gradients = gradient_table(np.random.default_rng(0), 2000)
    found = []
    for probability in (0.0, 0.02):
        drawn = draw(replace(CLINICAL, jump_probability=probability), gradients=gradients)
        steps = [np.linalg.norm(np.diff(part, axis=0), axis=1) for part in (drawn.translation, drawn.rotation)]
        found.append([step > 4 * np.median(step) for step in steps])
    (none, none_either), (moves, turns) = found
    assert not none.any()
    assert not none_either.any()
    assert 0.01 < moves.mean() < 0.03
    assert (moves == turns).mean() > 0.99


def test_a_scan_of_one_volume_lies_still():
    drawn = draw(gradients=np.zeros((1, 4)))
    assert not drawn.rotation.any()
    assert not drawn.translation.any()
    assert not drawn.eddy.any()


@pytest.mark.parametrize("pose", [POSE, {"translation": (-14.0, 9.0, 16.0)}], ids=["turned", "at the border"])
def test_what_is_around_the_image_does_not_matter(pose, affine):
    """The box that is computed is as good as an image with zeros all around."""
    generator, margin = np.random.default_rng(5), 10
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[4:13, 3:20, 1:9] = generator.uniform(500, PEAK / 2, (9, 17, 8))
    imperfections = perfect(centre=middle(affine), eddy=EDDY, **pose)
    matrix, offset = volume_map(0, imperfections, affine, SHAPE)
    inverse = np.linalg.inv(matrix)
    padded = np.pad(volume, margin)
    source = inverse @ (np.zeros(3) - offset) + margin
    expected = affine_transform(padded, inverse, source, output_shape=SHAPE, order=3).clip(0) / (1 + EDDY[1])
    assert np.abs(scanned(volume, imperfections, affine) - expected).max() <= 1e-3 * PEAK


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
    imperfections = perfect(eddy=EDDY, phase_axis=phase_axis)
    result = scanned(original, imperfections, affine)
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
    assert np.abs(result - artifact.numpy()).max() < 0.015 * PEAK  # which interpolates linearly


def test_eddy_currents_displace_what_has_moved(affine):
    """Of a turned head, place by place: motion in the world first, then displacement in the image."""
    imperfections = perfect(eddy=EDDY, centre=middle(affine, 4.0, 2.0, -6.0), **POSE)
    matrix, offset = volume_map(0, imperfections, affine, SHAPE)
    directions = affine[:3, :3] / SIZES
    place = middle(affine, 3.0, -2.0, 4.0)
    posed = turn(POSE["rotation"]) @ (place - imperfections.centre) + imperfections.centre + POSE["translation"]
    x, y, z = directions.T @ (posed - middle(affine))
    shift, stretch, shear_x, shear_z = EDDY
    expected = np.array([x, y + shift + stretch * y + shear_x * x + shear_z * z, z])
    voxel = matrix @ np.linalg.solve(affine[:3, :3], place - affine[:3, 3]) + offset
    np.testing.assert_allclose((voxel - (np.array(SHAPE) - 1) / 2) * SIZES, expected, atol=1e-9)
    found = centre_of_mass(scanned(blob(affine, place), imperfections, affine), affine)
    np.testing.assert_allclose(directions.T @ (found - middle(affine)), expected, atol=0.02)


def test_eddy_currents_are_linear_in_the_diffusion_gradient():
    g, h = np.array([0.36, 0.48, 0.8]), np.array([0.8, -0.6, 0.0])
    rows = [[*g, 1000], [*-g, 1000], [*g, 2000], [*h, 1000], [0, 0, 0, 0], [0, 0, 0, 5], [*(g + h) / 2, 1000]]
    at_g, at_minus_g, at_2b, at_h, *none, mean = draw(gradients=np.array(rows)).eddy
    assert np.abs(at_g).min() > 0
    np.testing.assert_array_equal(at_minus_g, -at_g)
    np.testing.assert_allclose(at_2b, 2 * at_g)
    np.testing.assert_allclose(mean, (at_g + at_h) / 2)
    assert not np.any(none)


def test_eddy_currents_stay_within_the_ranges():
    gradients = gradient_table(np.random.default_rng(1), 400)
    largest = np.array([np.abs(draw(gradients=gradients, seed=seed).eddy).max(axis=0) for seed in range(40)])
    assert (largest <= (3.0, 0.02, 0.02, 0.02)).all()
    assert (largest > np.multiply(0.9, (0.5, 0.003, 0.003, 0.003))).all()
    assert (largest.max(axis=0) > np.multiply(0.8, (3.0, 0.02, 0.02, 0.02))).all()


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


def test_ghost_varies_a_little_from_volume_to_volume():
    for seed in range(20):
        amplitude = np.sin(draw(seed=seed).ghost_phase / 2)
        assert 0.009 <= amplitude.min() < amplitude.max() <= 0.066
        assert amplitude.max() / amplitude.min() < 1.25


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
    imperfections = replace(perfect(3), dropout=dropout)
    for index in (0, 2):
        np.testing.assert_array_equal(scanned(volume, imperfections, index=index), np.rint(volume))
    result = scanned(volume, imperfections, index=1)
    np.testing.assert_allclose(result, volume * dropout[1], atol=0.501)


def test_slices_are_lost_at_the_stated_rate_but_never_of_a_b0():
    gradients = gradient_table(np.random.default_rng(0), 400)
    gradients[[0, 100, 200], 3] = 0, 5, 50
    dropout = draw(replace(CLINICAL, dropout=(0.2, 0.2)), gradients=gradients).dropout
    assert (dropout[[0, 100, 200]] == 1).all()
    lost = dropout[dropout != 1]
    assert len(lost) / (397 * SHAPE[2]) == pytest.approx(0.2, abs=0.02)
    assert 0.1 <= lost.min() < 0.12
    assert 0.58 < lost.max() <= 0.6
    rates = [(draw(seed=seed).dropout != 1).mean() for seed in range(60)]
    assert 0.0025 < np.mean(rates) < 0.0075
    assert max(rates) < 0.02


# receive field


@pytest.mark.parametrize("strength", [0.05, 0.3, 1.0])
def test_receive_field_has_mean_one_and_the_stated_strength_in_the_brain(strength):
    brain = ball()
    brain[: SHAPE[0] // 3] = False  # no symmetry
    for seed in range(5):
        field = receive_field(sample_receive_field(np.random.default_rng(seed), brain, strength), SHAPE)
        assert field[brain].mean(dtype=float) == pytest.approx(1, abs=1e-6)
        assert np.abs(np.log(field[brain].astype(float))).max() == pytest.approx(strength, rel=1e-5)
        for axis in range(3):  # a polynomial of degree 2, as smooth as a coil
            assert np.abs(np.diff(np.log(field.astype(float)), 3, axis=axis)).max() < 1e-5


def test_receive_field_stands_still_while_the_head_moves(affine):
    coefficients = sample_receive_field(np.random.default_rng(0), ball(), 0.3)
    imperfections = perfect(eddy=EDDY, centre=middle(affine), **POSE)
    volume = blob(affine, middle(affine)) / 2
    field = receive_field(coefficients, SHAPE)
    result = scanned(volume, replace(imperfections, bias=coefficients), affine)
    np.testing.assert_allclose(result, scanned(volume, imperfections, affine) * field, atol=1.5)


def test_ghost_is_one_of_what_the_coil_receives():
    coefficients = sample_receive_field(np.random.default_rng(2), ball(), 0.3)
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[:, 2:10] = 10000
    result = scanned(volume, perfect(bias=coefficients, ghost_phase=np.array([0.6])))
    ghost = np.sin(0.3) * (volume * receive_field(coefficients, SHAPE))[:, 2:10]
    np.testing.assert_allclose(result[:, 18:26], ghost, atol=1)


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


def test_auxiliary_scan_has_noise_and_a_weak_receive_field_alone():
    gradients = gradient_table(np.random.default_rng(4))
    drawn = draw(AUXILIARY, gradients=gradients)
    assert not any(part.any() for part in (drawn.rotation, drawn.translation, drawn.eddy, drawn.ghost_phase))
    assert (drawn.dropout == 1).all()
    np.testing.assert_array_equal(head_gradients(gradients, drawn), gradients)
    field = receive_field(drawn.bias, SHAPE)
    assert np.abs(np.log(field[ball()])).max() == pytest.approx(drawn.bias_strength, rel=1e-4)
    assert 0.02 <= drawn.bias_strength <= 0.1
    assert drawn.noise_sigma == 20


def test_head_turns_about_the_middle_of_the_brain(affine):
    brain = np.zeros(SHAPE, dtype=bool)
    brain[3:10, 10:31, 5:12] = True
    np.testing.assert_allclose(draw(brain=brain, affine=affine).centre, world(affine)[6, 20, 8], atol=1e-9)


def test_same_generator_gives_the_same_scan_and_another_another():
    first, again, other = (json.dumps(record(draw(seed=seed))) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("strengths", [CLINICAL, AUXILIARY, replace(CLINICAL, dropout=(0.2, 0.2))])
def test_record_replays_the_scan(strengths, affine):
    drawn = draw(strengths, affine=affine)
    replayed = from_record(json.loads(json.dumps({"Subject": 1} | record(drawn))))
    for name in Imperfections.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(replayed, name), getattr(drawn, name), err_msg=name)
    volume = blob(affine, middle(affine)) / 10
    for index in (0, 40):
        first, second = (scanned(volume, each, affine, index, seed=index) for each in (drawn, replayed))
        assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("axis", [0, 1])
def test_record_names_the_phase_encoding_axis(axis):
    values = record(perfect(phase_axis=axis))
    assert values["PhaseEncodingAxis"] == "ij"[axis]
    assert from_record(values).phase_axis == axis


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"phase_axis": 2}, "phase_axis: found 2, expected 0 or 1"),
        ({"noise_sigma": -1.0}, "noise_sigma: found -1.0, expected 0 or more"),
        ({"brain": np.zeros(SHAPE, dtype=bool)}, "brain: found no voxels, expected at least one"),
    ],
)
def test_bad_arguments_are_named(wrong, message):
    arguments = {"affine": np.eye(4), "brain": ball(), "noise_sigma": 1.0, "gradients": np.zeros((1, 4))} | wrong
    with pytest.raises(InputError, match=message):
        sample_imperfections(np.random.default_rng(0), CLINICAL, **arguments)
