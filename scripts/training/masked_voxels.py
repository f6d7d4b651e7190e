"""Masked voxels: a pretext in which a network fills in blocks of the brain that it does not see.

It is the idea of masked autoencoders (He et al., CVPR 2022) for a network with convolutions, which sees the whole image
with the blocks blanked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from scripts.training.batch import SelfSupervisedBatch
from transforms.artifacts.base import check_integer, check_range, uniform

BLOCK = 8
"""Side of a block in voxels: 19 mm at 2.4 mm, more than the cortex is thick and than most bundles are wide."""

MIN_BLANK = 1e-3
"""Smallest value of a masked voxel. An input of exactly 0 means that a voxel is outside the brain."""


class MaskedVoxelsBatch(SelfSupervisedBatch):
    """Prepare a batch with masked blocks: the input has them blanked, and only they count in the target.

    All directions of a voxel are masked together, because one direction is easily told from its neighbours. A masked
    voxel gets the mean of each direction over the voxels of the brain that are seen. So it is not taken for background,
    and the mean of the input does not depend on the share that is masked. Outside the brain the input stays 0. The
    target is NaN outside the brain and where the input is not masked.

    Args:
        args: as :class:`SelfSupervisedBatch` takes them, like ``kwargs``; masked are the corrupted scans.
        share: range of the share of blocks that are masked, uniform, 0 to 1. The blocks cover the whole volume, so the
            share of the brain varies around it.
        block: side of a block in voxels.
        kwargs: see ``args``.

    Raises:
        InputError: an argument is out of its limits.
    """

    def __init__(self, *args: Any, share: Sequence[float] = (0.6, 0.75), block: int = BLOCK, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.share = check_range("share", share, 0, 1)
        self.block = check_integer("block", block, 1)

    def _blank(
        self, image: torch.Tensor, target: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        masked = torch.stack([self._masked(image.shape[2:], generator) for generator in generators])
        masked = masked.unsqueeze(1).to(image.device)
        inside = ~torch.isnan(target[:, :1])
        seen = inside & ~masked
        mean = (image * seen).sum(dim=(2, 3, 4), keepdim=True) / seen.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1)
        blank = mean.clamp(min=MIN_BLANK)
        return torch.where(inside & masked, blank, image), torch.where(masked, target, torch.nan)

    def _masked(self, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        """Draw which voxels ``(X, Y, Z)`` are masked; a last block along an axis may be cut off."""
        blocks = [-(-side // self.block) for side in shape]
        n = blocks[0] * blocks[1] * blocks[2]
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[torch.randperm(n, generator=generator)[: round(uniform(generator, self.share) * n)]] = True
        whole = chosen.reshape(blocks)
        for axis, side in enumerate(shape):
            whole = whole.repeat_interleave(self.block, dim=axis).narrow(axis, 0, side)
        return whole
