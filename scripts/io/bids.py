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
from transforms.errors import InputError
from transforms.label_classes import TISSUE_ABBREVIATIONS, TISSUES

BIDS_VERSION = "1.10.0"

DESCRIPTION = "dataset_description.json"

TISSUE_TABLE = "desc-tissue_dseg.tsv"

HCP_VISITS = (
    r"sub-([a-z0-9]+)_ses-([a-z0-9]+)",
    r"([a-z0-9]+)[_-]([vf]\d+[a-z]?)(?:[_-][a-z0-9]+)*",
    r"([a-z0-9]+)_(\d{1,2})_mr",
    r"(\d{4,})_(\d{1,2})",
    r"([a-z0-9]+)[_-]([37]t)",
    r"(\d{6}|hc[a-z]\d{7})[_-]([a-z0-9_-]+)",
)
"""Folders of HCP studies, participant and visit, in capitals or not: ``HCA6000000_V1_MR`` of Lifespan, ``1001_01_MR``
of the studies of diseases, ``100307_7T`` of the young adults, who were scanned at two field strengths. What follows a
number as the HCP gives them is a visit, as in ``103818_retest``."""

LABEL_SUFFIXES = {
    "tissue": "desc-tissue_dseg",
    "tissue_prob": "desc-tissue_probseg",
    "white_matter": "desc-wm_mask",
    "nufo": "desc-npeaks_dseg",
    "peak": "desc-peak_dwi",
}
"""What the name of a label's file ends in, by the label's key."""


def entities_of(path: str | PathLike[str]) -> dict[str, str]:
    """Entities of a BIDS name by their keys, ``{"sub": "01", "acq": "x"}`` of ``sub-01_acq-x_dwi.nii.gz``.

    ``desc`` and ``space`` count as entities too. Words without a hyphen, as the suffix, are none.
    """
    words = Path(path).name.split(".")[0].split("_")
    return dict(word.split("-", 1) for word in words if "-" in word)


def _other_words(path: Path) -> set[str]:
    """Words of a name that are neither an entity nor the suffix, as ``AP`` of ``sub-01_AP_dwi.bval``."""
    *words, _ = path.name.split(".")[0].split("_")
    return {word for word in words if "-" not in word}


def inherited(scan: Path, root: Path, ending: str) -> list[Path]:
    """Find the files of a scan by the BIDS inheritance principle, the one that counts most first.

    A file counts for a scan where it lies in the scan's folder or in one above, up to the root of the dataset, has the
    suffix of the scan, and all its entities, and other words of its name, are the scan's. The file of the scan's own
    name comes first, then those nearer to it, then those with more entities
    (https://bids-specification.readthedocs.io/en/stable/common-principles.html#the-inheritance-principle).

    Args:
        scan: image, within ``root``.
        root: of the dataset.
        ending: of the files, as ``.bval``.

    Raises:
        InputError: two files of one folder count equally.
    """
    name = Path(strip_nifti(scan)).name
    suffix, own = name.split("_")[-1], entities_of(scan).items()
    beside = scan.with_name(name + ending)
    found = [beside] if beside.is_file() else []
    for folder in [folder for folder in scan.parents if folder == root or root in folder.parents]:
        names = (f"{suffix}{ending}", f"*_{suffix}{ending}")
        others = {path for pattern in names for path in folder.glob(pattern) if path != beside and path.is_file()}
        fitting = sorted(
            (
                path
                for path in others
                if not path.name.startswith(".")
                and entities_of(path).items() <= own
                and _other_words(path) <= _other_words(scan)
            ),
            key=lambda path: (-len(entities_of(path)), path.name),
        )
        if not found and len(fitting) > 1 and len(entities_of(fitting[0])) == len(entities_of(fitting[1])):
            raise InputError(
                f"{scan}: found {fitting[0].name} and {fitting[1].name} in {folder}, which fit the scan equally, "
                f"expected one file {beside.name}."
            )
        found += fitting
    return found


def scan_name(path: str | PathLike[str]) -> str:
    """Name a scan by its BIDS entities without ``desc``: ``sub-01_dir-AP`` of ``sub-01_dir-AP_dwi.nii.gz``.

    A scan of the HCP, ``<ID>/T1w/Diffusion/data.nii.gz``, is named by its folder.
    """
    parts = Path(path).absolute().parts
    if parts[-3:] == ("T1w", "Diffusion", "data.nii.gz"):
        return hcp_name(parts[-4])[1]
    return re.sub(r"_desc-[^_]+", "", Path(strip_nifti(path)).name.removesuffix("_dwi"))


def hcp_name(folder: str) -> tuple[str, str]:
    """Participant and scan of an HCP folder ``<ID>``: ``HCA6000000_V1_MR`` is a visit of one person."""
    for pattern in HCP_VISITS:
        if visit := re.fullmatch(pattern, folder, re.IGNORECASE):
            return f"sub-{visit[1]}", f"sub-{visit[1]}_ses-{re.sub('[_-]', '', visit[2])}"
    name = f"sub-{folder.removeprefix('sub-')}"
    return name, name


def is_label(text: str) -> bool:
    """Whether a text can name a participant or a scan on disk: letters, digits and ``_+.-``, no folder, not hidden."""
    return re.fullmatch(r"[\w+-][\w+.-]*", text) is not None


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
