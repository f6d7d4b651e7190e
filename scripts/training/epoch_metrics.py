"""The metrics of each epoch in a file of their own, and their way to MLflow."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from scripts.io.files import read_json, read_text, write_json, write_table
from scripts.training.tracking_store import effective_uri, experiment_id, opening
from transforms.errors import InputError

MAX_BATCH = 1000
"""Metrics that MLflow takes at once."""

RUN_FILE = "mlflow_run.json"
"""File in an output folder with the id of its run; and what the server could not be told of its start and its end."""


class EpochMetrics:
    """Metrics by epoch and name, kept in a CSV file that is always whole: ``epoch``, ``metric``, ``value``, ``time``.

    Args:
        path: of the file.
        resume: whether to go on with the metrics that are there.
    """

    COLUMNS = ("epoch", "metric", "value", "time")

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.metrics: dict[tuple[int, str], Metric] = {}
        if resume and path.is_file():
            try:
                for row in csv.DictReader(read_text(path, "metrics by epoch").splitlines()):
                    metric = Metric(row["metric"], float(row["value"]), int(row["time"]), int(row["epoch"]))
                    self.metrics[metric.step, metric.key] = metric
            except (KeyError, TypeError, ValueError):
                raise InputError(f"{path}: found another table, expected {', '.join(self.COLUMNS)}.") from None

    def add(self, values: Mapping[str, Any], epoch: int) -> list[Metric]:
        """Note the metrics of an epoch, which take the place of earlier ones, and return them."""
        now = int(1000 * time.time())
        added = [Metric(name, float(value), now, epoch) for name, value in values.items()]
        self.metrics |= {(metric.step, metric.key): metric for metric in added}
        rows = [(metric.step, metric.key, repr(metric.value), metric.timestamp) for metric in self.metrics.values()]
        write_table(self.path, self.COLUMNS, rows)
        return added

    def missing(self, client: MlflowClient, run_id: str) -> list[Metric]:
        """Return the metrics that a run does not have."""
        names = {name for _, name in self.metrics}
        known = {(point.step, name) for name in names for point in client.get_metric_history(run_id, name)}
        return [metric for key, metric in self.metrics.items() if key not in known]


def send(client: MlflowClient, run_id: str, metrics: Sequence[Metric]) -> None:
    """Send metrics to a run."""
    for first in range(0, len(metrics), MAX_BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + MAX_BATCH])


def send_afterwards(output_dir: Path, tracking_uri: str) -> int:
    """Send what a training could not: its run and parameters, metrics, pictures, and how it ended.

    Args:
        output_dir: of the training.
        tracking_uri: address of the MLflow that has its run; ``MLFLOW_TRACKING_URI`` goes before it.

    Returns:
        the number of metrics sent.

    Raises:
        InputError: the folder names no run and no experiment, or its run is not in this MLflow.
    """
    path, uri = output_dir / RUN_FILE, effective_uri(tracking_uri)
    told = read_json(path)
    if not {"run_id", "experiment"} & set(told):
        raise InputError(f"{path}: found no run_id, expected that of a training.")
    with opening(uri) as address:
        client = MlflowClient(address)
    if "run_id" not in told:
        experiment = experiment_id(client, told["experiment"], uri)
        made = client.create_run(experiment, run_name=told["run_name"], tags=told["tags"])
        told["run_id"] = made.info.run_id
        write_json(path, told)
    run_id = told["run_id"]
    try:
        known = client.get_run(run_id).data.params
    except MlflowException:
        raise InputError(f"{path}: found run {run_id}, which is not in this MLflow, expected one that is.") from None
    for name, value in told.get("parameters", {}).items():
        if name not in known:
            client.log_param(run_id, name, value)
    metrics = EpochMetrics(output_dir / "epochs.csv", resume=True).missing(client, run_id)
    send(client, run_id, metrics)
    if (output_dir / "pictures").is_dir():
        client.log_artifacts(run_id, str(output_dir / "pictures"), "pictures")
    if "status" in told:
        client.set_terminated(run_id, told["status"])
    return len(metrics)
