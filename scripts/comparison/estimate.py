"""How long a comparison takes, from a few steps and a validation of each kind of training on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ignite.engine import Events
from ignite.handlers import Timer
from monai.bundle import create_workflow
from monai.engines import Workflow
from rich.console import Console

from scripts.cohort.datalist import load_entries
from scripts.comparison.execute import log_to
from scripts.comparison.runs import Run, config_files

STEPS = 4
"""Steps that are measured, after one that warms up."""

console = Console()


def timed(engine: Workflow) -> Timer:
    """Return a timer of an engine's steps, without its first one."""
    timer = Timer(average=True)
    after_first = Events.ITERATION_STARTED(event_filter=lambda engine, event: event > 1)
    done = Events.ITERATION_COMPLETED(event_filter=lambda engine, event: event > 1)
    return timer.attach(engine, start=Events.STARTED, resume=after_first, pause=done, step=done)  # type: ignore[arg-type]


def measure(run: Run) -> tuple[float, float]:
    """Train a few steps with one validation, and return the seconds of a step and of a scan that is validated."""
    with TemporaryDirectory() as folder, log_to(Path(folder) / "log.txt"):
        workflow = create_workflow(
            config_file=config_files(run.configs),
            run_id="training",
            logging_file=False,
            **{**run.values, "max_epochs": 1, "val_interval": 1},
            dataset_dir=str(run.dataset_dir),
            output_dir=folder,
            tracking_uri=f"sqlite:///{folder}/mlflow.db",
        )
        trainer, evaluator = (
            workflow.parser.get_parsed_content(id) for id in ("train::trainer", "validate::evaluator")
        )
        trainer.state.epoch_length = STEPS + 1
        timers = timed(trainer), timed(evaluator)
        workflow.run()
        step, scan = (timer.value() for timer in timers)
    # a validation of one scan has none after its first
    return step, scan or step


def estimate(missing: Sequence[Run], jobs: int) -> float:
    """Estimate the seconds that the missing runs of a comparison take in one process, and print the hours.

    Args:
        missing: runs to do.
        jobs: processes that share the work.
    """
    measured: dict[str, tuple[float, float]] = {}
    total = 0.0
    for run in missing:
        kind = run.tags.get("task", " ".join(run.configs))
        if kind not in measured:
            console.print(f"measuring {STEPS} steps: {kind}", highlight=False)
            measured[kind] = measure(run)
        total += seconds(run, *measured[kind])
    console.print(
        f"The missing runs take about {total / 3600:.1f} hours in one process on this machine, loading and baselines "
        f"not counted; {jobs} at a time share that."
    )
    return total


def seconds(run: Run, step: float, scan: float) -> float:
    """Return the seconds of a run's steps, its validations and its evaluation."""
    cohort = str(run.dataset_dir)
    training = len(load_entries(cohort, "training", participants=run.values.get("train_size")))
    validation = len(load_entries(cohort, "validation"))
    # the test scans of a fine-tuning; a pretraining has none, and is evaluated on those of its validation
    tested = len(load_entries(cohort, "test")) if run.stage == "fine-tuning" else validation
    validations = run.epochs / int(run.values.get("val_interval", 1))
    return run.epochs * math.ceil(training / run.batch_size) * step + (validations * validation + tested) * scan
