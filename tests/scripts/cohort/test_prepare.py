"""Preparation: what is on disk is what the transforms give, whole, once, and in one way for a cohort."""

import hashlib
import json
import os
import shutil
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
from scripts.cohort.prepare import _to_ras, prepare_cohort
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
    sources = [scan.dwi, scan.bval, scan.bvec]
    assert sidecar["Sources"] == [str(path) for path in sources]
    assert sidecar["SourceChecksums"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}
    assert sidecar["Volumes"] == {"b0": 1, "shell": 16}
    assert sidecar["DistinctAxes"] == 16
    # 15 coefficients of order 4 are determined by 16 axes, 28 of order 6 are not
    assert sidecar["HighestSphericalHarmonicOrder"] == 4
    assert sidecar["BrainMask"] == "median_otsu"
    assert sidecar["PhaseEncodingDirection"] == "j-"
    stored = hashlib.sha256((prepared[0] / "scheme.bvec").read_bytes()).hexdigest()
    assert sidecar["Preparation"] == {"bvalue": 1000.0, "voxel_size": VOXEL_SIZE, "scheme": stored}
    description = json.loads((prepared[0] / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["Preparation"] == sidecar["Preparation"]


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
    expected |= {"dataset_description.json", "datalist.json", "scheme.bvec", "scheme.bval"}
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

    monkeypatch.setattr(module, "ScanToInput", forbidden)
    outcomes = prepare(raw[0], copy)
    assert [str(outcome.item) for outcome in outcomes if outcome.result] == list(GOOD)
    after = state(copy)
    # the datalist alone is written again, as it was
    assert {name for name in before if before[name] != after[name]} <= {"datalist.json"}
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
    assert all(name.startswith("sub-02") or name == "datalist.json" for name in changed)
    assert "sub-02/dwi/sub-02_desc-attenuation_dwi.nii.gz" in changed
    fresh = tmp_path / "fresh"
    prepare(root, fresh)
    same_images(out, fresh)
    assert read_json(out / DATALIST)["checksum"] != entries["checksum"]
    checksums = {entry["scan"]: entry["checksum"] for split in SPLITS for entry in read_json(out / DATALIST)[split]}
    assert checksums["sub-02"] == hashlib.sha256(dwi.read_bytes()).hexdigest()


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


@pytest.mark.parametrize("code", ["i", "i-", "j", "j-", "k", "k-"])
@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPS", "PIR", "SLA"])
def test_phase_encoding_points_the_same_way_in_the_world_after_reorientation(code, orientation):
    affine = np.eye(4)
    affine[:3, :3] = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(orientation), (2, 2, 2))[:3, :3]

    def in_world(code, linear):
        return linear[:, "ijk".index(code[0])] * (-1 if code.endswith("-") else 1)

    np.testing.assert_array_equal(in_world(_to_ras(code, affine), np.eye(3)), in_world(code, affine[:3, :3]))
