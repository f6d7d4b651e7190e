"""FSL gradient files, ``.bval`` and ``.bvec``, and files of a reference scheme."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from scripts.io.files import read_text
from transforms.diffusion.gradients import (
    B0_MAX,
    MIN_VECTOR_LENGTH,
    SHELL_TOLERANCE,
    fsl_to_world,
    world_to_fsl,
)
from transforms.diffusion.scheme import as_scheme, default_scheme
from transforms.errors import InputError, counted

MIN_LENGTH_RATIO = 0.95
"""Shortest over longest vector of one b-value: rounding and rotation change lengths by less than a hundredth."""

EXPECTED = "an FSL gradient file beside the scan"


def _read_numbers(path: Path) -> np.ndarray:
    text = read_text(path, EXPECTED)
    try:
        rows = [[float(word) for word in line.replace(",", " ").split()] for line in text.splitlines()]
    except ValueError:
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
        raise InputError(f"{path}: found {counted(bvals.shape[0], 'row')} of b-values, expected one.")
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
    raise InputError(f"{path}: found {counted(bvecs.shape[0], 'row')} of {bvecs.shape[1]}, expected three rows.")


def read_gradients(
    bval: str | PathLike[str],
    bvec: str | PathLike[str],
    affine: np.ndarray,
    n_volumes: int | None = None,
    b0_max: float = B0_MAX,
) -> np.ndarray:
    """Read an FSL pair of files into a gradient table in world RAS.

    Args:
        bval: file of b-values.
        bvec: file of b-vectors.
        affine: voxel-to-world matrix of the image that the files belong to, as stored.
        n_volumes: number of volumes of that image, checked where given.
        b0_max: largest b-value in s/mm2 that counts as b0, which needs no direction.

    Returns:
        gradient table, shape ``(N, 4)``.

    Raises:
        InputError: a file cannot be read, a direction is not finite, or the counts of b-values, b-vectors and volumes
            differ.
    """
    bvals, bvecs = read_bvals(bval), read_bvecs(bvec)
    if len(bvals) != len(bvecs):
        found = counted(len(bvecs), "b-vector")
        raise InputError(f"{bvec}: found {found}, expected {len(bvals)} as in {Path(bval).name}.")
    if n_volumes is not None and len(bvals) != n_volumes:
        found = counted(len(bvals), "b-value")
        raise InputError(f"{bval}: found {found}, expected {n_volumes}, one per volume of the scan.")
    unknown = ~np.isfinite(bvecs).all(axis=1)
    if (unknown & (bvals > b0_max)).any():
        index = np.flatnonzero(unknown & (bvals > b0_max))[0]
        raise InputError(f"{bvec}: found NaN or infinity for volume {index} of b = {bvals[index]:g}, expected numbers.")
    bvecs = np.where(unknown[:, None], 0.0, bvecs)
    _check_lengths(Path(bvec), bvals, np.linalg.norm(bvecs, axis=1), b0_max)
    return np.column_stack([fsl_to_world(bvecs, affine), bvals])


def _check_lengths(path: Path, bvals: np.ndarray, lengths: np.ndarray, b0_max: float) -> None:
    """Refuse a table that codes b-values in the lengths of its vectors, ``b |g|^2``, under one nominal b-value.

    Vectors that are all scaled by one number, or by one number a shell, stay what they are, and so do lengths of
    ``sqrt(b)`` beside right b-values.
    """
    directed = (bvals > b0_max) & (lengths > MIN_VECTOR_LENGTH)
    for bvalue in np.unique(bvals[directed]):
        of_shell = directed & (np.abs(bvals - bvalue) <= SHELL_TOLERANCE)
        shortest, longest = float(lengths[of_shell].min()), float(lengths[of_shell].max())
        by_root = lengths[of_shell] / np.sqrt(bvals[of_shell])
        if max(shortest / longest, float(by_root.min() / by_root.max())) < MIN_LENGTH_RATIO:
            raise InputError(
                f"{path}: found vectors of lengths {shortest:.2f} to {longest:.2f} at b = {bvalue:g}, expected one "
                f"length; does b |g|^2 code the b-values, {bvalue * shortest**2:.0f} to {bvalue * longest**2:.0f}?"
            )


def write_gradients(
    bval: str | PathLike[str], bvec: str | PathLike[str], gradients: np.ndarray, affine: np.ndarray
) -> None:
    """Write a gradient table ``(N, 4)`` as the FSL pair of files that belongs to an image with this ``affine``."""
    gradients = np.asarray(gradients)
    Path(bval).write_text(" ".join(f"{b:g}" for b in gradients[:, 3]) + "\n")
    rows = world_to_fsl(gradients[:, :3], affine).T
    Path(bvec).write_text("\n".join(" ".join(f"{value:.8f}" for value in row) for row in rows) + "\n")


def read_scheme(path: str | PathLike[str] | None) -> np.ndarray:
    """Read a reference scheme: a ``.bvec``-like file of unit vectors in world RAS, which belongs to no image.

    Args:
        path: text file of three rows or three columns; vectors of zero length (b0 volumes) are left out. None for the
            64 directions that ship with the bundle.

    Returns:
        unit vectors in world RAS, shape ``(M, 3)``.

    Raises:
        InputError: the file cannot be read, or holds fewer than 6 axes.
    """
    if path is None:
        return default_scheme()
    try:
        return as_scheme(read_bvecs(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_scheme(bval: Path, bvec: Path, scheme: np.ndarray, bvalue: float) -> None:
    """Write a reference scheme ``(M, 3)`` in world RAS, and a b-value in s/mm2 for each of its directions."""
    bval.write_text(" ".join([f"{bvalue:g}"] * len(scheme)) + "\n")
    bvec.write_text("\n".join(" ".join(f"{x:.8f}" for x in row) for row in scheme.T) + "\n")
