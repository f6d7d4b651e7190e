"""A quick look at labels: one picture per scan, and one table per cohort that shows outliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from scripts.io.files import write_table

MAX_Z = 3.5
"""Largest robust z-score of a measure that is not flagged (Iglewicz and Hoaglin, 1993)."""

MIN_SCANS = 5
"""Smallest number of scans with a measure for which its outliers are flagged."""

TISSUE_OVERLAY = ListedColormap(["tab:red", "gold", "tab:blue"])
"""Colours of gray matter, white matter and cerebrospinal fluid, over the b0."""

NUFO_OVERLAY = ListedColormap(["black", "tab:blue", "tab:orange", "tab:red"])
"""Colours of a NuFO of 0 to 3."""

MEASURES = (
    "brain_ml",
    "gray_matter_ml",
    "white_matter_ml",
    "fluid_ml",
    "one_peak",
    "two_peaks",
    "three_peaks",
    "response_fa",
    "registration_covered",
    "registration_dependence",
    "registration_shift_mm",
    "registration_turn_degrees",
    "white_matter_dice",
)
"""Columns that are compared over the cohort."""

COLUMNS = ("scan", "route", "sh_order", "response_voxels", *MEASURES, "flags")


def picture(
    b0: np.ndarray, mask: np.ndarray, tissue: np.ndarray, nufo: np.ndarray, peak: np.ndarray, title: str
) -> Figure:
    """Draw tissue on the b0, NuFO and the largest peak's direction in three planes.

    Args:
        b0: RAS, shape ``(X, Y, Z)``.
        mask: brain mask.
        tissue: indices of tissues; without a segmentation, white matter alone.
        nufo: number of fibre orientations, 0 to 3.
        peak: unit vectors in world RAS, shape ``(X, Y, Z, 3)``: red left-right, green front-back, blue up-down.
        title: title above all planes.
    """
    x, y, z = (round(float(centre)) for centre in np.argwhere(mask).mean(axis=0))
    planes = (("axial", (slice(None), slice(None), z)), ("coronal", (slice(None), y)), ("sagittal", (x,)))
    bright = np.percentile(b0[mask], 99.5)
    figure = Figure(figsize=(13, 10), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(3, 4)
    for line, (name, where) in zip(axes, planes, strict=True):
        around = b0[where].T
        labels = np.ma.masked_equal(tissue[where].T, 0)
        for axis in line[:3]:
            axis.imshow(around, origin="lower", cmap="gray", vmin=0, vmax=bright, interpolation="nearest")
        line[1].imshow(labels, origin="lower", cmap=TISSUE_OVERLAY, vmin=1, vmax=3, alpha=0.5, interpolation="nearest")
        inside = np.where(nufo[where].T > 0, nufo[where].T, np.nan)
        line[2].imshow(inside, origin="lower", cmap=NUFO_OVERLAY, vmin=0, vmax=3, interpolation="nearest")
        line[3].imshow(np.abs(peak[where]).swapaxes(0, 1), origin="lower", interpolation="nearest")
        left, right = ("P", "A") if name == "sagittal" else ("L", "R")
        for axis, what in zip(line, ("b0", "tissue", "number of peaks", "largest peak"), strict=True):
            axis.set(xticks=[], yticks=[], title=f"{what}, {name}")
            for place, letter in ((0.02, left), (0.94, right)):
                axis.text(place, 0.5, letter, color="yellow", transform=axis.transAxes)
    for column, colours, first, names in (
        (1, TISSUE_OVERLAY, 0, ("gray matter", "white matter", "fluid")),
        (2, NUFO_OVERLAY, 1, ("one", "two", "three")),
    ):
        for index, name in enumerate(names):
            axes[2][column].plot([], [], "s", color=colours(first + index), label=name)
        axes[2][column].legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, fontsize="small")
    return figure


def robust_z(values: np.ndarray) -> np.ndarray:
    """Return distances from the median, in scaled median absolute deviations; 0 for NaN and for equal values."""
    known = np.isfinite(values)
    result = np.zeros(len(values))
    if known.sum() < MIN_SCANS:
        return result
    centre = np.median(values[known])
    deviation = np.abs(values[known] - centre)
    # if more than half of the values are equal, the mean deviation replaces the median deviation of 0
    scale = 1.4826 * np.median(deviation) or 1.2533 * deviation.mean()
    result[known] = (values[known] - centre) / scale if scale > 1e-9 else 0
    return result


def flag_outliers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row under ``flags`` the measures that stand out in the cohort, after its own notes."""
    scores = {
        name: robust_z(np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=float))
        for name in MEASURES
    }
    flagged = []
    for index, row in enumerate(rows):
        words = [f"{name} {'high' if z[index] > 0 else 'low'}" for name, z in scores.items() if abs(z[index]) > MAX_Z]
        flagged.append({**row, "flags": "; ".join([*row.get("notes", []), *words])})
    return flagged


def write_measures(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the cohort's table, tab-separated; as in BIDS, ``n/a`` stands for no value."""
    write_table(path, COLUMNS, [[_cell(row.get(name)) for name in COLUMNS] for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return "n/a"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
