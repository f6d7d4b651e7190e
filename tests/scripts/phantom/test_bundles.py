"""Fibre bundles of phantoms: their courses in the brain, their funnels, and each subject's own."""

import json

import numpy as np
import pytest
from phantom_fibres import LEFT, angles, populations

from scripts.phantom.bundles import ATLAS, STEP, Bundle, sample_bundles
from scripts.phantom.bundles import atlas as bundle_specs


@pytest.fixture(scope="module")
def entries() -> list[dict]:
    return json.loads(ATLAS.read_text(encoding="utf-8"))["bundles"]


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
            within = length < 2 * STEP  # longer steps lead from one line to the next
            assert 0.7 * STEP < np.median(length[within]) <= 1.1 * STEP
            along = np.sum(steps * (bundle.tangents[:-1] + bundle.tangents[1:]), axis=1)[within] / 2
            assert (along > 0.9 * length[within]).all()
            growth = np.diff(np.log(bundle.radii))[within] / length[within]
            np.testing.assert_allclose((bundle.flare[:-1] + bundle.flare[1:])[within] / 2, growth, atol=4e-3)

    def test_bundles_grow_by_their_fanning(self, atlas):
        for spec, bundle in zip(bundle_specs(), atlas, strict=True):
            assert bundle.radii[0] == pytest.approx(spec.radius * spec.fanning[0])
            assert bundle.radii[-1] == pytest.approx(spec.radius * spec.fanning[1])
            assert bundle.radii.min() == pytest.approx(spec.radius)
            assert bundle.flare[0] <= 0 <= bundle.flare[-1]

    def test_centre_lines_lie_in_white_matter(self, atlas, subjects, white):
        shares = {bundle.name: (white.at(bundle.points, tolerant=True) > 0.3).mean() for bundle in atlas}
        # the template's map shows hardly any white matter in the roof of the midbrain
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
    # one population runs across, one up, one from back to front
    np.testing.assert_array_equal(np.sort(np.abs(directions).argmax(axis=-1), axis=1), [[0, 1, 2], [0, 1, 2]])
    around = np.stack(np.meshgrid([28, 30, 32], [-20, -16, -12], [34, 36, 38]), axis=-1).reshape(-1, 3)
    for bundles in subjects:
        assert ((populations(around, bundles)[1] > 0).sum(axis=1) == 3).any()


class TestSubjects:
    def test_same_seed_same_bundles(self, subjects):
        for first, again in zip(subjects[0], sample_bundles(np.random.default_rng(1)), strict=True):
            np.testing.assert_array_equal(first.points, again.points)
            assert first.strength == again.strength

    def test_bundles_stray_by_a_few_mm(self, atlas):
        moves, own = [], []
        for seed in range(6):
            for bundle, plain in zip(sample_bundles(np.random.default_rng(seed)), atlas, strict=True):
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
        """The places are the same in the template, so the warp does not matter."""
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
        """Bundle along z with a radius of 5 mm at z = 0, which widens by ``flare`` per mm."""
        z = np.arange(-40, 41, STEP)
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
        # where the bundle is dense, the populations have its direction
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
