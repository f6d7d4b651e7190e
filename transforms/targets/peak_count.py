"""Target of crossings: how many fibre populations a voxel of white matter has."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

MAX_PEAKS = 3
"""Most fibre populations that are told apart, as in Weninger et al., BVM 2022; the classes are 0 to 3."""


class EncodePeakCountd(Transform):
    """Make ``label`` for the task ``crossings``: the number of fibre populations in white matter, NaN elsewhere.

    Args:
        count_key: where the numbers stand, ``(1, X, Y, Z)``; more than 3 count as 3.
        white_matter_key: where the mask of white matter stands, ``(1, X, Y, Z)``.
        label_key: where the target goes, ``(1, X, Y, Z)``, float32.
    """

    def __init__(
        self, count_key: str = "n_peaks", white_matter_key: str = "white_matter", label_key: str = "label"
    ) -> None:
        self.count_key = count_key
        self.white_matter_key = white_matter_key
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the target to ``data``."""
        count = data[self.count_key].float().clamp(0, MAX_PEAKS)
        return {**data, self.label_key: torch.where(data[self.white_matter_key] > 0.5, count, torch.nan)}


class DecodePeakCountd(MapTransform):
    """Turn the output of a network for ``crossings`` into probabilities of 0 to 3 populations; outside the mask, of 0.

    Args:
        keys: logits, ``(4, X, Y, Z)``; become probabilities that add up to 1.
        mask_key: where the mask stands, ``(1, X, Y, Z)``, on the same grid: the brain, or white matter if it is known.
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "mask") -> None:
        super().__init__(keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Decode each key of ``data``."""
        result = dict(data)
        for key in self.key_iterator(data):
            inside = (data[self.mask_key] > 0.5).to(data[key].device)
            none = torch.zeros_like(data[key], dtype=torch.float32)
            none[0] = 1.0
            result[key] = torch.where(inside, torch.softmax(data[key].float(), dim=0), none)
        return result
