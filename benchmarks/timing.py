"""Interleaved timing: ratios of functions that run in turn hold even if the machine's speed drifts."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def side_by_side(
    functions: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run each function once to warm up, then all of them in turn ``repeats`` times.

    Args:
        functions: by name.
        repeats: number of runs of each.
        clock: returns seconds; ``time.process_time`` for those of the CPU.

    Returns:
        seconds of each run, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = clock()
            function()
            seconds[name].append(clock() - start)
    return seconds


def report(title: str, seconds: Mapping[str, list[float]]) -> None:
    """Print the median of each function, and the median of its ratios to the first, run by run."""
    first = next(iter(seconds.values()))
    print(f"\n{title} ({torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f})")
    for name, values in seconds.items():
        ratio = statistics.median(value / reference for value, reference in zip(values, first, strict=True))
        print(f"  {name:<40} {statistics.median(values):9.4f} s   {ratio:6.2f} x the first")
