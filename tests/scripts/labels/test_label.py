"""Labels: a segmentation's tissues come to stand at their places in the world, on the grid of the prepared scan."""

import hashlib
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from label_files import (
    CENTRE,
    FILES,
    FLUID,
    GRAY,
    SUBJECTS,
    VOXEL_SIZE,
    WHITE,
    entries,
    failure_of,
    grid,
    path_of,
    place,
    record,
    write,
)

from scripts.cohort.datalist import DATALIST, SPLITS, load_entries
from scripts.io.files import read_json
from scripts.labels import label_cohort, label_scan
from transforms.errors import InputError


@pytest.mark.parametrize(("size", "flip"), [(3.0, True), (1.7, True), (4.0, False), (5.0, True)])
def test_tissues_come_to_their_places_in_the_world(cohort, heads, tmp_path, size, flip):
    affine, shape = grid(size, flip)
    source = write(path_of(tmp_path / "truth", "sub-01"), affine, place(heads.world_grid(affine, shape)))
    outcomes = label_cohort(cohort, tmp_path / "truth")
    assert [outcome.failure is None for outcome in outcomes] == [str(outcome.item) == "sub-01" for outcome in outcomes]
    entry = entries(cohort)["sub-01"]
    assert entry["tissue"] == "sub-01/dwi/sub-01_desc-tissue_dseg.nii.gz"
    tissue, mask = (nib.load(cohort / entry[key]) for key in ("tissue", "mask"))
    np.testing.assert_array_equal(tissue.affine, mask.affine)
    assert nib.aff2axcodes(tissue.affine) == ("R", "A", "S")
    found, inside = np.asarray(tissue.dataobj), np.asarray(mask.dataobj) > 0
    assert found.dtype == np.uint8
    world = heads.world_grid(tissue.affine, tissue.shape)
    # half a voxel of either grid from a border, a label can be either
    clear = np.abs(world - CENTRE).min(axis=-1) > (size + VOXEL_SIZE) / 2
    for label in (GRAY, WHITE, FLUID):
        assert (inside & clear & (place(world) == label)).sum() > 20
    np.testing.assert_array_equal(found[inside & clear], place(world)[inside & clear])
    assert (found[~inside] == 0).all()
    assert (found[inside] > 0).all()
    sidecar = json.loads((cohort / "sub-01/dwi/sub-01_desc-tissue_dseg.json").read_text())
    assert sidecar["SourceChecksums"][source.name] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert sidecar["Route"] == "derivatives"
    assert sidecar["LabelMap"] == {"BG": 0, "GM": 1, "WM": 2, "CSF": 3}


def test_on_a_coarser_grid_the_largest_fraction_decides(cohort, tmp_path):
    """Stripes of a fifth fluid and the rest white matter are white matter everywhere; the nearest label is not."""
    affine, shape = grid(1.0)
    stripes = np.full(shape, WHITE)
    stripes[::5] = FLUID
    write(path_of(tmp_path / "truth", "sub-01"), affine, stripes)
    label_cohort(cohort, tmp_path / "truth")
    entry = entries(cohort)["sub-01"]
    found = np.asarray(nib.load(cohort / entry["tissue"]).dataobj)
    inside = np.asarray(nib.load(cohort / entry["mask"]).dataobj) > 0
    assert set(np.unique(found[inside])) == {WHITE}


def test_what_cannot_be_labelled_is_reported_and_keeps_what_it_had(cohort, heads, tmp_path):
    affine, shape = grid(4.0)
    good = place(heads.world_grid(affine, shape))
    first = tmp_path / "first"
    for subject in SUBJECTS:
        write(path_of(first, subject), affine, good)
    assert not any(outcome.failure for outcome in label_cohort(cohort, first))
    before, datalist = entries(cohort), read_json(cohort / DATALIST)
    kept = {name: (cohort / entry["tissue"]).read_bytes() for name, entry in before.items()}

    second = tmp_path / "second"
    write(path_of(second, "sub-01"), affine, np.where(good == FLUID, 4, good))
    shifted, _ = grid(4.0, shift=45.0)
    misplaced = write(path_of(second, "sub-02"), shifted, good)
    failures = {str(outcome.item): outcome.failure for outcome in label_cohort(cohort, second)}
    assert "found the labels 1, 2, 4, expected 0 (background), 1 (gray matter)" in failures["sub-01"]
    assert str(misplaced) in failures["sub-02"]
    assert "of the brain, expected at least half; is it aligned?" in failures["sub-02"]
    assert failures["sub-03"].startswith(f"{second / 'sub-03'}: found none, expected one file sub-03_desc-tissue_dseg")
    assert entries(cohort) == before
    assert read_json(cohort / DATALIST) == datalist
    assert {name: (cohort / entry["tissue"]).read_bytes() for name, entry in entries(cohort).items()} == kept


@pytest.mark.parametrize("value", [-1, 0.5, 9])
def test_values_that_are_no_index_of_a_tissue_are_refused(cohort, heads, tmp_path, value):
    affine, shape = grid(4.0)
    labels = place(heads.world_grid(affine, shape)).astype(np.float32)
    labels[0, 0, 0] = value
    write(path_of(tmp_path / "truth", "sub-01"), affine, labels, np.float32)
    failures = {str(outcome.item): outcome.failure for outcome in label_cohort(cohort, tmp_path / "truth")}
    assert f"found the labels {'-1, ' if value == -1 else ''}" in failures["sub-01"]
    assert "tissue" not in entries(cohort)["sub-01"]


def test_one_scan_gains_labels_and_the_others_and_the_split_stay(cohort, heads, tmp_path):
    before = read_json(cohort / DATALIST)
    affine, shape = grid(4.0)
    write(path_of(tmp_path / "truth", "sub-02"), affine, place(heads.world_grid(affine, shape)))
    label_cohort(cohort, tmp_path / "truth")
    after = read_json(cohort / DATALIST)
    for split in SPLITS:
        for old, new in zip(before[split], after[split], strict=True):
            stem = f"{old['scan']}/dwi/{old['scan']}"
            added = {key: f"{stem}_{end}.nii.gz" for key, end in FILES.items()}
            assert new == (old | added if old["scan"] == "sub-02" else old)
    assert after["checksum"] != before["checksum"]
    (split,) = [name for name in SPLITS if after[name][0]["scan"] == "sub-02"]
    assert load_entries(str(cohort), split, ["tissue"])[0]["tissue"] == str(cohort / after[split][0]["tissue"])
    rows = (cohort / "desc-tissue_dseg.tsv").read_text().splitlines()
    assert [row.split("\t")[0::2] for row in rows[1:]] == [["0", "BG"], ["1", "GM"], ["2", "WM"], ["3", "CSF"]]


def test_a_tissue_segmentation_is_preferred_to_another_and_two_are_refused(cohort, heads, tmp_path):
    affine, shape = grid(4.0)
    good = place(heads.world_grid(affine, shape))
    truth = tmp_path / "truth"
    for subject in SUBJECTS:
        write(path_of(truth, subject, "desc-aseg_dseg"), affine, np.full(shape, WHITE))
    write(path_of(truth, "sub-01"), affine, good)
    write(path_of(truth, "sub-03", "desc-lesion_dseg"), affine, good)
    failures = {str(outcome.item): outcome.failure for outcome in label_cohort(cohort, truth)}
    assert failures["sub-01"] is None
    assert failures["sub-02"] is None
    assert "found sub-03_desc-aseg_dseg.nii.gz, sub-03_desc-lesion_dseg.nii.gz, expected one file" in failures["sub-03"]
    assert GRAY in np.asarray(nib.load(cohort / entries(cohort)["sub-01"]["tissue"]).dataobj)


def test_folders_that_are_not_there_are_named(cohort, tmp_path):
    with pytest.raises(InputError, match="missing: no such folder, expected BIDS derivatives"):
        label_cohort(cohort, tmp_path / "missing")
    with pytest.raises(InputError, match=r"found no datalist\.json"):
        label_cohort(tmp_path, tmp_path)


def test_white_matter_that_is_none_by_the_diffusion_is_refused_and_doubt_is_noted(cohort, heads, tmp_path, capfd):
    affine, shape = grid(4.0)
    good = place(heads.world_grid(affine, shape))
    swapped = np.select([good == GRAY, good == WHITE], [WHITE, GRAY], good)
    path = write(path_of(tmp_path / "truth", "sub-01"), affine, swapped)
    failure = failure_of(label_cohort(cohort, tmp_path / "truth"))
    assert failure.startswith(f"{path}: found that its white matter overlaps the diffusion tensor's with a Dice of 0.")
    assert failure.endswith("expected at least 0.4; is it aligned, are its labels 1 (GM), 2 (WM), 3 (CSF)?")
    assert "tissue" not in entries(cohort)["sub-01"]
    # here all of the brain is anisotropic, white matter by the segmentation is not
    write(path, affine, good)
    capfd.readouterr()
    assert failure_of(label_cohort(cohort, tmp_path / "truth")) is None
    (note,) = record(cohort)["Notes"]
    assert re.fullmatch(
        r"white matter overlaps .* Dice of 0\.[45]\d, expected 0\.6 or more: are the tissues aligned\?", note
    )
    assert note in (cohort / "labels.tsv").read_text()
    assert f"sub-01: {note}" in capfd.readouterr().err


def test_another_order_of_volumes_in_the_json_is_noticed(cohort, heads, tmp_path):
    affine, shape = grid(4.0)
    truth = place(heads.world_grid(affine, shape))
    shares = np.stack([truth == index for index in (FLUID, GRAY, WHITE)], axis=-1)
    path = write(path_of(tmp_path / "truth", "sub-01", "probseg"), affine, shares, np.float32)
    sidecar = Path(str(path).replace(".nii.gz", ".json"))
    sidecar.write_text(json.dumps({"LabelMap": ["WM", "GM", "CSF"]}))
    assert failure_of(label_cohort(cohort, tmp_path / "truth")) is None
    assert str(sidecar) in record(cohort)["Sources"]
    before = np.asarray(nib.load(cohort / entries(cohort)["sub-01"]["tissue"]).dataobj)
    sidecar.write_text(json.dumps({"LabelMap": ["CSF", "GM", "WM"]}))
    assert failure_of(label_cohort(cohort, tmp_path / "truth")) is None
    after = np.asarray(nib.load(cohort / entries(cohort)["sub-01"]["tissue"]).dataobj)
    assert ((before == WHITE) == (after == FLUID)).all()


def test_labels_that_are_cut_off_leave_no_mixture_of_old_and_new(cohort, heads, tmp_path, monkeypatch):
    affine, shape = grid(4.0)
    truth = place(heads.world_grid(affine, shape))
    path = write(path_of(tmp_path / "truth", "sub-01"), affine, truth)
    label_cohort(cohort, tmp_path / "truth")
    write(path, affine, np.full(shape, WHITE))
    right, written = label_scan.write_nifti, []

    def stop(path, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        right(path, *arguments)

    monkeypatch.setattr(label_scan, "write_nifti", stop)
    with pytest.raises(KeyboardInterrupt):
        label_cohort(cohort, tmp_path / "truth")
    assert list(cohort.glob("sub-01/dwi/*_desc-labels.json")) == []
    there = {key for key in FILES if (cohort / entries(cohort)["sub-01"][key]).is_file()}
    assert there == {"tissue"}
    assert written == [cohort / entries(cohort)["sub-01"]["tissue"]]
    # what cannot be labelled then is not listed with what is gone
    monkeypatch.undo()
    path.unlink()
    assert "found none" in failure_of(label_cohort(cohort, tmp_path / "truth"))
    assert set(entries(cohort)["sub-01"]) & set(FILES) == {"tissue"}


@pytest.mark.parametrize(("key", "value"), [("Labels", None), ("Measures", None), ("Measures", {}), ("Measures", "x")])
def test_a_record_that_was_edited_into_none_is_made_again(cohort, key, value):
    assert failure_of(label_cohort(cohort)) is None
    whole, path = record(cohort), cohort / "sub-01/dwi/sub-01_desc-labels.json"
    path.write_text(json.dumps(whole | {key: value}))
    assert failure_of(label_cohort(cohort)) is None
    assert record(cohort) == whole


def test_raw_files_that_are_none_are_said(cohort):
    path = cohort / "sub-01/dwi/sub-01_desc-attenuation_dwi.json"
    path.write_text(json.dumps(read_json(path) | {"RawFiles": {"dwi": 7}}))
    assert "found RawFiles = {'dwi': 7}, expected the places of the raw scan" in failure_of(label_cohort(cohort))


@pytest.mark.parametrize("names", [7, {"WM": 1}, [1, 2, 3], [["WM"]]])
def test_names_of_volumes_that_are_none_are_said(cohort, tmp_path, names):
    affine, shape = grid(4.0)
    path = write(path_of(tmp_path / "truth", "sub-01", "probseg"), affine, np.ones((*shape, 3)) / 3, np.float32)
    Path(str(path).replace(".nii.gz", ".json")).write_text(json.dumps({"LabelMap": names}))
    assert "found LabelMap = " in failure_of(label_cohort(cohort, tmp_path / "truth"))
