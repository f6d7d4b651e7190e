"""Receive field of a coil: a smooth factor of the signal, the exponential of a polynomial of degree 2."""

from __future__ import annotations

import numpy as np
from scipy import optimize

BIAS_TERMS = ("1", "i", "j", "k", "ij", "ik", "jk", "ii", "jj", "kk")
"""Terms of the logarithm of the receive field. The voxel indices i, j, k are scaled to run from -1 to 1."""


def sample_receive_field(generator: np.random.Generator, brain: np.ndarray, strength: float) -> np.ndarray:
    """Draw a receive field. Its mean in the brain is exactly 1, and its largest absolute logarithm is ``strength``.

    Args:
        generator: source of the coefficients.
        brain: mask, shape ``(X, Y, Z)``.
        strength: largest absolute logarithm of the field in the brain, at least 0.

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

    # The largest logarithm is at least half the range. Both ends of the range move away from 0 as the scale grows.
    scale = float(optimize.brentq(excess, 0.0, 2.01 * strength / spread))
    coefficients *= scale
    coefficients[0] = constant(scale)
    return coefficients


def receive_field(coefficients: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Receive field of a coil at each voxel.

    Args:
        coefficients: coefficients of the logarithm, in the order of ``BIAS_TERMS``, shape ``(10,)``.
        shape: shape of a volume, ``(X, Y, Z)``.

    Returns:
        float32, shape ``(X, Y, Z)``.
    """
    return np.exp(_polynomial(coefficients, shape)).astype(np.float32)


def _polynomial(coefficients: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Logarithm of the receive field, shape ``shape``."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    terms = (np.ones((1, 1, 1)), i, j, k, i * j, i * k, j * k, i**2, j**2, k**2)
    total = np.zeros(shape)
    for coefficient, term in zip(coefficients, terms, strict=True):
        total += coefficient * term
    return total
