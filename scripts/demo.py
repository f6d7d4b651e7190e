"""Demo of the whole path on phantoms, by the commands that a user would type.

A demo that is started again does only what is missing.
"""

from __future__ import annotations

import csv
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from transforms.errors import InputError

CONFIGS = Path("bundle/configs")

SUBJECTS = 6
"""Number of subjects: 3, 1 and 2 for training, validation and test."""

EPOCHS = 40
"""Number of epochs of a fine-tuning; each has three steps of one scan."""

PRETRAINED = Path("bundle/models/restoration.pt")
"""Weights that come with the bundle (docs/artifacts.md); a pretraining takes longer than a demo should."""

console = Console()


def say(text: str) -> None:
    """Print a headline."""
    console.rule(f"[bold]{text}")


def command(*arguments: str) -> None:
    """Show a command and run it; end the program with its exit code if it fails."""
    console.print("$ " + shlex.join(["python", *arguments]), style="cyan", soft_wrap=True, highlight=False)
    done = subprocess.run([sys.executable, "-W", "ignore", *arguments], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def bundle(run: str, configs: list[str], **overrides: object) -> None:
    """Run configs of the bundle; later ones override earlier ones."""
    files = [str(CONFIGS / f"{name}.json") for name in configs]
    options = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    command("-m", "monai.bundle", "run", run, "--config_file", files[0] if len(files) == 1 else repr(files), *options)


def train(configs: list[str], output_dir: Path, epochs: int, **overrides: object) -> None:
    """Train, resume a training that was cut off, or skip one that is finished."""
    resumed: list[str] = []
    if list(output_dir.glob("checkpoint_epoch=*.pt")):
        # torch and MONAI take seconds to import, and a new demo does not need them
        from scripts.training.checkpoints import latest_checkpoint  # noqa: PLC0415

        if latest_checkpoint(output_dir).endswith(f"={epochs}.pt"):
            console.print(f"{output_dir}: trained already")
            return
        resumed = ["resume"]
    bundle("training", [*configs, *resumed], output_dir=output_dir, max_epochs=epochs, **overrides)


def read_scores(folder: Path) -> dict[str, float]:
    """Read the mean score of each method that an evaluation wrote to ``baselines.csv``."""
    scores: dict[str, list[float]] = {}
    with open(folder / "baselines.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] == "test_macro_f1":
                scores.setdefault(row["method"], []).append(float(row["value"]))
    return {method: sum(values) / len(values) for method, values in scores.items()}


def run_demo(out: Path, jobs: int) -> None:
    """Run the demo.

    Args:
        out: folder of all that the demo makes.
        jobs: number of processes for the preparation of data.

    Raises:
        InputError: the demo was not started from the root of the repository.
    """
    if not CONFIGS.is_dir():
        raise InputError(f"found no {CONFIGS}, expected to be started from the root of the repository.")
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    tracking = f"sqlite:///{(out / 'mlflow.db').absolute()}"
    clinical = out / "clinical"
    parallel = ["--jobs", str(jobs)]

    say("A clinical phantom cohort (BIDS), brains at half scale")
    places = ["--out", str(clinical / "raw"), "--subjects", str(SUBJECTS)]
    command("-m", "scripts", "phantom", "--kind", "clinical", *places, *parallel)

    say("Preparation: one shell, attenuation, 2.4 mm, 64 directions; and tissue labels")
    places = ["--input", str(clinical / "raw"), "--out", str(clinical / "prepared")]
    command("-m", "scripts", "prepare", "--layout", "bids", *places, *parallel)
    truth = clinical / "raw" / "derivatives" / "truth"
    prepared = ["--prepared", str(clinical / "prepared")]
    command("-m", "scripts", "label", *prepared, "--tissue-derivatives", str(truth), *parallel)

    say("Fine-tuning for tissue segmentation, from random weights and from weights that learned to remove artifacts")
    console.print(
        f"The pretrained weights are {PRETRAINED}; docs/artifacts.md says how they were made.", highlight=False
    )
    task = ["finetune", "segmentation"]
    runs = {"artifact_removal": {"pretrained": PRETRAINED}, "random": {}}
    # batches of one scan make more steps out of the few scans, and so few steps want a high rate
    data = {"dataset_dir": clinical / "prepared", "tracking_uri": tracking, "num_workers": jobs, "batch_size": 1}
    table = Table("method", "macro F1 on the test subjects")
    for name, weights in runs.items():
        folder = out / f"segmentation_{name}"
        train(task, folder, EPOCHS, val_interval=10, learning_rate=0.005, **data, **weights)
        bundle("evaluating", [*task, "evaluate"], output_dir=folder, checkpoint=folder / "model.pt", **data)
    for name in runs:
        table.add_row(name, f"{read_scores(out / f'segmentation_{name}' / 'evaluation')['network']:.4f}")
    for name, score in read_scores(folder / "evaluation").items():
        if name != "network":
            table.add_row(name, f"{score:.4f}")

    say("Inference on one raw scan: its tissue map, and the scan with artifacts removed")
    scan = sorted((clinical / "raw").glob("sub-*/dwi/*_dwi.nii.gz"))[0]
    results = {"dwi": scan, "output_dir": out / "results"}
    model = out / "segmentation_artifact_removal" / "model.pt"
    bundle("inference", ["inference_segmentation"], checkpoint=model, **results)
    bundle("inference", ["inference_restoration"], **results)

    say("Done")
    console.print(table)
    console.print("Few subjects and one seed: docs/tasks.md compares the starts over several.")
    for what, where in (
        ("Results of the scan", out / "results"),
        ("Pictures of the fine-tuning", out / "segmentation_artifact_removal" / "pictures"),
    ):
        console.print(f"{what}: {where}", highlight=False)
    from scripts.training.tracking_store import run_table  # noqa: PLC0415

    # the fine-tunings are the first experiment of the demo's database
    console.print(f"All runs: {run_table(tracking, '1')}", highlight=False, soft_wrap=True)
    console.print(f"Time: {(time.monotonic() - started) / 60:.1f} minutes", highlight=False)
