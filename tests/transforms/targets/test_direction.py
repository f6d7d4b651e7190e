"""Encoded axes: a dyad is one and continuous for every axis, two angles are not where they have their seam."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from scripts.training.metrics import angular_error
from transforms import DecodeDirectiond, EncodeDirectiond, InputError, decode_direction, encode_direction
from transforms.targets import CHANNELS, DYAD_ORDER
from transforms.targets.direction import MATRICES_AT_ONCE

SHAPE = (5, 7, 4)
EXACT_AXES = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 0, -1], [1, 1, 0], [1, -1, 0], [0, 1, -1], [0, 0, -1]]
)
"""Poles, the seam y = 0, and what else has zeros in it."""

encodings = pytest.mark.parametrize("encoding", CHANNELS)


@pytest.fixture(scope="module")
def sphere(axes_on_sphere):
    """A fine half sphere and the axes with zeros, ``(3, N)``, float64."""
    special = EXACT_AXES / np.linalg.norm(EXACT_AXES, axis=1, keepdims=True)
    return torch.tensor(np.concatenate([axes_on_sphere(5000), special]).T)


@encodings
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dtype", "degrees"), [(torch.float64, 1e-5), (torch.float32, 0.05)])
def test_every_axis_comes_back(sphere, encoding, sign, dtype, degrees):
    given = (sign * sphere).to(dtype)
    code = encode_direction(given, encoding)
    assert code.shape == (CHANNELS[encoding], sphere.shape[1])
    found = decode_direction(code, encoding)
    assert found.dtype == dtype
    torch.testing.assert_close(torch.linalg.vector_norm(found, dim=0), torch.ones(sphere.shape[1], dtype=dtype))
    assert angular_error(found, given).max() < degrees
    assert (found[1] >= 0).all()


@encodings
def test_both_ends_of_an_axis_and_any_length_have_one_code(sphere, encoding):
    code = encode_direction(sphere, encoding)
    torch.testing.assert_close(encode_direction(-sphere, encoding), code, atol=0, rtol=0)
    torch.testing.assert_close(encode_direction(7.5 * sphere, encoding), code)
    lower, upper = (0, 1) if encoding == "angles" else (-1, 1)
    assert lower <= code.min()
    assert code.max() <= upper


def test_the_sign_of_a_zero_does_not_matter():
    for axis in EXACT_AXES.astype(float):
        ends = torch.tensor(np.array([np.copysign(axis, sign + 2 * axis) for sign in (1, -1)])).T
        for encoding in CHANNELS:
            first, second = encode_direction(ends, encoding).T
            torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_angles_are_polar_angle_and_azimuth_of_the_half_with_positive_y(sphere):
    theta, phi = encode_direction(sphere, "angles") * torch.pi
    x, y, z = (sphere * torch.where(sphere[1] < 0, -1, 1)).numpy()
    inside = y > 1e-9
    np.testing.assert_allclose(theta[inside], np.arccos(z[inside]), atol=1e-7)
    np.testing.assert_allclose(phi[inside], np.arccos(x[inside] / np.hypot(x, y)[inside]), atol=1e-6)
    known = {
        (1, 1, 0): (1 / 2, 1 / 4),
        (-1, 1, 0): (1 / 2, 3 / 4),
        (0, 1, 1): (1 / 4, 1 / 2),
        (0, -1, 1): (3 / 4, 1 / 2),
    }
    for axis, code in known.items():
        np.testing.assert_allclose(encode_direction(torch.tensor(axis, dtype=torch.float64), "angles"), code)


def test_dyads_are_outer_products_in_the_stated_order(sphere):
    codes = encode_direction(sphere, "dyad")
    outer = torch.einsum("in,jn->ijn", sphere, sphere)
    for code, (row, column) in zip(codes, DYAD_ORDER, strict=True):
        torch.testing.assert_close(code, outer[row, column])
    assert DYAD_ORDER == ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def across_the_seam(degrees):
    """Pairs of axes ``(3, N)`` on both sides of the plane y = 0, away from the poles."""
    theta, half = torch.linspace(0.4, torch.pi - 0.4, 50, dtype=torch.float64), np.deg2rad(degrees / 2)
    sides = []
    for azimuth in (half, -half):
        phi = torch.full_like(theta, azimuth)
        sides.append(torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()]))
    return sides


def test_angles_jump_at_the_seam_and_dyads_do_not():
    """The reason why there are two encodings: neighbours that are encoded far apart cannot be learnt."""
    one, other = across_the_seam(degrees=0.7)
    assert angular_error(one, other).max() < 0.71
    first, second = (encode_direction(axes, "angles") for axes in (one, other))
    assert ((first - second)[1].abs() > 0.99).all()
    torch.testing.assert_close(first[0], 1 - second[0])
    first, second = (encode_direction(axes, "dyad") for axes in (one, other))
    assert (first - second).abs().max() < 0.013
    # half way between two codes lies the axis between them, but not for angles
    middle = decode_direction((first + second) / 2, "dyad")
    assert angular_error(middle, one).max() < 0.36
    halfway = sum(encode_direction(axes, "angles") for axes in (one, other)) / 2
    assert angular_error(decode_direction(halfway, "angles"), one).min() > 20


def test_dyads_change_as_little_as_their_axes_everywhere(sphere):
    """For axes an angle a apart, the Frobenius norm of the difference is sqrt(2) sin(a)."""
    turned = torch.tensor(Rotation.from_rotvec([0.003, -0.004, 0.005]).as_matrix()) @ sphere
    difference = encode_direction(sphere, "dyad") - encode_direction(turned, "dyad")
    twice = torch.tensor([1.0, 1, 1, 2, 2, 2], dtype=torch.float64)[:, None]
    norm = (twice * difference**2).sum(dim=0).sqrt()
    torch.testing.assert_close(norm, np.sqrt(2) * torch.deg2rad(angular_error(sphere, turned)).sin())


def test_the_axis_of_a_disturbed_dyad_is_the_main_eigenvector():
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(200, 3, 3))
    matrices = matrices + matrices.transpose(0, 2, 1)
    code = torch.tensor(np.stack([matrices[:, row, column] for row, column in DYAD_ORDER]))
    found = decode_direction(code, "dyad").numpy()
    for matrix, vector in zip(matrices, found.T, strict=True):
        values, vectors = np.linalg.eig(matrix)
        assert abs(vector @ vectors[:, values.argmax()]) == pytest.approx(1)
    torch.testing.assert_close(decode_direction(0.01 * code, "dyad"), torch.tensor(found))


def test_angles_beyond_their_range_go_on_around_the_sphere(sphere):
    theta, phi = encode_direction(sphere, "angles")
    same_point, opposite_point = (-theta, phi + 1), (1 - theta, phi + 1)
    for code in (same_point, opposite_point):
        found = decode_direction(torch.stack(code), "angles")
        assert (found[1] >= 0).all()
        assert angular_error(found, sphere).max() < 1e-5


@encodings
def test_what_has_no_direction_is_nan_and_what_the_network_returned_has_some(encoding):
    nothing = torch.tensor([[0.0, torch.nan, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, torch.nan]])
    assert encode_direction(nothing, encoding).isnan().all()
    channels = CHANNELS[encoding]
    code = torch.zeros(channels, 4)
    code[0, 1], code[-1, 2], code[0, 3] = torch.nan, torch.inf, 1e-20
    found = decode_direction(code, encoding)
    assert found[:, 1:3].isnan().all()
    torch.testing.assert_close(torch.linalg.vector_norm(found[:, [0, 3]], dim=0), torch.ones(2))


def test_another_encoding_or_number_of_channels_is_refused():
    with pytest.raises(InputError, match="found 'euler', expected one of angles, dyad"):
        EncodeDirectiond(encoding="euler")
    with pytest.raises(InputError, match="found 'euler'"):
        DecodeDirectiond("pred", encoding="euler")
    with pytest.raises(InputError, match="found 2 channels, expected 6 for dyad"):
        decode_direction(torch.zeros(2, 4), "dyad")
    data = {"peak": torch.zeros(9, *SHAPE), "white_matter": torch.ones(1, *SHAPE)}
    with pytest.raises(InputError, match="peak: found 9 volumes, expected the 3"):
        EncodeDirectiond()(data)


@pytest.fixture
def data(affine):
    """Axes within a mask of white matter within one of the brain; two voxels of it have no axis."""
    generator = torch.Generator().manual_seed(4)
    mask = (torch.rand((1, *SHAPE), generator=generator) > 0.3).float()
    white_matter = mask * (torch.rand((1, *SHAPE), generator=generator) > 0.4)
    peak = torch.randn((3, *SHAPE), generator=generator)
    peak = peak / torch.linalg.vector_norm(peak, dim=0)
    peak[(slice(None), *torch.nonzero(white_matter[0])[0])] = 0.0
    frame = {"affine": torch.tensor(affine)}
    arrays = {"mask": mask, "white_matter": white_matter, "peak": peak}
    return {key: MetaTensor(array, **frame) for key, array in arrays.items()}


@encodings
def test_the_target_is_the_code_in_white_matter_and_nan_elsewhere(data, encoding, affine):
    result = EncodeDirectiond(encoding=encoding)(data)
    label, peak = result["label"].as_tensor(), data["peak"].as_tensor()
    counts = (data["white_matter"][0].as_tensor() > 0) & (peak != 0).any(dim=0)
    assert 0 < counts.sum() < (data["white_matter"] > 0).sum()
    assert label.dtype == torch.float32
    assert label.shape == (CHANNELS[encoding], *SHAPE)
    torch.testing.assert_close(label[:, counts], encode_direction(peak[:, counts], encoding))
    assert label[:, ~counts].isnan().all()
    np.testing.assert_array_equal(result["label"].affine, affine)
    assert "label" not in data


@encodings
def test_decoding_undoes_encoding(data, encoding, affine):
    encoded = EncodeDirectiond(encoding=encoding)(data)
    encoded["pred"] = MetaTensor(torch.nan_to_num(encoded["label"].as_tensor(), 0.3), affine=torch.tensor(affine))
    decoded = DecodeDirectiond(["pred", "label"], encoding=encoding)(encoded)
    label, pred = (decoded[key].as_tensor() for key in ("label", "pred"))
    counts = ~encoded["label"].as_tensor().isnan().any(dim=0)
    for found in (label, pred):
        assert found.shape == (3, *SHAPE)
        assert angular_error(found[:, counts], data["peak"].as_tensor()[:, counts]).max() < 0.05
    # what does not count stays so in the target; a prediction is a unit vector in the brain and nothing outside
    assert label[:, ~counts].isnan().all()
    brain = data["mask"][0].as_tensor() > 0
    torch.testing.assert_close(torch.linalg.vector_norm(pred, dim=0), brain.float())
    np.testing.assert_array_equal(decoded["pred"].affine, affine)


def test_no_eigendecomposition_gets_more_matrices_than_solvers_take(monkeypatch):
    """In chunks the axes are the same, and stay in order."""
    code = torch.randn(6, 2 * MATRICES_AT_ONCE + 5, generator=torch.Generator().manual_seed(0))
    code[:, 7] = torch.nan
    once = decode_direction(code, "dyad")
    sizes, solve = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrices: sizes.append(len(matrices)) or solve(matrices))
    torch.testing.assert_close(decode_direction(code, "dyad"), once, atol=0, rtol=0, equal_nan=True)
    assert sizes == [MATRICES_AT_ONCE, MATRICES_AT_ONCE, 4]
    ends = torch.cat([code[:, :3], code[:, -3:]], dim=1)
    torch.testing.assert_close(
        torch.cat([once[:, :3], once[:, -3:]], dim=1), decode_direction(ends, "dyad"), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codes_in_half_precision_give_unit_vectors(dtype):
    code = torch.randn((6, *SHAPE), generator=torch.Generator().manual_seed(0)).to(dtype)
    found = DecodeDirectiond("pred")({"pred": code, "mask": torch.ones(1, *SHAPE)})["pred"]
    torch.testing.assert_close(torch.linalg.vector_norm(found, dim=0), torch.ones(SHAPE))
