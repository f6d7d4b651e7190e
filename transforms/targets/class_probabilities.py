"""Class probabilities: the decoding that all tasks with classes share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform


class DecodeClassesd(MapTransform):
    """Turn logits into class probabilities; outside the mask, class 0 is certain.

    Args:
        keys: keys of the logits, ``(K, X, Y, Z)``, which become probabilities that add up to 1.
        mask_key: key of the mask, ``(1, X, Y, Z)``, on the same grid.
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "mask") -> None:
        super().__init__(keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Decode each key of ``data``."""
        result = dict(data)
        for key in self.key_iterator(data):
            inside = (data[self.mask_key] > 0.5).to(data[key].device)
            nothing = torch.zeros_like(data[key], dtype=torch.float32)
            nothing[0] = 1.0
            result[key] = torch.where(inside, torch.softmax(data[key].float(), dim=0), nothing)
        return result
