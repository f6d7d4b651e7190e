"""Phase encoding as sidecars say it, in BIDS' code or by other words that leave no doubt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np

FIELDS = ("PhaseEncodingDirection", "PhaseEncodingAxis")
"""Fields of a sidecar, the first that is there counts; the axis alone has no polarity."""

VOXEL_AXES = {"i": 0, "j": 1, "k": 2, "x": 0, "y": 1, "z": 2}
"""BIDS' letters of the voxel axes, and those of some tools."""

ANATOMICAL = {"RL": (0, -1), "LR": (0, 1), "AP": (1, -1), "PA": (1, 1), "SI": (2, -1), "IS": (2, 1)}
"""From where to where k-space lines advance in the head: world axis and its sign in RAS."""


def phase_encoding(acquisition: Mapping[str, Any], affine: np.ndarray) -> tuple[dict[str, str], str | None]:
    """Read the phase encoding of a scan.

    Args:
        acquisition: content of its sidecars.
        affine: voxel to world RAS of the scan's file, shape ``(4, 4)``.

    Returns:
        the field with BIDS' code (``j-``) in the axes of the image in RAS, empty where it is not known; and a note
        where the sidecar says something that has no plain meaning.
    """
    for name in FIELDS:
        value = acquisition.get(name)
        if value is None or value == "":
            continue
        code = _to_ras(value, affine)
        if code is None:
            return {}, f"{name} is not known: found {value!r}, expected a voxel axis as 'j-'"
        return {name: code.rstrip("-") if name == "PhaseEncodingAxis" else code}, None
    return {}, None


def _to_ras(value: object, affine: np.ndarray) -> str | None:
    """BIDS' code of an axis of the image in RAS, or None where ``value`` means no axis."""
    if not isinstance(value, str):
        return None
    word = value.strip()
    if word.upper() in ANATOMICAL:
        axis, sign = ANATOMICAL[word.upper()]
    elif match := re.fullmatch(r"([ijkxyz])([+-]?)", word.lower()):
        row, flip = nib.io_orientation(affine)[VOXEL_AXES[match[1]]]
        axis, sign = int(row), int(flip) * (-1 if match[2] == "-" else 1)
    else:
        return None
    return "ijk"[axis] + ("-" if sign < 0 else "")
