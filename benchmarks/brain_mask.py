"""Timings of the brain mask: the filters as majorities in boxes against DIPY's medians; one scan, one thread.

BIDS_COHORT=RAW python -m benchmarks brain_mask

takes the b0 of each scan of a raw BIDS cohort, else that of an ellipsoid in the field of view of a head.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from dipy.segment.mask import multi_median
from dipy.segment.threshold import otsu
from monai.data import MetaTensor

from benchmarks.timing import report, side_by_side
from scripts.cohort.layouts import find_scans
from transforms.mask import MEDIAN_PASSES, MEDIAN_SIZE, above_after_medians, find_brain, otsu_after_medians
from transforms.preprocessing import ScanToGrid

SIZE = 2.4
SHAPE = (94, 94, 63)
SEMI_AXES = (68.0, 84.0, 70.0)
"""Of the ellipsoid, in mm."""


def main() -> None:
    """Time the whole mask, its filters and DIPY's on the same b0; seconds of CPU."""
    torch.set_num_threads(1)
    for name, b0 in _scans():
        volume = np.nan_to_num(b0[0].numpy())

        def medians(volume: np.ndarray = volume) -> np.ndarray:
            filtered = multi_median(volume, MEDIAN_SIZE // 2, MEDIAN_PASSES)
            return filtered > otsu(filtered)

        def majorities(volume: np.ndarray = volume) -> np.ndarray:
            return above_after_medians(volume, otsu_after_medians(volume))

        def whole(b0: MetaTensor = b0) -> np.ndarray:
            return find_brain(b0)

        timed: dict[str, Callable[[], object]] = {
            "the whole mask": whole,
            "of it filters and threshold": majorities,
            "the same by medians": medians,
        }
        report(f"brain mask of {name}", side_by_side(timed, repeats=3, clock=time.process_time))
        found, expected = majorities(), medians()
        print(f"  Dice of the two filtered masks: {2 * (found & expected).sum() / (found.sum() + expected.sum()):.5f}")


def _scans() -> Iterator[tuple[str, MetaTensor]]:
    """Name and b0 on the grid of the network, of each scan."""
    if root := os.environ.get("BIDS_COHORT"):
        for raw in find_scans("bids", Path(root)):
            bvals = np.loadtxt(raw.bval)
            yield raw.name, ScanToGrid(SIZE)({"raw_scan": raw.open(float(bvals.max()))})["b0"]
        return
    grid = np.stack(np.meshgrid(*[SIZE * (np.arange(n) - n / 2) for n in SHAPE], indexing="ij"), axis=-1)
    radius = np.linalg.norm(grid / SEMI_AXES, axis=-1)
    real, imaginary = np.random.default_rng(0).normal(0, 8, (2, *SHAPE))
    b0 = np.hypot(1000 * (radius <= 1) * (0.35 + 0.65 * radius**2) + real, imaginary).astype(np.float32)
    affine = torch.diag(torch.tensor([SIZE, SIZE, SIZE, 1.0], dtype=torch.float64))
    yield "an ellipsoid", MetaTensor(torch.from_numpy(b0)[None], affine=affine)
