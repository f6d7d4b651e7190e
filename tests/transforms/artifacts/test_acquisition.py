"""A whole acquisition: noise, ghost and eddy currents against closed forms, motion against a turned signal."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from artifact_scans import LINEAR, assert_uniform, blob, centre_of_mass, generator, make_scan
from scipy import special

from transforms.artifacts import Acquisition, AcquisitionParams, MotionParams, ScanInfo
from transforms.artifacts.motion import rotation_matrix
from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError

SCHEME = default_scheme()


def perfect(n=7, axis=1, **changes):
    """Parameters of an acquisition without artifacts, except for ``changes``."""
    zeros = [[0.0] * 3] * n
    nothing = AcquisitionParams(axis, zeros, zeros, [[0.0] * 3] * 4, [[0.0] * 6] * 4, [], 0.0, 0.0, 1)
    return replace(nothing, **changes)


def flat(value, shape, b0=100.0, directions=None):
    """Image of one attenuation everywhere, and its scan."""
    constant = torch.full((1, *shape[1:]), b0)
    directions = SCHEME[: shape[0]] if directions is None else directions
    return torch.full(shape, value), ScanInfo(None, directions, constant, torch.ones_like(constant))


@pytest.mark.parametrize("ratio", [1.0, 3.0, 10.0])
def test_noise_is_rician(ratio):
    """Mean and variance of the magnitude of a Gaussian vector (Rice; Gudbjartsson and Patz, MRM 34:910, 1995)."""
    signal = torch.full((40, 41, 39, 8), 5.0)
    sigma = torch.tensor(5.0 / ratio)
    noisy = perfect(snr=1.0)._magnitude(signal, sigma, seed=4).double()
    half = ratio**2 / 4
    laguerre = (1 + 2 * half) * special.ive(0, half) + 2 * half * special.ive(1, half)
    mean = float(sigma) * np.sqrt(np.pi / 2) * laguerre
    variance = 2 * float(sigma) ** 2 + 25.0 - mean**2
    n = noisy.numel()
    assert float(noisy.mean()) == pytest.approx(mean, abs=5 * np.sqrt(variance / n))
    assert float(noisy.var()) == pytest.approx(variance, rel=5 * np.sqrt(3 / n))


def test_noise_is_relative_to_the_b0_in_the_mask():
    image, info = flat(0.5, (60, 20, 21, 19), b0=200.0)
    mask = torch.zeros_like(info.b0)
    mask[:, :10] = 1
    b0 = torch.where(mask > 0, info.b0, 1000.0)
    result = perfect(60, snr=20.0).apply(image, replace(info, b0=b0, mask=mask))
    # attenuation is a quotient: the variances of signal and b0 add, that of b0 times the squared attenuation
    expected = np.sqrt(1 + 0.5**2) / 20
    assert float(result[:, :10].std()) == pytest.approx(expected, rel=0.03)
    assert float(result[:, 10:].std()) == pytest.approx(expected / 5, rel=0.03)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("n", [16, 18])
def test_the_n2_ghost_is_half_a_field_of_view_away_along_phase_encoding(axis, n):
    shape, place, phase = [9, 10, 11], [3, 4, 5], 40.0
    shape[axis] = n
    volume = torch.zeros(*shape, 1, dtype=torch.float64)
    volume[tuple(place)] = 2.0
    result = perfect(axis=axis, ghost_phase=phase)._magnitude(volume, torch.tensor(0.0), 0)[..., 0]
    expected = torch.zeros(*shape, dtype=torch.float64)
    expected[tuple(place)] = 2 * np.cos(np.radians(phase / 2))
    place[axis] += n // 2
    expected[tuple(place)] = 2 * np.sin(np.radians(phase / 2))
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("linear", LINEAR.values(), ids=LINEAR)
def test_opposite_gradients_are_displaced_oppositely(linear):
    drawn = Acquisition().sample(generator(3), (2, 20, 20, 20))
    g = np.array([0.48, -0.6, 0.64])
    eddy = drawn.eddy(np.array([g, -g]))
    for name, rest in (("stretch", 1.0), ("shift", 0.0), ("shear_x", 0.0), ("shear_z", 0.0)):
        there, back = np.array(getattr(eddy, name)) - rest
        assert there == pytest.approx(-back, abs=1e-12)
        assert there != 0
    twice = drawn.eddy(np.array([2 * g]))
    assert twice.shift[0] == pytest.approx(2 * eddy.shift[0])
    # and so is the image: the centre of a blob moves to either side
    affine = np.eye(4)
    affine[:3, :3] = linear
    volume = blob((21, 27, 23), (2.0, -3.0, 1.0))
    moved = eddy.apply(torch.cat([volume, volume]), ScanInfo(affine))
    (x, first, _), (_, second, _) = centre_of_mass(moved[0]), centre_of_mass(moved[1])
    assert x == pytest.approx(2.0, abs=0.01)
    assert first + second == pytest.approx(-6.0, abs=0.05)
    assert abs(first + 3.0) > 0.1


def test_the_quadratic_part_is_the_same_for_opposite_gradients():
    drawn = perfect(eddy_quadratic=[[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]] * 4)
    x, y, z = g = np.array([0.48, -0.6, 0.64])
    expected = 0.1 * x * x + 0.2 * y * y + 0.3 * z * z + 0.4 * x * y + 0.5 * x * z + 0.6 * y * z
    np.testing.assert_allclose(drawn.eddy(np.array([g, -g])).shift, [expected] * 2)


def test_eddy_currents_conserve_mass():
    volume = blob((17, 101, 18), (0.2, -0.5, 0.5), (1.5, 8.0, 1.5)).expand(7, -1, -1, -1)
    info = ScanInfo(None, SCHEME[:7], torch.ones(1, 17, 101, 18), torch.ones(1, 17, 101, 18))
    drawn = Acquisition().sample(generator(0), volume.shape)
    result = drawn.eddy(SCHEME[:7]).apply(volume, info)
    np.testing.assert_allclose(result.sum((1, 2, 3)), volume.sum((1, 2, 3)), rtol=1e-3)


def single_fibre(directions, axis):
    """Attenuation of one fibre along ``axis``, an axially symmetric tensor, b = 1000 s/mm2."""
    return np.exp(-1000 * (0.3e-3 + 1.4e-3 * (directions @ axis) ** 2))


@pytest.mark.parametrize("fibres", [[(0.6, 0.64, 0.48)], [(0.6, 0.64, 0.48), (0.8, -0.6, 0.0)]], ids=["one", "two"])
@pytest.mark.parametrize("degrees", [(0.0, 0.0, 15.0), (10.0, 0.0, 0.0), (8.0, -12.0, 20.0)])
def test_a_turned_head_has_the_signal_of_its_turned_fibres(degrees, fibres):
    """The head is one piece of fibres, and turns as a whole."""
    rotation = rotation_matrix(degrees)
    at_rest, turned = (
        np.mean([single_fibre(SCHEME, matrix @ fibre) for fibre in fibres], axis=0) for matrix in (np.eye(3), rotation)
    )
    change = perfect(64, degrees=[list(degrees)] * 64).turned_signal(SCHEME) @ at_rest - at_rest
    assert np.abs(turned - at_rest).max() > 0.03
    assert np.abs(change - (turned - at_rest)).max() < 0.01 * np.abs(turned - at_rest).max()


def test_directions_that_determine_little_have_a_series_of_lower_order():
    """45 axes are enough for order 8 by number, but random ones determine it badly."""
    random = torch.randn(45, 3, generator=generator(3), dtype=torch.float64).numpy()
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    matrix = perfect(45, degrees=[[1.0, 0.0, 0.0]] * 45).turned_signal(random)
    assert np.linalg.norm(matrix - np.eye(45), 2) < 2


def test_a_volume_that_does_not_turn_keeps_its_signal_exactly():
    drawn = perfect(64, degrees=[[0.0] * 3] * 40 + [[5.0, 0.0, 0.0]] + [[0.0] * 3] * 23)
    matrix = drawn.turned_signal(SCHEME)
    np.testing.assert_array_equal(np.delete(matrix, 40, axis=0), np.delete(np.eye(64), 40, axis=0))
    assert np.abs(matrix[40] - np.eye(64)[40]).max() > 0.01


@pytest.mark.parametrize("linear", LINEAR.values(), ids=LINEAR)
def test_each_volume_is_resampled_where_its_head_is(linear):
    """The result is that of motion in one position."""
    image, info = make_scan(linear, (11, 14, 19, 12))
    source = generator(8)
    degrees = (10 * torch.randn(11, 3, generator=source)).tolist()
    translation = (3 * torch.randn(11, 3, generator=source)).tolist()
    moved = perfect(11, degrees=degrees, translation=translation)._moved(image.movedim(0, -1).contiguous(), info)
    for c in range(11):
        alone = MotionParams([degrees[c]], [translation[c]], [], 0).apply(image[c : c + 1], info)
        torch.testing.assert_close(moved[..., c], alone[0], atol=1e-4, rtol=0)


def test_dropout_weakens_one_slice_of_one_direction():
    for axis, slice_axis in ((0, 2), (1, 2), (2, 1)):
        image, info = flat(0.5, (7, 8, 9, 10))
        result = perfect(axis=axis, dropout=[[3, 6, 0.2]]).apply(image, info)
        expected = torch.full_like(image, 0.5)
        expected[3].narrow(slice_axis, 6, 1).fill_(0.1)
        torch.testing.assert_close(result, expected)
    with pytest.raises(InputError, match="found dropout in direction 3, slice 10, expected less than 7 and 10"):
        perfect(dropout=[[3, 10, 0.2]]).apply(image, info)


def test_a_receive_field_cancels():
    """The field multiplies all volumes alike: as long as nothing moves, it cancels in the attenuation."""
    image, info = make_scan(shape=(7, 12, 13, 11))
    drawn = perfect(dropout=[[2, 3, 0.4]])
    ramp = torch.linspace(0.5, 2.0, 12).reshape(1, 12, 1, 1)
    torch.testing.assert_close(drawn.apply(image, replace(info, b0=info.b0 * ramp)), drawn.apply(image, info))


def test_the_walk_of_the_head_and_the_other_draws():
    acquisition, source = Acquisition(rotation_step=(0.2, 0.2), translation_step=(0.5, 0.5)), generator(1)
    drawn = [acquisition.sample(source, (64, 10, 11, 30)) for _ in range(300)]
    for name, step in (("degrees", 0.2), ("translation", 0.5)):
        walks = np.array([getattr(p, name) for p in drawn])
        steps = np.diff(walks, axis=1, prepend=0)
        assert steps.std() == pytest.approx(step, rel=0.02)
        # the variance of a walk grows with its length
        assert walks[:, -1].std() == pytest.approx(step * 8, rel=0.1)
        assert abs(np.corrcoef(steps[:, :-1].ravel(), steps[:, 1:].ravel())[0, 1]) < 0.02
    assert_uniform([p.ghost_phase for p in drawn], 0, 12)
    assert_uniform([p.snr for p in drawn], 15, 40)
    lost = np.array([len(p.dropout) for p in drawn]) / (64 * 30)
    assert lost.mean() == pytest.approx(0.01, abs=0.002)
    entries = np.array([entry for p in drawn for entry in p.dropout])
    assert entries[:, 0].max() == 63
    assert entries[:, 1].max() == 29
    assert_uniform(entries[:, 2], 0, 0.7)
    linear = np.array([p.eddy_linear for p in drawn])
    np.testing.assert_allclose(linear.std((0, 2)), [0.03, 1.0, 0.03, 0.03], rtol=0.15)


def test_what_is_missing_is_named():
    image, info = make_scan()
    with pytest.raises(InputError, match="found no directions, b0 or mask, expected those of the scan"):
        perfect(snr=10.0).apply(image, replace(info, b0=None))
    with pytest.raises(InputError, match="found 6 positions and 10 directions, expected 10 as in the image"):
        perfect(6, snr=10.0).apply(image, info)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("axis", 3),
        ("rotation_step", [-1, 1]),
        ("translation_step", 1),
        ("eddy_shift", -1.0),
        ("eddy_quadratic", "much"),
        ("dropout", [0.5, 1.5]),
        ("dropout_factor", [0.5]),
        ("ghost_phase", None),
        ("snr", [0, 10]),
    ],
)
def test_unusable_arguments_are_named(argument, value):
    with pytest.raises(InputError, match=f"^{argument}: found .* expected"):
        Acquisition(**{argument: value})
