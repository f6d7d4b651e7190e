"""Class maps of one scan: tissue, and number of fibre orientations (NuFO)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.colors import Colormap

from scripts.inference.result import SaveResult, on_network_grid, on_scan_grid
from scripts.io.bids import description_of, write_tissue_table
from scripts.training.pictures import TISSUE_COLOURS
from transforms.label_classes import MAX_NUFO, TISSUE_ABBREVIATIONS
from transforms.white_matter import DIFFUSION_LIMITS


class SaveClasses(SaveResult):
    """Write the most probable class of each voxel, all probabilities, and a picture for a quick look.

    The transform expects ``pred`` (probabilities on the network's grid, ``(K, X, Y, Z)``), ``image``, ``b0`` and
    ``mask``; for an ensemble also ``disagreement``, ``(1, X, Y, Z)``. It writes ``*_desc-<name>_dseg.nii.gz`` with
    ``.json`` and ``.png``, and ``*_desc-<name>_probseg.nii.gz`` (a volume per class). For an ensemble it also writes
    ``*_desc-<name>disagreement_map.nii.gz``. The probabilities are resampled to the scan's grid, not the classes.
    """

    name: ClassVar[str]
    task: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    inside_key: ClassVar[str]
    only_inside: ClassVar[bool]
    """Whether the network's output means nothing outside, so that it must not mix with the output inside."""
    colours: ClassVar[str | Colormap]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the results and return ``data`` unchanged."""
        mask = on_network_grid(data, self.inside_key)
        inside = on_scan_grid(mask, self.scan)[0] > 0.5
        weight = mask if self.only_inside else None
        probabilities = on_scan_grid(on_network_grid(data, "pred"), self.scan, weight)
        # beyond the network's field of view, and outside the mask that it was trained in, class 0 is certain
        probabilities[0] += 1.0 - probabilities.sum(dim=0)
        nothing = torch.eye(len(self.classes))[0][:, None, None, None]
        probabilities = torch.where(inside, probabilities, nothing)

        limits = {"Limits": DIFFUSION_LIMITS} if self.only_inside else {}
        content = {"LabelMap": list(self.classes), "Task": self.task, **limits}
        labels = probabilities.argmax(dim=0).numpy().astype(np.uint8)
        self.write(f"desc-{self.name}_dseg.nii.gz", data, labels, content)
        volumes = np.moveaxis(probabilities.numpy(), 0, -1)
        self.write(f"desc-{self.name}_probseg.nii.gz", data, volumes, content, unit_range=True)
        if "disagreement" in data:
            apart = on_scan_grid(on_network_grid(data, "disagreement"), self.scan, weight)[0] * inside
            description = "Mean total variation distance of the members' probabilities from their mean, 0 to 1."
            name = f"desc-{self.name}disagreement_map.nii.gz"
            content = {"Description": description, "Task": self.task}
            self.write(name, data, apart.numpy(), content, unit_range=True)
        shown = (data["pred"].argmax(dim=0) * (data[self.inside_key][0] > 0.5)).cpu().numpy()
        style = {"cmap": self.colours, "vmin": 0, "vmax": len(self.classes) - 1}
        self.draw(f"desc-{self.name}_dseg.png", data, self.task, shown, style)
        return dict(data)


class SaveTissue(SaveClasses):
    """Write the tissue map of one scan, with the indices of BIDS: 1 gray matter, 2 white matter, 3 CSF.

    The files are those of :class:`SaveClasses` with the name ``tissue``, and ``*_desc-tissue_dseg.tsv``.
    """

    name = description_of("tissue")
    task = "segmentation"
    classes = TISSUE_ABBREVIATIONS
    inside_key = "mask"
    only_inside = False
    colours = TISSUE_COLOURS

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the results and return ``data`` unchanged."""
        result = super().__call__(data)
        write_tissue_table(self.output_dir, self.path("desc-tissue_dseg.tsv").name)
        return result


class SaveCrossings(SaveClasses):
    """Write the number of fibre orientations (NuFO) in the white matter of one scan, 0 to 3; 0 elsewhere.

    The files are those of :class:`SaveClasses` with the name ``npeaks``. The transform also expects ``white_matter``,
    ``(1, X, Y, Z)``: networks learn the task in white matter only, and their output elsewhere means nothing.
    """

    name = description_of("nufo")
    task = "crossings"
    classes = tuple(map(str, range(MAX_NUFO + 1)))
    inside_key = "white_matter"
    only_inside = True
    colours = "viridis"
