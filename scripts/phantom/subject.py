"""A phantom subject: its head, fibres, contrast and artifacts, drawn from one seed, and the scans of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scripts.phantom import acquisition, anatomy, signal
from scripts.phantom.artifacts import AUXILIARY, CLINICAL, ScanArtifacts, record, sample_scan_artifacts
from scripts.phantom.bundles import Bundle, sample_bundles
from scripts.phantom.populations import fibre_populations, merge_populations
from scripts.phantom.receive_field import receive_field, sample_receive_field
from scripts.phantom.scanner import acquire, head_gradients, rician
from transforms.label_classes import MAX_NUFO

KINDS = ("auxiliary", "clinical")

SIZES = {"small": 0.5, "standard": 1.0, "full": 1.0}
"""Size of the head relative to life. A head of half the size has an eighth of the voxels, so a network trains on it in
minutes."""

SNR = 30.0
"""Signal-to-noise ratio of white matter at b = 0, before the receive field, where the user states none."""

T1W_SNR = 25.0
"""Signal-to-noise ratio of white matter in the T1-weighted image, before the receive field."""

T1W_BIAS = (0.1, 0.4)
"""Range of the largest absolute logarithm of the receive field of the T1-weighted image in the brain."""

PLACES_PER_AXIS = 2
"""Number of places along each axis of a voxel. The voxel's signal is the mean of all its places."""

SLICES_AROUND = {"auxiliary": 0, "clinical": 3}
"""Number of slices simulated above and below the grid. A moving head brings their signal into the grid."""

HALF = 0.5
"""Smallest share of brain in a voxel of the brain mask."""

CHUNK = 100_000
"""Number of places whose populations are computed at a time, which bounds the memory."""


@dataclass(frozen=True)
class Case:
    """Everything that determines a subject: kind of cohort, number from 1, seed, size and signal-to-noise ratio."""

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
        case: kind, number, seed, size and signal-to-noise ratio, which determine the subject.
        protocol: protocol of the diffusion scan.
        affine: voxel to world RAS, shape ``(4, 4)``.
        gradients: gradient table that the scanner's files state, shape ``(V, 4)``.
        warp: map from scanner space to the template.
        tissue: fractions of gray matter, white matter and CSF, shape ``(3, X, Y, Z)``. Their sum is the share of brain
            in the voxel.
        peaks: unit vectors in world RAS of the fibre populations, the largest first, shape ``(3, 3, X, Y, Z)``
            (population, component).
        fractions: fractions of the populations within white matter, shape ``(3, X, Y, Z)``.
        contrast: intensities and diffusivities.
        artifacts: artifacts of the diffusion scan.
        t1w_pose: map from world positions in the T1-weighted scan to those in the diffusion scan, shape ``(4, 4)``.
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
    artifacts: ScanArtifacts
    t1w_pose: np.ndarray
    _signal: signal.TissueSignal
    _voxels: np.ndarray
    _noise: np.random.Generator
    _t1w_generator: np.random.Generator

    @property
    def brain(self) -> np.ndarray:
        """Mask of the voxels that are at least half brain, shape ``(X, Y, Z)``."""
        return np.asarray(self.tissue.sum(axis=0) >= HALF)

    @property
    def head_gradients(self) -> np.ndarray:
        """Gradient table in the frame of the moving head, shape ``(V, 4)``."""
        return head_gradients(self.gradients, self.artifacts)

    @property
    def volume_affine(self) -> np.ndarray:
        """Voxel to world RAS of :meth:`volume`, shape ``(4, 4)``."""
        return _widened(self.affine, SLICES_AROUND[self.case.kind])

    def volume(self, gradient: np.ndarray) -> np.ndarray:
        """Noise-free signal for a row of a gradient table, float32, shape ``(X, Y, Z + 2 n)``.

        The volume has ``n`` of ``SLICES_AROUND`` more slices on each side than the scan.
        """
        x, y, z = self.protocol.shape
        volume = np.zeros((x, y, z + 2 * SLICES_AROUND[self.case.kind]), dtype=np.float32)
        volume.flat[self._voxels] = self._signal.at(gradient)
        return volume

    def noise_free(self) -> Iterator[np.ndarray]:
        """Signal without artifacts, float32, volume after volume ``(X, Y, Z)``."""
        around = SLICES_AROUND[self.case.kind]
        for gradient in self.gradients:
            yield self.volume(gradient)[:, :, around : around + self.protocol.shape[2]]

    def scan(self) -> Iterator[np.ndarray]:
        """Diffusion scan, int16, volume after volume ``(X, Y, Z)``."""
        field = receive_field(self.artifacts.bias, self.protocol.shape)
        for index, gradient in enumerate(self.head_gradients):
            yield acquire(self.volume(gradient), index, self.artifacts, self.volume_affine, field, self._noise)

    def t1w(self) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """T1-weighted image, int16, on its own grid, with its affine and its random parameters."""
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
        """Random parameters of the diffusion scan as plain values."""
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
            **record(self.artifacts),
        }


def _widened(affine: np.ndarray, around: int) -> np.ndarray:
    """Affine of a grid with ``around`` more slices on each side."""
    wide = affine.copy()
    wide[:3, 3] -= around * affine[:3, 2]
    return wide


def sample_populations(
    tissue: anatomy.Tissue, warp: anatomy.Warp, affine: np.ndarray, bundles: list[Bundle]
) -> tuple[np.ndarray, np.ndarray]:
    """Sample the fibre populations of the bundles at every place with white matter.

    Args:
        tissue: tissue of the grid, with the places in each voxel.
        warp: map from scanner space to the template.
        affine: voxel-to-world matrix of the grid, shape ``(4, 4)``.
        bundles: bundles of the subject.

    Returns:
        unit vectors in world RAS, shape ``(N, K, 3)``, of all ``K`` populations of the places in each of the ``N``
        voxels of ``tissue``; and their fractions of the voxel's white matter, sum 1, many of them 0, shape ``(N, K)``.
    """
    x, y, z = tissue.fractions.shape[1:]
    n, per_voxel = tissue.white.shape
    directions = np.zeros((n, per_voxel, MAX_NUFO, 3), dtype=np.float32)
    weights = np.zeros((n, per_voxel, MAX_NUFO), dtype=np.float32)
    for rows in np.array_split(np.arange(n), n * per_voxel // CHUNK + 1):
        row, place = np.nonzero(tissue.white[rows])
        where = anatomy.places((x, y, z), PLACES_PER_AXIS, tissue.voxels[rows])[row, place]
        points = anatomy.world_points(where, affine)
        directions[rows[row], place], weights[rows[row], place] = fibre_populations(
            warp.to_template(points), warp.jacobian(points), bundles
        )
    weights *= (tissue.white / tissue.white.sum(axis=1, keepdims=True))[..., None]
    return directions.reshape(n, -1, 3), weights.reshape(n, -1)


def simulate(case: Case) -> Subject:
    """Draw the subject of a case. The subject computes its volumes later, one at a time."""
    generator = np.random.default_rng([case.seed, KINDS.index(case.kind), case.number])
    size, clinical, around = SIZES[case.size], case.kind == "clinical", SLICES_AROUND[case.kind]
    protocol = acquisition.PROTOCOLS[case.kind, case.size]
    warp = anatomy.sample_warp(generator, size)
    bundles = sample_bundles(generator)
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
    directions, weights = sample_populations(tissue, warp, wide_affine, bundles)
    peaks = np.zeros((np.prod(shape), MAX_NUFO, 3), dtype=np.float32)
    fractions = np.zeros((np.prod(shape), MAX_NUFO), dtype=np.float32)
    for rows in np.array_split(np.arange(len(directions)), len(directions) // CHUNK + 1):
        voxels = tissue.voxels[rows]
        peaks[voxels], fractions[voxels] = merge_populations(directions[rows], weights[rows])

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
    artifacts = sample_scan_artifacts(generator, strengths, gradients, affine, own.sum(axis=0) >= HALF, sigma)
    pose = acquisition.sample_t1w_pose(generator, size)
    return Subject(
        case=case,
        protocol=protocol,
        affine=affine,
        gradients=gradients,
        warp=warp,
        tissue=own,
        peaks=np.moveaxis(peaks, 0, -1).reshape(MAX_NUFO, 3, *shape)[inside],
        fractions=fractions.T.reshape(MAX_NUFO, *shape)[inside],
        contrast=contrast,
        artifacts=artifacts,
        t1w_pose=pose,
        _signal=tissue_signal,
        _voxels=voxels,
        _noise=generator.spawn(1)[0],
        _t1w_generator=generator.spawn(1)[0],
    )
