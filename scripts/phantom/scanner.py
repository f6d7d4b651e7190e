"""Scanner of a phantom: the volumes that it stores of a head, with the artifacts of the scan."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from scripts.phantom.artifacts import ScanArtifacts, ghost_shift

SPLINE_MARGIN = 6
"""Voxels around the moved signal that are computed. A cubic spline's tail decays by a factor of 0.27 a voxel, to 4 in
10,000 at that distance."""

INT16_MAX = np.iinfo(np.int16).max


def head_gradients(gradients: np.ndarray, artifacts: ScanArtifacts) -> np.ndarray:
    """Gradient table in the frame of the head: the true directions of a scan, whose file states the nominal ones.

    In volume ``v`` a rotation ``R`` turns the head, so a fibre ``u`` lies along ``R u``. The gradient ``g`` does not
    turn with it: ``g . R u = (R^T g) . u``. So the head in its first pose has under ``R^T g`` the signal of the turned
    head under ``g`` (Leemans and Jones, Magn Reson Med 61:1336-1349, 2009).

    Args:
        gradients: nominal gradient table in world RAS, shape ``(V, 4)``.
        artifacts: artifacts of the scan.

    Returns:
        gradient table of directions ``R_v^T g_v`` and of the nominal b-values, shape ``(V, 4)``.
    """
    turns = Rotation.from_rotvec(artifacts.rotation, degrees=True)
    return np.column_stack([turns.inv().apply(gradients[:, :3]), gradients[:, 3]])


def volume_map(
    index: int, artifacts: ScanArtifacts, affine: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Affine map of the signal in one volume by motion, then by eddy currents.

    Args:
        index: number of the volume.
        artifacts: artifacts of the scan.
        affine: voxel-to-world matrix, shape ``(4, 4)``.
        shape: shape of the volume.

    Returns:
        ``matrix`` ``(3, 3)`` and ``offset`` ``(3,)``. The scanner records the signal of voxel ``k`` of the head's first
        pose at ``matrix @ k + offset``.
    """
    motion = np.eye(4)
    turn = Rotation.from_rotvec(artifacts.rotation[index], degrees=True).as_matrix()
    motion[:3, :3] = turn
    motion[:3, 3] = artifacts.centre - turn @ artifacts.centre + artifacts.translation[index]

    phase, middle, sizes = artifacts.phase_axis, (np.array(shape) - 1) / 2, np.linalg.norm(affine[:3, :3], axis=0)
    shift, stretch, shear_x, shear_z = artifacts.eddy[index]
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
    artifacts: ScanArtifacts,
    affine: np.ndarray,
    field: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Acquire one volume with its artifacts, as the scanner stores it.

    One cubic-spline resampling applies motion and eddy displacement. The result is divided by ``1 + stretch``, which
    conserves mass (Jezzard, Barnett and Pierpaoli, Magn Reson Med 39:801-812, 1998). A volume without either is not
    resampled. There is no signal outside the image, and signal that leaves the image is lost. A spline falls below 0
    beside an edge; such values become 0.

    The ghost comes from a phase of ``+phase / 2`` on even and ``-phase / 2`` on odd k-space lines. It multiplies the
    spectrum by ``cos(phase / 2) + i (-1)^k sin(phase / 2)``, and ``(-1)^k`` is the spectrum of a shift by ``N / 2``
    voxels. So a real image ``I`` is ``cos(phase / 2) I(y)`` in the real channel. Its ghost is
    ``sin(phase / 2) I(y - N / 2)`` in the imaginary channel.

    Args:
        volume: noise-free signal of the head in its first pose, for the volume's gradient in :func:`head_gradients`. It
            is float32 and at least 0, shape ``(X, Y, Z + 2 n)``. The scanner does not record the ``n`` slices on each
            side, but motion may bring them into the image.
        index: number of the volume.
        artifacts: artifacts of the scan.
        affine: voxel-to-world matrix, shape ``(4, 4)``.
        field: receive field of the coefficients ``artifacts.bias``, shape ``(X, Y, Z)``.
        generator: source of the noise.

    Returns:
        int16, shape ``(X, Y, Z)``, rounded and at most 32767.

    Raises:
        InputError: there is a ghost and the image has an odd number of voxels along the phase encoding.
    """
    image = _displaced(np.asarray(volume, dtype=np.float32), index, artifacts, affine)
    around = (image.shape[2] - field.shape[2]) // 2
    image = image[:, :, around : around + field.shape[2]] * field
    if (artifacts.dropout[index] != 1).any():
        image *= artifacts.dropout[index].astype(np.float32)
    phase, axis, ghost = artifacts.ghost_phase[index], artifacts.phase_axis, None
    if phase:
        ghost = np.float32(np.sin(phase / 2)) * np.roll(image, ghost_shift(image.shape[axis]), axis)
        image *= np.float32(np.cos(phase / 2))
    return rician(image, artifacts.noise_sigma, generator, ghost)


def rician(
    image: np.ndarray, noise_sigma: float, generator: np.random.Generator, imaginary: np.ndarray | None = None
) -> np.ndarray:
    """Magnitude of an image with Gaussian noise in both receiver channels, as the scanner stores it.

    Such a magnitude has a Rician distribution (Gudbjartsson and Patz, Magn Reson Med 34:910-914, 1995).

    Args:
        image: signal in the real channel, float32, any shape.
        noise_sigma: standard deviation of the noise of each channel, in stored units.
        generator: source of the noise.
        imaginary: signal in the imaginary channel, same shape; None for no signal.

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


def _displaced(volume: np.ndarray, index: int, artifacts: ScanArtifacts, affine: np.ndarray) -> np.ndarray:
    """Displace ``volume`` by motion and eddy currents, within the box that the moved signal can reach."""
    parts = (artifacts.rotation, artifacts.translation, artifacts.eddy)
    if not any(part[index].any() for part in parts) or not volume.any():
        return volume
    matrix, offset = volume_map(index, artifacts, affine, volume.shape)
    filled = [np.flatnonzero(volume.any(axis=others))[[0, -1]] for others in ((1, 2), (0, 2), (0, 1))]
    corners = np.stack(np.meshgrid(*filled, indexing="ij"), axis=-1).reshape(-1, 3) @ matrix.T + offset
    first = np.maximum(np.floor(corners.min(axis=0)).astype(int) - SPLINE_MARGIN, 0)
    end = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + SPLINE_MARGIN + 1, volume.shape)
    result = np.zeros_like(volume)
    if (first >= end).any():
        return result

    # with zeros around the signal, the spline ends as in a larger image
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
    box /= np.float32(1 + artifacts.eddy[index, 1])
    result[tuple(slice(*ends) for ends in zip(first, end, strict=True))] = np.maximum(box, 0)
    return result
