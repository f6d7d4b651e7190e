"""The tasks as their configs have them: short trainings beat what needs no scan, and say how each scan did."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from scripts.io.files import read_json, sha256
from scripts.training.batch import PaddedCollate
from scripts.training.metrics import angular_error
from scripts.training.weights import read_checkpoint
from tests.tiny_cohort import write_tiny_cohort

CONFIGS = Path(__file__).parents[3] / "bundle" / "configs"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A prepared cohort with the labels of all tasks, scans of several sizes."""
    return write_tiny_cohort(tmp_path_factory.mktemp("cohort"), ["training"] * 6 + ["validation"] + ["test"] * 2)


def parse(names, cohort, out, store, **changes):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in names])
    parser.update(
        {
            "dataset_dir": str(cohort),
            "output_dir": str(out),
            "tracking_uri": store,
            "max_epochs": 20,
            "val_interval": 10,
            "batch_size": 2,
            "num_workers": 0,
            "learning_rate": 0.015,
            "device": "$torch.device('cpu')",
            "network_def::in_channels": 6,
            "network_def::filters": [8, 8, 8, 8],
            **changes,
        }
    )
    parser.parse()
    return parser


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory, mlflow_store):
    """Train a task with some overlays and evaluate it on the test split; each once."""
    done = {}

    def train(*overlays, **changes):
        if overlays not in done:
            out = tmp_path_factory.mktemp("run")
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv("MLFLOW_TRACKING_URI", raising=False)
                # pictures have tests of their own, and take longer than the training
                patch.setattr("scripts.training.pictures.draw", lambda *_: Figure(figsize=(1, 1)))
                training = parse(["finetune", *overlays], cohort, out, mlflow_store, **changes)
                training.get_parsed_content("initialize")
                training.get_parsed_content("training")
                evaluation = parse(["finetune", *overlays, "evaluate"], cohort, out, mlflow_store, **changes)
                evaluation.get_parsed_content("evaluating")
            set_determinism(None)
            with (out / "evaluation" / "metrics.csv").open() as file:
                done[overlays] = out, {name: float(value) for name, value in csv.reader(file)}
        return done[overlays]

    return train


def labels(cohort, split):
    """Counts and axes of the white matter of each scan of a split."""
    for entry in read_json(cohort / "datalist.json")[split]:
        inside, count, peak = (nib.load(cohort / entry[key]).get_fdata() for key in ("white_matter", "n_peaks", "peak"))
        yield count[inside > 0], torch.tensor(peak[inside > 0].T)


def table(out):
    with (out / "evaluation" / "scans.csv").open() as file:
        return list(csv.DictReader(file))


def test_crossings_beat_the_majority_class(trained, cohort):
    _, metrics = trained("crossings")
    floor = np.mean([np.bincount(count.astype(int)).max() / len(count) for count, _ in labels(cohort, "test")])
    assert floor < 0.7
    assert metrics["test_accuracy"] > floor + 0.05
    assert metrics["test_balanced_accuracy"] > 1 / 3 + 0.1


def test_an_evaluation_says_what_it_was_made_of(trained, cohort):
    out, _ = trained("crossings")
    record = read_json(out / "evaluation" / "evaluation.json")
    assert record["checkpoint"] == sha256(out / "model.pt")
    assert record["split"] == "test"
    listed = read_json(cohort / "datalist.json")["test"]
    assert record["participants"] == {entry["scan"]: entry["participant"] for entry in listed}
    system = record["system"]
    # sides are padded to multiples of 8
    sides = [nib.load(cohort / entry["image"]).shape[:3] for entry in listed]
    assert system["grid"] == [8 * -(-side // 8) for side in max(sides, key=np.prod)]
    assert system["seconds"] > 0
    assert 0.1 < system["memory_gib"] < 100


def test_directions_beat_the_best_constant_one(trained, cohort):
    _, metrics = trained("direction")
    axes = torch.cat([peak for _, peak in labels(cohort, "test")], dim=1)
    constant = torch.linalg.eigh(axes @ axes.T).eigenvectors[:, -1:]
    floor = angular_error(axes, constant.expand_as(axes)).mean()
    assert 35 < floor < 57
    assert metrics["test_angular_error"] < floor - 5
    assert 0 < metrics["test_median_angular_error"] < metrics["test_angular_error"]
    assert 0 < metrics["test_angle_mse"] < 1


def test_dyads_are_learnt_better_than_angles_and_those_better_than_nothing(trained):
    (_, dyad), (out, angles) = trained("direction"), trained("direction", "paper")
    assert dyad["test_angular_error"] + 5 < angles["test_angular_error"] < 55
    assert len(read_checkpoint(out / "model.pt")["network"]["output_block.conv.conv.bias"]) == 2


@pytest.mark.parametrize(
    ("task", "loss"), [("segmentation", "OneHotL1Loss"), ("crossings", "OneHotL1Loss"), ("direction", "MaskedMSELoss")]
)
def test_the_paper_has_its_loss_for_each_task(task, loss, cohort, tmp_path, mlflow_store):
    parser = parse(["finetune", task, "paper"], cohort, tmp_path, mlflow_store)
    assert type(parser.get_parsed_content("loss")).__name__ == loss


def test_the_model_with_the_lowest_error_is_kept(trained, mlflow_store):
    out, _ = trained("direction")
    run = read_json(out / "mlflow_run.json")["run_id"]
    history = {
        point.step: point.value for point in MlflowClient(mlflow_store).get_metric_history(run, "val_angular_error")
    }
    assert list(history) == [10, 20]
    origin = read_checkpoint(out / "model.pt")["origin"]
    assert origin["val_angular_error"] == pytest.approx(min(history.values()))
    assert origin["parameters"]["task"] == "direction"


def test_each_scan_and_class_has_its_line_in_the_table_and_in_the_run(trained, mlflow_store):
    out, metrics = trained("crossings")
    rows = table(out)
    assert [row["scan"] for row in rows if row["metric"] == "test_accuracy"] == ["sub-07", "sub-08"]
    per_scan = [float(row["value"]) for row in rows if row["metric"] == "test_accuracy"]
    assert np.mean(per_scan) == pytest.approx(metrics["test_accuracy"])
    per_class = {
        (row["scan"], row["class"]): float(row["value"]) for row in rows if row["metric"] == "test_balanced_accuracy"
    }
    assert list(per_class) == [(scan, name) for scan in ("sub-07", "sub-08") for name in "0123"]
    # no voxel of the cohort's white matter is without a fibre
    assert np.isnan(per_class["sub-07", "0"])
    lines = np.array(list(per_class.values())).reshape(2, 4)
    assert np.nanmean(lines, axis=1).mean() == pytest.approx(metrics["test_balanced_accuracy"])

    client = MlflowClient(mlflow_store)
    run = read_json(out / "evaluation" / "mlflow_run.json")["run_id"]
    logged = json.loads(Path(client.download_artifacts(run, "scans.json")).read_text())
    assert logged["columns"] == ["scan", "metric", "class", "value"]
    assert [line[:3] for line in logged["data"]] == [[row[key] for key in ("scan", "metric", "class")] for row in rows]
    assert [line[3] for line in logged["data"] if line[1] == "test_accuracy"] == pytest.approx(per_scan)


def test_an_evaluation_is_told_what_its_training_was(trained, mlflow_store):
    out, _ = trained("direction")
    client = MlflowClient(mlflow_store)
    training, evaluation = (
        client.get_run(read_json(folder / "mlflow_run.json")["run_id"]) for folder in (out, out / "evaluation")
    )
    assert evaluation.info.experiment_id == training.info.experiment_id
    assert evaluation.data.tags["mlflow.parentRunId"] == training.info.run_id
    assert evaluation.info.run_name == f"{training.info.run_name} · evaluation"
    assert (training.data.tags["stage"], evaluation.data.tags["stage"]) == ("fine-tuning", "evaluation")
    # the steps of an epoch alone are no parameter of an evaluation
    params = {name: value for name, value in training.data.params.items() if name != "epoch_length"}
    assert evaluation.data.params == {**params, "checkpoint": str(out / "model.pt")}
    scores = {name for name in evaluation.data.metrics if "/" not in name}
    assert scores == {"test_loss", "test_angular_error", "test_median_angular_error", "test_angle_mse"}
    assert {"val_loss", "val_angular_error", "learning_rate", "epoch_seconds"} <= training.data.metrics.keys()
    assert {
        "test_angular_error/baseline_atlas",
        "test_angular_error/baseline_mean_axis",
    } <= evaluation.data.metrics.keys()


def test_segmentation_names_its_tissues_in_the_table(trained):
    out, metrics = trained("segmentation", max_epochs=1, val_interval=1)
    rows = [row for row in table(out) if row["metric"] == "test_macro_f1"]
    tissues = ["gray matter", "white matter", "cerebrospinal fluid"]
    assert [(row["scan"], row["class"]) for row in rows] == [
        (scan, name) for scan in ("sub-07", "sub-08") for name in tissues
    ]
    with (out / "evaluation" / "test_macro_f1_raw.csv").open() as file:
        raw = list(csv.DictReader(file))
    values = [float(line[f"class{index}"]) for line in raw for index in range(3)]
    np.testing.assert_allclose([float(row["value"]) for row in rows], values, atol=1e-4)
    assert np.nanmean(values) == pytest.approx(metrics["test_macro_f1"], abs=1e-3)


def test_scans_of_other_sizes_are_padded_with_what_does_not_count(cohort, mlflow_store, tmp_path):
    for task, channels in (("crossings", 1), ("direction", 6)):
        parser = parse(["finetune", task], cohort, tmp_path, mlflow_store, batch_size=6)
        (batch,) = parser.get_parsed_content("train::dataloader")
        # 15 and 17 voxels become 16 and 24, multiples of 8
        assert batch["image"].shape[2:] == (16, 24, 8)
        assert batch["label"].shape == (6, channels, 16, 24, 8)
        counts = ~batch["label"].isnan().any(dim=1, keepdim=True)
        assert torch.equal(torch.as_tensor(counts), torch.as_tensor(batch["white_matter"]) > 0)
        assert 0 < counts.sum() < counts.numel() / 2


def test_scans_are_stacked_with_their_own_voxels_in_the_middle():
    small, large = torch.ones(2, 3, 4, 5), 2 * torch.ones(2, 3, 8, 5)
    items = [{"image": image, "label": image[:1] + 1, "scan": str(i)} for i, image in enumerate((small, large))]
    batch = PaddedCollate(torch.nan)(items)
    assert batch["scan"] == ["0", "1"]
    expected = torch.zeros(2, 3, 8, 5)
    expected[:, :, 2:6] = 1
    torch.testing.assert_close(torch.as_tensor(batch["image"]), torch.stack([expected, large]))
    label = torch.where(expected[:1] > 0, 2.0, torch.nan)
    torch.testing.assert_close(torch.as_tensor(batch["label"]), torch.stack([label, large[:1] + 1]), equal_nan=True)
    assert PaddedCollate(0)(items)["label"][0, 0, 0, 0, 0] == 0
