"""Batches of a training: from what the loader returns to the input and the target of the network."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, pad_list_data_collate

from transforms.artifacts import Artifact, ArtifactParams, ScanInfo, apply_artifacts, sample_artifacts
from transforms.artifacts.base import check_probability, check_range, uniform
from transforms.artifacts.rows import on_device


class SelfSupervisedBatch:
    """Prepare a batch for restoration on the training device: corrupted attenuation as input, clean one as target.

    The input looks as it does in inference: attenuations are clipped to ``[0, 1]`` and are 0 outside the brain mask.
    Outside the mask the target is NaN, which losses and metrics leave out.

    Args:
        artifacts: artifacts in the order in which they are applied; none for an autoencoder, or if the loader applies
            them.
        directions: unit vectors of the channels in world RAS, ``(C, 3)``; an acquisition needs them.
        seed: seed that gives a scan the same artifacts every time, as a validation needs. None draws anew each time,
            from seeds of torch's global generator.
        gain: range of a factor on a scan before its artifacts, and on its target. Its logarithm is uniform. A cohort of
            similar brains teaches a network their mean attenuation; with this factor it learns to keep that of a scan.
        clean_share: share of the scans that get no artifact, 0 to 1, so that a network learns to leave them as they
            are.

    Attributes:
        params: artifacts of each image of the last batch.

    Raises:
        InputError: an argument is out of its limits.
    """

    def __init__(
        self,
        artifacts: Sequence[Artifact[Any]] = (),
        directions: Sequence[Sequence[float]] | None = None,
        seed: int | None = None,
        gain: Sequence[float] = (1.0, 1.0),
        clean_share: float = 0.0,
    ) -> None:
        self.artifacts = list(artifacts)
        lowest, highest = check_range("gain", gain, minimum=0.01, maximum=100.0)
        self.log_gain = (math.log(lowest), math.log(highest))
        self.clean_share = check_probability("clean_share", clean_share)
        self.directions = None if directions is None else np.asarray(directions, dtype=np.float64)
        self.seed = seed
        self.params: list[list[ArtifactParams]] = []

    def __call__(
        self,
        batch: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prepare a batch.

        Args:
            batch: ``image`` (clean, unless there is a ``label``), ``(B, C, X, Y, Z)``, of any floating-point type;
                ``mask``, ``(B, 1, X, Y, Z)``; where there are artifacts or a gain also ``scan``, the names of the
                scans; for artifacts ``b0``, like the mask.
            device: device of the input and the target.
            non_blocking: whether the copy to a GPU may overlap with what follows.

        Returns:
            input and target, both float32 ``(B, C, X, Y, Z)``.
        """
        plain = {
            key: _plain(batch[key]).to(device, torch.float32, non_blocking=non_blocking)
            for key in ("image", "label", "mask", "b0")
            if key in batch
        }
        image, inside = plain["image"], plain["mask"] > 0.5
        label = plain.get("label", image)
        generators = [self._generator(name) for name in batch["scan"]] if "scan" in batch else []
        if any(self.log_gain):
            factors = [math.exp(uniform(generator, self.log_gain)) for generator in generators]
            gains = on_device(factors, image)[:, None, None, None, None]
            image, label = image * gains, label * gains
        if self.artifacts:
            self.params = [
                sample_artifacts(self.artifacts, generator, image.shape[1:], self.clean_share)
                for generator in generators
            ]
            b0 = plain.get("b0", [None] * len(image))
            scans = [
                ScanInfo(affine, self.directions, *of_scan)
                for affine, *of_scan in zip(affines(batch["image"]), b0, inside, strict=True)
            ]
            image = apply_artifacts(image, self.params, scans)
        return self._blank(image.clamp(0.0, 1.0) * inside, torch.where(inside, label, torch.nan), generators)

    def _blank(
        self, image: torch.Tensor, target: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input and target of a pretext that hides a part of the input; each image has its generator."""
        return image, target

    def _generator(self, name: str) -> torch.Generator:
        if self.seed is None:
            return torch.Generator().manual_seed(int(torch.randint(2**31 - 1, ())))
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))


def affines(batch: torch.Tensor) -> list[np.ndarray | None]:
    """Return the affine of each image of a batch, None for plain tensors."""
    if not isinstance(batch, MetaTensor):
        return [None] * len(batch)
    return list(np.broadcast_to(batch.affine.cpu().numpy(), (len(batch), 4, 4)))


class PaddedCollate:
    """Stack scans of different sizes, padded symmetrically to the largest size along each axis.

    Args:
        label_value: value that pads ``label``, NaN if the new voxels do not count; all else is padded with 0.
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
