"""Timings of the labels of life-size phantoms: the whole command on two cores beside one core."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.timing import report
from scripts.cohort.prepare import prepare_cohort
from scripts.phantom import write_phantom

SUBJECTS = 4
REPEATS = 2


def main() -> None:
    """Time the command on one core with one process and on two cores with two, in turn."""
    cores = sorted(os.sched_getaffinity(0))
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        raw = write_phantom("clinical", SUBJECTS, 0, folder / "raw", "standard", jobs=2)
        prepare_cohort("bids", raw, folder / "prepared", jobs=2)
        seconds: dict[str, list[float]] = {}
        for jobs in REPEATS * (1, 2):
            copy = folder / "labelled"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder / "prepared", copy)
            command = [sys.executable, "-m", "scripts", "label", "--prepared", str(copy), "--jobs", str(jobs)]
            start = time.perf_counter()
            limit = functools.partial(os.sched_setaffinity, 0, cores[:jobs])
            subprocess.run(command, check=True, preexec_fn=limit)
            seconds.setdefault(f"{jobs} core{'s' * (jobs > 1)}", []).append(time.perf_counter() - start)
        report(f"labels of {SUBJECTS} scans", seconds)
