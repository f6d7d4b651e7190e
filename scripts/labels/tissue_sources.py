"""Tissue of a scan: from its T1-weighted image, or from the user's segmentation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from scripts.io.volume import as_volume
from scripts.labels import t1_tissue, user_segmentations
from scripts.labels.alignment import Alignment, with_affine
from scripts.labels.shell_on_grid import Shell
from scripts.labels.t1_registration import register_t1
from transforms.errors import InputError
from transforms.label_classes import TISSUE_ABBREVIATIONS

WHITE = TISSUE_ABBREVIATIONS.index("WM")

MIN_DICE = 0.4
"""Smallest Dice of white matter by the T1 or a given segmentation with that by FA and MD; with less it is not used."""

USUAL_DICE = 0.6
"""Dice that aligned scans have at least; with less, the scan gets a note."""


@dataclass(frozen=True)
class Tissue:
    """Tissue of a scan from a T1-weighted image or from the user's segmentation.

    Attributes:
        fractions: tissue fractions of each of ``TISSUES``, ``(4, X, Y, Z)``; None if the source cannot be used.
        measures: measures of the registration, and of the overlap with the white matter by diffusion.
        remark: note for the user, or the reason why there are no fractions.
    """

    fractions: np.ndarray | None
    measures: dict[str, Any]
    remark: str | None = None


def from_t1(path: Path, shell: Shell, mask: MetaTensor, by_diffusion: np.ndarray) -> Tissue:
    """Segment tissue by a T1.

    A scan whose T1 cannot be used gets no tissue, but keeps the labels that come from diffusion alone.
    """
    measures: dict[str, Any] = {}
    try:
        t1 = t1_tissue.read_t1(path)
        alignment = _register(t1, shell, mask)
        measures = _describe_alignment(alignment)
        if alignment.problem:
            return Tissue(None, measures, f"T1 not used: {alignment.problem}")
        fractions = t1_tissue.tissue_from_t1(with_affine(t1, alignment.matrix), mask)
    except InputError as error:
        return Tissue(None, measures, f"T1 not used: {str(error).removesuffix('.')}")
    overlap = dice(fractions.argmax(axis=0) == WHITE, by_diffusion)
    if overlap < MIN_DICE:
        found = f"white matter of the T1 and of the diffusion tensor overlap with a Dice of {overlap:.2f}"
        remark = f"T1 not used: {found}, expected at least {MIN_DICE:g}"
        return Tissue(None, measures | {"white_matter_dice": overlap}, remark)
    return Tissue(fractions, measures)


def from_segmentation(scan: str, own: Sequence[Path], t1: Path | None, shell: Shell, mask: MetaTensor) -> Tissue:
    """Return the tissue by the user's segmentation, with a remark on its space.

    Raises:
        InputError: the segmentation cannot be used, or lies in the space of a T1 that cannot be registered.
    """
    if not user_segmentations.in_t1_space(own[0]):
        return Tissue(user_segmentations.tissue_from_segmentation(own, mask), {})
    if t1 is None:
        remark = f"{own[0].name} lies in the space of a T1 that is not there: placed by its affine alone"
        return Tissue(user_segmentations.tissue_from_segmentation(own, mask), {}, remark)
    alignment = _register(t1_tissue.read_t1(t1), shell, mask)
    if alignment.problem:
        raise InputError(
            f"{own[0]}: found it in the space of a T1 that could not be registered ({alignment.problem}), "
            "expected one that can, or a segmentation in the space of the diffusion scan."
        )
    of_all_sessions = "_ses-" in scan and re.match(r"sub-[^_]+_(?!ses-)", own[0].name)
    placed = None
    if of_all_sessions and user_segmentations.t1_of(own[0]) is None:
        placed = f"{own[0].name} is one of all sessions without its T1 beside it: placed by this session's T1"
    fractions = user_segmentations.tissue_from_segmentation(own, mask, alignment.matrix)
    return Tissue(fractions, _describe_alignment(alignment), placed)


def _register(t1: MetaTensor, shell: Shell, mask: MetaTensor) -> Alignment:
    return register_t1(t1, as_volume(shell.mean_attenuation[None], shell.affine), mask)


def _describe_alignment(alignment: Alignment) -> dict[str, Any]:
    """Return the measures of a registration for the table and the JSON."""
    return {
        "registration_covered": alignment.covered,
        "registration_dependence": alignment.dependence,
        "registration_shift_mm": alignment.shift,
        "registration_turn_degrees": alignment.turn,
        "T1ToDiffusion": np.linalg.inv(alignment.matrix).tolist(),
    }


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the overlap of two masks, 0 to 1 (Dice, Ecology 26:297-302, 1945)."""
    total = int(first.sum() + second.sum())
    return float(2 * (first & second).sum() / total) if total else 0.0
