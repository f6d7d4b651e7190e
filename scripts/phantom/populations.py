"""Fibre populations of a phantom: the few directions of a place or a voxel, and the fraction of each.

A population is a compartment of fibres with one direction and one fraction. The number of populations in a voxel is its
NuFO (number of fibre orientations).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.spatial import cKDTree

from scripts.phantom.bundles import STEP, Bundle, unit_vectors
from transforms.label_classes import MAX_NUFO

MIN_FRACTION = 0.15
"""Smallest fraction of a voxel's white matter that forms a population of its own."""

MIN_ANGLE = 30.0
"""Angle in degrees below which two bundles form one population. A scan of 64 directions at b = 1000 cannot separate
them."""

CANDIDATES = 5
"""Number of the densest bundles at a place that form its populations."""

BACKGROUND = 0.03
"""Density of the background fibres, which belong to no bundle, relative to the density in the centre of a bundle."""

BACKGROUND_LATTICE = 4.0
"""Distance in mm between the nodes that tabulate the direction of the background fibres."""

BACKGROUND_NEIGHBOURS = 32
"""Number of the nearest points of all centre lines that set this direction."""

REGROUPINGS = 2
"""Number of times that each axis of a voxel moves to the group with the nearest mean."""

CLUSTERS = 6
"""Number of groups of axes in a voxel before the ``MAX_NUFO`` largest are chosen."""


def fibre_populations(
    points: np.ndarray, jacobian: np.ndarray, bundles: Sequence[Bundle]
) -> tuple[np.ndarray, np.ndarray]:
    """Fibre populations of white matter.

    Each bundle has a Gaussian density about its centre lines. The fractions of the bundles at a place are their
    densities, scaled to the sum 1. Where all bundles are weak, background fibres of a small constant density follow the
    mean direction of the bundles around. So every place has a direction.

    Args:
        points: template positions in MNI mm, shape ``(N, 3)``.
        jacobian: derivative of the template position by the scanner position at those points, shape ``(N, 3, 3)``.
        bundles: bundles of the subject.

    Returns:
        unit vectors in world RAS, float32, shape ``(N, 3, 3)`` (point, population, component), and volume fractions
        within white matter, float32, shape ``(N, 3)``, sum 1. The largest population is first; zeros stand for no
        population.
    """
    columns = np.ascontiguousarray(points.T, dtype=np.float32)
    directions = np.zeros((len(points), CANDIDATES + 1, 3), dtype=np.float32)
    density = np.zeros((len(points), CANDIDATES + 1), dtype=np.float32)
    for bundle in bundles:
        at, new, along = bundle.sample(columns)
        place = density[at, :CANDIDATES].argmin(axis=1)
        denser = new > density[at, place]
        at, place = at[denser], place[denser]
        density[at, place], directions[at, place] = new[denser], along[denser]

    # among denser bundles, the fraction of the background fibres would be below MIN_FRACTION
    weak = np.flatnonzero(density.sum(axis=1) < BACKGROUND * (1 / MIN_FRACTION - 1))
    density[weak, CANDIDATES] = BACKGROUND
    directions[weak, CANDIDATES] = _background_directions(points[weak], bundles)

    carried = np.linalg.solve(jacobian.astype(np.float32), directions.transpose(0, 2, 1)).transpose(0, 2, 1)
    return merge_populations(unit_vectors(carried), density)


def _background_directions(points: np.ndarray, bundles: Sequence[Bundle]) -> np.ndarray:
    """Principal direction ``(N, 3)`` of the centre lines around ``points`` ``(N, 3)``; near lines weigh more."""
    cells = np.floor(points / BACKGROUND_LATTICE).astype(np.int64)
    lowest = cells.min(axis=0, initial=0)
    shape = tuple(cells.max(axis=0, initial=0) - lowest + 2)
    corners = np.array(list(np.ndindex(2, 2, 2)))
    flat = np.ravel_multi_index(tuple(np.moveaxis(cells[:, None] + corners - lowest, -1, 0)), shape)
    used = np.zeros(np.prod(shape), dtype=bool)
    used[flat] = True
    row = np.cumsum(used) - 1

    nodes = BACKGROUND_LATTICE * (np.stack(np.unravel_index(np.flatnonzero(used), shape), axis=-1) + lowest)
    tree = cKDTree(np.concatenate([bundle.points for bundle in bundles]))
    distance, index = tree.query(nodes, k=min(BACKGROUND_NEIGHBOURS, tree.n))
    weight = 1 / (distance**2 + STEP**2) ** 2
    weight /= weight.sum(axis=1, keepdims=True)
    near = np.concatenate([bundle.tangents for bundle in bundles])[index]
    dyads = np.einsum("nk,nki,nkj->nij", weight, near, near, optimize=True).astype(np.float32)

    place = points / BACKGROUND_LATTICE - cells
    share = np.prod(np.where(corners, place[:, None], 1 - place[:, None]), axis=-1, dtype=np.float32)
    mean = sum(share[:, c, None, None] * dyads[row[flat[:, c]]] for c in range(len(corners)))
    return np.linalg.eigh(mean)[1][:, :, -1]


def merge_populations(directions: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge weighted axes into the few populations of a voxel.

    The heaviest axis forms a group with the axes within ``MIN_ANGLE`` of it; then the heaviest axis that is left forms
    the next group, and so on. Each axis then moves to the group with the nearest mean. Groups whose means lie within
    ``MIN_ANGLE`` become one. The ``MAX_NUFO`` largest groups remain, except those with a fraction below
    ``MIN_FRACTION``.

    Args:
        directions: unit vectors of either sign, shape ``(N, K, 3)``. Vectors of weight 0 may hold anything.
        weights: weights of the axes, at least 0, shape ``(N, K)``.

    Returns:
        unit vectors, float32, shape ``(N, 3, 3)`` (voxel, population, component), and fractions, float32, shape
        ``(N, 3)``, sum 1. Each vector is the mean of its group's axes, brought to one sign. The largest population is
        first; zeros stand for no population.
    """
    means = np.zeros((len(weights), CLUSTERS, 3), dtype=np.float32)
    sums = np.zeros((len(weights), CLUSTERS), dtype=np.float32)
    rows = np.arange(len(weights))
    axes, left = np.asarray(directions, dtype=np.float32), np.array(weights, dtype=np.float32)
    for cluster in range(CLUSTERS):
        open_rows = left.max(axis=1, initial=0) > 0
        if not open_rows.all():
            rows, axes, left = rows[open_rows], axes[open_rows], left[open_rows]
        leader = left.argmax(axis=1)[:, None]
        cosine = np.einsum("nki,ni->nk", axes, np.take_along_axis(axes, leader[..., None], axis=1)[:, 0])
        member = np.abs(cosine) > np.cos(np.radians(MIN_ANGLE))
        np.put_along_axis(member, leader, True, axis=1)
        share = np.where(member, left, 0)
        means[rows, cluster] = unit_vectors(np.einsum("nk,nki->ni", share * np.sign(cosine), axes))
        sums[rows, cluster] = share.sum(axis=1)
        left[member] = 0

    several = np.flatnonzero((sums > 0).sum(axis=1) > 1)
    means[several], sums[several] = _regroup(means[several], directions[several], weights[several])
    _join_close(means, sums)
    order = np.argsort(-sums, axis=1, kind="stable")[:, :MAX_NUFO]
    means, sums = np.take_along_axis(means, order[..., None], axis=1), np.take_along_axis(sums, order, axis=1)
    sums[sums < MIN_FRACTION * sums.sum(axis=1, keepdims=True)] = 0
    total = sums.sum(axis=1, keepdims=True)
    return np.where(sums[..., None] > 0, means, 0), sums / np.where(total > 0, total, 1)


def _regroup(means: np.ndarray, directions: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means ``(N, C, 3)`` and weights ``(N, C)`` of the groups after each axis moves to the nearest mean.

    The axis that starts a group may lie at the group's edge, and so attract axes that belong to other groups.
    """
    axes = np.asarray(directions, dtype=np.float32)
    for _ in range(REGROUPINGS):
        cosine = axes @ means.transpose(0, 2, 1)
        nearest = np.abs(cosine).argmax(axis=-1)[..., None] == np.arange(means.shape[1])
        share = np.where(nearest, weights[..., None], 0).astype(np.float32)
        means = unit_vectors((share * np.sign(cosine)).transpose(0, 2, 1) @ axes)
    return means, share.sum(axis=1)


def _join_close(directions: np.ndarray, weights: np.ndarray) -> None:
    """Join populations within ``MIN_ANGLE`` at their mean, in place, until all are further apart."""
    rows = np.arange(len(weights))
    while len(rows):
        joined = []
        for first, second in combinations(range(weights.shape[1]), 2):
            both = rows[(weights[rows, first] > 0) & (weights[rows, second] > 0)]
            cosine = np.sum(directions[both, first] * directions[both, second], axis=-1)
            close = np.abs(cosine) > np.cos(np.radians(MIN_ANGLE))
            at, share = both[close], weights[both[close], second] * np.sign(cosine[close])
            mean = weights[at, first, None] * directions[at, first] + share[:, None] * directions[at, second]
            directions[at, first] = unit_vectors(mean)
            weights[at, first] += weights[at, second]
            weights[at, second] = 0
            joined.append(at)
        rows = np.unique(np.concatenate(joined))
