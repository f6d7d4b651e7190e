"""Labels by the truth of phantoms: those of the nearest place, of the right phantom, and scored as right."""

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from scripts.cohort.datalist import DATALIST
from scripts.cohort.prepare import prepare_cohort
from scripts.io.files import read_json
from scripts.labels import label_cohort
from scripts.labels.phantom_truth import FILES
from scripts.phantom import write_phantom

ROOT = Path(__file__).parents[3]
STEM = "sub-01/dwi/sub-01"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom("clinical", 1, 3, folder / "raw")
    prepare_cohort("bids", folder / "raw", folder / "prepared")
    (outcome,) = label_cohort(folder / "prepared", truth=folder / "raw/derivatives/truth")
    assert outcome.failure is None
    return folder


def label(cohort, name):
    return nib.load(cohort / "prepared" / f"{STEM}_desc-{name}.nii.gz")


def at_places_of(image, path):
    """Values of the voxel of ``path`` whose centre is nearest, looked for among all centres around it."""
    truth = nib.load(path)
    places = np.linalg.inv(truth.affine) @ image.affine
    voxels = apply_affine(places, np.argwhere(np.ones(image.shape[:3])))
    nearest = np.floor(voxels + 0.5).astype(int).clip(0, np.array(truth.shape[:3]) - 1)
    return np.asarray(truth.dataobj)[tuple(nearest.T)].reshape(*image.shape[:3], *truth.shape[3:])


def test_labels_are_the_truth_of_the_nearest_place_in_the_brain(cohort):
    truth = cohort / "raw/derivatives/truth" / f"{STEM}_desc-"
    tissue = label(cohort, "tissue_dseg")
    inside = np.asarray(label(cohort, "brain_mask").dataobj) > 0
    found = {name: np.asarray(label(cohort, name).dataobj) for name in ("tissue_dseg", "tissue_probseg", "wm_mask")}
    found |= {name: np.asarray(label(cohort, name).dataobj) for name in ("npeaks_dseg", "peak_dwi")}
    true = {name: at_places_of(tissue, f"{truth}{name}.nii.gz") for name in FILES}
    np.testing.assert_array_equal(found["tissue_dseg"], np.where(inside, true["tissue_dseg"], 0))
    white = inside & (true["tissue_dseg"] == 2)
    np.testing.assert_array_equal(found["wm_mask"], white)
    np.testing.assert_array_equal(found["npeaks_dseg"], np.where(white, true["npeaks_dseg"], 0))
    np.testing.assert_array_equal(found["peak_dwi"], np.where(white[..., None], true["peaks_dwi"][..., :3], 0))
    np.testing.assert_allclose(np.linalg.norm(found["peak_dwi"][white], axis=-1), 1, atol=1e-4)
    # fractions of the tissues, and background for the rest
    np.testing.assert_array_equal(found["tissue_probseg"][inside][:, 1:], true["tissue_probseg"][inside])
    np.testing.assert_allclose(found["tissue_probseg"].sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(found["tissue_probseg"][~inside], np.broadcast_to([1, 0, 0, 0], ((~inside).sum(), 4)))


def test_the_record_says_that_it_is_the_truth_and_a_second_run_does_nothing(cohort):
    prepared, truth = cohort / "prepared", cohort / "raw/derivatives/truth"
    record = read_json(prepared / f"{STEM}_desc-labels.json")
    assert record["Route"] == "truth"
    assert record["Labels"] == ["tissue", "tissue_prob", "white_matter", "n_peaks", "peak"]
    assert record["Sources"][1:] == [str(truth / f"{STEM}_desc-{name}.nii.gz") for name in FILES]
    assert (prepared / f"{STEM}_desc-labels.png").is_file()
    assert (prepared / "labels.tsv").read_text().splitlines()[1].split("\t")[:2] == ["sub-01", "truth"]
    times = {path: path.stat().st_mtime_ns for path in prepared.glob("sub-01/dwi/*")}
    label_cohort(prepared, truth=truth)
    assert {path: path.stat().st_mtime_ns for path in prepared.glob("sub-01/dwi/*")} == times


@pytest.mark.parametrize("differs", ["seed", "shape"])
def test_the_truth_of_another_phantom_is_refused_and_labels_stay(cohort, tmp_path, differs):
    if differs == "seed":
        other = write_phantom("clinical", 1, 4, tmp_path / "raw") / "derivatives/truth"
    else:
        other = shutil.copytree(cohort / "raw/derivatives/truth", tmp_path / "truth")
        for name in FILES:
            path = other / f"{STEM}_desc-{name}.nii.gz"
            nib.save(nib.load(path).slicer[:, :, 2:], path)
    before = read_json(cohort / "prepared" / DATALIST)
    (outcome,) = label_cohort(cohort / "prepared", truth=other)
    assert outcome.failure == (
        f"{other / STEM}_desc-tissue_dseg.nii.gz: found another grid than that of "
        f"{cohort / 'raw' / STEM}_dwi.nii.gz, expected one; is it the truth of another phantom?"
    )
    assert read_json(cohort / "prepared" / DATALIST) == before


def test_truth_scored_against_itself_is_right(cohort, python):
    command = [python, "docs/figures/labels.py", cohort / "raw", cohort / "prepared"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "sub-01 labels by truth" in done.stdout
    assert "Dice of GM, WM, CSF: [1. 1. 1.] macro: 1.000" in done.stdout
    same_rule = done.stdout.split("NuFO of the truth: ")[1]
    assert same_rule.startswith("populations of 0.15")
    assert same_rule.count("median error 0.0 degrees, counted right 100%, as more 0%") == 3


def test_a_phantom_without_its_truth_is_named(cohort, tmp_path):
    (outcome,) = label_cohort(cohort / "prepared", truth=tmp_path)
    assert outcome.failure.endswith("no such file, expected the truth of a clinical phantom.")
    assert json.loads((cohort / "prepared" / f"{STEM}_desc-labels.json").read_text())["Route"] == "truth"
