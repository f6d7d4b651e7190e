"""Losses over the voxels that a target speaks of: NaN in a target means that the voxel does not count."""

from __future__ import annotations

import torch
from torch import nn


class MaskedL1Loss(nn.Module):
    """Mean absolute error over the entries of the target that are not NaN."""

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare tensors of one shape; 0 where the target is NaN throughout."""
        counts = ~torch.isnan(target)
        error = (prediction - torch.nan_to_num(target)).abs()
        return torch.where(counts, error, 0.0).sum() / counts.sum().clamp(min=1)
