"""The demo, as ``make demo`` runs it."""

import csv
import json

import nibabel as nib
import numpy as np
from mlflow import MlflowClient

RESULTS = (
    "sub-01_desc-tissue_dseg.nii.gz",
    "sub-01_desc-tissue_probseg.nii.gz",
    "sub-01_desc-tissue_dseg.png",
    "sub-01_desc-restored_dwi.nii.gz",
)


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def run_of(folder, client):
    return client.get_run(json.loads((folder / "mlflow_run.json").read_text())["run_id"])


def test_runs_are_tracked_with_what_they_need_to_be_understood(demo):
    folder, _ = demo
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    pretraining = run_of(folder / "pretrain", client)
    assert pretraining.data.metrics["val_loss"] < pretraining.data.metrics["val_loss_of_input"]
    assert {"train_loss", "val_loss", "val_loss_of_input"} <= set(pretraining.data.metrics)
    pictures = [file.path for file in client.list_artifacts(pretraining.info.run_id, "pictures")]
    assert pictures == [f"pictures/epoch_{epoch:04d}.png" for epoch in (10, 20, 30)]
    assert len(client.get_metric_history(pretraining.info.run_id, "train_loss")) == 30
    for name, start in (("artifact_removal", pretraining.info.run_id), ("random", "")):
        for part in ("", "evaluation"):
            run = run_of(folder / f"segmentation_{name}" / part, client)
            assert run.info.status == "FINISHED"
            assert run.data.params["task"] == "segmentation"
            assert len(run.data.params["cohort"]) == 64
            assert "val_macro_f1" in run.data.metrics
            assert run.data.params["initialisation"] == name
        assert run_of(folder / f"segmentation_{name}", client).data.params["pretrained_run"] == start


def test_table_shows_what_the_evaluations_measured(demo):
    folder, output = demo
    for name in ("artifact_removal", "random"):
        raw = (folder / f"segmentation_{name}" / "evaluation" / "val_macro_f1_raw.csv").read_text().splitlines()
        means = [float(line.split(",")[-1]) for line in raw[1:]]
        assert len(means) == 2  # test participants
        row = next(line for line in output.splitlines() if name in line and "│" in line)
        assert f"{np.mean(means):.4f}" in row


def test_networks_beat_one_answer_for_all_voxels(demo):
    folder, _ = demo
    for name in ("artifact_removal", "random"):
        with open(folder / f"segmentation_{name}" / "evaluation" / "baselines.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        methods = dict.fromkeys(row["method"] for row in rows)
        assert list(methods) == ["network", "majority class", "FA and MD thresholds"]
        mean = {method: np.mean([float(row["value"]) for row in rows if row["method"] == method]) for method in methods}
        assert mean["network"] > mean["majority class"] + 0.1


def test_results_lie_on_the_scan_and_agree_with_the_truth(demo):
    folder, _ = demo
    assert all((folder / "results" / name).stat().st_size > 0 for name in RESULTS)
    scan = nib.load(folder / "clinical" / "raw" / "sub-01" / "dwi" / "sub-01_dwi.nii.gz")
    image = nib.load(folder / "results" / RESULTS[0])
    truth = nib.load(
        folder / "clinical" / "raw" / "derivatives" / "truth" / "sub-01" / "dwi" / "sub-01_desc-tissue_dseg.nii.gz"
    )
    np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)
    found, known = np.asarray(image.dataobj), np.asarray(truth.dataobj)
    assert found.shape == known.shape
    assert dice(found > 0, known > 0) > 0.9
    for tissue in (1, 2):
        straight = dice(found == tissue, known == tissue)
        assert straight > 0.5
        assert all(straight > dice(np.flip(found, axis) == tissue, known == tissue) for axis in range(3))


def test_pretraining_lowers_the_error_of_artifacts_on_a_subject_held_out(demo, bundle, tmp_path):
    folder, _ = demo
    bundle(
        "evaluating",
        ["pretrain", "evaluate_restoration"],
        dataset_dir=folder / "auxiliary" / "prepared",
        output_dir=folder / "pretrain",
        evaluation_dir=tmp_path,
        preset="strong",
    )
    with open(tmp_path / "artifacts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    error = {row["artifact"]: (float(row["error_before"]), float(row["error_after"])) for row in rows}
    assert list(error) == [
        "motion",
        "eddy",
        "bias field",
        "bias field without gain",
        "ghosting",
        "noise",
        "undersampling",
        "all",
        "none",
    ]
    # after the demo's hundred steps it errs more than weak artifacts do, and less than strong ones, which it never saw
    for name in ("bias field", "noise", "all"):
        before, after = error[name]
        assert after < before, name
