"""Results of a scan: the names, sidecars and grid that all of them share."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from scripts.io.bids import DESCRIPTION, describe_dataset, generated_by, scan_name, sidecar
from scripts.io.files import read_json, sha256, whole_file, write_json
from scripts.io.nifti import strip_nifti, write_nifti, write_unit_range
from scripts.training.pictures import draw
from transforms.errors import InputError, counted
from transforms.resampling import ResampleToGrid
from transforms.scan import Scan
from transforms.values import count_not_finite

logger = logging.getLogger(__name__)


class SaveResult(Transform):
    """Base class of the transforms that write a result of one scan.

    Args:
        scan: the raw scan, opened.
        output_dir: folder of the results.
        checkpoint: file of the network's weights, or several files of an ensemble; the sidecar names them.
    """

    def __init__(self, scan: Scan, output_dir: str, checkpoint: str | Sequence[str]) -> None:
        self.scan = scan
        self.output_dir = Path(output_dir)
        self.checkpoints = [Path(path) for path in ([checkpoint] if isinstance(checkpoint, str) else checkpoint)]

    def path(self, ending: str) -> Path:
        """Return the path of a result: the scan's BIDS entities, then ``ending``."""
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
            ending: end of the file's name, up to ``.nii.gz``.
            data: data that the network was given.
            voxels: voxels of the image, ``(X, Y, Z)`` or ``(X, Y, Z, N)``.
            content: entries of the sidecar beside those of all results.
            unit_range: whether the voxels are numbers from 0 to 1, which are stored as 16-bit integers.
        """
        self.check_owner(sidecar(self.path(ending)))
        (write_unit_range if unit_range else write_nifti)(self.path(ending), voxels, self.scan.affine)
        self.describe(ending.replace(".nii.gz", ".json"), data, content)

    def check_owner(self, path: Path) -> None:
        """Refuse to write over the result of another scan that has the same name.

        Args:
            path: sidecar of the result.

        Raises:
            InputError: it is there, and names another scan.
        """
        if not path.is_file():
            return
        checksums = read_json(path).get("SourceChecksums")
        if not isinstance(checksums, dict) or not checksums:
            return
        source, checksum = next(iter(checksums.items()))
        same_place = Path(source).is_absolute() and Path(source).resolve() == self.scan.path.resolve()
        if not same_place and checksum != sha256(self.scan.path):
            raise InputError(f"{path}: found the result of {source}, expected another --output_dir for {self.scan}.")

    def describe(self, ending: str, data: Mapping[Hashable, Any], content: Mapping[str, Any]) -> None:
        """Write the sidecar of a result, with its sources and network; describe the folder if nothing does yet."""
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
                **({"Notes": data["notes"]} if data.get("notes") else {}),
                # voxel size of the network's input; the result has that of the scan
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
    """Return an output of the network with the affine of its input, on the CPU in float32.

    Raises:
        InputError: the output is not finite everywhere, which a class or an axis would no longer show.
    """
    image = data[key]
    plain = (image.as_tensor() if isinstance(image, MetaTensor) else image).detach().cpu().float()
    if broken := count_not_finite(plain):
        scan = data.get("dwi", "scan")
        voxels = counted(broken, "voxel")
        raise InputError(f"{scan}: found NaN or infinity in {voxels} of the network's {key}, expected numbers.")
    return MetaTensor(plain, affine=data["image"].affine)


def on_scan_grid(image: MetaTensor, scan: Scan, weight: MetaTensor | None = None) -> torch.Tensor:
    """Resample an image to the grid of the raw scan.

    Args:
        image: ``(C, X, Y, Z)``.
        scan: the raw scan.
        weight: weight of each voxel, ``(1, X, Y, Z)``, 0 or more; by default all voxels count alike. A mask as weight
            keeps voxels outside it from mixing with voxels inside.

    Returns:
        ``(C, X, Y, Z)``; 0 beyond the network's field of view, and where all voxels around have weight 0.
    """
    if weight is None:
        return ResampleToGrid()(image, scan.grid).as_tensor()
    total = ResampleToGrid()(weight, scan.grid).as_tensor()
    weighted = MetaTensor(image.as_tensor() * weight.as_tensor(), affine=image.affine)
    return torch.where(total > 0, ResampleToGrid()(weighted, scan.grid).as_tensor() / total, 0.0)
