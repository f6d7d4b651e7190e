"""Phantom cohorts: the files agree with their truth, in the frame of a reader of FSL files."""

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bids import BIDSLayout
from phantom_fibres import angles
from phantom_files import KINDS, SEED, Scan
from scipy import ndimage
from scipy.spatial.transform import Rotation

from scripts.io.gradients import read_gradients
from scripts.phantom import anatomy, populations, write_phantom
from scripts.phantom.artifacts import from_record
from scripts.phantom.receive_field import receive_field
from scripts.phantom.scanner import acquire
from scripts.phantom.subject import SNR, T1W_SNR, Case, simulate
from transforms.diffusion.gradients import b0_volumes, describe_shells, shell_volumes
from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError

MIDLINE_OF_THE_CALLOSUM = np.array([(0, y, z) for y, z in ((4, 24), (-8, 26), (-20, 24))])
INTERNAL_CAPSULE = np.array([(x, -16, z) for x in (-23, 23) for z in (0, 6)])


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("phantom")
    return {
        kind: write_phantom(kind, subjects, SEED, root / kind) for kind, subjects in zip(KINDS, (1, 2), strict=True)
    }


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


@pytest.mark.slow
def test_size_changes_the_scale_only():
    small, standard = (simulate(Case("clinical", 3, SEED, size)) for size in ("small", "standard"))
    ratio = standard.brain.sum() / small.brain.sum()
    assert ratio == pytest.approx(8, rel=0.05)
    np.testing.assert_allclose(
        small.tissue.sum(axis=(1, 2, 3)) / small.tissue.sum(),
        standard.tissue.sum(axis=(1, 2, 3)) / standard.tissue.sum(),
        atol=0.02,
    )
    assert 1.1e6 < standard.brain.sum() * 2.4**3 < 2.2e6  # mm3; the template has 1.88e6, and the slices miss some


def test_complete_subjects_are_kept_and_others_made_again(cohorts, tmp_path):
    out = shutil.copytree(cohorts["clinical"], tmp_path, dirs_exist_ok=True)
    scan = out / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
    made = scan.stat().st_mtime_ns
    write_phantom("clinical", 1, SEED, tmp_path)
    assert scan.stat().st_mtime_ns == made
    with pytest.raises(
        InputError,
        match=r"found a subject of size small, seed 7 and SNR 30\.0, expected size small, seed 8 and SNR 30\.0",
    ):
        write_phantom("clinical", 1, 8, tmp_path)
    (out / "derivatives/truth/sub-01/dwi/sub-01_desc-artifacts.json").unlink()
    scan.write_bytes(b"cut off")
    write_phantom("clinical", 1, SEED, tmp_path)
    assert scan.read_bytes() == (cohorts["clinical"] / "sub-01" / "dwi" / "sub-01_dwi.nii.gz").read_bytes()
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "hcp"}, "kind: found 'hcp', expected one of auxiliary, clinical"),
        ({"size": "tiny"}, "size: found 'tiny', expected one of small, standard, full"),
        ({"subjects": 0}, "subjects: found 0, expected a whole number of at least 1"),
        ({"seed": -1}, "seed: found -1, expected a whole number of at least 0"),
        ({"jobs": 0}, "jobs: found 0, expected a whole number of at least 1"),
        ({"snr": 0.0}, "snr: found 0.0, expected a number above 0"),
        ({"snr": float("nan")}, "snr: found nan, expected a number above 0"),
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
    assert not scan.data[:8, :8].any()  # cleared away from the brain
    # the axes are more evenly spread than random ones: the nearest two are far apart
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
    assert total.max() <= 1 + 1e-5
    np.testing.assert_array_equal(scan.brain, total >= 0.5)
    assert total[scan.brain].mean() > 0.95
    assert not scan.brain[[0, -1]].any()
    assert not scan.brain[:, [0, -1]].any()
    labels = scan.true("tissue_dseg")
    fractions = np.stack([scan.gray, scan.white, scan.csf])
    np.testing.assert_array_equal(labels[scan.brain], fractions[:, scan.brain].argmax(axis=0) + 1)
    assert not labels[~scan.brain].any()
    np.testing.assert_array_equal(scan.nufo, (scan.fractions > 0).sum(axis=-1))
    np.testing.assert_array_equal(scan.nufo > 0, scan.white > 0)
    np.testing.assert_allclose(scan.fractions[scan.white > 0].sum(axis=-1), 1, atol=1e-5)
    assert (np.diff(scan.fractions, axis=-1) <= 1e-6).all()
    np.testing.assert_allclose(np.linalg.norm(scan.peaks, axis=-1), scan.fractions > 0, atol=1e-5)


def test_populations_of_a_voxel_are_apart(scan):
    for first, second in ((0, 1), (0, 2), (1, 2)):
        both = scan.peaks[scan.nufo > second]
        cosine = np.abs(np.sum(both[:, first] * both[:, second], axis=-1))
        assert np.degrees(np.arccos(cosine.max())) > populations.MIN_ANGLE - 0.01
    assert scan.fractions[scan.fractions > 0].min() >= populations.MIN_FRACTION


def test_tensor_finds_the_true_direction(scan):
    single = (scan.nufo == 1) & (scan.white > 0.8)
    fit, voxels = scan.tensor(single, scan.noisy_truth(snr=30))
    assert len(voxels[0]) > 200
    assert np.median(angles(fit.directions[:, 0], scan.peaks[voxels][:, 0])) < 3


def test_scan_as_stored_has_the_true_directions_too(scan):
    """The scans have noise of the stated ratio; the clinical one also has all artifacts of patient and scanner."""
    fit, voxels = scan.tensor((scan.nufo == 1) & (scan.white > 0.8))
    assert np.median(angles(fit.directions[:, 0], scan.peaks[voxels][:, 0])) < (3 if scan.kind == "auxiliary" else 6)


def test_diffusivities_are_those_of_a_brain(scan):
    """Ranges about published values: see the table in docs/phantom.md."""
    data = scan.noisy_truth(snr=30)
    white, _ = scan.tensor(scan.white > 0.9, data)
    single, _ = scan.tensor((scan.white > 0.9) & (scan.nufo == 1), data)
    gray, _ = scan.tensor(scan.gray > 0.9, data)
    csf, voxels = scan.tensor(scan.csf > 0.9, data)
    assert len(voxels[0]) > 20
    assert 0.4 < np.median(white.fa) < 0.75
    assert 0.6 < np.median(single.fa) < 0.85
    assert np.median(gray.fa) < 0.2
    assert np.median(csf.fa) < 0.2
    assert 0.65e-3 < np.median(white.md) < 0.9e-3
    assert 0.7e-3 < np.median(gray.md) < 1.0e-3
    assert 2.5e-3 < np.median(csf.md) < 3.2e-3


def test_b0_is_brightest_in_csf_and_darkest_in_white_matter(scan):
    b0 = scan.data[..., b0_volumes(scan.gradients)[0]]
    white, gray, csf = (np.median(b0[part > 0.85]) for part in (scan.white, scan.gray, scan.csf))
    assert 1.2 * white < gray < 0.7 * csf


@pytest.mark.parametrize(
    ("place", "axis"), [(MIDLINE_OF_THE_CALLOSUM, 0), (INTERNAL_CAPSULE, 2)], ids=["callosum", "corticospinal"]
)
def test_great_bundles_run_as_in_a_brain(scan, place, axis):
    """The subject's warp finds the place in MNI space; the files of its truth hold the direction."""
    voxels = np.argwhere(scan.white > 0.5)
    template = scan.warp.to_template(anatomy.world_points(voxels, scan.image.affine))
    near = np.linalg.norm(template[:, None] - place, axis=-1).min(axis=1) < 4
    peaks = scan.peaks[tuple(voxels[near].T)][:, 0]
    assert len(peaks) >= 5
    assert np.median(np.abs(peaks[:, axis])) > 0.85


def test_much_of_white_matter_is_crossings(scan):
    crossing = scan.nufo[scan.true("tissue_dseg") == 2]
    assert (crossing >= 2).mean() >= 0.4
    assert 0.03 < (crossing == 3).mean() < 0.2


def test_noise_has_the_stated_ratio(scan):
    """The region has no brain and no ghost, which lies along the second axis only."""
    empty = ~scan.true("tissue_probseg").any(axis=(1, 2, 3))
    empty = (empty[:-4] & empty[4:]).nonzero()[0][[0, -1]] + [0, 4]
    background = np.concatenate([scan.data[: empty[0] + 1].ravel(), scan.data[empty[1] :].ravel()])
    if scan.kind == "auxiliary":  # the scan is cleared away from the brain, except a margin
        background = scan.data[~scan.brain & (scan.data > 0).all(axis=-1)]
        distant = ~scan.true("tissue_probseg").any(axis=-1)
        background = scan.data[distant & (scan.data > 0).any(axis=-1)]
    sigma = np.sqrt(np.mean(background.astype(float) ** 2) / 2)
    assert background.size > 10_000
    assert scan.record["TissueB0"]["WM"] / sigma == pytest.approx(SNR, rel=0.05)
    assert scan.record["NoiseSigma"] == pytest.approx(sigma, rel=0.05)


def test_repeated_b0_volumes_vary_by_the_noise(scans):
    scan = scans["auxiliary"]
    pure = scan.white > 0.9
    b0 = scan.data[..., b0_volumes(scan.gradients)][pure].astype(float)
    field = receive_field(from_record(scan.record).bias, scan.brain.shape)[pure]
    ratio = (b0 / field[:, None]).mean() / np.sqrt(b0.var(axis=1, ddof=1).mean())
    assert ratio == pytest.approx(SNR, rel=0.1)


def test_head_frame_directions_turn_with_the_head(scan):
    """In the frame of a head turned by R, the gradient is turned by the inverse of R."""
    stem = f"{scan.truth}headframe_dwi"
    head = read_gradients(f"{stem}.bval", f"{stem}.bvec", scan.image.affine)
    turns = Rotation.from_rotvec(scan.record["MotionRotationVectorDegreesRAS"], degrees=True)
    weighted = scan.gradients[:, 3] > 50
    np.testing.assert_allclose(turns.apply(head[:, :3])[weighted], scan.gradients[weighted, :3], atol=1e-5)
    turned = np.degrees(turns.magnitude()).max()
    assert turned == 0 if scan.kind == "auxiliary" else 0.2 <= turned <= 2.01


def test_t1w_shows_the_tissue_of_the_diffusion_scan(cohorts, scans):
    """The tissue lies where the recorded pose puts it, not elsewhere, and the noise is as recorded."""
    scan = scans["clinical"]
    image = nib.load(cohorts["clinical"] / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    t1w, record = np.asarray(image.dataobj).astype(float), scan.record["T1w"]
    assert nib.aff2axcodes(image.affine) == ("P", "S", "R")
    np.testing.assert_allclose(nib.affines.voxel_sizes(image.affine), 1)
    corner = t1w[:3, :3, :]  # only noise, above and behind the head
    assert record["SNR"] == T1W_SNR
    assert np.sqrt(np.mean(corner**2) / 2) == pytest.approx(record["NoiseSigma"], rel=0.1)

    intensities = np.array(list(scan.record["TissueT1w"].values()))
    pure = np.argwhere(np.stack([scan.gray, scan.white, scan.csf]).max(axis=0) > 0.95)
    expected = intensities @ np.stack([scan.gray, scan.white, scan.csf])[:, *pure.T]
    world = nib.affines.apply_affine(scan.image.affine, pure)

    even = ndimage.uniform_filter(t1w / receive_field(np.array(record["BiasFieldLogCoefficients"]), t1w.shape), 3)

    def correlation(pose: np.ndarray) -> float:
        voxels = nib.affines.apply_affine(np.linalg.inv(pose @ image.affine), world)
        return np.corrcoef(ndimage.map_coordinates(even, voxels.T, order=1), expected)[0, 1]

    pose = np.array(record["ToDiffusionRAS"])
    assert np.linalg.norm(pose[:3, 3]) > 0.3
    shifted = np.eye(4)
    shifted[:3, 3] = 3, -3, 3
    mirrored = np.diag([-1.0, 1, 1, 1])
    assert correlation(pose) > 0.9
    assert correlation(shifted @ pose) < 0.8
    assert correlation(mirrored @ pose) < 0.8


def test_noise_free_signal_is_that_of_the_truth(scan):
    """The b0 in the files is the sum of each voxel's fractions times the intensities in the record."""
    b0 = scan.record["TissueB0"]
    expected = b0["GM"] * scan.gray + b0["WM"] * scan.white + b0["CSF"] * scan.csf
    found = scan.true("noisefree_dwi")[..., b0_volumes(scan.gradients)[0]]
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=1)  # b = 5 takes 1.5 % from CSF


def test_scan_is_replayed_from_the_truth_and_the_record(scan):
    """The head frame's gradients and the recorded artifacts give the scan, except its noise."""
    artifacts = from_record(scan.record)
    subject = simulate(Case(scan.kind, 1, SEED, "small"))
    stem = f"{scan.truth}headframe_dwi"
    head = read_gradients(f"{stem}.bval", f"{stem}.bvec", scan.image.affine)
    field = receive_field(artifacts.bias, scan.brain.shape)
    silent = replace(artifacts, noise_sigma=0.0)
    moved = int(np.linalg.norm(artifacts.rotation, axis=1).argmax())
    for volume in {0, 1, moved}:
        wide, affine = subject.volume(head[volume]), subject.volume_affine
        expected = acquire(wide, volume, silent, affine, field, np.random.default_rng(0)).astype(float)
        clear = expected > 8 * artifacts.noise_sigma  # Rician noise is Gaussian there but for sigma^2 / 2S
        residual = (scan.data[..., volume] - expected)[clear] / artifacts.noise_sigma
        assert clear.sum() > 3000
        assert abs(residual.mean()) < 0.1
        assert residual.std() == pytest.approx(1, rel=0.05)
