"""Scores of the tasks with each encoding and loss, on held-out small phantoms with true labels.

The benchmark trains and evaluates with the bundle's own configs, which print the baselines. It changes only length,
batch size, learning rate, encoding and loss. It takes about twenty minutes on one core. The phantoms and the trained
networks stay in ``runs/benchmark_tasks`` and are not made again.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from scripts.cohort.prepare import prepare_cohort
from scripts.labels import label_cohort
from scripts.phantom import write_phantom

FOLDER = Path("runs/benchmark_tasks")
CONFIGS = Path(__file__).parents[1] / "bundle" / "configs"
SUBJECTS = 9
"""Number of subjects: 5 for training, 2 for validation, 2 for test."""
COHORT_SEED = 11
SEEDS = (0, 1)
EPOCHS = 20
"""Number of epochs; each has 5 steps of one scan."""

_LOSS = "scripts.training.losses."
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dyad, cosine": ("direction", {"loss": {"_target_": _LOSS + "DyadCosineLoss"}}),
    "dyad, MSE": ("direction", {"loss": {"_target_": _LOSS + "MaskedMSELoss"}}),
    "angles, L1": ("direction", {"encoding": "angles", "loss": {"_target_": _LOSS + "MaskedL1Loss"}}),
    "angles, MSE (the paper)": ("direction", {"encoding": "angles", "loss": {"_target_": _LOSS + "MaskedMSELoss"}}),
    "cross-entropy": ("crossings", {"loss": {"_target_": _LOSS + "MaskedCrossEntropyLoss"}}),
    "cross-entropy, balance 0.5": (
        "crossings",
        {"loss": {"_target_": _LOSS + "MaskedCrossEntropyLoss", "balance": 0.5}},
    ),
    "cross-entropy, balance 1": ("crossings", {"loss": {"_target_": _LOSS + "MaskedCrossEntropyLoss", "balance": 1.0}}),
    "one-hot L1 (the paper)": ("crossings", {"loss": {"_target_": _LOSS + "OneHotL1Loss"}}),
}
"""Task and changes of its config, by name."""


def make_cohort(folder: Path) -> Path:
    """Make, prepare and label the phantoms, unless they exist already."""
    raw, prepared = folder / "raw", folder / "prepared"
    write_phantom("clinical", SUBJECTS, COHORT_SEED, raw)
    for outcome in prepare_cohort("bids", raw, prepared, seed=COHORT_SEED):
        if outcome.failure:
            raise SystemExit(f"error: {outcome.item}: {outcome.failure}")
    label_cohort(prepared, truth=raw / "derivatives" / "truth")
    return prepared


def initialised(names: Sequence[str], changes: Mapping[str, Any]) -> ConfigParser:
    """Parse configs of the bundle with changes, and run their ``initialize``."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in names])
    parser.update(dict(changes))
    parser.parse()
    parser.get_parsed_content("initialize")
    return parser


def train_and_test(task: str, changes: Mapping[str, Any], seed: int, cohort: Path, out: Path) -> dict[str, float]:
    """Train a task, evaluate its best model on the test split, and return the mean of each metric over scans."""
    metrics = out / "evaluation" / "metrics.csv"
    if not metrics.is_file():
        options = {
            "dataset_dir": str(cohort),
            "output_dir": str(out),
            "tracking_uri": f"sqlite:///{FOLDER.absolute()}/mlflow.db",
            "seed": seed,
            "num_workers": 0,
            **changes,
        }
        training = {"max_epochs": EPOCHS, "val_interval": 5, "batch_size": 1, "learning_rate": 0.003}
        initialised(["finetune", task], {**options, **training}).get_parsed_content("training")
        initialised(["finetune", task, "evaluate"], options).get_parsed_content("evaluating")
    with metrics.open() as file:
        return {name: float(value) for name, value in csv.reader(file)}


def main() -> None:
    """Train every case with every seed, and print their scores on the test split."""
    logging.disable(logging.WARNING)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    cohort = make_cohort(FOLDER / "cohort")
    for name, (task, changes) in CASES.items():
        for seed in SEEDS:
            folder = FOLDER / f"{task}_{''.join(c if c.isalnum() else '_' for c in name)}_{seed}"
            scores = train_and_test(task, changes, seed, cohort, folder)
            print(f"{task}, {name}, seed {seed}:", {key: round(value, 4) for key, value in scores.items()}, flush=True)
