"""Timings of the deconvolution of the labels: with and without DIPY's check of each call of its function."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np

from benchmarks.timing import report, side_by_side
from transforms.diffusion import csd
from transforms.diffusion.scheme import default_scheme

VOXELS = 6000
SNR = 30.0


def main() -> None:
    """Time the peaks of voxels with two noisy fibre populations each, in seconds of the CPU."""
    generator = np.random.default_rng(0)
    gradients = np.vstack([np.zeros(4), np.column_stack([default_scheme(), np.full(64, 1000.0)])])
    fibres = generator.normal(size=(2, VOXELS, 3))
    fibres /= np.linalg.norm(fibres, axis=2, keepdims=True)
    along = np.einsum("kvi,ni->knv", fibres, gradients[:, :3]) ** 2
    signal = np.exp(-gradients[:, 3, None] * (0.0003 + 0.0012 * along)).mean(axis=0)
    signal += generator.normal(scale=1 / SNR, size=signal.shape)
    white = np.ones((VOXELS, 1, 1), dtype=bool)
    find = partial(csd.find_peaks, signal[..., None, None], gradients, white, white.astype(float), sharp=True)

    def checked() -> None:
        with mock.patch.object(csd, "inspect", SimpleNamespace(unwrap=lambda function: function)):
            find()

    seconds = side_by_side({"without the check": find, "with it": checked}, repeats=5, clock=time.process_time)
    report(f"deconvolution of {VOXELS} voxels", seconds)
