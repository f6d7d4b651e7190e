"""Raw scans to a prepared cohort: attenuations on one scheme and voxel size, as BIDS derivatives with a datalist."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.cohort.datalist import DATALIST, assign_splits, read_cohort, write_datalist
from scripts.cohort.layouts import RawScan, find_scans
from scripts.cohort.prepared import NDIM, PreparedScan
from scripts.io.bids import DESCRIPTION, describe_dataset
from scripts.io.files import read_json, sha256, whole_file, write_json
from scripts.io.gradients import read_scheme, write_gradients, write_scheme
from scripts.io.nifti import open_nifti, write_nifti, write_unit_range
from scripts.jobs import Outcome, run_jobs
from scripts.version import code_version
from transforms.diffusion.gradients import unique_axes
from transforms.diffusion.scheme import SAME_AXIS_DEGREES
from transforms.diffusion.sh import MAX_SH_ORDER, sh_order
from transforms.errors import InputError
from transforms.preprocessing import ScanToInput
from transforms.scan import Scan

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


def _to_ras(code: str, affine: np.ndarray) -> str:
    """BIDS code of a voxel axis of the file (``i``, ``j-``, ...) as that of the same axis of the image in RAS."""
    axis, flip = nib.io_orientation(affine)["ijk".index(code[0])]
    reversed_ = code.endswith("-") != (flip < 0)
    return "ijk"[int(axis)] + ("-" if reversed_ else "")


def prepare_scan(raw: RawScan, folder: Path, preparation: Preparation) -> PreparedScan:
    """Prepare one scan, or find that it is prepared already.

    Args:
        raw: files of the raw scan.
        folder: of the prepared cohort, with ``scheme.bvec`` in it.
        preparation: how to do it.

    Raises:
        InputError: the scan cannot be used, with the reason.
    """
    # opening comes first: it is cheap, and its sentences are the most telling
    scan = raw.open(preparation.bvalue)
    # by name: a cohort that was moved is the same cohort
    checksums = {path.name: sha256(path) for path in scan.files.values()}
    prepared = PreparedScan.planned(folder, raw.participant, raw.name, checksums[raw.dwi.name])
    # relative to the cohort's folder, so that the two may be moved together
    places = {name: os.path.relpath(path, folder) for name in RAW_FILES if (path := getattr(raw, name))}
    made_from = {"SourceChecksums": checksums, "Preparation": asdict(preparation), "Version": code_version()}
    # the sidecar is written last, so that where it stands everything does
    if prepared.sidecar.is_file() and all(prepared.path(key).is_file() for key in ("image", "b0", "mask")):
        known = read_json(prepared.sidecar)
        if all(known.get(key) == value for key, value in made_from.items()):
            if known.get("RawFiles") != places:
                write_json(prepared.sidecar, known | {"RawFiles": places})
            return prepared

    to_input = ScanToInput(read_scheme(folder / "scheme.bvec"), preparation.voxel_size)
    data: Any = to_input({"raw_scan": scan})
    prepared.sidecar.unlink(missing_ok=True)
    _write_images(prepared, data)
    sources = [str(path) for path in scan.files.values()]
    write_json(
        prepared.sidecar,
        {
            "Description": "Signal of one shell divided by the mean b0, 0 to 1, on the directions of scheme.bvec.",
            "Sources": sources,
            "RawFiles": places,
            **made_from,
            **_describe_shell(scan),
            **{name: _to_ras(code, scan.affine) for name, code in raw.phase_encoding.items()},
        },
    )
    return prepared


def _write_images(prepared: PreparedScan, data: Any) -> None:
    """Write what the network's input consists of, and the gradient files of its directions."""
    affine = np.asarray(data["image"].affine, dtype=np.float64)
    write_unit_range(prepared.path("image"), np.moveaxis(data["image"].numpy(), 0, -1), affine)
    write_nifti(prepared.path("b0"), data["b0"][0].numpy().astype(np.float32), affine)
    write_nifti(prepared.path("mask"), data["mask"][0].numpy().astype(np.uint8), affine)
    with (
        whole_file(prepared.gradient_file("bval")) as bval,
        whole_file(prepared.gradient_file("bvec")) as bvec,
    ):
        write_gradients(bval, bvec, data["gradients"], affine)


def _describe_shell(scan: Scan) -> dict[str, Any]:
    """Say in a sidecar what a scan has of its shell, and where its brain mask comes from."""
    directions = scan.shell_gradients[:, :3]
    return {
        "Volumes": {"b0": len(scan.b0), "shell": len(scan.shell)},
        "DistinctAxes": unique_axes(directions, SAME_AXIS_DEGREES),
        "HighestSphericalHarmonicOrder": sh_order(directions, MAX_SH_ORDER),
        "BrainMask": "median_otsu" if scan.mask is None else "given",
    }


def _claim_folder(folder: Path, scheme: Path | None, bvalue: float, voxel_size: float) -> Preparation:
    """Write what all scans of a cohort share, or check that a folder made earlier was made in the same way."""
    vectors = read_scheme(scheme)
    bval, bvec = folder / "scheme.bval", folder / "scheme.bvec"
    if not bvec.is_file():
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir() if path != bval):
            raise InputError(f"{folder}: found a folder with other files in it, expected an empty or new one.")
        # the directions are renamed last, so that where they stand the b-values do
        with whole_file(bvec) as partial_bvec, whole_file(bval) as partial_bval:
            write_scheme(partial_bval, partial_bvec, vectors, bvalue)
    found = read_scheme(bvec)
    if found.shape != vectors.shape or not np.allclose(found, vectors, atol=1e-6):
        raise InputError(
            f"{folder}: found a cohort on another scheme ({len(found)} directions), expected a new folder."
        )
    preparation = Preparation(bvalue, voxel_size, sha256(bvec))
    if (folder / DESCRIPTION).is_file():
        known = read_json(folder / DESCRIPTION).get("Preparation")
        if known != asdict(preparation):
            raise InputError(f"{folder}: found a cohort prepared with {known}, expected {asdict(preparation)}.")
    else:
        describe_dataset(folder, "Diffusion MRI prepared for pretraining", content={"Preparation": asdict(preparation)})
    return preparation


def _with_labels_that_fit(prepared: PreparedScan, earlier: PreparedScan) -> PreparedScan:
    """Take over labels of an earlier preparation of the same scan file that lie on the grid of the present one."""
    if earlier.checksum != prepared.checksum:
        return prepared
    mask = open_nifti(prepared.path("mask"), ndim=3)
    kept = {}
    for key, path in earlier.label_files().items():
        label = open_nifti(path, NDIM.get(key, 3))
        if label.shape[:3] == mask.shape and np.allclose(label.affine, mask.affine):
            kept[key] = path
    return prepared.with_labels(kept)


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
) -> list[Outcome[RawScan, PreparedScan]]:
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
        the outcome of each scan: as it is prepared, or the reason why it was left out.

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
    prepared = {outcome.result.name: outcome.result for outcome in outcomes if outcome.result}
    known: dict[str, str] = {}
    if (out / DATALIST).is_file():
        for name, listed in read_cohort(out).items():
            for earlier in listed:
                known[earlier.participant] = name
                if earlier.name in prepared:
                    prepared[earlier.name] = _with_labels_that_fit(prepared[earlier.name], earlier)
    if prepared:
        participants = sorted({scan.participant for scan in prepared.values()})
        write_datalist(out, list(prepared.values()), assign_splits(participants, weights, seed, known))
    return outcomes
