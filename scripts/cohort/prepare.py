"""Raw scans to a prepared cohort: attenuations on one scheme and voxel size, as BIDS derivatives with a datalist."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from scripts.cohort.datalist import DATALIST, FOUR_DIMENSIONAL, LABELS, assign_splits, read_datalist, write_datalist
from scripts.cohort.layouts import RawScan, find_scans
from scripts.files import code_version, read_json, sha256, whole_file, write_json, write_nifti
from scripts.jobs import Outcome, run_jobs
from transforms.errors import InputError
from transforms.gradients import unique_axes, write_gradients
from transforms.qspace import MAX_SH_ORDER, sh_order
from transforms.scan import Scan, ScanToInput, open_nifti
from transforms.scheme import DEFAULT_SCHEME, SAME_AXIS_DEGREES, load_scheme

ATTENUATION_STEPS = 65535
"""Attenuations are stored as 16-bit integers: steps of 1.5e-5, far below any scanner's noise, at half the size."""

DEFAULT_SPLITS = {"bids": (15.0, 5.0, 8.0), "hcp": (45.0, 5.0, 0.0)}
"""Participants for training, validation and test in Weninger et al., BVM 2022: clinical and auxiliary cohort."""


RAW_FILES = ("dwi", "bval", "bvec", "brain_mask", "t1w")
"""Files of a raw scan whose places a prepared scan keeps, for what is made of them later: attributes of RawScan."""


@dataclass(frozen=True)
class Preparation:
    """How scans are prepared; one cohort is prepared in one way.

    Attributes:
        bvalue: b-value of the shell in s/mm2.
        voxel_size: in mm.
        scheme: SHA-256 of the scheme file.
    """

    bvalue: float
    voxel_size: float
    scheme: str


def _stem(folder: Path, scan: RawScan) -> Path:
    session = [part for part in scan.name.split("_") if part.startswith("ses-")]
    return folder.joinpath(scan.participant, *session, "dwi", scan.name)


def _to_ras(code: str, affine: np.ndarray) -> str:
    """BIDS code of a voxel axis of the file (``i``, ``j-``, ...) as that of the same axis of the image in RAS."""
    axis, flip = nib.io_orientation(affine)["ijk".index(code[0])]
    reversed_ = code.endswith("-") != (flip < 0)
    return "ijk"[int(axis)] + ("-" if reversed_ else "")


def prepare_scan(scan: RawScan, folder: Path, preparation: Preparation) -> dict[str, Any]:
    """Prepare one scan, or find that it is prepared already.

    Args:
        scan: files of the raw scan.
        folder: of the prepared cohort, with ``scheme.bvec`` in it.
        preparation: how to do it.

    Returns:
        the scan's entry in the datalist.

    Raises:
        InputError: the scan cannot be used, with the reason.
    """
    # the checks of the scan come first: they are cheap, and their sentences are the most telling
    shell = Scan(scan.dwi, scan.bval, scan.bvec, preparation.bvalue)
    sources = [scan.dwi, scan.bval, scan.bvec, *([scan.brain_mask] if scan.brain_mask else [])]
    # by name: a cohort that was moved is the same cohort
    checksums = {source.name: sha256(source) for source in sources}
    stem = _stem(folder, scan)
    attenuation, b0, mask = (
        stem.with_name(f"{stem.name}_desc-{name}.nii.gz") for name in ("attenuation_dwi", "b0_dwi", "brain_mask")
    )
    sidecar = stem.with_name(f"{stem.name}_desc-attenuation_dwi.json")
    entry = {
        "participant": scan.participant,
        "scan": scan.name,
        "checksum": checksums[scan.dwi.name],
        "image": str(attenuation.relative_to(folder)),
        "b0": str(b0.relative_to(folder)),
        "mask": str(mask.relative_to(folder)),
    }
    # relative to the cohort's folder, so that the two may be moved together
    files = {name: getattr(scan, name) for name in RAW_FILES}
    raw = {name: os.path.relpath(path, folder) for name, path in files.items() if path}
    made_from = {"SourceChecksums": checksums, "Preparation": asdict(preparation), "Version": code_version()}
    # the sidecar is written last, so that where it stands everything does
    if sidecar.is_file() and all(file.is_file() for file in (attenuation, b0, mask)):
        known = read_json(sidecar)
        if all(known.get(key) == value for key, value in made_from.items()):
            if known.get("RawFiles") != raw:
                write_json(sidecar, known | {"RawFiles": raw})
            return entry

    data: dict[str, Any] = {"dwi": str(scan.dwi), "bval": str(scan.bval), "bvec": str(scan.bvec)}
    if scan.brain_mask:
        data["brain_mask"] = str(scan.brain_mask)
    scheme = folder / "scheme.bvec"
    data = ScanToInput(str(scheme), preparation.bvalue, preparation.voxel_size)(data)

    sidecar.unlink(missing_ok=True)
    image = data["image"]
    affine = np.asarray(image.affine, dtype=np.float64)
    steps = torch.round(image.as_tensor() * ATTENUATION_STEPS).numpy().astype(np.uint16)
    write_nifti(attenuation, np.moveaxis(steps, 0, -1), affine, slope=1 / ATTENUATION_STEPS)
    write_nifti(b0, data["b0"][0].numpy().astype(np.float32), affine)
    write_nifti(mask, data["mask"][0].numpy().astype(np.uint8), affine)
    gradient_files = [stem.with_name(f"{stem.name}_desc-attenuation_dwi.{end}") for end in ("bval", "bvec")]
    with whole_file(gradient_files[0]) as bval, whole_file(gradient_files[1]) as bvec:
        write_gradients(bval, bvec, data["gradients"], affine)
    directions = shell.shell_gradients[:, :3]
    write_json(
        sidecar,
        {
            "Description": "Signal of one shell divided by the mean b0, 0 to 1, on the directions of scheme.bvec.",
            "Sources": [str(source) for source in sources],
            "RawFiles": raw,
            **made_from,
            "Volumes": {"b0": len(shell.b0), "shell": len(shell.shell)},
            "DistinctAxes": unique_axes(directions, SAME_AXIS_DEGREES),
            "HighestSphericalHarmonicOrder": sh_order(directions, MAX_SH_ORDER),
            "BrainMask": "given" if scan.brain_mask else "median_otsu",
            **{name: _to_ras(code, shell.nifti.affine) for name, code in scan.phase_encoding.items()},
        },
    )
    return entry


def _claim_folder(folder: Path, scheme: Path | None, bvalue: float, voxel_size: float) -> Preparation:
    """Write what all scans of a cohort share, or check that a folder made earlier was made in the same way."""
    vectors = load_scheme(scheme or DEFAULT_SCHEME)
    files = folder / "scheme.bvec", folder / "scheme.bval"
    if not files[0].is_file():
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir() if path != files[1]):
            raise InputError(f"{folder}: found a folder with other files in it, expected an empty or new one.")
        with whole_file(files[1]) as partial:
            partial.write_text(" ".join([f"{bvalue:g}"] * len(vectors)) + "\n")
        with whole_file(files[0]) as partial:
            partial.write_text("\n".join(" ".join(f"{x:.8f}" for x in row) for row in vectors.T) + "\n")
    found = load_scheme(files[0])
    if found.shape != vectors.shape or not np.allclose(found, vectors, atol=1e-6):
        raise InputError(
            f"{folder}: found a cohort on another scheme ({len(found)} directions), expected a new folder."
        )
    preparation = Preparation(bvalue, voxel_size, sha256(files[0]))
    description = folder / "dataset_description.json"
    if description.is_file():
        known = read_json(description).get("Preparation")
        if known != asdict(preparation):
            raise InputError(f"{folder}: found a cohort prepared with {known}, expected {asdict(preparation)}.")
    else:
        write_json(
            description,
            {
                "Name": "Diffusion MRI prepared for pretraining",
                "BIDSVersion": "1.10.0",
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": "dmri-pretraining", "Version": code_version()}],
                "Preparation": asdict(preparation),
            },
        )
    return preparation


def _labels_that_still_fit(folder: Path, earlier: Mapping[str, str], entry: Mapping[str, str]) -> dict[str, str]:
    """Labels of an earlier preparation of the same scan file that lie on the grid of the present one."""
    if earlier["checksum"] != entry["checksum"]:
        return {}
    mask = open_nifti(folder / entry["mask"], ndim=3)
    kept = {}
    for key in LABELS:
        if key in earlier and (folder / earlier[key]).is_file():
            path = folder / earlier[key]
            label = open_nifti(path, ndim=4 if key in FOUR_DIMENSIONAL else 3)
            if label.shape[:3] == mask.shape and np.allclose(label.affine, mask.affine):
                kept[key] = earlier[key]
    return kept


def prepare_cohort(
    layout: str,
    root: Path,
    out: Path,
    scheme: Path | None = None,
    bvalue: float = 1000.0,
    voxel_size: float = 2.4,
    split: Sequence[float] | None = None,
    seed: int = 0,
    jobs: int = 1,
    derivatives: Path | None = None,
) -> list[Outcome[RawScan]]:
    """Prepare all scans of a raw cohort. What is prepared already is kept; what cannot be is left out.

    Args:
        layout: ``bids`` or ``hcp``.
        root: folder of the raw cohort.
        out: folder of the prepared cohort.
        scheme: reference scheme, unit vectors in world RAS; None for the default 64 directions.
        bvalue: b-value of the shell in s/mm2.
        voxel_size: in mm.
        split: shares of participants for training, validation and test; None for those of the paper.
        seed: of the split.
        jobs: processes.
        derivatives: BIDS derivatives with brain masks.

    Returns:
        the outcome of each scan, with its datalist entry or the reason why it was left out.

    Raises:
        InputError: no scans, an unusable argument, or a folder that holds something else.
    """
    weights = DEFAULT_SPLITS.get(layout, ()) if split is None else tuple(split)
    scans = find_scans(layout, root, derivatives)
    if len(weights) != 3 or min(weights) < 0 or weights[0] <= 0:
        raise InputError(f"split: found {weights}, expected three shares of which the first is above 0, as 15,5,8.")
    if voxel_size <= 0 or bvalue <= 0:
        raise InputError(f"found voxel size {voxel_size:g} mm and b = {bvalue:g} s/mm2, expected both above 0.")
    preparation = _claim_folder(out, scheme, bvalue, voxel_size)
    task = functools.partial(prepare_scan, folder=out, preparation=preparation)
    outcomes = run_jobs(task, scans, jobs, "preparing")
    entries = {outcome.result["scan"]: outcome.result for outcome in outcomes if outcome.result}
    known: dict[str, str] = {}
    if (out / DATALIST).is_file():
        for name, listed in read_datalist(out).items():
            for entry in listed if isinstance(listed, list) else []:
                known[entry["participant"]] = name
                if entry["scan"] in entries:
                    entries[entry["scan"]].update(_labels_that_still_fit(out, entry, entries[entry["scan"]]))
    if entries:
        participants = sorted({entry["participant"] for entry in entries.values()})
        write_datalist(out, list(entries.values()), assign_splits(participants, weights, seed, known))
    return outcomes
