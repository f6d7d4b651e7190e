"""MLflow tracking: one run per training or evaluation, with what a person needs to understand and repeat it."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)
from monai.engines import Trainer
from monai.handlers import MLFlowHandler

from scripts.io.files import read_json, write_json, write_table
from scripts.training.epoch_metrics import RUN_FILE, EpochMetrics, send
from scripts.training.tracking_store import (
    artifact_location,
    effective_uri,
    opening,
    restore_experiment,
    run_table,
    without_password,
)
from scripts.version import code_commit
from transforms.errors import InputError

MAX_PARAMETER_LENGTH = 500
"""Largest length of a parameter's value in characters: MLflow refuses longer ones."""


PATHS = ("dataset_dir", "pretrained", "checkpoint")
"""Parameters that are paths."""

NAMED = ("task", "initialisation", "train_size", "seed")
"""Parameters that are tags too, so that a person can filter runs by them; the name of a run is made of them."""

EVALUATION = "evaluation"
"""Tag ``stage`` of an evaluation."""

MAX_DIGEST = 36
"""Largest length of the digest of a data set in characters."""

logger = logging.getLogger(__name__)


class Tracker(MLFlowHandler):
    """MLflow tracking of a training with its validations, or of an evaluation alone.

    Attach the same tracker to the trainer and to the evaluator that validates it. A run that ends with an error is
    marked as failed, and an interrupted run as killed. A server that does not answer does not end a training: its
    metrics are in ``epochs.csv`` in any case, and are sent once the server answers again.

    Args:
        tracking_uri: address such as ``sqlite:///mlflow.db``; MLflow refuses its former file store.
        experiment_name: name that groups runs; an evaluation goes to the experiment of its training.
        output_dir: folder that keeps the id of the run, so that a resumed training can continue the run, and the
            metrics of each epoch.
        run_name: name of the run; by default it says task, initialisation, number of training participants and seed.
        parameters: parameters logged with the run.
        preparation: how the scans were prepared, kept with the weights; see ``scripts.cohort.datalist``.
        config: the whole config, overlays and overrides included; kept with the run as ``config.json``.
        resume: whether to continue the run whose id is in ``output_dir``.
        log_paths: whether paths and names of scans go to the server: in parameters, the config and tables.
        tags: tags of the run: ``stage``, and those by which a comparison finds it again.
        parent: id of the run whose child this one is: the training of an evaluation.
        classes: names of the classes of each metric; each class becomes a metric, as ``val_macro_f1/white_matter``.
        system_metrics: whether load, memory and disk of the machine are tracked, every ten seconds.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment_name: str,
        output_dir: str,
        run_name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        preparation: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        resume: bool = False,
        log_paths: bool = True,
        tags: Mapping[str, str] | None = None,
        parent: str = "",
        classes: Mapping[str, Sequence[str]] | None = None,
        system_metrics: bool = False,
    ) -> None:
        if system_metrics and find_spec("psutil") is None:
            raise InputError("--system_metrics: found no package psutil, expected it to be installed.")
        self.uri = effective_uri(tracking_uri)
        self.parameters = {key: str(value) for key, value in (parameters or {}).items()}
        logged = {key: value for key, value in self.parameters.items() if log_paths or key not in PATHS}
        self.parent = parent
        self.tags = {
            **named_tags(self.parameters),
            **source_tags(),
            **({MLFLOW_PARENT_RUN_ID: parent} if parent else {}),
        }
        self.tags |= tags or {}
        with opening(self.uri) as address:
            super().__init__(
                tracking_uri=address,
                experiment_name=experiment_name,
                run_name=run_name or name_of(self.tags) or experiment_name,
                experiment_param={key: value[:MAX_PARAMETER_LENGTH] for key, value in logged.items()},
                artifact_location=artifact_location(self.uri),
                iteration_log=False,
                epoch_log=True,
                close_on_complete=True,
            )
        self.run_file = Path(output_dir) / RUN_FILE
        self.epochs = EpochMetrics(Path(output_dir) / "epochs.csv", resume)
        self.preparation = dict(preparation or {})
        self.config = config
        self.resume = resume
        self.log_paths = log_paths
        self.classes = dict(classes or {})
        self.system_metrics = system_metrics
        self.monitor: Any = None
        self.trains = False
        self.at_work = False
        self.begun = False
        self.behind = False
        self.unsent: list[Metric] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, to its evaluator, or to an evaluator alone."""
        if isinstance(engine, Trainer):
            self.trains = True
            engine.add_event_handler(Events.STARTED, self.start)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
            engine.add_event_handler(Events.COMPLETED, self.close)
        else:
            # the trainer is built after its evaluator, so whether there is one is known only when the run starts
            engine.add_event_handler(Events.STARTED, self._start_alone)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
            engine.add_event_handler(Events.COMPLETED, self._close_alone)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def start(self, engine: Engine) -> None:
        """Create the run, or continue an earlier one, and log its parameters."""
        self.at_work = True
        if not self._former():
            # enough for the command that sends later to make the run
            described = {"experiment": self.experiment_name, "run_name": self.run_name, "tags": self.tags}
            write_json(self.run_file, {**described, "parameters": self.experiment_param})
        self._attempt(self._begin, engine)

    def _former(self) -> str | None:
        """Identifier of the run to continue."""
        return read_json(self.run_file).get("run_id") if self.resume and self.run_file.is_file() else None

    def _begin(self, engine: Engine) -> None:
        """Do what a server must know before metrics; again, where it stopped answering in the middle."""
        self._join_parent()
        self._set_experiment()
        experiment: Any = self.experiment
        if self.cur_run is None:
            former = self._former()
            # MONAI would take a run of this name that did not end well, or is at work, for its own
            run: Any = (former and self._continued(former)) or self.client.create_run(
                experiment.experiment_id, run_name=self.run_name, tags=self.tags
            )
            known = run.data.params
            self.experiment_param = {k: v for k, v in (self.experiment_param or {}).items() if k not in known}
            self.unsent = self.epochs.missing(self.client, run.info.run_id)
            self.cur_run = run
            write_json(self.run_file, {"run_id": self.run_id, "parameters": self.experiment_param})
        if not self.trains:
            # epochs of an evaluator say nothing of the training
            self.default_tracking_params = []
        super().start(engine)
        self._log_cohort()
        if self.config is not None and self.log_paths:
            text = json.dumps(self.config, indent=2, default=str)
            text = text.replace(json.dumps(self.uri)[1:-1], without_password(self.uri))
            self.client.log_text(self.run_id, text, "config.json")
        self.begun = True
        write_json(self.run_file, {"run_id": self.run_id})
        self._watch_machine()
        logger.info("MLflow: %s", run_table(self.uri, experiment.experiment_id))

    def _watch_machine(self) -> None:
        if self.system_metrics and self.monitor is None:
            # it imports psutil, which an exported bundle may not have
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # noqa: PLC0415

            with opening(self.uri) as address:
                self.monitor = SystemMetricsMonitor(self.run_id, tracking_uri=address, resume_logging=self.resume)
            self.monitor.start()

    def _join_parent(self) -> None:
        """Take the experiment of the parent, where this MLflow has it: MLflow nests runs of one experiment only."""
        if self.parent and (parent := self._found(self.parent)):
            self.experiment_name = self.client.get_experiment(parent.info.experiment_id).name

    def _log_cohort(self) -> None:
        """Name the cohort as the input of the run."""
        if not {"dataset_dir", "cohort"} <= set(self.parameters):
            return
        folder = Path(self.parameters["dataset_dir"]).absolute()
        name, source = ("/".join(folder.parts[-2:]), {"uri": str(folder)}) if self.log_paths else ("cohort", {})
        cohort = Dataset(name, self.parameters["cohort"][:MAX_DIGEST], "local", json.dumps(source))
        context = InputTag(MLFLOW_DATASET_CONTEXT, "training" if self.trains else "test")
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(cohort, [context])])

    def _set_experiment(self) -> None:
        """Find or make the experiment; one that was deleted comes back."""
        restore_experiment(self.client, self.experiment_name)
        super()._set_experiment()

    def _continued(self, run_id: str) -> Run | None:
        """Return an earlier run, at work again; None where it is gone, which the new one says."""
        run = self._found(run_id)
        if run is None:
            logger.warning("run %s is gone from MLflow: a new one goes on, and names it", run_id)
            self.experiment_param = {**(self.experiment_param or {}), "resumed_from": run_id}
            return None
        self.client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        return run

    def _found(self, run_id: str) -> Run | None:
        """Return a run of this MLflow; None where it is not there or was deleted."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            return None
        return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None

    def epoch_completed(self, engine: Engine) -> None:
        """Note the metrics of an epoch, and send them with what could not be sent before."""
        state: Any = engine.state
        more = pace(engine) if isinstance(engine, Trainer) else class_means(state, self.classes)
        self.unsent += self.epochs.add({**state.metrics, **more}, state.epoch)
        if self._attempt(self._send, engine) and self.behind:
            logger.warning("MLflow answers again: it has all metrics")
            self.behind = False

    def _send(self, engine: Engine) -> None:
        if not self.begun:
            self._begin(engine)
        send(self.client, self.run_id, self.unsent)
        self.unsent = []

    def _attempt(self, action: Callable[..., object], *arguments: Any) -> bool:
        """Do something with the server; return whether it answered. Whatever it raises must not end a training."""
        try:
            action(*arguments)
        except Exception as error:
            if not self.behind:
                logger.warning(
                    "MLflow at %s does not answer (%s): the training goes on, its metrics are in %s, and "
                    "'python -m scripts send' sends them later",
                    without_password(self.uri),
                    type(error).__name__,
                    self.epochs.path,
                )
            self.behind = True
            return False
        return True

    @property
    def run_id(self) -> str:
        """Identifier of the current run."""
        if self.cur_run is None:
            raise RuntimeError("no run has been started")
        return str(self.cur_run.info.run_id)

    def log_picture(self, path: Path) -> None:
        """Keep a picture with the run, if there is one and its server answers."""
        if self.cur_run and not self.behind:
            self._attempt(self.client.log_artifact, self.run_id, str(path), "pictures")

    def log_table(self, table: Mapping[str, Sequence[Any]], name: str) -> None:
        """Keep a table with the run, if there is one and its server answers; columns by name, as MLflow shows them."""
        if self.cur_run and not self.behind and self.log_paths:
            columns = {key: list(column) for key, column in table.items()}
            self._attempt(self.client.log_table, self.run_id, columns, name)

    def log_afterwards(self, metrics: Mapping[str, float], path: Path) -> None:
        """Add metrics and a table to a run that has ended: baselines are scored after their network."""
        self.unsent += self.epochs.add(metrics, 1)
        self._attempt(self._send_afterwards, path)

    def _send_afterwards(self, path: Path) -> None:
        run_id = read_json(self.run_file)["run_id"]
        send(self.client, run_id, self.unsent)
        self.unsent = []
        if self.log_paths:
            self.client.log_artifact(run_id, str(path))
        self._dispose_sqlite_store()

    def origin(self) -> dict[str, Any]:
        """Describe the origin of weights that are saved now."""
        return {
            "mlflow_run": self.run_id if self.cur_run else "",
            "parameters": dict(self.parameters),
            "preparation": dict(self.preparation),
        }

    def close(self) -> None:
        """End the run well."""
        self._end(RunStatus.FINISHED)
        self._dispose_sqlite_store()

    def _end(self, status: int) -> None:
        # an evaluator that fails ends its trainer as well
        if not self.at_work:
            return
        if self.monitor:
            self._attempt(self.monitor.finish)
        name = RunStatus.to_string(status)
        if not self._attempt(self._finish, name):
            write_json(self.run_file, {**read_json(self.run_file), "status": name})
        self.at_work, self.cur_run = False, None

    def _finish(self, status: str) -> None:
        send(self.client, self.run_id, self.unsent)
        self.client.set_terminated(self.run_id, status)

    def _start_alone(self, engine: Engine) -> None:
        if not self.trains:
            self.start(engine)

    def _close_alone(self) -> None:
        if not self.trains:
            self.close()

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._end(RunStatus.KILLED if isinstance(error, KeyboardInterrupt) else RunStatus.FAILED)
        # ignite leaves it to the handlers of this event to raise the error again
        raise error


def named_tags(parameters: Mapping[str, str]) -> dict[str, str]:
    """Tags by which a person filters runs; that of a pretraining is the initialisation that it makes."""
    start = {"initialisation": parameters["pretext"]} if "pretext" in parameters else {}
    return {name: value for name, value in {**parameters, **start}.items() if name in NAMED}


def source_tags() -> dict[str, str]:
    """Tags that MLflow shows as the source of a run: the program, and the commit of its code."""
    program = Path(sys.argv[0])
    name = ".".join(program.parts[-3:-1]) if program.name == "__main__.py" else program.name
    commit = code_commit()
    return {MLFLOW_SOURCE_NAME: name, MLFLOW_SOURCE_TYPE: "LOCAL", **({MLFLOW_GIT_COMMIT: commit} if commit else {})}


def name_of(tags: Mapping[str, str]) -> str:
    """Name a run by its tags, as ``segmentation · artifact_removal · n=1 · seed 0``."""
    forms = {"train_size": "n={}", "fold": "fold {}", "seed": "seed {}"}
    words = [forms.get(name, "{}").format(tags[name]) for name in (*NAMED[:-1], "fold", "seed") if name in tags]
    if tags.get("fold") == "0":
        words.remove("fold 0")
    return " · ".join([*words, *([EVALUATION] if tags.get("stage") == EVALUATION else [])])


def pace(trainer: Any) -> dict[str, float]:
    """Learning rate of the last step of an epoch, and the seconds that its steps took."""
    found = {"epoch_seconds": float(trainer.state.times[Events.EPOCH_COMPLETED.name])}
    for index, group in enumerate(trainer.optimizer.param_groups):
        found["learning_rate" + (f"_{group.get('name', index)}" if index else "")] = float(group["lr"])
    return found


def class_means(state: Any, classes: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Mean over the scans of each class of a metric; a class that no scan has is left out."""
    found: dict[str, float] = {}
    for metric, names in classes.items():
        if metric not in state.metric_details:
            continue
        means = torch.as_tensor(state.metric_details[metric]).reshape(-1, len(names)).nanmean(dim=0).tolist()
        found |= {
            metric_name(metric, name): mean for name, mean in zip(names, means, strict=True) if math.isfinite(mean)
        }
    return found


def metric_name(metric: str, part: str) -> str:
    """Name of a part of a metric, in letters that MLflow takes; the slash makes a group of the parts in its charts."""
    return f"{metric}/{re.sub(r'[^A-Za-z0-9]+', '_', part).strip('_')}"


class ScanTable:
    """Handler of an evaluator: the metrics of each scan and class as one table, on disk and with the tracked run.

    Its columns are ``scan``, ``metric``, ``class`` (empty where a metric has none) and ``value``. Attach it after the
    metrics whose details it writes, and run it before the tracker closes its run.

    Args:
        path: path of the CSV file.
        classes: names of the classes of each metric, in the order of its values.
        tracker: tracker that keeps the table with its run as well.
    """

    COLUMNS = ("scan", "metric", "class", "value")

    def __init__(
        self, path: str, classes: Mapping[str, Sequence[str]] | None = None, tracker: Tracker | None = None
    ) -> None:
        self.path = Path(path)
        self.classes = dict(classes or {})
        self.tracker = tracker
        self.scans: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _start(self) -> None:
        self.scans = []

    def _note(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        self.scans += [str(item["scan"]) for item in batch]

    def __call__(self, engine: Engine) -> None:
        """Write the table of the evaluation that ends."""
        rows: list[tuple[str, str, str, float]] = []
        state: Any = engine.state
        for metric, values in state.metric_details.items():
            table = torch.as_tensor(values).reshape(len(self.scans), -1).tolist()
            names = self.classes.get(metric) or ([""] if len(table[0]) == 1 else list(map(str, range(len(table[0])))))
            rows += [
                (scan, metric, name, value)
                for scan, line in zip(self.scans, table, strict=True)
                for name, value in zip(names, line, strict=True)
            ]
        write_table(self.path, self.COLUMNS, rows)
        if self.tracker:
            columns = dict(zip(self.COLUMNS, zip(*rows, strict=True), strict=False))
            self.tracker.log_table(columns, f"{self.path.stem}.json")


def shared(handler: Any) -> Any:
    """Return a handler that several engines share, as an entry of a config's list of handlers.

    MONAI's check of a workflow expects every entry of such a list to be a dictionary, and a plain reference is not.
    """
    return handler
