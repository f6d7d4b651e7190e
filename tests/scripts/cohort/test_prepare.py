"""Preparation: what is on disk is what the transforms give, whole, once, and in one way for a cohort."""

import csv
import gzip
import hashlib
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
from typer.testing import CliRunner

import scripts.cohort.prepare as module
from scripts.__main__ import app
from scripts.cohort.datalist import DATALIST, SPLITS
from scripts.cohort.prepare import prepare_cohort
from scripts.io.files import read_json
from scripts.io.gradients import read_gradients, read_scheme
from scripts.io.raw_scan import open_scan
from transforms.errors import InputError
from transforms.preprocessing import ScanToInput

VOXEL_SIZE = 4.0
GOOD = ("sub-01", "sub-02", "sub-03")


@pytest.fixture(scope="module")
def prepare(scheme):
    """Prepare on the small scheme and the large voxels of these tests."""

    def call(root, out, layout="bids", **options):
        return prepare_cohort(layout, root, out, **{"scheme": scheme, "voxel_size": VOXEL_SIZE, **options})

    return call


@pytest.fixture(scope="module")
def raw(tmp_path_factory, heads):
    """Three good participants, one of them oblique, and three that cannot be used."""
    root = tmp_path_factory.mktemp("raw")
    scans = heads.write_bids(root, [*GOOD, "sub-04", "sub-05"])
    scans |= heads.write_bids(root, ["sub-02"], orientation="oblique")
    scans |= heads.write_bids(root, ["sub-06"], gradients=heads.table((0, 1), (3000, 16)))
    content = scans["sub-04"].dwi.read_bytes()
    scans["sub-04"].dwi.write_bytes(content[: len(content) // 2])
    scans["sub-05"].bvec.write_text("1 0 0\n0 1 0\n0 0 1\n")
    for subject in GOOD[:2]:
        scans[subject].dwi.with_name(f"{subject}_dwi.json").write_text('{"PhaseEncodingDirection": "j-"}')
    return root, scans


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory, prepare):
    out = tmp_path_factory.mktemp("prepared") / "cohort"
    return out, prepare(raw[0], out)


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy of the prepared cohort, to be changed."""
    return shutil.copytree(prepared[0], tmp_path / "copy")


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of each file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def images(folder: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder)): nib.load(path).get_fdata() for path in sorted(folder.rglob("*.nii.gz"))}


def same_images(first: Path, second: Path) -> None:
    one, other = images(first), images(second)
    assert one.keys() == other.keys()
    assert one
    for name, voxels in one.items():
        np.testing.assert_array_equal(voxels, other[name], err_msg=name)


def _stem(folder: Path, subject: str) -> str:
    return str(folder / subject / "dwi" / f"{subject}_desc-")


@pytest.mark.parametrize("subject", ["sub-01", "sub-02"])
def test_files_hold_what_the_transforms_give(prepared, raw, scheme, subject):
    scan, stem = raw[1][subject], _stem(prepared[0], subject)
    opened = open_scan(scan.dwi, scan.bval, scan.bvec)
    data = ScanToInput(read_scheme(scheme), VOXEL_SIZE)({"raw_scan": opened})
    # there is a brain, and something around it
    assert 0.08 < float(data["mask"].mean()) < 0.9
    for name, key, tolerance in (
        ("attenuation_dwi", "image", 0.5 / 65535 + 1e-7),
        ("b0_dwi", "b0", 0),
        ("brain_mask", "mask", 0),
    ):
        image = nib.load(f"{stem}{name}.nii.gz")
        expected = data[key].numpy()
        found = np.moveaxis(image.get_fdata(dtype=np.float64), -1, 0) if key == "image" else image.get_fdata()[None]
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=name)
        np.testing.assert_allclose(image.affine, data["image"].affine.numpy(), atol=1e-5)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_allclose(image.header.get_zooms()[:3], VOXEL_SIZE, rtol=1e-5)
    # the gradient files belong to the image that stands beside them
    table = read_gradients(f"{stem}attenuation_dwi.bval", f"{stem}attenuation_dwi.bvec", data["image"].affine.numpy())
    np.testing.assert_allclose(table[:, :3], read_scheme(scheme), atol=1e-6)
    np.testing.assert_array_equal(table[:, 3], 1000)


def test_the_sidecar_says_how_the_scan_was_made(prepared, raw):
    scan = raw[1]["sub-01"]
    sidecar = json.loads(Path(f"{_stem(prepared[0], 'sub-01')}attenuation_dwi.json").read_text())
    sources = [scan.dwi, scan.bval, scan.bvec, scan.dwi.with_name("sub-01_dwi.json")]
    assert sidecar["Sources"] == [str(path) for path in sources]
    assert sidecar["SourceChecksums"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}
    assert sidecar["Volumes"] == {"b0": 1, "shell": 16}
    assert sidecar["DistinctAxes"] == 16
    # 15 coefficients of order 4 are determined by 16 axes, 28 of order 6 are not
    assert sidecar["HighestSphericalHarmonicOrder"] == 4
    assert sidecar["LargestGapDegrees"] < 35
    assert sidecar["BrainMask"] == "found"
    mask = nib.load(f"{_stem(prepared[0], 'sub-01')}brain_mask.nii.gz").get_fdata()
    assert sidecar["BrainMilliliters"] == pytest.approx(mask.sum() * VOXEL_SIZE**3 / 1000, abs=0.06)
    assert 1 <= sidecar["ConditionNumber"] <= 15
    assert sidecar["GradientsChecked"] is False
    assert sidecar["Notes"] == []
    assert sidecar["VoxelChecksum"] == open_scan(scan.dwi).read(checksum=True).checksum
    assert sidecar["PhaseEncodingDirection"] == "j-"
    stored = hashlib.sha256((prepared[0] / "scheme.bvec").read_bytes()).hexdigest()
    expected = {"bvalue": 1000.0, "voxel_size": VOXEL_SIZE, "scheme": stored, "b0_max": 50.0, "smoothing": 0.002}
    assert sidecar["Preparation"] == expected
    description = json.loads((prepared[0] / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["Preparation"] == sidecar["Preparation"]


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


def test_scans_that_cannot_be_used_are_left_out_with_their_reason(prepared, raw):
    failures = {str(outcome.item): outcome.failure for outcome in prepared[1]}
    assert [failures[subject] for subject in GOOD] == [None] * 3
    scans = raw[1]
    assert failures["sub-04"].startswith(f"{scans['sub-04'].dwi}: found a damaged file")
    assert failures["sub-05"] == f"{scans['sub-05'].bvec}: found 3 b-vectors, expected 17 as in sub-05_dwi.bval."
    assert failures["sub-06"] == (
        f"{scans['sub-06'].dwi}: found b = 0 (1 volume), 3000 (16 volumes), expected a shell of b = 1000 +- 100 s/mm2."
    )
    datalist = read_json(prepared[0] / DATALIST)
    assert sorted(entry["scan"] for split in SPLITS for entry in datalist[split]) == list(GOOD)
    assert [len(datalist[split]) for split in SPLITS] == [1, 1, 1]
    # nothing is left of those that failed half way
    assert {path.parts[0] for path in map(Path, images(prepared[0]))} == set(GOOD)


def test_a_scan_without_b_vectors_is_left_out_and_the_rest_is_done(tmp_path, heads, prepare):
    scans = heads.write_bids(tmp_path / "raw", GOOD[:2])
    scans["sub-01"].bvec.unlink()
    first, second = prepare(tmp_path / "raw", tmp_path / "out")
    assert first.failure.startswith(f"{scans['sub-01'].bvec}: no such file")
    assert second.failure is None


def test_names_are_those_of_bids_derivatives(prepared):
    endings = ["attenuation_dwi.nii.gz", "attenuation_dwi.bval", "attenuation_dwi.bvec", "attenuation_dwi.json"]
    endings += ["b0_dwi.nii.gz", "brain_mask.nii.gz"]
    expected = {f"{subject}/dwi/{subject}_desc-{ending}" for subject in GOOD for ending in endings}
    expected |= {"dataset_description.json", "datalist.json", "scheme.bvec", "scheme.bval", "scans.tsv"}
    assert set(state(prepared[0])) == expected
    for split in SPLITS:
        for entry in read_json(prepared[0] / DATALIST)[split]:
            stem = f"{entry['scan']}/dwi/{entry['scan']}_desc-"
            assert entry["image"] == f"{stem}attenuation_dwi.nii.gz"
            assert entry["b0"] == f"{stem}b0_dwi.nii.gz"
            assert entry["mask"] == f"{stem}brain_mask.nii.gz"


def test_sessions_have_folders_of_their_own(tmp_path, heads, prepare):
    root, out = tmp_path / "raw", tmp_path / "out"
    heads.describe(root, "raw")
    for seed, session in enumerate(("ses-1", "ses-2")):
        heads.write_scan(root / "sub-01" / session / "dwi" / f"sub-01_{session}_dwi.nii.gz", seed)
    prepare(root, out)
    (split,) = [name for name in SPLITS if read_json(out / DATALIST)[name]]
    for entry, session in zip(read_json(out / DATALIST)[split], ("ses-1", "ses-2"), strict=True):
        assert entry["image"] == f"sub-01/{session}/dwi/sub-01_{session}_desc-attenuation_dwi.nii.gz"
        assert (out / entry["image"]).is_file()


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


def test_a_folder_of_something_else_is_refused(raw, prepare, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    before = state(out)
    with pytest.raises(InputError, match="other files in it"):
        prepare(raw[0], out)
    with pytest.raises(InputError, match="other files in it"):
        prepare(raw[0], raw[0])
    assert state(out) == before


def test_unusable_arguments_are_refused_before_anything_is_written(raw, prepare, tmp_path):
    out = tmp_path / "out"
    for options in ({"split": (0, 1, 1)}, {"split": (1, -1, 1)}, {"split": (1, 1)}, {"voxel_size": 0}, {"bvalue": -1}):
        with pytest.raises(InputError, match="expected"):
            prepare(raw[0], out, **options)
        assert not out.exists()


def test_what_was_interrupted_is_finished(copy, prepared, raw, prepare):
    stem = _stem(copy, "sub-01")
    Path(f"{stem}attenuation_dwi.json").unlink()
    image = Path(f"{stem}attenuation_dwi.nii.gz")
    image.write_bytes(image.read_bytes()[:1000])
    Path(f"{_stem(copy, 'sub-02')}brain_mask.nii.gz").unlink()
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


def test_orientation_on_disk_does_not_matter(tmp_path, heads, prepare):
    found = {}
    for orientation in ("RAS", "LAS", "LPS"):
        root, out = tmp_path / orientation / "raw", tmp_path / orientation / "out"
        scans = heads.write_bids(root, ["sub-01"], orientation=orientation)
        prepare(root, out)
        image = nib.load(f"{_stem(out, 'sub-01')}attenuation_dwi.nii.gz")
        found[orientation] = image.get_fdata(), image.affine, np.loadtxt(scans["sub-01"].bvec)
    # FSL's axes are the same for both, by its sign rule
    np.testing.assert_array_equal(found["RAS"][2], found["LAS"][2])
    voxels, affine, _ = found["LAS"]
    # the head is not symmetric, so a flip would show
    assert np.abs(voxels - voxels[::-1]).max() > 0.2
    for other in ("RAS", "LPS"):
        np.testing.assert_allclose(found[other][0], voxels, atol=1.5 / 65535)
        np.testing.assert_allclose(found[other][1], affine, atol=1e-4)


@pytest.fixture(scope="module")
def hcp(tmp_path_factory, heads, prepare):
    """An HCP-like cohort of two, with given masks that are smaller than the head."""
    folder = tmp_path_factory.mktemp("hcp")
    shells = heads.table((5, 1), (1000, 16), (5, 1), (3000, 8))
    scans = heads.write_hcp(folder / "raw", ["100206", "100307"], gradients=shells, orientation="LAS")
    for scan in scans.values():
        heads.write_mask(scan.mask, scan.affine, scale=0.7)
    return folder / "raw", folder / "out", prepare(folder / "raw", folder / "out", "hcp")


def test_hcp_layout_takes_the_given_mask(hcp, heads):
    _, out, outcomes = hcp
    assert [outcome.failure for outcome in outcomes] == [None, None]
    mask = nib.load(f"{_stem(out, 'sub-100206')}brain_mask.nii.gz")
    world = heads.world_grid(mask.affine, mask.shape)
    found = np.asarray(mask.dataobj) > 0
    assert found[heads.in_head(world, 0.55)].all()
    assert not found[~heads.in_head(world, 0.85)].any()
    sidecar = json.loads(Path(f"{_stem(out, 'sub-100206')}attenuation_dwi.json").read_text())
    assert sidecar["BrainMask"] == "given"
    assert sidecar["Volumes"] == {"b0": 2, "shell": 16}
    assert len(sidecar["SourceChecksums"]) == 4
    assert [len(read_json(out / DATALIST)[split]) for split in SPLITS] == [1, 1, 0]


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


def test_two_processes_give_what_one_gives_and_the_command_reports_who_is_left_out(hcp, heads, scheme, tmp_path):
    root, out = tmp_path / "raw", tmp_path / "out"
    # the same two scans, and a third that cannot be used
    for subject in ("100206", "100307"):
        shutil.copytree(hcp[0] / subject, root / subject)
    heads.write_hcp(root, ["100408"], gradients=heads.table((1000, 16)))
    options = ["--layout", "hcp", "--scheme", scheme, "--voxel-size", VOXEL_SIZE, "--jobs", 2]
    result = CliRunner().invoke(app, ["prepare", "--input", str(root), "--out", str(out), *map(str, options)])
    assert result.exit_code == 0, result.output
    assert f"{out}: 2 scans done, 1 left out\n" in result.stdout
    assert "  left out sub-100408: " in result.stdout
    assert "expected at least one volume of b <= 50." in result.stdout
    same_images(out, hcp[1])
    assert read_json(out / DATALIST) == read_json(hcp[1] / DATALIST)


def test_the_command_fails_where_every_scan_is_left_out(tmp_path, heads):
    heads.write_hcp(tmp_path / "raw", ["100408"], gradients=heads.table((1000, 16)))
    arguments = ["prepare", "--layout", "hcp", "--input", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "0 scans done, 1 left out" in result.stdout
    assert isinstance(result.exception, SystemExit)


def test_the_command_ends_with_one_sentence_where_there_is_no_cohort(tmp_path):
    command = [sys.executable, "-m", "scripts", "prepare", "--layout", "bids"]
    command += ["--input", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    root = Path(module.__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == f"error: {tmp_path / 'none'}: no such folder, expected a cohort."
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_no_numbers_is_a_wrong_use_of_the_command(tmp_path):
    arguments = [
        "prepare",
        "--layout",
        "hcp",
        "--input",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--split",
        "a,b",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "expected numbers as" in result.output


# what is said of each scan


def rows(out: Path) -> dict[str, dict[str, str]]:
    """Lines of the table of scans, by the scan."""
    with (out / "scans.tsv").open(newline="", encoding="utf-8") as file:
        return {row["scan"]: row for row in csv.DictReader(file, delimiter="\t")}


def sidecar_of(out: Path, subject: str) -> dict:
    return read_json(Path(f"{_stem(out, subject)}attenuation_dwi.json"))


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
            nib.load(f"{_stem(tmp_path / out, 'sub-01')}{name}.nii.gz").get_fdata() for out in ("out", "short_out")
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


def test_a_changed_sidecar_is_prepared_again(tmp_path, heads, prepare):
    root, out = tmp_path / "raw", tmp_path / "out"
    heads.write_bids(root, ["sub-01"], orientation="LAS")
    for code, expected in (("i", "i-"), ("col_dir", None), ("j-", "j-")):
        (root / "sub-01" / "dwi" / "sub-01_dwi.json").write_text(json.dumps({"PhaseEncodingDirection": code}))
        prepare(root, out)
        known = sidecar_of(out, "sub-01")
        assert known.get("PhaseEncodingDirection") == expected
        assert bool(known["Notes"]) is (expected is None)


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


# the same scan, the same person


def test_the_same_voxels_under_another_name_are_the_same_scan(tmp_path, heads, prepare):
    """Compressed anew, a file has another checksum; its voxels have not."""
    root = tmp_path / "raw"
    scans = heads.write_bids(root, GOOD[:2])
    for kind in ("bval", "bvec"):
        shutil.copy(getattr(scans["sub-01"], kind), getattr(scans["sub-02"], kind))
    voxels = gzip.decompress(scans["sub-01"].dwi.read_bytes())
    scans["sub-02"].dwi.write_bytes(gzip.compress(voxels, compresslevel=1, mtime=77))
    assert scans["sub-01"].dwi.read_bytes() != scans["sub-02"].dwi.read_bytes()
    with pytest.raises(InputError, match=r"found the same scan in two splits \(sub-01 in .*, sub-02 in .*\)"):
        prepare(root, tmp_path / "out")
    # in one split it is no harm
    outcomes = prepare(root, tmp_path / "one", split=(1, 0, 0))
    first, second = (outcome.result.checksum for outcome in outcomes)
    assert first == second == sidecar_of(tmp_path / "one", "sub-01")["VoxelChecksum"]


def test_visits_of_hcp_lifespan_stay_in_one_split(tmp_path, heads, prepare):
    root, out = tmp_path / "raw", tmp_path / "out"
    scans = heads.write_hcp(root, ["1", "2", "3", "4"])
    names = ["HCA6000000_V1_MR", "HCA6000000_V2_MR", "HCA6000001_V1_MR", "HCA6000001_V2_MR"]
    for subject, name in zip(scans, names, strict=True):
        (root / subject).rename(root / name)
    outcomes = prepare(root, out, "hcp", split=(1, 0, 1))
    assert [outcome.failure for outcome in outcomes] == [None] * 4
    datalist = read_json(out / DATALIST)
    people = {split: sorted({entry["participant"] for entry in datalist[split]}) for split in SPLITS}
    assert sorted(map(len, people.values())) == [0, 1, 1]
    for split in ("training", "test"):
        (person,) = people[split]
        assert [entry["scan"] for entry in datalist[split]] == [f"{person}_ses-V1", f"{person}_ses-V2"]
        assert (out / person / "ses-V2" / "dwi" / f"{person}_ses-V2_desc-brain_mask.nii.gz").is_file()


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


# masks


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


# options and places


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


@pytest.mark.parametrize("place", ["out", "out/below"])
def test_a_file_in_the_place_of_the_folder_is_refused_in_one_sentence(raw, tmp_path, place):
    (tmp_path / "out").write_text("precious")
    arguments = ["prepare", "--layout", "bids", "--input", str(raw[0]), "--out", str(tmp_path / place)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code not in (0, None)
    assert str(result.exception) == f"error: {tmp_path / 'out'}: found a file, expected a folder or a new name."
    assert (tmp_path / "out").read_text() == "precious"


def test_brackets_in_a_path_are_printed_as_they_are(tmp_path, heads, scheme, capfd):
    root = tmp_path / "[red]raw[/red] [1]"
    scans = heads.write_bids(root, GOOD[:2])
    scans["sub-01"].bvec.unlink()
    out = tmp_path / "out[/b]"
    options = ["--input", root, "--out", out, "--scheme", scheme, "--voxel-size", VOXEL_SIZE]
    result = CliRunner().invoke(app, ["prepare", "--layout", "bids", *map(str, options)])
    assert result.exit_code == 0, result.output
    assert f"left out sub-01: {scans['sub-01'].bvec}: no such file" in result.stdout
    assert f"{out}: 1 scans done, 1 left out" in result.stdout
    assert f"left out sub-01: {scans['sub-01'].bvec}: no such file" in result.stderr + capfd.readouterr().err


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
