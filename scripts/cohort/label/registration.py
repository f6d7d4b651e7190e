"""A T1-weighted image brought to the space of a diffusion scan, and whether that went well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
from dipy.align.transforms import AffineTransform3D, RigidTransform3D, TranslationTransform3D
from monai.data import MetaTensor
from monai.transforms import Orientation

from scripts.cohort.label.bias import without_bias
from transforms.scan import RAS_LABELS
from transforms.spatial import ResampleToGrid, ResampleToSpacing

HISTOGRAM_BINS = 32
"""Of the mutual information (Mattes et al., IEEE Trans Med Imaging 22:120-128, 2003)."""

REGISTRATION_MM = 3.0
"""Voxel size at which the images are compared; a finer one takes several times longer and gains little."""

COARSE = {"level_iters": [100], "factors": [2], "sigmas": [1.0]}
FINE = {"level_iters": [50], "factors": [1], "sigmas": [0.0]}
"""Iterations at most, subsampling, and smoothing in voxels."""

BRAIN_MM = 40.0
"""Around the centre of a head, all is brain within this distance."""

LEAST_COVERED = 0.9
"""Share of the diffusion scan's brain mask in which an aligned T1 has a head."""

LEAST_DEPENDENCE = 0.12
"""Correlation ratio of the mean attenuation given the T1 in the brain: the share of its variance that the T1 explains.

Aligned scans have 0.25 and more, scans 10 mm or 30 degrees off less than 0.1 (a phantom of life size 0.18 at 10 mm).
"""

MOST_SCALING = 1.25
"""Heads have one size: what an affine registration may stretch or shrink along any direction."""

MOST_DEGREES = 45.0
"""Between two scans of one session a head turns less."""


@dataclass(frozen=True)
class Alignment:
    """How a T1 was brought to a diffusion scan, and measures of how well.

    Attributes:
        matrix: from world of the diffusion scan to world of the T1, ``(4, 4)``.
        shift: distance in mm by which the centre of the brain moved.
        turn: rotation in degrees.
        scaling: largest factor (or its inverse) by which a length changed.
        covered: share of the brain mask in which the T1 shows a head.
        dependence: correlation ratio of the mean attenuation given the T1 within the brain, 0 to 1.
    """

    matrix: np.ndarray
    shift: float
    turn: float
    scaling: float
    covered: float
    dependence: float

    @property
    def fault(self) -> str | None:
        """What is wrong with it, or None."""
        checks = (
            (self.covered < LEAST_COVERED, f"the T1 covers {self.covered:.0%} of the brain", f"{LEAST_COVERED:.0%}"),
            (
                self.dependence < LEAST_DEPENDENCE,
                f"the T1 explains {self.dependence:.0%} of the attenuation's variance",
                f"{LEAST_DEPENDENCE:.0%}",
            ),
        )
        for failed, found, least in checks:
            if failed:
                return f"{found}, expected at least {least}"
        if self.scaling > MOST_SCALING:
            return f"a length changed by a factor of {self.scaling:.2f}, expected at most {MOST_SCALING:g}"
        if self.turn > MOST_DEGREES:
            return f"the head turned by {self.turn:.0f} degrees, expected at most {MOST_DEGREES:g}"
        return None


def align(t1: MetaTensor, attenuation: MetaTensor, mask: MetaTensor) -> Alignment:
    """Register a T1 to the space of the b0: translation, rigid, affine; by mutual information within the brain.

    It is compared with the mean attenuation and not with the b0 itself. Both lie on the same voxels, but in the
    attenuation the sensitivity of the coils cancels, fluid is dark and white matter bright, as in a T1.

    Args:
        t1: shape ``(1, X, Y, Z)``, with or without the skull, any orientation.
        attenuation: mean over the directions, also outside the brain, shape ``(1, X, Y, Z)``.
        mask: brain mask on the same grid.
    """
    to_ras = Orientation(axcodes="RAS", labels=RAS_LABELS)
    moving, static, brain = (_at_spacing(MetaTensor(to_ras(image))) for image in (t1, attenuation, mask))
    moving = _comparable(moving)
    brain = MetaTensor((brain.as_tensor() > 0.5).float(), affine=brain.affine)
    images = static[0].numpy().astype(np.float64), moving[0].numpy().astype(np.float64)
    affines = {"static_grid2world": _affine(static), "moving_grid2world": _affine(moving)}
    within = brain[0].numpy().astype(np.int32)

    def improve(matrix: np.ndarray, transform: Any, level: Mapping[str, Any]) -> np.ndarray:
        metric = MutualInformationMetric(nbins=HISTOGRAM_BINS, sampling_proportion=None)
        registration = AffineRegistration(metric=metric, **level, verbosity=0)
        start = {"starting_affine": matrix, "static_mask": within}
        return registration.optimize(*images, transform, None, **affines, **start).affine

    # the scanner's coordinates are a good start where neither image was moved since; else the centres of mass are
    starts = []
    apart = np.eye(4)
    apart[:3, 3] = nonzero_centre(_head(moving)) - nonzero_centre(brain)
    for start in (np.eye(4), apart):
        shifted = improve(start, TranslationTransform3D(), COARSE)
        starts.append(judge(moving, static, brain, improve(shifted, RigidTransform3D(), COARSE)))
    matrix = max(starts, key=lambda start: start.dependence).matrix
    for transform in (RigidTransform3D(), AffineTransform3D()):
        matrix = improve(matrix, transform, FINE)
    return judge(moving, static, brain, matrix)


def judge(t1: MetaTensor, attenuation: MetaTensor, mask: MetaTensor, matrix: np.ndarray) -> Alignment:
    """Measure how well ``matrix``, from world of the diffusion scan to world of the T1, aligns the two."""
    moved = ResampleToGrid()(carried(t1, matrix), attenuation)[0].numpy()
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
        covered=float((moved[inside] > _head_threshold(t1[0].numpy())).mean()),
        dependence=correlation_ratio(attenuation[0].numpy()[inside], moved[inside]),
    )


def carried(t1: MetaTensor, matrix: np.ndarray) -> MetaTensor:
    """Return the T1, or what lies in its space, with the affine that places it in the world of the diffusion scan.

    No voxel is changed.
    """
    affine = torch.as_tensor(np.linalg.inv(matrix), dtype=torch.float64) @ t1.affine.double()
    return MetaTensor(t1.as_tensor(), affine=affine)


def correlation_ratio(values: np.ndarray, given: np.ndarray, bins: int = 32) -> float:
    """Share of the variance of ``values`` that ``given`` explains, by bins of equal count (Roche et al., MICCAI 1998).

    Args:
        values: shape ``(n,)``.
        given: shape ``(n,)``.
        bins: of ``given``.

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
    """World coordinates in mm of the centre of a mask ``(1, X, Y, Z)``."""
    voxels = np.argwhere(mask[0].numpy() > 0).mean(axis=0)
    affine = _affine(mask)
    return affine[:3, :3] @ voxels + affine[:3, 3]


def _at_spacing(image: MetaTensor) -> MetaTensor:
    return ResampleToSpacing([max(size, REGISTRATION_MM) for size in image.pixdim.tolist()])(image)


def _head(image: MetaTensor) -> MetaTensor:
    """Mask of what is brighter than air, shape ``(1, X, Y, Z)``."""
    return MetaTensor((image.as_tensor() > _head_threshold(image[0].numpy())).float(), affine=image.affine)


def _comparable(image: MetaTensor) -> MetaTensor:
    """Without bias field, and nothing brighter than the brain: the scalp of a T1 would outshine what is inside."""
    voxels = np.nan_to_num(image[0].numpy()).clip(min=0)
    head = _head(image)
    even = without_bias(MetaTensor(torch.from_numpy(voxels)[None], affine=image.affine), head)[0].numpy()
    world = np.argwhere(np.ones(even.shape, dtype=bool)) @ _affine(image)[:3, :3].T + _affine(image)[:3, 3]
    central = np.linalg.norm(world - nonzero_centre(head), axis=1).reshape(even.shape) < BRAIN_MM
    bright = 1.2 * np.percentile(even[central], 98)
    return MetaTensor(torch.from_numpy(even.clip(max=bright))[None], affine=image.affine)


def _affine(image: MetaTensor) -> np.ndarray:
    return np.asarray(image.affine, dtype=np.float64)


def _polar(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and symmetric stretch whose product is ``matrix``."""
    u, s, v = np.linalg.svd(matrix)
    return u @ v, v.T @ np.diag(s) @ v


def _head_threshold(voxels: np.ndarray) -> float:
    """Intensity between air and head: a tenth of the robust maximum."""
    return 0.1 * float(np.percentile(voxels[voxels > 0], 98)) if (voxels > 0).any() else 0.0
