"""Losses over the voxels that count: NaN in a target means that a voxel does not count.

If the target is NaN everywhere, each loss is 0 with a gradient of 0.
"""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import nn

from transforms.targets import DYAD_ORDER


def _mean(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the mean of the values that count."""
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)


def _one_hot(target: torch.Tensor, classes: int) -> torch.Tensor:
    """Return classes ``(B, 1, X, Y, Z)`` as ``(B, classes, X, Y, Z)``, 0 in all classes where the target is NaN."""
    one_hot = nn.functional.one_hot(torch.nan_to_num(target[:, 0]).long(), classes).movedim(-1, 1)
    return torch.where(torch.isnan(target), 0.0, one_hot.float())


class MaskedL1Loss(nn.Module):
    """Mean absolute error over the entries of the target that are not NaN."""

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare tensors of one shape."""
        return _mean((prediction - torch.nan_to_num(target)).abs(), ~torch.isnan(target))


def slope_of_directions(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return how much of the differences between directions a prediction has: 0 none, 1 on average all of them.

    It is the slope of a regression through the origin, ``sum(p t) / sum(t t)`` over the voxels and directions of an
    image, where p and t are prediction and target minus their means over the directions.

    Args:
        prediction: ``(B, C, X, Y, Z)``.
        target: tensor of the same shape; a voxel counts if no direction of it is NaN.

    Returns:
        slope of each image, ``(B,)``; 1 where the target has no differences.
    """
    counts = ~torch.isnan(target).any(dim=1, keepdim=True)
    predicted, true = (
        torch.where(counts, image - image.mean(dim=1, keepdim=True), 0.0) for image in (prediction.float(), target)
    )
    total, product = ((image * true).sum(dim=(1, 2, 3, 4)) for image in (true, predicted))
    # differences that are rounding have no slope
    least = 1e-10 * torch.where(counts, target * target, 0.0).sum(dim=(1, 2, 3, 4))
    return torch.where(total > least, product / total.clamp(min=torch.finfo(total.dtype).tiny), 1.0)


class CalibratedL1Loss(nn.Module):
    """Mean absolute error, and a price for signals that differ too little or too much between directions.

    The least error of a restoration from noise is that of a cautious one: it returns a part of the differences between
    directions, and fractional anisotropy falls. So their slope s (:func:`slope_of_directions`) shall be 1. The loss is
    ``MaskedL1Loss + weight |s - 1|``, the second term averaged over the images. It is ours; Weninger et al., BVM 2022,
    have the mean absolute error alone.

    Args:
        weight: weight of the second term.
    """

    def __init__(self, weight: float = 0.05) -> None:
        super().__init__()
        self.weight = weight
        self.error = MaskedL1Loss()

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare tensors of one shape, ``(B, C, X, Y, Z)``; a voxel counts if all its directions do."""
        price = (slope_of_directions(prediction, target) - 1.0).abs().mean()
        return self.error(prediction, target) + self.weight * price


class MaskedMSELoss(nn.Module):
    """Mean squared error over the entries of the target that are not NaN."""

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare tensors of one shape."""
        return _mean((prediction - torch.nan_to_num(target)) ** 2, ~torch.isnan(target))


class MaskedCrossEntropyLoss(nn.Module):
    """Mean cross-entropy over the voxels whose class is not NaN.

    Args:
        balance: exponent of the weight ``n ** -balance`` of a class with n voxels in the batch. At 0 all voxels count
            alike; at 1 all classes in the batch do.
    """

    def __init__(self, balance: float = 0.0) -> None:
        super().__init__()
        self.balance = balance

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare logits ``(B, C, X, Y, Z)`` with classes ``(B, 1, X, Y, Z)``, whole numbers as floats, or NaN."""
        counts = ~torch.isnan(target[:, 0])
        classes = torch.nan_to_num(target[:, 0]).long()
        losses = nn.functional.cross_entropy(logits.float(), classes, reduction="none")
        frequencies = torch.bincount(classes[counts], minlength=logits.shape[1])
        weights = torch.where(counts, frequencies.clamp(min=1).to(losses.dtype)[classes] ** -self.balance, 0.0)
        return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


class MaskedDiceCrossEntropyLoss(nn.Module):
    """Dice loss of all classes but class 0, plus cross-entropy, over the voxels whose class is not NaN.

    Args:
        balance: see :class:`MaskedCrossEntropyLoss`.
    """

    def __init__(self, balance: float = 0.0) -> None:
        super().__init__()
        self.cross_entropy = MaskedCrossEntropyLoss(balance)
        self.dice = DiceLoss(include_background=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare logits ``(B, C, X, Y, Z)`` with classes ``(B, 1, X, Y, Z)``, whole numbers as floats, or NaN."""
        probabilities = torch.softmax(logits.float(), dim=1)
        # a voxel that does not count is in no class, neither found nor true
        dice = self.dice(torch.where(torch.isnan(target), 0.0, probabilities), _one_hot(target, logits.shape[1]))
        return dice + self.cross_entropy(logits, target)


class OneHotL1Loss(nn.Module):
    """Mean absolute error of the class probabilities, over the voxels whose class is not NaN.

    It is the loss of Weninger et al., BVM 2022, for both classifications: tissue and crossings.
    """

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare logits ``(B, C, X, Y, Z)`` with classes ``(B, 1, X, Y, Z)``, whole numbers as floats, or NaN."""
        error = (torch.softmax(logits.float(), dim=1) - _one_hot(target, logits.shape[1])).abs()
        return _mean(error, ~torch.isnan(target).expand_as(error))


class DyadCosineLoss(nn.Module):
    """One minus the cosine between the predicted symmetric matrix and the dyad, over the voxels that are not NaN.

    The cosine is that of the Frobenius product, ``v^T M v / |M|``: it is 1 for the dyad itself at any scale, and the
    same in every frame of axes.
    """

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare dyads ``(B, 6, X, Y, Z)``."""
        counts = ~torch.isnan(target).any(dim=1)
        # entries off the diagonal stand in the matrix twice
        weights = prediction.new_tensor([1.0 if row == column else 2.0 for row, column in DYAD_ORDER])[
            :, None, None, None
        ]
        prediction, target = prediction.float(), torch.nan_to_num(target)
        product = (weights * prediction * target).sum(dim=1)
        # the square root has no gradient at 0
        lengths = [(weights * dyad**2).sum(dim=1).clamp(min=1e-12).sqrt() for dyad in (prediction, target)]
        return _mean(1.0 - product / (lengths[0] * lengths[1]), counts)
