"""Fibre bundles of the phantoms: where the atlases of the brain have them, each subject's own, and crossing."""

import json

import numpy as np
import pytest
from nilearn.datasets import load_mni152_wm_template
from scipy import ndimage

from scripts.cohort.phantom import anatomy, fibres
from scripts.cohort.phantom.fibres import MIN_ANGLE, MIN_FRACTION, Bundle, fibre_populations, merge_populations

LEFT = np.array([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def entries() -> list[dict]:
    return json.loads(fibres.ATLAS.read_text(encoding="utf-8"))["bundles"]


@pytest.fixture(scope="module")
def atlas() -> list[Bundle]:
    return fibres.atlas_bundles()


@pytest.fixture(scope="module")
def subjects() -> list[list[Bundle]]:
    return [fibres.sample_bundles(np.random.default_rng(seed)) for seed in (1, 2)]


class WhiteMatter:
    """White matter of the template at places in MNI mm."""

    def __init__(self) -> None:
        image = load_mni152_wm_template(resolution=1)
        self.map = image.get_fdata(dtype=np.float32)
        self.tolerant = ndimage.maximum_filter(self.map, 3)
        self.origin = image.affine[:3, 3]

    def at(self, points, tolerant=False) -> np.ndarray:
        return ndimage.map_coordinates(self.tolerant if tolerant else self.map, (points - self.origin).T, order=1)

    def grid(self, spacing, threshold) -> np.ndarray:
        """Points ``spacing`` mm apart in white matter, ``(N, 3)``."""
        axes = [np.arange(low, high, spacing) for low, high in ((-75, 75), (-107, 75), (-72, 85))]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return points[self.at(points) > threshold]


@pytest.fixture(scope="module")
def white() -> WhiteMatter:
    return WhiteMatter()


def populations(points, bundles) -> tuple[np.ndarray, np.ndarray]:
    """Populations in template space."""
    points = np.atleast_2d(np.asarray(points, dtype=float))
    return fibre_populations(points, np.broadcast_to(np.eye(3), (len(points), 3, 3)), bundles)


def angles(first, second) -> np.ndarray:
    """Angles in degrees between axes ``(..., 3)``."""
    cosine = np.abs(np.sum(first.astype(np.float64) * second, axis=-1))
    return np.degrees(np.arccos(np.minimum(cosine, 1)))


def axis_at(degrees, plane=(0, 1)) -> np.ndarray:
    """Unit vector at an angle to the first axis of a plane."""
    vector = np.zeros(3)
    vector[list(plane)] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vector


def assert_stated_truth(directions, fractions) -> None:
    """Populations are apart, none is too small, the largest is first."""
    there = fractions > 0
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), there, atol=1e-5)
    np.testing.assert_allclose(fractions.sum(axis=1), there.any(axis=1), atol=1e-5)
    assert (np.diff(fractions, axis=1) <= 0).all()
    assert fractions[there].min() >= MIN_FRACTION
    for first, second in ((0, 1), (0, 2), (1, 2)):
        both = there[:, first] & there[:, second]
        assert angles(directions[both, first], directions[both, second]).min(initial=90) > MIN_ANGLE - 0.01


class TestAtlas:
    def test_has_the_great_bundles(self, entries):
        names = [entry["name"] for entry in entries]
        assert len(set(names)) == len(names) >= 20
        for part in (
            *("genu", "body", "splenium", "corticospinal", "cingulum", "arcuate", "superior_longitudinal"),
            *("inferior_longitudinal", "inferior_fronto_occipital", "uncinate", "optic_radiation"),
            *("anterior_thalamic", "superior_thalamic", "posterior_thalamic"),
            *("superior_cerebellar", "middle_cerebellar", "inferior_cerebellar"),
        ):
            assert any(part in name for name in names), part

    def test_numbers_make_sense(self, entries):
        for entry in entries:
            assert 2 <= entry["radius"] <= 10, entry["name"]
            assert len(entry["fanning"]) == 2
            assert min(entry["fanning"]) >= 1, entry["name"]
            for line in map(np.array, entry["lines"]):
                assert line.shape[0] >= 3
                if entry["sides"] == "midline":
                    assert line[0, 0] == 0
                    assert (line[1:, 0] > 0).all()
                    assert entry["fanning"][0] == entry["fanning"][1]
                else:
                    assert entry["sides"] == "both"
                    assert (line[:, 0] > 0).all()

    def test_left_mirrors_right(self, atlas):
        by_name = {bundle.name: bundle for bundle in atlas}
        assert len(by_name) == len(atlas)
        for name, bundle in by_name.items():
            if name.endswith("_right"):
                left = by_name[name.replace("_right", "_left")]
                np.testing.assert_allclose(left.points, bundle.points * LEFT, atol=1e-9)
                np.testing.assert_allclose(left.radii, bundle.radii)
            elif not name.endswith("_left"):
                mirrored = bundle.points * LEFT
                gap = np.linalg.norm(bundle.points[:, None] - mirrored, axis=-1).min(axis=1)
                np.testing.assert_allclose(gap, 0, atol=1e-6)

    def test_sampling(self, atlas):
        for bundle in atlas:
            np.testing.assert_allclose(np.linalg.norm(bundle.tangents, axis=1), 1)
            steps = np.diff(bundle.points, axis=0)
            length = np.linalg.norm(steps, axis=1)
            within = length < 2 * fibres.STEP  # not from one line to the next
            assert 0.7 * fibres.STEP < np.median(length[within]) <= 1.1 * fibres.STEP
            along = np.sum(steps * (bundle.tangents[:-1] + bundle.tangents[1:]), axis=1)[within] / 2
            assert (along > 0.9 * length[within]).all()
            growth = np.diff(np.log(bundle.radii))[within] / length[within]
            np.testing.assert_allclose((bundle.flare[:-1] + bundle.flare[1:])[within] / 2, growth, atol=4e-3)

    def test_bundles_grow_by_their_fanning(self, atlas):
        for spec, bundle in zip(fibres.atlas(), atlas, strict=True):
            assert bundle.radii[0] == pytest.approx(spec.radius * spec.fanning[0])
            assert bundle.radii[-1] == pytest.approx(spec.radius * spec.fanning[1])
            assert bundle.radii.min() == pytest.approx(spec.radius)
            assert bundle.flare[0] <= 0 <= bundle.flare[-1]

    def test_centre_lines_lie_in_white_matter(self, atlas, subjects, white):
        shares = {bundle.name: (white.at(bundle.points, tolerant=True) > 0.3).mean() for bundle in atlas}
        # the template's map hardly has the white matter of the midbrain's roof
        outside = {name: share for name, share in shares.items() if share < (0.6 if "superior_cereb" in name else 0.85)}
        assert not outside
        assert np.mean(list(shares.values())) > 0.95
        for bundles in subjects:
            points = np.concatenate([bundle.points for bundle in bundles])
            assert (white.at(points, tolerant=True) > 0.3).mean() > 0.9


@pytest.mark.parametrize(
    ("place", "direction"),
    [
        pytest.param((0, 4, 24), (1, 0, 0), id="body of the callosum"),
        pytest.param((0, -20, 25), (1, 0, 0), id="posterior body of the callosum"),
        pytest.param((0, 29, 5), (1, 0, 0), id="genu"),
        pytest.param((0, -38, 12), (1, 0, 0), id="splenium"),
        pytest.param((23, -16, 3), (0.2, 0, 1), id="posterior limb of the internal capsule"),
        pytest.param((12, -18, -20), (0.4, 0.2, 1), id="cerebral peduncle"),
        pytest.param((4, -42, -66), (0, 0.35, 1), id="pyramid"),
        pytest.param((9, -20, 37), (0, 1, 0), id="cingulum"),
        pytest.param((22, -36, -10), (0.2, 0.7, -0.7), id="parahippocampal cingulum"),
        pytest.param((34, -20, 35), (0, 1, 0), id="superior longitudinal"),
        pytest.param((38, -26, 29), (0, 1, 0), id="arcuate"),
        pytest.param((41, -46, 9), (0.3, 0, -1), id="arcuate turning down"),
        pytest.param((40, -40, -13), (0, 1, -0.25), id="inferior longitudinal"),
        pytest.param((36, -54, 3), (-0.2, -1, 0.1), id="optic radiation"),
        pytest.param((20, 24, 8), (0, 1, 0.1), id="anterior limb of the internal capsule"),
        pytest.param((35, 4, -22), (0.2, -0.3, -1), id="uncinate"),
        pytest.param((20, -44, -36), (0.3, -1, -0.1), id="middle cerebellar peduncle"),
        pytest.param((7, -43, -25), (-0.2, 0.7, 0.7), id="superior cerebellar peduncle"),
    ],
)
def test_bundles_run_as_in_a_brain(place, direction, atlas):
    side = np.array([1.0, 1.0, 1.0])
    for mirror in (side, LEFT):
        directions, _ = populations(place * mirror, atlas)
        assert angles(directions[0, 0], direction * mirror / np.linalg.norm(direction)) < 20


def test_transverse_fibres_cross_the_pyramidal_tract_in_the_pons(atlas):
    directions, fractions = populations((0, -18, -31), atlas)
    assert (fractions[0] > 0).sum() == 2
    assert sorted(np.abs(directions[0, :2]).argmax(axis=-1)) == [0, 2]


def test_bundles_cross_in_the_centrum_semiovale(atlas, subjects):
    directions, fractions = populations([(30, -16, 36), (-30, -16, 36)], atlas)
    assert (fractions > 0).sum(axis=1).tolist() == [3, 3]
    # one runs across, one up, one from back to front
    np.testing.assert_array_equal(np.sort(np.abs(directions).argmax(axis=-1), axis=1), [[0, 1, 2], [0, 1, 2]])
    around = np.stack(np.meshgrid([28, 30, 32], [-20, -16, -12], [34, 36, 38]), axis=-1).reshape(-1, 3)
    for bundles in subjects:
        assert ((populations(around, bundles)[1] > 0).sum(axis=1) == 3).any()


def test_crossings_are_a_share_of_white_matter(atlas, subjects, white):
    points = white.grid(2.4, 0.5)
    for bundles in (atlas, *subjects):
        number = (populations(points, bundles)[1] > 0).sum(axis=1)
        assert number.min() == 1
        assert 0.4 < (number >= 2).mean() < 0.7
        assert 0.04 < (number == 3).mean() < 0.2


@pytest.mark.parametrize("side", [2.4, 4.8])
def test_crossings_remain_in_voxels(side, subjects, white):
    """Clinical voxels of a life-size and of a half-scale head, each the populations of 24 places in it."""
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


class TestSubjects:
    def test_same_seed_same_bundles(self, subjects):
        for first, again in zip(subjects[0], fibres.sample_bundles(np.random.default_rng(1)), strict=True):
            np.testing.assert_array_equal(first.points, again.points)
            assert first.strength == again.strength

    def test_bundles_stray_by_a_few_mm(self, atlas):
        moves, own = [], []
        for seed in range(6):
            for bundle, plain in zip(fibres.sample_bundles(np.random.default_rng(seed)), atlas, strict=True):
                gaps = np.linalg.norm(bundle.points[:, None] - plain.points, axis=-1).min(axis=1)
                moves.append(np.sqrt(np.mean(gaps**2)))
                own.append((bundle.radii.min() / plain.radii.min(), bundle.strength))
        assert 1 < np.mean(moves) < 3
        assert max(moves) < 8
        spread = np.abs(np.array(own) - 1).max(axis=0)
        assert (spread < (0.1501, 0.2001)).all()
        assert (spread > (0.12, 0.16)).all()

    def test_left_varies_apart_from_right(self, subjects):
        by_name = {bundle.name: bundle for bundle in subjects[0]}
        left, right = by_name["arcuate_left"], by_name["arcuate_right"]
        assert np.linalg.norm(left.points[0] - right.points[0] * LEFT) > 0.2
        assert left.strength != right.strength

    def test_no_two_share_a_layout(self, subjects, white):
        """In the same place of the template, so with the same warp."""
        points = white.grid(3.3, 0.5)
        (first, of_first), (second, of_second) = (populations(points, bundles) for bundles in subjects)
        single = (of_first[:, 0] == 1) & (of_second[:, 0] == 1)
        turn = angles(first[single, 0], second[single, 0])
        assert single.sum() > 500
        assert 2 < np.median(turn) < 20
        assert np.abs(of_first - of_second)[~single].mean() > 0.05
        assert ((of_first > 0).sum(axis=1) != (of_second > 0).sum(axis=1)).mean() > 0.1


class TestFunnel:
    @staticmethod
    def bundle(flare, strength=1.0) -> Bundle:
        """Bundle along z that is 5 mm thick at z = 0 and widens by ``flare`` per mm."""
        z = np.arange(-40, 41, fibres.STEP)
        points, tangents = np.zeros((2, len(z), 3))
        points[:, 2], tangents[:, 2] = z, 1
        return Bundle("funnel", points, tangents, 5 * np.exp(flare * z), np.full(len(z), flare), strength)

    @pytest.mark.parametrize("flare", [-0.015, 0.0, 0.015])
    def test_fibres_keep_their_place_relative_to_the_radius(self, flare):
        funnel = self.bundle(flare)
        place = np.array([[3.0, 0, -20], [0, -4.0, -20], [-2.0, 2.0, -20]])
        start = place.copy()
        for _ in range(80):
            at, _, directions = funnel.sample(place.T)
            assert len(at) == len(place)
            place += 0.5 * directions
        expected = start[:, :2] * np.exp(flare * (place[:, 2:] - start[:, 2:]))
        np.testing.assert_allclose(place[:, :2], expected, atol=0.1)
        # the populations are those of the bundle where it is dense
        middle = place * (1, 1, 0)
        assert angles(populations(middle, [funnel])[0][:, 0], funnel.sample(middle.T)[2]).max() < 2

    def test_number_of_fibres_is_the_same_in_each_section(self):
        funnel = self.bundle(0.02)
        section = np.stack(np.meshgrid(np.arange(-25, 26, 0.5), np.arange(-25, 26, 0.5)), axis=-1).reshape(-1, 2)
        flux = []
        for z in (-20, -10, 0, 10, 20):
            places = np.column_stack([section, np.full(len(section), z)])
            _, density, directions = funnel.sample(places.T)
            flux.append(np.sum(density * directions[:, 2] / np.linalg.norm(directions, axis=1)))
        np.testing.assert_allclose(flux / np.mean(flux), 1, atol=0.05)

    def test_density_is_gaussian(self):
        tube = self.bundle(0.0, strength=1.5)
        places = np.array([(0, 0, 1), (5, 0, 0.3), (0, -10, 7), (6, 8, -3), (16, 0, 0), (0, 0, 60)], dtype=float)
        at, density, _ = tube.sample(places.T)
        assert at.tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(density, 1.5 * np.exp([0, -0.5, -2, -2]), rtol=0.1, atol=0.02)


def test_fibres_follow_the_warp(subjects):
    """The step that a subject's direction makes in the scanner is one along the template's direction."""
    generator = np.random.default_rng(1)
    warp = anatomy.sample_warp(generator, 0.5)
    points = 0.5 * generator.uniform(-50, 50, (400, 3))
    template, jacobian = warp.to_template(points), warp.jacobian(points)
    subject, shares = fibre_populations(template, jacobian, subjects[0])
    original, template_shares = populations(template, subjects[0])
    # one bundle in both spaces: two near MIN_ANGLE may be one population in one space and two in the other
    same = ((shares > 0) == (template_shares > 0)).all(axis=1) & (np.abs(shares - template_shares).max(axis=1) < 1e-5)
    pushed = np.einsum("nij,nj->ni", jacobian, subject[:, 0])
    pushed /= np.linalg.norm(pushed, axis=1, keepdims=True)
    assert same.sum() > 200
    assert np.median(angles(pushed, original[:, 0])[same]) < 0.3
    assert np.median(angles(subject[:, 0], original[:, 0])[same]) > 2


def test_a_shear_turns_fibres_by_the_known_angle(atlas):
    """Template z is scanner z + y: a fibre along template z is the scanner's along z, one along y slopes down."""
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
        """The leader at 0 takes what is at 25 and -4; the mean of the rest, at 34 and 36, is still its neighbour."""
        directions, fractions = self.merge(
            (axis_at(0), 4.0), (axis_at(25), 3.9), (axis_at(34), 1.0), (axis_at(36), 1.0)
        )
        np.testing.assert_allclose(fractions, [1, 0, 0])
        mean = 4 * axis_at(0) + 3.9 * axis_at(25) + axis_at(34) + axis_at(36)
        assert angles(directions[0], mean / np.linalg.norm(mean)) < 0.1

    def test_fanning_bundles_keep_their_shares(self):
        """Fans of 30 degrees about 0 and 50: the first leader, at the edge, is near a part of the other fan."""
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
        """Two bundles at 70 degrees, scattered by some degrees and of either sign: found with their shares."""
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
