"""Direction of the largest fODF peak of one scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor

from scripts.inference.ensemble import axis_dyads, main_axes
from scripts.inference.result import SaveResult, on_network_grid, on_scan_grid
from transforms.white_matter import DIFFUSION_LIMITS

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
"""Data type of colours in NIfTI."""


class SaveDirection(SaveResult):
    """Write the largest peak of each voxel of the white matter, and its colours.

    The transform expects ``pred`` (unit vectors in world RAS on the network's grid, ``(3, X, Y, Z)``), ``image``,
    ``b0``, ``mask`` and ``white_matter``, ``(1, X, Y, Z)``: networks learn the task in white matter only. It writes
    these files, each with ``.json``, and a ``.png`` of the peaks:

    - ``*_desc-peak_dwi.nii.gz``: three volumes with the unit vector in world RAS, and zeros outside white matter.
    - ``*_desc-peakcolour_map.nii.gz``: red for left-right, green for front-back and blue for up-down.
    - ``*_desc-peakdisagreement_map.nii.gz``, for an ensemble: the members' mean angle from their mean axis in degrees.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the results and return ``data`` unchanged."""
        white_matter = on_network_grid(data, "white_matter")
        inside = on_scan_grid(white_matter, self.scan)[0] > 0.5
        axes = on_network_grid(data, "pred")
        # an axis has no sign, so axes are interpolated as dyads
        between = on_scan_grid(MetaTensor(axis_dyads(axes.as_tensor()), affine=axes.affine), self.scan, white_matter)
        peaks = np.moveaxis(main_axes(between * inside).numpy(), 0, -1)

        about = {"Task": "direction", "Limits": DIFFUSION_LIMITS}
        frame = {"Description": "Unit vector of the largest fODF peak in world RAS.", **about}
        self.write("desc-peak_dwi.nii.gz", data, peaks.astype(np.float32), frame)
        colours = np.rint(255 * np.abs(peaks)).astype(np.uint8)
        meaning = {"Description": "Red for left-right, green for front-back, blue for up-down.", **about}
        voxels = np.ascontiguousarray(colours).view(RGB)[..., 0]
        self.write("desc-peakcolour_map.nii.gz", data, voxels, meaning)
        if "disagreement" in data:
            apart = (on_scan_grid(on_network_grid(data, "disagreement"), self.scan, white_matter)[0] * inside).numpy()
            content = {"Description": "Mean angle of the members from their mean axis.", "Units": "degrees"}
            self.write("desc-peakdisagreement_map.nii.gz", data, apart.astype(np.float32), content)
        white = (data["white_matter"][0].cpu().numpy() > 0.5)[..., None]
        shown = np.moveaxis(np.abs(data["pred"].cpu().numpy()), 0, -1) * white
        self.draw("desc-peak_dwi.png", data, "direction", shown, {})
        return dict(data)
