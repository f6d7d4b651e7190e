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

AUXILIARY_SUBJECTS = 5
CLINICAL_SUBJECTS = 6
"""Numbers of subjects: 4 and 1 for training and validation; 3, 1 and 2 for training, validation and test."""

PRETRAINING_EPOCHS = 30
FINETUNING_EPOCHS = 20
"""Numbers of epochs: minutes on two CPU cores, enough to see the losses fall. Results worth quoting need the epochs of
the configs."""

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


def read_metrics(folder: Path) -> dict[str, float]:
    """Read the metrics that an evaluation wrote to ``metrics.csv``."""
    with open(folder / "metrics.csv", newline="") as file:
        return {row[0]: float(row[1]) for row in csv.reader(file) if len(row) == 2}


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
    auxiliary, clinical = out / "auxiliary", out / "clinical"
    parallel = ["--jobs", str(jobs)]

    say("Two phantom cohorts: auxiliary (HCP layout) and clinical (BIDS), brains at half scale")
    for kind, folder, subjects in (
        ("auxiliary", auxiliary, AUXILIARY_SUBJECTS),
        ("clinical", clinical, CLINICAL_SUBJECTS),
    ):
        raw = ["--out", str(folder / "raw"), "--subjects", str(subjects), *parallel]
        command("-m", "scripts", "phantom", "--kind", kind, *raw)

    say("Preparation: one shell, attenuation, 2.4 mm, 64 directions; and tissue labels for the clinical cohort")
    for layout, folder in (("hcp", auxiliary), ("bids", clinical)):
        places = ["--input", str(folder / "raw"), "--out", str(folder / "prepared")]
        command("-m", "scripts", "prepare", "--layout", layout, *places, *parallel)
    truth = clinical / "raw" / "derivatives" / "truth"
    prepared = ["--prepared", str(clinical / "prepared")]
    command("-m", "scripts", "label", *prepared, "--tissue-derivatives", str(truth), *parallel)

    say("Pretraining: remove simulated artifacts")
    pretrained = out / "pretrain"
    # batches of one scan make more steps out of the few scans
    common = {"tracking_uri": tracking, "num_workers": jobs, "batch_size": 1}
    # three times the rate of the configs, because there are only about a hundred steps
    hurry = {"learning_rate": 0.003, "val_interval": 10}
    train(["pretrain"], pretrained, PRETRAINING_EPOCHS, dataset_dir=auxiliary / "prepared", **hurry, **common)

    say("Fine-tuning for tissue segmentation, from the pretrained network and from random weights")
    task = ["finetune", "segmentation"]
    runs = {"artifact_removal": {"pretrained": pretrained / "model.pt"}, "random": {}}
    table = Table("initialisation", "macro F1 on the test subjects")
    for name, weights in runs.items():
        folder = out / f"segmentation_{name}"
        data = {"dataset_dir": clinical / "prepared", **common}
        train(task, folder, FINETUNING_EPOCHS, val_interval=5, learning_rate=0.003, **data, **weights)
        bundle("evaluating", [*task, "evaluate"], output_dir=folder, checkpoint=folder / "model.pt", **data)
        table.add_row(name, f"{read_metrics(folder / 'evaluation')['val_macro_f1']:.4f}")

    say("Inference on one raw scan: its tissue map, and the scan with artifacts removed")
    scan = sorted((clinical / "raw").glob("sub-*/dwi/*_dwi.nii.gz"))[0]
    results = {"dwi": scan, "output_dir": out / "results"}
    bundle(
        "inference",
        ["inference_segmentation"],
        checkpoint=out / "segmentation_artifact_removal" / "model.pt",
        **results,
    )
    bundle("inference", ["inference_restoration"], checkpoint=pretrained / "model.pt", **results)

    say("Done")
    console.print(table)
    console.print("Few subjects, few epochs, one seed: the table shows that the path works, not which start is better.")
    for what, where in (
        ("Results of the scan", out / "results"),
        ("Pictures of the pretraining", pretrained / "pictures"),
        ("Pictures of the fine-tuning", out / "segmentation_artifact_removal" / "pictures"),
    ):
        console.print(f"{what}: {where}", highlight=False)
    console.print(f"All runs: mlflow ui --backend-store-uri {tracking}", highlight=False, soft_wrap=True)
    console.print(f"Time: {(time.monotonic() - started) / 60:.1f} minutes", highlight=False)
