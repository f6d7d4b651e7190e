"""Directions and signals on the sphere with known properties."""

import numpy as np
from scipy.spatial.transform import Rotation


def random_axes(n, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def band_limited(directions, degree, n_signals=5):
    """Even homogeneous polynomials: on the sphere they span the SH up to ``degree``, with no basis chosen."""
    poles = random_axes(60, seed=degree)
    weights = np.random.default_rng(degree + 1).standard_normal((60, n_signals))
    return (directions @ poles.T) ** degree @ weights


def fibre_signal(directions, fibre, b=1000.0):
    """Attenuation of one axially symmetric tensor, diffusivities 1.7 and 0.3 um2/ms."""
    return np.exp(-b * (0.3e-3 + 1.4e-3 * (directions @ fibre) ** 2))


def tilt(directions, degrees):
    """Turn each direction by the same angle about some axis across it."""
    across = np.cross(directions, random_axes(len(directions), seed=9))
    across *= np.radians(degrees) / np.linalg.norm(across, axis=1, keepdims=True)
    return Rotation.from_rotvec(across).apply(directions)
