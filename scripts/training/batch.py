"""From a batch of the loader to what the network gets and what it should return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor, pad_list_data_collate


class SelfSupervisedBatch:
    """Prepare a batch for restoration: the corrupted attenuation in, the clean one out.

    The input is made to look as it does in inference: attenuations are clipped to ``[0, 1]`` and are 0 outside the
    brain mask. Outside that mask the target is NaN, which losses and metrics leave out.
    """

    def __call__(
        self,
        batch: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prepare.

        Args:
            batch: ``image`` (corrupted) and ``label`` (clean), ``(B, C, X, Y, Z)``, and ``mask``, ``(B, 1, X, Y, Z)``.
            device: where to go.
            non_blocking: whether the copy to a GPU may overlap with what follows.

        Returns:
            input and target, both ``(B, C, X, Y, Z)``.
        """
        image, label, mask = (
            _plain(batch[key]).to(device, non_blocking=non_blocking) for key in ("image", "label", "mask")
        )
        inside = mask > 0.5
        return image.clamp(0.0, 1.0) * inside, torch.where(inside, label, torch.nan)


class PaddedCollate:
    """Stack scans of different sizes; they are padded symmetrically to the largest side of each axis.

    Args:
        label_value: what ``label`` is padded with, NaN where the new voxels are not to count; all else with 0.
    """

    def __init__(self, label_value: float) -> None:
        self.label_value = label_value

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Stack the tensors of each key, ``(C, X, Y, Z)``, to ``(B, C, X, Y, Z)``."""
        rest = [{key: value for key, value in item.items() if key != "label"} for item in batch]
        labels = [{"label": item["label"]} for item in batch]
        return {**pad_list_data_collate(rest), **pad_list_data_collate(labels, value=self.label_value)}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
