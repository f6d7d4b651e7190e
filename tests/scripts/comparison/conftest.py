"""Two tiny cohorts, and a comparison on them whose runs are made up: no training takes place."""

import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow.entities import Metric, Param

from scripts.comparison import matrix
from scripts.comparison.plan import Settings
from scripts.comparison.store import Store, child_of
from scripts.io.files import write_json
from tests.tiny_cohort import copy_as_truth, write_tiny_cohorts

SUBJECTS = 6
TASK_METRICS = {
    "segmentation": {"val_macro_f1": ["a", "b"]},
    "crossings": {"val_balanced_accuracy": ["0", "1"], "val_accuracy": [""]},
    "direction": {"val_angular_error": [""]},
}
EFFECTS = {"artifact_removal": 0.05, "autoencoder": 0.0}


@pytest.fixture(scope="session")
def cohorts(tmp_path_factory):
    """Folders of a prepared auxiliary and a prepared clinical cohort."""
    root = tmp_path_factory.mktemp("cohorts")
    write_tiny_cohorts(root, training=4)
    return root


@pytest.fixture(scope="session")
def truth(cohorts, tmp_path_factory):
    """Folder of the clinical cohort, labelled by the truth."""
    return copy_as_truth(cohorts / "clinical", tmp_path_factory.mktemp("copies") / "truth")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """Folder with an empty MLflow: making one takes seconds."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Store(folder)
    return folder


@pytest.fixture
def settings(cohorts, empty_store, tmp_path, monkeypatch):
    """Return the function that makes settings of a comparison in a folder of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store / "mlflow.db", tmp_path)
    network = {"network_def::in_channels": 6, "network_def::filters": [2, 4, 4, 4], "num_workers": 0}
    return partial(
        Settings,
        cohorts / "auxiliary",
        cohorts / "clinical",
        tmp_path,
        tasks=("segmentation",),
        seeds=2,
        train_sizes=(1,),
        steps=6,
        validations=2,
        pretraining={"output_channels": 6, "max_epochs": 2, **network},
        fine_tuning=network,
    )


def made_up_scans(task, arm, seed, subjects, noise, prefix):
    """Table of scores as an evaluation writes it; ``EFFECTS`` stand in it."""
    rng = np.random.default_rng([seed, list(TASK_METRICS).index(task), len(arm)])
    sign = -1 if task == "direction" else 1
    return pd.DataFrame(
        [
            (
                f"sub-{index:02d}_ses-{session}",
                prefix + metric[4:],
                label,
                0.5 + index / 50 + sign * effect + rng.normal(0, noise),
            )
            for metric, labels in TASK_METRICS[task].items()
            for label in labels
            for index in range(subjects)
            for session in (1, 2)
            for effect in [EFFECTS.get(arm, 0.0)]
        ],
        columns=["scan", "metric", "class", "value"],
    )


def score_by_truth(job, store, training):
    """Make up scores against the truth: those against the labels, and 0.1 less."""
    if job.run.truth is not None:
        folder = job.run.folder(job.out)
        (folder / "truth").mkdir(exist_ok=True)
        for file in ("scans.csv", *(["baselines.csv"] if job.run.baselines else [])):
            scores = pd.read_csv(folder / file)
            scores["value"] -= 0.1
            scores.to_csv(folder / "truth" / file, index=False)
        store.add_truth(training, (folder / "truth").iterdir(), job.run.truth.cohort)


@pytest.fixture
def made_up(monkeypatch):
    """Have the runs of a comparison made up; return what was asked for, and what is to fail, by a part of its name."""
    state = {
        "done": [],
        "failing": {},
        "subjects": SUBJECTS,
        "noise": 0.01,
        "rate": {},
        "prefix": "test_",
        "loss": False,
    }

    def perform(job):
        run, folder, store = job.run, job.run.folder(job.out), Store(job.out)
        state["done"].append(str(run) + ("" if job.evaluate else ", training only"))
        for part, error in state["failing"].items():
            if part in str(run):
                raise error
        if known := store.complete().get(run.key):
            score_by_truth(job, store, known.info.run_id)
            return known.info.run_id
        tags = {**run.tags, "stage": run.stage, "key": run.key, **child_of(job.parent)}
        client = store.client
        created = client.create_run(store.experiment_id, tags=tags).info.run_id
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "mlflow_run.json", {"run_id": created})
        parameters, metrics = [Param("epoch_length", "1"), Param("code", "made up")], []
        files = []
        if run.stage == "pretraining":
            (folder / "model.pt").touch()
            errors = [("motion", "sub-1", 0.2, 0.1), ("none", "sub-1", 0.0, 0.01)]
            columns = ["artifact", "scan", "error_before", "error_after"]
            pd.DataFrame(errors, columns=columns).to_csv(folder / "artifacts.csv", index=False)
            files = [folder / "artifacts.csv"]
        else:
            (leading, _), *_ = TASK_METRICS[run.tags["task"]].items()
            for epoch in (3, 6):
                score = 0.1 * epoch + state["rate"].get(run.values["learning_rate"], 0)
                values = {"train_loss": 1 / epoch, "val_loss": 1 / epoch + 0.1 * epoch, leading: score}
                values |= {"learning_rate": 0.001, f"{leading}/a": score}
                metrics += [Metric(name, value, epoch, epoch) for name, value in values.items()]
            table = made_up_scans(
                run.tags["task"],
                run.tags["initialisation"],
                int(run.tags["seed"]),
                state["subjects"],
                state["noise"],
                state["prefix"],
            )
            if state["loss"]:
                losses = table.assign(metric=f"{state['prefix']}loss", value=1 - table["value"])
                table = pd.concat([table, losses])
            table.to_csv(folder / "scans.csv", index=False)
            files = [folder / "scans.csv"]
            if run.baselines:
                table.assign(method="atlas").to_csv(folder / "baselines.csv", index=False)
                files.append(folder / "baselines.csv")
        client.log_batch(created, metrics=metrics, params=parameters)
        client.set_terminated(created)
        extra = {}
        if run.weights is not None:
            extra["weights_run"] = store.complete()[run.weights].info.run_id
        if run.stage == "fine-tuning" and job.evaluate:
            evaluated = client.create_run(store.experiment_id, tags={"stage": "evaluation"}).info.run_id
            client.log_figure(evaluated, Figure(figsize=(1, 1)), "pictures/epoch_0001.png")
            extra["evaluation_run"] = evaluated
        if job.evaluate:
            store.mark_complete(created, files, **extra)
            score_by_truth(job, store, created)
        return created

    monkeypatch.setattr(matrix, "perform", perform)
    return state
