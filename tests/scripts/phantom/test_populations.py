"""Fibre populations of phantoms: crossings in white matter, the frame of the subject, and the merge in a voxel."""

import numpy as np
import pytest
from phantom_fibres import LEFT, angles, assert_stated_truth, populations

from scripts.phantom import anatomy
from scripts.phantom.populations import MIN_FRACTION, fibre_populations, merge_populations


def axis_at(degrees, plane=(0, 1)) -> np.ndarray:
    """Unit vector at an angle to the first axis of a plane."""
    vector = np.zeros(3)
    vector[list(plane)] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vector


def test_crossings_are_a_share_of_white_matter(atlas, subjects, white):
    points = white.grid(2.4, 0.5)
    for bundles in (atlas, *subjects):
        nufo = (populations(points, bundles)[1] > 0).sum(axis=1)
        assert nufo.min() == 1
        assert 0.4 < (nufo >= 2).mean() < 0.7
        assert 0.04 < (nufo == 3).mean() < 0.2


@pytest.mark.parametrize("side", [2.4, 4.8])
def test_crossings_remain_in_voxels(side, subjects, white):
    """Clinical voxels of a life-size and of a half-size head, each with the populations of 24 places."""
    voxels = white.grid(7.1, 0.5)
    inside = side * (np.random.default_rng(0).random((len(voxels), 24, 3)) - 0.5)
    directions, fractions = populations((voxels[:, None] + inside).reshape(-1, 3), subjects[0])
    directions, fractions = merge_populations(directions.reshape(-1, 72, 3), fractions.reshape(-1, 72))
    assert_stated_truth(directions, fractions)
    assert 0.4 < ((fractions > 0).sum(axis=1) >= 2).mean() < 0.6


def test_truth_is_as_stated_everywhere(subjects, white):
    assert_stated_truth(*populations(white.grid(3.1, 0.05), subjects[0]))


def test_unvaried_brain_is_symmetric(atlas, white):
    points = white.grid(4.7, 0.3)
    directions, fractions = populations(points, atlas)
    mirrored, of_mirrored = populations(points * LEFT, atlas)
    np.testing.assert_allclose(np.quantile(np.abs(fractions - of_mirrored), 0.99), 0, atol=0.01)
    assert np.quantile(angles(directions[:, 0], mirrored[:, 0] * LEFT), 0.99) < 0.5


def test_directions_are_smooth(subjects, white):
    points = white.grid(4.0, 0.3)
    directions, _ = populations(points, subjects[0])
    for shift in np.eye(3):
        near, share = populations(points + shift, subjects[0])
        turn = np.where(share > 0, angles(directions[:, :1], near), 90).min(axis=1)
        assert np.median(turn) < 3
        assert np.quantile(turn, 0.95) < 15


def test_places_that_no_bundle_reaches_follow_those_around(atlas):
    alone = [bundle for bundle in atlas if bundle.name.startswith("cingulum_dorsal")]
    directions, fractions = populations([(60, -10, 37), (0, -10, 90)], alone)
    np.testing.assert_allclose(fractions, [[1, 0, 0], [1, 0, 0]])
    assert (angles(directions[:, 0], np.array([0.0, 1.0, 0.0])) < 35).all()


def test_fibres_follow_the_warp(subjects):
    """The warp takes a step along the subject's direction to a step along the template's direction."""
    generator = np.random.default_rng(1)
    warp = anatomy.sample_warp(generator, 0.5)
    points = 0.5 * generator.uniform(-50, 50, (400, 3))
    template, jacobian = warp.to_template(points), warp.jacobian(points)
    subject, shares = fibre_populations(template, jacobian, subjects[0])
    original, template_shares = populations(template, subjects[0])
    # the same bundle in both spaces: two bundles near MIN_ANGLE may be one population in one space, two in the other
    same = ((shares > 0) == (template_shares > 0)).all(axis=1) & (np.abs(shares - template_shares).max(axis=1) < 1e-5)
    pushed = np.einsum("nij,nj->ni", jacobian, subject[:, 0])
    pushed /= np.linalg.norm(pushed, axis=1, keepdims=True)
    assert same.sum() > 200
    assert np.median(angles(pushed, original[:, 0])[same]) < 0.3
    assert np.median(angles(subject[:, 0], original[:, 0])[same]) > 2


def test_a_shear_turns_fibres_by_the_known_angle(atlas):
    """Template z is scanner z + y. A fibre along template z runs along scanner z; one along template y slopes down."""
    sheared = np.eye(3)
    sheared[2, 1] = 1.0
    by_name = {bundle.name: bundle for bundle in atlas}
    place = np.array([[38.0, -26, 29]])
    template, _ = populations(place, [by_name["arcuate_right"]])
    directions, _ = fibre_populations(place, sheared[None], [by_name["arcuate_right"]])
    expected = template[0, 0] - np.array([0, 0, template[0, 0, 1]])
    assert angles(directions[0, 0], expected / np.linalg.norm(expected)) < 0.05


def test_places_are_independent_of_each_other(subjects, white):
    points = white.grid(9.0, 0.3)
    together, fractions = populations(points, subjects[0])
    for place in range(0, len(points), 40):
        alone, share = populations(points[place], subjects[0])
        np.testing.assert_allclose(share[0], fractions[place], atol=1e-5)
        assert (angles(alone[0], together[place])[share[0] > 0] < 0.1).all()
    directions, fractions = populations(np.zeros((0, 3)), subjects[0])
    assert (directions.shape, fractions.shape) == ((0, 3, 3), (0, 3))


class TestMerge:
    @staticmethod
    def merge(*weighted) -> tuple[np.ndarray, np.ndarray]:
        """Merge one voxel's pairs of an axis and a weight."""
        axes, weights = zip(*weighted, strict=True)
        directions, fractions = merge_populations(np.array(axes)[None], np.array(weights)[None])
        return directions[0], fractions[0]

    @pytest.mark.parametrize("sign", [1, -1])
    def test_two_at_20_degrees_are_one_at_their_mean(self, sign):
        directions, fractions = self.merge((axis_at(0), 3.0), (sign * axis_at(20), 1.0))
        np.testing.assert_allclose(fractions, [1, 0, 0])
        mean = 3 * axis_at(0) + axis_at(20)
        assert angles(directions[0], mean / np.linalg.norm(mean)) < 0.05
        assert not directions[1:].any()

    @pytest.mark.parametrize("sign", [1, -1])
    def test_two_at_60_degrees_stay(self, sign):
        directions, fractions = self.merge((axis_at(0), 1.0), (sign * axis_at(60), 3.0))
        np.testing.assert_allclose(fractions, [0.75, 0.25, 0])
        assert (angles(directions[:2], np.stack([axis_at(60), axis_at(0)])) < 0.05).all()

    def test_of_four_the_three_largest_stay(self):
        weighted = [(axis_at(0), 4.0), (axis_at(90), 3.0), (axis_at(90, (0, 2)), 2.0), (axis_at(45), 1.9)]
        directions, fractions = self.merge(*weighted)
        np.testing.assert_allclose(fractions, np.array([4, 3, 2]) / 9, rtol=1e-6)
        np.testing.assert_allclose(np.abs(directions), np.eye(3), atol=1e-6)

    def test_a_tiny_one_is_dropped(self):
        directions, fractions = self.merge((axis_at(0), 0.87), (axis_at(90), 0.13))
        np.testing.assert_allclose(fractions, [1, 0, 0])
        np.testing.assert_allclose(directions[1:], 0)
        assert self.merge((axis_at(0), 0.84), (axis_at(90), 0.16))[1][1] == pytest.approx(0.16)

    def test_groups_that_come_together_are_joined(self):
        """The axis at 0 takes the one at 25. The mean of the others, at 35, is within ``MIN_ANGLE`` of that group."""
        directions, fractions = self.merge(
            (axis_at(0), 4.0), (axis_at(25), 3.9), (axis_at(34), 1.0), (axis_at(36), 1.0)
        )
        np.testing.assert_allclose(fractions, [1, 0, 0])
        mean = 4 * axis_at(0) + 3.9 * axis_at(25) + axis_at(34) + axis_at(36)
        assert angles(directions[0], mean / np.linalg.norm(mean)) < 0.1

    def test_fanning_bundles_keep_their_shares(self):
        """Fans of 30 degrees about 0 and 50. The first group starts at the edge of a fan, near a part of the other."""
        first, second = np.linspace(15, -15, 12), np.linspace(35, 65, 12)
        directions, fractions = self.merge(*((axis_at(angle), 1.0) for angle in (*first, *second)))
        np.testing.assert_allclose(fractions, [0.5, 0.5, 0], atol=1e-6)
        order = np.argsort(np.abs(directions[:2, 1]))
        assert angles(directions[order], np.stack([axis_at(0), axis_at(50)])).max() < 0.1

    def test_no_weight_no_population(self):
        directions, fractions = merge_populations(np.ones((2, 5, 3)), np.zeros((2, 5)))
        assert not directions.any()
        assert not fractions.any()

    def test_sub_voxels_of_crossing_bundles(self):
        """Two bundles at 70 degrees, with scatter and of either sign, keep their fractions."""
        generator = np.random.default_rng(0)
        number, parts = 300, 24
        first = generator.random((number, parts)) < 0.6
        truth = np.stack([axis_at(0), axis_at(70)])
        axes = np.where(first[..., None], *truth) + 0.08 * generator.standard_normal((number, parts, 3))
        axes *= generator.choice([-1, 1], (number, parts, 1)) / np.linalg.norm(axes, axis=-1, keepdims=True)
        directions, fractions = merge_populations(axes, np.full((number, parts), 1 / parts))
        assert_stated_truth(directions, fractions)
        share = np.sort(np.stack([first.mean(axis=1), 1 - first.mean(axis=1)], axis=1), axis=1)[:, ::-1]
        np.testing.assert_allclose(fractions[:, :2], np.where(share[:, 1:] < MIN_FRACTION, (1, 0), share), atol=1e-5)
        largest = truth[(first.mean(axis=1) < 0.5).astype(int)]
        clear = np.abs(first.mean(axis=1) - 0.5) > 0.01
        assert angles(directions[clear, 0], largest[clear]).max() < 8

    def test_random_axes_end_as_stated(self):
        generator = np.random.default_rng(3)
        axes = generator.standard_normal((2000, 24, 3))
        weights = generator.exponential(size=(2000, 24)) * (generator.random((2000, 24)) < 0.4)
        axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
        directions, fractions = merge_populations(axes, weights)
        assert_stated_truth(directions, fractions)
        flipped, of_flipped = merge_populations(-axes, weights)
        np.testing.assert_allclose(fractions, of_flipped, atol=1e-5)
        assert np.median(angles(directions[:, 0], flipped[:, 0])) < 0.05

    def test_rotating_the_axes_rotates_the_populations(self):
        generator = np.random.default_rng(4)
        axes = generator.standard_normal((200, 6, 3))
        axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
        weights = generator.random((200, 6))
        rotation = np.linalg.qr(generator.standard_normal((3, 3)))[0]
        directions, fractions = merge_populations(axes, weights)
        turned, of_turned = merge_populations(axes @ rotation.T, weights)
        np.testing.assert_allclose(fractions, of_turned, atol=1e-4)
        np.testing.assert_allclose(angles(directions @ rotation.T, turned)[fractions > 0], 0, atol=0.1)
