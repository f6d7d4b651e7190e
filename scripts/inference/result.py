"""What all results of a scan share: their names, sidecars and grid."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from scripts.io.bids import DESCRIPTION, describe_dataset, generated_by, scan_name
from scripts.io.files import sha256, whole_file, write_json
from scripts.io.nifti import strip_nifti, write_nifti, write_unit_range
from scripts.training.pictures import draw
from transforms.errors import InputError
from transforms.resampling import ResampleToGrid
from transforms.scan import Scan

logger = logging.getLogger(__name__)


class SaveResult(Transform):
    """Base of what writes a result of one scan.

    Args:
        scan: the raw scan, opened.
        output_dir: folder of the results.
        checkpoint: file of the network's weights, or several of an ensemble; named in the sidecar.
    """

    def __init__(self, scan: Scan, output_dir: str, checkpoint: str | Sequence[str]) -> None:
        self.scan = scan
        self.output_dir = Path(output_dir)
        self.checkpoints = [Path(path) for path in ([checkpoint] if isinstance(checkpoint, str) else checkpoint)]

    def path(self, ending: str) -> Path:
        """Path of a result: the scan's BIDS entities, then ``ending``."""
        return self.output_dir / f"{scan_name(self.scan.path)}_{ending}"

    def write(
        self,
        ending: str,
        data: Mapping[Hashable, Any],
        voxels: np.ndarray,
        content: Mapping[str, Any],
        unit_range: bool = False,
    ) -> None:
        """Write an image on the scan's grid, and its sidecar.

        Args:
            ending: of the file, ``.nii.gz``.
            data: what the network was given.
            voxels: shape ``(X, Y, Z)`` or ``(X, Y, Z, N)``.
            content: of the sidecar, beside what all of them say.
            unit_range: whether these are numbers from 0 to 1, to be stored as 16-bit integers.
        """
        (write_unit_range if unit_range else write_nifti)(self.path(ending), voxels, self.scan.affine)
        self.describe(ending.replace(".nii.gz", ".json"), data, content)

    def describe(self, ending: str, data: Mapping[Hashable, Any], content: Mapping[str, Any]) -> None:
        """Write a sidecar that says what a result was made of and by which network, and what its folder is."""
        path = self.path(ending)
        logger.info("written: %s", strip_nifti(path).removesuffix(".json") + ".nii.gz")
        models = [{"File": path.name, "SHA256": sha256(path)} for path in self.checkpoints]
        write_json(
            path,
            {
                **content,
                "Sources": [str(source) for source in self.scan.files.values()],
                "SourceChecksums": {str(source): sha256(source) for source in self.scan.files.values()},
                "BValue": self.scan.bvalue,
                # of what the network was given; the result has that of the scan
                "VoxelSize": [round(size, 4) for size in data["image"].pixdim.tolist()],
                "Model": models[0] if len(models) == 1 else models,
                "GeneratedBy": generated_by(),
            },
        )
        if not (self.output_dir / DESCRIPTION).is_file():
            describe_dataset(self.output_dir, "Diffusion MRI results of trained networks")

    def draw(
        self, ending: str, data: Mapping[Hashable, Any], title: str, volume: np.ndarray, style: Mapping[str, object]
    ) -> None:
        """Draw a result ``(X, Y, Z)`` or ``(X, Y, Z, 3)`` on the network's grid below the b0, for a quick look."""
        b0, mask = (data[key][0].cpu().numpy() for key in ("b0", "mask"))
        gray = {"cmap": "gray", "vmin": 0, "vmax": float(np.percentile(b0[mask > 0.5], 98))}
        with whole_file(self.path(ending)) as partial:
            draw({"b0": b0, title: volume}, {"b0": gray, title: style}).savefig(partial, dpi=100)


def on_network_grid(data: Mapping[Hashable, Any], key: str) -> MetaTensor:
    """Give what a network returned the affine of what it was given, on the CPU in float32.

    Raises:
        InputError: it is not finite everywhere, which a class or an axis would not show any more.
    """
    image = data[key]
    plain = (image.as_tensor() if isinstance(image, MetaTensor) else image).detach().cpu().float()
    broken = int((~torch.isfinite(plain)).any(dim=0).sum())
    if broken:
        scan = data.get("dwi", "scan")
        raise InputError(f"{scan}: found NaN or infinity in {broken} voxels of the network's {key}, expected numbers.")
    return MetaTensor(plain, affine=data["image"].affine)


def on_scan_grid(image: MetaTensor, scan: Scan, weight: MetaTensor | None = None) -> torch.Tensor:
    """Resample an image to the grid of the raw scan.

    Args:
        image: ``(C, X, Y, Z)``.
        scan: the raw scan.
        weight: how much each voxel counts, ``(1, X, Y, Z)``, 0 or more; by default all count alike. A mask keeps
            what lies outside of it from mixing with what lies inside.

    Returns:
        ``(C, X, Y, Z)``; 0 beyond the network's field of view, and where no voxel around counts.
    """
    if weight is None:
        return ResampleToGrid()(image, scan.grid).as_tensor()
    total = ResampleToGrid()(weight, scan.grid).as_tensor()
    weighted = MetaTensor(image.as_tensor() * weight.as_tensor(), affine=image.affine)
    return torch.where(total > 0, ResampleToGrid()(weighted, scan.grid).as_tensor() / total, 0.0)
