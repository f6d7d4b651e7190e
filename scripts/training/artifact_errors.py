"""Errors of a pretrained network for each artifact alone, on scans that it has not learned from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import Dataset

from scripts.io.files import write_table
from scripts.training.batch import SelfSupervisedBatch
from scripts.training.losses import MaskedL1Loss
from transforms.artifacts import Artifact, BiasField
from transforms.errors import InputError

console = Console()

SEEDS_APART = 1000
"""Distance of the draws of one seed from those of the next. Draws count from 1, because validation in training uses the
seed itself."""


def alone(artifacts: Sequence[Artifact[Any]]) -> dict[str, list[Artifact[Any]]]:
    """Return the cases by name: each artifact alone on every image, then ``all`` as they are, and ``none``."""
    cases: dict[str, list[Artifact[Any]]] = {}
    for artifact in artifacts:
        certain = copy.copy(artifact)
        certain.prob = 1.0
        cases[artifact.name] = [certain]
    return {**cases, "all": list(artifacts), "none": []}


def without_gain(image: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Scale an image by the one factor with the least squared error.

    The factor is ``sum(image * clean) / sum(image^2)``, over the voxels and directions that count.

    Args:
        image: of any shape.
        clean: of the same shape, NaN where a voxel does not count.
    """
    counts = ~torch.isnan(clean)
    used = torch.where(counts, image, 0.0).double()
    factor = (used * torch.where(counts, clean, 0.0)).sum() / (used**2).sum().clamp(min=torch.finfo(torch.float32).tiny)
    return image * factor.to(image.dtype)


def artifact_errors(
    network: nn.Module,
    dataset: Dataset[Mapping[str, Any]],
    artifacts: Sequence[Artifact[Any]],
    directions: Sequence[Sequence[float]],
    path: str,
    seed: int = 0,
    draws: int = 1,
    device: torch.device | str = "cpu",
) -> dict[str, tuple[float, float]]:
    """Measure the error of the input and of the network's output, and write both for each scan.

    Args:
        network: network from and to ``(B, C, X, Y, Z)``.
        dataset: scans as pretraining loads them.
        artifacts: as :func:`transforms.artifacts.preset` gives them.
        directions: unit vectors of the channels in world RAS, ``(C, 3)``.
        path: CSV file to write, with a line per artifact and scan: mean absolute error in the brain before and after
            the network. The function makes the file's folder.
        seed: seed of the artifacts; with one seed, each scan gets the same artifacts each time.
        draws: number of times that each scan is corrupted anew; the scan's errors are the means.
        device: device of the computation.

    Returns:
        mean errors over scans before and after the network, by artifact. ``all`` has all artifacts as in training.
        ``none`` has none, so its error is what the network changes in a clean image. ``bias field without gain`` is
        what is left of the bias field if both images are first scaled by the one factor that brings each nearest to
        the clean one: a bias field that does not keep the mean changes what one number per scan would undo.

    Raises:
        InputError: an error is not finite; nothing is written.
    """
    loss = MaskedL1Loss()
    errors: dict[str, dict[str, np.ndarray]] = {}
    network.eval()
    for name, chosen in alone(artifacts).items():
        # each line by its name, with what is done to an image before it is compared
        lines = {name: lambda image, clean: image}
        if name == BiasField.name:
            lines[f"{name} without gain"] = without_gain
        for batch in DataLoader(dataset, batch_size=1):
            scan, drawn = batch["scan"][0], []
            # without artifacts all draws are the same
            for draw in range(1, draws + 1 if chosen else 2):
                corrupted, clean = SelfSupervisedBatch(chosen, directions, SEEDS_APART * seed + draw)(batch, device)
                with torch.no_grad():
                    pair = (corrupted, network(corrupted))
                drawn.append([[float(loss(line(image, clean), clean)) for image in pair] for line in lines.values()])
                if not np.isfinite(drawn[-1]).all():
                    raise InputError(f"{scan}: found an error that is NaN or infinite, expected a number.")
            for line, of_line in zip(lines, np.mean(drawn, axis=0), strict=True):
                errors.setdefault(line, {})[scan] = of_line
    rows = [
        [name, scan, *(f"{error:.6f}" for error in pair)] for name, of in errors.items() for scan, pair in of.items()
    ]
    means = {name: tuple(np.mean(list(of.values()), axis=0).tolist()) for name, of in errors.items()}
    write_table(Path(path), ("artifact", "scan", "error_before", "error_after"), rows)
    table = Table("artifact", "error before", "error after", "after / before")
    for name, (before, after) in means.items():
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after / before:.2f}" if before else "")
    console.print(table)
    console.print(path, highlight=False, soft_wrap=True)
    return means
