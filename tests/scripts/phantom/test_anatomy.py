"""Anatomy of phantom subjects: warps without folds, and tissue that does not depend on the grid."""

import numpy as np
import pytest

from scripts.phantom import acquisition, anatomy

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
AFFINE[:3, 3] = -81, -114, -75
SHAPE = (54, 66, 58)


def still(pull: float = 0.0) -> anatomy.Warp:
    """Warp that changes nothing except the ventricles, by ``pull``."""
    return anatomy.Warp(np.eye(3), np.eye(3), np.zeros((1, 3)), np.zeros(1), np.zeros((1, 3)), pull)


@pytest.mark.parametrize("size", [0.5, 1.0])
def test_warp_is_smooth_and_folds_nothing(size):
    points = size * np.random.default_rng(0).uniform(-90, 90, (500, 3))
    near_ventricles = size * (
        np.repeat(anatomy.VENTRICLES, 30, axis=0) + np.random.default_rng(1).normal(0, 9, (180, 3))
    )
    points = np.concatenate([points, near_ventricles])
    step = 1e-3 * size
    for seed in range(8):
        warp = anatomy.sample_warp(np.random.default_rng(seed), size)
        jacobian = warp.jacobian(points)
        assert (np.linalg.det(jacobian * size) > 0.15).all()
        for axis in range(3):
            shift = step * np.eye(3)[axis]
            slope = (warp.to_template(points + shift) - warp.to_template(points - shift)) / (2 * step)
            np.testing.assert_allclose(jacobian[:, :, axis], slope, atol=1e-5)


def test_warp_is_invertible():
    """Newton's iteration finds each scanner position from its template position, so there is no fold."""
    warp = anatomy.sample_warp(np.random.default_rng(3), 1.0)
    target = warp.to_template(np.random.default_rng(4).uniform(-70, 70, (200, 3)))
    guess = target @ np.linalg.inv(warp.linear).T
    for _ in range(60):
        guess -= np.linalg.solve(warp.jacobian(guess), (warp.to_template(guess) - target)[..., None])[..., 0]
    np.testing.assert_allclose(warp.to_template(guess), target, atol=1e-6)
    np.testing.assert_allclose(guess, np.random.default_rng(4).uniform(-70, 70, (200, 3)), atol=1e-4)


def test_a_pull_below_zero_is_larger_ventricles():
    near = [np.linalg.norm(anatomy.VENTRICLES - place, axis=1).min() for place in _world(SHAPE, AFFINE)]
    middle = np.array(near).reshape(SHAPE) < 15
    csf = [
        anatomy.sample_tissue(still(pull), SHAPE, AFFINE, 1, 3.0).fractions[2, middle].sum()
        for pull in (-0.35, 0, 0.15)
    ]
    assert csf[0] > 1.15 * csf[1] > 1.15 * 1.05 * csf[2]


def _world(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    return anatomy.world_points(np.argwhere(np.ones(shape)), affine)


def test_tissue_does_not_depend_on_the_order_of_the_axes():
    """Both grids have the same places: from left to right or right to left, inferior first or last."""
    warp = anatomy.sample_warp(np.random.default_rng(5), 1.0)
    ras = anatomy.sample_tissue(warp, SHAPE, AFFINE, 2, 1.5).fractions
    flipped = AFFINE @ np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] = AFFINE[:3, 3] + AFFINE[:3, 0] * (SHAPE[0] - 1)
    flipped = flipped[:, [2, 1, 0, 3]]
    other = anatomy.sample_tissue(warp, SHAPE[::-1], flipped, 2, 1.5).fractions
    np.testing.assert_allclose(np.swapaxes(other, 1, 3)[:, ::-1], ras, atol=1e-6)


def test_volumes_of_tissue_do_not_depend_on_the_voxels():
    """Coarse voxels hold the same tissue as fine ones, by partial volume."""
    warp = still()
    fine = anatomy.sample_tissue(warp, SHAPE, AFFINE, 3, 1.0).fractions.sum(axis=(1, 2, 3)) * 27
    coarse_affine = AFFINE @ np.diag([2.0, 2, 2, 1])
    coarse = anatomy.sample_tissue(warp, (28, 34, 30), coarse_affine, 6, 1.0).fractions.sum(axis=(1, 2, 3)) * 216
    np.testing.assert_allclose(coarse, fine, rtol=0.01)
    assert 1.8e6 < fine.sum() < 1.95e6  # mm3; the template's mask has 1.88e6
    assert 0.3 < fine[1] / fine.sum() < 0.4
    # some voxels are mixtures
    fractions = anatomy.sample_tissue(warp, SHAPE, AFFINE, 2, 1.5).fractions
    assert fractions.sum(axis=0).max() <= 1 + 1e-5
    assert 0.1 < ((fractions > 0.2).sum(axis=0) > 1).sum() / (fractions.sum(axis=0) > 0.5).sum() < 0.8


def test_the_coarse_search_misses_no_brain():
    warp = anatomy.sample_warp(np.random.default_rng(6), 0.5)
    affine = np.diag([1.25, 1.25, 1.25, 1.0])
    shape = (71, 85, 69)
    affine[:3, 3] = -44, -62, -38
    found = anatomy.sample_tissue(warp, shape, affine, 1, 2.5).fractions
    template = warp.to_template(_world(shape, affine))
    np.testing.assert_allclose(found, anatomy.tissue_at(template, 2.5).reshape(3, *shape), atol=1e-6)


def test_places_are_spread_evenly_in_their_voxels():
    where = anatomy.places((4, 5, 6), 2, np.array([0, 119]))
    np.testing.assert_allclose(where.mean(axis=1), [[0, 0, 0], [3, 4, 5]])
    assert {tuple(place) for place in np.abs(where[0])} == {(0.25, 0.25, 0.25)}
    assert len(np.unique(where[1], axis=0)) == 8


def test_t1w_grid_is_sagittal_and_around_the_head():
    shape, affine = acquisition.t1w_grid(1.0)
    corners = anatomy.world_points(np.array([(0, 0, 0), np.array(shape) - 1]), affine)
    # posterior-superior-right: y falls along the first axis, z rises along the second, x rises along the third
    np.testing.assert_allclose(corners[1] - corners[0], [shape[2] - 1, -(shape[0] - 1), shape[1] - 1])
    brain = [(-72, -107, -68), (72, 74, 84)]
    assert (corners.min(axis=0) < np.min(brain, axis=0)).all()
    assert (corners.max(axis=0) > np.max(brain, axis=0)).all()
