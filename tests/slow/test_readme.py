"""Every command of the README and of the pages for users, in a copy of the repository, on the phantom's folders."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = " --max_epochs 1 --num_workers 0"
"""Appended to trainings; the path is what is tested."""


PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("index", "howto-bids", "howto-hcp", "howto-apply", "howto-cluster")),
)
"""In the order in which their commands run: a page may use what those before it made."""


def commands():
    text = "".join((ROOT / page).read_text() for page in PAGES)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    # the pages repeat some commands
    return list(dict.fromkeys(line for block in blocks for line in block.splitlines() if line.strip()))


@pytest.fixture
def servers():
    """Return the function that starts a command which serves others; it ends with the test."""
    started = []

    def start(command, folder, environment):
        words = [sys.executable, "-m", *shlex.split(command)]
        started.append(subprocess.Popen(words, cwd=folder, env=environment, start_new_session=True))
        time.sleep(10)
        assert started[-1].poll() is None, command

    yield start
    for process in reversed(started):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_every_command_runs_in_a_fresh_copy(demo, auxiliary, clone, environment, servers, tmp_path):
    # a participant for each split is enough
    bids = shutil.copytree(demo[0] / "clinical" / "raw", tmp_path / "bids", ignore=shutil.ignore_patterns("sub-0[456]"))
    places = {
        "path/to/hcp": auxiliary / "raw",
        "path/to/bids": bids,
        "path/to/derivatives": bids / "derivatives" / "truth",
        "path/to/sub-01_dwi.nii.gz": bids / "sub-01" / "dwi" / "sub-01_dwi.nii.gz",
    }
    assert len(commands()) >= 25
    for command in commands():
        if command.startswith("mlflow ui"):
            continue
        if command.startswith("dask "):
            servers(command, clone, environment)
            continue
        if "prepare" in command:
            # the other process would only import the libraries; labels are made by two
            command = command.replace(" --jobs 2", "")  # noqa: PLW2901
        # two of the scans are enough
        command = command.replace("/sub-*/", "/sub-0[12]/")  # noqa: PLW2901
        for name, place in places.items():
            command = command.replace(name, shlex.quote(str(place)))  # noqa: PLW2901
        if " run training " in command:
            # the one that goes on with a finished training needs an epoch to do
            command += SHORT.replace("1", "2", 1) if "resume.json" in command else SHORT  # noqa: PLW2901
        if "evaluate_restoration" in command:
            command += " --draws 1"  # noqa: PLW2901
        done = subprocess.run(
            command, shell=True, cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    for result in (
        "runs/pretrain/checkpoint_epoch=2.pt",
        "runs/autoencoder/model.pt",
        "runs/segmentation/model.pt",
        "runs/segmentation/evaluation/metrics.csv",
        "runs/segmentation/evaluation/baselines.csv",
        "results/dataset_description.json",
        "results/sub-01_desc-tissue_dseg.nii.gz",
        "results/sub-01_desc-peak_dwi.nii.gz",
        "results/sub-01_desc-restored_dwi.nii.gz",
        "results/cohort/sub-02_desc-tissue_dseg.nii.gz",
        "runs/howto/evaluation/baselines.csv",
        "mlflow.db",
    ):
        assert (clone / result).is_file(), result
    _mlflow_shows_runs(clone, environment)


def _mlflow_shows_runs(clone, environment):
    (command,) = [line for line in commands() if line.startswith("mlflow ui")]
    server = subprocess.Popen(
        [*shlex.split(command), "--port", "5077", "--host", "127.0.0.1", "--workers", "1"],
        cwd=clone,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(120):
            time.sleep(0.5)
            try:
                with urllib.request.urlopen("http://127.0.0.1:5077/", timeout=5) as page:
                    assert page.status == 200
                    return
            except OSError:
                continue
        pytest.fail("the MLflow page did not answer within a minute")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
