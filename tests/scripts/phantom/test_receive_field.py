"""Receive field of phantoms: its mean and strength in the brain, and its place in the scan."""

from dataclasses import replace

import numpy as np
import pytest
from phantom_scans import EDDY, POSE, SHAPE, ball, blob, middle, perfect, scanned

from scripts.phantom.receive_field import receive_field, sample_receive_field


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
    artifacts = perfect(eddy=EDDY, centre=middle(affine), **POSE)
    volume = blob(affine, middle(affine)) / 2
    field = receive_field(coefficients, SHAPE)
    result = scanned(volume, replace(artifacts, bias=coefficients), affine)
    np.testing.assert_allclose(result, scanned(volume, artifacts, affine) * field, atol=1.5)


def test_ghost_is_one_of_what_the_coil_receives():
    coefficients = sample_receive_field(np.random.default_rng(2), ball(), 0.3)
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[:, 2:10] = 10000
    result = scanned(volume, perfect(bias=coefficients, ghost_phase=np.array([0.6])))
    ghost = np.sin(0.3) * (volume * receive_field(coefficients, SHAPE))[:, 2:10]
    np.testing.assert_allclose(result[:, 18:26], ghost, atol=1)
