"""Layouts: which files make up each raw scan."""

import json
import shutil
from pathlib import Path

import pytest

from scripts.cohort.layouts import find_scans
from transforms.errors import InputError


def _touch(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def _scan(root: Path, name: str, gradients: bool = True, **sidecar) -> Path:
    participant, *rest = name.split("_")
    session = [part for part in rest if part.startswith("ses-")]
    stem = root.joinpath(participant, *session, "dwi", f"{name}_dwi")
    for ending in ("bval", "bvec") if gradients else ():
        _touch(Path(f"{stem}.{ending}"))
    if sidecar:
        _touch(Path(f"{stem}.json"), json.dumps(sidecar))
    return _touch(Path(f"{stem}.nii.gz"))


@pytest.fixture
def bids(tmp_path, heads) -> Path:
    root = tmp_path / "raw"
    heads.describe(root, "raw")
    return root


def test_runs_and_sessions_are_scans_of_their_own(bids):
    names = ["sub-01_dir-AP", "sub-01_dir-PA", "sub-02_ses-1", "sub-02_ses-2_dir-AP_run-02", "sub-10"]
    paths = {name: _scan(bids, name) for name in reversed(names)}
    _touch(bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    _touch(bids / "sub-01" / "dwi" / "sub-01_dir-AP_sbref.nii.gz")
    scans = find_scans("bids", bids)
    assert [scan.name for scan in scans] == names
    assert [scan.participant for scan in scans] == ["sub-01", "sub-01", "sub-02", "sub-02", "sub-10"]
    for scan in scans:
        assert scan.dwi == paths[scan.name]
        stem = str(scan.dwi).removesuffix(".nii.gz")
        assert (str(scan.bval), str(scan.bvec)) == (f"{stem}.bval", f"{stem}.bvec")
        assert scan.brain_mask is None
        assert scan.phase_encoding == {}
        assert str(scan) == scan.name


@pytest.mark.parametrize("relative", [False, True])
def test_derivatives_in_the_raw_folder_are_not_raw(bids, heads, monkeypatch, relative):
    raw = _scan(bids, "sub-01")
    derivatives = bids / "derivatives" / "pipeline"
    heads.describe(derivatives, "derivative")
    _scan(derivatives, "sub-01_desc-preproc")
    _scan(bids / "derivatives", "sub-02")
    monkeypatch.chdir(bids.parent)
    scans = find_scans("bids", Path(bids.name) if relative else bids)
    assert [scan.dwi.resolve() for scan in scans] == [raw]


def test_gradients_and_phase_encoding_are_inherited_from_the_root(bids):
    _scan(bids, "sub-01", gradients=False)
    _scan(bids, "sub-02", gradients=True, PhaseEncodingDirection="i")
    shared = [_touch(bids / f"dwi.{ending}") for ending in ("bval", "bvec")]
    _touch(bids / "dwi.json", json.dumps({"PhaseEncodingDirection": "j-"}))
    first, second = find_scans("bids", bids)
    assert [first.bval, first.bvec] == shared
    assert first.phase_encoding == {"PhaseEncodingDirection": "j-"}
    assert (second.bval.name, second.bvec.name) == ("sub-02_dwi.bval", "sub-02_dwi.bvec")
    assert second.phase_encoding == {"PhaseEncodingDirection": "i"}


def test_phase_encoding_falls_back_to_the_axis(bids):
    _scan(bids, "sub-01", PhaseEncodingDirection="j-", PhaseEncodingAxis="j")
    _scan(bids, "sub-02", PhaseEncodingAxis="i")
    assert [scan.phase_encoding for scan in find_scans("bids", bids)] == [
        {"PhaseEncodingDirection": "j-"},
        {"PhaseEncodingAxis": "i"},
    ]


def test_missing_gradients_are_named_beside_the_scan(bids):
    dwi = _scan(bids, "sub-01", gradients=False)
    (scan,) = find_scans("bids", bids)
    assert (scan.bval, scan.bvec) == (dwi.with_name("sub-01_dwi.bval"), dwi.with_name("sub-01_dwi.bvec"))


def _mask(derivatives: Path, name: str, sidecar: bool = False) -> Path:
    participant, *rest = name.split("_")
    session = [part for part in rest if part.startswith("ses-")]
    path = derivatives.joinpath(participant, *session, "dwi", f"{name}_desc-brain_mask.nii.gz")
    if sidecar:
        _touch(Path(str(path).replace(".nii.gz", ".json")), "{}")
    return _touch(path)


def test_each_scan_gets_its_own_brain_mask_from_derivatives(bids, heads):
    derivatives = bids.parent / "masks"
    heads.describe(derivatives, "derivative")
    names = ["sub-01_dir-AP", "sub-01_dir-PA", "sub-02_ses-1", "sub-02_ses-2", "sub-03"]
    for name in names:
        _scan(bids, name)
    masks = {name: _mask(derivatives, name) for name in names if name not in ("sub-01_dir-PA", "sub-03")}
    _touch(derivatives / "sub-03" / "anat" / "sub-03_desc-brain_mask.nii.gz")
    _touch(derivatives / "sub-03" / "dwi" / "sub-03_desc-tumour_mask.nii.gz")
    found = {scan.name: scan.brain_mask for scan in find_scans("bids", bids, derivatives)}
    assert found == {name: masks.get(name) for name in names}


def test_the_sidecar_of_a_brain_mask_is_not_the_mask(bids, heads):
    derivatives = bids.parent / "masks"
    heads.describe(derivatives, "derivative")
    _scan(bids, "sub-01")
    mask = _mask(derivatives, "sub-01", sidecar=True)
    (scan,) = find_scans("bids", bids, derivatives)
    assert scan.brain_mask == mask


def test_a_scan_does_not_get_the_mask_of_one_with_more_entities(bids, heads):
    derivatives = bids.parent / "masks"
    heads.describe(derivatives, "derivative")
    for name in ("sub-01", "sub-01_acq-multi"):
        _scan(bids, name)
    masks = {name: _mask(derivatives, name) for name in ("sub-01", "sub-01_acq-multi")}
    assert {scan.name: scan.brain_mask for scan in find_scans("bids", bids, derivatives)} == masks


def test_hcp_names_files_and_mask(tmp_path):
    for subject in ("100307", "100206"):
        folder = tmp_path / subject / "T1w" / "Diffusion"
        for name in ("data.nii.gz", "bvals", "bvecs", "nodif_brain_mask.nii.gz"):
            _touch(folder / name)
    (tmp_path / "100307" / "T1w" / "Diffusion" / "nodif_brain_mask.nii.gz").unlink()
    _touch(tmp_path / "999999" / "T1w" / "T1w.nii.gz")
    first, second = find_scans("hcp", tmp_path)
    folder = tmp_path / "100206" / "T1w" / "Diffusion"
    assert (first.participant, first.name) == ("sub-100206", "sub-100206")
    assert (first.dwi, first.bval, first.bvec) == (folder / "data.nii.gz", folder / "bvals", folder / "bvecs")
    assert first.brain_mask == folder / "nodif_brain_mask.nii.gz"
    assert (second.name, second.brain_mask) == ("sub-100307", None)


def test_errors_say_what_was_expected(bids, heads, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    missing = tmp_path / "missing"
    cases = [
        (("bids", empty), "no dataset_description.json"),
        (("bids", bids), r"found no file sub-\*_dwi"),
        (("bids", missing), "no such folder"),
        (("hcp", missing), "no such folder"),
        (("hcp", empty), "found no folder <ID>/T1w/Diffusion"),
        (("dicom", empty), "'dicom', expected one of bids, hcp"),
        (("bids", bids, missing), "no such folder"),
        (("hcp", empty, bids), "found derivatives, expected none"),
    ]
    for arguments, sentence in cases:
        with pytest.raises(InputError, match=sentence) as raised:
            find_scans(*arguments)
        culprit = arguments[0] if arguments[0] == "dicom" else arguments[-1]
        assert str(culprit) in str(raised.value)
    shutil.rmtree(empty)


def test_phase_images_are_no_scans(bids):
    _scan(bids, "sub-01_part-mag")
    _scan(bids, "sub-01_part-phase")
    assert [scan.name for scan in find_scans("bids", bids)] == ["sub-01_part-mag"]


def test_the_description_of_an_earlier_processing_is_not_part_of_the_name(bids):
    _scan(bids, "sub-01_desc-preproc")
    assert [scan.name for scan in find_scans("bids", bids)] == ["sub-01"]
    _scan(bids, "sub-01")
    with pytest.raises(InputError, match="two versions of one scan"):
        find_scans("bids", bids)
