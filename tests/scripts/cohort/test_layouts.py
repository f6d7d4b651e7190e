"""Layouts: which files make up each raw scan."""

import json
import os
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
        assert scan.sidecars == ()
        assert scan.acquisition()[0] == {}
        assert scan.notes == ()
        assert scan.problem is None
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


@pytest.mark.parametrize("kind", ["link to nothing", "pipe", "folder"])
def test_a_sidecar_that_is_no_file_is_said(bids, kind):
    """Cohorts of DataLad have links to what was not fetched."""
    path = Path(str(_scan(bids, "sub-01")).replace(".nii.gz", ".json"))
    _scan(bids, "sub-02")
    {"link to nothing": lambda: path.symlink_to("nowhere"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[
        kind
    ]()
    first, second = find_scans("bids", bids)
    assert first.notes == ("sub-01_dwi.json beside the scan is not a file that can be read: it does not count",)
    assert first.problem is None
    assert first.acquisition()[0] == {}
    assert second.notes == ()


def test_gradients_and_acquisition_are_inherited_from_the_root(bids):
    _scan(bids, "sub-01", gradients=False)
    own = _scan(bids, "sub-02", gradients=True, PhaseEncodingDirection="i")
    shared = [_touch(bids / f"dwi.{ending}") for ending in ("bval", "bvec")]
    common = _touch(bids / "dwi.json", json.dumps({"PhaseEncodingDirection": "j-", "EchoTime": 0.1}))
    first, second = find_scans("bids", bids)
    assert [first.bval, first.bvec] == shared
    assert first.notes == tuple(
        f"dwi.{ending} is inherited: there is no sub-01_dwi.{ending} beside the scan" for ending in ("bval", "bvec")
    )
    assert second.notes == ()
    assert first.sidecars == (common,)
    assert first.acquisition()[0] == {"PhaseEncodingDirection": "j-", "EchoTime": 0.1}
    assert (second.bval.name, second.bvec.name) == ("sub-02_dwi.bval", "sub-02_dwi.bvec")
    # field by field, the nearer file counts more
    assert second.sidecars == (own.with_name("sub-02_dwi.json"), common)
    assert second.acquisition()[0] == {"PhaseEncodingDirection": "i", "EchoTime": 0.1}


def test_a_sibling_with_more_entities_gives_nothing(bids):
    """A real scan got the table of another one, 11 degrees off, although its own lay beside it."""
    names = ("sub-01", "sub-01_acq-x", "sub-01_acq-rot_dir-PA", "sub-01_dir-PA")
    paths = {name: _scan(bids, name, EchoTime=index) for index, name in enumerate(names)}
    scans = {scan.name: scan for scan in find_scans("bids", bids)}
    assert set(scans) == set(names)
    for index, (name, dwi) in enumerate(paths.items()):
        stem = str(dwi).removesuffix(".nii.gz")
        assert (str(scans[name].bval), str(scans[name].bvec)) == (f"{stem}.bval", f"{stem}.bvec")
        assert scans[name].acquisition()[0] == {"EchoTime": index}
    paths["sub-01"].with_name("sub-01_dwi.bvec").unlink()
    assert {scan.name: scan for scan in find_scans("bids", bids)}["sub-01"].bvec.name == "sub-01_dwi.bvec"


def test_files_that_fit_equally_cost_their_scan_alone(bids):
    dwi = _scan(bids, "sub-01_acq-x_dir-PA", gradients=False)
    _scan(bids, "sub-02")
    for name in ("sub-01_acq-x_dwi", "sub-01_dir-PA_dwi"):
        for ending in ("bval", "bvec"):
            _touch(dwi.with_name(f"{name}.{ending}"))
    first, second = find_scans("bids", bids)
    assert second.problem is None
    with pytest.raises(InputError, match=r"^.*found sub-01_acq-x_dwi\.bvec and sub-01_dir-PA_dwi\.bvec in .*equally"):
        first.open(1000)


def test_a_broken_sidecar_costs_its_own_scan_and_of_another_modality_nothing(bids):
    for index, name in enumerate(("sub-01", "sub-02", "sub-03")):
        _scan(bids, name, EchoTime=index)
    broken = bids / "sub-02" / "dwi" / "sub-02_dwi.json"
    for other in ("sub-01/anat/sub-01_T1w.json", "sub-03/dwi/sub-03_sbref.json", "T1w.json", "task-rest_bold.json"):
        _touch(bids / other, "{")
    for content, sentence in ((b"{", "not JSON"), (b"[1]", "JSON list"), ('{"a": "\xe9"}'.encode("latin-1"), "UTF-8")):
        broken.write_bytes(content)
        first, second, third = find_scans("bids", bids)
        assert (first.acquisition()[0], third.acquisition()[0]) == ({"EchoTime": 0}, {"EchoTime": 2})
        with pytest.raises(InputError, match=sentence) as error:
            second.acquisition()
        assert str(error.value).startswith(f"{broken}: ")
    broken.write_bytes(b"\xef\xbb\xbf" + b'{"EchoTime": 7}')
    assert find_scans("bids", bids)[1].acquisition()[0] == {"EchoTime": 7}
    # a link to nothing is no file
    broken.unlink()
    broken.symlink_to(bids / "absent.json")
    assert find_scans("bids", bids)[1].acquisition()[0] == {}


def test_a_dangling_t1_is_no_t1(bids):
    _scan(bids, "sub-01")
    anat = bids / "sub-01" / "anat"
    anat.mkdir()
    (anat / "sub-01_T1w.nii.gz").symlink_to(bids / "absent.nii.gz")
    assert find_scans("bids", bids)[0].t1w is None
    second = _touch(anat / "sub-01_run-2_T1w.nii.gz")
    assert find_scans("bids", bids)[0].t1w == second


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
    scans = {scan.name: scan for scan in find_scans("bids", bids, derivatives)}
    assert {name: scan.brain_mask for name, scan in scans.items()} == {name: masks.get(name) for name in names}
    missing = (f"no brain mask of it in {derivatives}: one was found on the b0",)
    assert {name: scan.notes for name, scan in scans.items()} == {
        name: () if name in masks else missing for name in names
    }
    assert all(scan.notes == () for scan in find_scans("bids", bids)), "without derivatives none is missing"


@pytest.mark.parametrize(
    ("space", "taken"), [("dwi", True), ("orig", True), ("native", True), ("T1w", False), ("MNI152", False)]
)
def test_a_mask_in_the_space_of_the_scan_is_taken_and_another_is_not(bids, heads, space, taken):
    derivatives = bids.parent / "masks"
    heads.describe(derivatives, "derivative")
    _scan(bids, "sub-01_ses-1")
    name = f"sub-01_ses-1_space-{space}_desc-brain_mask.nii.gz"
    path = _touch(derivatives / "sub-01" / "ses-1" / "dwi" / name)
    (scan,) = find_scans("bids", bids, derivatives)
    assert scan.brain_mask == (path if taken else None)
    assert bool(scan.notes) is not taken


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


def test_two_masks_that_fit_one_scan_cost_it_alone(bids, heads):
    derivatives = bids.parent / "derivatives"
    heads.describe(derivatives, "derivative")
    for name in ("sub-01", "sub-02"):
        _scan(bids, name)
    masks = [_mask(derivatives, name) for name in ("sub-01", "sub-01_space-dwi", "sub-02")]
    first, second = find_scans("bids", bids, derivatives)
    assert (second.problem, second.brain_mask) == (None, masks[2])
    with pytest.raises(InputError) as error:
        first.open(1000)
    assert str(error.value) == f"{masks[0]} and {masks[1]}: found 2 brain masks of one scan, expected one."


def test_of_several_t1s_the_one_that_is_taken_is_named(bids):
    for name in ("sub-01", "sub-02"):
        _scan(bids, name)
        for run in ("run-1", "run-2") if name == "sub-01" else ("run-1",):
            _touch(bids / name / "anat" / f"{name}_{run}_T1w.nii.gz")
    first, second = find_scans("bids", bids)
    assert first.t1w.name == "sub-01_run-1_T1w.nii.gz"
    assert first.notes == ("of 2 T1-weighted images sub-01_run-1_T1w.nii.gz is taken",)
    assert second.notes == ()


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


def _hcp(root: Path, *folders: str) -> None:
    for folder in folders:
        for name in ("data.nii.gz", "bvals", "bvecs"):
            _touch(root / folder / "T1w" / "Diffusion" / name)


def test_visits_of_hcp_studies_are_sessions_of_one_participant(tmp_path):
    _hcp(tmp_path, "HCA6000000_V1_MR", "HCA6000000_V2_MR", "HCD0001305_V1_MR", "HCA6002236_V1")
    _hcp(tmp_path, "1001_01_MR", "1001_02_MR", "100307", "100307_7T", "100206_3T", "MGH_1001", "subject_01")
    found = {scan.name: scan.participant for scan in find_scans("hcp", tmp_path)}
    assert found == {
        "sub-100206_ses-3T": "sub-100206",
        "sub-100307": "sub-100307",
        "sub-100307_ses-7T": "sub-100307",
        "sub-1001_ses-01": "sub-1001",
        "sub-1001_ses-02": "sub-1001",
        "sub-HCA6000000_ses-V1": "sub-HCA6000000",
        "sub-HCA6000000_ses-V2": "sub-HCA6000000",
        "sub-HCA6002236_ses-V1": "sub-HCA6002236",
        "sub-HCD0001305_ses-V1": "sub-HCD0001305",
        # numbers of people and not of visits
        "sub-MGH_1001": "sub-MGH_1001",
        "sub-subject_01": "sub-subject_01",
    }


def test_two_hcp_folders_of_one_visit_are_refused(tmp_path):
    _hcp(tmp_path, "HCA6000000_V1", "HCA6000000_V1_MR", "HCA6000000_V2_MR")
    first, second = find_scans("hcp", tmp_path)
    assert second.problem is None
    with pytest.raises(InputError, match=r"/HCA6000000_V1/.* and .*/HCA6000000_V1_MR/.*: found several versions"):
        first.open(1000)


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


@pytest.mark.parametrize("other", ["sub-01_desc-preproc_dwi.nii.gz", "sub-01_dwi.nii"])
def test_two_versions_of_one_scan_cost_that_scan_alone(bids, other):
    dwi = _scan(bids, "sub-01")
    second = _touch(dwi.with_name(other))
    _scan(bids, "sub-02")
    first, untouched = find_scans("bids", bids)
    assert (first.name, untouched.name, untouched.problem) == ("sub-01", "sub-02", None)
    with pytest.raises(InputError) as error:
        first.open(1000)
    paths = " and ".join(map(str, sorted([dwi, second], key=lambda path: path.name)))
    assert str(error.value) == first.problem == f"{paths}: found several versions of one scan, expected one."


@pytest.mark.parametrize("name", ["sub-01 (1)", "sub-01_acq-a\nb", "sub-01_acq-K\udcf6ln"])
def test_a_name_that_a_datalist_cannot_hold_costs_its_scan_alone(bids, name):
    for each in (name, "sub-02"):
        _scan(bids, each)
    first, second = find_scans("bids", bids)
    assert second.problem is None
    with pytest.raises(InputError, match="expected letters, digits and the signs"):
        first.open(1000)


def test_hcp_folders_that_are_hidden_are_no_scans_and_copies_have_no_name(tmp_path):
    _hcp(tmp_path, "100307", ".trash", "100307 copy")
    first, copy = find_scans("hcp", tmp_path)
    assert (first.name, first.problem) == ("sub-100307", None)
    assert "expected letters, digits" in copy.problem


@pytest.mark.parametrize(
    ("folder", "name"),
    [("sub-03", "sub-05"), ("sub-03/ses-1", "sub-03_ses-2"), ("sub-03/ses-1", "sub-03"), ("sub-03", "sub-03_ses-1")],
)
def test_a_scan_in_the_folder_of_another_person_or_session_is_refused(bids, folder, name):
    _scan(bids, "sub-01_ses-1")
    for ending in ("nii.gz", "bval", "bvec"):
        _touch(bids / folder / "dwi" / f"{name}_dwi.{ending}")
    first, second = find_scans("bids", bids)
    assert first.problem is None
    found = f"found a scan of {name.replace('_', '/')} in the folder of {folder}"
    with pytest.raises(InputError, match=found):
        second.open(1000)


@pytest.mark.parametrize("ending", ["bval", "bvec"])
def test_an_own_table_that_is_no_file_is_not_replaced_by_an_inherited_one(bids, ending):
    own = Path(str(_scan(bids, "sub-01")).replace("nii.gz", ending))
    _touch(bids / f"dwi.{ending}")
    own.unlink()
    own.symlink_to(bids / "absent")
    (scan,) = find_scans("bids", bids)
    assert (getattr(scan, ending), scan.notes) == (own, ())


def test_an_hcp_mask_that_is_missing_is_said_and_a_link_to_nothing_is_named(tmp_path):
    _hcp(tmp_path, "100206", "100307")
    link = tmp_path / "100307" / "T1w" / "Diffusion" / "nodif_brain_mask.nii.gz"
    link.symlink_to("absent")
    first, second = find_scans("hcp", tmp_path)
    assert first.notes == ("there is no nodif_brain_mask.nii.gz beside the scan: a mask was found on the b0",)
    # opening it says that there is no such file
    assert (second.brain_mask, second.notes) == (link, ())
