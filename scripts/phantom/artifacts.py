"""Artifacts of a phantom scan: what patient and scanner do to each volume, drawn at random and recorded.

The artifacts, in the order in which :func:`scripts.phantom.scanner.acquire` applies them:

- motion: the head lies in another pose in each volume;
- eddy currents: their field displaces the signal along the phase encoding (PE);
- receive field: the coil weights the signal by its sensitivity, which does not move with the head;
- lost slices: a slice loses signal if it moves while the diffusion gradients are on;
- ghost: odd and even k-space lines differ by a phase, which adds a second image half a field of view away;
- noise: each receiver channel adds noise, and the scanner stores the magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scripts.phantom.receive_field import BIAS_TERMS, sample_receive_field
from transforms.diffusion.gradients import B0_MAX
from transforms.errors import InputError

TRANSLATION_SHARES = np.array([0.5, 1.0, 0.7])
ROTATION_SHARES = np.array([1.0, 0.5, 0.5])
"""Relative size of the steps along and about right, anterior and superior. Heads move most along anterior-posterior and
turn most about right-left (Schilling et al., Head motion in diffusion MRI, 2025, PMC11814480; 16,995 sessions)."""

JUMP_SIZE = 10.0
"""Size of a sudden jump relative to the usual step between two volumes."""

EDDY_B = 1000.0
"""b-value in s/mm2 for which ``Strengths`` states the eddy currents."""

GHOST_VARIATION = 0.1
"""Largest relative deviation of a volume's ghost from the subject's ghost."""

DROPOUT_FACTORS = (0.1, 0.6)
"""Range of the share of its signal that a lost slice keeps."""


@dataclass(frozen=True)
class Strengths:
    """Ranges from which each subject draws its own strengths, uniformly.

    Attributes:
        translation: largest distance in mm between the head and its first position over the scan.
        rotation: largest angle in degrees between the head and its first pose over the scan.
        jump_probability: probability of a sudden jump before a volume.
        eddy_shift: largest shift in mm along PE, for a gradient of b = 1000 along the worst direction.
        eddy_stretch: largest stretch for such a gradient, relative, 0 for none.
        eddy_shear: largest shear for such a gradient, in mm per mm. Each of the two shears has its own draw.
        ghost: amplitude of the ghost relative to the image, ``sin(phase / 2)``.
        bias: largest absolute logarithm of the receive field in the brain.
        dropout: probability that the scan loses a slice of a diffusion-weighted volume.
    """

    translation: tuple[float, float] = (0.0, 0.0)
    rotation: tuple[float, float] = (0.0, 0.0)
    jump_probability: float = 0.0
    eddy_shift: tuple[float, float] = (0.0, 0.0)
    eddy_stretch: tuple[float, float] = (0.0, 0.0)
    eddy_shear: tuple[float, float] = (0.0, 0.0)
    ghost: tuple[float, float] = (0.0, 0.0)
    bias: tuple[float, float] = (0.0, 0.0)
    dropout: tuple[float, float] = (0.0, 0.0)


CLINICAL = Strengths(
    translation=(0.2, 2.0),
    rotation=(0.2, 2.0),
    jump_probability=0.02,
    eddy_shift=(0.5, 3.0),
    eddy_stretch=(0.003, 0.02),
    eddy_shear=(0.003, 0.02),
    ghost=(0.01, 0.06),
    bias=(0.05, 0.3),
    dropout=(0.0, 0.01),
)
"""A raw hospital scan. Motion of 2 mm over 65 volumes of 7 s is a path of about 1.5 mm a minute; 1 to 2 are typical
(Schilling et al., 2025). The other ranges are choices. The shift is up to a voxel, and stretch and shear displace the
edge of a brain by up to 2 mm. The ghost has a few percent, and at most one slice in a hundred is lost."""

AUXILIARY = Strengths(bias=(0.02, 0.1))
"""A preprocessed research scan, which has only noise and a weak receive field."""


@dataclass(frozen=True)
class ScanArtifacts:
    """Everything that patient and scanner do to the ``V`` volumes ``(X, Y, Z)`` of one scan. Slices are along Z.

    Motion takes a point ``x`` of the head, in world mm, to ``R (x - centre) + centre + translation``.

    Eddy currents displace the signal along PE. Distances are in mm from the centre of the image: y along PE, x and z
    along the first and the second of the other voxel axes. The signal at ``y`` comes to
    ``y + shift + stretch * y + shear_x * x + shear_z * z``. ``transforms.artifacts.Eddy`` makes the same displacement,
    with ``1 + stretch`` as its factor and with its shift in voxels.

    Attributes:
        noise_sigma: standard deviation of the noise of each of the two receiver channels, in stored units.
        bias_strength: largest absolute logarithm of the receive field in the brain.
        bias: coefficients of that logarithm, shape ``(10,)``, in the order of ``BIAS_TERMS``; zeros for no field.
        centre: centre of rotation, the middle of the brain, world RAS in mm, shape ``(3,)``.
        rotation: pose of the head in each volume, rotation vectors in degrees, world RAS, shape ``(V, 3)``. The first
            pose is 0.
        translation: translation of the head in each volume, in mm, world RAS, shape ``(V, 3)``. The first is 0.
        eddy: shift in mm, stretch (relative, 0 for none), shear_x and shear_z in mm per mm, shape ``(V, 4)``.
        ghost_phase: phase in radians between odd and even k-space lines, shape ``(V,)``.
        dropout: factor of each slice's signal, shape ``(V, Z)``; 1 for a whole slice.
        phase_axis: voxel axis of PE, 0 or 1.
    """

    noise_sigma: float
    bias_strength: float
    bias: np.ndarray
    centre: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    eddy: np.ndarray
    ghost_phase: np.ndarray
    dropout: np.ndarray
    phase_axis: int = 1


def sample_scan_artifacts(
    generator: np.random.Generator,
    strengths: Strengths,
    gradients: np.ndarray,
    affine: np.ndarray,
    brain: np.ndarray,
    noise_sigma: float,
    phase_axis: int = 1,
) -> ScanArtifacts:
    """Draw the artifacts of one subject's scan.

    Motion is a random walk from volume to volume with rare jumps. It is scaled to the largest excursion that the
    subject draws.

    Eddy currents are linear in the diffusion gradient: ``b / 1000 g`` times one matrix ``(4, 3)`` per subject, as in
    FSL's eddy (``--slm=linear``; Andersson and Sotiropoulos, NeuroImage 125:1063-1078, 2016). So opposite gradients
    distort oppositely, and a b0 volume has no distortion.

    Args:
        generator: source of the random numbers.
        strengths: ranges of the artifacts, ``CLINICAL`` or ``AUXILIARY``.
        gradients: gradient table in world RAS, shape ``(V, 4)``, as the scanner plays it.
        affine: voxel-to-world matrix, shape ``(4, 4)``.
        brain: mask, shape ``(X, Y, Z)``. The head turns about its centre; the receive field has a mean of 1 in it.
        noise_sigma: standard deviation of the noise of each receiver channel, in stored units.
        phase_axis: voxel axis of PE, 0 or 1; slices are along 2.

    Returns:
        the artifacts, which :func:`record` keeps and the scanner replays.

    Raises:
        InputError: an argument is out of range, the brain is empty, or there is a ghost and the image has an odd number
            of voxels along PE.
    """
    if phase_axis not in {0, 1}:
        raise InputError(f"phase_axis: found {phase_axis!r}, expected 0 or 1, within the slices.")
    if noise_sigma < 0:
        raise InputError(f"noise_sigma: found {noise_sigma}, expected 0 or more.")
    if not brain.any():
        raise InputError("brain: found no voxels, expected at least one.")
    centre = affine[:3, :3] @ np.argwhere(brain).mean(axis=0) + affine[:3, 3]
    count = len(gradients)
    pose = _walk(generator, count, strengths.jump_probability)
    translation, rotation = (
        _scaled(part * shares, generator.uniform(*largest))
        for part, shares, largest in (
            (pose[:, :3], TRANSLATION_SHARES, strengths.translation),
            (pose[:, 3:], ROTATION_SHARES, strengths.rotation),
        )
    )

    ranges = (strengths.eddy_shift, strengths.eddy_stretch, strengths.eddy_shear, strengths.eddy_shear)
    matrix = generator.standard_normal((4, 3))
    matrix *= (generator.uniform(*np.transpose(ranges)) / np.linalg.norm(matrix, axis=1))[:, None]
    eddy = (gradients[:, 3:] / EDDY_B * gradients[:, :3]) @ matrix.T

    amplitude = generator.uniform(*strengths.ghost) * generator.uniform(1 - GHOST_VARIATION, 1 + GHOST_VARIATION, count)
    if amplitude.any():
        ghost_shift(brain.shape[phase_axis])  # raises an error for an odd number

    lost = generator.random((count, brain.shape[2])) < generator.uniform(*strengths.dropout)
    factors = generator.uniform(*DROPOUT_FACTORS, lost.shape)
    dropout = np.where(lost & (gradients[:, 3:] > B0_MAX), factors, 1.0)

    strength = float(generator.uniform(*strengths.bias))
    return ScanArtifacts(
        noise_sigma=float(noise_sigma),
        bias_strength=strength,
        bias=sample_receive_field(generator, brain, strength),
        centre=centre,
        rotation=rotation,
        translation=translation,
        eddy=eddy,
        ghost_phase=2 * np.arcsin(amplitude),
        dropout=dropout,
        phase_axis=phase_axis,
    )


def ghost_shift(length: int) -> int:
    """Distance in voxels between image and ghost, half of the image's ``length`` along PE.

    Raises:
        InputError: ``length`` is odd.
    """
    if length % 2:
        raise InputError(f"ghost: found {length} voxels along the phase encoding, expected an even number.")
    return length // 2


def record(artifacts: ScanArtifacts) -> dict[str, Any]:
    """Turn artifacts into plain values that JSON keeps exactly. :func:`from_record` turns them back."""
    shift, stretch, shear_x, shear_z = artifacts.eddy.T.tolist()
    lost = np.argwhere(artifacts.dropout != 1).tolist()
    return {
        "NoiseSigma": artifacts.noise_sigma,
        "BiasFieldStrength": artifacts.bias_strength,
        "BiasFieldLogTerms": list(BIAS_TERMS),
        "BiasFieldLogCoefficients": artifacts.bias.tolist(),
        "MotionCentreMillimetersRAS": artifacts.centre.tolist(),
        "MotionRotationVectorDegreesRAS": artifacts.rotation.tolist(),
        "MotionTranslationMillimetersRAS": artifacts.translation.tolist(),
        "PhaseEncodingAxis": "ijk"[artifacts.phase_axis],
        "EddyShiftMillimeters": shift,
        "EddyStretch": stretch,
        "EddyShearX": shear_x,
        "EddyShearZ": shear_z,
        "GhostPhaseRadians": artifacts.ghost_phase.tolist(),
        "NumberOfSlices": artifacts.dropout.shape[1],
        "LostSlices": [
            {"Volume": volume, "Slice": place, "Factor": float(artifacts.dropout[volume, place])}
            for volume, place in lost
        ],
    }


def from_record(values: dict[str, Any]) -> ScanArtifacts:
    """Read artifacts from the values of :func:`record`. Further keys may stand beside those."""
    rotation = np.array(values["MotionRotationVectorDegreesRAS"], dtype=float)
    dropout = np.ones((len(rotation), values["NumberOfSlices"]))
    for lost in values["LostSlices"]:
        dropout[lost["Volume"], lost["Slice"]] = lost["Factor"]
    eddy = [values[key] for key in ("EddyShiftMillimeters", "EddyStretch", "EddyShearX", "EddyShearZ")]
    return ScanArtifacts(
        noise_sigma=values["NoiseSigma"],
        bias_strength=values["BiasFieldStrength"],
        bias=np.array(values["BiasFieldLogCoefficients"], dtype=float),
        centre=np.array(values["MotionCentreMillimetersRAS"], dtype=float),
        rotation=rotation,
        translation=np.array(values["MotionTranslationMillimetersRAS"], dtype=float),
        eddy=np.array(eddy, dtype=float).T,
        ghost_phase=np.array(values["GhostPhaseRadians"], dtype=float),
        dropout=dropout,
        phase_axis="ijk".index(values["PhaseEncodingAxis"]),
    )


def _walk(generator: np.random.Generator, count: int, jump_probability: float) -> np.ndarray:
    """Random walk ``(count, 6)`` from 0. A jump makes all six coordinates of a step ``JUMP_SIZE`` times as large."""
    steps = generator.standard_normal((count, 6))
    steps[generator.random(count) < jump_probability] *= JUMP_SIZE
    steps[0] = 0
    return np.cumsum(steps, axis=0)


def _scaled(path: np.ndarray, largest: float) -> np.ndarray:
    """Scale ``path`` ``(V, 3)`` to the distance ``largest`` from 0 at its farthest. A path of zeros stays as it is."""
    distance = np.linalg.norm(path, axis=1).max()
    return path * (largest / distance) if distance else path
