"""Tracking: one run per training, with what is needed to understand it, and an end that is told."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Average
from matplotlib.figure import Figure
from mlflow import MlflowClient
from monai.bundle import ConfigParser
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler, ValidationHandler, from_engine

from scripts.io.files import read_json
from scripts.training.tracking import Tracker, name_of
from scripts.version import code_state

DATA = [{"image": torch.full((1, 2), float(i)), "label": torch.zeros(1, 1)} for i in range(3)]


@pytest.fixture
def store(mlflow_store):
    return mlflow_store


@pytest.fixture
def track(store, tmp_path, monkeypatch, request):
    """Make trackers of one experiment, named as the test."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(folder="out", **options):
        options = {"parameters": {"task": "restoration", "seed": 0, "long": "x" * 900}, **options}
        return Tracker(store, request.node.name, str(tmp_path / folder), **options)

    return make


def engines(tracker, epochs, during=None):
    """Trainer and evaluator of a linear network; ``during`` is called in each iteration."""
    network = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(network.weight, 0.1)
    loss = torch.nn.MSELoss()
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DATA[:1],
        network=network,
        key_val_metric={"val_loss": IgniteMetricHandler(loss_fn=loss, output_transform=from_engine(["pred", "label"]))},
        val_handlers=[tracker],
    )
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DATA,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.01),
        loss_function=loss,
        key_train_metric={"train_loss": Average(output_transform=from_engine("loss", first=True))},
        train_handlers=[ValidationHandler(1, evaluator), tracker],
    )
    if during:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, during)
    return trainer


def metric(run, name, store):
    return [(point.step, point.value) for point in MlflowClient(store).get_metric_history(run.info.run_id, name)]


def test_a_training_is_one_run_with_its_parameters_and_its_metrics_of_each_epoch(track, runs, store, tmp_path):
    tracker = track()
    origins, seen = [], []
    trainer = engines(tracker, 3)

    @trainer.on(Events.EPOCH_COMPLETED)
    def note(engine):
        origins.append(tracker.origin())
        seen.append((engine.state.epoch, engine.state.metrics["train_loss"]))

    trainer.run()
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["task"] == "restoration"
    assert run.data.params["seed"] == "0"
    assert run.data.params["long"] == "x" * 500
    assert run.data.params["max_epochs"] == "3"
    train = metric(run, "train_loss", store)
    assert [step for step, _ in train] == [1, 2, 3]
    assert [value for _, value in train] == pytest.approx([float(value) for _, value in seen])
    validation = metric(run, "val_loss", store)
    assert [step for step, _ in validation] == [1, 2, 3]
    assert len({value for _, value in train}) == 3
    assert read_json(tmp_path / "out" / "mlflow_run.json") == {"run_id": run.info.run_id}
    assert all(origin["mlflow_run"] == run.info.run_id for origin in origins)
    assert origins[0]["parameters"]["long"] == "x" * 900


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("no memory"), "FAILED"), (KeyboardInterrupt(), "KILLED")], ids=["error", "stop"]
)
def test_a_training_that_does_not_end_well_says_so_and_can_go_on(track, runs, store, error, status):
    def stop(engine):
        if engine.state.epoch == 2:
            raise error

    with pytest.raises(type(error)):
        engines(track(), 4, stop).run()
    (run,) = runs()
    assert run.info.status == status
    assert [step for step, _ in metric(run, "train_loss", store)] == [1]

    trainer = engines(track(resume=True, parameters={"task": "another", "new": 1}), 4)
    trainer.state.epoch = 1
    trainer.state.iteration, trainer.state.epoch_length = len(DATA), len(DATA)
    trainer.run()
    (resumed,) = runs()
    assert resumed.info.run_id == run.info.run_id
    assert resumed.info.run_name == run.info.run_name
    assert resumed.info.status == "FINISHED"
    assert [step for step, _ in metric(resumed, "train_loss", store)] == [1, 2, 3, 4]
    # what MLflow knows already cannot be changed, and must not be tried
    assert (resumed.data.params["task"], resumed.data.params["new"]) == ("restoration", "1")


def test_two_trainings_at_the_same_time_are_two_runs(track, runs, store):
    first, second = track("first"), track("second")
    assert first.run_name == second.run_name == "restoration · seed 0"
    inner = engines(second, 2)
    outer = engines(first, 1, lambda engine: engine.state.iteration == 1 and inner.run())
    outer.run()
    found = {run.info.run_id: run for run in runs()}
    assert len(found) == 2
    lengths = sorted(len(metric(run, "train_loss", store)) for run in found.values())
    assert lengths == [1, 2]
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_a_second_training_into_the_same_folder_is_a_new_run_unless_resumed(track, runs):
    for _ in range(2):
        engines(track(), 1).run()
    assert len(runs()) == 2
    engines(track("empty", resume=True), 1).run()
    assert len(runs()) == 3


def test_the_run_keeps_pictures_and_the_whole_config_with_its_overrides(store, runs, request, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    parser = ConfigParser()
    parser.read_config(
        {
            "depth": {"epochs": 3},
            "rate": 0.1,
            "tracker": {
                "_target_": "scripts.training.tracking.Tracker",
                "tracking_uri": store,
                "experiment_name": request.node.name,
                "output_dir": str(tmp_path),
                "parameters": {"rate": "@rate"},
                "config": {"_target_": "scripts.parsed_config.parsed_config"},
            },
        }
    )
    parser.update({"rate": 0.25, "depth::epochs": 1})
    tracker = parser.get_parsed_content("tracker")
    figure = Figure()
    figure.subplots().imshow([[0.0, 1.0]])
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path in paths:
        figure.savefig(path)
    tracker.log_picture(paths[0])
    engines(tracker, 1, lambda engine: tracker.log_picture(paths[engine.state.iteration])).run()
    (run,) = runs()
    assert run.data.params["rate"] == "0.25"
    client = MlflowClient(store)
    config = json.loads(Path(client.download_artifacts(run.info.run_id, "config.json")).read_text())
    assert config["rate"] == 0.25
    assert config["depth"] == {"epochs": 1}
    assert config["tracker"]["parameters"] == {"rate": "@rate"}
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["config.json", "pictures"]
    pictures = [item.path for item in client.list_artifacts(run.info.run_id, "pictures")]
    assert pictures == [f"pictures/{index}.png" for index in (1, 2, 3)]
    assert Path(client.download_artifacts(run.info.run_id, pictures[0])).read_bytes().startswith(b"\x89PNG")
    # a local database keeps them beside it
    assert str(Path(store.removeprefix("sqlite:///")).parent) in run.info.artifact_uri


def test_an_evaluation_alone_is_a_run_as_well(track, runs, store):
    tracker = track()
    network = torch.nn.Linear(2, 1)
    metrics = {"score": IgniteMetricHandler(loss_fn=torch.nn.L1Loss(), output_transform=from_engine(["pred", "label"]))}
    evaluator = SupervisedEvaluator(torch.device("cpu"), DATA, network, key_val_metric=metrics, val_handlers=[tracker])
    evaluator.run()
    (run,) = runs()
    assert run.info.status == "FINISHED"
    ((_, value),) = metric(run, "score", store)
    with torch.no_grad():
        expected = torch.stack([network(item["image"]).abs().mean() for item in DATA]).mean()
    assert value == pytest.approx(float(expected), rel=1e-5)


TRAINING = {"task": "segmentation", "initialisation": "artifact_removal", "seed": 3, "train_size": 1}


def test_a_run_is_named_and_tagged_by_what_tells_it_apart(track, runs, tmp_path):
    places = {"dataset_dir": str(tmp_path / "clinical" / "prepared"), "cohort": "c" * 64}
    tags = {"stage": "fine-tuning"}
    engines(track(parameters={**TRAINING, "learning_rate": 0.003, **places}, tags=tags), 1).run()
    (run,) = runs()
    assert run.info.run_name == "segmentation · artifact_removal · n=1 · seed 3"
    found = run.data.tags
    assert {name: found[name] for name in (*TRAINING, "stage")} == {
        **{name: str(value) for name, value in TRAINING.items()},
        "stage": "fine-tuning",
    }
    assert found["mlflow.source.type"] == "LOCAL"
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    assert found.get("mlflow.source.git.commit", "") == head
    ((cohort, context),) = [(item.dataset, item.tags[0].value) for item in run.inputs.dataset_inputs]
    assert (cohort.name, cohort.digest, context) == ("clinical/prepared", "c" * 36, "training")
    assert json.loads(cohort.source) == {"uri": places["dataset_dir"]}


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"task": "direction", "initialisation": "random", "train_size": "4"}, "direction · random · n=4"),
        ({**TRAINING, "fold": "0"}, "segmentation · artifact_removal · n=1 · seed 3"),
        ({**TRAINING, "fold": "2"}, "segmentation · artifact_removal · n=1 · fold 2 · seed 3"),
        ({**TRAINING, "stage": "evaluation"}, "segmentation · artifact_removal · n=1 · seed 3 · evaluation"),
        ({}, ""),
    ],
)
def test_names_of_runs(tags, name):
    assert name_of(tags) == name


def test_a_pretraining_is_tagged_by_the_initialisation_that_it_makes(track):
    parameters = {"task": "restoration", "initialisation": "random", "pretext": "autoencoder", "seed": 0}
    assert track(parameters=parameters).run_name == "restoration · autoencoder · seed 0"


def test_learning_rate_and_seconds_of_each_epoch_are_tracked(track, runs, store):
    trainer = engines(track(), 2, lambda _: time.sleep(0.01))

    @trainer.on(Events.ITERATION_STARTED)
    def fall(engine):
        engine.optimizer.param_groups[0]["lr"] = 1 / engine.state.iteration

    trainer.run()
    (run,) = runs()
    # that of the last of three steps
    assert metric(run, "learning_rate", store) == [(1, pytest.approx(1 / 3)), (2, pytest.approx(1 / 6))]
    assert all(0.03 <= seconds < 60 for _, seconds in metric(run, "epoch_seconds", store))


def test_load_and_memory_of_the_machine_are_tracked_on_request(track, runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    engines(track(), 1, lambda _: time.sleep(0.2)).run()
    (without,) = runs()
    assert not [name for name in without.data.metrics if name.startswith("system/")]
    engines(track("second", system_metrics=True), 1, lambda _: time.sleep(0.2)).run()
    (run,) = [found for found in runs() if found.info.run_id != without.info.run_id]
    assert 0 < run.data.metrics["system/system_memory_usage_percentage"] <= 100
    assert run.info.status == "FINISHED"


def evaluator_of(tracker, names):
    """Evaluator whose metric has two classes: distances of 1, 3 and NaN, and of 0, 0 and 0 over three scans."""
    data = [{"image": torch.tensor([[value, 0.0]]), "label": torch.zeros(1, 2)} for value in (1.0, 3.0, torch.nan)]
    metrics = {"test_error": IgniteMetricHandler(loss_fn=Distance(), output_transform=from_engine(["pred", "label"]))}
    assert len(names) == 2
    return SupervisedEvaluator(
        torch.device("cpu"), data, torch.nn.Identity(), key_val_metric=metrics, val_handlers=[tracker]
    )


class Distance(torch.nn.Module):
    reduction = "none"

    def forward(self, pred, label):
        return (pred - label).abs()


def test_an_evaluation_is_the_child_of_its_training_with_its_classes_and_baselines(track, runs, store, tmp_path):
    trained = track(parameters={**TRAINING, "learning_rate": 0.003}, tags={"stage": "fine-tuning"})
    engines(trained, 2).run()
    (training,) = runs()
    names = ["white matter", "gray (matter)"]
    tracker = track(
        "evaluation",
        parameters={**TRAINING, "learning_rate": 0.003, "max_epochs": 2},
        tags={"stage": "evaluation"},
        parent=training.info.run_id,
        classes={"test_error": names},
    )
    # the config of an evaluation may name another experiment than that of the training
    tracker.experiment_name = "another"
    evaluator_of(tracker, names).run()
    table = tmp_path / "baselines.csv"
    table.write_text("method,scan\n")
    tracker.log_afterwards({"test_error/baseline_atlas": 0.5}, table)
    evaluation, former = runs()
    assert former.info.run_id == training.info.run_id
    assert evaluation.info.run_name == "segmentation · artifact_removal · n=1 · seed 3 · evaluation"
    assert evaluation.info.status == "FINISHED"
    assert evaluation.data.tags["mlflow.parentRunId"] == training.info.run_id
    # not those of the evaluator, which has one epoch
    assert evaluation.data.params["max_epochs"] == "2"
    assert "epoch_length" not in evaluation.data.params
    found = evaluation.data.metrics
    assert found["test_error/white_matter"] == 2
    assert found["test_error/gray_matter"] == 0
    assert found["test_error/baseline_atlas"] == 0.5
    assert "baselines.csv" in [item.path for item in MlflowClient(store).list_artifacts(evaluation.info.run_id)]


def test_an_evaluation_whose_training_is_not_in_this_mlflow_goes_where_its_config_says(track, runs):
    evaluator_of(track(parent="0" * 32), "ab").run()
    (run,) = runs()
    assert run.info.status == "FINISHED"


def test_before_it_starts_there_is_no_run(track, runs):
    tracker = track()
    assert tracker.origin()["mlflow_run"] == ""
    with pytest.raises(RuntimeError, match="no run"):
        _ = tracker.run_id
    assert runs() == []


def test_the_code_is_named_by_its_state():
    assert code_state().split()[0]
