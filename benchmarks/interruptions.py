"""Trainings that are killed at random moments and resumed: what is lost, and whether the weights stay the same.

python -m benchmarks.interruptions --kills 20
python -m benchmarks.interruptions --kills 20 --trainings fine-tuning --signals SIGTERM SIGINT

The moments are drawn in CPU time, so that they spread over a training on busy cores too. Linux alone tells that time.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigWorkflow

from scripts.io.files import write_json
from scripts.training.checkpoints import epoch_checkpoints
from scripts.training.weights import read_checkpoint
from transforms.errors import InputError

EPOCHS = 9
KINDS = {"pretrain": ["pretrain"], "fine-tuning": ["finetune", "segmentation"]}
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
TINY: dict[str, Any] = {
    "max_epochs": EPOCHS,
    # its picture is most of the time of a validation
    "val_interval": 3,
    "num_workers": 0,
    "batch_size": 2,
    "device": "cpu",
    "network_def::in_channels": 6,
    "network_def::filters": [2, 4, 4, 4],
}
AXES = np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)


def make_cohort(folder: Path) -> Path:
    """Write a prepared cohort of small random scans with tissue."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    datalist: dict[str, Any] = {"training": [], "validation": [], "test": []}
    for index, split in enumerate(["training"] * 4 + ["validation"]):
        image = rng.random((12, 14, 10, 6), dtype=np.float32)
        mask = np.ones(image.shape[:3], np.uint8)
        files = {"image": image, "mask": mask, "b0": 100.0 * mask, "tissue": rng.integers(1, 4, mask.shape, np.uint8)}
        for key, voxels in files.items():
            nib.save(nib.Nifti1Image(voxels, np.diag([2.4, 2.4, 2.4, 1.0])), folder / f"{index}_{key}.nii.gz")
        paths = {key: f"{index}_{key}.nii.gz" for key in files}
        datalist[split].append({"participant": str(index), "scan": str(index), "checksum": str(index), **paths})
    write_json(folder / "datalist.json", {**datalist, "checksum": "abc"})
    write_json(folder / "dataset_description.json", {"Preparation": {"bvalue": 1000.0, "voxel_size": 2.4}})
    np.savetxt(folder / "scheme.bvec", AXES.T)
    return folder


def epochs_done(out: Path) -> int:
    """Return the epoch of the last checkpoint, 0 where there is none."""
    return max(epoch_checkpoints(out), default=0)


def train(names: list[str], out: Path, cohort: Path) -> None:
    """Run a training, or resume one."""
    resume = ["resume"] if epochs_done(out) else []
    overrides: dict[str, Any] = {
        "dataset_dir": str(cohort),
        "output_dir": str(out),
        "tracking_uri": f"sqlite:///{out.parent}/mlflow.db",
        **TINY,
        **({"output_channels": 6} if names == ["pretrain"] else {}),
    }
    files = [f"bundle/configs/{name}.json" for name in [*names, *resume]]
    workflow = ConfigWorkflow(files, run_id="training", **overrides)
    workflow.initialize()
    workflow.run()


def start(names: list[str], out: Path, cohort: Path) -> int:
    """Start a training, or resume one, in a process of its own; it has all modules already."""
    if process := os.fork():
        return process
    code = 1
    try:
        log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        train(names, out, cohort)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except KeyboardInterrupt:
        # before the training began
        code = 128 + signal.SIGINT
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def kill_after(process: int, number: signal.Signals, seconds: float) -> None:
    """Send a signal to a child that has used some CPU time; one that ends before gets none."""
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        used = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        if sum(map(int, used)) / os.sysconf("SC_CLK_TCK") >= seconds:
            os.kill(process, number)
            return
        time.sleep(0.005)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Keep the table alone on the standard output; MONAI's loggers hold the stream since they were imported."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def weights(out: Path) -> list[dict[str, torch.Tensor]]:
    """Return the weights of the last epoch and of the best validation."""
    if epochs_done(out) != EPOCHS:
        raise InputError(f"{out}: found {epochs_done(out)} epochs, expected {EPOCHS}.")
    return [read_checkpoint(out / name)["network"] for name in (f"checkpoint_epoch={EPOCHS}.pt", "model.pt")]


def interrupt(kind: str, number: signal.Signals, kills: int, root: Path, cohort: Path) -> str:
    """Kill trainings some times, resume them, and compare them with one that was not killed."""
    straight = root / f"{kind}-{number.name}"
    _, status, used = os.wait4(start(KINDS[kind], straight, cohort), 0)
    if status:
        raise InputError(f"{straight.with_suffix('.log')}: found a training that failed, expected one that ends well.")
    duration = used.ru_utime + used.ru_stime
    ends: Counter[int] = Counter()
    same, finished, done, before_first = True, 0, 0, 0
    while done < kills:
        out = root / f"{kind}-{number.name}-{finished}"
        while True:
            process = start(KINDS[kind], out, cohort)
            if done < kills:
                kill_after(process, number, random.uniform(0.0, 0.9) * duration)
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            if code == 0:
                break
            done += 1
            ends[code] += 1
            before_first += not epochs_done(out)
        pairs = zip(weights(straight), weights(out), strict=True)
        same &= all(one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one) for one, two in pairs)
        same &= not list(out.rglob("*.partial.*"))
        finished += 1
    found = sqlite3.connect(root / "mlflow.db").execute("select status, count(*) from runs group by status").fetchall()
    codes = ", ".join(f"{count} of {code}" for code, count in sorted(ends.items()))
    result = "yes" if same else "NO"
    return f"| {kind} | {number.name} | {done} | {before_first} | {codes} | {finished} | {result} | {dict(found)} |"


def main() -> None:
    """Print a row for each kind of training and each signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3, help="of each kind of training, by each signal")
    parser.add_argument("--trainings", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=SIGNALS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| training | signal | kills | before the first epoch | exit codes | trainings | same, nothing left | runs |")
    print("|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        cohort = make_cohort(Path(folder) / "cohort")
        for kind in options.trainings:
            # what a first training imports costs most of the time of a small one
            with stdout_to_stderr():
                train(KINDS[kind], Path(folder) / "warm" / kind, cohort)
            for name in options.signals:
                print(interrupt(kind, signal.Signals[name], options.kills, Path(folder), cohort), flush=True)


if __name__ == "__main__":
    main()
