"""A second preparation: what is prepared is kept, what changed or was cut off is made again, labels with it."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cohort_files import GOOD, same_images, sidecar_of, state, stem_of

import scripts.cohort.prepare as module
from scripts.cohort.datalist import DATALIST, SPLITS
from scripts.io.files import read_json, write_json
from scripts.io.raw_scan import open_scan
from transforms.errors import InputError


def test_a_second_preparation_does_nothing(copy, raw, prepare, monkeypatch):
    before = state(copy)

    def forbidden(*_):
        raise AssertionError("prepared twice")

    monkeypatch.setattr(module, "ScanToGrid", forbidden)
    outcomes = prepare(raw[0], copy)
    assert [str(outcome.item) for outcome in outcomes if outcome.result] == list(GOOD)
    after = state(copy)
    # the datalist and the table alone are written again, as they were
    assert {name for name in before if before[name] != after[name]} <= {"datalist.json", "scans.tsv"}
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }


def test_a_changed_source_is_prepared_again_and_alone(tmp_path, heads, prepare):
    root, out = tmp_path / "raw", tmp_path / "out"
    heads.write_bids(root, GOOD[:2])
    prepare(root, out)
    before, entries = state(out), read_json(out / DATALIST)
    dwi = root / "sub-02" / "dwi" / "sub-02_dwi.nii.gz"
    heads.write_scan(dwi, seed=77)
    prepare(root, out)
    after = state(out)
    changed = {name for name in before if before[name] != after[name]}
    assert all(name.startswith("sub-02") or name in ("datalist.json", "scans.tsv") for name in changed)
    assert "sub-02/dwi/sub-02_desc-attenuation_dwi.nii.gz" in changed
    fresh = tmp_path / "fresh"
    prepare(root, fresh)
    same_images(out, fresh)
    assert read_json(out / DATALIST)["checksum"] != entries["checksum"]
    checksums = {entry["scan"]: entry["checksum"] for split in SPLITS for entry in read_json(out / DATALIST)[split]}
    assert checksums["sub-02"] == open_scan(dwi).read(checksum=True).checksum


def test_another_way_to_prepare_is_refused_and_nothing_is_touched(copy, raw, prepare, tmp_path, scheme):
    before = state(copy)
    other = tmp_path / "other.bvec"
    np.savetxt(other, np.roll(np.loadtxt(scheme), 1, axis=0), fmt="%.8f")
    for options in ({"bvalue": 3000.0}, {"voxel_size": 3.0}, {"scheme": other}, {"scheme": None}):
        with pytest.raises(InputError, match="found a cohort") as raised:
            prepare(raw[0], copy, **options)
        assert str(copy) in str(raised.value)
        assert state(copy) == before


def test_what_was_interrupted_is_finished(copy, prepared, raw, prepare):
    stem = stem_of(copy, "sub-01")
    Path(f"{stem}attenuation_dwi.json").unlink()
    image = Path(f"{stem}attenuation_dwi.nii.gz")
    image.write_bytes(image.read_bytes()[:1000])
    Path(f"{stem_of(copy, 'sub-02')}brain_mask.nii.gz").unlink()
    stale = image.with_name(f".1.partial.{image.name}")
    stale.write_bytes(b"half")
    prepare(raw[0], copy)
    stale.unlink()
    same_images(copy, prepared[0])
    assert set(state(copy)) == set(state(prepared[0]))


def test_an_interruption_between_two_files_is_noticed(tmp_path, heads, prepare, monkeypatch):
    """The images of one source never stand with the sidecar of another, wherever the writing stops."""
    root, out, fresh = tmp_path / "raw", tmp_path / "out", tmp_path / "fresh"
    dwi = root / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
    heads.write_bids(root, ["sub-01"])
    first = dwi.read_bytes()
    prepare(root, out)
    shutil.copytree(out, fresh)
    heads.write_scan(dwi, seed=77)
    write = module.write_nifti

    def interrupted(path, *arguments, **options):
        if "b0" in path.name:
            raise KeyboardInterrupt
        write(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_nifti", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(root, out)
    assert not list(out.rglob(".*partial*"))
    # the first source comes back, and its attenuation has been overwritten meanwhile
    dwi.write_bytes(first)
    prepare(root, out)
    same_images(out, fresh)


def _add_labels(out: Path) -> None:
    """Give each scan of a cohort a tissue image, as ``label`` would."""
    datalist = json.loads((out / "datalist.json").read_text())
    for split in SPLITS:
        for entry in datalist[split]:
            entry["tissue"] = entry["mask"].replace("brain_mask", "tissue_dseg")
            shutil.copy(out / entry["mask"], out / entry["tissue"])
    (out / "datalist.json").write_text(json.dumps(datalist))


def test_labels_and_splits_survive_a_second_preparation(copy, raw, prepare):
    _add_labels(copy)
    before = read_json(copy / DATALIST)
    prepare(raw[0], copy, seed=5)
    after = read_json(copy / DATALIST)
    assert {split: after[split] for split in SPLITS} == {split: before[split] for split in SPLITS}
    assert all("tissue" in entry for split in SPLITS for entry in before[split])


def test_labels_of_a_changed_scan_are_dropped(tmp_path, heads, prepare):
    root, out = tmp_path / "raw", tmp_path / "out"
    heads.write_bids(root, GOOD[:2])
    prepare(root, out)
    _add_labels(out)
    heads.write_scan(root / "sub-02" / "dwi" / "sub-02_dwi.nii.gz", seed=77)
    prepare(root, out)
    labelled = {entry["scan"]: "tissue" in entry for split in SPLITS for entry in read_json(out / DATALIST)[split]}
    assert labelled == {"sub-01": True, "sub-02": False}


@pytest.mark.parametrize("changed", ["bvec", "bval", "json"])
def test_labels_of_other_gradients_are_dropped_though_the_voxels_are_the_same(tmp_path, heads, prepare, changed):
    root, out = tmp_path / "raw", tmp_path / "out"
    scans = heads.write_bids(root, GOOD[:2])
    for scan in scans.values():
        scan.dwi.with_name(scan.dwi.name.replace(".nii.gz", ".json")).write_text('{"PhaseEncodingDirection": "j"}')
    prepare(root, out)
    _add_labels(out)
    for name in scans:
        # as label records them
        made_of = {key: value for key, value in sidecar_of(out, name)["SourceChecksums"].items() if "json" not in key}
        write_json(out / f"{name}/dwi/{name}_desc-labels.json", {"SourceChecksums": made_of})
    path = scans["sub-02"].dwi.with_name(f"sub-02_dwi.{changed}")
    if changed == "json":
        path.write_text('{"PhaseEncodingDirection": "i"}')
    else:
        np.savetxt(path, np.loadtxt(path, ndmin=2)[::-1] * (1.001 if changed == "bval" else 1), fmt="%.8f")
    checksums = [outcome.result.checksum for outcome in prepare(root, out)]
    listed = {entry["scan"]: entry for split in SPLITS for entry in read_json(out / DATALIST)[split]}
    assert [listed[name]["checksum"] for name in scans] == checksums
    # fibres depend on the gradients, and not on the phase encoding
    assert {name: "tissue" in entry for name, entry in listed.items()} == {"sub-01": True, "sub-02": changed == "json"}


def test_labels_on_another_grid_than_the_scan_are_dropped(tmp_path, heads, prepare):
    """A new brain mask crops the scan anew; labels of the former grid no longer lie on it."""
    root, out = tmp_path / "raw", tmp_path / "out"
    scans = heads.write_hcp(root, ["100206"])
    prepare(root, out, "hcp")
    _add_labels(out)
    heads.write_mask(scans["100206"].mask, scans["100206"].affine, scale=0.5)
    prepare(root, out, "hcp")
    for entry in read_json(out / DATALIST)["training"]:
        shapes = {nib.load(out / entry[key]).shape[:3] for key in ("image", "mask", "tissue") if key in entry}
        assert len(shapes) == 1


def test_a_changed_sidecar_is_prepared_again(tmp_path, heads, prepare):
    root, out = tmp_path / "raw", tmp_path / "out"
    heads.write_bids(root, ["sub-01"], orientation="LAS")
    for code, expected in (("i", "i-"), ("col_dir", None), ("j-", "j-")):
        (root / "sub-01" / "dwi" / "sub-01_dwi.json").write_text(json.dumps({"PhaseEncodingDirection": code}))
        prepare(root, out)
        known = sidecar_of(out, "sub-01")
        assert known.get("PhaseEncodingDirection") == expected
        assert bool(known["Notes"]) is (expected is None)


def test_a_participant_whose_scan_fails_for_a_time_comes_back_to_the_same_split(tmp_path, heads, prepare):
    root, out = tmp_path / "raw", tmp_path / "out"
    names = [f"sub-{index:02d}" for index in range(1, 6)]
    scans = heads.write_bids(root, names)
    prepare(root, out, split=(2, 1, 2))

    def splits():
        return {entry["participant"]: split for split in SPLITS for entry in read_json(out / DATALIST)[split]}

    before = splits()
    checksum = read_json(out / DATALIST)["checksum"]
    gone = [name for name in names if before[name] == "test"]
    for name in gone:
        scans[name].bvec.rename(scans[name].bvec.with_suffix(".away"))
    heads.write_bids(root, ["sub-90", "sub-91", "sub-92"])
    prepare(root, out, split=(2, 1, 2))
    between = splits()
    assert not set(gone) & set(between)
    assert all(between[name] == before[name] for name in names if name not in gone)
    for name in gone:
        scans[name].bvec.with_suffix(".away").rename(scans[name].bvec)
    prepare(root, out, split=(2, 1, 2))
    assert splits() == before | {name: between[name] for name in ("sub-90", "sub-91", "sub-92")}
    assert read_json(out / DATALIST)["checksum"] != checksum


def test_what_a_dead_run_left_half_written_is_removed(copy, raw, prepare, prepared):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    folder = copy / "sub-01" / "dwi"
    left = folder / f".{socket.gethostname()}.{process.pid}.partial.sub-01_desc-b0_dwi.nii.gz"
    kept = folder / f".{socket.gethostname()}.{os.getppid()}.partial.sub-01_desc-b0_dwi.nii.gz"
    for path in (left, kept):
        path.write_bytes(b"half")
    prepare(raw[0], copy)
    assert (left.exists(), kept.exists()) == (False, True)
    kept.unlink()
    assert set(state(copy)) == set(state(prepared[0]))


def test_what_is_new_to_note_of_the_files_is_noted_by_a_second_preparation(tmp_path, heads, prepare, caplog):
    heads.write_bids(tmp_path / "raw", ["sub-01"])
    masks = tmp_path / "masks"
    masks.mkdir()
    for _ in range(2):
        prepare(tmp_path / "raw", tmp_path / "out")
    assert sidecar_of(tmp_path / "out", "sub-01")["Notes"] == []
    for _ in range(2):
        prepare(tmp_path / "raw", tmp_path / "out", derivatives=masks)
    note = f"no brain mask of it in {masks}: one was found on the b0"
    assert sidecar_of(tmp_path / "out", "sub-01")["Notes"] == [note]
    assert caplog.messages.count(f"sub-01: {note}") == 1
