"""Run the benchmarks that are named, or all timings."""

from __future__ import annotations

import sys

from benchmarks import artifacts, brain_mask, deconvolution, inference, labels, network, resampling, tasks

TIMINGS = {
    "resampling": resampling.main,
    "artifacts": artifacts.main,
    "brain_mask": brain_mask.main,
    "network": network.main,
    "inference": inference.main,
    "deconvolution": deconvolution.main,
    "labels": labels.main,
}
TRAININGS = {"tasks": tasks.main}
"""Benchmarks that train for minutes or hours, so they run only when they are named."""

BENCHMARKS = {**TIMINGS, **TRAININGS}

if __name__ == "__main__":
    for name in sys.argv[1:] or TIMINGS:
        if name not in BENCHMARKS:
            sys.exit(f"error: found {name!r}, expected some of {', '.join(BENCHMARKS)}.")
        BENCHMARKS[name]()
