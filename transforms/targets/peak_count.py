"""Target of crossings: how many fibre populations a voxel of white matter has."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Transform

from transforms.targets.classes import DecodeClassesd

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


class DecodePeakCountd(DecodeClassesd):
    """Turn the output of a network for ``crossings`` into probabilities of 0 to 3 populations; outside the mask, of 0.

    The mask is that of the brain, or of white matter if it is known.
    """
