"""Eddy-current displacement: geometry, conservation of mass, and an independent implementation."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates

from transforms.artifacts import EddyParams, RandEddy, RandEddyd
from transforms.errors import InputError

SHAPE = (18, 23, 15)


def params(n=1, axis=1, **coefficients):
    base = {"stretch": [1.0] * n, "shift": [0.0] * n, "shear_x": [0.0] * n, "shear_z": [0.0] * n}
    return EddyParams(axis=axis, **(base | coefficients))


def random_params(n, axis, seed=0):
    ranges = {"stretch": (0.8, 1.25), "shift": (-2, 2), "shear_x": (-0.2, 0.2), "shear_z": (-0.2, 0.2)}
    return RandEddy(axis=axis, **ranges).set_random_state(seed).sample(n)


def blob(shape, centre_offset=(0.0, 0.0, 0.0), width=(2.5, 2.5, 2.5)):
    """Gaussian blob near the image centre, away from the border; ``width`` in voxels."""
    axes = [(np.arange(n) - (n - 1) / 2 - o) / w for n, o, w in zip(shape, centre_offset, width, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return torch.tensor(np.exp(-sum(g**2 for g in grid) / 2), dtype=torch.float32)[None]


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
def test_equals_scipy(image, axis):
    drawn = random_params(5, axis, seed=axis)
    voxel_size = (2.0, 1.5, 3.0) if isinstance(image, MetaTensor) else (1.0, 1.0, 1.0)
    result = RandEddy.apply(image, drawn)
    for c in range(5):
        shears = [drawn.shear_x[c], drawn.shear_z[c]]
        expected = reference(
            np.asarray(image[c], dtype=np.float64), axis, drawn.stretch[c], drawn.shift[c], shears, voxel_size
        )
        np.testing.assert_allclose(np.asarray(result[c]), expected, atol=1e-5)


@given(stretch=st.floats(0.7, 1.3), shift=st.floats(-2, 2), shear=st.floats(-0.1, 0.1), axis=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_mass_is_conserved(stretch, shift, shear, axis):
    # 8 voxels wide along PE: linear interpolation itself errs by 0.04 / width**2
    shape, width = [17, 19, 18], [1.5, 1.5, 1.5]
    shape[axis], width[axis] = 101, 8.0
    volume = blob(shape, (0.2, -0.5, 0.5), width)
    drawn = params(axis=axis, stretch=[stretch], shift=[shift], shear_x=[shear], shear_z=[-shear])
    assert float(RandEddy.apply(volume, drawn).sum()) == pytest.approx(float(volume.sum()), rel=1e-3)


@pytest.mark.parametrize("n", [40, 41])
@pytest.mark.parametrize("r", [-10.0, 5.0, 10.0])
def test_stretch_moves_a_point_in_proportion_to_its_distance_from_the_centre(n, r):
    volume = blob((7, n, 5), (0.0, r, 0.0), (1.5, 1.5, 1.5))
    profile = RandEddy.apply(volume, params(stretch=[1.1]))[0].sum((0, 2)).double()
    position = torch.arange(n) - (n - 1) / 2
    assert float((profile * position).sum() / profile.sum()) == pytest.approx(1.1 * r, abs=1e-2)


def test_whole_shift_moves_a_voxel_exactly():
    volume = torch.zeros(1, *SHAPE)
    volume[0, 4, 10, 6] = 3.0
    expected = torch.zeros(1, *SHAPE)
    expected[0, 4, 13, 6] = 3.0
    assert torch.equal(RandEddy.apply(volume, params(shift=[3.0])), expected)


def test_fractional_shift_moves_towards_higher_indices():
    volume = torch.zeros(1, *SHAPE)
    volume[0, 4, 10, 6] = 1.0
    result = RandEddy.apply(volume, params(shift=[0.25]))[0, 4, :, 6]
    np.testing.assert_allclose(result[9:13], [0.0, 0.75, 0.25, 0.0], atol=1e-7)


def test_shift_out_of_the_image_leaves_zero():
    assert not RandEddy.apply(torch.ones(1, *SHAPE), params(shift=[40.0])).any()
    assert not RandEddy.apply(torch.ones(1, *SHAPE), params(shift=[1e30])).any()


@pytest.mark.parametrize(("name", "other"), [("shear_x", 0), ("shear_z", 2)])
def test_shear_moves_by_the_distance_along_the_other_axis_in_mm(name, other):
    affine = torch.diag(torch.tensor([2.0, 1.5, 3.0, 1.0], dtype=torch.float64))
    volume = MetaTensor(blob((21, 33, 21), width=(3.0, 3.0, 3.0)), affine=affine)
    profile = RandEddy.apply(volume, params(**{name: [0.2]}))[0].as_tensor().double()
    position = torch.arange(33) - 16.0
    for k in (6, 10, 13):
        line = profile.select(other, k).sum(0 if other == 2 else 1)
        expected = 0.2 * (k - 10) * float(affine[other, other]) / 1.5
        assert float((line * position).sum() / line.sum()) == pytest.approx(expected, abs=1e-2)


def test_no_displacement_is_the_identity_bit_for_bit(image):
    image[0, 0, 0, 0] = -0.0
    image[1, 2, 3, 4] = float("nan")
    before = np.asarray(image).tobytes()
    assert np.asarray(RandEddy.apply(image, params(5))).tobytes() == before
    result = RandEddy.apply(image, params(5, stretch=[1.0, 1.0, 1.0, 1.0, 1.1]))
    assert np.asarray(result[:4]).tobytes() == np.asarray(image[:4]).tobytes()


def test_each_direction_follows_its_own_coefficients(image):
    drawn = random_params(5, 1)
    result = RandEddy.apply(image, drawn)
    for c in range(5):
        own = EddyParams(1, [drawn.stretch[c]], [drawn.shift[c]], [drawn.shear_x[c]], [drawn.shear_z[c]])
        assert torch.equal(RandEddy.apply(image[c : c + 1], own), result[c : c + 1])
    changed = RandEddy.apply(image, replace(drawn, stretch=[*drawn.stretch[:4], 1.3]))
    assert torch.equal(changed[:4], result[:4])
    assert not torch.allclose(changed[4], result[4])


def test_shared_coefficients_move_all_directions_alike(image):
    eddy = RandEddy(prob=1.0, per_direction=False).set_random_state(3)
    result = eddy(image)
    assert len(eddy.params.stretch) == 1
    repeated = replace(params(5), stretch=eddy.params.stretch * 5)
    assert torch.equal(result, RandEddy.apply(image, repeated))


def test_is_linear(image):
    drawn, other = random_params(5, 2), torch.flip(image, (1,))
    combined = RandEddy.apply(2 * image - 3 * other, drawn)
    separate = 2 * RandEddy.apply(image, drawn) - 3 * RandEddy.apply(other, drawn)
    torch.testing.assert_close(combined, separate, atol=1e-5, rtol=0)


def test_inverse_stretch_undoes_stretch_of_a_smooth_image():
    volume = blob((11, 61, 9), width=(3.0, 6.0, 3.0))
    there = RandEddy.apply(volume, params(stretch=[1.1]))
    back = RandEddy.apply(there, params(stretch=[1 / 1.1]))
    torch.testing.assert_close(back[:, :, 8:-8], volume[:, :, 8:-8], atol=1e-2, rtol=0)


def test_draws_are_uniform_and_independent_per_direction():
    drawn = RandEddy(shift=(-2.0, 3.0)).set_random_state(1).sample(4000)
    for numbers, low, high in ((drawn.stretch, 0.9, 1.1), (drawn.shift, -2.0, 3.0)):
        counts, _ = np.histogram(numbers, bins=10, range=(low, high))
        assert counts.sum() == 4000
        assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi2 of 9 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(drawn.stretch, drawn.shift)[0, 1]) < 0.06
    assert not any(drawn.shear_x + drawn.shear_z)


def test_replay_from_json_is_exact(image):
    eddy = RandEddy(prob=1.0, shift=[-1, 1], shear_x=[-0.1, 0.1]).set_random_state(5)
    result = eddy(image)
    drawn = EddyParams.from_dict(json.loads(json.dumps(asdict(eddy.params))))
    assert drawn == eddy.params
    assert torch.equal(RandEddy.apply(image, drawn), result)
    assert torch.equal(eddy(image, randomize=False), result)


def test_keys_need_one_number_of_directions():
    data = {"image": torch.rand(5, *SHAPE), "b0": torch.rand(1, *SHAPE)}
    with pytest.raises(InputError, match=r"RandEddyd: found images of .*'b0': 1.* expected one number of channels"):
        RandEddyd(["image", "b0"], prob=1.0)(data)
    shared = RandEddyd(["image", "b0"], prob=1.0, per_direction=False).set_random_state(0)(data)
    assert shared["image"].shape[0] == 5
    assert shared["b0"].shape[0] == 1


def test_parameters_for_another_number_of_directions_are_refused():
    with pytest.raises(InputError, match=r"coefficients for .*4.* directions, expected 1 or 5"):
        RandEddy.apply(torch.rand(5, *SHAPE), random_params(4, 1))


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
        RandEddy(**{argument: value})
