"""Target of crossings: the number of fibre orientations (NuFO) of a voxel of white matter."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Transform

from transforms.label_classes import MAX_NUFO
from transforms.targets.class_probabilities import DecodeClassesd


class EncodeNuFOd(Transform):
    """Make ``label`` for the task ``crossings``: NuFO in white matter, NaN elsewhere.

    Args:
        nufo_key: key of NuFO, ``(1, X, Y, Z)``; more than 3 count as 3.
        white_matter_key: key of the mask of white matter, ``(1, X, Y, Z)``.
        label_key: key of the target, ``(1, X, Y, Z)``, float32.

    Examples:
        >>> nufo, white = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.0, 1.0, 1.0])
        >>> data = {"nufo": nufo.reshape(1, 3, 1, 1), "white_matter": white.reshape(1, 3, 1, 1)}
        >>> EncodeNuFOd()(data)["label"].flatten()
        tensor([nan, 2., 3.])
    """

    def __init__(
        self, nufo_key: str = "nufo", white_matter_key: str = "white_matter", label_key: str = "label"
    ) -> None:
        self.nufo_key = nufo_key
        self.white_matter_key = white_matter_key
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the target to ``data``."""
        nufo = data[self.nufo_key].float().clamp(0, MAX_NUFO)
        return {**data, self.label_key: torch.where(data[self.white_matter_key] > 0.5, nufo, torch.nan)}


class DecodeNuFOd(DecodeClassesd):
    """Turn the output of a network for ``crossings`` into probabilities of a NuFO of 0 to 3.

    Outside the mask NuFO is 0. The mask is that of the brain, or of white matter if it is known.

    Examples:
        >>> logits, mask = torch.tensor([0.0, 0.0, 9.0, 0.0]).reshape(4, 1, 1, 1), torch.ones(1, 1, 1, 1)
        >>> DecodeNuFOd("pred")({"pred": logits, "mask": mask})["pred"].argmax(dim=0).item()
        2
    """
