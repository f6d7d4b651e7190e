"""Spherical harmonics (SH): basis, order that a scan's axes determine, and interpolation between directions."""

from __future__ import annotations

import logging

import numpy as np
from dipy.core.sphere import Sphere
from dipy.reconst.shm import real_sh_descoteaux, smooth_pinv

from transforms.diffusion.gradients import angles_between_axes, unique_axes
from transforms.diffusion.scheme import SAME_AXIS_DEGREES
from transforms.errors import SignalError

logger = logging.getLogger(__name__)

MAX_SH_ORDER = 8
"""Order of the paper (Weninger et al., BVM 2022); it has 45 coefficients."""

MIN_SH_ORDER = 2
"""Order 2 has 6 coefficients, as many as a diffusion tensor: the least that carries a direction."""

SMOOTHING = 0.006
"""Laplace-Beltrami regularisation of Descoteaux et al., Magn Reson Med 58:497-510 (2007)."""


def n_coefficients(order: int) -> int:
    """Number of SH coefficients of an even ``order``: ``(order + 1)(order + 2) / 2``."""
    return (order + 1) * (order + 2) // 2


def sh_order(directions: np.ndarray, max_order: int = MAX_SH_ORDER) -> int:
    """Highest even SH order, at most ``max_order``, that the distinct axes among ``directions`` ``(N, 3)`` determine.

    Raises:
        SignalError: fewer than the 6 axes of order 2.
    """
    axes = unique_axes(directions, SAME_AXIS_DEGREES)
    if axes < n_coefficients(MIN_SH_ORDER):
        raise SignalError(f"found {axes} distinct gradient axes, expected at least {n_coefficients(MIN_SH_ORDER)}.")
    return max(order for order in range(MIN_SH_ORDER, max_order + 1, 2) if n_coefficients(order) <= axes)


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


def _same_axes(source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Index of the source axis for each target axis where both hold the same axes, one to one; else None."""
    if len(source) != len(target):
        return None
    angles = angles_between_axes(target, source)
    nearest = angles.argmin(axis=1)
    one_to_one = len(set(nearest.tolist())) == len(target)
    return nearest if one_to_one and angles.min(axis=1).max() <= SAME_AXIS_DEGREES else None


def sh_interpolation_matrix(
    source: np.ndarray,
    target: np.ndarray,
    max_order: int = MAX_SH_ORDER,
    smoothing: float = SMOOTHING,
    name: str = "scan",
) -> np.ndarray:
    """Matrix that takes signals on ``source`` directions to signals on ``target`` directions.

    Where both are the same axes (within 1 degree, in any order and sign) it is a permutation: nothing is interpolated.
    Else it is an SH fit, evaluated at the target: ``Y_target (Y_source^T Y_source + smoothing L^2)^-1 Y_source^T`` with
    ``L = l (l + 1)`` (Descoteaux et al., 2007). The order is the highest that the source axes determine; a lower one
    than ``max_order`` is logged with its reason.

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
    same = _same_axes(source, target)
    if same is not None:
        return np.eye(len(source))[same]
    order = sh_order(source, max_order)
    if order < max_order:
        logger.warning(
            "%s: SH order lowered from %d to %d: %d distinct gradient axes, order %d needs %d.",
            name,
            max_order,
            order,
            unique_axes(source, SAME_AXIS_DEGREES),
            order + 2,
            n_coefficients(order + 2),
        )
    return sh_basis(target, order) @ fit_matrix(source, order, smoothing)
