"""Eddy-current displacement: geometry, conservation of mass, and an independent implementation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from artifact_scans import LINEAR, assert_uniform, blob, centre_of_mass, generator
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from transforms.artifacts import Eddy, EddyParams, ScanInfo
from transforms.errors import InputError

SHAPE = (18, 23, 15)


def params(n=1, axis=1, **coefficients):
    base = {"stretch": [1.0] * n, "shift": [0.0] * n, "shear_x": [0.0] * n, "shear_z": [0.0] * n}
    return EddyParams(axis=axis, **(base | coefficients))


def random_params(n, axis, seed=0):
    ranges = {"stretch": (0.8, 1.25), "shift": (-2, 2), "shear_x": (-0.2, 0.2), "shear_z": (-0.2, 0.2)}
    return Eddy(axis=axis, **ranges).sample(generator(seed), (n, *SHAPE))


def reference(volume, axis, stretch, shift, shears, voxel_size):
    """The same law by SciPy: full 3D coordinates of the source of every voxel."""
    grid = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in volume.shape), indexing="ij")
    others = [a for a in range(3) if a != axis]
    in_mm = [g * size for g, size in zip(grid, voxel_size, strict=True)]
    sheared = sum(shear * in_mm[other] for shear, other in zip(shears, others, strict=True)) / voxel_size[axis]
    coordinates = list(grid)
    coordinates[axis] = (grid[axis] - shift - sheared) / stretch
    coordinates = [c + (n - 1) / 2 for c, n in zip(coordinates, volume.shape, strict=True)]
    return map_coordinates(volume, coordinates, order=1, mode="grid-constant", cval=0.0) / stretch


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_equals_scipy(scan, axis):
    image, info = scan
    drawn = random_params(len(image), axis, seed=axis)
    result = drawn.apply(image, info)
    for c in range(len(image)):
        shears = [drawn.shear_x[c], drawn.shear_z[c]]
        expected = reference(image[c].double().numpy(), axis, drawn.stretch[c], drawn.shift[c], shears, info.voxel_size)
        np.testing.assert_allclose(result[c].numpy(), expected, atol=1e-5)


@given(stretch=st.floats(0.7, 1.3), shift=st.floats(-2, 2), shear=st.floats(-0.1, 0.1), axis=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_mass_is_conserved(stretch, shift, shear, axis):
    # 8 voxels wide along PE: linear interpolation itself errs by 0.04 / width**2
    shape, width = [17, 19, 18], [1.5, 1.5, 1.5]
    shape[axis], width[axis] = 101, 8.0
    volume = blob(shape, (0.2, -0.5, 0.5), width)
    drawn = params(axis=axis, stretch=[stretch], shift=[shift], shear_x=[shear], shear_z=[-shear])
    assert float(drawn.apply(volume).sum()) == pytest.approx(float(volume.sum()), rel=1e-3)


@pytest.mark.parametrize("n", [40, 41])
@pytest.mark.parametrize("r", [-10.0, 5.0, 10.0])
def test_stretch_moves_a_point_in_proportion_to_its_distance_from_the_centre(n, r):
    volume = blob((7, n, 5), (0.0, r, 0.0), (1.5, 1.5, 1.5))
    profile = params(stretch=[1.1]).apply(volume)[0].sum((0, 2)).double()
    position = torch.arange(n) - (n - 1) / 2
    assert float((profile * position).sum() / profile.sum()) == pytest.approx(1.1 * r, abs=1e-2)


def test_whole_shift_moves_a_voxel_exactly():
    volume = torch.zeros(1, *SHAPE)
    volume[0, 4, 10, 6] = 3.0
    expected = torch.zeros(1, *SHAPE)
    expected[0, 4, 13, 6] = 3.0
    assert torch.equal(params(shift=[3.0]).apply(volume), expected)


def test_fractional_shift_moves_towards_higher_indices():
    volume = torch.zeros(1, *SHAPE)
    volume[0, 4, 10, 6] = 1.0
    result = params(shift=[0.25]).apply(volume)[0, 4, :, 6]
    np.testing.assert_allclose(result[9:13], [0.0, 0.75, 0.25, 0.0], atol=1e-7)


def test_shift_out_of_the_image_leaves_zero():
    assert not params(shift=[40.0]).apply(torch.ones(1, *SHAPE)).any()
    assert not params(shift=[1e30]).apply(torch.ones(1, *SHAPE)).any()


@pytest.mark.parametrize(("name", "other"), [("shear_x", 0), ("shear_z", 2)])
def test_shear_moves_by_the_distance_along_the_other_axis_in_mm(name, other):
    size = np.array([2.0, 1.5, 3.0])
    volume = blob((21, 33, 21), width=(3.0, 3.0, 3.0))
    profile = params(**{name: [0.2]}).apply(volume, ScanInfo(np.diag([*size, 1.0])))[0].double()
    position = torch.arange(33) - 16.0
    for k in (6, 10, 13):
        line = profile.select(other, k).sum(0 if other == 2 else 1)
        expected = 0.2 * (k - 10) * size[other] / 1.5
        assert float((line * position).sum() / line.sum()) == pytest.approx(expected, abs=1e-2)


def test_a_direction_that_does_not_move_stays_as_it_is(scan):
    image, info = scan
    result = params(len(image), stretch=[1.0] * (len(image) - 1) + [1.1]).apply(image, info)
    assert torch.equal(result[:-1], image[:-1])
    assert not torch.allclose(result[-1], image[-1], atol=1e-2)


def test_each_direction_follows_its_own_coefficients(scan):
    image, info = scan
    drawn = random_params(len(image), 1)
    result = drawn.apply(image, info)
    for c in range(len(image)):
        own = EddyParams(1, [drawn.stretch[c]], [drawn.shift[c]], [drawn.shear_x[c]], [drawn.shear_z[c]])
        assert torch.equal(own.apply(image[c : c + 1], info), result[c : c + 1])
    changed = replace(drawn, stretch=[*drawn.stretch[:-1], 1.3]).apply(image, info)
    assert torch.equal(changed[:-1], result[:-1])
    assert not torch.allclose(changed[-1], result[-1])


def test_shared_coefficients_move_all_directions_alike(scan):
    image, info = scan
    drawn = Eddy(per_direction=False).sample(generator(3), image.shape)
    assert len(drawn.stretch) == 1
    repeated = replace(params(len(image)), stretch=drawn.stretch * len(image))
    assert torch.equal(drawn.apply(image, info), repeated.apply(image, info))


def test_is_linear(scan):
    image, info = scan
    drawn, other = random_params(len(image), 2), torch.flip(image, (1,))
    combined = drawn.apply(2 * image - 3 * other, info)
    separate = 2 * drawn.apply(image, info) - 3 * drawn.apply(other, info)
    torch.testing.assert_close(combined, separate, atol=1e-5, rtol=0)


@pytest.mark.parametrize("linear", LINEAR.values(), ids=LINEAR)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_forward_and_inverse_displacement_cancel(linear, axis):
    info, offset = ScanInfo(np.block([[linear, np.zeros((3, 1))], [np.zeros((1, 3)), 1]])), (2.0, -3.0, 4.0)
    volume = blob((33, 35, 31), offset, (2.5, 2.5, 2.5))
    there = params(axis=axis, stretch=[1.1], shift=[1.4], shear_x=[0.08], shear_z=[-0.05])
    back = params(axis=axis, stretch=[1 / 1.1], shift=[-1.4 / 1.1], shear_x=[-0.08 / 1.1], shear_z=[0.05 / 1.1])
    moved = there.apply(volume, info)
    assert np.abs(centre_of_mass(moved[0]) - offset).max() > 0.5
    np.testing.assert_allclose(centre_of_mass(back.apply(moved, info)[0]), offset, atol=0.05)


def test_inverse_stretch_undoes_stretch_of_a_smooth_image():
    volume = blob((11, 61, 9), width=(3.0, 6.0, 3.0))
    back = params(stretch=[1 / 1.1]).apply(params(stretch=[1.1]).apply(volume))
    torch.testing.assert_close(back[:, :, 8:-8], volume[:, :, 8:-8], atol=1e-2, rtol=0)


def test_draws_are_uniform_and_independent_per_direction():
    drawn = Eddy(shift=(-2.0, 3.0)).sample(generator(1), (4000, *SHAPE))
    assert_uniform(drawn.stretch, 0.9, 1.1)
    assert_uniform(drawn.shift, -2.0, 3.0)
    assert abs(np.corrcoef(drawn.stretch, drawn.shift)[0, 1]) < 0.06
    assert not any(drawn.shear_x + drawn.shear_z)


def test_parameters_for_another_number_of_directions_are_refused():
    with pytest.raises(InputError, match=r"coefficients for .*4.* directions, expected 1 or 5"):
        random_params(4, 1).apply(torch.rand(5, *SHAPE))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("prob", 1.5),
        ("stretch", [0.4, 1.1]),
        ("stretch", [1.1, 0.9]),
        ("stretch", 0.1),
        ("stretch", [0.9, "1.1"]),
        ("shift", [0.0]),
        ("shear_x", [0.0, float("nan")]),
        ("shear_z", None),
        ("axis", 3),
        ("axis", True),
        ("per_direction", "no"),
    ],
)
def test_unusable_arguments_are_named(argument, value):
    with pytest.raises(InputError, match=f"^{argument}: found .* expected"):
        Eddy(**{argument: value})
