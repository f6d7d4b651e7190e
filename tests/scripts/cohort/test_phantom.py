"""Phantom cohorts: what is in the files is what the truth says, in the frame that a reader of FSL files finds."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bids import BIDSLayout
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel

from scripts.cohort.phantom import anatomy, fibres, signal, write_phantom
from scripts.cohort.phantom.subject import SNR, Case, simulate
from transforms.errors import InputError
from transforms.gradients import b0_volumes, describe_shells, read_gradients, shell_volumes
from transforms.qspace import default_scheme

SEED = 7
KINDS = ("auxiliary", "clinical")
MIDLINE_OF_THE_CALLOSUM = np.array([(0, y, z) for y, z in ((4, 24), (-8, 26), (-20, 24))])
INTERNAL_CAPSULE = np.array([(x, -16, z) for x in (-23, 23) for z in (0, 6)])


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("phantom")
    return {
        kind: write_phantom(kind, subjects, SEED, root / kind) for kind, subjects in zip(KINDS, (1, 2), strict=True)
    }


class Scan:
    """The first subject of a cohort, read back from its files."""

    def __init__(self, kind: str, root: Path) -> None:
        if kind == "auxiliary":
            folder, truth = root / "100001" / "T1w" / "Diffusion", root / "100001" / "truth"
            names, self.truth = ("data.nii.gz", "bvals", "bvecs"), f"{truth}/"
        else:
            folder, truth = root / "sub-01" / "dwi", root / "derivatives" / "truth" / "sub-01" / "dwi"
            names, self.truth = [f"sub-01_dwi.{end}" for end in ("nii.gz", "bval", "bvec")], f"{truth}/sub-01_desc-"
        image, bval, bvec = (folder / name for name in names)
        self.image = nib.load(image)
        self.data = np.asarray(self.image.dataobj)
        self.gradients = read_gradients(bval, bvec, self.image.affine, self.data.shape[3])
        self.record = json.loads(Path(f"{self.truth}imperfections.json").read_text())
        self.gray, self.white, self.csf = np.moveaxis(self.true("tissue_probseg"), -1, 0)
        self.peaks = self.true("peaks_dwi").reshape(*self.white.shape, 3, 3)
        self.fractions = self.true("fractions_dwi")
        self.n_peaks = self.true("npeaks_dseg")
        self.warp = anatomy.sample_warp(np.random.default_rng([SEED, KINDS.index(kind), 1]), 0.5)

    def true(self, name: str) -> np.ndarray:
        image = nib.load(f"{self.truth}{name}.nii.gz")
        np.testing.assert_array_equal(image.affine, self.image.affine)
        return np.asarray(image.dataobj)

    def tensor(self, where: np.ndarray, limit: int = 1500):
        """DIPY's fit to b0 and the shell of 1000 in up to ``limit`` voxels, in world RAS, and those voxels' indices."""
        voxels = np.random.default_rng(0).permutation(np.argwhere(where))[:limit]
        volumes = np.concatenate([b0_volumes(self.gradients), shell_volumes(self.gradients, 1000)])
        table = gradient_table(
            self.gradients[volumes, 3], bvecs=self.gradients[volumes, :3], b0_threshold=50, atol=1e-3
        )
        index = tuple(voxels.T)
        return TensorModel(table).fit(self.data[index][:, volumes].astype(float)), index


@pytest.fixture(scope="module")
def scans(cohorts) -> dict[str, Scan]:
    return {kind: Scan(kind, cohorts[kind]) for kind in KINDS}


@pytest.fixture(params=KINDS)
def scan(request, scans) -> Scan:
    return scans[request.param]


def test_one_process_or_two_write_the_same_bytes(cohorts, tmp_path):
    again = write_phantom("clinical", 2, SEED, tmp_path, jobs=2)
    files = {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    assert files == {path.relative_to(cohorts["clinical"]) for path in cohorts["clinical"].rglob("*") if path.is_file()}
    assert all((again / name).read_bytes() == (cohorts["clinical"] / name).read_bytes() for name in files)


def test_another_seed_or_number_is_another_brain():
    brains = [simulate(Case("clinical", number, seed, "small")).tissue for number, seed in ((1, 7), (2, 7), (1, 8))]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        moved = np.abs(brains[first] - brains[second]).sum() / 2 / brains[first].sum()
        assert moved > 0.1  # of the tissue


def test_size_changes_the_scale_only():
    small, standard = (simulate(Case("clinical", 3, SEED, size)) for size in ("small", "standard"))
    ratio = standard.brain.sum() / small.brain.sum()
    assert ratio == pytest.approx(8, rel=0.03)
    np.testing.assert_allclose(
        small.tissue.sum(axis=(1, 2, 3)) / small.brain.sum(),
        standard.tissue.sum(axis=(1, 2, 3)) / standard.brain.sum(),
        atol=0.02,
    )
    assert 1.2e6 < standard.brain.sum() * 2.4**3 < 2.4e6  # mm3, the template's mask has 1.88e6


def test_complete_subjects_are_kept_and_others_made_again(cohorts, tmp_path):
    out = write_phantom("clinical", 1, SEED, tmp_path)
    scan = out / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
    made = scan.stat().st_mtime_ns
    write_phantom("clinical", 1, SEED, tmp_path)
    assert scan.stat().st_mtime_ns == made
    with pytest.raises(InputError, match="found a subject of size small and seed 7, expected size small and seed 8"):
        write_phantom("clinical", 1, 8, tmp_path)
    (out / "derivatives/truth/sub-01/dwi/sub-01_desc-imperfections.json").unlink()
    scan.write_bytes(b"cut off")
    write_phantom("clinical", 1, SEED, tmp_path)
    assert scan.read_bytes() == (cohorts["clinical"] / "sub-01" / "dwi" / "sub-01_dwi.nii.gz").read_bytes()
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "hcp"}, "kind: found 'hcp', expected one of auxiliary, clinical"),
        ({"size": "tiny"}, "size: found 'tiny', expected one of small, standard"),
        ({"subjects": 0}, "subjects: found 0, expected a whole number of at least 1"),
        ({"seed": -1}, "seed: found -1, expected a whole number of at least 0"),
        ({"jobs": 0}, "jobs: found 0, expected a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_named(wrong, message, tmp_path):
    arguments = {"kind": "clinical", "subjects": 1, "seed": 0, "size": "small", "jobs": 1} | wrong
    with pytest.raises(InputError, match=message):
        write_phantom(out=tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_auxiliary_scan_looks_like_the_hcp(scans):
    scan = scans["auxiliary"]
    shells = [len(shell_volumes(scan.gradients, b)) for b in (1000, 2000)]
    assert [len(b0_volumes(scan.gradients)), *shells] == [6, 90, 6]
    assert set(np.diff(b0_volumes(scan.gradients))) == {17}
    assert set(scan.gradients[shell_volumes(scan.gradients, 1000), 3]) == {995, 1000, 1005}
    np.testing.assert_allclose(np.diag(scan.image.affine), [-1.25, 1.25, 1.25, 1])
    # more evenly spread than chance: the nearest axis of each is far away
    axes = scan.gradients[shell_volumes(scan.gradients, 1000), :3]
    cosine = np.abs(axes @ axes.T) - 2 * np.eye(90)
    assert np.degrees(np.arccos(cosine.max())) > 8


def test_clinical_scan_is_raw_bids(cohorts, scans):
    layout = BIDSLayout(cohorts["clinical"], derivatives=cohorts["clinical"] / "derivatives" / "truth")
    assert layout.get_subjects(scope="raw") == ["01", "02"]
    (file,) = layout.get(subject="01", suffix="dwi", extension=".nii.gz", scope="raw")
    assert layout.get_metadata(file.path)["PhaseEncodingDirection"] == "j-"
    assert len(layout.get(subject="02", desc="tissue", suffix="dseg", extension=".nii.gz", scope="derivatives")) == 1

    scan = scans["clinical"]
    assert describe_shells(scan.gradients) == "b = 0 (1 volume), 1000 (64 volumes)"
    np.testing.assert_allclose(scan.gradients[1:, :3], default_scheme(), atol=1e-6)
    assert nib.aff2axcodes(scan.image.affine) == ("L", "A", "S")
    assert np.abs(scan.image.affine[:3, :3] / 2.4 + np.diag([1, -1, -1])).max() > 0.02  # oblique


def test_integers_are_stored_unscaled(scan):
    assert scan.image.get_data_dtype() == np.int16
    assert (scan.image.dataobj.slope, scan.image.dataobj.inter) == (1, 0)
    assert 1000 < scan.data.max() < 4096
    assert scan.data.min() >= 0


def test_truth_is_consistent(scan):
    total = scan.gray + scan.white + scan.csf
    brain = scan.true("brain_mask") > 0
    np.testing.assert_allclose(total[brain], 1, atol=1e-5)
    assert not total[~brain].any()
    assert not brain[[0, -1]].any()
    assert not brain[:, [0, -1]].any()
    labels = scan.true("tissue_dseg")
    np.testing.assert_array_equal(
        labels[brain], np.stack([scan.gray, scan.white, scan.csf])[:, brain].argmax(axis=0) + 1
    )
    np.testing.assert_array_equal(scan.n_peaks, (scan.fractions > 0).sum(axis=-1))
    np.testing.assert_array_equal(scan.n_peaks > 0, scan.white > 0)
    np.testing.assert_allclose(scan.fractions[scan.white > 0].sum(axis=-1), 1, atol=1e-5)
    assert (np.diff(scan.fractions, axis=-1) <= 0).all()
    np.testing.assert_allclose(np.linalg.norm(scan.peaks, axis=-1), scan.fractions > 0, atol=1e-5)


def test_populations_of_a_voxel_are_apart(scan):
    for first, second in ((0, 1), (0, 2), (1, 2)):
        both = scan.peaks[scan.n_peaks > second]
        cosine = np.abs(np.sum(both[:, first] * both[:, second], axis=-1))
        assert np.degrees(np.arccos(cosine.max())) > fibres.MIN_ANGLE - 0.01
    assert scan.fractions[scan.fractions > 0].min() >= fibres.MIN_FRACTION


def test_tensor_finds_the_true_direction(scan):
    fit, voxels = scan.tensor((scan.fractions[..., 0] > 0.9) & (scan.white > 0.95))
    assert len(voxels[0]) > 200
    cosine = np.abs(np.sum(fit.directions[:, 0] * scan.peaks[voxels][:, 0], axis=-1))
    assert np.median(np.degrees(np.arccos(np.minimum(cosine, 1)))) < 4


def test_diffusivities_are_those_of_a_brain(scan):
    white, _ = scan.tensor(scan.white > 0.95)
    single, _ = scan.tensor((scan.white > 0.95) & (scan.n_peaks == 1))
    gray, _ = scan.tensor(scan.gray > 0.95)
    csf, voxels = scan.tensor(scan.csf > 0.85)
    assert len(voxels[0]) > 20
    assert 0.5 < np.median(white.fa) < 0.8
    assert 0.7 < np.median(single.fa) < 0.85
    assert np.median(gray.fa) < 0.15
    assert np.median(csf.fa) < 0.2
    assert 0.6e-3 < np.median(white.md) < 0.9e-3
    assert 0.7e-3 < np.median(gray.md) < 0.9e-3
    assert 2.0e-3 < np.median(csf.md) < 3.2e-3


def test_b0_is_brightest_in_csf_and_darkest_in_white_matter(scan):
    b0 = scan.data[..., b0_volumes(scan.gradients)[0]]
    white, gray, csf = (np.median(b0[part > 0.85]) for part in (scan.white, scan.gray, scan.csf))
    assert 1.2 * white < gray < 0.7 * csf


@pytest.mark.parametrize(
    ("place", "axis"), [(MIDLINE_OF_THE_CALLOSUM, 0), (INTERNAL_CAPSULE, 2)], ids=["callosum", "corticospinal"]
)
def test_great_bundles_run_as_in_a_brain(scan, place, axis):
    """The place is found in MNI space by the subject's warp, the direction in the files of its truth."""
    voxels = np.argwhere(scan.white > 0.5)
    template = scan.warp.to_template(anatomy.world_points(voxels, scan.image.affine))
    near = np.linalg.norm(template[:, None] - place, axis=-1).min(axis=1) < 4
    peaks = scan.peaks[tuple(voxels[near].T)][:, 0]
    assert len(peaks) >= 5
    assert np.median(np.abs(peaks[:, axis])) > 0.85


def test_bundles_cross_in_the_centrum_semiovale():
    place = np.array([(30.0, -16.0, 36.0), (-30.0, -16.0, 36.0)])
    directions, fractions = fibres.fibre_populations(place, np.tile(np.eye(3), (2, 1, 1)), np.ones(len(fibres.BUNDLES)))
    assert (fractions > 0).sum(axis=1).tolist() == [3, 3]
    # one runs across, one up, one from back to front
    np.testing.assert_array_equal(np.sort(np.abs(directions).argmax(axis=-1), axis=1), [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_allclose(fractions[0], fractions[1], atol=1e-6)
    np.testing.assert_allclose(np.abs(directions[0]), np.abs(directions[1]), atol=1e-6)


def test_a_share_of_white_matter_is_crossings(scan):
    crossing = scan.n_peaks[scan.true("tissue_dseg") == 2]
    assert 0.3 < (crossing >= 2).mean() < 0.5
    assert 0.02 < (crossing == 3).mean() < 0.12


@pytest.mark.parametrize("size", [0.5, 1.0])
def test_warp_is_smooth_and_folds_nothing(size):
    points = size * np.random.default_rng(0).uniform(-90, 90, (500, 3))
    step = 1e-3 * size
    for seed in range(8):
        warp = anatomy.sample_warp(np.random.default_rng(seed), size)
        jacobian = warp.jacobian(points)
        assert (np.linalg.det(jacobian * size) > 0.2).all()
        for axis in range(3):
            shift = step * np.eye(3)[axis]
            slope = (warp.to_template(points + shift) - warp.to_template(points - shift)) / (2 * step)
            np.testing.assert_allclose(jacobian[:, :, axis], slope, atol=1e-5)


def test_fibres_follow_the_warp():
    """The step that a subject's direction makes in the scanner is one along the template's direction."""
    generator = np.random.default_rng(1)
    warp, ones = anatomy.sample_warp(generator, 0.5), np.ones(len(fibres.BUNDLES))
    points = 0.5 * generator.uniform(-50, 50, (200, 3))
    template, jacobian = warp.to_template(points), warp.jacobian(points)
    subject, shares = fibres.fibre_populations(template, jacobian, ones)
    original, template_shares = fibres.fibre_populations(template, np.tile(np.eye(3), (200, 1, 1)), ones)
    # alone in both spaces: two bundles near MIN_ANGLE may be one population in one space and two in the other
    alone = (np.minimum(shares, template_shares)[:, 0] == 1) & (np.abs(shares[:, 0] - 1) < 1e-12)
    pushed = np.einsum("nij,nj->ni", jacobian, subject[:, 0])
    pushed /= np.linalg.norm(pushed, axis=1, keepdims=True)
    cosine = np.abs(np.sum(pushed * original[:, 0], axis=1))[alone]
    assert alone.sum() > 50
    assert np.median(cosine) > 0.9999


def test_noise_has_the_stated_ratio(scan):
    pure = scan.white > 0.95
    background = scan.data[~(scan.true("brain_mask") > 0)][:, 0].astype(float)
    background = background[background > 0]  # HCP data are cleared away from the brain; a Rician sample rarely is 0
    sigma = np.sqrt(np.mean(background**2) / 2)
    assert sigma == pytest.approx(scan.record["NoiseSigma"], rel=0.05)
    assert scan.record["TissueB0"]["WM"] / sigma == pytest.approx(SNR, rel=0.1)
    b0 = scan.data[..., b0_volumes(scan.gradients)][pure].astype(float)
    if b0.shape[1] > 1:
        assert b0.mean() / np.sqrt(b0.var(axis=1, ddof=1).mean()) == pytest.approx(SNR, rel=0.1)


def test_clinical_scan_is_the_true_signal_with_the_recorded_faults(scans):
    scan = scans["clinical"]
    stretch = np.array(scan.record["EddyStretch"])
    assert stretch[0] == 0
    assert 0.001 < np.abs(stretch[1:]).max() <= 0.02
    subject = simulate(Case("clinical", 1, SEED, "small"))
    bias = subject.faults.bias
    brain = scan.true("brain_mask") > 0
    assert bias[brain].mean() == pytest.approx(1, abs=1e-5)
    spread = np.log(bias[brain])
    assert 0.7 < np.abs(spread).max() / scan.record["BiasFieldStrength"] < 1.3
    truth = scan.true("noisefree_dwi")
    for volume in (0, int(np.abs(stretch).argmax())):
        expected = np.einsum("ij,xjz->xiz", signal.stretch_matrix(brain.shape[1], stretch[volume]), truth[..., volume])
        expected *= bias
        clear = expected > 8 * scan.record["NoiseSigma"]  # Rician noise is Gaussian there but for sigma^2 / 2S
        residual = (scan.data[..., volume] - expected)[clear] / scan.record["NoiseSigma"]
        assert abs(residual.mean()) < 0.1
        assert residual.std() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("stretch", [-0.02, 0.0, 0.004, 0.02])
def test_stretch_moves_in_proportion_and_keeps_the_mass(stretch):
    where = np.arange(46) - 22.5
    line = np.exp(-0.5 * ((where - 9.0) / 2.5) ** 2)
    moved = signal.stretch_matrix(46, stretch) @ line
    assert moved.sum() == pytest.approx(line.sum(), rel=1e-4)
    assert (moved * where).sum() / moved.sum() == pytest.approx(9.0 * (1 + stretch), abs=1e-3)
