"""Do one run of a comparison by the bundle's own configs: train or go on, evaluate, and mark it as complete."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from monai.bundle import create_workflow

from scripts.comparison.runs import Run, config_files, folder_of
from scripts.comparison.store import EXPERIMENT, TRUTH, Store, child_of
from scripts.io.files import read_json
from scripts.jobs import worker_number
from scripts.training.checkpoints import epoch_checkpoints
from scripts.training.epoch_metrics import RUN_FILE
from scripts.training.tracking import EVALUATION, name_of
from transforms.errors import InputError


@dataclass(frozen=True)
class Job:
    """A run, and where it takes place.

    Attributes:
        run: what is to be done.
        out: folder of the comparison.
        parent: id of the run of its setting in MLflow.
        devices: number of GPUs that the processes of this machine take in turn; 0 for the device of the config.
        evaluate: whether to evaluate too; a rate that is only tried is not.
    """

    run: Run
    out: Path
    parent: str | None
    devices: int = 0
    evaluate: bool = True

    def __str__(self) -> str:
        return str(self.run)


def perform(job: Job) -> str:
    """Train, evaluate and mark a run as complete; what is done already is not done again.

    Returns:
        id of the training's run in MLflow.
    """
    folder = job.run.folder(job.out)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with log_to(folder / "log.txt"):
            return _perform(job, folder, Store(job.out))
    except SystemExit:
        # a config that is run alone ends the program where it is stopped; here it ends the comparison
        raise KeyboardInterrupt from None
    finally:
        gc.collect()
        # other processes may share the GPU, and PyTorch keeps what a run has freed
        torch.cuda.empty_cache()


def _perform(job: Job, folder: Path, store: Store) -> str:
    run = job.run
    # an evaluation that was killed does not go on, and a training that was killed at its start has no run yet
    begun = read_json(folder / RUN_FILE).get("run_id") if (folder / RUN_FILE).is_file() else None
    store.end_abandoned(run.key, [str(begun)])
    if run.truth is not None and (known := store.complete().get(run.key)):
        if not (folder / "model.pt").is_file():
            raise InputError(f"{folder}: found no model.pt, expected the network, to score it against the truth.")
        _score_by_truth(job, folder, store, known.info.run_id)
        return str(known.info.run_id)
    _train(job, folder, store)
    trained = str(read_json(folder / RUN_FILE)["run_id"])
    if run.weights is not None:
        weights = read_json(folder_of(job.out, run.weights) / RUN_FILE)["run_id"]
        store.client.set_tag(trained, "weights_run", str(weights))
    if job.evaluate and run.stage == "pretraining":
        store.mark_complete(trained, _evaluate_restoration(job, folder))
    elif job.evaluate:
        evaluation = folder / "evaluation"
        tables = _evaluate(job, evaluation)
        store.mark_complete(trained, tables, evaluation_run=str(read_json(evaluation / RUN_FILE)["run_id"]))
        _score_by_truth(job, folder, store, trained)
    return trained


def _score_by_truth(job: Job, folder: Path, store: Store, trained: str) -> None:
    """Score a fine-tuned network against the truth as well, if there is one."""
    if (truth := job.run.truth) is not None:
        name = name_of({**job.run.tags, "stage": EVALUATION})
        values = {
            "dataset_dir": str(truth.dataset_dir),
            # an atlas learns from what the network learned from
            "train::dataset::data::dataset_dir": str(job.run.dataset_dir),
            "run_name": f"{name} · {TRUTH}",
        }
        store.add_truth(trained, _evaluate(job, folder / TRUTH, values, {"labels": TRUTH}), truth.cohort)


def _evaluate(
    job: Job, folder: Path, values: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
) -> list[Path]:
    """Score a fine-tuned network, and the methods without training if that is for this run to do; return the tables."""
    run = job.run
    # no model card is made of it
    skip = {"evaluating::2::_disabled_": True, **({} if run.baselines else {"evaluating::1::_disabled_": True})}
    own = {"evaluation_dir": str(folder), **skip, **(values or {})}
    _work("evaluating", [*run.configs, "evaluate"], job, EVALUATION, own, tags)
    return [folder / "scans.csv", *([folder / "baselines.csv"] if run.baselines else [])]


def _train(job: Job, folder: Path, store: Store) -> None:
    """Train from the start or from the last checkpoint, unless the training came to its end."""
    run, resume = job.run, []
    if saved := epoch_checkpoints(folder):
        if run.epochs in saved and (folder / "model.pt").is_file() and run.key in store.trained():
            return
        resume = ["resume"]
    values = {}
    if run.weights is not None:
        values["pretrained"] = str(folder_of(job.out, run.weights) / "model.pt")
    _work("training", [*run.configs, *resume], job, run.stage, values)


def _evaluate_restoration(job: Job, folder: Path) -> Sequence[Path]:
    """Measure the removal of each artifact, where the pretraining has any."""
    if "masked" in job.run.configs or "autoencoder" in job.run.configs:
        return []
    _work("evaluating", [*job.run.configs, "evaluate_restoration"], job, None, {})
    return [folder / "evaluation" / "artifacts.csv"]


def _work(
    run_id: str,
    configs: Sequence[str],
    job: Job,
    stage: str | None,
    values: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
) -> None:
    """Run an id of some configs of the bundle, as ``python -m monai.bundle run`` does."""
    tracking: dict[str, Any] = {}
    if stage is not None:
        tags = {**job.run.tags, **(tags or {}), "stage": stage, "key": job.run.key}
        if stage != EVALUATION:
            # an evaluation is the child of its training
            tags |= child_of(job.parent)
        uri = f"sqlite:///{job.out.absolute() / 'mlflow.db'}"
        tracking = {"tracking_uri": uri, "experiment_name": EXPERIMENT, "tracker::tags": tags}
    places = {"dataset_dir": str(job.run.dataset_dir), "output_dir": str(job.run.folder(job.out))}
    # each process stays with its GPU
    device = {"device": f"cuda:{worker_number() % job.devices}"} if job.devices else {}
    workflow = create_workflow(
        config_file=config_files(configs),
        run_id=run_id,
        logging_file=False,
        **{**job.run.values, **device, **places, **tracking, **values},
    )
    workflow.run()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write what a run prints and logs to a file: the screen shows the table of all runs."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        with path.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
            root.handlers = [logging.StreamHandler(file)]
            root.setLevel(logging.INFO)
            _point_loggers(file)
            yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        _point_loggers(sys.stdout)


def _point_loggers(stream: TextIO) -> None:
    """Have MONAI's loggers write to a stream; they keep the screen as it was when they were made."""
    for name, logger in logging.root.manager.loggerDict.items():
        for handler in logger.handlers if isinstance(logger, logging.Logger) and name.startswith("monai") else ():
            if isinstance(handler, logging.StreamHandler):
                # setStream would flush a file that is closed
                handler.stream = stream
