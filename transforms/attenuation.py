"""Attenuation: the signal of each diffusion direction divided by the mean b0."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

SIGNAL_FLOOR = 1e-3
"""A voxel whose b0 is below this fraction of the b0's 99th percentile holds no signal: its attenuation is 0."""


class Attenuation(Transform):
    """Divide by b0 and clip to ``[0, 1]``; voxels without signal are 0, never NaN.

    The attenuation of water cannot exceed 1 or fall below 0. With noise it can do both, so values are clipped.

    Examples:
        >>> b0 = torch.tensor([200.0, 0.0]).reshape(1, 2, 1, 1)
        >>> measured = torch.tensor([[80.0, 5.0], [250.0, 5.0]]).reshape(2, 2, 1, 1)
        >>> Attenuation()(measured, b0).flatten(1).tolist()
        [[0.4000000059604645, 0.0], [1.0, 0.0]]
    """

    def __call__(self, image: torch.Tensor, b0: torch.Tensor) -> torch.Tensor:
        """Divide ``image`` by ``b0``.

        Args:
            image: diffusion-weighted signal in any unit, shape ``(N, X, Y, Z)``.
            b0: mean b0 in the same unit, shape ``(1, X, Y, Z)``.

        Returns:
            attenuation in ``[0, 1]``, shape ``(N, X, Y, Z)``; 0 where b0 is not above ``SIGNAL_FLOOR`` of its 99th
            percentile, or where either is not finite.
        """
        has_signal = has_b0_signal(b0)
        ratio = image / torch.where(has_signal, b0, 1.0)
        ratio = torch.nan_to_num(ratio, nan=0.0, posinf=0.0, neginf=0.0).clamp(0.0, 1.0)
        return torch.where(has_signal, ratio, 0.0)


def has_b0_signal(b0: torch.Tensor) -> torch.Tensor:
    """Return a mask of the voxels whose b0 is a usable divisor, bool, of the shape of ``b0``."""
    finite = torch.nan_to_num(b0, nan=0.0, posinf=0.0, neginf=0.0)
    values = finite.flatten().sort().values
    floor = SIGNAL_FLOOR * values[int(0.99 * (len(values) - 1))]
    return (finite > floor) & (finite > 0)


class Attenuationd(MapTransform):
    """Dictionary form of :class:`Attenuation`.

    Args:
        keys: keys of the diffusion-weighted signals.
        b0_key: key of the mean b0.

    Examples:
        >>> data = {"image": torch.full((6, 4, 5, 3), 50.0), "b0": torch.full((1, 4, 5, 3), 200.0)}
        >>> Attenuationd("image")(data)["image"].unique().tolist()
        [0.25]
    """

    def __init__(self, keys: KeysCollection, b0_key: str = "b0") -> None:
        super().__init__(keys)
        self.b0_key = b0_key
        self.attenuation = Attenuation()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Divide each key of ``data`` by its b0."""
        result = dict(data)
        for key in self.key_iterator(data):
            result[key] = self.attenuation(data[key], data[self.b0_key])
        return result
