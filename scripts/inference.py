"""Inference on one raw scan: check it, and write results on the scan's own grid, named as BIDS does."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from scripts.errors import exits_on_input_error
from scripts.files import code_version, read_json, sha256, tissue_table, whole_file, write_json, write_nifti
from scripts.training.pictures import TISSUE_COLOURS, draw
from transforms.errors import InputError
from transforms.qspace import apply_to_channels, interpolation_matrix
from transforms.scan import Scan, read_mask, strip_nifti
from transforms.spatial import ResampleToGrid
from transforms.targets import TISSUE_ABBREVIATIONS, TISSUES

logger = logging.getLogger(__name__)

PROBABILITY_STEPS = 65535
"""Probabilities are stored as 16-bit integers."""


@exits_on_input_error
def find_scan(
    dwi: str | None,
    bval: str | None = None,
    bvec: str | None = None,
    brain_mask: str | None = None,
    bvalue: float = 1000.0,
) -> list[dict[str, str]]:
    """Check a raw scan before anything is computed, and list it for a MONAI dataset.

    Args:
        dwi: NIfTI file of the scan, any affine.
        bval: b-values; by default beside the scan.
        bvec: b-vectors; by default beside the scan.
        brain_mask: mask on the scan's grid; by default ``median_otsu`` finds one.
        bvalue: b-value of the shell in s/mm2.

    Returns:
        one entry with the paths that were given.

    Raises:
        SystemExit: the scan cannot be used; one sentence says why.
    """
    if dwi is None:
        raise InputError("--dwi: found nothing, expected the NIfTI file of a diffusion scan.")
    scan = Scan(dwi, bval, bvec, bvalue)
    if brain_mask:
        read_mask(brain_mask, scan)
    given = {"dwi": dwi, "bval": bval, "bvec": bvec, "brain_mask": brain_mask}
    return [{key: str(path) for key, path in given.items() if path}]


class _SaveResult(Transform):
    """What both kinds of results share: where they go, and what their sidecar says."""

    def __init__(self, output_dir: str, checkpoint: str, bvalue: float) -> None:
        self.output_dir = Path(output_dir)
        self.checkpoint = Path(checkpoint)
        self.bvalue = bvalue

    def scan(self, data: Mapping[Hashable, Any]) -> Scan:
        return Scan(data["dwi"], data.get("bval"), data.get("bvec"), self.bvalue)

    def path(self, scan: Scan, ending: str) -> Path:
        """Path of a result: the scan's BIDS entities, then ``ending``."""
        entities = re.sub(r"_desc-[^_]+", "", Path(strip_nifti(scan.path)).name.removesuffix("_dwi"))
        return self.output_dir / f"{entities}_{ending}"

    def describe(self, path: Path, scan: Scan, content: Mapping[str, Any]) -> None:
        logger.info("written: %s", strip_nifti(path).removesuffix(".json") + ".nii.gz")
        sources = [scan.path, scan.bval, scan.bvec]
        write_json(
            path,
            {
                **content,
                "Sources": [str(source) for source in sources],
                "SourceChecksums": {str(source): sha256(source) for source in sources},
                "Model": {"File": self.checkpoint.name, "SHA256": sha256(self.checkpoint)},
                "GeneratedBy": [{"Name": "dmri-pretraining", "Version": code_version()}],
            },
        )


def _on(image: MetaTensor, affine: torch.Tensor) -> MetaTensor:
    """Give what a network returned the affine of what it was given, on the CPU in float32."""
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    return MetaTensor(plain.detach().cpu().float(), affine=affine)


def _scan_grid(scan: Scan) -> MetaTensor:
    affine = torch.as_tensor(scan.nifti.affine, dtype=torch.float64)
    return MetaTensor(torch.zeros(1, *scan.nifti.shape[:3]), affine=affine)


class SaveTissue(_SaveResult):
    """Write the tissue map of one scan: labels, probabilities, and a picture for a quick look.

    Expects ``pred`` (probabilities on the network's grid, ``(4, X, Y, Z)``), ``image``, ``b0`` and ``mask``. Writes
    ``*_desc-tissue_dseg.nii.gz`` (indices as in BIDS: 1 gray matter, 2 white matter, 3 CSF), its ``.json``, ``.tsv``
    and ``.png``, and ``*_desc-tissue_probseg.nii.gz`` (volumes in the same order, background first).

    Args:
        output_dir: folder of the results.
        checkpoint: file of the network's weights, named in the sidecar.
        bvalue: b-value of the shell in s/mm2.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the results; ``data`` is returned as it came."""
        scan = self.scan(data)
        affine = data["image"].affine
        to_scan = ResampleToGrid()
        grid = _scan_grid(scan)
        inside = to_scan(_on(data["mask"], affine), grid)[0] > 0.5
        probabilities = to_scan(_on(data["pred"], affine), grid).as_tensor()
        # beyond the network's field of view there is nothing but background
        probabilities[0] += 1.0 - probabilities.sum(dim=0)
        probabilities = torch.where(inside, probabilities, torch.eye(len(TISSUES))[0][:, None, None, None])
        labels = probabilities.argmax(dim=0)

        path = self.path(scan, "desc-tissue_dseg.nii.gz")
        write_nifti(path, labels.numpy().astype(np.uint8), scan.nifti.affine)
        steps = torch.round(probabilities * PROBABILITY_STEPS).numpy().astype(np.uint16)
        write_nifti(
            self.path(scan, "desc-tissue_probseg.nii.gz"),
            np.moveaxis(steps, 0, -1),
            scan.nifti.affine,
            slope=1 / PROBABILITY_STEPS,
        )
        with whole_file(self.path(scan, "desc-tissue_dseg.tsv")) as partial:
            partial.write_text(tissue_table())
        for name in ("dseg", "probseg"):
            self.describe(
                self.path(scan, f"desc-tissue_{name}.json"),
                scan,
                {"LabelMap": list(TISSUE_ABBREVIATIONS), "Task": "segmentation"},
            )
        self._draw(data, path)
        return dict(data)

    @staticmethod
    def _draw(data: Mapping[Hashable, Any], path: Path) -> None:
        b0 = data["b0"][0].cpu().numpy()
        inside = data["mask"][0].cpu().numpy() > 0.5
        tissue = data["pred"].argmax(dim=0).cpu().numpy()
        styles: dict[str, dict[str, object]] = {
            "b0": {"cmap": "gray", "vmin": 0, "vmax": float(np.percentile(b0[inside], 98))},
            "tissue": {"cmap": TISSUE_COLOURS, "vmin": 0, "vmax": len(TISSUES) - 1},
        }
        with whole_file(Path(strip_nifti(path) + ".png")) as partial:
            draw({"b0": b0, "tissue": tissue}, styles).savefig(partial, dpi=100)


class SaveRestoration(_SaveResult):
    """Write one scan with its artifacts removed: its own gradients, grid and intensity scale.

    What the network changed, restored minus given attenuation, is interpolated to the scan's directions and grid,
    scaled by its b0 and added to its shell. So detail finer than the network's voxels is kept, volumes of other shells
    stay as they are, and a network that changes nothing returns the scan itself.

    Expects ``pred`` and ``image`` (attenuations on the scheme, ``(M, X, Y, Z)``), ``mask`` and ``gradients`` (of the
    scheme). Writes ``*_desc-restored_dwi.nii.gz`` in float32 with ``.bval``, ``.bvec`` and ``.json``.

    Args:
        output_dir: folder of the results.
        checkpoint: file of the network's weights, named in the sidecar.
        bvalue: b-value of the shell in s/mm2.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the results; ``data`` is returned as it came."""
        scan = self.scan(data)
        affine = data["image"].affine
        pred, image, mask = (_on(data[key], affine).as_tensor() for key in ("pred", "image", "mask"))
        change = (pred - image) * mask
        scheme = np.asarray(data["gradients"])[:, :3]
        # to the scan's directions first: they are fewer voxels to do it on; without smoothing, which the even scheme
        # does not need, and which would take most of a correction of single directions away again
        back = interpolation_matrix(scheme, scan.shell_gradients[:, :3], smoothing=0.0)
        on_axes = apply_to_channels(change, back)
        change_on_grid = ResampleToGrid()(MetaTensor(on_axes, affine=affine), _scan_grid(scan)).numpy()

        restored = scan.volumes(np.arange(len(scan.gradients)))
        b0 = restored[scan.b0].mean(axis=0)
        restored[scan.shell] += change_on_grid * b0
        # magnitudes have no sign; a scan that came with negative values keeps them where nothing was changed
        changed = np.any(change_on_grid != 0, axis=0)
        restored[scan.shell] = np.where(changed, np.maximum(restored[scan.shell], 0.0), restored[scan.shell])

        path = self.path(scan, "desc-restored_dwi.nii.gz")
        write_nifti(path, np.moveaxis(restored, 0, -1), scan.nifti.affine, header=scan.nifti.header)
        for source, ending in ((scan.bval, "bval"), (scan.bvec, "bvec")):
            with whole_file(self.path(scan, f"desc-restored_dwi.{ending}")) as partial:
                partial.write_bytes(source.read_bytes())
        acquisition = Path(strip_nifti(scan.path) + ".json")
        self.describe(
            self.path(scan, "desc-restored_dwi.json"),
            scan,
            {
                **(read_json(acquisition) if acquisition.is_file() else {}),
                "Description": "Scan with artifacts removed; shells other than that of BValue are unchanged.",
                "BValue": self.bvalue,
                "MeanAbsoluteChangeOfAttenuation": float(change.abs().sum() / mask.sum() / len(change)),
            },
        )
        return dict(data)
