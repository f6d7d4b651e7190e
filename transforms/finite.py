"""Images that hold NaN or infinity, which no network may learn from and no result may hold."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from transforms.errors import InputError, counted


def count_not_finite(image: torch.Tensor) -> int:
    """Count the voxels of an image ``(C, X, Y, Z)`` that are not finite in a channel."""
    return int((~torch.isfinite(image)).any(dim=0).sum())


class RequireFinited(MapTransform):
    """Refuse images with a voxel that is not finite; one of them makes all weights of a network NaN.

    Args:
        keys: images, ``(C, X, Y, Z)``.

    Examples:
        >>> RequireFinited("image")({"image": torch.tensor([1.0, torch.nan]).reshape(1, 2, 1, 1)})
        Traceback (most recent call last):
        transforms.errors.InputError: image: found NaN or infinity in 1 voxel, expected numbers.
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
            if broken := count_not_finite(torch.as_tensor(image)):
                name = image.meta.get("filename_or_obj", key) if hasattr(image, "meta") else key
                raise InputError(f"{name}: found NaN or infinity in {counted(broken, 'voxel')}, expected numbers.")
        return dict(data)
