"""Does pretraining help? Every task from every start, with few subjects, on held-out phantoms with true labels.

All is trained by the bundle's own configs. Test subjects are scored after 100, 200 and 400 steps, and with the weights
of the best validation. The scores of each run are kept in ``runs/pretraining`` and in the table ``RESULTS``, so a
benchmark that was cut off goes on: finished runs are not repeated, unfinished ones are resumed. It takes hours.
"""

from __future__ import annotations

import csv
import itertools
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.tasks import initialised
from scripts.cohort.datalist import load_entries
from scripts.cohort.prepare import prepare_cohort
from scripts.io.files import write_table
from scripts.labels import label_cohort
from scripts.phantom import write_phantom
from scripts.training.tracking import ScanTable
from scripts.training.weights import load_network

FOLDER = Path("runs/pretraining")
RESULTS = Path("benchmarks/results/pretraining.csv")
COLUMNS = ("task", "start", "subjects", "seed", "weights", "scan", "metric", "value")

COHORTS = {"auxiliary": ("hcp", 24, 21, (21, 3, 0)), "clinical": ("bids", 14, 31, (4, 2, 8))}
"""Layout, number of subjects, seed and splits of the phantoms."""

STARTS = {"random": None, "autoencoder": ["autoencoder", "without_skips"], "artifact_removal": []}
"""Overlays of ``pretrain.json``, by start; None for no pretraining. An autoencoder with skips returns its input from
the first step on, so it has nothing to learn."""

LEADING = {"segmentation": "val_macro_f1", "crossings": "val_balanced_accuracy", "direction": "val_angular_error"}
TRAIN_SIZES = (1, 4)
SEEDS = (0, 1, 2)
PRETRAINING_EPOCHS = 25
"""Each has 21 steps of one scan."""
STEPS = (100, 200, 400)
"""Steps of one scan after which test subjects are scored; the last is the length of a fine-tuning."""

console = Console()


def make_cohort(kind: str) -> Path:
    """Make, prepare and label the phantoms of a kind, unless they exist already."""
    layout, subjects, seed, splits = COHORTS[kind]
    raw, prepared = FOLDER / kind / "raw", FOLDER / kind / "prepared"
    write_phantom(kind, subjects, seed, raw, jobs=2)
    outcomes: list[Any] = [*prepare_cohort(layout, raw, prepared, split=splits)]
    if kind == "clinical":
        outcomes += label_cohort(prepared, truth=raw / "derivatives" / "truth")
    for outcome in outcomes:
        if outcome.failure:
            raise SystemExit(f"error: {outcome.item}: {outcome.failure}")
    return prepared


def train(configs: list[str], folder: Path, **changes: Any) -> ConfigParser:
    """Return the parsed config of a training, which goes on if it was cut off."""
    resume = ["resume"] if list(folder.glob("checkpoint_epoch=*.pt")) else []
    common = {"batch_size": 1, "num_workers": 0, "tracking_uri": f"sqlite:///{FOLDER.absolute()}/mlflow.db"}
    return initialised([*configs, *resume], {"output_dir": str(folder), **common, **changes})


def pretrain(start: str, cohort: Path) -> Path | None:
    """Pretrain as a start says, unless that is done; return its weights."""
    overlays = STARTS[start]
    if overlays is None:
        return None
    folder = FOLDER / f"pretrain_{start}"
    if not (folder / f"checkpoint_epoch={PRETRAINING_EPOCHS}.pt").is_file():
        changes = {"dataset_dir": str(cohort), "max_epochs": PRETRAINING_EPOCHS, "val_interval": 5}
        train(["pretrain", *overlays], folder, **changes).get_parsed_content("training")
    return folder / "model.pt"


class TestScores:
    """Scores of test subjects during a training, kept in a file after each scoring.

    Args:
        parser: parsed config of the training.
        path: CSV file with ``weights``, ``scan`` and ``value``.
        metric: name of the leading metric.
    """

    def __init__(self, parser: ConfigParser, path: Path, metric: str) -> None:
        self.parser, self.path, self.metric = parser, path, metric
        keys = ["image", "mask", *parser.get_parsed_content("label_keys")]
        entries = load_entries(parser.get_parsed_content("dataset_dir"), "test", keys)
        preprocessing = parser.get_parsed_content("preprocessing")
        self.loader = DataLoader(CacheDataset(entries, preprocessing, progress=False), batch_size=1)
        self.rows = read_rows(path)

    def __call__(self, weights: str) -> None:
        """Score the network as it is now, under the name of its weights."""
        table = self.path.with_name("test.csv")
        evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=self.loader,
            network=self.parser.get_parsed_content("network"),
            postprocessing=self.parser.get_parsed_content("postprocessing"),
            key_val_metric=self.parser.get_parsed_content("key_metric"),
            val_handlers=[ScanTable(str(table))],
        )
        evaluator.run()
        values: dict[str, list[float]] = {}
        for row in read_rows(table):
            values.setdefault(row["scan"], []).append(float(row["value"]))
        self.rows = [row for row in self.rows if row["weights"] != weights]
        self.rows += [{"weights": weights, "scan": s, "value": f"{np.nanmean(v):.6f}"} for s, v in values.items()]
        write_table(self.path, ("weights", "scan", "value"), [list(row.values()) for row in self.rows])

    def after(self, engine: Engine) -> None:
        """Score after the steps that are asked for."""
        if engine.state.iteration in STEPS:
            self(str(engine.state.iteration))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the lines of a table; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fine_tune(task: str, start: str, subjects: int, seed: int, cohort: Path, pretrained: Path | None) -> None:
    """Fine-tune and score the test subjects, and add the scores to the results."""
    folder = FOLDER / f"{task}_{start}_{subjects}_{seed}"
    epochs = STEPS[-1] // subjects
    parser = train(
        ["finetune", task],
        folder,
        dataset_dir=str(cohort),
        pretrained=None if pretrained is None else str(pretrained),
        seed=seed,
        train_size=subjects,
        max_epochs=epochs,
        val_interval=epochs // 10,
    )
    scores = TestScores(parser, folder / "scores.csv", LEADING[task])
    if not (folder / f"checkpoint_epoch={epochs}.pt").is_file():
        trainer = parser.get_parsed_content("train::trainer")
        trainer.add_event_handler(Events.ITERATION_COMPLETED, scores.after)
        parser.get_parsed_content("training")
    load_network(parser.get_parsed_content("network"), str(folder / "model.pt"))
    scores("best validation")
    run = [task, start, str(subjects), str(seed)]
    old = [list(row.values()) for row in read_rows(RESULTS) if list(row.values())[:4] != run]
    new = [[*run, row["weights"], row["scan"], LEADING[task], row["value"]] for row in scores.rows]
    write_table(RESULTS, COLUMNS, old + new)


def differences(rows: list[dict[str, str]]) -> Iterator[list[str]]:
    """Compare each start with random: paired by test subject, after the mean over the seeds that both have.

    Yields:
        task, subjects, weights, start, mean of random, mean of the start, mean difference with its 95 % interval
        (bootstrap over subjects, bias-corrected and accelerated), number of seeds.
    """
    values: dict[tuple[str, str, str, str], dict[str, dict[str, float]]] = {}
    for row in rows:
        case = (row["task"], row["subjects"], row["weights"], row["start"])
        values.setdefault(case, {}).setdefault(row["seed"], {})[row["scan"]] = float(row["value"])
    for case, by_seed in values.items():
        random = values.get((*case[:3], "random"), {})
        seeds = sorted(by_seed.keys() & random.keys())
        if case[3] == "random" or not seeds:
            continue
        scans = sorted(by_seed[seeds[0]])
        here, there = (np.array([[of[seed][scan] for seed in seeds] for scan in scans]) for of in (by_seed, random))
        paired = (here - there).mean(axis=1)
        interval = stats.bootstrap((paired,), np.mean, random_state=0).confidence_interval
        yield [
            *case,
            f"{there.mean():.3f}",
            f"{here.mean():.3f}",
            f"{paired.mean():+.3f} ({interval.low:+.3f} to {interval.high:+.3f})",
            str(len(seeds)),
        ]


def main() -> None:
    """Pretrain, fine-tune and score whatever is missing, and print the differences to random starts."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    cohorts = {kind: make_cohort(kind) for kind in COHORTS}
    weights = {start: pretrain(start, cohorts["auxiliary"]) for start in STARTS}
    done = {tuple(row[key] for key in COLUMNS[:4]) for row in read_rows(RESULTS)}
    for seed, subjects, task, start in itertools.product(SEEDS, TRAIN_SIZES, LEADING, STARTS):
        if (task, start, str(subjects), str(seed)) not in done:
            console.print(f"{task}, {start}, {subjects} subjects, seed {seed}")
            fine_tune(task, start, subjects, seed, cohorts["clinical"], weights[start])
    table = Table("task", "subjects", "weights", "start", "random", "start", "difference", "seeds")
    for line in differences(read_rows(RESULTS)):
        table.add_row(*line)
    console.print(table)
