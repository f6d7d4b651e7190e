"""Labels of real scans, of a phantom of life size, by two processes, by Dask; and a command that was stopped."""

import csv
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.cohort.prepare import prepare_cohort
from scripts.labels import label_cohort
from scripts.labels.tissue_sources import dice
from scripts.phantom import write_phantom
from scripts.phantom.truth import at_nearest_voxels

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def rows(prepared):
    with open(prepared / "labels.tsv", newline="") as file:
        return {row["scan"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_real_scan_without_a_t1_states_its_order_and_route(real, tmp_path):
    prepare_cohort("bids", real, tmp_path)
    assert not any(outcome.failure for outcome in label_cohort(tmp_path))
    row = rows(tmp_path)["sub-01"]
    assert (row["route"], row["sh_order"]) == ("FA and MD", "4")
    assert 350 < float(row["white_matter_ml"]) < 700
    assert float(row["one_peak"]) > 0.3
    sidecar = json.loads((tmp_path / "sub-01/dwi/sub-01_desc-peak_dwi.json").read_text())
    assert sidecar["SphericalHarmonicOrder"] == 4
    peak, white = (
        np.asarray(nib.load(tmp_path / f"sub-01/dwi/sub-01_desc-{name}.nii.gz").dataobj)
        for name in ("peak_dwi", "wm_mask")
    )
    # the callosum runs from left to right: in the middle plane of the head it is what is above the brain stem
    middle = np.argwhere(white > 0)[:, 0].mean().round().astype(int)
    across = np.abs(peak[middle - 1 : middle + 2])
    assert (across.argmax(axis=-1) == 0)[across.max(axis=-1) > 0.8].mean() > 0.3


def test_t1_of_a_real_scan_is_aligned(real, tmp_path):
    prepare_cohort("bids", real, tmp_path, bvalue=2500.0)
    assert not any(outcome.failure for outcome in label_cohort(tmp_path))
    found = rows(tmp_path)
    assert set(found) == {"sub-04_dir-AP", "sub-04_dir-PA"}
    for row in found.values():
        assert row["route"] == "T1"
        assert float(row["white_matter_dice"]) >= 0.6
        assert float(row["registration_shift_mm"]) < 6


def test_tissue_of_a_phantom_of_life_size(tmp_path):
    raw = write_phantom("clinical", 1, 3, tmp_path / "raw", "standard")
    prepare_cohort("bids", raw, tmp_path / "prepared")
    (outcome,) = label_cohort(tmp_path / "prepared")
    assert outcome.failure is None
    mask, found = (
        nib.load(tmp_path / f"prepared/sub-01/dwi/sub-01_desc-{name}.nii.gz") for name in ("brain_mask", "tissue_dseg")
    )
    inside = np.asarray(mask.dataobj) > 0
    truth = at_nearest_voxels(raw / "derivatives/truth/sub-01/dwi/sub-01_desc-tissue_dseg.nii.gz", mask)[inside]
    labels = np.asarray(found.dataobj)[inside]
    overlaps = [dice(labels == t, truth == t) for t in (1, 2, 3)]
    assert np.mean(overlaps) >= 0.85


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A prepared cohort of two phantoms, and the table of its labels by one process."""
    folder = tmp_path_factory.mktemp("two")
    raw = write_phantom("clinical", 2, 5, folder / "raw")
    prepare_cohort("bids", raw, folder / "prepared")
    one = shutil.copytree(folder, folder.with_name("one")) / "prepared"
    assert not any(outcome.failure for outcome in label_cohort(one))
    return folder, (one / "labels.tsv").read_text()


@pytest.fixture
def cohort(two, tmp_path):
    return shutil.copytree(two[0], tmp_path / "two") / "prepared"


@pytest.fixture
def dask():
    """Start Dask's own commands by their words; all are ended with the test."""
    running = []

    def start(*words):
        running.append(subprocess.Popen([sys.executable, "-m", "dask", *map(str, words)], start_new_session=True))
        return running[-1]

    yield start
    for process in running:
        process.terminate()
        process.wait(60)


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_two_processes_give_what_one_gives(two, cohort):
    assert not any(outcome.failure for outcome in label_cohort(cohort, jobs=2))
    assert (cohort / "labels.tsv").read_text() == two[1]


def test_workers_of_a_scheduler_give_what_one_process_gives_though_one_is_killed(two, cohort, dask, tmp_path, shell):
    known = tmp_path / "scheduler.json"
    dask("scheduler", "--no-dashboard", "--port", 0, "--host", "127.0.0.1", "--scheduler-file", known)
    wait_for(known.is_file)
    words = ["worker", "--no-dashboard", "--nthreads", 1, "--memory-limit", 0, "--scheduler-file", known]
    victim = dask(*words, "--no-nanny")
    command = [sys.executable, "-m", "scripts", "label", "--prepared", cohort, "--scheduler"]
    with subprocess.Popen([*map(str, command), json.loads(known.read_text())["address"]], cwd=ROOT) as labelling:
        # the first worker has a scan in hand when it is killed, and another takes it over
        wait_for(lambda: list(cohort.rglob("*_desc-labels.json")))
        victim.kill()
        dask(*words)
        assert labelling.wait(300) == 0
    assert (cohort / "labels.tsv").read_text() == two[1]


def test_a_command_that_was_stopped_goes_on_from_there(two, cohort, shell):
    command = ["-m", "scripts", "label", "--prepared", cohort]
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell that runs the tests in the background has its children ignore the signal
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as running:
        wait_for(lambda: list(cohort.rglob("*_desc-labels.json")))
        os.killpg(running.pid, signal.SIGINT)
        errors = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "stopped: 1 of 2 are done and kept, the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert not list(cohort.rglob(".*"))
    (done,) = cohort.rglob("*_desc-labels.json")
    before = done.stat().st_mtime_ns
    assert "2 scans done, 0 left out" in shell(*command).stdout
    assert done.stat().st_mtime_ns == before
    assert (cohort / "labels.tsv").read_text() == two[1]
