"""A scan with its artifacts removed."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor

from scripts.inference.restoration_change import describe_change, doubt, largest_change_in_training
from scripts.inference.result import SaveResult, on_network_grid, on_scan_grid
from scripts.io.bids import sidecar
from scripts.io.files import read_json, whole_file
from scripts.io.nifti import write_nifti
from transforms.diffusion.sh import sh_interpolation_matrix
from transforms.qspace import apply_to_channels

logger = logging.getLogger(__name__)


class SaveRestoration(SaveResult):
    """Write one scan with its artifacts removed, on its own gradients, grid and intensity scale.

    The network's change is the restored minus the given attenuation. The transform interpolates this change to the
    scan's directions and grid, scales it by the scan's b0 and adds it to the scan's shell. So detail finer than the
    network's voxels stays, volumes of other shells stay as they are, and a network that changes nothing returns the
    scan itself.

    The transform expects ``pred`` and ``image`` (attenuations on the scheme, ``(M, X, Y, Z)``), ``mask`` and
    ``gradients`` (of the scheme). It writes ``*_desc-restored_dwi.nii.gz`` in float32 with ``.bval``, ``.bvec`` and
    ``.json``. The last says by how much the network changed the scan
    (:func:`scripts.inference.restoration_change.describe_change`). A change beyond what training saw is logged and
    noted.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the results and return ``data`` unchanged."""
        scan, acquisition = self.scan, sidecar(self.scan.path)
        # before anything is written: a sidecar that cannot be read leaves no half of a result
        acquired = read_json(acquisition) if acquisition.is_file() else {}
        pred, image, mask = (on_network_grid(data, key).as_tensor() for key in ("pred", "image", "mask"))
        change = (pred - image) * mask
        largest = largest_change_in_training(self.checkpoints[0])
        scheme = np.asarray(data["gradients"])[:, :3]
        # directions first, because the network's grid has fewer voxels. The fit has no smoothing: the even scheme does
        # not need it, and it would take away most of a correction of single directions
        restored = scan.volumes(np.arange(len(scan.gradients)))
        signal = scan.usable(restored[scan.b0], restored[scan.shell])
        back = sh_interpolation_matrix(scheme, signal.gradients[:, :3], smoothing=0.0)
        on_axes = apply_to_channels(change, back)
        change_on_grid = on_scan_grid(MetaTensor(on_axes, affine=data["image"].affine), scan).numpy()

        # volumes that the network was not given stay as they are
        shell = signal.shell_volumes
        restored[shell] += change_on_grid * signal.b0[0].numpy()
        # magnitudes are not negative; a scan with negative values keeps them where nothing changed
        changed = np.any(change_on_grid != 0, axis=0)
        restored[shell] = np.where(changed, np.maximum(restored[shell], 0.0), restored[shell])

        path = self.path("desc-restored_dwi.nii.gz")
        self.check_owner(sidecar(path))
        write_nifti(path, np.moveaxis(restored, 0, -1), scan.affine, header=scan.image.header)
        for ending in ("bval", "bvec"):
            with whole_file(self.path(f"desc-restored_dwi.{ending}")) as partial:
                partial.write_bytes(scan.files[ending].read_bytes())
        changes = describe_change(image, image + change, mask, np.asarray(data["gradients"]))
        note = doubt(changes["MeanAbsoluteChangeOfAttenuation"], largest)
        if note:
            logger.warning("%s: %s", scan, note)
        self.describe(
            "desc-restored_dwi.json",
            {**data, "notes": "; ".join(filter(None, [data.get("notes"), note]))},
            {
                **acquired,
                "Description": "Scan with artifacts removed; shells other than that of BValue are unchanged.",
                **changes,
                **({} if largest is None else {"LargestMeanAbsoluteChangeInTraining": largest}),
            },
        )
        return dict(data)
