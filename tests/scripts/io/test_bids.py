"""Names of BIDS files, and which files count for a scan by the inheritance principle."""

from pathlib import Path

import pytest

from scripts.io.bids import entities_of, hcp_name, inherited, scan_name, session_of
from transforms.errors import InputError


@pytest.fixture
def dataset(tmp_path):
    """Make empty files of a dataset, and find what counts for a scan: names relative to the dataset."""
    root = tmp_path / "raw"

    def find(scan, *files, ending=".bval"):
        for name in (scan, *files):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return [str(path.relative_to(root)) for path in inherited(root / scan, root, ending)]

    return find


DWI = "sub-01/ses-1/dwi"
SCAN = f"{DWI}/sub-01_ses-1_acq-x_dir-PA_desc-preproc_dwi.nii.gz"
OWN = SCAN.replace("nii.gz", "bval")


def test_the_file_of_the_own_name_comes_first(dataset):
    others = ("dwi.bval", f"{DWI}/sub-01_ses-1_acq-x_dwi.bval", "sub-01/sub-01_dwi.bval")
    assert dataset(SCAN, OWN, *others)[0] == OWN


def test_then_nearer_folders_and_of_a_folder_the_file_with_more_entities(dataset):
    found = dataset(
        SCAN,
        "dwi.bval",
        "acq-x_dir-PA_desc-preproc_dwi.bval",
        "sub-01/sub-01_dir-PA_dwi.bval",
        f"{DWI}/sub-01_dwi.bval",
        f"{DWI}/sub-01_ses-1_dwi.bval",
        f"{DWI}/sub-01_ses-1_acq-x_dwi.bval",
    )
    assert found == [
        f"{DWI}/sub-01_ses-1_acq-x_dwi.bval",
        f"{DWI}/sub-01_ses-1_dwi.bval",
        f"{DWI}/sub-01_dwi.bval",
        "sub-01/sub-01_dir-PA_dwi.bval",
        "acq-x_dir-PA_desc-preproc_dwi.bval",
        "dwi.bval",
    ]


@pytest.mark.parametrize(
    "other",
    [
        f"{DWI}/sub-01_ses-1_acq-x_dir-PA_desc-preproc_run-1_dwi.bval",  # one entity more
        f"{DWI}/sub-01_ses-1_acq-y_dwi.bval",  # another value
        f"{DWI}/sub-01_ses-1_acq-x_dir-PA_desc-eddy_dwi.bval",  # another processing
        f"{DWI}/sub-01_ses-1_space-T1w_dwi.bval",
        f"{DWI}/sub-01_ses-1_acq-x_sbref.bval",  # another suffix
        f"{DWI}/sub-01_ses-1_acq-x_dwi.bvec",  # another ending
        f"{DWI}/xdwi.bval",
        f"{DWI}/sub-01_ses-1_AP_dwi.bval",  # a word that is no entity
        f"{DWI}/sub-01_ses-1_old_dwi.bval",
        "old_dwi.bval",
        f"{DWI}/.sub-01_ses-1_dwi.bval",  # hidden
        "sub-01/ses-2/dwi/sub-01_dwi.bval",  # beside, not above
        "sub-01/dwi/sub-01_dwi.bval",
        "../dwi.bval",  # above the dataset
    ],
)
def test_what_has_other_entities_or_lies_elsewhere_never_counts(dataset, other):
    assert dataset(SCAN, other) == []


def test_desc_counts_as_an_entity(dataset):
    assert dataset("sub-01/dwi/sub-01_dwi.nii.gz", "sub-01/dwi/sub-01_desc-preproc_dwi.bval") == []
    assert dataset("sub-02/dwi/sub-02_acq-x_desc-eddy_dwi.nii.gz", "sub-02/dwi/sub-02_desc-eddy_dwi.bval") == [
        "sub-02/dwi/sub-02_desc-eddy_dwi.bval"
    ]


def test_two_files_of_a_folder_that_fit_equally_are_refused(dataset, tmp_path):
    with pytest.raises(InputError) as error:
        dataset(SCAN, f"{DWI}/sub-01_ses-1_acq-x_dwi.bval", f"{DWI}/sub-01_ses-1_dir-PA_dwi.bval")
    assert str(error.value) == (
        f"{tmp_path / 'raw' / SCAN}: found sub-01_ses-1_acq-x_dwi.bval and sub-01_ses-1_dir-PA_dwi.bval in "
        f"{tmp_path / 'raw' / DWI}, which fit the scan equally, expected one file {Path(OWN).name}."
    )


def test_files_that_fit_equally_but_less_than_another_do_not_matter(dataset):
    more = f"{DWI}/sub-01_ses-1_acq-x_dir-PA_dwi.bval"
    found = dataset(SCAN, more, f"{DWI}/sub-01_ses-1_acq-x_dwi.bval", f"{DWI}/sub-01_ses-1_dir-PA_dwi.bval")
    assert found[0] == more


def test_where_the_own_file_stands_others_may_be_ambiguous(dataset):
    assert dataset(SCAN, OWN, f"{DWI}/sub-01_ses-1_acq-x_dwi.bval", f"{DWI}/sub-01_ses-1_dir-PA_dwi.bval")[0] == OWN


def test_folders_and_links_to_nothing_are_no_files(dataset, tmp_path):
    folder = tmp_path / "raw" / DWI
    folder.mkdir(parents=True)
    (folder / Path(OWN).name).mkdir()
    (folder / "sub-01_ses-1_dwi.bval").symlink_to(folder / "absent")
    assert dataset(SCAN, "dwi.bval") == ["dwi.bval"]


def test_entities_are_those_between_underscores():
    path = Path("a-b_c-d") / "sub-01_ses-a1_acq-x_desc-preproc_dwi.nii.gz"
    assert entities_of(path) == {"sub": "01", "ses": "a1", "acq": "x", "desc": "preproc"}
    assert entities_of("dwi.bval") == {}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("sub-01/dwi/sub-01_dir-AP_desc-preproc_dwi.nii.gz", "sub-01_dir-AP"),
        ("sub-01/dwi/sub-01_dwi.nii", "sub-01"),
        ("cohort/100307/T1w/Diffusion/data.nii.gz", "sub-100307"),
        ("cohort/HCA6000000_V2_MR/T1w/Diffusion/data.nii.gz", "sub-HCA6000000_ses-V2"),
    ],
)
def test_a_scan_is_named_by_its_entities_or_its_hcp_folder(path, name):
    assert scan_name(path) == name


@pytest.mark.parametrize(
    ("folder", "participant", "scan"),
    [
        ("HCA6000000_V1_MR", "sub-HCA6000000", "sub-HCA6000000_ses-V1"),
        ("HCA6000000_V12", "sub-HCA6000000", "sub-HCA6000000_ses-V12"),
        ("HCA6000000_V1_X_MR", "sub-HCA6000000", "sub-HCA6000000_ses-V1"),
        ("HCA6000000_F2_MR", "sub-HCA6000000", "sub-HCA6000000_ses-F2"),
        ("1001_01_MR", "sub-1001", "sub-1001_ses-01"),
        ("100307_7T", "sub-100307", "sub-100307_ses-7T"),
        ("100307_3T", "sub-100307", "sub-100307_ses-3T"),
        ("100307", "sub-100307", "sub-100307"),
        ("hca6000000_v1_mr", "sub-hca6000000", "sub-hca6000000_ses-v1"),
        ("LS2001_V1A_MR", "sub-LS2001", "sub-LS2001_ses-V1A"),
        ("HCA6000000_MR_V1", "sub-HCA6000000", "sub-HCA6000000_ses-MRV1"),
        ("1001_1_MR", "sub-1001", "sub-1001_ses-1"),
        ("1001_01", "sub-1001", "sub-1001_ses-01"),
        ("100307-7T", "sub-100307", "sub-100307_ses-7T"),
        ("103818_retest", "sub-103818", "sub-103818_ses-retest"),
        ("103818_3T_Retest", "sub-103818", "sub-103818_ses-3TRetest"),
        ("sub-01_ses-1", "sub-01", "sub-01_ses-1"),
        ("sub-01", "sub-01", "sub-01"),
        ("MGH_1001", "sub-MGH_1001", "sub-MGH_1001"),
        ("subject_01", "sub-subject_01", "sub-subject_01"),
    ],
)
def test_a_visit_of_an_hcp_study_is_a_session(folder, participant, scan):
    assert hcp_name(folder) == (participant, scan)
    assert (session_of(scan) is None) == (participant == scan)
