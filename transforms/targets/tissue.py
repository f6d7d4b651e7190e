"""Target of segmentation: the tissue of each voxel of the brain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

TISSUES = ("background", "gray matter", "white matter", "cerebrospinal fluid")
"""Classes of ``segmentation``. The indices are those that BIDS gives to common image-derived labels."""

TISSUE_ABBREVIATIONS = ("BG", "GM", "WM", "CSF")


class EncodeTissued(Transform):
    """Make ``label`` for the task ``segmentation``: the tissue index inside the brain mask, 0 outside it.

    Args:
        tissue_key: where the label image stands, ``(1, X, Y, Z)``, indices into ``TISSUES``.
        mask_key: where the brain mask stands, ``(1, X, Y, Z)``.
        label_key: where the target goes, ``(1, X, Y, Z)``, float32.
    """

    def __init__(self, tissue_key: str = "tissue", mask_key: str = "mask", label_key: str = "label") -> None:
        self.tissue_key = tissue_key
        self.mask_key = mask_key
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the target to ``data``."""
        result = dict(data)
        result[self.label_key] = data[self.tissue_key].float() * (data[self.mask_key] > 0.5)
        return result


class DecodeTissued(MapTransform):
    """Turn the output of a segmentation network into class probabilities; outside the brain it is background.

    Args:
        keys: logits, ``(4, X, Y, Z)``; become probabilities that add up to 1.
        mask_key: where the brain mask stands, ``(1, X, Y, Z)``, on the same grid.
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "mask") -> None:
        super().__init__(keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Decode each key of ``data``."""
        result = dict(data)
        for key in self.key_iterator(data):
            inside = (data[self.mask_key] > 0.5).to(data[key].device)
            background = torch.zeros_like(data[key])
            background[0] = 1.0
            result[key] = torch.where(inside, torch.softmax(data[key].float(), dim=0), background)
        return result
