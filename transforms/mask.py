"""Brain mask of a scan: a given one, or one found on the mean b0."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from dipy.segment.mask import median_otsu
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from transforms.attenuation import has_b0_signal
from transforms.errors import InputError

MEDIAN_RADIUS = 2
"""Voxels of 2.4 mm. DIPY's default of 4 is meant for smaller voxels and is many times slower."""

MEDIAN_PASSES = 2
"""Median filter passes before Otsu's threshold."""

MIN_BRAIN_ML = 1.0
"""A brain mask below this volume in millilitres is no brain."""


def _largest_part(mask: np.ndarray, neck: int = 2) -> np.ndarray:
    """Keep the largest part of a mask, cut free of parts (tongue, eyes) that a neck of up to ``2 neck`` voxels joins.

    The head may leave the field of view, so that its border counts as inside while eroding.
    """
    core = ndimage.binary_erosion(mask, iterations=neck, border_value=1)
    parts, n_parts = ndimage.label(core)
    if not n_parts:
        return mask
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return ndimage.binary_dilation(largest, iterations=neck, mask=mask)


class BrainMaskd(MapTransform):
    """Make ``mask`` a binary brain mask: the given one, else DIPY's ``median_otsu`` on the mean b0.

    Of the latter, holes are filled and the largest connected part is kept.

    Args:
        b0_key: where the mean b0 stands, shape ``(1, X, Y, Z)``, voxels of about 2.4 mm.
        mask_key: where a given mask stands, resampled to values in ``[0, 1]``, and where the mask goes, 0 or 1.
    """

    def __init__(self, b0_key: str = "b0", mask_key: str = "mask") -> None:
        super().__init__([b0_key])
        self.b0_key = b0_key
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask.

        Raises:
            InputError: less than a millilitre of brain was found.
        """
        result = dict(data)
        b0 = data[self.b0_key]
        if self.mask_key in data:
            mask = data[self.mask_key].as_tensor() > 0.5
        else:
            volume = np.nan_to_num(b0[0].numpy())
            _, found = median_otsu(volume, median_radius=MEDIAN_RADIUS, numpass=MEDIAN_PASSES)
            # of a volume without contrast the threshold lets everything through
            found = found.astype(bool) & has_b0_signal(b0.as_tensor())[0].numpy()
            mask = torch.from_numpy(_largest_part(ndimage.binary_fill_holes(found)))[None]
        millilitres = float(mask.sum()) * float(torch.prod(b0.pixdim)) / 1000.0
        if millilitres < MIN_BRAIN_ML:
            raise InputError(f"{data.get('raw_scan', 'scan')}: found {millilitres:.2f} ml of brain, expected a head.")
        result[self.mask_key] = MetaTensor(mask.float(), meta=b0.meta)
        return result
