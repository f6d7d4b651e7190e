"""Signal of phantom tissue, against DIPY's simulation and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel, fractional_anisotropy
from dipy.sims.voxel import multi_tensor

from scripts.phantom import acquisition, signal

CONTRAST = signal.Contrast(
    b0=np.array([700.0, 600.0, 2000.0]),
    t1w=np.array([600.0, 800.0, 300.0]),
    stick=0.55,
    axial=1.7e-3,
    concentration=np.inf,
    gray=0.8e-3,
)
DISPERSED = replace(CONTRAST, concentration=9.0)


def gradients() -> np.ndarray:
    rows = [np.column_stack([acquisition.dispersed_directions(20), np.full(20, b)]) for b in (1000.0, 2000.0, 3000.0)]
    return np.concatenate([np.zeros((1, 4)), *rows])


def evaluate(tissue, rows, directions, weights, contrast=CONTRAST) -> np.ndarray:
    arrays = (np.array(part) for part in (tissue, rows, directions, weights))
    simulated = signal.TissueSignal(*arrays, contrast)
    return np.stack([simulated.at(row) for row in gradients()], axis=-1)


def dipy_signal(tissue, directions, weights) -> np.ndarray:
    """Signal of the same mixture as tensors: a stick and a zeppelin per population, and two balls."""
    eigenvalues, axes, shares = [], [], []
    for direction, weight in zip(directions, weights, strict=True):
        for radial, part in ((0.0, CONTRAST.stick), (CONTRAST.radial, 1 - CONTRAST.stick)):
            eigenvalues.append([CONTRAST.axial, radial, radial])
            axes.append(direction)
            shares.append(CONTRAST.b0[1] * tissue[1] * weight * part)
    for index, diffusivity in ((0, CONTRAST.gray), (2, signal.CSF_DIFFUSIVITY)):
        eigenvalues.append([diffusivity] * 3)
        axes.append(np.array([0.0, 0, 1]))
        shares.append(CONTRAST.b0[index] * tissue[index])
    total = sum(shares)
    percent = 100 * np.array(shares) / total
    table = gradient_table(gradients()[:, 3], bvecs=gradients()[:, :3])
    return multi_tensor(table, np.array(eigenvalues), S0=total, angles=axes, fractions=percent, snr=None)[0]


def axis(*vector: float) -> np.ndarray:
    return np.array(vector) / np.linalg.norm(vector)


@pytest.mark.parametrize(
    ("tissue", "directions", "weights"),
    [
        ((0.0, 1.0, 0.0), [axis(1, 2, -1)], [1.0]),
        ((0.2, 0.7, 0.1), [axis(1, 0, 0), axis(-0.2, 1, 0.4)], [0.6, 0.4]),
        ((0.1, 0.85, 0.05), [axis(0, 0, 1), axis(1, 0.3, 0), axis(0.1, -1, 0.5)], [0.5, 0.3, 0.2]),
    ],
)
def test_signal_is_dipys_multi_tensor(tissue, directions, weights):
    found = evaluate(np.array([tissue]).T, [0], [directions], [weights])[0]
    np.testing.assert_allclose(found, dipy_signal(tissue, directions, weights), rtol=2e-5, atol=5e-3)


def test_voxels_with_and_without_fibres_keep_their_places():
    tissue = np.array([(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (0.25, 0.5, 0.25)]).T
    directions = np.array([[axis(1, 1, 0), axis(0, 0, 0.001)], [axis(0, 1, 0), axis(0, 0, 1)]])
    weights = np.array([[1.0, 0.0], [0.3, 0.7]])
    found = evaluate(tissue, [1, 3], directions, weights)
    b = gradients()[:, 3]
    np.testing.assert_allclose(found[0], 700 * np.exp(-b * 0.8e-3), rtol=1e-5)
    np.testing.assert_allclose(found[2], 2000 * np.exp(-b * 3e-3), rtol=1e-5)
    np.testing.assert_allclose(found[1], dipy_signal(tissue[:, 1], directions[0, :1], [1.0]), rtol=2e-5, atol=5e-3)
    np.testing.assert_allclose(found[3], dipy_signal(tissue[:, 3], directions[1], weights[1]), rtol=2e-5, atol=5e-3)


def test_a_voxel_is_the_mean_of_its_places():
    """The mean signal of two places with one population each is that of a voxel with both."""
    first, second = axis(1, 0, 0), axis(0.2, 1, 0)
    places = evaluate(np.array([(0.0, 1, 0), (0.0, 1, 0)]).T, [0, 1], [[first], [second]], [[1.0], [1.0]])
    voxel = evaluate(np.array([(0.0, 1, 0)]).T, [0], [[first, second]], [[0.5, 0.5]])
    np.testing.assert_allclose(voxel[0], places.mean(axis=0), rtol=1e-5)


def test_dispersed_fibres_are_the_mean_over_their_axes():
    """The reference is DIPY's mixture of a thousand fibres about an axis, weighted by the Watson distribution."""
    mean = axis(1, -2, 0.5)
    polar, share = np.polynomial.legendre.leggauss(40)
    azimuth = np.arange(24) * 2 * np.pi / 24
    first = np.linalg.svd(mean[None])[2][1:]
    sine = np.sqrt(1 - polar**2)[:, None, None]
    around = np.cos(azimuth)[:, None] * first[0] + np.sin(azimuth)[:, None] * first[1]
    axes = (polar[:, None, None] * mean + sine * around).reshape(-1, 3)
    weights = np.repeat(share * np.exp(DISPERSED.concentration * polar**2), 24)
    expected = dipy_signal((0.0, 1.0, 0.0), axes, weights / weights.sum())
    found = evaluate(np.array([(0.0, 1.0, 0.0)]).T, [0], [[mean]], [[1.0]], DISPERSED)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_one_population_has_the_anisotropy_of_the_callosum():
    """Studies of adults at b = 1000 measure 0.68 in the genu and 0.73 in the splenium (docs/phantom.md)."""
    found = evaluate(np.array([(0.0, 1.0, 0.0)]).T, [0], [[axis(1, 0, 0)]], [[1.0]], DISPERSED)[0]
    table = gradient_table(gradients()[:21, 3], bvecs=gradients()[:21, :3])
    fit = TensorModel(table).fit(found[:21])
    assert 0.62 < fractional_anisotropy(fit.evals) < 0.75
    assert 0.65e-3 < fit.md < 0.85e-3
    assert abs(fit.directions[0] @ axis(1, 0, 0)) > 0.9999


def test_signal_decays_slower_than_a_tensor_at_high_b():
    """Sticks keep signal across fibres at b = 3000: the kurtosis of white matter, which a single tensor lacks."""
    found = evaluate(np.array([(0.0, 1.0, 0.0)]).T, [0], [[axis(0, 0, 1)]], [[1.0]])[0]
    mean = [found[gradients()[:, 3] == b].mean() for b in (0.0, 1000.0, 2000.0, 3000.0)]
    slopes = -np.diff(np.log(mean))
    assert slopes[0] > 1.3 * slopes[1] > 1.3 * 1.1 * slopes[2]


def test_contrasts_are_those_of_their_sequences():
    gray, white, csf = signal.spin_echo(0.0895, 5.52)
    assert csf > 2 * gray > 2.5 * white  # T2-weighted
    gray, white, csf = signal.spoiled_gradient_echo(25.0, 0.018)
    assert white > 1.2 * gray > 1.5 * csf  # T1-weighted
    # at the Ernst angle of a tissue, its signal is at its maximum
    ernst = np.degrees(np.arccos(np.exp(-0.018 / signal.T1)))
    for index in range(3):
        beside = [signal.spoiled_gradient_echo(ernst[index] + d, 0.018)[index] for d in (-1.0, 0.0, 1.0)]
        assert beside[1] == max(beside)
    # fully relaxed and unweighted, both show the water
    np.testing.assert_allclose(signal.spin_echo(0.0, 1e3), signal.WATER_CONTENT)
    np.testing.assert_allclose(signal.spoiled_gradient_echo(90.0, 1e3), signal.WATER_CONTENT)


def test_subjects_differ_in_contrast_within_bounds():
    drawn = [
        signal.sample_contrast(np.random.default_rng(seed), np.array([1.2, 1, 3.5]), np.array([0.75, 1, 0.4]))
        for seed in range(20)
    ]
    b0 = np.array([contrast.b0 for contrast in drawn])
    assert (np.abs(b0 / [720, 600, 2100] - 1) <= 0.1).all()
    assert b0.std(axis=0).min() > 15
    assert all(contrast.t1w[1] > contrast.t1w[0] > contrast.t1w[2] for contrast in drawn)
    assert all(0.5 <= contrast.stick <= 0.6 and 1.6e-3 < contrast.axial < 1.8e-3 for contrast in drawn)
