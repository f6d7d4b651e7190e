"""Labels of phantoms against their truth, and what must not change them: orientation, rotation, a second run."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine

from scripts.cohort.datalist import DATALIST, SPLITS
from scripts.cohort.prepare import prepare_cohort
from scripts.io.files import read_json
from scripts.io.volume import read_volume
from scripts.labels import label_cohort, t1_registration, t1_tissue
from scripts.labels.alignment import correlation_ratio, with_affine
from scripts.labels.quality import flag_outliers
from scripts.labels.tissue_sources import dice
from scripts.phantom import write_phantom
from scripts.phantom.truth import at_nearest_voxels
from tests.turns import TURNS, turned_copy

GRAY, WHITE, FLUID = 1, 2, 3


def entry_of(prepared):
    (entry,) = [entry for split in SPLITS for entry in read_json(prepared / DATALIST)[split]]
    return entry


def load(prepared, key):
    image = nib.load(prepared / entry_of(prepared)[key])
    return np.asarray(image.dataobj), image.affine


def record(prepared):
    return json.loads((prepared / "sub-01/dwi/sub-01_desc-labels.json").read_text())


def degrees(first, second):
    return np.degrees(np.arccos(np.clip(np.abs((first * second).sum(axis=-1)), 0, 1)))


def prepare_and_label(raw, out):
    prepare_cohort("bids", raw, out)
    (outcome,) = label_cohort(out)
    assert outcome.failure is None
    return out


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """A labelled clinical phantom, and its truth on the prepared grid."""
    folder = tmp_path_factory.mktemp("phantom")
    raw = write_phantom("clinical", 1, 3, folder / "raw")
    prepared = prepare_and_label(raw, folder / "prepared")
    grid = nib.load(prepared / entry_of(prepared)["mask"])
    mask = np.asarray(grid.dataobj)
    stem = raw / "derivatives/truth/sub-01/dwi/sub-01_desc-"

    def truth(name):
        return at_nearest_voxels(Path(f"{stem}{name}.nii.gz"), grid)[mask > 0]

    found = {key: load(prepared, key)[0][mask > 0] for key in ("tissue", "tissue_prob", "n_peaks", "peak")}
    return SimpleNamespace(raw=raw, prepared=prepared, inside=mask > 0, truth=truth, found=found)


def test_tissue_from_the_t1_agrees_with_the_truth(phantom):
    found, truth = phantom.found["tissue"], phantom.truth("tissue_dseg")
    overlap = {t: dice(found == t, truth == t) for t in (1, 2, 3)}
    # a brain of half the size has thin cortex and little fluid; life-size ones are tested among the slow tests
    assert overlap[GRAY] > 0.82
    assert overlap[WHITE] > 0.82
    assert overlap[FLUID] > 0.45
    np.testing.assert_allclose(load(phantom.prepared, "tissue_prob")[0].sum(axis=-1), 1, atol=1e-4)
    assert (phantom.found["tissue_prob"].argmax(axis=-1) == found).all()
    assert record(phantom.prepared)["Route"] == "T1"


def test_the_t1_lies_where_the_phantom_says(phantom):
    drawn = json.loads((phantom.raw / "derivatives/truth/sub-01/dwi/sub-01_desc-artifacts.json").read_text())
    _, affine = load(phantom.prepared, "mask")
    brain = apply_affine(affine, np.argwhere(phantom.inside)[::20])
    found, truth = np.array(record(phantom.prepared)["T1ToDiffusion"]), np.array(drawn["T1w"]["ToDiffusionRAS"])
    apart = np.linalg.norm(apply_affine(found, brain) - apply_affine(truth, brain), axis=1)
    assert apart.mean() < 1.0


def test_main_peak_is_the_largest_fibre(phantom):
    n_true, fractions, peaks = (phantom.truth(name) for name in ("npeaks_dseg", "fractions_dwi", "peaks_dwi"))
    main = peaks.reshape(-1, 3, 3)[np.arange(len(peaks)), fractions.argmax(axis=1)]
    white = (phantom.found["tissue"] == WHITE) & (phantom.truth("tissue_dseg") == WHITE)
    error = degrees(phantom.found["peak"], main)
    assert np.median(error[white & (n_true == 1)]) < 6
    assert np.median(error[white & (n_true == 2)]) < 12
    length = np.linalg.norm(phantom.found["peak"], axis=-1)
    np.testing.assert_allclose(length[phantom.found["n_peaks"] > 0], 1, atol=1e-5)
    assert (length[phantom.found["n_peaks"] == 0] == 0).all()
    # more fibres, more peaks
    counts = [phantom.found["n_peaks"][white & (n_true == n)].mean() for n in (1, 2, 3)]
    assert counts == sorted(counts)
    assert phantom.found["n_peaks"].max() <= 3


def test_a_second_run_keeps_what_is_there_and_a_changed_source_is_noticed(phantom, tmp_path, caplog):
    cohort = shutil.copytree(phantom.raw.parent, tmp_path / "moved")
    prepared = cohort / "prepared"
    (picture,) = prepared.rglob("*_desc-labels.png")
    before = {path: path.stat().st_mtime_ns for path in picture.parent.iterdir()}
    listed = read_json(prepared / DATALIST)
    label_cohort(prepared)
    assert {path: path.stat().st_mtime_ns for path in picture.parent.iterdir()} == before
    assert read_json(prepared / DATALIST) == listed
    # the T1 is gone: white matter comes from FA and MD, and no tissue of the T1 stays behind
    (cohort / "raw/sub-01/anat/sub-01_T1w.nii.gz").unlink()
    (outcome,) = label_cohort(prepared)
    assert outcome.failure is None
    assert "sub-01_T1w.nii.gz: no such file" in caplog.text
    assert record(prepared)["Route"] == "FA and MD"
    assert set(entry_of(prepared)) & {"tissue", "tissue_prob"} == set()
    assert not list(prepared.rglob("*tissue_dseg.nii.gz"))
    white, inside = load(prepared, "white_matter")[0], phantom.truth("tissue_dseg") == WHITE
    found = white[phantom.inside] > 0
    assert 2 * (found & inside).sum() / (found.sum() + inside.sum()) > 0.8
    with open(prepared / "labels.tsv", newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    assert row["route"] == "FA and MD"
    assert row["gray_matter_ml"] == "n/a"


@pytest.mark.parametrize("case", ["flipped", "turned"])
def test_labels_turn_with_the_world_and_do_not_see_how_voxels_are_stored(phantom, tmp_path, case):
    """The classifier, N4 and the registration work on another array then: nearly all voxels agree, not all.

    Directions turn within the deconvolution's own precision: its constraint stands on the fixed vertices of a sphere,
    which a turn of the world does not turn.
    """
    # each axis goes to another
    rotation = np.array(TURNS["x"]) @ TURNS["z"] if case == "turned" else np.eye(3)
    raw = turned_copy(phantom.raw, tmp_path / "raw", rotation, flip=0 if case == "flipped" else None)
    prepared = prepare_and_label(raw, tmp_path / "prepared")
    mask, affine = load(prepared, "mask")
    original, original_affine = load(phantom.prepared, "mask")
    world = apply_affine(original_affine, np.argwhere(original > 0)) @ rotation.T
    places = apply_affine(np.linalg.inv(affine), world)
    voxels = tuple(np.rint(places).astype(int).T)
    assert np.abs(places - np.rint(places)).max() < 0.02
    assert (mask[voxels] > 0).mean() > 0.99
    found = {key: load(prepared, key)[0][voxels] for key in ("tissue", "n_peaks", "peak")}
    assert (found["tissue"] == phantom.found["tissue"]).mean() > 0.95
    both = (found["n_peaks"] > 0) & (phantom.found["n_peaks"] > 0)
    assert (found["n_peaks"] == phantom.found["n_peaks"])[both].mean() > (0.97 if case == "flipped" else 0.85)
    apart = degrees(found["peak"], phantom.found["peak"] @ rotation.T)[both]
    assert np.median(apart) < (0.2 if case == "flipped" else 2.5)


def test_a_registration_that_went_wrong_is_reported_and_not_used(phantom, tmp_path, monkeypatch, capfd):
    cohort = shutil.copytree(phantom.raw.parent, tmp_path / "moved")
    right = t1_registration.check_alignment

    def misplaced(t1, attenuation, mask, matrix):
        away = np.eye(4)
        away[:3, 3] = [0, 12, 16]
        return right(t1, attenuation, mask, matrix @ away)

    monkeypatch.setattr(t1_registration, "check_alignment", misplaced)
    (cohort / "prepared/sub-01/dwi/sub-01_desc-labels.json").unlink()
    (outcome,) = label_cohort(cohort / "prepared")
    assert outcome.failure is None
    found = record(cohort / "prepared")
    assert found["Route"] == "FA and MD"
    assert "T1 not used: the T1 covers" in found["Notes"][0]
    assert "tissue" not in entry_of(cohort / "prepared")
    assert "sub-01: T1 not used" in capfd.readouterr().err


def test_a_segmentation_in_the_t1s_space_comes_to_the_scan_as_the_t1_does(phantom, tmp_path, capfd):
    cohort = shutil.copytree(phantom.raw.parent, tmp_path / "moved")
    truth = nib.load(cohort / "raw/derivatives/truth/sub-01/dwi/sub-01_desc-tissue_dseg.nii.gz")
    drawn = json.loads((cohort / "raw/derivatives/truth/sub-01/dwi/sub-01_desc-artifacts.json").read_text())
    to_t1 = np.linalg.inv(drawn["T1w"]["ToDiffusionRAS"])
    # 12 mm further away: by the scanner's coordinates alone it would lie wrong
    away = np.eye(4)
    away[:3, 3] = [0, 12, 0]
    t1 = cohort / "raw/sub-01/anat/sub-01_T1w.nii.gz"
    image = nib.load(t1)
    moved = nib.Nifti1Image(np.array(image.dataobj), away @ image.affine)
    nib.save(moved, t1)
    given = tmp_path / "fmriprep/sub-01/anat/sub-01_dseg.nii.gz"
    given.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.asarray(truth.dataobj).astype(np.uint8), away @ to_t1 @ truth.affine), given)
    expected = phantom.truth("tissue_dseg")

    def overlap():
        (outcome,) = label_cohort(cohort / "prepared", tmp_path / "fmriprep")
        assert outcome.failure is None
        found = load(cohort / "prepared", "tissue")[0][phantom.inside]
        return np.mean([dice(found == index, expected == index) for index in (1, 2, 3)])

    assert overlap() > 0.85
    by_registration = record(cohort / "prepared")
    assert by_registration["Route"] == "derivatives"
    assert by_registration["Notes"] == []
    np.testing.assert_allclose(by_registration["Measures"]["registration_shift_mm"], 12, atol=5)
    # without the T1 there is its affine alone, and this is said
    t1.unlink()
    prepare_cohort("bids", cohort / "raw", cohort / "prepared")
    assert overlap() < 0.6
    remark = "sub-01_dseg.nii.gz lies in the space of a T1 that is not there: placed by its affine alone"
    doubt = "white matter overlaps the diffusion tensor's with a Dice of"
    first, second = record(cohort / "prepared")["Notes"]
    assert first == remark
    assert second.startswith(doubt)
    assert f"sub-01: {remark}; {doubt}" in capfd.readouterr().err
    # fMRIPrep's own T1 beside it says where it lies
    own = given.with_name("sub-01_desc-preproc_T1w.nii.gz")
    nib.save(moved, own)
    assert overlap() > 0.85
    assert record(cohort / "prepared")["Notes"] == []
    assert str(own) in record(cohort / "prepared")["Sources"]


def test_a_second_pass_of_n4_gives_back_white_matter_that_coils_receive_weakly(phantom, monkeypatch):
    """The T1 of a surface coil, a third as bright in the centre of the head as at its edge."""
    t1 = t1_tissue.read_t1(phantom.raw / "sub-01/anat/sub-01_T1w.nii.gz")
    head = t1[0].numpy() > np.percentile(t1[0], 70)
    distance = np.linalg.norm(np.moveaxis(np.indices(head.shape), 0, -1) - np.argwhere(head).mean(axis=0), axis=-1)
    distance /= np.percentile(distance[head], 98)
    field = 0.35 + 0.65 * np.minimum(distance, 1.3) ** 2
    weak = MetaTensor(t1.as_tensor() * torch.from_numpy(field).float(), affine=t1.affine)
    drawn = read_json(phantom.raw / "derivatives/truth/sub-01/dwi/sub-01_desc-artifacts.json")["T1w"]
    placed = with_affine(weak, np.linalg.inv(drawn["ToDiffusionRAS"]))
    mask = read_volume(phantom.prepared / entry_of(phantom.prepared)["mask"])
    overlap = {}
    for passes in (1, t1_tissue.N4_PASSES):
        monkeypatch.setattr(t1_tissue, "N4_PASSES", passes)
        white = t1_tissue.tissue_from_t1(placed, mask)[WHITE] > 0.5
        overlap[passes] = dice(white[phantom.inside], phantom.truth("tissue_dseg") == WHITE)
    assert overlap[2] > 0.8
    assert overlap[2] > overlap[1]


def test_correlation_ratio_is_one_for_a_function_and_none_for_noise():
    generator = np.random.default_rng(0)
    given = generator.uniform(-1, 1, 20000)
    assert correlation_ratio(given**2, given) > 0.98
    assert correlation_ratio(generator.normal(size=20000), given) < 0.01


def test_an_outlier_of_a_cohort_is_flagged_and_a_small_cohort_has_none():
    rows = [{"scan": f"sub-{n}", "white_matter_ml": 500.0 + n, "notes": []} for n in range(8)]
    rows[3]["white_matter_ml"] = 200.0
    flags = [row["flags"] for row in flag_outliers(rows)]
    assert flags == ["", "", "", "white_matter_ml low", "", "", "", ""]
    assert not any(row["flags"] for row in flag_outliers(rows[:4]))
