"""Run the benchmarks that are named, or all."""

from __future__ import annotations

import sys

from benchmarks import artifacts, resampling

BENCHMARKS = {"resampling": resampling.main, "artifacts": artifacts.main}

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit(f"error: found {name!r}, expected some of {', '.join(BENCHMARKS)}.")
        BENCHMARKS[name]()
