"""MLflow tracking: one run per training or evaluation, with what a person needs to understand and repeat it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from mlflow.entities import RunStatus
from monai.engines import Trainer
from monai.handlers import MLFlowHandler

from scripts.io.files import read_json, write_json, write_table

MAX_PARAMETER_LENGTH = 500
"""Largest length of a parameter's value in characters: MLflow refuses longer ones."""


def _artifact_location(tracking_uri: str) -> str | None:
    """Return the folder of pictures beside a local database, or None for a server, which has its own."""
    scheme, _, path = tracking_uri.partition(":///")
    return (Path(path).parent / "mlartifacts").absolute().as_uri() if scheme == "sqlite" else None


class Tracker(MLFlowHandler):
    """MLflow tracking of a training with its validations, or of an evaluation alone.

    Attach the same tracker to the trainer and to the evaluator that validates it. A run that ends with an error is
    marked as failed, and an interrupted run as killed.

    Args:
        tracking_uri: address such as ``sqlite:///mlflow.db``; MLflow refuses its former file store.
        experiment_name: name that groups runs.
        output_dir: folder that keeps the id of the run, so that a resumed training can continue the run.
        run_name: name of the run; by default the experiment's name with the time and four random digits, which tell
            apart runs at the same time.
        parameters: parameters logged with the run.
        preparation: how the scans were prepared, kept with the weights; see ``scripts.cohort.datalist``.
        config: the whole config, overlays and overrides included; kept with the run as ``config.json``.
        resume: whether to continue the run whose id is in ``output_dir``.
    """

    RUN_FILE = "mlflow_run.json"

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
    ) -> None:
        unique = f"{experiment_name}_{time.strftime('%Y%m%d_%H%M%S')}_{secrets.token_hex(2)}"
        super().__init__(
            tracking_uri=tracking_uri,
            experiment_name=experiment_name,
            run_name=run_name or unique,
            experiment_param={k: str(v)[:MAX_PARAMETER_LENGTH] for k, v in (parameters or {}).items()},
            artifact_location=_artifact_location(tracking_uri),
            iteration_log=False,
            epoch_log=True,
            close_on_complete=True,
        )
        self.run_file = Path(output_dir) / self.RUN_FILE
        self.parameters = {key: str(value) for key, value in (parameters or {}).items()}
        self.preparation = dict(preparation or {})
        self.config = config
        self.resume = resume
        self.trains = False

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
        if self.resume and self.run_file.is_file():
            self.cur_run = run = self.client.get_run(read_json(self.run_file)["run_id"])
            self.client.update_run(self.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            known = run.data.params
            self.experiment_param = {k: v for k, v in (self.experiment_param or {}).items() if k not in known}
        super().start(engine)
        write_json(self.run_file, {"run_id": self.run_id})
        if self.config is not None:
            self.client.log_text(self.run_id, json.dumps(self.config, indent=2, default=str), "config.json")

    @property
    def run_id(self) -> str:
        """Identifier of the current run."""
        if self.cur_run is None:
            raise RuntimeError("no run has been started")
        return str(self.cur_run.info.run_id)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Keep a picture with the run, if there is one."""
        if self.cur_run:
            self.client.log_figure(self.run_id, figure, name)

    def log_table(self, table: Mapping[str, Sequence[Any]], name: str) -> None:
        """Keep a table with the run, if there is one; columns by name, as MLflow shows them."""
        if self.cur_run:
            self.client.log_table(self.run_id, {key: list(column) for key, column in table.items()}, name)

    def origin(self) -> dict[str, Any]:
        """Describe the origin of weights that are saved now."""
        return {
            "mlflow_run": self.run_id if self.cur_run else "",
            "parameters": dict(self.parameters),
            "preparation": dict(self.preparation),
        }

    def _start_alone(self, engine: Engine) -> None:
        if not self.trains:
            self.start(engine)

    def _close_alone(self) -> None:
        if not self.trains:
            self.close()

    def _fail(self, engine: Engine, error: BaseException) -> None:
        if self.cur_run:
            status = RunStatus.KILLED if isinstance(error, KeyboardInterrupt) else RunStatus.FAILED
            self.client.set_terminated(self.run_id, RunStatus.to_string(status))
            self.cur_run = None
        # ignite leaves it to the handlers of this event to raise the error again
        raise error


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
