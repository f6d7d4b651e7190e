"""Refusal of images that hold NaN or infinity, before a network learns from them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from transforms.errors import InputError


class RequireFinited(MapTransform):
    """Refuse images with a voxel that is not finite; one of them makes all weights of a network NaN.

    Args:
        keys: images, ``(C, X, Y, Z)``.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check each key of ``data``.

        Raises:
            InputError: names the file and the number of voxels.
        """
        for key in self.key_iterator(data):
            image = data[key]
            if broken := int((~torch.isfinite(torch.as_tensor(image))).any(dim=0).sum()):
                name = image.meta.get("filename_or_obj", key) if hasattr(image, "meta") else key
                raise InputError(f"{name}: found NaN or infinity in {broken} voxels, expected numbers.")
        return dict(data)
