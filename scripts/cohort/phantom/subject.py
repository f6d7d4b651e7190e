"""A phantom subject: what is drawn for it, from its head and its fibres to the scanner's faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scripts.cohort.phantom import anatomy, fibres, signal

KINDS = ("auxiliary", "clinical")

SIZES = {"small": 0.5, "standard": 1.0}
"""Size of the head relative to life. Half a head has an eighth of the voxels: a network trains on it in minutes."""

SNR = 30.0
"""Signal-to-noise ratio of white matter at b = 0, before the receive field."""

VOXEL_SIZES = {"auxiliary": 1.25, "clinical": 2.4}
"""Sides of the voxels in mm."""

MAX_TILTS = {"auxiliary": 0.0, "clinical": 6.0}
"""Largest tilt in degrees of the slices about each axis."""

TIMES = {"auxiliary": (0.0895, 5.520), "clinical": (0.0880, 7.000)}
"""Echo and repetition time in s; those of the HCP's 3 T protocol, and of a hospital's."""

AUXILIARY_SHELLS = {"small": {1000.0: 90, 2000.0: 6}, "standard": {1000.0: 90, 2000.0: 90, 3000.0: 90}}
"""Directions per b-value; small has enough of a second shell that it must be left out."""

AUXILIARY_B0_VOLUMES = {"small": 6, "standard": 18}

BIAS_STRENGTHS = (0.05, 0.3)
"""Range of the largest absolute logarithm of the receive field of a clinical scan."""

MAX_STRETCHES = (0.003, 0.02)
"""Range of a clinical subject's largest stretch along phase encoding; each volume then draws up to that."""


@dataclass(frozen=True)
class Case:
    """What a subject is a function of: kind of cohort, number from 1, seed and size."""

    kind: str
    number: int
    seed: int
    size: str

    @property
    def name(self) -> str:
        """HCP number or BIDS label."""
        return str(100000 + self.number) if self.kind == "auxiliary" else f"sub-{self.number:02d}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Subject:
    """A simulated subject on the grid of its scan.

    Attributes:
        affine: voxel to world RAS, shape ``(4, 4)``.
        gradients: gradient table, shape ``(V, 4)``.
        tissue: fractions of gray matter, white matter and CSF, shape ``(3, X, Y, Z)``.
        directions: unit vectors of the fibre populations of the voxels in the brain, shape ``(N, 3, 3)``.
        fractions: of the populations within white matter, shape ``(N, 3)``.
        contrast: intensities and diffusivities.
        faults: noise, receive field and eddy currents.
        record: how the subject was drawn, as plain values.
        generator: source of the noise.
    """

    affine: np.ndarray
    gradients: np.ndarray
    tissue: np.ndarray
    directions: np.ndarray
    fractions: np.ndarray
    contrast: signal.Contrast
    faults: signal.Faults
    record: dict[str, Any]
    generator: np.random.Generator

    @property
    def brain(self) -> np.ndarray:
        """Brain mask, shape ``(X, Y, Z)``."""
        return np.asarray(self.tissue.any(axis=0))

    def in_grid(self, values: np.ndarray) -> np.ndarray:
        """Volume ``(X, Y, Z)``, float32, of ``values`` ``(N,)`` of the voxels in the brain, 0 elsewhere."""
        volume = np.zeros(self.tissue.shape[1:], dtype=np.float32)
        volume[self.brain] = values
        return volume

    def noise_free(self) -> Iterator[np.ndarray]:
        """Signal without faults, volume after volume ``(X, Y, Z)``."""
        brain = self.brain
        parts = (self.tissue[:, brain], self.directions, self.fractions, self.contrast, self.gradients)
        yield from map(self.in_grid, signal.noise_free_signal(*parts))


def simulate(case: Case) -> Subject:
    """Draw the subject of a case; its volumes are not computed yet."""
    generator = np.random.default_rng([case.seed, KINDS.index(case.kind), case.number])
    size, clinical = SIZES[case.size], case.kind == "clinical"
    warp = anatomy.sample_warp(generator, size)
    shape, affine = anatomy.scan_grid(generator, size, VOXEL_SIZES[case.kind], MAX_TILTS[case.kind])
    tissue = anatomy.tissue_fractions(warp, shape, affine, size)
    brain = np.asarray(tissue.any(axis=0))

    points = anatomy.world_points(np.argwhere(brain), affine)
    white = tissue[1, brain] > 0
    strength = generator.uniform(0.8, 1.2, len(fibres.BUNDLES))
    directions, fractions = np.zeros((len(points), 3, 3)), np.zeros((len(points), 3))
    directions[white], fractions[white] = fibres.fibre_populations(
        warp.to_template(points[white]), warp.jacobian(points[white]), strength
    )

    contrast = signal.sample_contrast(generator, *TIMES[case.kind])
    if clinical:
        gradients = signal.clinical_gradients()
        bias_strength, max_stretch = generator.uniform(*BIAS_STRENGTHS), generator.uniform(*MAX_STRETCHES)
        bias = signal.bias_field(generator, brain, bias_strength)
        stretch = np.where(gradients[:, 3] > 0, generator.uniform(-max_stretch, max_stretch, len(gradients)), 0.0)
    else:
        gradients = signal.auxiliary_gradients(
            generator, AUXILIARY_SHELLS[case.size], AUXILIARY_B0_VOLUMES[case.size], warp.rotation
        )
        bias_strength, bias, stretch = 0.0, None, np.zeros(len(gradients))
    faults = signal.Faults(float(contrast.b0[1]) / SNR, bias, stretch)
    record = {
        "Kind": case.kind,
        "Size": case.size,
        "Seed": case.seed,
        "Subject": case.number,
        "TissueB0": dict(zip(("GM", "WM", "CSF"), contrast.b0.tolist(), strict=True)),
        "DiffusivityFactor": contrast.diffusivity,
        "SNR": SNR,
        "NoiseSigma": faults.sigma,
        "BiasFieldStrength": bias_strength,
        "EddyStretchAxis": "j",
        "EddyStretch": stretch.tolist(),
    }
    return Subject(affine, gradients, tissue, directions, fractions, contrast, faults, record, generator)
