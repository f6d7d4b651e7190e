"""The MLflow of a comparison: one experiment, a parent run for each setting, a child for each seed and fold."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run as TrackedRun
from mlflow.entities import RunStatus, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from scripts.training.tracking_store import VARIABLE, effective_uri, experiment_id, opening, require_store
from transforms.errors import InputError

EXPERIMENT = "comparison"

COMPLETE = "complete"
"""Tag of a run that is trained and evaluated, with all that the report needs."""

TRUTH = "truth"
"""Tag with the checksum of the cohort against whose truth a run was scored; and folder of the tables."""

MAX_RESULTS = 50_000
"""Runs that MLflow returns at once."""


class Store:
    """The runs of a comparison in MLflow.

    Args:
        out: folder of the comparison; its ``mlflow.db`` is used unless ``MLFLOW_TRACKING_URI`` names another MLflow.
    """

    def __init__(self, out: Path) -> None:
        self.uri = effective_uri(f"sqlite:///{out.absolute() / 'mlflow.db'}")
        require_store(self.uri)
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        with opening(self.uri) as address:
            self.client = MlflowClient(address)
            self.experiment_id = experiment_id(self.client, EXPERIMENT, self.uri)

    def runs(self, **tags: str) -> list[TrackedRun]:
        """Find the runs with these tags, the newest first."""
        text = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        return list(self.client.search_runs([self.experiment_id], text, max_results=MAX_RESULTS))

    def complete(self) -> dict[str, TrackedRun]:
        """Return the runs that are trained and evaluated, by key."""
        return {run.data.tags["key"]: run for run in self.runs(complete="true")}

    def trained(self) -> dict[str, TrackedRun]:
        """Return the trainings that came to their end, by key."""
        ended = RunStatus.to_string(RunStatus.FINISHED)
        runs = [run for stage in ("pretraining", "fine-tuning") for run in self.runs(stage=stage)]
        return {run.data.tags["key"]: run for run in runs if run.info.status == ended}

    def history(self, run: TrackedRun, metric: str) -> dict[int, float]:
        """Return the values of a metric by epoch; a resumed training may have sent one twice, and the last counts."""
        points = self.client.get_metric_history(run.info.run_id, metric)
        return {point.step: point.value for point in sorted(points, key=lambda point: (point.step, point.timestamp))}

    def best(self, run: TrackedRun, metric: str, lower_is_better: bool) -> float:
        """Return the best value of a metric over the epochs, NaN where there is none."""
        values = self.history(run, metric).values()
        return (min if lower_is_better else max)(values, default=math.nan)

    def parent(self, name: str, tags: Mapping[str, str], update: bool = True) -> str:
        """Find or make the parent run of a setting, and return its id.

        Args:
            name: of the run.
            tags: ``setting`` identifies it.
            update: whether the tags of a run that is found are brought up to date.
        """
        found = self.runs(stage="setting", setting=tags["setting"])
        run = found[0] if found else self.client.create_run(self.experiment_id, run_name=name)
        if update or not found:
            self._tag(run.info.run_id, {"stage": "setting", **tags})
        return str(run.info.run_id)

    def set_protocol(self, protocol: str, truths: Collection[str] = ()) -> None:
        """Remember which comparison was the last one; earlier ones may have had other values or another code.

        Args:
            protocol: identifies it.
            truths: checksums of the cohorts against whose truth its runs are scored.
        """
        self.client.set_experiment_tag(self.experiment_id, "protocol", protocol)
        self.client.set_experiment_tag(self.experiment_id, TRUTH, " ".join(sorted(truths)))

    def truths(self) -> list[str]:
        """Return the checksums of the cohorts against whose truth the last comparison is scored."""
        return str(self.client.get_experiment(self.experiment_id).tags.get(TRUTH, "")).split()

    def protocol(self) -> str:
        """Return the protocol of the last comparison, or an empty text."""
        return str(self.client.get_experiment(self.experiment_id).tags.get("protocol", ""))

    def table(self, run_id: str, name: str) -> pd.DataFrame | None:
        """Read a CSV file that is kept with a run; None where there is none."""
        data = self.file(run_id, name)
        return None if data is None else pd.read_csv(io.BytesIO(data), dtype={"class": str})

    def file(self, run_id: str, name: str) -> bytes | None:
        """Read a file that is kept with a run; None where there is none."""
        folder = name.rpartition("/")[0]
        if name not in [item.path for item in self.client.list_artifacts(run_id, folder or None)]:
            return None
        with TemporaryDirectory() as temporary:
            return Path(self.client.download_artifacts(run_id, name, temporary)).read_bytes()

    def end_abandoned(self, key: str, going_on: Collection[str]) -> None:
        """Mark what was killed as such: runs with a key that MLflow takes for running.

        Args:
            key: of the run.
            going_on: ids of those that go on.
        """
        for run in self.runs(key=key):
            if run.info.status == RunStatus.to_string(RunStatus.RUNNING) and run.info.run_id not in going_on:
                self.client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))

    def note_failures(self, parent: str, failures: Mapping[str, str]) -> None:
        """Say in the parent run of a setting which runs failed, and why.

        Args:
            parent: id of the run.
            failures: reasons by fold and seed, as ``0.3``; what is not there has not failed, or no longer.
        """
        known = [name for name in self.client.get_run(parent).data.tags if name.startswith("failure.")]
        for name in known:
            if name.removeprefix("failure.") not in failures:
                self.client.delete_tag(parent, name)
        self._tag(parent, {f"failure.{name}": why for name, why in failures.items()})
        self.client.set_terminated(parent, RunStatus.to_string(RunStatus.FAILED if failures else RunStatus.FINISHED))

    def mark_complete(self, run_id: str, files: Iterable[Path] = (), **tags: str) -> None:
        """Keep files with a run, set tags, and mark it as complete, last of all."""
        for file in files:
            self.client.log_artifact(run_id, str(file))
        self._tag(run_id, {**tags, COMPLETE: "true"})

    def add_truth(self, run_id: str, files: Iterable[Path], cohort: str) -> None:
        """Keep the scores of a run against the truth, and say which cohort's it is."""
        for file in files:
            self.client.log_artifact(run_id, str(file), TRUTH)
        self._tag(run_id, {TRUTH: cohort})

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run all at once."""
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def child_of(parent: str | None) -> dict[str, str]:
    """Tags of a run that make it a child of another."""
    return {} if parent is None else {MLFLOW_PARENT_RUN_ID: parent}


def open_store(out: Path) -> Store:
    """Open the MLflow of a comparison that was made earlier.

    Raises:
        InputError: there is none.
    """
    if not os.environ.get(VARIABLE) and not (out / "mlflow.db").is_file():
        raise InputError(f"{out}: found no mlflow.db, expected the folder of 'python -m scripts compare'.")
    return Store(out)
