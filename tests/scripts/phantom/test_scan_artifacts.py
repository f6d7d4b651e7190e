"""Artifacts of a phantom scan: their ranges, their dependence on the gradients, and their record."""

import json
from dataclasses import replace

import numpy as np
import pytest
from phantom_scans import SHAPE, ball, blob, draw, gradient_table, middle, perfect, scanned, world

from scripts.phantom.artifacts import (
    AUXILIARY,
    CLINICAL,
    ScanArtifacts,
    from_record,
    record,
    sample_scan_artifacts,
)
from scripts.phantom.receive_field import receive_field
from scripts.phantom.scanner import head_gradients
from transforms.errors import InputError


def test_head_walks_from_its_first_pose_within_the_ranges():
    rotations, translations = [], []
    for seed in range(40):
        drawn = draw(seed=seed)
        for part in (drawn.rotation, drawn.translation):
            assert part.shape == (65, 3)
            assert not part[0].any()
        rotations.append(np.linalg.norm(drawn.rotation, axis=1).max())
        translations.append(np.linalg.norm(drawn.translation, axis=1).max())
        # a walk: a step between two volumes is far smaller than the excursion over the scan
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
    (no_moves, no_turns), (moves, turns) = found
    assert not no_moves.any()
    assert not no_turns.any()
    assert 0.01 < moves.mean() < 0.03
    assert (moves == turns).mean() > 0.99


def test_a_scan_of_one_volume_lies_still():
    drawn = draw(gradients=np.zeros((1, 4)))
    assert not drawn.rotation.any()
    assert not drawn.translation.any()
    assert not drawn.eddy.any()


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


def test_ghost_varies_a_little_from_volume_to_volume():
    for seed in range(20):
        amplitude = np.sin(draw(seed=seed).ghost_phase / 2)
        assert 0.009 <= amplitude.min() < amplitude.max() <= 0.066
        assert amplitude.max() / amplitude.min() < 1.25


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
    for name in ScanArtifacts.__dataclass_fields__:
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
        sample_scan_artifacts(np.random.default_rng(0), CLINICAL, **arguments)
