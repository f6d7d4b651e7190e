"""Where the raw scans of a cohort lie: the layouts ``bids`` and ``hcp``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bids import BIDSLayout

from scripts.io.bids import scan_name
from scripts.io.nifti import strip_nifti
from scripts.io.raw_scan import open_scan
from transforms.errors import InputError
from transforms.scan import Scan


@dataclass(frozen=True)
class RawScan:
    """The files of one diffusion scan.

    Attributes:
        participant: BIDS label with its prefix, e.g. ``sub-01``.
        name: BIDS entities that name the scan, e.g. ``sub-01_ses-2_dir-AP``.
        dwi: the diffusion-weighted image.
        bval: its b-values.
        bvec: its b-vectors.
        brain_mask: a given brain mask on its grid, or None.
        t1w: a T1-weighted image of the same participant and session, or None.
        phase_encoding: ``PhaseEncodingDirection`` (``j-``) or, where the polarity is not known, ``PhaseEncodingAxis``
            (``j``), by that name, in the voxel axes of the file; empty where neither is known.
    """

    participant: str
    name: str
    dwi: Path
    bval: Path
    bvec: Path
    brain_mask: Path | None = None
    t1w: Path | None = None
    phase_encoding: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def open(self, bvalue: float) -> Scan:
        """Open the scan with its shell of ``bvalue`` s/mm2; see :func:`scripts.io.raw_scan.open_scan`."""
        return open_scan(self.dwi, self.bval, self.bvec, self.brain_mask, bvalue)


def _gradient_file(get: Callable[[Path], str | None], dwi: Path, ending: str) -> Path:
    """Find the file by BIDS inheritance; where there is none, name the one that is missing beside the scan."""
    beside = Path(strip_nifti(dwi) + ending)
    try:
        return Path(get(dwi) or beside)
    except IndexError:  # how pybids says that it found none
        return beside


def _phase_encoding(metadata: Mapping[str, Any]) -> dict[str, str]:
    for name in ("PhaseEncodingDirection", "PhaseEncodingAxis"):
        if metadata.get(name):
            return {name: str(metadata[name])}
    return {}


def _find_mask(masks: BIDSLayout, entities: Mapping[str, Any]) -> Path | None:
    """Find the brain mask of exactly one scan: its entities are the scan's, no more and no fewer."""

    def scan_of(found: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in found.items() if key not in ("suffix", "extension", "desc", "datatype")}

    for file in masks.get(
        subject=entities["subject"], suffix="mask", desc="brain", datatype="dwi", extension=[".nii.gz", ".nii"]
    ):
        if scan_of(file.get_entities(metadata=False)) == scan_of(entities):
            return Path(file.path)
    return None


def _find_t1w(layout: BIDSLayout, root: Path, entities: Mapping[str, Any]) -> Path | None:
    """Find the T1-weighted image of a scan's participant and session; of several, the first by name."""
    same = {key: entities[key] for key in ("subject", "session") if key in entities}
    found = layout.get(**same, suffix="T1w", extension=[".nii.gz", ".nii"])
    paths = sorted(Path(file.path) for file in found if file.get_entities(metadata=False).get("part", "mag") == "mag")
    return next((path for path in paths if (root / "derivatives") not in path.parents), None)


def find_bids(root: Path, derivatives: Path | None = None) -> list[RawScan]:
    """Find the diffusion scans of a BIDS dataset.

    Args:
        root: the raw dataset.
        derivatives: a BIDS derivative dataset that holds brain masks (``desc-brain_mask`` in ``dwi``), or None.
    """
    if not (root / "dataset_description.json").is_file():
        raise InputError(f"{root}: found no dataset_description.json, expected a BIDS dataset.")
    # pybids warns of every file that it does not know; what matters here is said when a scan is read
    logging.getLogger("bids").setLevel(logging.ERROR)
    layout = BIDSLayout(root, validate=False)
    masks = BIDSLayout(derivatives, validate=False, is_derivative=True) if derivatives else None
    scans = []
    for file in layout.get(suffix="dwi", extension=[".nii.gz", ".nii"]):
        dwi = Path(file.path)
        if (root / "derivatives") in dwi.parents:
            continue
        entities = file.get_entities(metadata=False)
        if entities.get("part", "mag") != "mag":
            continue  # phase images hold no signal
        scans.append(
            RawScan(
                participant=f"sub-{entities['subject']}",
                name=scan_name(dwi),
                dwi=dwi,
                bval=_gradient_file(layout.get_bval, dwi, ".bval"),
                bvec=_gradient_file(layout.get_bvec, dwi, ".bvec"),
                brain_mask=_find_mask(masks, entities) if masks else None,
                t1w=_find_t1w(layout, root, entities),
                phase_encoding=_phase_encoding(file.get_metadata()),
            )
        )
    if not scans:
        raise InputError(f"{root}: found no file sub-*_dwi.nii.gz, expected a BIDS dataset with diffusion scans.")
    scans.sort(key=lambda scan: scan.name)
    for first, second in pairwise(scans):
        if first.name == second.name:
            raise InputError(f"{first.dwi} and {second.dwi}: found two versions of one scan, expected one.")
    return scans


HCP_T1W = ("T1w_acpc_dc_restore_brain.nii.gz", "T1w_acpc_dc_restore.nii.gz", "T1w_acpc_dc_restore_1.25.nii.gz")
"""Names of the T1-weighted image in ``<ID>/T1w``; the first that is there is taken."""


def find_hcp(root: Path, derivatives: Path | None = None) -> list[RawScan]:
    """Find the preprocessed diffusion scans of the Human Connectome Project: ``<ID>/T1w/Diffusion/data.nii.gz``."""
    if derivatives:
        raise InputError(f"{derivatives}: found derivatives, expected none: HCP scans come with a brain mask.")
    scans = []
    for folder in sorted(root.glob("*/T1w/Diffusion")):
        participant = f"sub-{folder.parent.parent.name}"
        mask = folder / "nodif_brain_mask.nii.gz"
        scans.append(
            RawScan(
                participant=participant,
                name=participant,
                dwi=folder / "data.nii.gz",
                bval=folder / "bvals",
                bvec=folder / "bvecs",
                brain_mask=mask if mask.is_file() else None,
                t1w=next((path for name in HCP_T1W if (path := folder.parent / name).is_file()), None),
            )
        )
    if not scans:
        raise InputError(f"{root}: found no folder <ID>/T1w/Diffusion, expected HCP's preprocessed diffusion data.")
    return scans


LAYOUTS: dict[str, Callable[[Path, Path | None], list[RawScan]]] = {"bids": find_bids, "hcp": find_hcp}


def find_scans(layout: str, root: Path, derivatives: Path | None = None) -> list[RawScan]:
    """Find the raw scans below ``root``, sorted by name.

    Args:
        layout: a key of ``LAYOUTS``.
        root: folder of the raw cohort.
        derivatives: BIDS derivatives with brain masks, or None.

    Raises:
        InputError: unknown layout, missing folder, or no scan in it.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout: found {layout!r}, expected one of {', '.join(LAYOUTS)}.")
    for folder in (root, derivatives):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder, expected a cohort.")
    return LAYOUTS[layout](root, derivatives)
