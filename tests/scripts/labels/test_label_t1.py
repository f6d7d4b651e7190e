"""What a T1, or a signal, that cannot be used costs: the tissues or its own voxels, and not the other labels."""

import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from label_files import FILES, VOXEL_SIZE, WHITE, entries, failure_of, grid, place, record, write
from monai.data import MetaTensor
from nibabel.affines import apply_affine

from scripts.cohort.prepare import prepare_cohort
from scripts.io.raw_scan import open_scan
from scripts.io.volume import read_volume
from scripts.labels import label_cohort, tissue_sources
from scripts.labels.alignment import Alignment
from scripts.labels.shell_on_grid import load_shell
from scripts.labels.t1_tissue import read_t1, tissue_from_t1
from transforms.errors import InputError


def with_t1(cohort, scheme, voxels, affine):
    """Give the first participant a T1."""
    path = write(cohort.parent / "raw/sub-01/anat/sub-01_T1w.nii.gz", affine, voxels, np.float32)
    prepare_cohort("bids", cohort.parent / "raw", cohort, scheme, voxel_size=VOXEL_SIZE)
    return path


BAD_T1S = {
    "damaged": (lambda t1: t1, "found a damaged file ("),
    "blank": (lambda t1: 0 * t1, "found no voxel above 0, expected a T1-weighted image of a head"),
    "slice": (lambda t1: t1[:, :, 7:8], "found an image of 72x80x4 mm, expected at least 40 mm along each axis"),
    "two volumes": (
        lambda t1: np.stack([t1, t1], axis=-1),
        "found an image of shape 18x20x16x2, expected 3 dimensions",
    ),
}


@pytest.mark.parametrize("case", BAD_T1S)
def test_a_t1_that_cannot_be_used_costs_the_tissues_and_not_the_fibres(cohort, heads, scheme, tmp_path, case, capfd):
    change, fault = BAD_T1S[case]
    affine, shape = grid(4.0)
    head = np.random.default_rng(0).uniform(50, 90, shape) * heads.in_head(heads.world_grid(affine, shape))
    t1 = with_t1(cohort, scheme, change(head), affine)
    if case == "damaged":
        t1.write_bytes(t1.read_bytes()[:-1000])
    assert failure_of(label_cohort(cohort)) is None
    (note,) = record(cohort)["Notes"]
    assert note.startswith(f"T1 not used: {t1}: {fault}")
    assert not note.endswith(".")
    assert f"sub-01: T1 not used: {t1}" in capfd.readouterr().err
    assert record(cohort)["Route"] == "FA and MD"
    entry = entries(cohort)["sub-01"]
    assert "tissue" not in entry
    assert (np.asarray(nib.load(cohort / entry["n_peaks"]).dataobj) > 0).sum() > 100
    # what cannot be read does not become the space of a segmentation
    given = write(tmp_path / "truth/sub-01/anat/sub-01_dseg.nii.gz", affine, place(heads.world_grid(affine, shape)))
    assert failure_of(label_cohort(cohort, tmp_path / "truth")).startswith(f"{t1}: {fault}"), given


def test_a_t1_with_a_fourth_axis_of_one_volume_is_the_same_t1(tmp_path):
    voxels = np.random.default_rng(0).uniform(1, 2, (12, 14, 16)).astype(np.float32)
    affine = np.diag([-5.0, 5.0, 5.0, 1.0])
    three = read_t1(write(tmp_path / "three.nii.gz", affine, voxels, np.float32))
    four = read_t1(write(tmp_path / "four.nii.gz", affine, voxels[..., None], np.float32))
    assert three.shape == four.shape == (1, 12, 14, 16)
    np.testing.assert_array_equal(three, four)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning:dipy")
@pytest.mark.parametrize(("inside", "outside", "fault"), [(100, 100, "no voxel of GM and WM"), (0, 100, "no brain")])
def test_a_t1_without_three_tissues_is_refused(heads, inside, outside, fault):
    affine, shape = grid(4.0)
    head = heads.in_head(heads.world_grid(affine, shape), scale=0.9)
    brain, t1 = (
        MetaTensor(torch.from_numpy(voxels)[None].float(), affine=torch.as_tensor(affine))
        for voxels in (head, np.where(head, inside, outside))
    )
    with pytest.raises(InputError, match=f"^found {fault}, expected"):
        tissue_from_t1(t1, brain)


@pytest.mark.parametrize("voxel_size", [3.0, 3.6])
def test_a_voxel_whose_signal_is_not_finite_costs_no_other(heads, scheme, tmp_path, voxel_size):
    cubes = [np.s_[10:12, 12:14, 9:11], np.s_[6:8, 15:17, 8:10]]
    found = {}
    for name in ("whole", "holes"):
        raw = heads.write_bids(tmp_path / name / "raw", ["sub-01"], dtype=np.float32)["sub-01"]
        if name == "holes":
            image = nib.load(raw.dwi)
            signal = np.array(image.dataobj)
            signal[(*cubes[0], 5)], signal[(*cubes[1], 0)] = np.nan, np.inf
            nib.save(nib.Nifti1Image(signal, image.affine), raw.dwi)
        out = tmp_path / name / "out"
        mask = heads.write_mask(tmp_path / name / "masks/sub-01/dwi/sub-01_desc-brain_mask.nii.gz", raw.affine)
        heads.describe(tmp_path / name / "masks", "derivative")
        prepare_cohort("bids", tmp_path / name / "raw", out, scheme, 1000.0, voxel_size, derivatives=mask.parents[2])
        (outcome,) = label_cohort(out)
        assert outcome.failure is None
        found[name] = {key: nib.load(out / path) for key, path in outcome.result.scan.entry.items() if key in FILES}
        found[name]["notes"] = record(out)["Notes"]
    affine = found["whole"]["white_matter"].affine
    assert found["whole"]["notes"] == []
    (note,) = found["holes"]["notes"]
    assert re.fullmatch(r"\d+ voxels? of the brain left out: not finite in a volume", note)
    voxels = np.stack(np.meshgrid(*map(np.arange, found["whole"]["white_matter"].shape), indexing="ij"), axis=-1)
    world = apply_affine(affine, voxels)
    centres = [apply_affine(raw.affine, [(part.start + part.stop - 1) / 2 for part in cube]) for cube in cubes]
    away = np.min([np.linalg.norm(world - centre, axis=-1) for centre in centres], axis=0)
    near, far = away < 2.7, away > 10
    for key in ("white_matter", "n_peaks"):
        whole, holes = (np.asarray(found[name][key].dataobj) for name in ("whole", "holes"))
        assert (whole[near] > 0).any()
        assert (holes[near] == 0).all()
        # the response of fibres is an average that changes a little
        assert (whole == holes)[far & (whole > 0)].mean() > 0.99


def test_a_scan_without_a_finite_voxel_is_left_out(cohort, heads):
    path = cohort.parent / "raw/sub-01/dwi/sub-01_dwi.nii.gz"
    image = nib.load(path)
    signal = np.asarray(image.dataobj, dtype=np.float32)
    # each volume has a signal in all its slices, and no voxel has one in all volumes
    odd = np.indices(signal.shape[:3]).sum(axis=0) % 2 == 1
    signal[odd, 3], signal[~odd, 4] = np.nan, np.inf
    nib.save(nib.Nifti1Image(signal, image.affine), path)
    with pytest.raises(InputError, match=r"sub-01_dwi\.nii\.gz: found no voxel of the brain that is finite"):
        load_shell(open_scan(path), read_volume(cohort / entries(cohort)["sub-01"]["mask"]), VOXEL_SIZE)


def test_a_segmentation_of_all_sessions_without_its_t1_is_noted(heads, scheme, tmp_path, monkeypatch):
    heads.describe(tmp_path / "raw", "raw")
    stem = tmp_path / "raw/sub-01/ses-2"
    heads.write_scan(stem / "dwi/sub-01_ses-2_dwi.nii.gz")
    affine, shape = grid(4.0)
    world = heads.world_grid(affine, shape)
    t1 = write(stem / "anat/sub-01_ses-2_T1w.nii.gz", affine, 100 * heads.in_head(world))
    write(tmp_path / "truth/sub-01/anat/sub-01_dseg.nii.gz", affine, np.full(shape, WHITE))
    prepare_cohort("bids", tmp_path / "raw", tmp_path / "out", scheme, voxel_size=VOXEL_SIZE)
    aligned = Alignment(np.eye(4), shift=0, turn=0, scaling=1, covered=1, dependence=1)
    monkeypatch.setattr(tissue_sources, "register_t1", lambda *images: aligned)

    def notes():
        (outcome,) = label_cohort(tmp_path / "out", tmp_path / "truth")
        assert outcome.failure is None
        return outcome.result.measures["notes"]

    assert notes() == [
        "sub-01_dseg.nii.gz is one of all sessions without its T1 beside it: placed by this session's T1"
    ]
    shutil.copy(t1, tmp_path / "truth/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    assert notes() == []
