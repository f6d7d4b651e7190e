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

    Examples:
        >>> tissue, mask = torch.tensor([0.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 1.0])
        >>> EncodeTissued()({"tissue": tissue.reshape(1, 3, 1, 1), "mask": mask.reshape(1, 3, 1, 1)})["label"].flatten()
        tensor([nan, 2., 3.])
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
    """Turn the output of a segmentation network into class probabilities; outside the brain, background is certain.

    Examples:
        >>> logits, mask = torch.zeros(4, 2, 1, 1), torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
        >>> DecodeTissued("pred")({"pred": logits, "mask": mask})["pred"].flatten(1).T.tolist()
        [[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
    """
