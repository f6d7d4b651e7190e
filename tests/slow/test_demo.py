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
    for name in ("artifact_removal", "random"):
        for part in ("", "evaluation"):
            run = run_of(folder / f"segmentation_{name}" / part, client)
            assert run.info.status == "FINISHED"
            assert run.data.params["task"] == "segmentation"
            assert len(run.data.params["cohort"]) == 64
            assert {"val_macro_f1" if not part else "test_macro_f1"} <= set(run.data.metrics)
            assert run.data.params["initialisation"] == name
        training = run_of(folder / f"segmentation_{name}", client)
        assert len(client.get_metric_history(training.info.run_id, "train_loss")) == 40
        pictures = [file.path for file in client.list_artifacts(training.info.run_id, "pictures")]
        assert pictures == [f"pictures/epoch_{epoch:04d}.png" for epoch in range(10, 41, 10)]


def scores(folder, name):
    with open(folder / f"segmentation_{name}" / "evaluation" / "baselines.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "test_macro_f1"]
    methods = dict.fromkeys(row["method"] for row in rows)
    return {
        method: {
            tissue: np.mean([float(row["value"]) for row in rows if (row["method"], row["class"]) == (method, tissue)])
            for tissue in dict.fromkeys(row["class"] for row in rows)
        }
        for method in methods
    }


def test_the_table_shows_what_the_evaluations_measured(demo):
    folder, output = demo
    for name in ("artifact_removal", "random"):
        row = next(line for line in output.splitlines() if name in line and "│" in line)
        assert f"{np.mean(list(scores(folder, name)['network'].values())):.4f}" in row


def test_the_pretrained_network_is_better_than_random_and_thresholds_and_finds_fluid(demo):
    folder, _ = demo
    pretrained, random = scores(folder, "artifact_removal"), scores(folder, "random")
    mean = {method: np.mean(list(values.values())) for method, values in pretrained.items()}
    assert mean["network"] > mean["FA and MD thresholds"]
    assert mean["network"] >= np.mean(list(random["network"].values()))
    assert pretrained["network"]["cerebrospinal fluid"] > 0.5
    assert mean["network"] > mean["majority class"] + 0.4


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
