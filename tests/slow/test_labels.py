"""Labels of real scans, and of a phantom of life size."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from scripts.cohort.prepare import prepare_cohort
from scripts.labels import label_cohort
from scripts.labels.tissue_sources import dice
from scripts.phantom import write_phantom
from scripts.phantom.truth import at_nearest_voxels
from transforms.diffusion import csd

pytestmark = pytest.mark.slow


@pytest.fixture
def without_fibres(monkeypatch):
    """Tissue alone: fibres take as long, and other tests look at them."""
    monkeypatch.setattr(
        csd, "_peaks_of_voxels", lambda signals, *_: (np.zeros(len(signals)), np.zeros((len(signals), 3)))
    )


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


def test_t1_of_a_real_scan_is_aligned(real, tmp_path, without_fibres):
    # one of its two scans, for each takes a minute
    shutil.copytree(real / "sub-04", tmp_path / "raw/sub-04", ignore=shutil.ignore_patterns("*_dir-PA_*"))
    shutil.copy(real / "dataset_description.json", tmp_path / "raw")
    prepared = tmp_path / "prepared"
    prepare_cohort("bids", tmp_path / "raw", prepared, bvalue=2500.0)
    assert not any(outcome.failure for outcome in label_cohort(prepared))
    (row,) = rows(prepared).values()
    assert row["route"] == "T1"
    assert float(row["white_matter_dice"]) >= 0.6
    assert float(row["registration_shift_mm"]) < 6


def test_tissue_of_a_phantom_of_life_size(tmp_path, without_fibres):
    raw = write_phantom("clinical", 1, 3, tmp_path / "raw", "standard")
    prepare_cohort("bids", raw, tmp_path / "prepared")
    (outcome,) = label_cohort(tmp_path / "prepared")
    assert outcome.failure is None
    mask, found = (
        nib.load(tmp_path / f"prepared/sub-01/dwi/sub-01_desc-{name}.nii.gz") for name in ("brain_mask", "tissue_dseg")
    )
    inside = np.asarray(mask.dataobj) > 0
    truth = at_nearest_voxels(raw / "derivatives/truth/sub-01/dwi/sub-01_desc-tissue_dseg.nii.gz", mask)[inside]
    labels = np.asarray(found.dataobj)[inside]
    overlaps = [dice(labels == t, truth == t) for t in (1, 2, 3)]
    assert np.mean(overlaps) >= 0.85
