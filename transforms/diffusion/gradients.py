"""Gradient tables: FSL's rule for directions, world RAS, and the shells of a table.

A gradient table is a float64 array of shape ``(N, 4)``, one row ``[gx, gy, gz, b]`` per volume: a unit vector in world
RAS and the b-value in s/mm2. Rows without a direction (b0 volumes, trace images) hold a zero vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transforms.errors import InputError, counted

B0_MAX = 50.0
"""Largest b-value in s/mm2 that counts as b0. HCP writes 5, some scanners a few thousandths."""

SHELL_TOLERANCE = 100.0
"""Half width in s/mm2 of a shell: scanners report 995 or 1005 where 1000 was asked for."""

MAX_SHELL_SPREAD = 100.0
"""Usual spread in s/mm2 of the b-values of one shell: scanners report 975 to 1025 where 1000 was asked for."""

MIN_VECTOR_LENGTH = 1e-3
"""Below this length a b-vector carries no direction."""


def voxel_axes(affine: np.ndarray) -> np.ndarray:
    """Directions of the voxel axes in world space: the closest orthogonal matrix, by polar decomposition."""
    linear = np.asarray(affine, dtype=np.float64)[:3, :3]
    if not np.isfinite(linear).all() or abs(np.linalg.det(linear)) < 1e-12:
        raise InputError(f"affine: found the singular matrix {linear.tolist()}, expected one that can be inverted.")
    u, _, vt = np.linalg.svd(linear / np.linalg.norm(linear, axis=0))
    return u @ vt


def fsl_to_world(bvecs: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn FSL b-vectors into unit vectors in world RAS.

    FSL gives b-vectors along the voxel axes of the image, with the first component negated when the determinant of
    the affine is positive (the "radiological" convention: https://fsl.fmrib.ox.ac.uk/fsl/docs, FDT user guide).

    Args:
        bvecs: shape ``(N, 3)``, in FSL's axes.
        affine: voxel-to-world matrix of the image file as stored, shape ``(4, 4)``.

    Returns:
        unit vectors in world RAS, shape ``(N, 3)``; vectors without length stay zero.

    Raises:
        InputError: the affine is singular.
    """
    bvecs = np.asarray(bvecs, dtype=np.float64)
    axes = voxel_axes(affine)
    voxel = bvecs * [-1.0 if np.linalg.det(axes) > 0 else 1.0, 1.0, 1.0]
    length = np.linalg.norm(voxel, axis=1, keepdims=True)
    unit = np.where(length > MIN_VECTOR_LENGTH, voxel / np.maximum(length, MIN_VECTOR_LENGTH), 0.0)
    return unit @ axes.T + 0.0


def world_to_fsl(directions: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Inverse of :func:`fsl_to_world`: world-RAS vectors ``(N, 3)`` to FSL b-vectors ``(N, 3)`` for ``affine``."""
    axes = voxel_axes(affine)
    voxel = np.asarray(directions, dtype=np.float64) @ axes
    return voxel * [-1.0 if np.linalg.det(axes) > 0 else 1.0, 1.0, 1.0] + 0.0


def b0_volumes(gradients: np.ndarray, b0_max: float = B0_MAX) -> np.ndarray:
    """Indices of the volumes with ``b <= b0_max``, shape ``(n,)``."""
    return np.flatnonzero(np.asarray(gradients)[:, 3] <= b0_max)


def shell_volumes(
    gradients: np.ndarray, bvalue: float, tolerance: float = SHELL_TOLERANCE, b0_max: float = B0_MAX
) -> np.ndarray:
    """Indices of the volumes of one shell.

    Volumes with a b-value but without a direction (trace images that a scanner appended) are not part of it.

    Args:
        gradients: gradient table, shape ``(N, 4)``.
        bvalue: b-value of the shell in s/mm2.
        tolerance: half width of the shell in s/mm2.
        b0_max: largest b-value in s/mm2 that counts as b0, and not as a part of the shell.

    Returns:
        indices, shape ``(n,)``; empty where the scan has no such shell.
    """
    gradients = np.asarray(gradients)
    b = gradients[:, 3]
    directed = np.linalg.norm(gradients[:, :3], axis=1) > 0.5
    return np.flatnonzero((np.abs(b - bvalue) <= tolerance) & (b > b0_max) & directed)


def shell_notes(
    gradients: np.ndarray, bvalue: float, tolerance: float = SHELL_TOLERANCE, b0_max: float = B0_MAX
) -> list[str]:
    """Say what is unusual of the choice of :func:`shell_volumes`, whose arguments these are.

    Two shells that both fit are one, volumes without a direction are none of it, and of a shell at the edge of the
    tolerance only a part fits.
    """
    b = np.asarray(gradients)[:, 3]
    shell = shell_volumes(gradients, bvalue, tolerance, b0_max)
    within, weighted = np.abs(b - bvalue) <= tolerance, b > b0_max
    notes = []
    if len(blank := np.setdiff1d(np.flatnonzero(within & weighted), shell)):
        notes.append(f"{volumes_in_words(blank)} left out: no direction")
    if len(shell) and np.ptp(b[shell]) > MAX_SHELL_SPREAD:
        notes.append(f"the shell holds b-values from {b[shell].min():g} to {b[shell].max():g} s/mm2")
    outside = np.flatnonzero(~within & weighted)
    distance = np.abs(b[outside, None] - b[shell]).min(axis=1, initial=np.inf)
    if len(near := outside[distance <= MAX_SHELL_SPREAD / 2]):
        notes.append(
            f"{volumes_in_words(near)} left out: b = {b[near].min():g} to {b[near].max():g} s/mm2, "
            "just outside of the shell"
        )
    return notes


def volumes_in_words(indices: Sequence[int] | np.ndarray) -> str:
    """Numbers of volumes in words, counted from 0, runs shortened: ``volumes 3, 60 to 65``."""
    numbers = sorted(int(index) for index in indices)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"volume{'s' * (len(numbers) > 1)} {', '.join(words)}"


def describe_shells(gradients: np.ndarray, b0_max: float = B0_MAX) -> str:
    """Say which b-values a table holds, e.g. ``"b = 0 (1 volume), 2000 (15 volumes)"``; b-values within 100 are one."""
    b = np.sort(np.asarray(gradients)[:, 3])
    b = np.where(b <= b0_max, 0.0, b)
    groups = np.split(b, np.flatnonzero(np.diff(b) > SHELL_TOLERANCE) + 1)
    named = [f"{round(float(np.mean(group)))} ({counted(len(group), 'volume')})" for group in groups]
    return "b = " + ", ".join(named)


def angles_between_axes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angles in degrees, 0 to 90, between axes ``(N, 3)`` and ``(M, 3)`` (sign is ignored), shape ``(N, M)``."""
    cross = np.linalg.norm(np.cross(np.asarray(first)[:, None], np.asarray(second)[None]), axis=-1)
    # arctan2 keeps its precision near 0 degrees, where arccos of a rounded dot product does not
    return np.degrees(np.arctan2(cross, np.abs(np.asarray(first) @ np.asarray(second).T)))


def unique_axes(directions: np.ndarray, tolerance: float = 5.0) -> int:
    """Number of axes among unit vectors ``(N, 3)`` that are more than ``tolerance`` degrees from those before them."""
    angles = angles_between_axes(directions, directions)
    kept: list[int] = []
    for index in range(len(angles)):
        if not kept or angles[index, kept].min() > tolerance:
            kept.append(index)
    return len(kept)
