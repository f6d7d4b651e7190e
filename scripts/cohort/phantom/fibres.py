"""Fibres of a phantom subject: large bundles as centre lines in MNI space, and the populations that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.spatial import cKDTree

MAX_POPULATIONS = 3
"""Largest number of fibre populations in a voxel."""

MIN_FRACTION = 0.15
"""Smallest share of a voxel's white matter that counts as a population of its own."""

MIN_ANGLE = 30.0
"""Angle in degrees under which two bundles are one population: no 64-direction scan at b = 1000 tells them apart."""

STEP = 2.0
"""Distance in mm of the points along a centre line."""

NEIGHBOURS = 12
"""Number of the nearest points of a bundle that make its direction at a place."""

Line = Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Bundle:
    """A bundle of fibres on both sides of the brain.

    Attributes:
        radius: distance in mm from the centre lines where the density is down to ``exp(-1/2)``.
        commissural: centre lines in MNI mm, the right half from the midline on; the left half is their mirror image.
        lateral: centre lines in MNI mm of the right hemisphere; the left hemisphere has their mirror images.
    """

    radius: float
    commissural: tuple[Line, ...] = ()
    lateral: tuple[Line, ...] = ()


def _callosal_body(y: float, z: float) -> tuple[Line, Line]:
    """Two arcs from the midline at ``(0, y, z)``: up to the vertex, and sideways through the corona radiata."""
    medial = [(0, y, z), (10, y, z + 4), (18, 1.1 * y, z + 15), (18, 1.2 * y, z + 32), (14, 1.25 * y, z + 44)]
    side = [(0, y, z), (10, y, z + 4), (22, 1.1 * y, z + 11), (36, 1.2 * y, z + 16), (52, 1.25 * y, z + 18)]
    return medial, side


_PYRAMIDAL_TRACT = ((4, -42, -68), (5, -32, -52), (7, -22, -36), (12, -18, -20), (19, -16, -6), (23, -16, 6))
"""Medulla, pons, cerebral peduncle and posterior limb of the internal capsule."""

BUNDLES = {
    "corpus_callosum": Bundle(
        radius=7,
        commissural=(
            [(0, 22, -1), (8, 30, -6), (12, 42, -12)],
            [(0, 30, 6), (10, 36, 6), (18, 48, 8), (20, 62, 6)],
            [(0, 26, 12), (12, 34, 16), (22, 44, 26), (30, 48, 34)],
            *_callosal_body(16, 18),
            *_callosal_body(4, 24),
            *_callosal_body(-8, 26),
            *_callosal_body(-20, 24),
            *_callosal_body(-30, 21),
            [(0, -36, 18), (12, -41, 25), (20, -52, 38), (20, -64, 52)],
            [(0, -38, 14), (12, -44, 18), (22, -57, 22), (24, -74, 16), (16, -94, 8)],
            [(0, -37, 11), (15, -40, 17), (28, -46, 12), (36, -46, -4)],
        ),
    ),
    "projection": Bundle(
        radius=7,
        lateral=(
            # corticospinal tract: leg, hand, face
            [*_PYRAMIDAL_TRACT, (22, -20, 22), (18, -24, 42), (10, -28, 62), (8, -30, 74)],
            [*_PYRAMIDAL_TRACT, (25, -19, 22), (25, -21, 38), (30, -22, 52), (36, -22, 62)],
            [*_PYRAMIDAL_TRACT, (26, -11, 20), (32, -7, 34), (44, -4, 42), (54, -2, 46)],
            # medial lemniscus and its thalamic relay to the sensory cortex
            [(4, -44, -58), (5, -36, -38), (8, -26, -16), (15, -21, 4), (22, -25, 20), (24, -32, 40), (26, -38, 62)],
            # thalamic radiations: anterior, frontal, superior, parietal, optic
            [(12, -6, 4), (18, 8, 4), (20, 24, 8), (20, 42, 10), (16, 60, 8)],
            [(14, -5, 5), (20, 8, 11), (24, 18, 22), (28, 28, 34), (32, 34, 42)],
            [(16, -9, 4), (21, -2, 14), (23, 4, 28), (22, 9, 44), (18, 12, 60)],
            [(18, -24, 6), (26, -32, 18), (28, -46, 34), (26, -60, 52)],
            [(22, -24, -2), (34, -31, -2), (38, -46, 0), (34, -64, 2), (22, -86, 2)],
        ),
    ),
    "cingulum": Bundle(
        radius=4,
        lateral=(
            # dorsal and parahippocampal part
            [(7, 30, -10), (8, 42, 2), (9, 38, 20), (9, 24, 32), (9, 8, 38), (9, -12, 42), (9, -30, 40), (9, -44, 30)],
            [(9, -44, 30), (10, -50, 16), (16, -46, 2), (22, -36, -10), (25, -22, -18), (24, -8, -24)],
        ),
    ),
    "superior_longitudinal": Bundle(
        radius=6,
        lateral=(
            [(34, 34, 22), (36, 20, 28), (36, 4, 32), (36, -16, 33), (37, -36, 32), (38, -58, 30)],
            [(46, 14, 16), (38, 0, 26), (36, -20, 30), (37, -38, 26), (43, -46, 10), (50, -34, -4), (52, -16, -14)],
        ),
    ),
    "inferior_longitudinal": Bundle(
        radius=6,
        lateral=(
            # inferior fronto-occipital, inferior longitudinal and uncinate fasciculus
            [(22, 52, 0), (28, 28, -4), (32, 8, -8), (36, -12, -6), (38, -34, -4), (34, -60, -2), (24, -86, -2)],
            [(36, 6, -32), (40, -14, -22), (42, -36, -14), (36, -62, -6), (26, -86, -6)],
            [(18, 38, -12), (28, 16, -11), (34, 4, -18), (34, 4, -32)],
        ),
    ),
    "cerebellar": Bundle(
        radius=7,
        commissural=([(0, -22, -31), (10, -24, -34), (18, -36, -36), (25, -53, -38), (32, -66, -40)],),
        lateral=([(16, -58, -36), (9, -47, -29), (4, -33, -16)],),
    ),
}
"""Courses after Mori et al., "MRI Atlas of Human White Matter", Elsevier, 2005, drawn on the MNI152 template."""


def _resample(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """Points every ``STEP`` mm on the cubic spline through ``line``, and its unit tangents there, both ``(N, 3)``."""
    knots = np.array(line, dtype=np.float64)
    chord = np.concatenate([[0], np.linalg.norm(np.diff(knots, axis=0), axis=1).cumsum()])
    spline = make_interp_spline(chord, knots, k=min(3, len(knots) - 1))
    where = np.linspace(0, chord[-1], int(np.ceil(chord[-1] / STEP)) + 1)
    tangents = spline(where, nu=1)
    return spline(where), tangents / np.linalg.norm(tangents, axis=1, keepdims=True)


@lru_cache(maxsize=1)
def _centre_lines() -> list[tuple[float, cKDTree, np.ndarray]]:
    """Radius, tree of the points, and tangents at the points, of each bundle."""
    mirror = np.array([-1.0, 1.0, 1.0])
    prepared = []
    for bundle in BUNDLES.values():
        whole = [[*((-x, y, z) for x, y, z in reversed(line[1:])), *line] for line in bundle.commissural]
        sampled = [_resample(line) for line in [*whole, *bundle.lateral]]
        sampled += [(points * mirror, tangents * mirror) for points, tangents in map(_resample, bundle.lateral)]
        points, tangents = (np.concatenate(parts) for parts in zip(*sampled, strict=True))
        prepared.append((bundle.radius, cKDTree(points), tangents))
    return prepared


def _bundle_directions(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Direction ``(N, G, 3)`` and logarithm of the density ``(N, G)`` of the ``G`` bundles at template ``points``."""
    directions, densities = [], []
    for radius, tree, tangents in _centre_lines():
        distance, index = tree.query(points, k=NEIGHBOURS)
        weight = np.exp(0.5 * (distance[:, :1] ** 2 - distance**2) / radius**2)
        near = tangents[index]
        dyads = np.einsum("nk,nki,nkj->nij", weight, near, near, optimize=True)
        directions.append(np.linalg.eigh(dyads)[1][:, :, -1])
        densities.append(-0.5 * (distance[:, 0] / radius) ** 2)
    return np.stack(directions, axis=1), np.stack(densities, axis=1)


def fibre_populations(points: np.ndarray, jacobian: np.ndarray, strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fibre populations of white matter.

    Each bundle has a Gaussian density about its centre lines; the shares of the bundles in a place are their densities,
    scaled to the sum 1. So places that no bundle reaches follow the nearest one, and every place has a direction.

    Args:
        points: template positions in MNI mm, shape ``(N, 3)``.
        jacobian: derivative of the template position by the scanner position there, shape ``(N, 3, 3)``.
        strength: factor of each bundle's density, in the order of ``BUNDLES``, shape ``(G,)``.

    Returns:
        unit vectors in world RAS, shape ``(N, 3, 3)`` (point, population, component), and volume fractions within white
        matter, shape ``(N, 3)``, sum 1; the largest population first, zeros where there is none.
    """
    template_directions, density = _bundle_directions(points)
    directions = np.linalg.solve(jacobian, template_directions.transpose(0, 2, 1)).transpose(0, 2, 1)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    fractions = np.exp(density - density.max(axis=1, keepdims=True)) * strength

    directions, fractions = _merge_parallel(*_largest_first(directions, fractions))
    directions, fractions = (part[:, :MAX_POPULATIONS] for part in _largest_first(directions, fractions))
    fractions = fractions / fractions.sum(axis=1, keepdims=True)
    fractions = np.where(fractions < MIN_FRACTION, 0, fractions)
    fractions /= fractions.sum(axis=1, keepdims=True)
    return np.where(fractions[..., None] > 0, directions, 0), fractions


def _merge_parallel(directions: np.ndarray, fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add populations to larger ones within ``MIN_ANGLE``, at their mean direction, until all are further apart."""
    merged = True
    while merged:
        merged = False
        for first, second in combinations(range(fractions.shape[1]), 2):
            cosine = np.sum(directions[:, first] * directions[:, second], axis=-1)
            same = np.abs(cosine) > np.cos(np.radians(MIN_ANGLE))
            at = np.flatnonzero(same & (fractions[:, first] > 0) & (fractions[:, second] > 0))
            share = fractions[at, second]
            joint = fractions[at, first, None] * directions[at, first]
            joint += (share * np.sign(cosine[at]))[:, None] * directions[at, second]
            directions[at, first] = joint / np.linalg.norm(joint, axis=-1, keepdims=True)
            fractions[at, first] += share
            fractions[at, second] = 0
            merged = merged or len(at) > 0
    return directions, fractions


def _largest_first(directions: np.ndarray, fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-fractions, axis=1, kind="stable")
    return np.take_along_axis(directions, order[..., None], axis=1), np.take_along_axis(fractions, order, axis=1)
