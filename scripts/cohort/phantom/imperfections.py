"""Imperfections of a phantom scan: motion, eddy currents, receive field, lost slices, ghost and noise of a scanner.

The physics, in the order in which :func:`acquire` follows it: the head lies in another pose in each volume; the field
of the eddy currents displaces what the readout records along the phase encoding (PE); the coil weights it by its
receive field, which stands still; a slice that moved while the diffusion gradients were on loses signal; odd and even
k-space lines differ by a phase, which makes a second image half a field of view away; each receiver channel adds noise,
and the magnitude is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from transforms.errors import InputError
from transforms.gradients import B0_MAX

TRANSLATION_SHARES = np.array([0.5, 1.0, 0.7])
ROTATION_SHARES = np.array([1.0, 0.5, 0.5])
"""Relative size of the steps along and about right, anterior and superior: heads move most along anterior-posterior and
turn most about right-left (Schilling et al., Head motion in diffusion MRI, 2025, PMC11814480; 16,995 sessions)."""

JUMP_SIZE = 10.0
"""Size of a sudden jump relative to a step from one volume to the next."""

EDDY_B = 1000.0
"""b-value in s/mm2 for which ``Strengths`` states the eddy currents."""

GHOST_VARIATION = 0.1
"""Largest relative deviation of a volume's ghost from the subject's."""

DROPOUT_FACTORS = (0.1, 0.6)
"""Range of the share of its signal that a lost slice keeps."""

SPLINE_MARGIN = 6
"""Voxels around moved signal that are computed: a cubic spline's tail decays by 0.27 a voxel, to 4 in 10,000 there."""

INT16_MAX = np.iinfo(np.int16).max

BIAS_TERMS = ("1", "i", "j", "k", "ij", "ik", "jk", "ii", "jj", "kk")
"""Terms of the logarithm of the receive field; i, j, k are voxel indices scaled to run from -1 to 1."""


@dataclass(frozen=True)
class Strengths:
    """Ranges of which each subject draws its own strengths, uniformly.

    Attributes:
        translation: largest distance in mm of the head from its first place over the scan.
        rotation: largest angle in degrees of the head from its first pose over the scan.
        jump_probability: of a sudden jump before a volume.
        eddy_shift: largest shift in mm along PE, of a gradient of b = 1000 along the worst direction.
        eddy_stretch: largest stretch, likewise; relative, 0 for none.
        eddy_shear: largest shear, likewise; mm per mm. Drawn for each of the two shears.
        ghost: amplitude of the ghost relative to the image, ``sin(phase / 2)``.
        bias: largest absolute logarithm of the receive field in the brain.
        dropout: probability that a slice of a diffusion-weighted volume is lost.
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
"""A hospital's raw scan. Motion of 2 mm over 65 volumes of 7 s is a path of about 1.5 mm a minute; 1 to 2 are typical
(Schilling et al., 2025). The other ranges are choices: up to a voxel of shift and 2 mm of displacement at the edge of a
brain by stretch and shear, a ghost of some percent, one slice in a hundred lost at most."""

AUXILIARY = Strengths(bias=(0.02, 0.1))
"""A preprocessed research scan: what is left is noise and a weak receive field."""


@dataclass(frozen=True)
class Imperfections:
    """Everything that scanner and patient do to the ``V`` volumes ``(X, Y, Z)`` of one scan; slices are along Z.

    A point ``x`` of the head, in world mm, is at ``R (x - centre) + centre + translation``. The eddy displacement is
    measured from the centre of the image: with distances in mm along the voxel axes, y along PE and x, z the first and
    second of the others, what is at ``y`` comes to ``y + shift + stretch * y + shear_x * x + shear_z * z``. That is
    ``RandEddy`` with 1 + stretch as its factor and its shift in voxels.

    Attributes:
        noise_sigma: standard deviation of the noise of each of the two receiver channels, in stored units.
        bias_strength: largest absolute logarithm of the receive field in the brain.
        bias: coefficients of that logarithm, shape ``(10,)``, in the order of ``BIAS_TERMS``; zeros for no field.
        centre: centre of rotation, the middle of the brain, world RAS in mm, shape ``(3,)``.
        rotation: pose of the head in each volume, rotation vectors in degrees, world RAS, shape ``(V, 3)``; 0 is first.
        translation: in mm, world RAS, shape ``(V, 3)``; 0 is first.
        eddy: shift in mm, stretch (relative, 0 for none), shear_x and shear_z in mm per mm, shape ``(V, 4)``.
        ghost_phase: phase in radians between odd and even k-space lines, shape ``(V,)``.
        dropout: factor of each slice's signal, shape ``(V, Z)``; 1 is whole.
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


def sample_imperfections(
    generator: np.random.Generator,
    strengths: Strengths,
    gradients: np.ndarray,
    affine: np.ndarray,
    brain: np.ndarray,
    noise_sigma: float,
    phase_axis: int = 1,
) -> Imperfections:
    """Draw the imperfections of one subject's scan.

    Motion is a random walk from volume to volume with rare jumps, scaled so that its largest excursion is what the
    subject drew. Eddy currents are linear in the diffusion gradient, ``b / 1000 g`` times one matrix ``(4, 3)`` per
    subject as in FSL's eddy (``--slm=linear``; Andersson and Sotiropoulos, NeuroImage 125:1063-1078, 2016), so that
    opposite gradients distort oppositely and a b0 volume not at all.

    Args:
        generator: source of the random numbers.
        strengths: ranges of the imperfections, ``CLINICAL`` or ``AUXILIARY``.
        gradients: gradient table in world RAS, shape ``(V, 4)``, as the scanner plays it.
        affine: voxel-to-world matrix, shape ``(4, 4)``.
        brain: mask, shape ``(X, Y, Z)``; the head turns about its centre, and the receive field's mean in it is 1.
        noise_sigma: standard deviation of the noise of each receiver channel, in stored units.
        phase_axis: voxel axis of PE, 0 or 1; slices are along 2.

    Returns:
        imperfections, as they are recorded and replayed.

    Raises:
        InputError: an argument is out of range, the brain is empty, or a ghost is asked for and the image has an odd
            number of voxels along PE.
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
        _half_of(brain.shape[phase_axis])

    lost = generator.random((count, brain.shape[2])) < generator.uniform(*strengths.dropout)
    factors = generator.uniform(*DROPOUT_FACTORS, lost.shape)
    dropout = np.where(lost & (gradients[:, 3:] > B0_MAX), factors, 1.0)

    strength = float(generator.uniform(*strengths.bias))
    return Imperfections(
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


def head_gradients(gradients: np.ndarray, imperfections: Imperfections) -> np.ndarray:
    """Gradient table as the head sees it, the true directions of a scan whose file keeps the nominal ones.

    In volume ``v`` the head is turned by ``R``, so a fibre ``u`` lies along ``R u`` while the gradient ``g`` stands in
    the scanner: ``g . R u = (R^T g) . u``. The head in its first pose under ``R^T g`` thus has the signal of the turned
    head under ``g`` (Leemans and Jones, Magn Reson Med 61:1336-1349, 2009).

    Args:
        gradients: nominal gradient table in world RAS, shape ``(V, 4)``.
        imperfections: of the scan.

    Returns:
        shape ``(V, 4)``: directions ``R_v^T g_v``, b-values as they were.
    """
    turns = Rotation.from_rotvec(imperfections.rotation, degrees=True)
    return np.column_stack([turns.inv().apply(gradients[:, :3]), gradients[:, 3]])


def sample_receive_field(generator: np.random.Generator, brain: np.ndarray, strength: float) -> np.ndarray:
    """Draw a receive field, with a mean of exactly 1 in the brain and ``strength`` as its largest logarithm there.

    Args:
        generator: source of the coefficients.
        brain: mask, shape ``(X, Y, Z)``.
        strength: largest absolute logarithm in the brain, at least 0.

    Returns:
        coefficients for :func:`receive_field`, shape ``(10,)``.
    """
    coefficients = np.concatenate([[0.0], generator.standard_normal(9)])
    values = _polynomial(coefficients, brain.shape)[brain]
    spread = float(np.ptp(values)) if len(values) else 0.0
    if not (strength and spread):
        return np.zeros(10)

    def constant(scale: float) -> float:
        return -float(np.log(np.exp(scale * values).mean()))

    def excess(scale: float) -> float:
        return float(np.abs(scale * values + constant(scale)).max()) - strength

    # the largest logarithm is at least half the range, and both ends of the range move away from 0 as the scale grows
    scale = float(optimize.brentq(excess, 0.0, 2.01 * strength / spread))
    coefficients *= scale
    coefficients[0] = constant(scale)
    return coefficients


def receive_field(coefficients: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Receive field of a coil, ``exp(polynomial of degree 2)``.

    Args:
        coefficients: of the logarithm, in the order of ``BIAS_TERMS``, shape ``(10,)``.
        shape: of a volume, ``(X, Y, Z)``.

    Returns:
        float32, shape ``(X, Y, Z)``.
    """
    return np.exp(_polynomial(coefficients, shape)).astype(np.float32)


def volume_map(
    index: int, imperfections: Imperfections, affine: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Where motion and eddy currents of one volume take the signal.

    Both are affine, the displacement on top of the motion, so together they are one affine map.

    Args:
        index: number of the volume.
        imperfections: of the scan.
        affine: voxel-to-world matrix, shape ``(4, 4)``.
        shape: of the volume.

    Returns:
        ``matrix`` ``(3, 3)`` and ``offset`` ``(3,)``: what the head's first pose has at voxel index ``k`` is recorded
        at ``matrix @ k + offset``.
    """
    motion = np.eye(4)
    turn = Rotation.from_rotvec(imperfections.rotation[index], degrees=True).as_matrix()
    motion[:3, :3] = turn
    motion[:3, 3] = imperfections.centre - turn @ imperfections.centre + imperfections.translation[index]

    phase, middle, sizes = imperfections.phase_axis, (np.array(shape) - 1) / 2, np.linalg.norm(affine[:3, :3], axis=0)
    shift, stretch, shear_x, shear_z = imperfections.eddy[index]
    slopes = np.zeros(3)
    slopes[[phase, *(axis for axis in range(3) if axis != phase)]] = stretch, shear_x, shear_z
    eddy = np.eye(4)
    eddy[phase, :3] += slopes * sizes / sizes[phase]
    eddy[phase, 3] = (shift - slopes @ (sizes * middle)) / sizes[phase]

    both = eddy @ np.linalg.inv(affine) @ motion @ affine
    return both[:3, :3], both[:3, 3]


def acquire(
    volume: np.ndarray,
    index: int,
    imperfections: Imperfections,
    affine: np.ndarray,
    field: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """One volume as the scanner stores it.

    Motion and eddy displacement are one cubic-spline resampling, divided by ``1 + stretch`` so that mass is conserved
    (Jezzard, Barnett and Pierpaoli, Magn Reson Med 39:801-812, 1998); a volume without either is not resampled. Outside
    the image there is no signal, what leaves it is lost, and what a spline has below 0 beside an edge is set to 0.

    A phase of ``+phase / 2`` on even and ``-phase / 2`` on odd k-space lines multiplies the spectrum by ``cos(phase /
    2) + i (-1)^k sin(phase / 2)``, and ``(-1)^k`` is the spectrum of a shift by ``N / 2`` voxels. So a real image ``I``
    stays in one channel, as ``cos(phase / 2) I(y)``, and the other has its ghost, ``sin(phase / 2) I(y - N / 2)``.

    Args:
        volume: noise-free signal with the head in its first pose, of the gradient in :func:`head_gradients`; at least
            0, float32, shape ``(X, Y, Z + 2 n)`` with ``n`` slices on each side that are not recorded, but that motion
            may bring into the image.
        index: number of the volume.
        imperfections: of the scan.
        affine: voxel-to-world matrix, shape ``(4, 4)``.
        field: what :func:`receive_field` makes of ``imperfections.bias``, shape ``(X, Y, Z)``.
        generator: source of the noise.

    Returns:
        int16, shape ``(X, Y, Z)``, rounded and at most 32767.

    Raises:
        InputError: there is a ghost and the image has an odd number of voxels along PE.
    """
    image = _displaced(np.asarray(volume, dtype=np.float32), index, imperfections, affine)
    around = (image.shape[2] - field.shape[2]) // 2
    image = image[:, :, around : around + field.shape[2]] * field
    if (imperfections.dropout[index] != 1).any():
        image *= imperfections.dropout[index].astype(np.float32)
    phase, axis, ghost = imperfections.ghost_phase[index], imperfections.phase_axis, None
    if phase:
        ghost = np.float32(np.sin(phase / 2)) * np.roll(image, _half_of(image.shape[axis]), axis)
        image *= np.float32(np.cos(phase / 2))
    return rician(image, imperfections.noise_sigma, generator, ghost)


def rician(
    image: np.ndarray, noise_sigma: float, generator: np.random.Generator, imaginary: np.ndarray | None = None
) -> np.ndarray:
    """Magnitude of an image with Gaussian noise in both receiver channels, as the scanner stores it.

    That is Rician (Gudbjartsson and Patz, Magn Reson Med 34:910-914, 1995).

    Args:
        image: signal in the real channel, float32, any shape.
        noise_sigma: standard deviation of the noise of each channel, in stored units.
        generator: source of the noise.
        imaginary: signal in the other channel, same shape; None for none.

    Returns:
        int16, same shape, rounded and at most 32767.
    """
    channels = generator.standard_normal((2, *image.shape), dtype=np.float32)
    channels *= np.float32(noise_sigma)
    channels[0] += image
    if imaginary is not None:
        channels[1] += imaginary
    magnitude: np.ndarray = channels[0]
    np.hypot(channels[0], channels[1], out=magnitude)
    return np.minimum(np.rint(magnitude), INT16_MAX).astype(np.int16)


def record(imperfections: Imperfections) -> dict[str, Any]:
    """Imperfections as plain values that JSON keeps exactly; :func:`from_record` turns them back."""
    shift, stretch, shear_x, shear_z = imperfections.eddy.T.tolist()
    lost = np.argwhere(imperfections.dropout != 1).tolist()
    return {
        "NoiseSigma": imperfections.noise_sigma,
        "BiasFieldStrength": imperfections.bias_strength,
        "BiasFieldLogTerms": list(BIAS_TERMS),
        "BiasFieldLogCoefficients": imperfections.bias.tolist(),
        "MotionCentreMillimetersRAS": imperfections.centre.tolist(),
        "MotionRotationVectorDegreesRAS": imperfections.rotation.tolist(),
        "MotionTranslationMillimetersRAS": imperfections.translation.tolist(),
        "PhaseEncodingAxis": "ijk"[imperfections.phase_axis],
        "EddyShiftMillimeters": shift,
        "EddyStretch": stretch,
        "EddyShearX": shear_x,
        "EddyShearZ": shear_z,
        "GhostPhaseRadians": imperfections.ghost_phase.tolist(),
        "NumberOfSlices": imperfections.dropout.shape[1],
        "LostSlices": [
            {"Volume": volume, "Slice": place, "Factor": float(imperfections.dropout[volume, place])}
            for volume, place in lost
        ],
    }


def from_record(values: dict[str, Any]) -> Imperfections:
    """Imperfections that :func:`record` wrote; other keys may stand beside its own."""
    rotation = np.array(values["MotionRotationVectorDegreesRAS"], dtype=float)
    dropout = np.ones((len(rotation), values["NumberOfSlices"]))
    for lost in values["LostSlices"]:
        dropout[lost["Volume"], lost["Slice"]] = lost["Factor"]
    eddy = [values[key] for key in ("EddyShiftMillimeters", "EddyStretch", "EddyShearX", "EddyShearZ")]
    return Imperfections(
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
    """Random walk ``(count, 6)`` from 0; some steps, all six coordinates together, are ``JUMP_SIZE`` times as large."""
    steps = generator.standard_normal((count, 6))
    steps[generator.random(count) < jump_probability] *= JUMP_SIZE
    steps[0] = 0
    return np.cumsum(steps, axis=0)


def _scaled(path: np.ndarray, largest: float) -> np.ndarray:
    """``path`` ``(V, 3)``, scaled so that its largest distance from 0 is ``largest``; a path that stays at 0 stays."""
    distance = np.linalg.norm(path, axis=1).max()
    return path * (largest / distance) if distance else path


def _half_of(length: int) -> int:
    if length % 2:
        raise InputError(f"ghost: found {length} voxels along the phase encoding, expected an even number.")
    return length // 2


def _polynomial(coefficients: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    terms = (np.ones((1, 1, 1)), i, j, k, i * j, i * k, j * k, i**2, j**2, k**2)
    total = np.zeros(shape)
    for coefficient, term in zip(coefficients, terms, strict=True):
        total += coefficient * term
    return total


def _displaced(volume: np.ndarray, index: int, imperfections: Imperfections, affine: np.ndarray) -> np.ndarray:
    """``volume`` as motion and eddy currents displace it; computed in the box that the moved signal can reach."""
    parts = (imperfections.rotation, imperfections.translation, imperfections.eddy)
    if not any(part[index].any() for part in parts) or not volume.any():
        return volume
    matrix, offset = volume_map(index, imperfections, affine, volume.shape)
    filled = [np.flatnonzero(volume.any(axis=others))[[0, -1]] for others in ((1, 2), (0, 2), (0, 1))]
    corners = np.stack(np.meshgrid(*filled, indexing="ij"), axis=-1).reshape(-1, 3) @ matrix.T + offset
    first = np.maximum(np.floor(corners.min(axis=0)).astype(int) - SPLINE_MARGIN, 0)
    end = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + SPLINE_MARGIN + 1, volume.shape)
    result = np.zeros_like(volume)
    if (first >= end).any():
        return result

    # zeros around the signal, so that the ends of the spline are those of an image that goes on
    margin = SPLINE_MARGIN + 2
    source = np.pad(volume[tuple(slice(low, high + 1) for low, high in filled)], margin)
    source_first = np.array([low for low, _ in filled]) - margin
    inverse = np.linalg.inv(matrix)
    box = ndimage.affine_transform(
        source,
        inverse,
        inverse @ (first - offset) - source_first,
        output_shape=tuple(end - first),
        output=np.float32,
        order=3,
    )
    box /= np.float32(1 + imperfections.eddy[index, 1])
    result[tuple(slice(*ends) for ends in zip(first, end, strict=True))] = np.maximum(box, 0)
    return result
