"""Pictures of a validation: three slices through a scan, kept on disk and with the tracked run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from scripts.io.files import whole_file
from scripts.training.metrics import angular_error
from scripts.training.processes import rank
from scripts.training.tracking import Tracker
from transforms.label_classes import MAX_NUFO

TISSUE_COLOURS = ListedColormap(["black", "tab:gray", "white", "tab:blue"])
"""Colours of background, gray matter, white matter and cerebrospinal fluid."""

NUFO_COLOURS = ListedColormap(["black", "dimgray", "tab:blue", "tab:orange", "gold"])
"""Colours of voxels outside white matter, and of a NuFO of 0 to 3 in it."""


def slices(volume: np.ndarray) -> list[np.ndarray]:
    """Return three slices through the middle of a RAS volume ``(X, Y, Z, ...)``, to be shown with the origin below.

    They are axial, coronal and sagittal. The subject's left is on the left of the first two, and anterior is on the
    right of the third.
    """
    x, y, z = (n // 2 for n in volume.shape[:3])
    return [np.swapaxes(plane, 0, 1) for plane in (volume[:, :, z], volume[:, y, :], volume[x, :, :])]


def draw(
    rows: Mapping[str, np.ndarray],
    styles: Mapping[str, Mapping[str, object]],
    bars: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Draw one row of three slices per volume.

    Args:
        rows: RAS volumes ``(X, Y, Z)``, or ``(X, Y, Z, 3)`` in red, green and blue, by title.
        styles: arguments of ``imshow`` for each row.
        bars: ticks of the colour bar of each row that gets one.
    """
    bars = bars or {}
    height = 3 * len(rows)
    figure = Figure(figsize=(9, height))
    # a layout that matplotlib looks for takes as long as the drawing
    edges = {"left": 0.01, "right": 0.91 if bars else 0.99, "bottom": 0.1 / height, "top": 1 - 0.3 / height}
    axes = figure.subplots(len(rows), 3, squeeze=False, gridspec_kw={**edges, "hspace": 0.15, "wspace": 0.03})
    for line, (title, volume) in zip(axes, rows.items(), strict=True):
        for axis, image, view in zip(line, slices(volume), ("axial", "coronal", "sagittal"), strict=True):
            shown = axis.imshow(image, origin="lower", interpolation="nearest", **styles[title])
            axis.set(xticks=[], yticks=[], title=f"{title}, {view}")
            left, right = ("P", "A") if view == "sagittal" else ("L", "R")
            for x, letter in ((0.03, left), (0.93, right)):
                axis.text(x, 0.5, letter, color="yellow", transform=axis.transAxes)
        if title in bars:
            box = line[-1].get_position(original=True)
            beside = figure.add_axes((0.93, box.y0 + 0.1 * box.height, 0.015, 0.8 * box.height))
            figure.colorbar(shown, cax=beside, ticks=list(bars[title]))
    return figure


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return np.nan_to_num(tensor.detach().float().cpu().numpy())


def restoration(output: Mapping[str, torch.Tensor]) -> Figure:
    """Draw one direction of the clean, corrupted and restored scan, and what is left of the error."""
    direction = 0
    clean, corrupted, restored = (_numpy(output[key][direction]) for key in ("label", "image", "pred"))
    inside = ~torch.isnan(output["label"][direction]).cpu().numpy()
    restored = restored * inside
    gray = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}
    error = {"cmap": "RdBu_r", "vmin": -0.3, "vmax": 0.3}
    return draw(
        {"clean": clean, "corrupted": corrupted, "restored": restored, "restored - clean": restored - clean},
        {"clean": gray, "corrupted": gray, "restored": gray, "restored - clean": error},
    )


def segmentation(output: Mapping[str, torch.Tensor]) -> Figure:
    """Draw the mean attenuation, the target and the predicted tissue; both as one-hot channels."""
    classes = {"cmap": TISSUE_COLOURS, "vmin": 0, "vmax": 3}
    target, predicted = (_numpy(output[key]).argmax(axis=0) for key in ("label", "pred"))
    return draw(
        {"mean attenuation": _numpy(output["image"]).mean(axis=0), "target": target, "predicted": predicted},
        {"mean attenuation": {"cmap": "gray"}, "target": classes, "predicted": classes},
    )


def crossings(output: Mapping[str, torch.Tensor]) -> Figure:
    """Draw the mean attenuation, the true and the predicted number of fibre orientations (NuFO), in white matter."""
    inside = ~torch.isnan(output["label"][0]).cpu().numpy()
    true = np.where(inside, _numpy(output["label"])[0], -1)
    predicted = np.where(inside, _numpy(output["pred"]).argmax(axis=0), -1)
    classes = {"cmap": NUFO_COLOURS, "vmin": -1.5, "vmax": MAX_NUFO + 0.5}
    bar = range(MAX_NUFO + 1)
    return draw(
        {"mean attenuation": _numpy(output["image"]).mean(axis=0), "true NuFO": true, "predicted NuFO": predicted},
        {"mean attenuation": {"cmap": "gray"}, "true NuFO": classes, "predicted NuFO": classes},
        {"true NuFO": bar, "predicted NuFO": bar},
    )


def direction_colours(axes: np.ndarray) -> np.ndarray:
    """Colour axes by their direction: red is left-right, green posterior-anterior, blue inferior-superior.

    Args:
        axes: unit vectors in world RAS, ``(3, X, Y, Z)``; NaN is black.

    Returns:
        ``(X, Y, Z, 3)`` in [0, 1].
    """
    return np.moveaxis(np.clip(np.abs(np.nan_to_num(axes)), 0.0, 1.0), 0, -1)


def direction(output: Mapping[str, torch.Tensor]) -> Figure:
    """Draw the true and the predicted axes by their colours, and the angle between them, in white matter."""
    outside = torch.isnan(output["label"]).any(dim=0)
    true, predicted = (torch.where(outside, torch.nan, output[key]) for key in ("label", "pred"))
    error = angular_error(true, predicted)
    styles: dict[str, Mapping[str, object]] = {
        "true direction": {},
        "predicted direction": {},
        "error in degrees": {"cmap": "inferno", "vmin": 0, "vmax": 90},
    }
    rows = (direction_colours(_numpy(true)), direction_colours(_numpy(predicted)), error.cpu().numpy())
    return draw(dict(zip(styles, rows, strict=True)), styles, {"error in degrees": range(0, 91, 30)})


class ValidationPicture:
    """Handler of an evaluator: one picture of the first scan of each validation.

    Args:
        picture: function that draws the output of the evaluator for one scan: ``image``, ``label`` and ``pred``, each
            ``(C, X, Y, Z)``.
        folder: folder of the pictures ``epoch_<n>.png``.
        tracker: tracker that keeps the picture with its run as well.
    """

    def __init__(
        self, picture: Callable[[Mapping[str, torch.Tensor]], Figure], folder: str, tracker: Tracker | None = None
    ) -> None:
        self.picture = picture
        self.folder = Path(folder)
        self.tracker = tracker

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        if rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=_first), self)

    def __call__(self, engine: Engine) -> None:
        """Draw the first scan of the batch."""
        output: Any = engine.state.output
        figure = self.picture(output[0])
        name = f"epoch_{engine.state.epoch:04d}.png"
        with whole_file(self.folder / name) as partial:
            figure.savefig(partial, dpi=100)
        if self.tracker:
            self.tracker.log_picture(self.folder / name)


def _first(engine: Engine, event: int) -> bool:
    # MONAI's evaluator counts its iterations from the start in every validation
    return event == 1
