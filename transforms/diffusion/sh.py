"""Spherical harmonics (SH): basis, order that a scan's axes determine, and interpolation between directions."""

from __future__ import annotations

import logging

import numpy as np
from dipy.core.sphere import Sphere
from dipy.reconst.shm import real_sh_descoteaux, smooth_pinv
from scipy.spatial import SphericalVoronoi
from scipy.spatial.distance import cdist

from transforms.diffusion.gradients import angles_between_axes, unique_axes
from transforms.diffusion.scheme import SAME_AXIS_DEGREES
from transforms.errors import SignalError

logger = logging.getLogger(__name__)

MAX_SH_ORDER = 8
"""Order of the paper (Weninger et al., BVM 2022); it has 45 coefficients."""

MIN_SH_ORDER = 2
"""Order 2 has 6 coefficients, as many as a diffusion tensor: the least that carries a direction."""

SMOOTHING = 0.002
"""Laplace-Beltrami regularisation (Descoteaux et al., Magn Reson Med 58:497-510, 2007, who take 0.006).

In a crossing of 90 degrees at the noise of the HCP, the attenuation interpolated from 90 directions is off by 0.0064
(root mean square), by 0.0083 with 0.006 and by 0.0082 without regularisation."""

MAX_CONDITION = 15.0
"""Condition number of an SH basis up to which directions determine its coefficients: noise grows by no more. Evenly
spread axes, as many as there are coefficients, have up to 4; 64 random ones have 13 at order 6 and 85 at order 8."""


MAX_GAP_DEGREES = 52.0
"""Largest angle between any axis and the nearest gradient axis. Six even axes leave 37 degrees, and the attenuation of
a fibre is off by 0.09; axes in a cone of 41 degrees leave 57, and it is off by 0.18, and up to 0.27."""

USUAL_GAP_DEGREES = 40.0
"""A larger gap is worth a note; six even axes leave 37 degrees."""

SAME_POINT = 1e-4
"""Distance on the unit sphere below which two directions are one, written with other digits."""


def n_coefficients(order: int) -> int:
    """Number of SH coefficients of an even ``order``: ``(order + 1)(order + 2) / 2``."""
    return (order + 1) * (order + 2) // 2


def sh_order(directions: np.ndarray, max_order: int = MAX_SH_ORDER) -> int:
    """Highest even SH order, at most ``max_order``, whose coefficients unit vectors ``(N, 3)`` determine.

    That is a matter of their number and of their spread: the condition number of the basis is at most
    ``MAX_CONDITION``.

    Raises:
        SignalError: not even order 2 is determined: there are fewer than 6 axes, or they lie near a plane or in a cone.
    """
    axes = unique_axes(directions, SAME_AXIS_DEGREES)
    if axes < n_coefficients(MIN_SH_ORDER):
        raise SignalError(f"found {axes} distinct gradient axes, expected at least {n_coefficients(MIN_SH_ORDER)}.")
    gap = largest_gap(directions)
    orders = [order for order in range(MIN_SH_ORDER, max_order + 1, 2) if n_coefficients(order) <= axes]
    # the basis of a lower order is the first columns of that of a higher one
    basis = sh_basis(directions, orders[-1])
    fitting = [order for order in orders if np.linalg.cond(basis[:, : n_coefficients(order)]) <= MAX_CONDITION]
    if gap > MAX_GAP_DEGREES or not fitting:
        raise SignalError(
            f"found {axes} gradient axes that leave a gap of {gap:.0f} degrees to the nearest axis (condition number "
            f"{condition(directions, MIN_SH_ORDER):.3g} at SH order {MIN_SH_ORDER}), expected at most "
            f"{MAX_GAP_DEGREES:g}: axes near a plane or in a cone say nothing of the other directions."
        )
    return max(fitting)


def largest_gap(directions: np.ndarray) -> float:
    """Largest angle in degrees between any axis and the nearest of unit vectors ``(N, 3)``.

    The axes that are furthest from all others are the vertices of a spherical Voronoi diagram. It is 90 for axes on a
    plane, 37.4 for six even axes and 17 for 30.
    """
    axes = np.asarray(directions, dtype=np.float64)
    if np.linalg.matrix_rank(axes, tol=1e-3) < 3:
        return 90.0
    points = np.concatenate([axes, -axes]) / np.tile(np.linalg.norm(axes, axis=1), 2)[:, None]
    # of points that are nearly one, as those of repeated directions are, the first alone
    repeated = np.tril(cdist(points, points) < SAME_POINT, -1).any(axis=1)
    points = points[~repeated]
    vertices = SphericalVoronoi(points).vertices
    return float(angles_between_axes(vertices, axes).min(axis=1).max())


def condition(directions: np.ndarray, order: int) -> float:
    """Condition number of the SH basis of an even ``order`` at unit vectors ``(N, 3)``; 1 is best."""
    return float(np.linalg.cond(sh_basis(directions, order)))


def sh_basis(directions: np.ndarray, order: int) -> np.ndarray:
    """Real even SH at unit vectors ``(N, 3)``: DIPY's ``descoteaux07`` with ``legacy=False``, shape ``(N, K)``."""
    sphere = Sphere(xyz=np.asarray(directions))
    return real_sh_descoteaux(order, sphere.theta, sphere.phi, legacy=False)[0]


def fit_matrix(directions: np.ndarray, order: int, smoothing: float = SMOOTHING) -> np.ndarray:
    """Matrix ``(K, N)`` from signals on unit vectors ``(N, 3)`` to SH coefficients of an even ``order``.

    ``(Y^T Y + smoothing L^2)^-1 Y^T`` with ``L = l (l + 1)`` (Descoteaux et al., Magn Reson Med 58:497-510, 2007).
    """
    degrees = np.concatenate([np.full(2 * degree + 1, degree) for degree in range(0, order + 1, 2)])
    return smooth_pinv(sh_basis(directions, order), np.sqrt(smoothing) * degrees * (degrees + 1))


def sh_interpolation_matrix(
    source: np.ndarray,
    target: np.ndarray,
    max_order: int = MAX_SH_ORDER,
    smoothing: float = SMOOTHING,
    name: str = "scan",
) -> np.ndarray:
    """Matrix that takes signals on ``source`` directions to signals on ``target`` directions.

    It is an SH fit, evaluated at the target: ``Y_target (Y_source^T Y_source + smoothing L^2)^-1 Y_source^T`` with
    ``L = l (l + 1)`` (Descoteaux et al., 2007); for equal directions as for others, so that nothing jumps where a scan
    comes near to the scheme. The order is the highest that the source axes determine; a lower one than ``max_order`` is
    logged with its reason.

    Args:
        source: unit vectors of one shell, shape ``(N, 3)``.
        target: unit vectors, in the same frame, shape ``(M, 3)``.
        max_order: highest SH order, even.
        smoothing: Laplace-Beltrami regularisation; 0 reproduces a band-limited signal exactly.
        name: what the log calls the source.

    Returns:
        matrix, float64, shape ``(M, N)``.

    Raises:
        SignalError: the source has fewer than 6 distinct axes.
    """
    order = sh_order(source, max_order)
    if order < max_order:
        logger.warning("%s: SH order lowered from %d to %d: %s", name, max_order, order, why_lowered(source, order))
    return sh_basis(target, order) @ fit_matrix(source, order, smoothing)


def why_lowered(directions: np.ndarray, order: int) -> str:
    """Say why unit vectors ``(N, 3)`` do not determine a higher SH order than ``order``."""
    axes, above = unique_axes(directions, SAME_AXIS_DEGREES), order + 2
    if axes < n_coefficients(above):
        return f"{axes} distinct gradient axes, order {above} needs {n_coefficients(above)}."
    return (
        f"{axes} gradient axes are spread unevenly, the condition number at order {above} is "
        f"{condition(directions, above):.0f}, expected at most {MAX_CONDITION:g}."
    )
