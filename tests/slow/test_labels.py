"""Labels of real scans, of a phantom of life size, and by two Dask workers."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from scripts.cohort.label import label_cohort
from scripts.cohort.phantom import write_phantom
from scripts.cohort.prepare import prepare_cohort

pytestmark = pytest.mark.slow


def rows(prepared):
    with open(prepared / "labels.tsv", newline="") as file:
        return {row["scan"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_real_scan_without_a_t1_states_its_order_and_route(real, tmp_path):
    prepare_cohort("bids", real, tmp_path)
    assert not any(outcome.failure for outcome in label_cohort(tmp_path))
    row = rows(tmp_path)["sub-01"]
    assert (row["route"], row["sh_order"]) == ("FA and MD", "4")
    assert 350 < float(row["white_matter_ml"]) < 700
    assert float(row["one_peak"]) > 0.3
    sidecar = json.loads((tmp_path / "sub-01/dwi/sub-01_desc-peak_dwi.json").read_text())
    assert sidecar["SphericalHarmonicOrder"] == 4
    peak, white = (
        np.asarray(nib.load(tmp_path / f"sub-01/dwi/sub-01_desc-{name}.nii.gz").dataobj)
        for name in ("peak_dwi", "wm_mask")
    )
    # the callosum runs from left to right: in the middle plane of the head it is what is above the brain stem
    middle = np.argwhere(white > 0)[:, 0].mean().round().astype(int)
    across = np.abs(peak[middle - 1 : middle + 2])
    assert (across.argmax(axis=-1) == 0)[across.max(axis=-1) > 0.8].mean() > 0.3


def test_t1_of_a_real_scan_is_aligned(real, tmp_path):
    prepare_cohort("bids", real, tmp_path, bvalue=2500.0)
    assert not any(outcome.failure for outcome in label_cohort(tmp_path))
    found = rows(tmp_path)
    assert set(found) == {"sub-04_dir-AP", "sub-04_dir-PA"}
    for row in found.values():
        assert row["route"] == "T1"
        assert float(row["white_matter_dice"]) >= 0.6
        assert float(row["registration_shift_mm"]) < 6


def test_tissue_of_a_phantom_of_life_size(tmp_path):
    raw = write_phantom("clinical", 1, 3, tmp_path / "raw", "standard")
    prepare_cohort("bids", raw, tmp_path / "prepared")
    (outcome,) = label_cohort(tmp_path / "prepared")
    assert outcome.failure is None
    images = {
        name: nib.load(path)
        for name, path in (
            ("found", tmp_path / "prepared/sub-01/dwi/sub-01_desc-tissue_dseg.nii.gz"),
            ("mask", tmp_path / "prepared/sub-01/dwi/sub-01_desc-brain_mask.nii.gz"),
            ("truth", raw / "derivatives/truth/sub-01/dwi/sub-01_desc-tissue_dseg.nii.gz"),
        )
    }
    inside = np.argwhere(np.asarray(images["mask"].dataobj) > 0)
    world = nib.affines.apply_affine(images["mask"].affine, inside)
    there = np.rint(nib.affines.apply_affine(np.linalg.inv(images["truth"].affine), world)).astype(int)
    found = np.asarray(images["found"].dataobj)[tuple(inside.T)]
    truth = np.asarray(images["truth"].dataobj)[tuple(there.T)]
    overlaps = [2 * ((found == t) & (truth == t)).sum() / ((found == t).sum() + (truth == t).sum()) for t in (1, 2, 3)]
    assert np.mean(overlaps) >= 0.85


def test_two_workers_give_what_one_process_gives(tmp_path):
    raw = write_phantom("clinical", 2, 5, tmp_path / "raw")
    tables = []
    for jobs in (1, 2):
        prepare_cohort("bids", raw, tmp_path / f"prepared{jobs}")
        assert not any(outcome.failure for outcome in label_cohort(tmp_path / f"prepared{jobs}", jobs=jobs))
        tables.append((tmp_path / f"prepared{jobs}" / "labels.tsv").read_text())
    assert tables[0] == tables[1]
