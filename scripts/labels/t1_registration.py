"""A T1-weighted image registered to a diffusion scan: translation, rigid, affine, by mutual information."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
from dipy.align.transforms import AffineTransform3D, RigidTransform3D, TranslationTransform3D
from monai.data import MetaTensor
from monai.transforms import Orientation

from scripts.labels.alignment import Alignment, affine_of, check_alignment, head_threshold, nonzero_centre
from transforms.n4 import correct_bias
from transforms.preprocessing import RAS_LABELS
from transforms.resampling import ResampleToSpacing

HISTOGRAM_BINS = 32
"""Number of bins of the mutual information (Mattes et al., IEEE Trans Med Imaging 22:120-128, 2003)."""

REGISTRATION_MM = 3.0
"""Voxel size at which the images are compared; a finer one takes several times longer and gains little."""

COARSE = {"level_iters": [100], "factors": [2], "sigmas": [1.0]}
FINE = {"level_iters": [50], "factors": [1], "sigmas": [0.0]}
"""Coarse and fine step: largest number of iterations, subsampling factor, and smoothing in voxels."""

BRAIN_MM = 40.0
"""Distance in mm from the centre of a head within which all voxels are brain."""


def register_t1(t1: MetaTensor, attenuation: MetaTensor, mask: MetaTensor) -> Alignment:
    """Register a T1 to the space of the b0: translation, rigid, affine; by mutual information within the brain.

    The T1 is compared with the mean attenuation and not with the b0 itself. Both have the same voxels, but in the
    attenuation the sensitivity of the coils cancels, fluid is dark and white matter is bright, as in a T1.

    Args:
        t1: shape ``(1, X, Y, Z)``, with or without the skull, any orientation.
        attenuation: mean attenuation over the directions, also outside the brain, shape ``(1, X, Y, Z)``.
        mask: brain mask on the same grid.
    """
    to_ras = Orientation(axcodes="RAS", labels=RAS_LABELS)
    moving, static, brain = (_at_spacing(MetaTensor(to_ras(image))) for image in (t1, attenuation, mask))
    moving = _comparable(moving)
    brain = MetaTensor((brain.as_tensor() > 0.5).float(), affine=brain.affine)
    images = static[0].numpy().astype(np.float64), moving[0].numpy().astype(np.float64)
    affines = {"static_grid2world": affine_of(static), "moving_grid2world": affine_of(moving)}
    within = brain[0].numpy().astype(np.int32)

    def improve(matrix: np.ndarray, transform: Any, level: Mapping[str, Any]) -> np.ndarray:
        metric = MutualInformationMetric(nbins=HISTOGRAM_BINS, sampling_proportion=None)
        registration = AffineRegistration(metric=metric, **level, verbosity=0)
        start = {"starting_affine": matrix, "static_mask": within}
        return registration.optimize(*images, transform, None, **affines, **start).affine

    # the scanner's coordinates are a good start if neither image was moved since; if one was, the centres of mass are
    starts = []
    apart = np.eye(4)
    apart[:3, 3] = nonzero_centre(_head(moving)) - nonzero_centre(brain)
    for start in (np.eye(4), apart):
        shifted = improve(start, TranslationTransform3D(), COARSE)
        starts.append(check_alignment(moving, static, brain, improve(shifted, RigidTransform3D(), COARSE)))
    matrix = max(starts, key=lambda start: start.dependence).matrix
    for transform in (RigidTransform3D(), AffineTransform3D()):
        matrix = improve(matrix, transform, FINE)
    return check_alignment(moving, static, brain, matrix)


def _at_spacing(image: MetaTensor) -> MetaTensor:
    return ResampleToSpacing([max(size, REGISTRATION_MM) for size in image.pixdim.tolist()])(image)


def _head(image: MetaTensor) -> MetaTensor:
    """Return a mask of the voxels brighter than air, shape ``(1, X, Y, Z)``."""
    return MetaTensor((image.as_tensor() > head_threshold(image[0].numpy())).float(), affine=image.affine)


def _comparable(image: MetaTensor) -> MetaTensor:
    """Remove the bias field, and clip voxels brighter than the brain: the scalp of a T1 would outshine the brain."""
    voxels = np.nan_to_num(image[0].numpy()).clip(min=0)
    head = _head(image)
    even = correct_bias(MetaTensor(torch.from_numpy(voxels)[None], affine=image.affine), head)[0].numpy()
    world = np.argwhere(np.ones(even.shape, dtype=bool)) @ affine_of(image)[:3, :3].T + affine_of(image)[:3, 3]
    central = np.linalg.norm(world - nonzero_centre(head), axis=1).reshape(even.shape) < BRAIN_MM
    bright = 1.2 * np.percentile(even[central], 98)
    return MetaTensor(torch.from_numpy(even.clip(max=bright))[None], affine=image.affine)
