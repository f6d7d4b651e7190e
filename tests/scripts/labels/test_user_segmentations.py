"""Given segmentations: one truth, written as each tool writes it, is the same labels on the grid of the scan."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.labels.user_segmentations import (
    find_segmentation,
    in_t1_space,
    read_labels,
    t1_of,
    tissue_from_segmentation,
)
from transforms.errors import InputError

CENTRE = np.array([4.0, -7.0, 11.0])
SHAPE = (19, 23, 31)
GRAY, WHITE, FLUID = 1, 2, 3
LEFT_FREESURFER = {0: 0, GRAY: 3, WHITE: 2, FLUID: 4}
PARCELLATED = {0: 0, GRAY: 2024, WHITE: 41, FLUID: 24}
FAST = {0: 0, GRAY: 2, WHITE: 3, FLUID: 1}


def truth_at(world):
    """Fluid on the left, on the right gray matter in front and above, else white; nothing 26 mm from the centre."""
    right, front, above = np.moveaxis(world > CENTRE, -1, 0)
    tissue = np.where(~right, FLUID, np.where(front & above, GRAY, WHITE))
    return np.where(np.linalg.norm(world - CENTRE, axis=-1) < 26, tissue, 0)


@pytest.fixture
def grid(heads, affine_of):
    """Return the function from voxel axes, voxel sizes and shape to an affine around the centre, and its places."""

    def make(axes, voxel_size=(2.0, 1.5, 3.0), shape=(37, 43, 23)):
        affine = affine_of(axes, voxel_size)
        affine[:3, 3] += CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2) - affine[:3, 3]
        return affine, heads.world_grid(affine, shape)

    return make


def save(path, voxels, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = nib.freesurfer.MGHImage if path.suffix == ".mgz" else nib.nifti1.Nifti1Image
    nib.save(kind(voxels, affine), path)


def as_labels(name, names):
    def write(folder, truth, affine):
        save(folder / name, np.vectorize(names.get)(truth).astype(np.int32), affine)

    return write


def as_shares(pattern, names):
    def write(folder, truth, affine):
        for name, index in names.items():
            save(folder / pattern.format(name), (truth == index).astype(np.float32), affine)

    return write


def as_volumes(folder, truth, affine):
    order = {"CSF": FLUID, "WM": WHITE, "GM": GRAY}
    save(folder / "dwi/sub-01_probseg.nii.gz", np.stack([truth == n for n in order.values()], -1).astype("f4"), affine)
    (folder / "dwi/sub-01_probseg.json").write_text(json.dumps({"LabelMap": list(order)}))


SAME = {index: index for index in range(4)}
BIDS_SHARES = {"GM": GRAY, "WM": WHITE, "CSF": FLUID}
FAST_FILES = {"0": FLUID, "1": GRAY, "2": WHITE}
WAYS = {
    "a BIDS segmentation": as_labels("dwi/sub-01_desc-tissue_dseg.nii.gz", SAME),
    "BIDS probabilities": as_shares("dwi/sub-01_label-{}_probseg.nii.gz", BIDS_SHARES),
    "BIDS probabilities in one file": as_volumes,
    "fMRIPrep's segmentation": as_labels("anat/sub-01_dseg.nii.gz", SAME),
    "fMRIPrep's probabilities": as_shares("anat/sub-01_label-{}_probseg.nii.gz", BIDS_SHARES),
    "fMRIPrep's aseg": as_labels("anat/sub-01_desc-aseg_dseg.nii.gz", LEFT_FREESURFER),
    "fMRIPrep's aparc+aseg": as_labels("anat/sub-01_desc-aparcaseg_dseg.nii.gz", PARCELLATED),
    "FAST's shares": as_shares("anat/sub-01_T1w_brain_pve_{}.nii.gz", FAST_FILES),
    "fsl_anat's shares": as_shares("sub-01.anat/T1_fast_pve_{}.nii.gz", FAST_FILES),
    "FAST's labels": as_labels("anat/sub-01_T1w_brain_seg.nii.gz", FAST),
    "FAST's labels of shares": as_labels("anat/sub-01_T1w_brain_pveseg.nii.gz", FAST),
    "FreeSurfer's aseg": as_labels("mri/aseg.mgz", LEFT_FREESURFER),
    "FreeSurfer's aparc+aseg": as_labels("mri/aparc+aseg.mgz", PARCELLATED),
    "FreeSurfer's aseg as NIfTI": as_labels("mri/aseg.nii.gz", LEFT_FREESURFER),
}


def fill(folder, way, truth, affine):
    WAYS[way](folder / "sub-01", truth, affine)
    # what lies in a template's space or belongs to another session is never taken
    elsewhere = np.full(truth.shape, WHITE, dtype=np.uint8)
    for name in ("anat/sub-01_space-MNI152NLin2009cAsym_res-2_dseg.nii.gz", "ses-9/anat/sub-01_ses-9_dseg.nii.gz"):
        save(folder / "sub-01" / name, elsewhere, affine)


@pytest.mark.parametrize("orientation", ["LAS", "PIR", "oblique"])
@pytest.mark.parametrize("way", WAYS)
def test_one_truth_is_the_same_labels_however_it_is_written(grid, heads, orientations, tmp_path, way, orientation):
    affine, world = grid(orientations[orientation])
    fill(tmp_path, way, truth_at(world), affine)
    target, places = grid(orientations["RAS"], (2.4, 2.4, 2.4), SHAPE)
    brain = np.linalg.norm(places - CENTRE, axis=-1) < 22
    mask = MetaTensor(torch.from_numpy(brain)[None].float(), affine=torch.as_tensor(target))
    shares = tissue_from_segmentation(find_segmentation(tmp_path, "sub-01", "sub-01"), mask)
    # a voxel of either grid from a border, a label can be either
    clear = brain & (np.abs(places - CENTRE).min(axis=-1) > 3.0)
    expected = truth_at(places)
    assert {(clear & (expected == index)).sum() > 50 for index in (GRAY, WHITE, FLUID)} == {True}
    np.testing.assert_array_equal(shares.argmax(axis=0)[clear], expected[clear])
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-5)
    assert (shares[0, ~brain] == 1).all()


@pytest.mark.parametrize("way", WAYS)
def test_the_space_is_that_of_the_t1_where_the_place_or_the_name_says_so(tmp_path, way):
    fill(tmp_path, way, np.eye(4, dtype=int)[None], np.eye(4))
    found = find_segmentation(tmp_path, "sub-01", "sub-01_dir-AP" if "BIDS" not in way else "sub-01")
    assert {in_t1_space(path) for path in found} == {"BIDS" not in way}


def test_what_lies_in_the_space_of_the_scan_goes_before_the_t1s(tmp_path):
    for way in WAYS:
        fill(tmp_path, way, np.eye(4, dtype=int)[None], np.eye(4))
    names = [path.name for path in find_segmentation(tmp_path, "sub-01", "sub-01")]
    assert names == [f"sub-01_label-{name}_probseg.nii.gz" for name in ("GM", "WM", "CSF")]
    assert {path.parent.name for path in find_segmentation(tmp_path, "sub-01", "sub-01")} == {"dwi"}


def test_two_of_one_kind_and_labels_of_another_tool_are_refused(tmp_path):
    fill(tmp_path, "FAST's labels", np.eye(4, dtype=int)[None], np.eye(4))
    fill(tmp_path, "FAST's labels", np.eye(4, dtype=int)[None], np.eye(4))
    save(tmp_path / "sub-01/anat/sub-01_T2w_seg.nii.gz", np.ones((2, 3, 4), dtype=np.uint8), np.eye(4))
    with pytest.raises(InputError, match=r"sub-01: found sub-01_T1w_brain_seg\.nii\.gz, sub-01_T2w_seg\.nii\.gz"):
        find_segmentation(tmp_path, "sub-01", "sub-01")
    path = tmp_path / "sub-02/mri/aseg.mgz"
    save(path, np.full((2, 3, 4), 999, dtype=np.int32), np.eye(4))
    mask = MetaTensor(torch.ones(1, 2, 3, 4), affine=torch.eye(4))
    with pytest.raises(InputError, match=r"aseg\.mgz: found the labels 999, expected those of FreeSurfer"):
        tissue_from_segmentation([path], mask)
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"aseg\.mgz: found no readable image"):
        tissue_from_segmentation([path], mask)


@pytest.mark.parametrize("way", ["BIDS probabilities", "BIDS probabilities in one file", "a BIDS segmentation"])
def test_a_damaged_file_is_named(grid, heads, orientations, tmp_path, way):
    affine, world = grid(orientations["LAS"])
    fill(tmp_path, way, truth_at(world), affine)
    found = find_segmentation(tmp_path, "sub-01", "sub-01")
    found[-1].write_bytes(found[-1].read_bytes()[:-1500])
    mask = MetaTensor(torch.ones(1, 2, 3, 4), affine=torch.eye(4))
    with pytest.raises(InputError, match=rf"{found[-1].name}: found a damaged file .*, expected a whole NIfTI image"):
        tissue_from_segmentation(found, mask)


def test_a_fourth_axis_of_one_volume_changes_nothing(tmp_path, affine_of, orientations):
    truth = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype(np.uint8)
    affine = affine_of(orientations["LAS"])
    for name, voxels in (("three", truth), ("four", truth[..., None])):
        save(tmp_path / f"{name}_dseg.nii.gz", voxels, affine)
    three, four = (read_labels(tmp_path / f"{name}_dseg.nii.gz") for name in ("three", "four"))
    assert torch.equal(three, four)
    assert torch.equal(three.affine, four.affine)
    save(tmp_path / "two_dseg.nii.gz", np.stack([truth, truth], axis=-1), affine)
    with pytest.raises(InputError, match="found an image of shape 3x4x5x2, expected 3 dimensions"):
        read_labels(tmp_path / "two_dseg.nii.gz")


LONGER = {
    "all sessions": ("sub-01_ses-2_dir-AP", ["anat/sub-01_dseg"]),
    "all sessions, shares": ("sub-01_ses-2", [f"anat/sub-01_label-{name}_probseg" for name in ("GM", "WM", "CSF")]),
    "the T1's entities": ("sub-01", ["anat/sub-01_acq-mprage_run-1_dseg"]),
    "a session's T1": ("sub-01_ses-2_run-1", ["ses-2/anat/sub-01_ses-2_acq-mprage_rec-norm_desc-aseg_dseg"]),
    "all sessions, the T1's entities": ("sub-01_ses-2", ["anat/sub-01_acq-mprage_dseg"]),
}


@pytest.mark.parametrize("case", LONGER)
def test_a_segmentation_goes_by_the_name_of_its_t1(tmp_path, case):
    scan, names = LONGER[case]
    voxels = np.ones((2, 3, 4), dtype=np.uint8)
    # another session's, another diffusion scan's, and none at all in the space of the T1
    others = ("ses-9/anat/sub-01_ses-9_dseg", "dwi/sub-01_run-7_dseg", "anat/sub-01_acq-a_desc-preproc_T1w")
    for name in (*names, *others):
        save(tmp_path / "sub-01" / f"{name}.nii.gz", voxels, np.eye(4))
    assert find_segmentation(tmp_path, "sub-01", scan) == [tmp_path / "sub-01" / f"{name}.nii.gz" for name in names]
    assert t1_of(tmp_path / "sub-01" / f"{names[0]}.nii.gz") is None
    stem = names[0].removesuffix("_dseg").removesuffix("_label-GM_probseg").removesuffix("_desc-aseg")
    save(tmp_path / "sub-01" / f"{stem}_desc-preproc_T1w.nii.gz", voxels, np.eye(4))
    assert t1_of(tmp_path / "sub-01" / f"{names[0]}.nii.gz") == tmp_path / f"sub-01/{stem}_desc-preproc_T1w.nii.gz"


def test_what_is_nearer_to_the_scan_goes_before_and_two_t1s_are_refused(tmp_path):
    voxels = np.ones((2, 3, 4), dtype=np.uint8)

    def add(name):
        save(tmp_path / "sub-01" / f"{name}.nii.gz", voxels, np.eye(4))

    def found():
        return [path.name for path in find_segmentation(tmp_path, "sub-01", "sub-01_ses-2_dir-AP")]

    # shares of one T1 and labels of another cannot be told apart either
    for name in ("GM", "WM", "CSF"):
        add(f"anat/sub-01_run-1_label-{name}_probseg")
    add("anat/sub-01_run-2_dseg")
    with pytest.raises(
        InputError, match=r"found sub-01_run-1_label-GM.*, sub-01_run-2_dseg\.nii\.gz, expected one file"
    ):
        found()
    nearer = ["anat/sub-01", "ses-2/anat/sub-01_ses-2_run-1", "ses-2/anat/sub-01_ses-2", "anat/sub-01_ses-2_dir-AP"]
    for name in nearer:
        add(f"{name}_dseg")
        assert found() == [Path(f"{name}_dseg.nii.gz").name]
