"""What the header of a scan says of left and right: said where it says nothing, or two things."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from scripts.io.raw_scan import open_scan
from transforms.errors import InputError

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


def rotated(affine, degrees):
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
    return turn @ affine


@pytest.fixture
def edited(heads, tmp_path):
    """Write a scan of which a function edits the NIfTI image; return its path."""

    def write(edit):
        raw = heads.write_scan(tmp_path / "sub-01_dwi.nii.gz", orientation="oblique")
        image = nib.load(raw.dwi)
        changed = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
        edit(changed)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, changed.header), raw.dwi)
        return raw.dwi

    return write


@pytest.mark.parametrize(("degrees", "said"), [(1, False), (12, True), (170, True)])
def test_sform_and_qform_that_are_turned_against_each_other_are_said(edited, degrees, said):
    def turn(image):
        affine = image.affine.copy()
        image.set_sform(affine, 1)
        image.set_qform(rotated(affine, degrees), 1)

    path = edited(turn)
    note = f"sform and qform of the header disagree by {degrees} degrees: the sform is taken"
    assert open_scan(path).read().notes == ([note] if said else [])


def test_a_qform_that_is_none_is_said(edited):
    """A quaternion is longer than 1 in some headers."""
    path = edited(lambda image: image.set_sform(image.affine, 1))
    image = nib.load(path)
    image.header["quatern_b"], image.header["quatern_c"], image.header["quatern_d"] = 0.9, 0.9, 0.9
    image.header["qform_code"] = 1
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).copy(), None, image.header), path)
    opened = open_scan(path)
    assert opened.read().notes == ["the qform of the header is not a rotation: the sform is taken"]


def test_a_voxel_size_that_the_sform_contradicts_is_said(edited):
    def enlarge(image):
        image.set_sform(image.affine @ np.diag([1.5, 1.5, 1.5, 1]), 1)

    path = edited(enlarge)
    sides, stated = (nib.affines.voxel_sizes(nib.load(path).affine), nib.load(path).header["pixdim"][1:4])
    np.testing.assert_allclose(sides, 1.5 * stated, rtol=1e-4)
    (note,) = open_scan(path).read().notes
    first, second = ("x".join(f"{side:.4g}" for side in values) for values in (stated, sides))
    assert note == f"the header states voxels of {first} mm, its sform {second}: the sform is taken"


@pytest.mark.parametrize("factor", [1e-3, 10, 1e3])
def test_an_affine_in_another_unit_is_refused(edited, factor):
    """Metres, centimetres that were taken for millimetres, micrometres: the grid would not fit the memory."""
    path = edited(lambda image: image.set_sform(image.affine @ np.diag([factor, factor, factor, 1]), 1))
    with pytest.raises(InputError, match=rf"^{path}: found voxels of .* mm, expected sides of 0\.1 to 10 mm; is the"):
        open_scan(path)


@pytest.mark.parametrize(("degrees", "refused"), [(1, False), (20, True)])
def test_sheared_axes_are_refused(edited, degrees, refused):
    shear = np.eye(4)
    shear[0, 1] = np.tan(np.radians(degrees))
    # of voxels of one size, so that the axes meet at that angle
    path = edited(lambda image: image.set_sform(shear @ np.diag([2, 2, 2, 1]), 1))
    if refused:
        with pytest.raises(InputError, match=rf"^{path}: found an affine whose axes are 20 degrees off a right angle"):
            open_scan(path)
    else:
        open_scan(path)


@pytest.mark.parametrize("side", [0, 2])
def test_a_header_without_a_voxel_size_is_refused_where_nothing_else_states_it(edited, side):
    """nibabel takes 1 mm for 0."""
    path = edited(lambda image: (image.set_sform(None, 0), image.set_qform(None, 0)))
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[80 + 4 * side : 84 + 4 * side] = bytes(4)
    path.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(
        InputError, match=rf"^{path}: found a header with voxels of (0x3x3|3x3x0) mm and no sform, expected"
    ):
        open_scan(path)


def test_the_note_stands_in_the_sidecar_beside_what_is_wrong_with_volumes(scan):
    opened, _ = scan(0, 0)
    voxels = np.asarray(opened.image.dataobj).copy()
    voxels[..., 16] = 0
    image = nib.Nifti1Image(voxels, None, opened.image.header)
    nib.save(image, opened.path)
    assert open_scan(opened.path).read().notes == [UNKNOWN, "volume 16 left out: no signal"]
