"""Tissue from an aligned T1-weighted image: N4, then DIPY's hidden Markov random field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from dipy.segment.tissue import TissueClassifierHMRF
from monai.data import MetaTensor
from scipy import ndimage

from scripts.io.volume import read_volume
from transforms.errors import InputError
from transforms.label_classes import TISSUE_ABBREVIATIONS, TISSUES
from transforms.n4 import correct_bias
from transforms.resampling import ResampleToGrid

SUBDIVISION = 2
"""Number of parts along each axis into which a voxel of the diffusion scan is cut. Each part is segmented, and the mean
over the parts gives the voxel's tissue fractions."""

BETA = 0.1
"""Strength of the Markov random field; more loses thin cortex."""

TOLERANCE = 1e-4
MAX_ITERATIONS = 50
"""Largest number of iterations of the estimation; it ends earlier if the energy changes by less than the tolerance."""

MIN_EXTENT_MM = 40.0
"""Smallest extent of a T1 along each axis: a head is larger, and N4 cannot work on a slice."""

CORE_MM = 8.0
"""Distance from the brain's outline to its core, in which there is brain alone."""

MIN_BRIGHTNESS = 0.15
MAX_BRIGHTNESS = 1.3
"""Limits of a brain's intensity, relative to the bright end of its core: the 90th and the 98th percentile."""

BY_BRIGHTNESS = ("CSF", "GM", "WM")
"""Tissues in a T1, from dark to bright."""

FLUID_PERCENTILE = 25.0
"""Percentile of the intensities of fluid that stands for pure fluid: most fluid voxels are mixed with gray matter."""

N4_PASSES = 2
"""Number of passes of N4: one leaves a part of the strong fields of surface coils (docs/design-decisions.md)."""

SEED = 0
"""Seed of the noise that stands for the background."""


def read_t1(path: Path) -> MetaTensor:
    """Read a T1-weighted image, as :func:`scripts.io.volume.read_volume` does.

    Raises:
        InputError: the image cannot be read, is blank, or is a slice or slab.
    """
    t1 = read_volume(path)
    extent = [n * size for n, size in zip(t1.shape[1:], t1.pixdim.tolist(), strict=True)]
    if min(extent) < MIN_EXTENT_MM:
        found = "x".join(f"{length:.0f}" for length in extent)
        expected = f"at least {MIN_EXTENT_MM:g} mm along each axis"
        raise InputError(f"{path}: found an image of {found} mm, expected {expected}.")
    if not bool((t1 > 0).any()):
        raise InputError(f"{path}: found no voxel above 0, expected a T1-weighted image of a head.")
    return t1


def tissue_from_t1(t1: MetaTensor, mask: MetaTensor) -> np.ndarray:
    """Segment the brain in a T1-weighted image.

    Args:
        t1: shape ``(1, X, Y, Z)``, placed in the world of the diffusion scan by its affine.
        mask: brain mask on the grid of the diffusion scan, shape ``(1, X, Y, Z)``.

    Returns:
        tissue fraction of each of ``TISSUES`` in each voxel of the diffusion scan, float32, shape ``(4, X, Y, Z)``.

    Raises:
        InputError: the image does not show three tissues; the message does not name the image.
    """
    fine_mask = _subdivided(mask)
    image = ResampleToGrid()(t1, fine_mask)
    inside = fine_mask[0].numpy() > 0.5
    core = ndimage.binary_erosion(inside, iterations=round(CORE_MM / float(fine_mask.pixdim.min())))
    core = core if core.any() else inside
    # brain is brighter than air and bone, and darker than fat
    raw = image[0].numpy()
    # dark voxels in the core are fluid, so they count as brain
    seen = inside & (core | (raw > MIN_BRIGHTNESS * np.percentile(raw[core], 90)))
    seen = ndimage.binary_opening(seen & (raw < MAX_BRIGHTNESS * np.percentile(raw[core], 98)))
    within = MetaTensor(torch.from_numpy(seen)[None].float(), affine=fine_mask.affine)
    if not (core & seen).any():
        raise InputError("found no brain, expected one where the diffusion scan has it.")
    for _ in range(N4_PASSES):
        image = correct_bias(image, within)
    voxels = np.maximum(image[0].numpy(), 0)
    low, high = np.percentile(voxels[core & seen], [0.5, 99.5])
    voxels = np.clip((voxels - 0.9 * low) / (high - 0.9 * low), 0, 1).astype(np.float64)
    # DIPY gives voxels of exactly 0 noise that cannot be seeded, so the background gets its own noise
    noise = np.random.default_rng(SEED).normal(1e-3, 1e-4, voxels.shape)
    voxels = np.where(seen, np.maximum(voxels, 2e-3), np.abs(noise) + 1e-6)
    voxels /= voxels.max()
    classifier = TissueClassifierHMRF(verbose=False)
    _, _, fractions = classifier.classify(voxels, 3, BETA, tolerance=TOLERANCE, max_iter=MAX_ITERATIONS)
    fractions = np.nan_to_num(fractions) * seen[..., None]
    # the classifier may change the order of its classes while it estimates them
    brightness = [
        float(np.average(voxels, weights=fractions[..., n] + 1e-12 * seen)) for n in range(len(BY_BRIGHTNESS))
    ]
    order = np.argsort(brightness)
    hard = np.where(seen, fractions[..., order].argmax(axis=-1), -1)
    if missing := [name for index, name in enumerate(BY_BRIGHTNESS) if not (hard == index).any()]:
        raise InputError(f"found no voxel of {' and '.join(missing)}, expected three tissues.")
    fluid, gray = (
        float(np.percentile(voxels[hard == index], percentile))
        for index, percentile in enumerate((FLUID_PERCENTILE, 50.0))
    )
    # the fractions of two tissues in a voxel follow from where its brightness lies between theirs
    above = np.clip((voxels - fluid) / max(gray - fluid, 1e-6), 0, 1)
    fine = np.zeros((len(TISSUES), *seen.shape), dtype=np.float32)
    csf, gm, wm = (TISSUE_ABBREVIATIONS.index(name) for name in BY_BRIGHTNESS)
    dark, middle, bright = (fractions[..., n] for n in order)
    fine[csf] = (1 - above) * (dark + middle)
    fine[gm] = above * (dark + middle)
    fine[wm] = bright
    fine *= seen
    fine /= np.maximum(fine.sum(axis=0), 1e-6)
    n = SUBDIVISION
    coarse = fine.reshape(len(TISSUES), *(m for size in mask.shape[1:] for m in (size, n))).mean(axis=(2, 4, 6))
    coarse[:, mask[0].numpy() == 0] = 0
    # the rest is background: air and bone inside the brain mask
    coarse[0] = 1 - coarse[1:].sum(axis=0)
    return np.clip(coarse, 0, 1)


def _subdivided(mask: MetaTensor) -> MetaTensor:
    """Return a nearest-neighbour copy of a mask on voxels that are ``SUBDIVISION`` times smaller along each axis."""
    n = SUBDIVISION
    voxels = mask.as_tensor().float()
    for axis in (1, 2, 3):
        voxels = voxels.repeat_interleave(n, dim=axis)
    affine = mask.affine.double().clone()
    affine[:3, :3] /= n
    # the first small voxel lies in the corner of the first large one
    affine[:3, 3] -= affine[:3, :3] @ torch.full((3,), (n - 1) / 2, dtype=torch.float64)
    return MetaTensor(voxels, affine=affine)
