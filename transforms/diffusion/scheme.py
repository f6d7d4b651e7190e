"""Reference schemes: the directions that every scan is interpolated to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transforms.diffusion.gradients import MIN_VECTOR_LENGTH, unique_axes
from transforms.errors import InputError, counted

SAME_AXIS_DEGREES = 1.0
"""Two axes closer than this are one: identity of schemes, and the axes counted for the SH order."""

MIN_AXES = 6
"""As many as a diffusion tensor has elements: the least that carries a direction."""

DEFAULT_SCHEME = Path(__file__).parents[1] / "data" / "scheme64.bvec"
"""Three rows of 64 numbers."""


def as_scheme(vectors: np.ndarray) -> np.ndarray:
    """Take a reference scheme from vectors in world RAS, shape ``(N, 3)``.

    Vectors of zero length or of NaN (b0 volumes) are left out, the others get length 1.

    Returns:
        unit vectors, shape ``(M, 3)``.

    Raises:
        InputError: fewer than 6 axes, or numbers that are not finite; the sentence goes on after the scheme's name.
    """
    vectors = vectors[~np.isnan(vectors).all(axis=1)]
    if not np.isfinite(vectors).all():
        raise InputError("found NaN or infinity in a direction, expected finite numbers.")
    length = np.linalg.norm(vectors, axis=1)
    scheme = vectors[length > MIN_VECTOR_LENGTH] / length[length > MIN_VECTOR_LENGTH, None]
    if unique_axes(scheme, SAME_AXIS_DEGREES) < MIN_AXES:
        raise InputError(f"found {counted(len(scheme), 'direction')}, expected a scheme of at least {MIN_AXES} axes.")
    return scheme


def default_scheme() -> np.ndarray:
    """Return the 64 directions that ship with the bundle, world RAS, shape ``(64, 3)``.

    They are spread by electrostatic repulsion of axes (Jones et al., Magn Reson Med 42:515-525, 1999).
    """
    return as_scheme(np.loadtxt(DEFAULT_SCHEME).T)
