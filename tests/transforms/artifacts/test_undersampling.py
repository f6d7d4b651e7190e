"""Undersampling: which directions are kept, and what the interpolation does to signals that are known."""

import logging

import numpy as np
import pytest
import torch
from artifact_scans import assert_uniform, generator, make_scan
from scipy.spatial.transform import Rotation

from transforms.artifacts import ScanInfo, Undersampling, UndersamplingParams
from transforms.diffusion.scheme import default_scheme
from transforms.diffusion.sh import n_coefficients, sh_basis, sh_interpolation_matrix, sh_order
from transforms.errors import InputError

SCHEME = default_scheme()


def drawn(measured, seed=0, channels=64):
    return Undersampling(measured=(measured, measured)).sample(generator(seed), (channels, 4, 5, 6))


@pytest.mark.parametrize("measured", [6, 7, 10, 15, 30, 63])
def test_what_is_kept_determines_a_fit_and_is_as_many_as_drawn_unless_that_does_not(measured):
    for seed in range(8):
        params = drawn(measured, seed)
        kept = params.kept(SCHEME)
        assert kept == sorted(set(kept))
        assert len(kept) >= measured
        sh_order(SCHEME[kept])  # raises what a scan with too few or badly spread directions gets
        if len(kept) > measured:
            assert measured < 10
        # signs say nothing of axes, and a turned scheme is spread like the scheme
        signs = np.where(torch.rand(64, generator=generator(seed)).numpy() < 0.5, -1.0, 1.0)
        assert params.kept(SCHEME * signs[:, None]) == kept
    assert len({tuple(drawn(measured, seed).kept(SCHEME)) for seed in range(8)}) > 6


def test_is_the_projects_own_interpolation_of_a_scan_with_the_kept_directions_alone(caplog):
    image, _ = make_scan(shape=(64, 3, 4, 5), dtype=torch.float64)
    for measured in (6, 14, 29, 50):
        params = drawn(measured, seed=measured)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            result = params.apply(image, ScanInfo(directions=SCHEME))
            # a warning per image of a training would say nothing
            assert not caplog.records
        kept = params.kept(SCHEME)
        expected = torch.tensordot(torch.from_numpy(sh_interpolation_matrix(SCHEME[kept], SCHEME)), image[kept], dims=1)
        torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)
        # what was not measured has no influence
        changed = image.clone()
        changed[np.setdiff1d(np.arange(64), kept)] = 7.0
        assert torch.equal(params.apply(changed, ScanInfo(directions=SCHEME)), result)


@pytest.mark.parametrize(("measured", "order"), [(7, 2), (20, 4), (40, 6), (56, 8)])
def test_a_signal_that_the_kept_directions_support_comes_back(measured, order):
    params = drawn(measured, seed=3)
    assert sh_order(SCHEME[params.kept(SCHEME)]) >= order
    coefficients = np.random.default_rng(0).normal(size=(n_coefficients(order), 5))
    signal = sh_basis(SCHEME, order) @ coefficients
    np.testing.assert_allclose(params.matrix(SCHEME, smoothing=0.0) @ signal, signal, atol=1e-9)
    # regularisation leaves the mean over directions as it is, and makes the rest smaller
    np.testing.assert_allclose(params.matrix(SCHEME) @ np.ones(64), 1.0, atol=1e-9)
    energies = [((m @ signal - (m @ signal).mean(axis=0)) ** 2).sum() for m in (np.eye(64), params.matrix(SCHEME))]
    assert energies[1] < energies[0]


def test_regularisation_makes_degree_two_smaller_by_its_known_factor():
    """``n / (n + 0.002 l^2 (l+1)^2)`` with n = N / (4 pi), for evenly spread axes (docs/design-decisions.md)."""
    params = drawn(63)
    signal = sh_basis(SCHEME, 2)[:, 1:]
    per_solid_angle = 63 / (4 * np.pi)
    factor = per_solid_angle / (per_solid_angle + 0.002 * 36)
    np.testing.assert_allclose(params.matrix(SCHEME) @ signal, factor * signal, atol=0.02 * abs(signal).max())


def test_an_axis_has_no_sign_and_a_turned_head_and_scheme_have_the_same_fit():
    params = drawn(12, seed=5)
    matrix = params.matrix(SCHEME)
    signs = np.where(torch.rand(64, generator=generator(1)).numpy() < 0.5, -1.0, 1.0)
    np.testing.assert_allclose(params.matrix(SCHEME * signs[:, None]), matrix, atol=1e-12)
    turn = Rotation.from_euler("xyz", [20, -35, 50], degrees=True)
    turned = turn.apply(SCHEME)
    assert params.kept(turned) == params.kept(SCHEME)
    np.testing.assert_allclose(params.matrix(turned), matrix, atol=1e-9)


def test_fewer_directions_lose_more_of_a_fibre_and_spread_more_noise():
    fibre = np.exp(-(0.3 + 1.4 * (SCHEME @ [0.6, 0.0, 0.8]) ** 2))
    matrices = {n: [drawn(n, seed).matrix(SCHEME) for seed in range(6)] for n in (6, 15, 30, 63)}
    errors = [np.mean([abs(m @ fibre - fibre).mean() for m in matrices[n]]) for n in matrices]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[-1]
    # noise of 64 independent volumes: its variance after the fit is at most that of a measured volume on average
    variances = [np.mean([(m**2).sum() / 64 for m in matrices[n]]) for n in (6, 63)]
    assert variances[0] > 1.3 * variances[1]


def test_draws_are_uniform_and_an_image_of_few_directions_keeps_what_it_has():
    undersampling, source = Undersampling(), generator(11)
    many = [undersampling.sample(source, (64, 3, 3, 3)) for _ in range(1500)]
    assert_uniform([p.measured + np.random.default_rng(i).random() for i, p in enumerate(many)], 6, 64)
    assert_uniform([p.order[0] for p in many], 0, 64)
    assert all(sorted(p.order) == list(range(64)) for p in many)
    image, _ = make_scan(shape=(5, 3, 4, 6))
    params = undersampling.sample(source, image.shape)
    assert params.is_identity
    assert params.apply(image) is image


def test_axes_near_a_plane_are_all_kept():
    """No subset of them determines a fit, so nothing is interpolated."""
    angles = np.linspace(0, np.pi, 9, endpoint=False)
    flat = np.stack([np.cos(angles), np.sin(angles), 0.05 * np.ones(9)], axis=1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    image, _ = make_scan(shape=(9, 3, 4, 5))
    params = drawn(6, channels=9)
    assert params.kept(flat) == list(range(9))
    assert torch.equal(params.apply(image, ScanInfo(directions=flat)), image)


def test_unusable_input_is_named():
    image, info = make_scan()
    with pytest.raises(InputError, match=r"^undersampling: found no directions, expected those of the scan"):
        drawn(6, channels=10).apply(image)
    with pytest.raises(InputError, match="found an order of 64 and 10 directions, expected 10 as in the image"):
        drawn(6).apply(image, info)
    for value in ([5, 20], [20, 10], [6.5, 20], 12, "many"):
        with pytest.raises(InputError, match=r"^measured: found .* expected"):
            Undersampling(measured=value)
    with pytest.raises(InputError, match=r"undersampling: found \['measured'\], expected \['measured', 'order'\]"):
        UndersamplingParams.from_dict({"artifact": "undersampling", "measured": 6})
