"""Motion: rigid resampling in mm, and k-space put together from several positions."""

import numpy as np
import pytest
import torch
from artifact_scans import LINEAR, assert_uniform, blob, centre_of_mass, generator
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from transforms.artifacts import Motion, MotionParams, ScanInfo
from transforms.artifacts.motion import rotation_matrix
from transforms.errors import InputError

SHAPE = (21, 26, 19)


def info(linear):
    affine = np.eye(4)
    affine[:3, :3] = linear
    return ScanInfo(affine)


def in_one_place(degrees, translation, axis=2):
    """The head in one position during the whole of k-space."""
    return MotionParams([list(degrees)], [list(translation)], [], axis)


def test_the_angles_are_those_of_itk():
    sitk = pytest.importorskip("SimpleITK")
    for degrees in ([10, 20, 30], [-40, 5, 80], [0, 0, 90]):
        euler = sitk.Euler3DTransform()
        euler.SetRotation(*np.radians(degrees).tolist())
        np.testing.assert_allclose(rotation_matrix(degrees), np.reshape(euler.GetMatrix(), (3, 3)), atol=1e-12)
        z, x, y = degrees[2], degrees[0], degrees[1]
        expected = Rotation.from_euler("ZXY", [z, x, y], degrees=True).as_matrix()
        np.testing.assert_allclose(rotation_matrix(degrees), expected, atol=1e-12)


@pytest.mark.parametrize("linear", LINEAR.values(), ids=LINEAR)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_position_for_the_whole_of_k_space_is_plain_resampling(linear, axis):
    degrees, translation = (8.0, -12.0, 15.0), (3.0, -2.0, 1.5)
    image = torch.rand(3, *SHAPE, generator=generator(0))
    result = in_one_place(degrees, translation, axis).apply(image, info(linear))
    # a point p moves to R p + t, so q is read at R^T (q - t); SciPy interpolates
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij"))
    turn = Rotation.from_euler("ZXY", [degrees[2], degrees[0], degrees[1]], degrees=True).as_matrix()
    world = np.tensordot(linear, grid, 1) - np.reshape(translation, (3, 1, 1, 1))
    read = np.tensordot(np.linalg.inv(linear) @ turn.T, world, 1) + np.reshape((np.array(SHAPE) - 1) / 2, (3, 1, 1, 1))
    for c in range(3):
        expected = map_coordinates(image[c].double().numpy(), read, order=1, mode="grid-constant", cval=0.0)
        np.testing.assert_allclose(result[c].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("linear", LINEAR.values(), ids=LINEAR)
def test_the_head_moves_as_the_parameters_say_in_mm(linear):
    offset = np.array([3.0, -4.0, 2.0])
    image = blob((31, 33, 29), offset, (2.0, 2.0, 2.0))
    degrees, translation = (5.0, -8.0, 10.0), (2.0, -3.0, 4.0)
    moved = in_one_place(degrees, translation).apply(image, info(linear))[0]
    expected = rotation_matrix(degrees) @ linear @ offset + translation
    np.testing.assert_allclose(linear @ centre_of_mass(moved), expected, atol=0.1)


def test_forward_and_inverse_position_cancel():
    linear = LINEAR["oblique"]
    offset = np.array([3.0, -4.0, 2.0])
    image = blob((31, 33, 29), offset, (2.5, 2.5, 2.5))
    degrees, translation = [6.0, -9.0, 12.0], np.array([2.0, -1.5, 1.0])
    turn = rotation_matrix(degrees)
    z, x, y = Rotation.from_matrix(turn.T).as_euler("ZXY", degrees=True)
    there = in_one_place(degrees, translation).apply(image, info(linear))
    back = in_one_place((x, y, z), -turn.T @ translation).apply(there, info(linear))[0]
    np.testing.assert_allclose(centre_of_mass(back), offset, atol=0.05)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("n", [18, 19])
def test_k_space_is_put_together_plane_by_plane(axis, n):
    """The expected image is spliced from full 3D transforms of each position."""
    shape = [15, 14, 13]
    shape[axis] = n
    image = torch.rand(2, *shape, generator=generator(2), dtype=torch.float64)
    params = MotionParams(
        [[5.0, 0, 3], [0.0, 0, 0], [0, 4, 8]], [[1.0, 0, 2], [0.0, 0, 0], [0, 1, -1]], [0.3, 0.6], axis
    )
    places = [
        in_one_place(degrees, translation, axis).apply(image)
        for degrees, translation in zip(params.degrees, params.translation, strict=True)
    ]
    bounds = [0, int(0.3 * n), int(0.6 * n), n]
    spectra = [torch.fft.fftshift(torch.fft.fftn(place, dim=(1, 2, 3)), dim=(1, 2, 3)) for place in places]
    spliced = torch.empty_like(spectra[0])
    for start, stop, spectrum in zip(bounds[:-1], bounds[1:], spectra, strict=True):
        part = [slice(None)] * 4
        part[1 + axis] = slice(start, stop)
        spliced[tuple(part)] = spectrum[tuple(part)]
    expected = torch.fft.ifftn(torch.fft.ifftshift(spliced, dim=(1, 2, 3)), dim=(1, 2, 3)).real
    torch.testing.assert_close(params.apply(image), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("movements", [1, 2, 3, 4, 5])
def test_the_head_is_at_rest_in_the_centre_of_k_space(movements):
    for seed in range(50):
        params = Motion(num_transforms=movements).sample(generator(seed), (1, *SHAPE))
        assert sum(params.at_rest) == 1
        for n in (20, 21):
            planes = params.planes(n)
            np.testing.assert_array_equal(planes.sum(0), 1)
            assert planes[params.at_rest.index(True), n // 2 - 1 : n // 2 + 1].any()


def test_positions_that_are_all_alike_are_one():
    image = torch.rand(3, *SHAPE, generator=generator(1))
    params = MotionParams([[4.0, 5.0, 6.0]] * 3, [[1.0, 2.0, 3.0]] * 3, [0.3, 0.6], 1)
    torch.testing.assert_close(params.apply(image), in_one_place((4, 5, 6), (1, 2, 3)).apply(image), atol=1e-6, rtol=0)


def test_directions_move_together():
    image = torch.rand(5, *SHAPE, generator=generator(1))
    params = Motion().sample(generator(2), image.shape)
    result = params.apply(image)
    for c in range(5):
        torch.testing.assert_close(params.apply(image[c : c + 1]), result[c : c + 1], atol=1e-6, rtol=0)


def test_draws_follow_the_ranges():
    motion, source = Motion(degrees=[-10, 10], translation=[-5, 8]), generator(17)
    drawn = [motion.sample(source, (5, *SHAPE)) for _ in range(2000)]
    moved = [(p, index) for p in drawn for index in range(3) if not p.at_rest[index]]
    assert len(moved) == 4000
    assert_uniform([p.degrees[index] for p, index in moved], -10, 10)
    assert_uniform([p.translation[index] for p, index in moved], -5, 8)
    assert_uniform([p.times[0] for p in drawn], 1 / 3 - 0.1, 1 / 3 + 0.1)
    assert_uniform([p.times[1] for p in drawn], 2 / 3 - 0.1, 2 / 3 + 0.1)
    assert np.shape(Motion(num_transforms=6).sample(source, (5, *SHAPE)).degrees) == (7, 3)


def test_positions_and_times_have_to_fit():
    with pytest.raises(InputError, match="found 2 rotations, 2 translations and 2 times, expected one time fewer"):
        MotionParams([[1.0, 0, 0]] * 2, [[0.0, 0, 0]] * 2, [0.2, 0.4], 0).apply(torch.rand(1, 4, 5, 6))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("prob", 1.5),
        ("prob", None),
        ("degrees", 10),
        ("translation", [5, -5]),
        ("num_transforms", 0),
        ("num_transforms", 2.0),
        ("axis", 3),
    ],
)
def test_unusable_arguments_are_named(argument, value):
    with pytest.raises(InputError, match=f"^{argument}: found .* expected"):
        Motion(**{argument: value})
