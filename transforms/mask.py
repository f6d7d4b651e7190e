"""Brain mask of a scan: a given one, or one found on the mean b0; and whether a found one can be trusted."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from dipy.segment.threshold import otsu
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from transforms.attenuation import has_b0_signal
from transforms.errors import InputError
from transforms.n4 import correct_bias

logger = logging.getLogger(__name__)

MEDIAN_SIZE = 5
"""Side of the median filter in voxels of 2.4 mm. DIPY's default of 9 is meant for smaller voxels."""

MEDIAN_PASSES = 2
"""Median filter passes before Otsu's threshold."""

LEVELS = 32
"""Brightnesses at which the distribution of the filtered image is known, denser towards the dark, where most are."""

BISECTIONS = 12
"""Steps that find its brightest voxel, to a part of 2e-4 of the image's."""

HEAD_THRESHOLD = 0.5
"""Part of Otsu's threshold above which a voxel is head, deep brain far from the coils included."""

BIAS_MM = 8.0
"""Voxel size at which the b0's bias field is estimated: the field of a coil is smooth."""

RIM_BRIGHTNESS = 0.9
"""Brightness of a voxel of the rim that is brain alone, over the median of the brain."""

NECK = 2
"""Voxels by which a mask is eroded to cut off what hangs on it by a thin neck (eyes, tongue)."""

MIN_FIELD_MM = 20.0
"""Extent of the field of view in mm below which a scan shows no brain, but a slice of it."""

MIN_BRAIN_ML = 1.0
"""A brain mask below this volume in millilitres is no brain."""

USUAL_BRAIN_ML = (700.0, 2200.0)
"""Volumes in ml of whole heads: brains of children from two years on and of adults have 900 to 1700 ml (Allen, Damasio
and Grabowski, Am J Phys Anthropol 118:341-358, 2002), and a mask takes in fluid around them."""

MIN_WHOLE_MM = 100.0
"""Extent of the field of view along each axis from which on a whole brain is expected in it."""

MAX_HOLE = 0.01
"""Part of a mask that holes of a slice may take up."""

MIN_SYMMETRY = 0.8
"""Dice of a mask with its mirror image about its own middle."""

AIR = 0.1
"""Part of the mask's median b0 below which a voxel counts as air."""

MAX_AIR = 0.03
"""Part of a mask that may be air. Real and simulated masks have 0 to 0.012. Those of five real scans, moved to the
front, the back, up or down, have 0.02 to 0.07 at 19 mm and 0.03 to 0.12 at 29 mm: scalp and neck are no air."""


def find_brain(b0: MetaTensor) -> np.ndarray:
    """Find the brain on the mean b0: Otsu's threshold after median filters, as DIPY's ``median_otsu``.

    Coils receive the deep brain weakly, at half of its edge and less, and a threshold would cut it out. So the bias
    field is corrected first (N4). Holes are filled slice by slice, which closes those that are open to the base of the
    image too, and the largest part is kept.

    Args:
        b0: mean b0, RAS, voxels of about 2.4 mm, shape ``(1, X, Y, Z)``.

    Returns:
        bool, shape ``(X, Y, Z)``.
    """
    signal = has_b0_signal(b0.as_tensor())[0].numpy()
    raw = np.nan_to_num(b0[0].numpy())
    head = slices_filled(above_after_medians(raw, HEAD_THRESHOLD * otsu(raw), size=3, passes=1))
    within = MetaTensor(torch.from_numpy(head & signal)[None].float(), affine=b0.affine)
    volume = correct_bias(MetaTensor(torch.from_numpy(raw)[None], affine=b0.affine), within, BIAS_MM)[0].numpy()
    # of a volume without contrast the threshold lets everything through
    found = largest_part(slices_filled(above_after_medians(volume, otsu_after_medians(volume)) & signal))
    # the filters take voxels off the rim; those that are all brain come back
    bright = volume > RIM_BRIGHTNESS * np.median(volume[found]) if found.any() else found
    return found | (ndimage.binary_dilation(found) & bright & signal)


def above_after_medians(
    volume: np.ndarray, threshold: float, size: int = MEDIAN_SIZE, passes: int = MEDIAN_PASSES
) -> np.ndarray:
    """Find the voxels that are above a threshold after median filters, without these filters.

    The median of an odd number of voxels is above a threshold where most of them are. Means over boxes tell that a
    hundred times faster than medians, and exactly.

    Args:
        volume: shape ``(X, Y, Z)``.
        threshold: in the unit of the volume.
        size: odd side of the filters' boxes, in voxels.
        passes: number of filters, one after the other.

    Returns:
        bool, shape ``(X, Y, Z)``.
    """
    above = volume > threshold
    for _ in range(passes):
        above = ndimage.uniform_filter(above.astype(np.float32), size) > 0.5
    return above


def otsu_after_medians(volume: np.ndarray) -> float:
    """Otsu's threshold of a volume ``(X, Y, Z)`` after median filters; what is negative counts as 0.

    The part of the filtered volume below some levels is known; between them it is interpolated.
    """
    # Otsu's histogram ends at the brightest voxel of the filtered volume
    darker, top = 0.0, float(volume.max())
    for _ in range(BISECTIONS):
        middle = (darker + top) / 2
        if above_after_medians(volume, middle).any():
            darker = middle
        else:
            top = middle
    levels = top * np.linspace(0, 1, LEVELS) ** 2
    below = [1 - above_after_medians(volume, level).mean() for level in levels]
    ranks = np.linspace(0, 1, 10 * len(levels) ** 2)
    return float(otsu(np.interp(ranks, below, levels)))


def slices_filled(mask: np.ndarray) -> np.ndarray:
    """Fill the holes of each slice of a mask ``(X, Y, Z)``, along all three axes.

    A hole that is open at one end of the field of view is enclosed in the slices across it.
    """
    filled = mask.copy()
    for axis in range(3):
        slices, target = np.moveaxis(mask, axis, 0), np.moveaxis(filled, axis, 0)
        for index, part in enumerate(slices):
            target[index] |= ndimage.binary_fill_holes(part)
    return filled


def largest_part(mask: np.ndarray, neck: int = NECK) -> np.ndarray:
    """Keep the largest part of a mask, cut free of parts (tongue, eyes) that a neck of up to ``2 neck`` voxels joins.

    The head may leave the field of view, so that its border counts as inside while eroding.
    """
    core = ndimage.binary_erosion(mask, iterations=neck, border_value=1)
    parts, n_parts = ndimage.label(core)
    if not n_parts:
        return mask
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return ndimage.binary_dilation(largest, iterations=neck, mask=mask)


def doubts_about(mask: np.ndarray, voxel_size: np.ndarray, b0: np.ndarray) -> list[str]:
    """Say what is unusual of a brain mask.

    Args:
        mask: bool, RAS, shape ``(X, Y, Z)``.
        voxel_size: in mm, shape ``(3,)``.
        b0: mean b0, shape ``(X, Y, Z)``.

    Returns:
        sentences without a full stop; none where nothing is unusual.
    """
    doubts = []
    millilitres = float(mask.sum() * np.prod(voxel_size) / 1000)
    whole = bool((np.array(mask.shape) * voxel_size >= MIN_WHOLE_MM).all())
    low, high = USUAL_BRAIN_ML
    if millilitres > high or (whole and millilitres < low):
        doubts.append(f"the brain mask has {millilitres:.0f} ml, usual are {low:.0f} to {high:.0f}")
    holes = float((slices_filled(mask) & ~mask).sum() / max(mask.sum(), 1))
    if holes > MAX_HOLE:
        doubts.append(f"the brain mask has holes of {holes:.1%} of its volume, usual are less than {MAX_HOLE:.0%}")
    if mask.all():
        doubts.append("the brain mask fills the field of view")
    symmetry = _symmetry(mask)
    if symmetry < MIN_SYMMETRY:
        doubts.append(
            f"left and right half of the brain mask overlap with a Dice of {symmetry:.2f}, "
            f"usual are {MIN_SYMMETRY:g} and more"
        )
    inside = b0[mask]
    air = float((inside < AIR * np.median(inside)).mean()) if len(inside) else 0.0
    if air > MAX_AIR:
        doubts.append(
            f"{air:.1%} of the brain mask is air, usual are less than {MAX_AIR:.0%}: does it lie on the scan?"
        )
    return doubts


def _symmetry(mask: np.ndarray) -> float:
    """Dice of a mask with its mirror image about the middle of its extent from left to right."""
    where = np.flatnonzero(mask.any(axis=(1, 2)))
    if not len(where):
        return 0.0
    inside = mask[where[0] : where[-1] + 1]
    return float((inside & inside[::-1]).sum() / inside.sum())


class BrainMaskd(MapTransform):
    """Make ``mask`` a binary brain mask: the given one, else the one that :func:`find_brain` finds.

    What is unusual of it is logged, and added to ``notes``, a text.

    Args:
        b0_key: where the mean b0 stands, shape ``(1, X, Y, Z)``, voxels of about 2.4 mm.
        mask_key: where a given mask stands, resampled to values in ``[0, 1]``, and where the mask goes, 0 or 1.

    Examples:
        >>> data = BrainMaskd()(ScanToGrid()({"raw_scan": scan}))
        >>> brain_ml = data["mask"].sum().item() * 2.4**3 / 1000
        >>> 800 < brain_ml < 900
        True
    """

    def __init__(self, b0_key: str = "b0", mask_key: str = "mask") -> None:
        super().__init__([b0_key])
        self.b0_key = b0_key
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask.

        Raises:
            InputError: the field of view is too thin, or less than a millilitre of brain was found.
        """
        result = dict(data)
        b0 = data[self.b0_key]
        given = self.mask_key in data
        voxel_size = b0.pixdim.numpy()
        extents = np.array(b0.shape[1:]) * voxel_size
        if extents.min() < MIN_FIELD_MM:
            found = f"a field of view of {extents.min():.3g} mm along an axis"
            raise InputError(f"{data.get('raw_scan', 'scan')}: found {found}, expected at least {MIN_FIELD_MM:g} mm.")
        mask = (data[self.mask_key].as_tensor()[0] > 0.5).numpy() if given else find_brain(b0)
        millilitres = float(mask.sum() * np.prod(voxel_size) / 1000)
        if millilitres < MIN_BRAIN_ML:
            raise InputError(f"{data.get('raw_scan', 'scan')}: found {millilitres:.2f} ml of brain, expected a head.")
        result[self.mask_key] = MetaTensor(torch.from_numpy(mask)[None].float(), meta=b0.meta)
        doubts = doubts_about(mask, voxel_size, b0.as_tensor()[0].numpy())
        for doubt in doubts:
            logger.warning("%s: %s", data.get("raw_scan", "scan"), doubt)
        result["notes"] = "; ".join(filter(None, [data.get("notes"), *doubts]))
        return result
