"""Labels of a prepared cohort: tissue maps that the user has, brought to the grid of the prepared scans."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from scripts.cohort.datalist import SPLITS, read_datalist, write_datalist
from scripts.files import code_version, sha256, tissue_table, whole_file, write_json, write_nifti
from scripts.jobs import Outcome, run_jobs
from transforms.errors import InputError
from transforms.scan import open_nifti
from transforms.spatial import ResampleToGrid
from transforms.targets import TISSUE_ABBREVIATIONS, TISSUES


class _Named(dict):
    """An entry of a datalist that prints as its scan's name."""

    def __str__(self) -> str:
        return str(self["scan"])


def find_tissue(derivatives: Path, participant: str, scan: str) -> Path:
    """Find the tissue segmentation of a scan in a BIDS derivative dataset.

    It is the participant's ``<scan>[_space-*][_res-*][_desc-*]_dseg.nii.gz``; one with ``desc-tissue`` is preferred.

    Raises:
        InputError: there is none, or more than one.
    """
    name = re.compile(rf"{re.escape(scan)}(_space-[^_]+)?(_res-[^_]+)?(_desc-[^_]+)?_dseg\.nii\.gz")
    files = sorted(file for file in (derivatives / participant).rglob("*_dseg.nii.gz") if name.fullmatch(file.name))
    preferred = [file for file in files if "_desc-tissue_" in file.name] or files
    if len(preferred) != 1:
        names = ", ".join(file.name for file in preferred) or "none"
        raise InputError(
            f"{derivatives / participant}: found {names}, expected one file {scan}_desc-tissue_dseg.nii.gz."
        )
    return preferred[0]


def read_tissue(path: Path) -> MetaTensor:
    """Read a tissue segmentation as one channel per tissue, 0 or 1, shape ``(4, X, Y, Z)``.

    Raises:
        InputError: a label that is not the index of a tissue.
    """
    image = open_nifti(path, ndim=3)
    labels = np.asarray(image.dataobj)
    values = np.unique(labels)
    if not np.isin(values, range(len(TISSUES))).all():
        expected = ", ".join(f"{index} ({name})" for index, name in enumerate(TISSUES))
        raise InputError(f"{path}: found the labels {', '.join(f'{v:g}' for v in values[:10])}, expected {expected}.")
    channels = np.stack([labels == index for index in range(len(TISSUES))]).astype(np.float32)
    return MetaTensor(torch.from_numpy(channels), affine=torch.as_tensor(image.affine, dtype=torch.float64))


def label_scan(entry: dict[str, Any], folder: Path, derivatives: Path) -> dict[str, Any]:
    """Add the tissue labels of one scan of a prepared cohort.

    Args:
        entry: of the datalist.
        folder: of the prepared cohort.
        derivatives: BIDS derivatives with tissue segmentations that share the scan's world space.

    Returns:
        the entry with ``tissue``.

    Raises:
        InputError: no segmentation, or one that covers less than half of the brain.
    """
    source = find_tissue(derivatives, entry["participant"], entry["scan"])
    image = open_nifti(folder / entry["mask"], ndim=3)
    mask = np.asarray(image.dataobj) > 0
    reference = MetaTensor(torch.from_numpy(mask)[None], affine=torch.as_tensor(image.affine, dtype=torch.float64))
    # fractions are resampled and the largest is taken: labels themselves have no values in between
    fractions = ResampleToGrid()(read_tissue(source), reference)
    tissue = fractions.argmax(dim=0).numpy().astype(np.uint8) * mask
    covered = float((tissue > 0).sum() / max(mask.sum(), 1))
    if covered < 0.5:
        raise InputError(
            f"{source}: found tissue in {covered:.0%} of the brain, expected at least half; is it aligned?"
        )
    path = folder / entry["mask"].replace("_desc-brain_mask.nii.gz", "_desc-tissue_dseg.nii.gz")
    write_nifti(path, tissue, image.affine)
    write_json(
        Path(str(path).replace(".nii.gz", ".json")),
        {
            "Description": "Tissue classes resampled to the grid of the prepared scan.",
            "LabelMap": dict(zip(TISSUE_ABBREVIATIONS, range(len(TISSUES)), strict=True)),
            "Sources": [str(source)],
            "SourceChecksums": {str(source): sha256(source)},
            "Version": code_version(),
        },
    )
    return {**entry, "tissue": str(path.relative_to(folder))}


def label_cohort(folder: Path, tissue_derivatives: Path, jobs: int = 1) -> list[Outcome[dict[str, Any]]]:
    """Add tissue labels to a prepared cohort; scans without a usable segmentation keep what they had.

    Args:
        folder: of the prepared cohort.
        tissue_derivatives: BIDS derivatives with tissue segmentations in the scans' world space.
        jobs: processes.

    Returns:
        the outcome of each scan.

    Raises:
        InputError: no prepared cohort, or no such folder of derivatives.
    """
    if not tissue_derivatives.is_dir():
        raise InputError(f"{tissue_derivatives}: no such folder, expected BIDS derivatives.")
    datalist = read_datalist(folder)
    splits = {entry["participant"]: split for split in SPLITS for entry in datalist[split]}
    entries = [_Named(entry) for split in SPLITS for entry in datalist[split]]
    task = functools.partial(label_scan, folder=folder, derivatives=tissue_derivatives)
    outcomes = run_jobs(task, entries, jobs, "labelling")
    with whole_file(folder / "desc-tissue_dseg.tsv") as partial:
        partial.write_text(tissue_table())
    write_datalist(folder, [outcome.result or dict(outcome.item) for outcome in outcomes], splits)
    return outcomes  # type: ignore[return-value]
