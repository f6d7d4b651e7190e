"""Artifacts of a whole batch: each image has its own, drawn on the CPU and applied on the batch's device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from transforms.artifacts.acquisition import Acquisition
from transforms.artifacts.base import Artifact, ArtifactParams, ScanInfo
from transforms.artifacts.bias_field import BiasField
from transforms.artifacts.eddy import Eddy
from transforms.artifacts.ghosting import Ghosting
from transforms.artifacts.motion import Motion
from transforms.artifacts.noise import Noise
from transforms.artifacts.rows import as_rows, from_rows
from transforms.artifacts.undersampling import Undersampling
from transforms.errors import InputError

NORMAL: dict[type[Artifact[Any]], dict[str, Any]] = {
    Motion: {"degrees": (-10.0, 10.0), "translation": (-10.0, 10.0)},
    Eddy: {"stretch": (0.9, 1.1)},
    BiasField: {"coefficients": (-0.5, 0.5)},
    Ghosting: {"num_ghosts": (2, 2), "intensity": (0.5, 1.0)},
    Noise: {"std": (0.0, 0.25)},
}
"""Values of the preset ``normal``."""

PAPER = NORMAL | {BiasField: NORMAL[BiasField] | {"keep_mean": False}}
"""Values of the preset ``paper``."""

PRESETS: dict[str, list[tuple[type[Artifact[Any]], dict[str, Any]]]] = {
    "light": [
        (Motion, {"degrees": (-3.0, 3.0), "translation": (-3.0, 3.0)}),
        (Eddy, {"stretch": (0.97, 1.03)}),
        (BiasField, {"coefficients": (-0.2, 0.2)}),
        (Ghosting, {"num_ghosts": (2, 2), "intensity": (0.1, 0.4)}),
        (Noise, {"std": (0.0, 0.08)}),
    ],
    "normal": [*NORMAL.items()],
    "paper": [*PAPER.items()],
    "strong": [
        (Motion, {"degrees": (-20.0, 20.0), "translation": (-20.0, 20.0), "num_transforms": 4}),
        (Eddy, {"stretch": (0.8, 1.2), "shear_x": (-0.1, 0.1), "shear_z": (-0.1, 0.1)}),
        (BiasField, {"coefficients": (-0.8, 0.8)}),
        (Ghosting, {"num_ghosts": (2, 5), "intensity": (0.8, 1.0)}),
        (Noise, {"std": (0.1, 0.4)}),
        (Undersampling, {}),
    ],
    "physical": [(Acquisition, {})],
}
"""Artifacts of each preset, in the order in which they are applied."""


def preset(name: str, phase_encoding: int = 1, prob: float | None = None) -> list[Artifact[Any]]:
    """Return the artifacts of a preset.

    Args:
        name: ``light``, ``normal``, ``paper`` (``normal`` with a bias field that changes the mean, as in Weninger et
            al., BVM 2022), ``strong`` or ``physical``.
        phase_encoding: voxel axis of the phase encoding, along which eddy currents displace; 1 is anterior-posterior in
            a RAS image.
        prob: probability of each artifact; None for that of the preset (0.5, and 1 for ``physical``).

    Raises:
        InputError: there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"preset: found {name!r}, expected one of {', '.join(PRESETS)}.")
    given = {} if prob is None else {"prob": prob}
    along = {Eddy: {"axis": phase_encoding}, Acquisition: {"axis": phase_encoding}}
    return [form(**arguments, **along.get(form, {}), **given) for form, arguments in PRESETS[name]]


def sample_artifacts(
    artifacts: Sequence[Artifact[Any]], generator: torch.Generator, shape: Sequence[int], clean_share: float = 0.0
) -> list[ArtifactParams]:
    """Draw which artifacts one image gets, and their parameters.

    Args:
        artifacts: in the order in which they are applied.
        generator: generator on the CPU.
        shape: shape of the image, ``(C, X, Y, Z)``.
        clean_share: probability that the image gets none, whatever the probability of each is.

    Returns:
        parameters of the artifacts that the image gets, in order.
    """
    if clean_share and float(torch.rand((), generator=generator)) < clean_share:
        return []
    return [
        artifact.sample(generator, shape)
        for artifact in artifacts
        if float(torch.rand((), generator=generator)) < artifact.prob
    ]


def apply_artifacts(
    batch: torch.Tensor, params: Sequence[Sequence[ArtifactParams]], scans: Sequence[ScanInfo] | None = None
) -> torch.Tensor:
    """Apply to each image of a batch its own artifacts, one after the other.

    Each image gets the same numbers in a batch as alone. Memory beyond the batch is that of single images.

    Args:
        batch: floating-point tensor ``(B, C, X, Y, Z)`` on any device, left unchanged.
        params: parameters of each image's artifacts, in the order of application.
        scans: what artifacts need to know of each scan.

    Returns:
        tensor of the same shape, type and device, ``channels_last_3d`` in memory.

    Raises:
        InputError: there is not one list of parameters per image, or parameters do not fit an image.
    """
    scans = [ScanInfo()] * len(batch) if scans is None else scans
    if batch.ndim != 5 or not len(batch) == len(params) == len(scans):
        raise InputError(
            f"found a batch of shape {tuple(batch.shape)}, parameters for {len(params)} images and {len(scans)} scans, "
            "expected (B, C, X, Y, Z) and B of each."
        )
    # a single image needs no copy into a batch
    result = None if len(batch) == 1 else torch.empty_like(batch, memory_format=torch.channels_last_3d)
    for index, (image, drawn, scan) in enumerate(zip(batch, params, scans, strict=True)):
        corrupted = image
        for one in drawn:
            corrupted = one.apply(corrupted, scan)
        if result is None:
            return from_rows(as_rows(corrupted))[None]
        result[index] = corrupted
    return batch if result is None else result
