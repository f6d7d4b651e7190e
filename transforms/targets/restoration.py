"""Target of restoration: the image before artifacts are applied to it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform


class CleanTargetd(Transform):
    """Make ``label`` for restoration: the image itself, before artifacts are applied to it.

    The label is not a copy. Artifacts return a new image, so both keys can share one image in a cache, at half the
    memory.

    Args:
        image_key: key of the image, ``(C, X, Y, Z)``.
        label_key: key of the target.

    Examples:
        >>> data = CleanTargetd()({"image": torch.rand(64, 8, 10, 6)})
        >>> data["label"] is data["image"]
        True
    """

    def __init__(self, image_key: str = "image", label_key: str = "label") -> None:
        self.image_key = image_key
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the target to ``data``."""
        return {**data, self.label_key: data[self.image_key]}
