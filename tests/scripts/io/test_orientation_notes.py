"""What the header of a scan says of left and right: said where it says nothing, or two things."""

import nibabel as nib
import numpy as np
import pytest

from scripts.io.raw_scan import open_scan

UNKNOWN = "the header states no orientation (codes of sform and qform are 0)"
OPPOSITE = "sform and qform of the header disagree on left and right: the sform is taken"


@pytest.fixture
def scan(heads, tmp_path):
    """Write a scan whose sform and qform are given with their codes; return it opened, and the affine before."""

    def write(sform, qform, flipped=""):
        raw = heads.write_scan(tmp_path / "sub-01_dwi.nii.gz", orientation="oblique")
        image = nib.load(raw.dwi)
        mirrored = image.affine @ np.diag([-1, 1, 1, 1])
        changed = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
        changed.set_sform(mirrored if flipped == "sform" else image.affine, sform)
        changed.set_qform(mirrored if flipped == "qform" else image.affine, qform)
        nib.save(changed, raw.dwi)
        return open_scan(raw.dwi), image.affine

    return write


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (1, 1), (2, 1)])
def test_a_header_that_states_one_orientation_needs_no_note(scan, sform, qform):
    opened, affine = scan(sform, qform)
    np.testing.assert_allclose(opened.affine, affine, atol=1e-4)
    assert opened.read().notes == []


def test_a_header_without_an_orientation_is_said(scan, caplog):
    opened, _ = scan(0, 0)
    assert opened.read().notes == [UNKNOWN]


@pytest.mark.parametrize("flipped", ["sform", "qform"])
def test_of_two_orientations_the_sform_counts_and_this_is_said(scan, flipped):
    opened, affine = scan(1, 1, flipped)
    assert opened.read().notes == [OPPOSITE]
    assert np.sign(np.linalg.det(opened.affine)) == np.sign(np.linalg.det(affine)) * (-1 if flipped == "sform" else 1)
    # one of them alone is no disagreement
    opened, _ = scan(1, 0, flipped)
    assert opened.read().notes == []


def test_the_note_stands_in_the_sidecar_beside_what_is_wrong_with_volumes(scan):
    opened, _ = scan(0, 0)
    voxels = np.asarray(opened.image.dataobj).copy()
    voxels[..., 16] = 0
    image = nib.Nifti1Image(voxels, None, opened.image.header)
    nib.save(image, opened.path)
    assert open_scan(opened.path).read().notes == [UNKNOWN, "volume 16 left out: no signal"]
