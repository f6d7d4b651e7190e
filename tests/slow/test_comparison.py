"""A small comparison from the shell: from two cohorts to its report, whether or not it is killed on the way."""

import random
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.tiny_cohort import copy_as_truth, write_tiny_cohorts

ROOT = Path(__file__).parents[2]

NETWORK = ["network_def::in_channels=6", "network_def::filters=[2,4,4,4]", "num_workers=0", "device=cpu"]

TABLES = ("scans", "subjects", "statistics", "means", "curves", "learning", "baselines", "artifacts")

PAGE = ROOT / "docs" / "comparison.md"

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def commands_of_the_page():
    """Words after ``python`` of the commands that begin and report a comparison, and of the dry run, by the page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("    python -m scripts ")]
    return [shlex.split(line)[1:] for line in lines[:3]]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Words after ``python`` of a comparison of two tasks, three initialisations and two seeds."""
    root = tmp_path_factory.mktemp("cohorts")
    write_tiny_cohorts(root, training=2)
    places = {"cohorts/auxiliary": root / "auxiliary", "cohorts/clinical": root / "clinical"}
    *command, option, folder = (str(places.get(word, word)) for word in commands_of_the_page()[0])
    assert (option, folder) == ("--out", "comparison")
    options = ["--tasks", "segmentation,direction", "--seeds", 2, "--train-sizes", 1, "--steps", 3, "--validations", 1]
    for value in [*NETWORK, "output_channels=6", "max_epochs=2"]:
        options += ["--pretraining", value]
    for value in NETWORK:
        options += ["--fine-tuning", value]
    return [*command, *map(str, options)]


@pytest.fixture(scope="module")
def straight(words, shell, tmp_path_factory):
    """Folder of a comparison that was never stopped, what it printed, and the seconds that it took."""
    out = tmp_path_factory.mktemp("straight")
    began = time.monotonic()
    printed = shell(*words, "--out", out).stdout
    seconds = time.monotonic() - began
    shell(*(out if word == "comparison" else word for word in commands_of_the_page()[1]))
    return out, printed, seconds


def read(folder):
    return {name: (folder / "report" / f"{name}.csv").read_bytes() for name in TABLES}


def test_a_small_comparison_runs_from_nothing_and_is_not_repeated(straight, words, shell):
    out, printed, _ = straight
    assert "all runs are complete" in printed
    means = pd.read_csv(out / "report" / "means.csv")
    assert set(means["initialisation"]) == {"random", "artifact_removal", "autoencoder"}
    assert set(means["task"]) == {"segmentation", "direction"}
    assert (means["runs"] == 2).all()
    assert (means["subjects"] == 3).all()
    # the networks differ by where they start
    scores = means[means["metric"].isin(["test_macro_f1", "test_angular_error"])].groupby("metric")["mean"]
    assert (scores.nunique() == 3).all()
    assert {"atlas", "tensor", "majority class"} <= set(pd.read_csv(out / "report" / "baselines.csv")["method"])
    assert "motion" in set(pd.read_csv(out / "report" / "artifacts.csv")["artifact"])
    assert "What is missing" not in (out / "report.html").read_text()
    before = sorted((out / "runs").rglob("*.pt"))
    times = [path.stat().st_mtime_ns for path in before]
    again = shell(*words, "--out", out).stdout
    assert "0/0" in again
    assert commands_of_the_page()[2] == [*commands_of_the_page()[0], "--dry-run"]
    assert "measuring" not in shell(*words, "--out", out, "--dry-run").stdout
    assert [path.stat().st_mtime_ns for path in sorted((out / "runs").rglob("*.pt"))] == times


def test_one_that_is_killed_at_random_and_started_again_gives_the_same_tables(straight, words, shell, tmp_path):
    whole, _, seconds = straight
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", *words, "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        time.sleep(random.uniform(0.3, 0.8) * seconds)
        process.kill()
    shell(*words, "--out", tmp_path)
    shell("-m", "scripts", "report", "--out", tmp_path)
    assert read(tmp_path) == read(whole)


def test_a_truth_is_scored_without_another_training(straight, words, shell, tmp_path):
    out = shutil.copytree(straight[0], tmp_path / "out")
    # in truth, half of the white matter is gray, and directions are what the labels say
    truth = copy_as_truth(words[words.index("--clinical") + 1], tmp_path / "truth")
    for path in truth.glob("*_tissue.nii.gz"):
        image = nib.load(path)
        tissue = np.array(image.dataobj)
        tissue[:6][tissue[:6] == 2] = 1
        nib.save(nib.Nifti1Image(tissue, image.affine), path)
    # the network itself is all that it takes
    for checkpoint in out.glob("runs/*/checkpoint_epoch=*.pt"):
        checkpoint.unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    # one seed is enough
    shell(*words, "--out", out, "--seeds", 1, "--truth", truth)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")} == before
    shell("-m", "scripts", "report", "--out", out)
    table = pd.read_csv(out / "report" / "truth.csv").set_index("task")
    assert set(table["method"]) >= {"random", "artifact_removal", "autoencoder", "atlas", "tensor", "majority class"}
    same = np.isclose(table["against_truth"], table["against_labels"], equal_nan=True)
    assert same[table.index == "direction"].all()
    assert not same[table.index == "segmentation"].any()


def test_the_report_opens_in_a_browser_without_an_error(straight, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"found none of {', '.join(BROWSERS)}")
    out, *_ = straight
    picture = tmp_path / "report.png"
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", "--window-size=1400,4000"),
            (out / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert picture.stat().st_size > 10_000
