"""Real human scans of four scanners: prepared or refused, pretrained on, restored and segmented."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from mlflow import MlflowClient
from scipy import ndimage

from scripts.io.gradients import read_bvecs
from scripts.training.weights import read_checkpoint

COARSE = 5.0
"""Voxel size in mm of the pretraining here: a ninth of the voxels that 2.4 mm make."""


@pytest.fixture(scope="module")
def prepared(real, shell, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "prepared"
    done = shell("-m", "scripts", "prepare", "--layout", "bids", "--input", real, "--out", folder)
    return folder, done.stdout


@pytest.fixture(scope="module")
def pretrained(real, shell, bundle, tmp_path_factory):
    """A network pretrained on the real scans: on one, with validation on the other, from another scanner.

    So short a training on one scan returns another one's attenuation with an error that is below that of strong
    artifacts, not of weak ones.
    """
    folder = tmp_path_factory.mktemp("pretrained")
    cohort = folder / "prepared"
    shell("-m", "scripts", "prepare", "--layout", "bids", "--input", real, "--out", cohort, "--voxel-size", COARSE)
    common = {"dataset_dir": cohort, "output_dir": folder, "preset": "strong", "num_workers": 0}
    # in so few steps there is none to spare on a scan without artifacts
    training = {"max_epochs": 30, "learning_rate": 0.003, "val_interval": 10, "clean_share": 0.0}
    bundle("training", ["pretrain"], tracking_uri=f"sqlite:///{folder}/mlflow.db", **common, **training)
    bundle("evaluating", ["pretrain", "evaluate_restoration"], **common)
    return folder


def load(path):
    image = nib.load(path)
    return image, np.asarray(image.dataobj, dtype=np.float32)


def correlation(first, second, mask):
    return np.corrcoef(first[mask], second[mask])[0, 1]


def test_two_scans_are_prepared_and_two_participants_refused_with_what_was_found(prepared):
    folder, output = prepared
    datalist = json.loads((folder / "datalist.json").read_text())
    assert [entry["scan"] for split in ("training", "validation") for entry in datalist[split]] == ["sub-01", "sub-02"]
    for scan, found in (
        ("sub-03", "b = 0 (1 volume), 2000 (15 volumes)"),
        ("sub-04_dir-AP", "b = 0 (1 volume), 2500 (20 volumes)"),
        ("sub-04_dir-PA", "b = 0 (1 volume), 2500 (20 volumes)"),
    ):
        lines = [line for line in output.splitlines() if line.strip().startswith(f"left out {scan}:")]
        assert lines
        assert all(found in line and "expected a shell of b = 1000" in line for line in lines)
    orders = {
        scan: json.loads((folder / scan / "dwi" / f"{scan}_desc-attenuation_dwi.json").read_text())
        for scan in ("sub-01", "sub-02")
    }
    assert {scan: value["HighestSphericalHarmonicOrder"] for scan, value in orders.items()} == {
        "sub-01": 4,
        "sub-02": 2,
    }
    assert "SH order lowered from 8 to 4: 27 distinct gradient axes" in output


def test_prepared_scan_shows_the_brain_where_the_raw_scan_has_it(prepared, real):
    folder, _ = prepared
    raw, signal = load(real / "sub-01" / "dwi" / "sub-01_dwi.nii.gz")
    image, b0 = load(folder / "sub-01" / "dwi" / "sub-01_desc-b0_dwi.nii.gz")
    mask = load(folder / "sub-01" / "dwi" / "sub-01_desc-brain_mask.nii.gz")[1] > 0
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert 1200 < mask.sum() * 2.4**3 / 1000 < 1700  # ml, an adult's brain
    # the nearest raw voxel of each voxel in the brain, by the affines alone
    world = nib.affines.apply_affine(image.affine, np.argwhere(mask))
    nearest = np.round(nib.affines.apply_affine(np.linalg.inv(raw.affine), world)).astype(int)
    assert np.corrcoef(signal[(*nearest.T, 0)], b0[mask])[0, 1] > 0.9


def test_pretraining_lowers_the_error_of_strong_artifacts(pretrained):
    client = MlflowClient(f"sqlite:///{pretrained}/mlflow.db")
    run = json.loads((pretrained / "mlflow_run.json").read_text())["run_id"]
    learning, validation = (
        [point.value for point in client.get_metric_history(run, name)] for name in ("train_loss", "val_loss")
    )
    # it begins by returning its input, so there is less to lower than from nothing
    assert np.mean(learning[-10:]) < 0.95 * np.mean(learning[:10])
    # one brain is soon learned by heart: which validation is the best is open, not that its weights are kept
    assert len(validation) == 3
    kept = read_checkpoint(pretrained / "model.pt")
    assert kept["origin"]["val_loss"] == pytest.approx(min(validation))
    with open(pretrained / "evaluation" / "artifacts.csv", newline="") as file:
        rows = {row["artifact"]: row for row in csv.DictReader(file)}
    for name in ("bias field", "noise", "all"):
        assert float(rows[name]["error_after"]) < 0.95 * float(rows[name]["error_before"]), name


def test_restoration_returns_the_scan_on_its_own_grid(pretrained, real, bundle, tmp_path):
    scan = real / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
    options = {"dwi": scan, "checkpoint": pretrained / "model.pt", "output_dir": tmp_path, "voxel_size": COARSE}
    bundle("inference", ["inference_restoration"], **options)
    raw, signal = load(scan)
    image, restored = load(tmp_path / "sub-01_desc-restored_dwi.nii.gz")
    np.testing.assert_allclose(image.affine, raw.affine, atol=1e-5)
    assert restored.shape == signal.shape
    bvecs = read_bvecs(tmp_path / "sub-01_desc-restored_dwi.bvec")
    np.testing.assert_allclose(bvecs, read_bvecs(real / "sub-01" / "dwi" / "sub-01_dwi.bvec"), atol=1e-5)
    np.testing.assert_array_equal(restored[..., 0], signal[..., 0])
    assert restored.min() >= 0
    brain = signal[..., 0] > np.percentile(signal[..., 0], 70)
    for volume in (5, 20):
        assert not np.array_equal(restored[..., volume], signal[..., volume])
        ratio = restored[..., volume][brain].mean() / signal[..., volume][brain].mean()
        assert 0.7 < ratio < 1.3
        straight = correlation(restored[..., volume], signal[..., volume], brain)
        flipped = correlation(restored[::-1, ..., volume], signal[..., volume], brain)
        assert straight > 0.85
        assert straight > flipped + 0.1


def test_segmentation_of_the_raw_scan_lies_on_the_scan(demo, real, bundle, tmp_path):
    checkpoint = demo[0] / "segmentation_artifact_removal" / "model.pt"
    scan = real / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
    bundle("inference", ["inference_segmentation"], dwi=scan, checkpoint=checkpoint, output_dir=tmp_path)
    raw, signal = load(scan)
    image, labels = load(tmp_path / "sub-01_desc-tissue_dseg.nii.gz")
    probabilities = load(tmp_path / "sub-01_desc-tissue_probseg.nii.gz")[1]
    np.testing.assert_allclose(image.affine, raw.affine, atol=1e-5)
    assert labels.shape == signal.shape[:3]
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-3)
    brain = labels > 0
    # a network trained for minutes may take ventricles for background; the outline is that of the brain
    millilitres = ndimage.binary_fill_holes(brain).sum() * np.prod(raw.header.get_zooms()[:3]) / 1000
    assert 1000 < millilitres < 1700
    # free water loses most signal: where the network sees more of it, less must be left, on this side and not mirrored
    left = signal[..., 1:].mean(axis=-1) / np.maximum(signal[..., 0], 1)
    water = probabilities[..., 3]
    straight = correlation(water, left, brain)
    both = brain & brain[::-1]
    assert straight < -0.3
    assert correlation(water, left, both) < correlation(water[::-1], left, both) - 0.1
    assert (tmp_path / "sub-01_desc-tissue_dseg.png").stat().st_size > 10_000
    sidecar = json.loads((tmp_path / "sub-01_desc-tissue_dseg.json").read_text())
    assert len(sidecar["Model"]["SHA256"]) == 64


@pytest.mark.parametrize("participant", ["sub-03", "sub-04"])
def test_a_scan_without_the_shell_is_refused_in_one_sentence(participant, real, bundle, tmp_path):
    scan = sorted((real / participant / "dwi").glob("*.nii.gz"))[0]
    options = {"dwi": scan, "output_dir": tmp_path}
    done = bundle("inference", ["inference_restoration"], check=False, **options)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith(f"error: {scan}: found b = 0 (1 volume), 2")
    assert not list(tmp_path.iterdir())
