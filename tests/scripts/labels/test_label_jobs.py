"""Labels by two processes and by Dask, and a command that was stopped."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from label_files import SUBJECTS, grid, path_of, place, write

from scripts.labels import label_cohort

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def derivatives(tmp_path_factory, heads):
    """Tissue segmentations of all participants of the cohort."""
    folder = tmp_path_factory.mktemp("derivatives")
    affine, shape = grid(2.0)
    for subject in SUBJECTS:
        write(path_of(folder, subject), affine, place(heads.world_grid(affine, shape)))
    return folder


@pytest.fixture(scope="module")
def by_one(prepared, derivatives, tmp_path_factory):
    """The table of the cohort's labels by one process."""
    copy = shutil.copytree(prepared.parent, tmp_path_factory.mktemp("one") / "copy") / prepared.name
    assert not any(outcome.failure for outcome in label_cohort(copy, derivatives))
    return (copy / "labels.tsv").read_text()


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


def test_two_processes_give_what_one_gives(by_one, cohort, derivatives):
    assert not any(outcome.failure for outcome in label_cohort(cohort, derivatives, jobs=2))
    assert (cohort / "labels.tsv").read_text() == by_one


def test_workers_of_a_scheduler_give_what_one_process_gives_though_one_is_killed(
    by_one, cohort, derivatives, dask, tmp_path
):
    known = tmp_path / "scheduler.json"
    dask("scheduler", "--no-dashboard", "--port", 0, "--host", "127.0.0.1", "--scheduler-file", known)
    wait_for(known.is_file)
    words = ["worker", "--no-dashboard", "--nthreads", 1, "--memory-limit", 0, "--scheduler-file", known]
    victim = dask(*words, "--no-nanny")
    command = [sys.executable, "-m", "scripts", "label", "--prepared", cohort]
    command += ["--tissue-derivatives", derivatives, "--scheduler"]
    with subprocess.Popen([*map(str, command), json.loads(known.read_text())["address"]], cwd=ROOT) as labelling:
        # the first worker has a scan in hand when it is killed, and another takes it over
        wait_for(lambda: list(cohort.rglob("*_desc-labels.json")))
        victim.kill()
        dask(*words)
        assert labelling.wait(300) == 0
    assert (cohort / "labels.tsv").read_text() == by_one


def test_a_command_that_was_stopped_goes_on_from_there(by_one, cohort, derivatives, shell):
    command = ["-m", "scripts", "label", "--prepared", cohort, "--tissue-derivatives", derivatives]
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
    assert "stopped: 1 of 3 are done and kept, the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert not list(cohort.rglob(".*"))
    (done,) = cohort.rglob("*_desc-labels.json")
    before = done.stat().st_mtime_ns
    assert "3 scans done, 0 left out" in shell(*command).stdout
    assert done.stat().st_mtime_ns == before
    assert (cohort / "labels.tsv").read_text() == by_one
