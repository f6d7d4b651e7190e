"""Gradient tables: FSL ``.bval``/``.bvec`` files to world-RAS directions, and the shells in them.

A gradient table is a float64 array of shape ``(N, 4)``, one row ``[gx, gy, gz, b]`` per volume: a unit vector in world
RAS and the b-value in s/mm2. Rows without a direction (b0 volumes, trace images) hold a zero vector.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from transforms.errors import InputError

B0_MAX = 50.0
"""Largest b-value in s/mm2 that counts as b0. HCP writes 5, some scanners a few thousandths."""

SHELL_TOLERANCE = 100.0
"""Half width in s/mm2 of a shell: scanners report 995 or 1005 where 1000 was asked for."""

_MIN_VECTOR_LENGTH = 1e-3
"""Below this length a b-vector carries no direction."""


def _read_numbers(path: Path) -> np.ndarray:
    try:
        rows = [[float(word) for word in line.replace(",", " ").split()] for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected an FSL gradient file beside the scan.") from None
    except OSError as error:
        raise InputError(f"{path}: found a file that cannot be read ({error.strerror}).") from None
    except (UnicodeDecodeError, ValueError):
        raise InputError(f"{path}: found text that is not a number, expected an FSL gradient file.") from None
    rows = [row for row in rows if row]
    if not rows:
        raise InputError(f"{path}: found no numbers, expected an FSL gradient file.")
    if len({len(row) for row in rows}) != 1:
        raise InputError(
            f"{path}: found rows of {sorted({len(row) for row in rows})} numbers, expected rows of one length."
        )
    return np.array(rows, dtype=np.float64)


def read_bvals(path: str | PathLike[str]) -> np.ndarray:
    """Read b-values.

    Args:
        path: FSL text file with the b-values on one line (or one per line).

    Returns:
        b-values in s/mm2, shape ``(N,)``.

    Raises:
        InputError: the file is missing, is not numbers, or holds a negative b-value.
    """
    path = Path(path)
    bvals = _read_numbers(path)
    if 1 not in bvals.shape:
        raise InputError(f"{path}: found {bvals.shape[0]} rows of b-values, expected one.")
    if not np.isfinite(bvals).all():
        raise InputError(f"{path}: found NaN or infinity, expected finite numbers.")
    if (bvals < 0).any():
        raise InputError(f"{path}: found a b-value of {bvals.min():g}, expected none below 0.")
    return bvals.ravel()


def read_bvecs(path: str | PathLike[str]) -> np.ndarray:
    """Read b-vectors as they stand in the file, in FSL's axes.

    Args:
        path: FSL text file of three rows (or of three columns, as some converters write).

    Returns:
        vectors, shape ``(N, 3)``; as in the file, where some converters write NaN for b0 volumes.

    Raises:
        InputError: the file is missing, is not numbers, or is neither three rows nor three columns.
    """
    path = Path(path)
    bvecs = _read_numbers(path)
    if bvecs.shape[0] == 3:
        return bvecs.T
    if bvecs.shape[1] == 3:
        return bvecs
    raise InputError(f"{path}: found {bvecs.shape[0]} rows of {bvecs.shape[1]}, expected three rows.")


def _voxel_axes(affine: np.ndarray) -> np.ndarray:
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
    axes = _voxel_axes(affine)
    voxel = bvecs * [-1.0 if np.linalg.det(axes) > 0 else 1.0, 1.0, 1.0]
    length = np.linalg.norm(voxel, axis=1, keepdims=True)
    unit = np.where(length > _MIN_VECTOR_LENGTH, voxel / np.maximum(length, _MIN_VECTOR_LENGTH), 0.0)
    return unit @ axes.T + 0.0


def world_to_fsl(directions: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Inverse of :func:`fsl_to_world`: world-RAS vectors ``(N, 3)`` to FSL b-vectors ``(N, 3)`` for ``affine``."""
    axes = _voxel_axes(affine)
    voxel = np.asarray(directions, dtype=np.float64) @ axes
    return voxel * [-1.0 if np.linalg.det(axes) > 0 else 1.0, 1.0, 1.0] + 0.0


def read_gradients(
    bval: str | PathLike[str], bvec: str | PathLike[str], affine: np.ndarray, n_volumes: int | None = None
) -> np.ndarray:
    """Read an FSL pair of files into a gradient table in world RAS.

    Args:
        bval: file of b-values.
        bvec: file of b-vectors.
        affine: voxel-to-world matrix of the image that the files belong to, as stored.
        n_volumes: number of volumes of that image, checked where given.

    Returns:
        gradient table, shape ``(N, 4)``.

    Raises:
        InputError: a file cannot be read, a direction is not finite, or the counts of b-values, b-vectors and volumes
            differ.
    """
    bvals, bvecs = read_bvals(bval), read_bvecs(bvec)
    if len(bvals) != len(bvecs):
        raise InputError(f"{bvec}: found {len(bvecs)} b-vectors, expected {len(bvals)} as in {Path(bval).name}.")
    if n_volumes is not None and len(bvals) != n_volumes:
        raise InputError(f"{bval}: found {len(bvals)} b-values, expected {n_volumes}, one per volume of the scan.")
    unknown = ~np.isfinite(bvecs).all(axis=1)
    if (unknown & (bvals > B0_MAX)).any():
        index = np.flatnonzero(unknown & (bvals > B0_MAX))[0]
        raise InputError(f"{bvec}: found NaN or infinity for volume {index} of b = {bvals[index]:g}, expected numbers.")
    bvecs = np.where(unknown[:, None], 0.0, bvecs)
    return np.column_stack([fsl_to_world(bvecs, affine), bvals])


def write_gradients(
    bval: str | PathLike[str], bvec: str | PathLike[str], gradients: np.ndarray, affine: np.ndarray
) -> None:
    """Write a gradient table ``(N, 4)`` as the FSL pair of files that belongs to an image with this ``affine``."""
    gradients = np.asarray(gradients)
    Path(bval).write_text(" ".join(f"{b:g}" for b in gradients[:, 3]) + "\n")
    rows = world_to_fsl(gradients[:, :3], affine).T
    Path(bvec).write_text("\n".join(" ".join(f"{value:.8f}" for value in row) for row in rows) + "\n")


def b0_volumes(gradients: np.ndarray) -> np.ndarray:
    """Indices of the volumes with ``b <= B0_MAX``, shape ``(n,)``."""
    return np.flatnonzero(np.asarray(gradients)[:, 3] <= B0_MAX)


def shell_volumes(gradients: np.ndarray, bvalue: float, tolerance: float = SHELL_TOLERANCE) -> np.ndarray:
    """Indices of the volumes of one shell.

    Volumes with a b-value but without a direction (trace images that a scanner appended) are not part of it.

    Args:
        gradients: gradient table, shape ``(N, 4)``.
        bvalue: b-value of the shell in s/mm2, above ``B0_MAX``.
        tolerance: half width of the shell in s/mm2.

    Returns:
        indices, shape ``(n,)``; empty where the scan has no such shell.
    """
    gradients = np.asarray(gradients)
    b = gradients[:, 3]
    directed = np.linalg.norm(gradients[:, :3], axis=1) > 0.5
    return np.flatnonzero((np.abs(b - bvalue) <= tolerance) & (b > B0_MAX) & directed)


def describe_shells(gradients: np.ndarray) -> str:
    """Say which b-values a table holds, e.g. ``"b = 0 (1 volume), 2000 (15 volumes)"``; b-values within 100 are one."""
    b = np.sort(np.asarray(gradients)[:, 3])
    b = np.where(b <= B0_MAX, 0.0, b)
    groups = np.split(b, np.flatnonzero(np.diff(b) > SHELL_TOLERANCE) + 1)
    named = [f"{round(float(np.mean(group)))} ({len(group)} volume{'s' * (len(group) > 1)})" for group in groups]
    return "b = " + ", ".join(named)


def angles_between_axes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angles in degrees, 0 to 90, between axes ``(N, 3)`` and ``(M, 3)`` (sign is ignored), shape ``(N, M)``."""
    cross = np.linalg.norm(np.cross(np.asarray(first)[:, None], np.asarray(second)[None]), axis=-1)
    # arctan2 keeps its precision near 0 degrees, where arccos of a rounded dot product does not
    return np.degrees(np.arctan2(cross, np.abs(np.asarray(first) @ np.asarray(second).T)))


def unique_axes(directions: np.ndarray, tolerance: float = 5.0) -> int:
    """Number of axes among unit vectors ``(N, 3)`` that are more than ``tolerance`` degrees from those before them."""
    kept: list[np.ndarray] = []
    for direction in np.asarray(directions):
        if not kept or angles_between_axes(direction[None], np.array(kept)).min() > tolerance:
            kept.append(direction)
    return len(kept)
