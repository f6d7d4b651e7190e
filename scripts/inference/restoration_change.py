"""By how much a restoration changes a scan, and whether that is more than its training saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scripts.training.checkpoints import LARGEST
from scripts.training.weights import read_checkpoint
from transforms.diffusion.dti import fit_tensor_lls, fractional_anisotropy, mean_diffusivity

MIN_WHITE_FA = 0.4
"""Smallest fractional anisotropy, in the given scan, of the white matter whose change is reported. Gray matter and the
voxels that it shares with white matter have less; CSF beside white matter hardly counts."""

MAX_WHITE_MD = 1.1e-3
"""Largest mean diffusivity of that white matter, mm2/s. In a rim of noise, any FA may be found."""

LOSS_OF_INPUT = "val_loss_of_input"
"""Metric of a pretraining's validation: the mean absolute error in the brain of the corrupted attenuation."""


def describe_change(
    given: torch.Tensor, restored: torch.Tensor, mask: torch.Tensor, gradients: np.ndarray
) -> dict[str, float]:
    """Measure how much the attenuation and its tensor change.

    Args:
        given: attenuations that the network was given, ``(C, X, Y, Z)``.
        restored: attenuations after the network, of the same shape.
        mask: brain mask, ``(1, X, Y, Z)``.
        gradients: gradient table of the channels, ``(C, 4)``.

    Returns:
        entries of the sidecar. ``MeanAbsoluteChangeOfAttenuation`` is the mean over the voxels of the brain and the
        directions. ``...ChangePercent`` is the change of a mean, in percent of what it was: that of the attenuation in
        the brain, and those of MD and FA in white matter, which are missing if the scan has none.
    """
    inside = mask[0] > 0.5
    before, after = given[:, inside], restored[:, inside]
    entries = {
        "MeanAbsoluteChangeOfAttenuation": float((after - before).abs().mean()),
        "AttenuationChangePercent": _percent(before, after),
    }
    tensor = fit_tensor_lls(before, gradients)
    white = (fractional_anisotropy(tensor) > MIN_WHITE_FA) & (mean_diffusivity(tensor) < MAX_WHITE_MD)
    if white.any():
        tensors = tensor[..., white], fit_tensor_lls(after[:, white], gradients)
        entries["WhiteMatterMDChangePercent"] = _percent(*map(mean_diffusivity, tensors))
        entries["WhiteMatterFAChangePercent"] = _percent(*map(fractional_anisotropy, tensors))
    return entries


def _percent(before: torch.Tensor, after: torch.Tensor) -> float:
    return 100 * float(after.mean() / before.mean() - 1)


def largest_change_in_training(checkpoint: Path) -> float | None:
    """Return how far artifacts changed a scan of the validation at most, None if the checkpoint does not say.

    Each scan of the validation has drawn artifacts. The mean absolute error in the brain of the corrupted scan is what
    an ideal network changes. The number is that of the scan that was changed most.
    """
    value = read_checkpoint(checkpoint).get("origin", {}).get(LARGEST, {}).get(LOSS_OF_INPUT)
    return None if value is None else float(value)


def doubt(change: float, largest: float | None) -> str:
    """Return a note on a change of the attenuation, empty if it is within what training saw."""
    if largest is None:
        return "the checkpoint does not say by how much artifacts changed its training's scans"
    if change <= largest:
        return ""
    return (
        f"the restoration changes the attenuation by {change:.3f} on average, the artifacts of the training's "
        f"validation by {largest:.3f} at most: look at the result"
    )
