"""What preparation says of each scan, in the log, the sidecar and the table; masks and volumes that are left out."""

import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from cohort_files import GOOD, rows, same_images, sidecar_of, stem_of

from scripts.cohort.datalist import DATALIST, SPLITS
from scripts.io.files import read_json
from scripts.io.gradients import read_scheme
from transforms.errors import InputError


def test_axes_that_are_spread_unevenly_lower_the_order_and_are_noted(tmp_path, heads, prepare, caplog):
    """Every fourth or so of 64 axes: 16 would do for order 4, but between them a gap is left."""
    picked = read_scheme(None)[np.linspace(0, 63, 16).astype(int)]
    uneven = np.vstack([np.zeros(4), np.column_stack([picked, np.full(16, 1000.0)])])
    heads.write_bids(tmp_path / "raw", ["sub-01"], gradients=uneven)
    prepare(tmp_path / "raw", tmp_path / "out")
    sidecar = sidecar_of(tmp_path / "out", "sub-01")
    assert sidecar["DistinctAxes"] == 16
    assert sidecar["HighestSphericalHarmonicOrder"] == 2
    # the angle to the nearest axis of a fine grid of directions
    grid = np.random.default_rng(0).standard_normal((20000, 3))
    cosine = np.abs(grid / np.linalg.norm(grid, axis=1, keepdims=True) @ picked.T).max(axis=1).min()
    assert sidecar["LargestGapDegrees"] == pytest.approx(np.degrees(np.arccos(cosine)), abs=4)
    (note,) = sidecar["Notes"]
    assert note.startswith(f"the gradient axes leave a gap of {sidecar['LargestGapDegrees']:.0f} degrees")
    assert f"sub-01: {note}" in caplog.messages
    assert any("SH order lowered from 8 to 2: 16 gradient axes are spread unevenly" in text for text in caplog.messages)


def test_the_table_has_a_line_for_each_scan(prepared):
    table = rows(prepared[0])
    assert list(table) == list(GOOD)
    datalist = read_json(prepared[0] / DATALIST)
    for subject, row in table.items():
        known = sidecar_of(prepared[0], subject)
        (split,) = [name for name in SPLITS if [entry["scan"] for entry in datalist[name]] == [subject]]
        assert row == {
            "scan": subject,
            "participant": subject,
            "split": split,
            "b0_volumes": "1",
            "shell_volumes": "16",
            "axes": "16",
            "sh_order": "4",
            "brain_mask": "found",
            "brain_ml": str(known["BrainMilliliters"]),
            "notes": "",
        }


def rewrite(scan, change) -> None:
    """Change the voxels of a raw scan, ``(X, Y, Z, N)``, as its image holds them."""
    image = nib.load(scan.dwi)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj).copy()), image.affine), scan.dwi)


def without(*volumes):
    def change(voxels):
        voxels[..., list(volumes)] = 0
        return voxels

    return change


def test_a_scan_that_was_stopped_early_is_prepared_of_what_it_has(tmp_path, heads, prepare, caplog):
    root, gradients = tmp_path / "raw", heads.table((0, 1), (1000, 20))
    scans = heads.write_bids(root, GOOD[:2], gradients=gradients)
    rewrite(scans["sub-01"], without(18, 19, 20))
    first, second = prepare(root, tmp_path / "out")
    assert (first.failure, second.failure) == (None, None)
    note = "volumes 18 to 20 left out: no signal"
    assert sidecar_of(tmp_path / "out", "sub-01")["Notes"] == [note]
    assert f"{scans['sub-01'].dwi}: {note}" in caplog.messages
    table = rows(tmp_path / "out")
    assert (table["sub-01"]["notes"], table["sub-02"]["notes"]) == (note, "")
    # what is prepared is that of a scan without these volumes
    other = heads.write_bids(tmp_path / "short", ["sub-01"], gradients=gradients)["sub-01"]
    rewrite(other, lambda voxels: voxels[..., :18])
    np.savetxt(other.bval, np.loadtxt(other.bval)[None, :18], fmt="%g")
    np.savetxt(other.bvec, np.loadtxt(other.bvec)[:, :18], fmt="%.8f")
    prepare(tmp_path / "short", tmp_path / "short_out")
    for name in ("attenuation_dwi", "b0_dwi", "brain_mask"):
        found, expected = (
            nib.load(f"{stem_of(tmp_path / out, 'sub-01')}{name}.nii.gz").get_fdata() for out in ("out", "short_out")
        )
        np.testing.assert_array_equal(found, expected)


def test_counts_are_those_of_the_volumes_that_were_used(tmp_path, heads, prepare):
    scans = heads.write_bids(tmp_path / "raw", ["sub-01"], gradients=heads.table((0, 2), (1000, 20)))
    rewrite(scans["sub-01"], without(1, 20, 21))
    prepare(tmp_path / "raw", tmp_path / "out")
    known = sidecar_of(tmp_path / "out", "sub-01")
    assert known["Volumes"] == {"b0": 1, "shell": 18}
    assert known["DistinctAxes"] == 18
    row = rows(tmp_path / "out")["sub-01"]
    assert (row["b0_volumes"], row["shell_volumes"], row["axes"]) == ("1", "18", "18")


def test_the_sidecar_names_the_files_that_were_inherited(tmp_path, heads, prepare):
    root = tmp_path / "raw"
    (scan,) = heads.write_bids(root, ["sub-01"]).values()
    other = heads.write_scan(
        root / "sub-01" / "dwi" / "sub-01_acq-x_dwi.nii.gz", gradients=heads.table((0, 1), (1000, 20))
    )
    for suffix in ("bval", "bvec"):
        getattr(scan, suffix).rename(root / f"dwi.{suffix}")
    (root / "dwi.json").write_text('{"EchoTime": 0.1, "PhaseEncodingDirection": "AP"}')
    (root / "sub-01" / "sub-01_dwi.json").write_text('{"PhaseEncodingDirection": "j"}')
    prepare(root, tmp_path / "out")
    first = sidecar_of(tmp_path / "out", "sub-01")
    shared = [root / name for name in ("sub-01/sub-01_dwi.json", "dwi.json")]
    assert first["Sources"] == [str(path) for path in (scan.dwi, root / "dwi.bval", root / "dwi.bvec", *shared)]
    assert first["PhaseEncodingDirection"] == "j"
    assert first["Volumes"]["shell"] == 16
    second = read_json(tmp_path / "out" / "sub-01" / "dwi" / "sub-01_acq-x_desc-attenuation_dwi.json")
    assert second["Sources"] == [str(path) for path in (other.dwi, other.bval, other.bvec, *shared)]
    assert second["Volumes"]["shell"] == 20


@pytest.mark.parametrize("content", [b"{", b"[1, 2]", '{"a": "\xe9"}'.encode("latin-1")])
def test_a_broken_sidecar_costs_its_own_scan_alone(tmp_path, heads, prepare, content):
    root = tmp_path / "raw"
    heads.write_bids(root, GOOD)
    broken = root / "sub-02" / "dwi" / "sub-02_dwi.json"
    broken.write_bytes(content)
    (root / "sub-01" / "anat").mkdir()
    (root / "sub-01" / "anat" / "sub-01_T1w.json").write_bytes(content)
    outcomes = {str(outcome.item): outcome.failure for outcome in prepare(root, tmp_path / "out")}
    assert (outcomes["sub-01"], outcomes["sub-03"]) == (None, None)
    assert outcomes["sub-02"].startswith(f"{broken}: found ")
    assert not (tmp_path / "out" / "sub-02").exists()


def test_a_broken_sidecar_that_scans_share_is_noted_and_costs_none(tmp_path, heads, prepare):
    root = tmp_path / "raw"
    heads.write_bids(root, GOOD[:2])
    (root / "dwi.json").write_text("{")
    # these two fit equally
    for name in ("sub-02_acq-x_dwi", "sub-02_dir-PA_dwi"):
        (root / "sub-02" / f"{name}.json").write_text("{}")
    second = root / "sub-02" / "dwi" / "sub-02_acq-x_dir-PA_dwi"
    for file in (root / "sub-02" / "dwi").glob("sub-02_dwi.*"):
        file.rename(f"{second}{file.name.removeprefix('sub-02_dwi')}")
    assert [outcome.failure for outcome in prepare(root, tmp_path / "out")] == [None, None]
    (note,) = sidecar_of(tmp_path / "out", "sub-01")["Notes"]
    assert note.startswith(f"a shared sidecar does not count: {root / 'dwi.json'}: found ")
    sidecar = read_json(tmp_path / "out" / "sub-02" / "dwi" / "sub-02_acq-x_dir-PA_desc-attenuation_dwi.json")
    (note,) = sidecar["Notes"]
    assert note.startswith("no sidecar counts: ")
    assert "fit the scan equally" in note


def test_two_versions_and_a_pipe_cost_their_scans_alone(tmp_path, heads, prepare):
    root = tmp_path / "raw"
    scans = heads.write_bids(root, GOOD)
    shutil.copy(scans["sub-01"].dwi, scans["sub-01"].dwi.with_name("sub-01_desc-preproc_dwi.nii.gz"))
    scans["sub-02"].bval.unlink()
    os.mkfifo(scans["sub-02"].bval)
    first, second, third = prepare(root, tmp_path / "out")
    assert "found several versions of one scan, expected one" in first.failure
    assert second.failure.startswith(f"{scans['sub-02'].bval}: no such file")
    assert third.failure is None


def test_a_cohort_of_one_says_that_validation_and_test_are_empty(tmp_path, heads, prepare, caplog):
    heads.write_bids(tmp_path / "raw", ["sub-01"])
    out = tmp_path / "out"
    prepare(tmp_path / "raw", out)
    expected = [f"{out}: no participant in {split}; the cohort has 1." for split in ("validation", "test")]
    assert [message for message in caplog.messages if "no participant" in message] == expected
    caplog.clear()
    prepare(tmp_path / "raw", tmp_path / "other", split=(1, 1, 0))
    assert [message for message in caplog.messages if "no participant" in message] == [
        f"{tmp_path / 'other'}: no participant in validation; the cohort has 1."
    ]


def test_a_mask_of_0_and_255_with_a_fourth_axis_is_prepared_as_the_one_of_0_and_1(tmp_path, heads, prepare):
    root, derivatives = tmp_path / "raw", tmp_path / "masks"
    scans = heads.write_bids(root, GOOD[:2], orientation="LPS")
    heads.describe(derivatives, "derivative")
    mask = heads.write_mask(
        derivatives / "sub-01" / "dwi" / "sub-01_space-dwi_desc-brain_mask.nii.gz", scans["sub-01"].affine, 0.7
    )
    prepare(root, tmp_path / "binary", derivatives=derivatives)
    voxels = np.asarray(nib.load(mask).dataobj)
    soft = np.where(voxels > 0, 255, 0).astype(np.float32)[..., None]
    nib.save(nib.Nifti1Image(soft, scans["sub-01"].affine), mask)
    prepare(root, tmp_path / "soft", derivatives=derivatives)
    same_images(tmp_path / "soft", tmp_path / "binary")
    known = sidecar_of(tmp_path / "soft", "sub-01")
    assert known["BrainMask"] == "given"
    assert str(mask) in known["Sources"]
    world = heads.world_grid(scans["sub-01"].affine, voxels.shape)
    volume = heads.in_head(world, 0.7).sum() * 27 / 1000
    # voxels of 3 mm to voxels of 4 mm
    assert known["BrainMilliliters"] == pytest.approx(volume, rel=0.1)


def test_a_mask_of_probabilities_costs_its_scan_alone(tmp_path, heads, prepare):
    root, derivatives = tmp_path / "raw", tmp_path / "masks"
    scans = heads.write_bids(root, GOOD[:2])
    heads.describe(derivatives, "derivative")
    mask = heads.write_mask(derivatives / "sub-01" / "dwi" / "sub-01_desc-brain_mask.nii.gz", scans["sub-01"].affine)
    soft = np.asarray(nib.load(mask).dataobj) * np.random.default_rng(0).random(nib.load(mask).shape)
    nib.save(nib.Nifti1Image(soft.astype(np.float32), scans["sub-01"].affine), mask)
    first, second = prepare(root, tmp_path / "out", derivatives=derivatives)
    assert first.failure.startswith(f"{mask}: found ")
    assert second.failure is None


def test_a_scan_without_a_mask_in_the_derivatives_is_named(tmp_path, heads, prepare, caplog):
    root, derivatives = tmp_path / "raw", tmp_path / "masks"
    scans = heads.write_bids(root, GOOD[:2])
    heads.describe(derivatives, "derivative")
    heads.write_mask(derivatives / "sub-01" / "dwi" / "sub-01_desc-brain_mask.nii.gz", scans["sub-01"].affine)
    prepare(root, tmp_path / "out", derivatives=derivatives)
    note = f"no brain mask of it in {derivatives}: one was found on the b0"
    assert f"sub-02: {note}" in caplog.messages
    assert f"sub-01: {note}" not in caplog.messages
    found = rows(tmp_path / "out")
    assert [found[name]["brain_mask"] for name in GOOD[:2]] == ["given", "found"]
    assert [found[name]["notes"] for name in GOOD[:2]] == ["", note]


def test_b0_volumes_of_60_and_65_are_taken_where_that_is_asked_for(tmp_path, heads, prepare):
    shells = heads.table((0, 2), (1000, 16))
    shells[:2, 3] = 60, 65
    heads.write_bids(tmp_path / "raw", ["sub-01"], gradients=shells)
    (refused,) = prepare(tmp_path / "raw", tmp_path / "strict")
    assert "expected at least one volume of b <= 50" in refused.failure
    (done,) = prepare(tmp_path / "raw", tmp_path / "out", b0_max=70.0)
    assert done.failure is None
    known = sidecar_of(tmp_path / "out", "sub-01")
    assert known["Volumes"] == {"b0": 2, "shell": 16}
    assert known["Preparation"]["b0_max"] == 70.0
    with pytest.raises(InputError, match="found a cohort prepared with"):
        prepare(tmp_path / "raw", tmp_path / "out")
    for limit in (-1.0, 1000.0):
        with pytest.raises(InputError, match="b0-max: found"):
            prepare(tmp_path / "raw", tmp_path / "none", b0_max=limit)
