"""Alignment of a T1-weighted image and a diffusion scan: its measures, and their limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor

from transforms.resampling import ResampleToGrid

MIN_COVERED = 0.9
"""Smallest fraction of the diffusion scan's brain mask in which an aligned T1 shows a head."""

MIN_DEPENDENCE = 0.12
"""Smallest correlation ratio of an aligned T1: the fraction of the mean attenuation's variance that it explains in the
brain.

Aligned scans have 0.25 and more. Scans 10 mm or 30 degrees off have less than 0.1; a phantom of life size has 0.18 at
10 mm.
"""

MAX_SCALING = 1.25
"""Largest factor by which an affine registration may stretch or shrink along any direction: a head keeps its size."""

MAX_DEGREES = 45.0
"""Largest rotation by a registration: a head turns less between two scans of one session."""


@dataclass(frozen=True)
class Alignment:
    """How a T1 was brought to a diffusion scan, and measures of how well.

    Attributes:
        matrix: affine from world of the diffusion scan to world of the T1, ``(4, 4)``.
        shift: distance in mm by which the centre of the brain moved.
        turn: rotation in degrees.
        scaling: largest factor (or its inverse) by which a length changed.
        covered: fraction of the brain mask in which the T1 shows a head.
        dependence: correlation ratio of the mean attenuation given the T1 within the brain, 0 to 1.
    """

    matrix: np.ndarray
    shift: float
    turn: float
    scaling: float
    covered: float
    dependence: float

    @property
    def problem(self) -> str | None:
        """What is wrong with the alignment, or None."""
        checks = (
            (self.covered < MIN_COVERED, f"the T1 covers {self.covered:.0%} of the brain", f"{MIN_COVERED:.0%}"),
            (
                self.dependence < MIN_DEPENDENCE,
                f"the T1 explains {self.dependence:.0%} of the attenuation's variance",
                f"{MIN_DEPENDENCE:.0%}",
            ),
        )
        for failed, found, least in checks:
            if failed:
                return f"{found}, expected at least {least}"
        if self.scaling > MAX_SCALING:
            return f"a length changed by a factor of {self.scaling:.2f}, expected at most {MAX_SCALING:g}"
        if self.turn > MAX_DEGREES:
            return f"the head turned by {self.turn:.0f} degrees, expected at most {MAX_DEGREES:g}"
        return None


def check_alignment(t1: MetaTensor, attenuation: MetaTensor, mask: MetaTensor, matrix: np.ndarray) -> Alignment:
    """Measure how well ``matrix``, from world of the diffusion scan to world of the T1, aligns the two."""
    moved = ResampleToGrid()(with_affine(t1, matrix), attenuation)[0].numpy()
    inside = mask[0].numpy() > 0
    brain = nonzero_centre(mask)
    rotation, stretch = _polar(matrix[:3, :3])
    turn = math.degrees(math.acos(min(1.0, max(-1.0, (np.trace(rotation) - 1) / 2))))
    factors = np.linalg.svd(stretch, compute_uv=False)
    return Alignment(
        matrix=matrix,
        shift=float(np.linalg.norm(matrix[:3, :3] @ brain + matrix[:3, 3] - brain)),
        turn=turn,
        scaling=float(max(factors.max(), 1 / max(factors.min(), 1e-6))),
        covered=float((moved[inside] > head_threshold(t1[0].numpy())).mean()),
        dependence=correlation_ratio(attenuation[0].numpy()[inside], moved[inside]),
    )


def with_affine(t1: MetaTensor, matrix: np.ndarray) -> MetaTensor:
    """Return the T1, or an image in its space, with the affine that places it in the world of the diffusion scan.

    The voxels do not change.
    """
    affine = torch.as_tensor(np.linalg.inv(matrix), dtype=torch.float64) @ t1.affine.double()
    return MetaTensor(t1.as_tensor(), affine=affine)


def correlation_ratio(values: np.ndarray, given: np.ndarray, bins: int = 32) -> float:
    """Return the part of the variance of ``values`` that ``given`` explains, by bins of equal count.

    This is the correlation ratio (Roche et al., MICCAI 1998).

    Args:
        values: shape ``(n,)``.
        given: shape ``(n,)``.
        bins: number of bins of ``given``.

    Returns:
        0 (independent) to 1 (a function of it).
    """
    spread = np.clip(values, *np.percentile(values, [1, 99]))
    total = spread.var()
    if total == 0:
        return 0.0
    edges = np.unique(np.quantile(given, np.linspace(0, 1, bins + 1)[1:-1]))
    group = np.digitize(given, edges)
    counts = np.bincount(group)
    means = np.bincount(group, spread) / np.maximum(counts, 1)
    return float((counts * (means - spread.mean()) ** 2).sum() / (len(values) * total))


def nonzero_centre(mask: MetaTensor) -> np.ndarray:
    """Return the world coordinates in mm of the centre of a mask ``(1, X, Y, Z)``."""
    voxels = np.argwhere(mask[0].numpy() > 0).mean(axis=0)
    affine = affine_of(mask)
    return affine[:3, :3] @ voxels + affine[:3, 3]


def head_threshold(voxels: np.ndarray) -> float:
    """Return an intensity between air and head: a tenth of the robust maximum."""
    return 0.1 * float(np.percentile(voxels[voxels > 0], 98)) if (voxels > 0).any() else 0.0


def affine_of(image: MetaTensor) -> np.ndarray:
    """Return the affine of an image, from voxels to world RAS, float64, ``(4, 4)``."""
    return np.asarray(image.affine, dtype=np.float64)


def _polar(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotation and the symmetric stretch whose product is ``matrix``."""
    u, s, v = np.linalg.svd(matrix)
    return u @ v, v.T @ np.diag(s) @ v
