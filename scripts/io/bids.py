"""Names, sidecars and descriptions of BIDS files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from scripts.io.files import write_json, write_text
from scripts.io.nifti import strip_nifti
from scripts.version import code_version
from transforms.label_classes import TISSUE_ABBREVIATIONS, TISSUES

BIDS_VERSION = "1.10.0"

DESCRIPTION = "dataset_description.json"

TISSUE_TABLE = "desc-tissue_dseg.tsv"

LABEL_SUFFIXES = {
    "tissue": "desc-tissue_dseg",
    "tissue_prob": "desc-tissue_probseg",
    "white_matter": "desc-wm_mask",
    "nufo": "desc-npeaks_dseg",
    "peak": "desc-peak_dwi",
}
"""What the name of a label's file ends in, by the label's key."""


def scan_name(path: str | PathLike[str]) -> str:
    """BIDS entities that name a scan, without ``desc``: ``sub-01_dir-AP`` of ``sub-01_dir-AP_dwi.nii.gz``."""
    return re.sub(r"_desc-[^_]+", "", Path(strip_nifti(path)).name.removesuffix("_dwi"))


def session_of(name: str) -> str | None:
    """Session of a scan's name with its prefix, ``ses-2``, or None."""
    found = re.search(r"_(ses-[^_]+)", name)
    return found[1] if found else None


def description_of(key: str) -> str:
    """Value of ``desc`` in the names of a label's files, ``npeaks`` of ``nufo``."""
    return LABEL_SUFFIXES[key].removeprefix("desc-").split("_")[0]


def sidecar(image: str | PathLike[str]) -> Path:
    """JSON beside an image."""
    return Path(strip_nifti(image) + ".json")


def generated_by() -> list[dict[str, str]]:
    """``GeneratedBy`` of a derivative that this code makes."""
    return [{"Name": "dmri-pretraining", "Version": code_version()}]


def describe_dataset(
    folder: Path, name: str, kind: str = "derivative", content: Mapping[str, Any] | None = None
) -> None:
    """Write the ``dataset_description.json`` of a folder.

    Args:
        folder: of the dataset.
        name: of the dataset.
        kind: ``raw`` or ``derivative``.
        content: what else it says; ``GeneratedBy`` is that of this code unless it stands here.
    """
    made = {"GeneratedBy": generated_by()} if kind == "derivative" else {}
    described = {"Name": name, "BIDSVersion": BIDS_VERSION, "DatasetType": kind, **made, **(content or {})}
    write_json(folder / DESCRIPTION, described)


def write_tissue_table(folder: Path, name: str = TISSUE_TABLE) -> None:
    """Write the lookup table of the tissue classes in BIDS' form, to stand beside ``dseg`` images."""
    rows = [f"{index}\t{name}\t{TISSUE_ABBREVIATIONS[index]}" for index, name in enumerate(TISSUES)]
    write_text(folder / name, "\n".join(["index\tname\tabbreviation", *rows]) + "\n")
