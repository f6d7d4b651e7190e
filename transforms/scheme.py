"""Reference schemes: the directions that every scan is interpolated to."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from transforms.errors import InputError
from transforms.gradients import read_bvecs, unique_axes

SAME_AXIS_DEGREES = 1.0
"""Two axes closer than this are one: identity of schemes, and the axes counted for the SH order."""

DEFAULT_SCHEME = Path(__file__).parent / "data" / "scheme64.bvec"


def load_scheme(path: str | PathLike[str]) -> np.ndarray:
    """Read a reference scheme: a ``.bvec``-like file of unit vectors in world RAS, which belongs to no image.

    Args:
        path: text file of three rows or three columns; vectors of zero length (b0 volumes) are left out.

    Returns:
        unit vectors in world RAS, shape ``(M, 3)``.

    Raises:
        InputError: the file cannot be read, or holds fewer than 6 axes.
    """
    vectors = read_bvecs(path)
    length = np.linalg.norm(vectors, axis=1)
    scheme = vectors[length > 0.5] / length[length > 0.5, None]
    if unique_axes(scheme, SAME_AXIS_DEGREES) < 6:
        raise InputError(f"{path}: found {len(scheme)} directions, expected a scheme of at least 6 axes.")
    return scheme


def default_scheme() -> np.ndarray:
    """Return the 64 directions that ship with the bundle, world RAS, shape ``(64, 3)``.

    They are spread by electrostatic repulsion of axes (Jones et al., Magn Reson Med 42:515-525, 1999).
    """
    return load_scheme(DEFAULT_SCHEME)
