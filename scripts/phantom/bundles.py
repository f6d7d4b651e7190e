"""Fibre bundles of a phantom: funnels around centre lines in MNI space, in the atlas and in each subject.

The atlas states the course of each bundle in an average brain. A subject has the same bundles, each one shifted, bent,
and of another radius and density.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator, make_interp_spline
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

ATLAS = Path(__file__).parent / "bundles.json"
"""Centre lines, radii and fanning of the bundles. A bundle's radius at an end is ``fanning`` times that in the middle.
The lines of a ``midline`` bundle start at the midline and continue, mirrored, on the other side."""

STEP = 2.0
"""Distance in mm between the points along a centre line."""

WAIST = (0.3, 0.7)
"""Range of a centre line, in shares of its length, where a bundle has its own radius. Beyond it the bundle fans out."""

NEIGHBOURS = 8
"""Number of the nearest points of a bundle that set its direction at a place."""

REACH = 3.0
"""Distance from a centre line, in radii, where a bundle ends."""

LATTICE = 0.7
"""Distance between the nodes that tabulate a bundle's field, in multiples of the bundle's smallest radius."""

SHIFT = 0.25
"""Standard deviation of a bundle's shift between subjects along each axis, in radii: thin bundles shift less."""

BEND = 0.25
"""Standard deviation of the bend of a bundle between subjects along each axis, in radii."""

BEND_WAVELENGTHS = (80.0, 160.0)
"""Range in mm of the wavelengths of that bend. Waves of this length change a bundle's course without a wiggle."""

N_BEND_WAVES = 4
"""Number of plane waves in the bend."""

RADIUS_VARIATION = 0.15
"""Largest relative deviation of a bundle's radius from the atlas."""

STRENGTH_VARIATION = 0.2
"""Largest relative deviation of a bundle's density from the atlas."""


@dataclass(frozen=True, eq=False)
class BundleSpec:
    """A bundle of the atlas.

    Attributes:
        name: name of the bundle, with its side.
        radius: distance in mm from the centre lines where the density falls to ``exp(-1/2)``.
        fanning: factors by which the radius grows towards the first and the last end of a line.
        lines: points in MNI mm on the centre lines, each ``(K, 3)``. All lines run in the same sense.
    """

    name: str
    radius: float
    fanning: tuple[float, float]
    lines: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle of a subject: a funnel around centre lines in template space.

    Attributes:
        name: name of the bundle, with its side.
        points: points ``STEP`` mm apart on the centre lines, in MNI mm, shape ``(P, 3)``.
        tangents: unit tangents at those points, shape ``(P, 3)``.
        radii: distances in mm from those points where the density falls to ``exp(-1/2)``, shape ``(P,)``.
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

        The depth is the exponent of the Gaussian density; it is large beyond the bundle's reach. The lattice holds the
        depth because it is nearly quadratic in space; the density would need a finer lattice. The core is a vector
        along the fibres. Its length is the density on the centre line nearby, relative to the narrowest section.
        """
        step = LATTICE * float(self.radii.min())
        # interpolation needs all corners of a cell that the bundle touches
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

        A fibre of a funnel keeps its distance from the centre line in radii. The flare times that offset therefore
        tilts the fibre. A wider cross-section holds the same number of fibres, so the fibres there are less dense.
        """
        distance, index = tree.query(places, k=min(NEIGHBOURS, len(self.points)))
        tangents = self.tangents[index]
        offset = places[:, None] - self.points[index]
        offset -= np.sum(offset * tangents, axis=-1, keepdims=True) * tangents
        fibres = unit_vectors(tangents + self.flare[index][..., None] * offset)
        radius = self.radii[index[:, :1]]
        weight = np.exp(0.5 * (distance[:, :1] ** 2 - distance**2) / radius**2)
        core = (self.radii.min() / radius) ** 2 * unit_vectors(np.einsum("nk,nki->ni", weight, fibres))
        return np.column_stack([0.5 * (distance[:, :1] / radius) ** 2, core]).T

    def sample(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Density and direction of the bundle at the points in its reach.

        Args:
            points: template positions in MNI mm, shape ``(3, N)``.

        Returns:
            indices of the ``M`` points in the bundle's reach, densities there ``(M,)``, and unit vectors along the
            fibres ``(M, 3)``, which point the way the centre lines run.
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
        # the subtracted constant makes the density 0 at the end of the reach
        density = self.strength * np.linalg.norm(core, axis=1) * (np.exp(-depth) - np.exp(-0.5 * REACH**2))
        return at[near], density, unit_vectors(core)


@lru_cache(maxsize=1)
def atlas() -> tuple[BundleSpec, ...]:
    """Bundles of the file ``ATLAS``. A bundle of both sides becomes one bundle on the left and one on the right."""
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
    """Bundles of the atlas without a subject's deviations."""
    return [_bundle(spec, spec.lines, spec.radius, 1.0) for spec in atlas()]


def sample_bundles(generator: np.random.Generator) -> list[Bundle]:
    """Draw a subject's bundles. Position, bend, radius and density of each bundle deviate from the atlas.

    Args:
        generator: source of the random numbers.

    Returns:
        bundles in the order of ``atlas()``.
    """
    bundles = []
    for spec in atlas():
        shift = SHIFT * spec.radius * generator.standard_normal(3)
        axes = unit_vectors(generator.standard_normal((N_BEND_WAVES, 3)))
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
    """Make a bundle of points along cubic splines through ``lines``."""
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
        parts.append(
            (spline(at), unit_vectors(spline(at, nu=1)), radius * np.exp(log_radius(where)), log_radius(where, nu=1))
        )
    points, tangents, radii, flare = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Bundle(spec.name, points, tangents, radii, flare, strength)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors ``(..., 3)`` to length 1. Vectors of length 0 stay as they are."""
    length = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))[..., None]
    return np.asarray(vectors / np.where(length > 0, length, 1))
