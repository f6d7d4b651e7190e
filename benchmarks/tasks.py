"""The tasks on small phantoms with true labels: held-out scores of each encoding and loss.

Trains and evaluates with the bundle's own configs, which print the baselines; only length, batch size, learning rate
and loss are changed. About twenty minutes on one core. The phantoms and all that was trained stay in
``runs/benchmark_tasks``, and are not made again.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser

from scripts.cohort.datalist import read_cohort, write_datalist
from scripts.cohort.prepare import prepare_cohort
from scripts.io.nifti import write_nifti
from scripts.phantom import write_phantom
from scripts.phantom.truth import at_nearest_voxels

FOLDER = Path("runs/benchmark_tasks")
CONFIGS = Path(__file__).parents[1] / "bundle" / "configs"
SUBJECTS = 9
"""5 for training, 2 for validation, 2 for test."""
COHORT_SEED = 11
SEEDS = (0, 1)
EPOCHS = 20
"""Of 5 steps each, one scan a step."""

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


def _label_from_truth(raw: Path, prepared: Path) -> None:
    """Add the labels of all tasks to a prepared phantom cohort, from what it was made of."""
    cohort = read_cohort(prepared)
    labelled = []
    for scan in (scan for listed in cohort.values() for scan in listed):
        truth = raw / "derivatives" / "truth" / scan.participant / "dwi"
        mask = nib.nifti1.Nifti1Image.from_filename(scan.path("mask"))
        tissue, nufo, peaks = (
            at_nearest_voxels(truth / f"{scan}_desc-{name}.nii.gz", mask)
            for name in ("tissue_dseg", "npeaks_dseg", "peaks_dwi")
        )
        white_matter = (tissue == 2) & (np.asarray(mask.dataobj) > 0)
        labels = {
            "tissue": tissue.astype(np.uint8),
            "white_matter": white_matter.astype(np.uint8),
            "nufo": np.where(white_matter, nufo, 0).astype(np.uint8),
            "peak": np.where(white_matter[..., None], peaks[..., :3], 0).astype(np.float32),
        }
        for key, voxels in labels.items():
            write_nifti(scan.labels.path(key), voxels, mask.affine)
        labelled.append(scan.with_labels({key: scan.labels.path(key) for key in labels}))
    splits = {scan.participant: split for split, listed in cohort.items() for scan in listed}
    write_datalist(prepared, labelled, splits)


def make_cohort(folder: Path) -> Path:
    """Make, prepare and label the phantoms, unless they are there."""
    raw, prepared = folder / "raw", folder / "prepared"
    write_phantom("clinical", SUBJECTS, COHORT_SEED, raw)
    for outcome in prepare_cohort("bids", raw, prepared, seed=COHORT_SEED):
        if outcome.failure:
            raise SystemExit(f"error: {outcome.item}: {outcome.failure}")
    _label_from_truth(raw, prepared)
    return prepared


def run_config(names: Sequence[str], action: str, changes: Mapping[str, Any]) -> None:
    """Parse some configs of the bundle with changes, and do what one of their ids names."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in names])
    parser.update(dict(changes))
    parser.parse()
    parser.get_parsed_content("initialize")
    parser.get_parsed_content(action)


def train_and_test(task: str, changes: Mapping[str, Any], seed: int, cohort: Path, out: Path) -> dict[str, float]:
    """Train a task, evaluate its best validation on the test split, and return the mean of each metric over scans."""
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
        run_config(["finetune", task], "training", {**options, **training})
        run_config(["finetune", task, "evaluate"], "evaluating", options)
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
