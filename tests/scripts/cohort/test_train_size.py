"""A training of few participants takes the first ones of the datalist, with all of their scans."""

import json

import nibabel as nib
import numpy as np
import pytest

from scripts.cohort.datalist import load_entries
from transforms.errors import InputError


@pytest.fixture
def cohort(tmp_path):
    """Three participants, the second with two scans and the first without a mask."""
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
    entries = []
    for participant, scan in (("sub-3", "a"), ("sub-1", "b"), ("sub-1", "c"), ("sub-2", "d")):
        files = {"image": f"{scan}.nii.gz", "mask": f"{scan}_mask.nii.gz"}
        if participant == "sub-3":
            del files["mask"]
        for name in files.values():
            nib.save(image, tmp_path / name)
        entries.append({"participant": participant, "scan": scan, "checksum": scan, **files})
    (tmp_path / "datalist.json").write_text(
        json.dumps({"training": entries, "validation": [], "test": [], "checksum": "x"})
    )
    return tmp_path


@pytest.mark.parametrize(("participants", "scans"), [(None, "bcd"), (1, "bc"), (2, "bcd")])
def test_participants_count_and_not_scans(cohort, participants, scans):
    found = load_entries(str(cohort), "training", ["image", "mask"], participants=participants)
    assert "".join(entry["scan"] for entry in found) == scans


@pytest.mark.parametrize("participants", [0, 3])
def test_more_participants_than_there_are_is_said(cohort, participants):
    with pytest.raises(InputError, match=rf"training: found 2 participants, expected {participants} as asked for"):
        load_entries(str(cohort), "training", ["image", "mask"], participants=participants)
