"""Preparation: what is on disk is what the transforms give, whole, once, and in one way for a cohort."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cohort_files import GOOD, VOXEL_SIZE, images, sidecar_of, state, stem_of

from scripts.cohort.datalist import DATALIST, SPLITS
from scripts.io.files import read_json
from scripts.io.gradients import read_gradients, read_scheme
from scripts.io.raw_scan import open_scan
from transforms.errors import InputError
from transforms.preprocessing import ScanToInput


@pytest.mark.parametrize("subject", ["sub-01", "sub-02"])
def test_files_hold_what_the_transforms_give(prepared, raw, scheme, subject):
    scan, stem = raw[1][subject], stem_of(prepared[0], subject)
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
    sidecar = json.loads(Path(f"{stem_of(prepared[0], 'sub-01')}attenuation_dwi.json").read_text())
    sources = [scan.dwi, scan.bval, scan.bvec, scan.dwi.with_name("sub-01_dwi.json")]
    assert sidecar["Sources"] == [str(path) for path in sources]
    assert sidecar["SourceChecksums"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}
    assert sidecar["Volumes"] == {"b0": 1, "shell": 16}
    assert sidecar["DistinctAxes"] == 16
    # 15 coefficients of order 4 are determined by 16 axes, 28 of order 6 are not
    assert sidecar["HighestSphericalHarmonicOrder"] == 4
    assert sidecar["LargestGapDegrees"] < 35
    assert sidecar["BrainMask"] == "found"
    mask = nib.load(f"{stem_of(prepared[0], 'sub-01')}brain_mask.nii.gz").get_fdata()
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


def test_orientation_on_disk_does_not_matter(tmp_path, heads, prepare):
    found = {}
    for orientation in ("RAS", "LAS", "LPS"):
        root, out = tmp_path / orientation / "raw", tmp_path / orientation / "out"
        scans = heads.write_bids(root, ["sub-01"], orientation=orientation)
        prepare(root, out)
        image = nib.load(f"{stem_of(out, 'sub-01')}attenuation_dwi.nii.gz")
        found[orientation] = image.get_fdata(), image.affine, np.loadtxt(scans["sub-01"].bvec)
    # FSL's axes are the same for both, by its sign rule
    np.testing.assert_array_equal(found["RAS"][2], found["LAS"][2])
    voxels, affine, _ = found["LAS"]
    # the head is not symmetric, so a flip would show
    assert np.abs(voxels - voxels[::-1]).max() > 0.2
    for other in ("RAS", "LPS"):
        np.testing.assert_allclose(found[other][0], voxels, atol=1.5 / 65535)
        np.testing.assert_allclose(found[other][1], affine, atol=1e-4)


def test_hcp_layout_takes_the_given_mask(hcp, heads):
    _, out, outcomes = hcp
    assert [outcome.failure for outcome in outcomes] == [None, None]
    mask = nib.load(f"{stem_of(out, 'sub-100206')}brain_mask.nii.gz")
    world = heads.world_grid(mask.affine, mask.shape)
    found = np.asarray(mask.dataobj) > 0
    assert found[heads.in_head(world, 0.55)].all()
    assert not found[~heads.in_head(world, 0.85)].any()
    sidecar = json.loads(Path(f"{stem_of(out, 'sub-100206')}attenuation_dwi.json").read_text())
    assert sidecar["BrainMask"] == "given"
    assert sidecar["Volumes"] == {"b0": 2, "shell": 16}
    assert len(sidecar["SourceChecksums"]) == 4
    assert [len(read_json(out / DATALIST)[split]) for split in SPLITS] == [1, 1, 0]


def test_the_same_voxels_under_another_name_are_the_same_scan(tmp_path, heads, prepare, caplog):
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
    # in one split it is no harm, but said
    outcomes = prepare(root, tmp_path / "one", split=(1, 0, 0))
    first, second = (outcome.result.checksum for outcome in outcomes)
    assert first == second == sidecar_of(tmp_path / "one", "sub-01")["VoxelChecksum"]
    assert "sub-02: the same voxels as those of sub-01" in caplog.text


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
