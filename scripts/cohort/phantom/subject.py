"""A phantom subject: what is drawn for it, from its head and its fibres to the scanner's imperfections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scripts.cohort.phantom import acquisition, anatomy, fibres, signal
from scripts.cohort.phantom.imperfections import (
    AUXILIARY,
    CLINICAL,
    Imperfections,
    acquire,
    head_gradients,
    receive_field,
    record,
    rician,
    sample_imperfections,
    sample_receive_field,
)

KINDS = ("auxiliary", "clinical")

SIZES = {"small": 0.5, "standard": 1.0, "full": 1.0}
"""Size of the head relative to life. Half a head has an eighth of the voxels: a network trains on it in minutes."""

SNR = 30.0
"""Signal-to-noise ratio of white matter at b = 0, before the receive field, unless told otherwise."""

T1W_SNR = 25.0
"""The same of white matter in the T1-weighted image."""

T1W_BIAS = (0.1, 0.4)
"""Range of the largest absolute logarithm of the receive field of the T1-weighted image in the brain."""

PLACES_PER_AXIS = 2
"""A voxel's signal is the mean of that many places along each axis."""

SLICES_AROUND = {"auxiliary": 0, "clinical": 3}
"""Slices simulated above and below the grid: what a head that moves brings into it."""

HALF = 0.5
"""Part of a voxel that must be brain for the voxel to be in the brain mask."""

CHUNK = 100_000
"""Places whose fibres are found at a time; it bounds the memory."""


@dataclass(frozen=True)
class Case:
    """What a subject is a function of: kind of cohort, number from 1, seed, size and signal-to-noise ratio."""

    kind: str
    number: int
    seed: int
    size: str
    snr: float = SNR

    @property
    def name(self) -> str:
        """HCP number or BIDS label."""
        return str(100000 + self.number) if self.kind == "auxiliary" else f"sub-{self.number:02d}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Subject:
    """A simulated subject on the grid of its diffusion scan.

    Attributes:
        case: what it is a function of.
        protocol: of the diffusion scan.
        affine: voxel to world RAS, shape ``(4, 4)``.
        gradients: gradient table that the scanner's files state, shape ``(V, 4)``.
        warp: scanner space to the template.
        tissue: fractions of gray matter, white matter and CSF, shape ``(3, X, Y, Z)``; their sum is the part of a voxel
            that is brain.
        peaks: unit vectors in world RAS of the fibre populations, the largest first, shape ``(3, 3, X, Y, Z)``
            (population, component).
        fractions: of the populations within white matter, shape ``(3, X, Y, Z)``.
        contrast: intensities and diffusivities.
        imperfections: of the diffusion scan.
        t1w_pose: world positions in the T1-weighted scan to those in the diffusion scan, shape ``(4, 4)``.
    """

    case: Case
    protocol: acquisition.Protocol
    affine: np.ndarray
    gradients: np.ndarray
    warp: anatomy.Warp
    tissue: np.ndarray
    peaks: np.ndarray
    fractions: np.ndarray
    contrast: signal.Contrast
    imperfections: Imperfections
    t1w_pose: np.ndarray
    _signal: signal.TissueSignal
    _voxels: np.ndarray
    _noise: np.random.Generator
    _t1w_generator: np.random.Generator

    @property
    def brain(self) -> np.ndarray:
        """Brain mask, shape ``(X, Y, Z)``: at least half of the voxel is brain."""
        return np.asarray(self.tissue.sum(axis=0) >= HALF)

    @property
    def head_gradients(self) -> np.ndarray:
        """Gradient table as the moving head sees it, shape ``(V, 4)``."""
        return head_gradients(self.gradients, self.imperfections)

    @property
    def volume_affine(self) -> np.ndarray:
        """Voxel to world RAS of :meth:`volume`, shape ``(4, 4)``."""
        return _widened(self.affine, SLICES_AROUND[self.case.kind])

    def volume(self, gradient: np.ndarray) -> np.ndarray:
        """Noise-free signal for a row of a gradient table, float32, with ``n`` slices around: ``(X, Y, Z + 2 n)``."""
        x, y, z = self.protocol.shape
        volume = np.zeros((x, y, z + 2 * SLICES_AROUND[self.case.kind]), dtype=np.float32)
        volume.flat[self._voxels] = self._signal.at(gradient)
        return volume

    def noise_free(self) -> Iterator[np.ndarray]:
        """Signal without imperfections, float32, volume after volume ``(X, Y, Z)``."""
        around = SLICES_AROUND[self.case.kind]
        for gradient in self.gradients:
            yield self.volume(gradient)[:, :, around : around + self.protocol.shape[2]]

    def scan(self) -> Iterator[np.ndarray]:
        """Diffusion scan, int16, volume after volume ``(X, Y, Z)``."""
        field = receive_field(self.imperfections.bias, self.protocol.shape)
        for index, gradient in enumerate(self.head_gradients):
            yield acquire(self.volume(gradient), index, self.imperfections, self.volume_affine, field, self._noise)

    def t1w(self) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """T1-weighted image, int16, on its own grid; its affine; and how it was drawn."""
        size = SIZES[self.case.size]
        shape, affine = acquisition.t1w_grid(size)
        step = acquisition.T1W_VOXEL_SIZE / size
        tissue = anatomy.sample_tissue(self.warp, shape, self.t1w_pose @ affine, 1, step)
        image = np.tensordot(self.contrast.t1w.astype(np.float32), tissue.fractions, axes=1)
        strength = float(self._t1w_generator.uniform(*T1W_BIAS))
        bias = sample_receive_field(self._t1w_generator, image > 0, strength)
        sigma = float(self.contrast.t1w[1]) / T1W_SNR
        stored = rician(image * receive_field(bias, shape), sigma, self._t1w_generator)
        drawn = {
            "ToDiffusionRAS": self.t1w_pose.tolist(),
            "SNR": T1W_SNR,
            "NoiseSigma": sigma,
            "BiasFieldStrength": strength,
            "BiasFieldLogCoefficients": bias.tolist(),
        }
        return stored, affine, drawn

    def record(self) -> dict[str, Any]:
        """How the diffusion scan was drawn, as plain values."""
        tissues = ("GM", "WM", "CSF")
        return {
            "Kind": self.case.kind,
            "Size": self.case.size,
            "Seed": self.case.seed,
            "Subject": self.case.number,
            "SNR": self.case.snr,
            "TissueB0": dict(zip(tissues, self.contrast.b0.tolist(), strict=True)),
            "TissueT1w": dict(zip(tissues, self.contrast.t1w.tolist(), strict=True)),
            "StickFraction": self.contrast.stick,
            "AxialDiffusivity": self.contrast.axial,
            "FibreConcentration": self.contrast.concentration,
            "GrayMatterDiffusivity": self.contrast.gray,
            "HeadScale": self.warp.scale,
            "HeadRotation": self.warp.rotation.tolist(),
            "VentriclePull": self.warp.pull,
            **record(self.imperfections),
        }


def _widened(affine: np.ndarray, around: int) -> np.ndarray:
    """Affine of a grid with ``around`` slices more on each side."""
    wide = affine.copy()
    wide[:3, 3] -= around * affine[:3, 2]
    return wide


def find_fibres(
    tissue: anatomy.Tissue, warp: anatomy.Warp, affine: np.ndarray, bundles: list[fibres.Bundle]
) -> tuple[np.ndarray, np.ndarray]:
    """Find the fibre populations at every place with white matter.

    Returns:
        unit vectors in world RAS, shape ``(N, K, 3)`` of the ``N`` voxels of ``tissue``, and shares of the ``K``
        candidates, zero for many, in the voxel's white matter, sum 1, shape ``(N, K)``.
    """
    x, y, z = tissue.fractions.shape[1:]
    n, per_voxel = tissue.white.shape
    directions = np.zeros((n, per_voxel, fibres.MAX_POPULATIONS, 3), dtype=np.float32)
    weights = np.zeros((n, per_voxel, fibres.MAX_POPULATIONS), dtype=np.float32)
    for rows in np.array_split(np.arange(n), n * per_voxel // CHUNK + 1):
        row, place = np.nonzero(tissue.white[rows])
        where = anatomy.places((x, y, z), PLACES_PER_AXIS, tissue.voxels[rows])[row, place]
        points = anatomy.world_points(where, affine)
        directions[rows[row], place], weights[rows[row], place] = fibres.fibre_populations(
            warp.to_template(points), warp.jacobian(points), bundles
        )
    weights *= (tissue.white / tissue.white.sum(axis=1, keepdims=True))[..., None]
    return directions.reshape(n, -1, 3), weights.reshape(n, -1)


def simulate(case: Case) -> Subject:
    """Draw the subject of a case; its volumes are not computed yet."""
    generator = np.random.default_rng([case.seed, KINDS.index(case.kind), case.number])
    size, clinical, around = SIZES[case.size], case.kind == "clinical", SLICES_AROUND[case.kind]
    protocol = acquisition.PROTOCOLS[case.kind, case.size]
    warp = anatomy.sample_warp(generator, size)
    bundles = fibres.sample_bundles(generator)
    if clinical:
        gradients = acquisition.clinical_gradients()
        affine = acquisition.clinical_grid(generator, protocol, size, warp.scale)
    else:
        gradients = acquisition.auxiliary_gradients(generator, protocol, warp.rotation)
        affine = acquisition.auxiliary_grid(protocol, size)

    shape = (*protocol.shape[:2], protocol.shape[2] + 2 * around)
    wide_affine = _widened(affine, around)
    step = protocol.voxel_size / PLACES_PER_AXIS / size
    tissue = anatomy.sample_tissue(warp, shape, wide_affine, PLACES_PER_AXIS, step)
    directions, weights = find_fibres(tissue, warp, wide_affine, bundles)
    peaks = np.zeros((np.prod(shape), 3, 3), dtype=np.float32)
    fractions = np.zeros((np.prod(shape), 3), dtype=np.float32)
    for rows in np.array_split(np.arange(len(directions)), len(directions) // CHUNK + 1):
        voxels = tissue.voxels[rows]
        peaks[voxels], fractions[voxels] = fibres.merge_populations(directions[rows], weights[rows])

    contrast = signal.sample_contrast(
        generator,
        signal.spin_echo(protocol.echo_time, protocol.repetition_time),
        signal.spoiled_gradient_echo(acquisition.T1W_FLIP_ANGLE, acquisition.T1W_REPETITION_TIME),
    )
    voxels = np.flatnonzero(tissue.fractions.any(axis=0))
    rows = np.searchsorted(voxels, tissue.voxels)
    parts = tissue.fractions.reshape(3, -1)[:, voxels]
    tissue_signal = signal.TissueSignal(parts, rows, directions, weights, contrast)

    inside = np.s_[..., around : shape[2] - around]
    own = tissue.fractions[inside]
    strengths, sigma = CLINICAL if clinical else AUXILIARY, float(contrast.b0[1]) / case.snr
    imperfections = sample_imperfections(generator, strengths, gradients, affine, own.sum(axis=0) >= HALF, sigma)
    pose = acquisition.sample_t1w_pose(generator, size)
    return Subject(
        case=case,
        protocol=protocol,
        affine=affine,
        gradients=gradients,
        warp=warp,
        tissue=own,
        peaks=np.moveaxis(peaks, 0, -1).reshape(3, 3, *shape)[inside],
        fractions=fractions.T.reshape(3, *shape)[inside],
        contrast=contrast,
        imperfections=imperfections,
        t1w_pose=pose,
        _signal=tissue_signal,
        _voxels=voxels,
        _noise=generator.spawn(1)[0],
        _t1w_generator=generator.spawn(1)[0],
    )
