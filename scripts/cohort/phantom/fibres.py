"""Fibres of a phantom subject: bundles of its own as centre lines in MNI space, and the populations that they make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator, make_interp_spline
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

MAX_POPULATIONS = 3
"""Largest number of fibre populations in a voxel."""

MIN_FRACTION = 0.15
"""Smallest share of a voxel's white matter that counts as a population of its own."""

MIN_ANGLE = 30.0
"""Angle in degrees under which two bundles are one population: no 64-direction scan at b = 1000 tells them apart."""

ATLAS = Path(__file__).parent / "bundles.json"
"""Centre lines, radii and fanning of the bundles. Where a bundle ends, its radius is ``fanning`` times that in its
middle; lines of a ``midline`` bundle begin at the midline and go on, mirrored, on the other side."""

STEP = 2.0
"""Distance in mm of the points along a centre line."""

WAIST = (0.3, 0.7)
"""Part of a centre line, in shares of its length, where a bundle has its own radius; from there it fans out."""

NEIGHBOURS = 8
"""Number of the nearest points of a bundle that make its direction at a place."""

REACH = 3.0
"""Distance from a centre line, in radii, where a bundle ends."""

LATTICE = 0.7
"""Distance of the nodes on which a bundle's field is tabulated, in radii where it is narrowest."""

SHIFT = 0.25
"""Standard deviation of a bundle's shift between subjects along each axis, in radii: thin bundles stray less."""

BEND = 0.25
"""Standard deviation of the bend of a bundle between subjects along each axis, in radii."""

BEND_WAVELENGTHS = (80.0, 160.0)
"""Range in mm of the wavelengths of that bend: a bundle curves otherwise, but does not wiggle."""

N_BEND_WAVES = 4
"""Number of plane waves that make the bend."""

RADIUS_VARIATION = 0.15
"""Largest relative deviation of a bundle's radius from the atlas."""

STRENGTH_VARIATION = 0.2
"""Largest relative deviation of a bundle's density from the atlas."""

CANDIDATES = 5
"""Number of the densest bundles of a place that are looked at."""

BACKGROUND = 0.03
"""Density of the fibres of no bundle, relative to the centre of a bundle."""

BACKGROUND_LATTICE = 4.0
"""Distance in mm of the nodes on which the direction of those fibres is tabulated."""

BACKGROUND_NEIGHBOURS = 32
"""Number of the nearest points of all centre lines that make that direction."""

REGROUPINGS = 2
"""Number of times that the axes of a voxel go over to the nearest mean."""

CLUSTERS = 6
"""Number of directions of a voxel that are told apart before the largest ``MAX_POPULATIONS`` are chosen."""


@dataclass(frozen=True, eq=False)
class BundleSpec:
    """A bundle of the atlas.

    Attributes:
        name: of the bundle, with its side.
        radius: distance in mm from the centre lines where the density is down to ``exp(-1/2)``.
        fanning: factors by which the radius grows to the first and to the last end of a line.
        lines: points in MNI mm that the centre lines pass, each ``(K, 3)``; all run in one sense.
    """

    name: str
    radius: float
    fanning: tuple[float, float]
    lines: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle of a subject: a funnel around centre lines in template space.

    Attributes:
        name: of the bundle, with its side.
        points: points ``STEP`` mm apart on the centre lines, in MNI mm, shape ``(P, 3)``.
        tangents: unit tangents there, shape ``(P, 3)``.
        radii: distances in mm from those points where the density is down to ``exp(-1/2)``, shape ``(P,)``.
        flare: derivative of the logarithm of the radius by the arc length, in 1/mm, shape ``(P,)``.
        strength: density on the centre line where the bundle is narrowest.
    """

    name: str
    points: np.ndarray
    tangents: np.ndarray
    radii: np.ndarray
    flare: np.ndarray
    strength: float

    @cached_property
    def _field(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Depth and core on a lattice ``(4, X, Y, Z)``, index of its first node ``(3,)``, and its step in mm.

        The depth is the exponent of the Gaussian, large beyond the bundle's reach: it is nearly quadratic in space,
        where the density itself would need a finer lattice. The core is a vector along the fibres, as long as the
        density on the centre line nearby, relative to where the bundle is narrowest.
        """
        step = LATTICE * float(self.radii.min())
        # a cell that the bundle touches needs all its corners
        bound = REACH * self.radii.max() + np.sqrt(3) * step
        first, last = (np.round(edge / step) for edge in (self.points.min(0) - bound, self.points.max(0) + bound))
        shape = tuple((last - first).astype(int) + 1)
        nodes = step * (np.indices(shape).reshape(3, -1).T + first)
        tree = cKDTree(self.points)
        near = np.flatnonzero(np.isfinite(tree.query(nodes, distance_upper_bound=bound)[0]))
        field = np.zeros((4, len(nodes)), dtype=np.float32)
        field[0] = 2 * REACH**2
        field[:, near] = self._at(tree, nodes[near])
        return field.reshape(4, *shape), first, step

    def _at(self, tree: cKDTree, places: np.ndarray) -> np.ndarray:
        """Depth and core at ``places`` ``(N, 3)``, shape ``(4, N)``.

        Fibres of a funnel keep their place relative to its radius, so an offset from the centre line tilts them by the
        flare; the same number of fibres in a wider cross-section is less dense.
        """
        distance, index = tree.query(places, k=min(NEIGHBOURS, len(self.points)))
        tangents = self.tangents[index]
        offset = places[:, None] - self.points[index]
        offset -= np.sum(offset * tangents, axis=-1, keepdims=True) * tangents
        fibres = _unit(tangents + self.flare[index][..., None] * offset)
        radius = self.radii[index[:, :1]]
        weight = np.exp(0.5 * (distance[:, :1] ** 2 - distance**2) / radius**2)
        core = (self.radii.min() / radius) ** 2 * _unit(np.einsum("nk,nki->ni", weight, fibres))
        return np.column_stack([0.5 * (distance[:, :1] / radius) ** 2, core]).T

    def sample(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Density and direction where the bundle runs.

        Args:
            points: template positions in MNI mm, shape ``(3, N)``.

        Returns:
            indices of the ``M`` points in the bundle's reach, densities there ``(M,)``, and unit vectors along the
            fibres ``(M, 3)``, in the sense of the centre lines.
        """
        field, first, step = self._field
        low, high = step * first, step * (first + np.array(field.shape[1:]) - 1)
        inside = np.ones(points.shape[1], dtype=bool)
        for axis in range(3):
            inside &= (points[axis] > low[axis]) & (points[axis] < high[axis])
        at = np.flatnonzero(inside)
        nodes = points[:, at] / step - first[:, None]
        depth = map_coordinates(field[0], nodes, np.float32, order=1)
        near = depth < 0.5 * REACH**2
        nodes, depth = nodes[:, near], depth[near]
        core = np.stack([map_coordinates(part, nodes, np.float32, order=1) for part in field[1:]], axis=-1)
        # without a step at the end of its reach
        density = self.strength * np.linalg.norm(core, axis=1) * (np.exp(-depth) - np.exp(-0.5 * REACH**2))
        return at[near], density, _unit(core)


@lru_cache(maxsize=1)
def atlas() -> tuple[BundleSpec, ...]:
    """Bundles of the atlas in the file ``ATLAS``, those of the left and of the right side each its own."""
    mirror = np.array([-1.0, 1.0, 1.0])
    specs = []
    for entry in json.loads(ATLAS.read_text(encoding="utf-8"))["bundles"]:
        lines = [np.array(line, dtype=np.float64) for line in entry["lines"]]
        if entry["sides"] == "midline":
            sides = {"": [np.concatenate([line[:0:-1] * mirror, line]) for line in lines]}
        else:
            sides = {"_left": [line * mirror for line in lines], "_right": lines}
        for side, of_side in sides.items():
            fanning = (entry["fanning"][0], entry["fanning"][1])
            specs.append(BundleSpec(entry["name"] + side, entry["radius"], fanning, tuple(of_side)))
    return tuple(specs)


def atlas_bundles() -> list[Bundle]:
    """Bundles as they are in the atlas, without a subject's deviations."""
    return [_bundle(spec, spec.lines, spec.radius, 1.0) for spec in atlas()]


def sample_bundles(generator: np.random.Generator) -> list[Bundle]:
    """Draw a subject's bundles: each one shifted, bent, thicker or thinner, and more or less dense than in the atlas.

    Args:
        generator: source of the random numbers.

    Returns:
        bundles in the order of ``atlas()``.
    """
    bundles = []
    for spec in atlas():
        shift = SHIFT * spec.radius * generator.standard_normal(3)
        axes = _unit(generator.standard_normal((N_BEND_WAVES, 3)))
        waves = 2 * np.pi * axes / generator.uniform(*BEND_WAVELENGTHS, (N_BEND_WAVES, 1))
        phases = generator.uniform(0, 2 * np.pi, N_BEND_WAVES)
        # the mean square of a sine is 1/2
        amplitudes = BEND * spec.radius * np.sqrt(2 / N_BEND_WAVES) * generator.standard_normal((N_BEND_WAVES, 3))
        lines = [line + shift + np.sin(line @ waves.T + phases) @ amplitudes for line in spec.lines]
        radius = spec.radius * generator.uniform(1 - RADIUS_VARIATION, 1 + RADIUS_VARIATION)
        strength = generator.uniform(1 - STRENGTH_VARIATION, 1 + STRENGTH_VARIATION)
        bundles.append(_bundle(spec, lines, radius, strength))
    return bundles


def _bundle(spec: BundleSpec, lines: Sequence[np.ndarray], radius: float, strength: float) -> Bundle:
    """Sample a bundle along cubic splines through the points of ``lines``."""
    parts = []
    for line in lines:
        chord = np.concatenate([[0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])
        spline = make_interp_spline(chord, line, k=min(3, len(line) - 1))
        parameter = np.linspace(0, chord[-1], 500)
        arc = np.concatenate([[0], np.linalg.norm(np.diff(spline(parameter), axis=0), axis=1).cumsum()])
        where = np.linspace(0, arc[-1], int(np.ceil(arc[-1] / STEP)) + 1)
        at = np.interp(where, arc, parameter)
        knots = arc[-1] * np.array([0, *WAIST, 1])
        log_radius = PchipInterpolator(knots, np.log([spec.fanning[0], 1, 1, spec.fanning[1]]))
        parts.append((spline(at), _unit(spline(at, nu=1)), radius * np.exp(log_radius(where)), log_radius(where, nu=1)))
    points, tangents, radii, flare = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Bundle(spec.name, points, tangents, radii, flare, strength)


def fibre_populations(
    points: np.ndarray, jacobian: np.ndarray, bundles: Sequence[Bundle]
) -> tuple[np.ndarray, np.ndarray]:
    """Fibre populations of white matter.

    Each bundle has a Gaussian density about its centre lines; the shares of the bundles in a place are their densities,
    scaled to the sum 1. Where they are weak, fibres of a small constant density run as the bundles around do in the
    mean, so every place has a direction.

    Args:
        points: template positions in MNI mm, shape ``(N, 3)``.
        jacobian: derivative of the template position by the scanner position there, shape ``(N, 3, 3)``.
        bundles: of the subject.

    Returns:
        unit vectors in world RAS, float32, shape ``(N, 3, 3)`` (point, population, component), and volume fractions
        within white matter, float32, shape ``(N, 3)``, sum 1; the largest population first, zeros where there is none.
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

    # elsewhere those fibres could not be a population of their own
    weak = np.flatnonzero(density.sum(axis=1) < BACKGROUND * (1 / MIN_FRACTION - 1))
    density[weak, CANDIDATES] = BACKGROUND
    directions[weak, CANDIDATES] = _background_directions(points[weak], bundles)

    carried = np.linalg.solve(jacobian.astype(np.float32), directions.transpose(0, 2, 1)).transpose(0, 2, 1)
    return merge_populations(_unit(carried), density)


def _background_directions(points: np.ndarray, bundles: Sequence[Bundle]) -> np.ndarray:
    """Principal direction ``(N, 3)`` of the centre lines around ``points`` ``(N, 3)``, by their distance."""
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
    """Join weighted axes into the few populations of a voxel.

    The heaviest axis takes those within ``MIN_ANGLE`` of it, then the heaviest that is left, and so on; groups whose
    means are within ``MIN_ANGLE`` are joined. The ``MAX_POPULATIONS`` largest remain, without those of a share below
    ``MIN_FRACTION``.

    Args:
        directions: unit vectors of either sign, shape ``(N, K, 3)``; anything where the weight is 0.
        weights: not negative, shape ``(N, K)``.

    Returns:
        unit vectors, float32, shape ``(N, 3, 3)`` (voxel, population, component), each the mean of its axes at one
        sign, and fractions, float32, shape ``(N, 3)``, sum 1; the largest population first, zeros where there is none.
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
        means[rows, cluster] = _unit(np.einsum("nk,nki->ni", share * np.sign(cosine), axes))
        sums[rows, cluster] = share.sum(axis=1)
        left[member] = 0

    several = np.flatnonzero((sums > 0).sum(axis=1) > 1)
    means[several], sums[several] = _regroup(means[several], directions[several], weights[several])
    _join_close(means, sums)
    order = np.argsort(-sums, axis=1, kind="stable")[:, :MAX_POPULATIONS]
    means, sums = np.take_along_axis(means, order[..., None], axis=1), np.take_along_axis(sums, order, axis=1)
    sums[sums < MIN_FRACTION * sums.sum(axis=1, keepdims=True)] = 0
    total = sums.sum(axis=1, keepdims=True)
    return np.where(sums[..., None] > 0, means, 0), sums / np.where(total > 0, total, 1)


def _regroup(means: np.ndarray, directions: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means ``(N, C, 3)`` and weights ``(N, C)`` of the groups when each axis goes to the nearest mean.

    A leader at the edge of its group takes axes of others.
    """
    axes = np.asarray(directions, dtype=np.float32)
    for _ in range(REGROUPINGS):
        cosine = axes @ means.transpose(0, 2, 1)
        nearest = np.abs(cosine).argmax(axis=-1)[..., None] == np.arange(means.shape[1])
        share = np.where(nearest, weights[..., None], 0).astype(np.float32)
        means = _unit((share * np.sign(cosine)).transpose(0, 2, 1) @ axes)
    return means, share.sum(axis=1)


def _join_close(directions: np.ndarray, weights: np.ndarray) -> None:
    """Add populations to others within ``MIN_ANGLE``, at their mean, in place, until all are further apart."""
    rows = np.arange(len(weights))
    while len(rows):
        joined = []
        for first, second in combinations(range(weights.shape[1]), 2):
            both = rows[(weights[rows, first] > 0) & (weights[rows, second] > 0)]
            cosine = np.sum(directions[both, first] * directions[both, second], axis=-1)
            close = np.abs(cosine) > np.cos(np.radians(MIN_ANGLE))
            at, share = both[close], weights[both[close], second] * np.sign(cosine[close])
            mean = weights[at, first, None] * directions[at, first] + share[:, None] * directions[at, second]
            directions[at, first] = _unit(mean)
            weights[at, first] += weights[at, second]
            weights[at, second] = 0
            joined.append(at)
        rows = np.unique(np.concatenate(joined))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors ``(..., 3)`` at length 1; those of length 0 stay."""
    length = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))[..., None]
    return np.asarray(vectors / np.where(length > 0, length, 1))
