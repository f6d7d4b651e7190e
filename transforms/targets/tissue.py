"""Target of segmentation: the tissue of each voxel of the brain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Transform

from transforms.targets.class_probabilities import DecodeClassesd


class EncodeTissued(Transform):
    """Make ``label`` for the task ``segmentation``: the tissue index inside the brain mask, NaN outside it.

    Args:
        tissue_key: key of the label image, ``(1, X, Y, Z)``, indices into ``TISSUES``.
        mask_key: key of the brain mask, ``(1, X, Y, Z)``.
        label_key: key of the target, ``(1, X, Y, Z)``, float32.
    """

    def __init__(self, tissue_key: str = "tissue", mask_key: str = "mask", label_key: str = "label") -> None:
        self.tissue_key = tissue_key
        self.mask_key = mask_key
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the target to ``data``."""
        label = torch.where(data[self.mask_key] > 0.5, data[self.tissue_key].float(), torch.nan)
        return {**data, self.label_key: label}


class DecodeTissued(DecodeClassesd):
    """Turn the output of a segmentation network into class probabilities; outside the brain, background is certain."""
