"""Raw scans to a prepared cohort: attenuations on one scheme and voxel size, as BIDS derivatives with a datalist."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from scripts.cohort.claim import Preparation, claim_folder, refuse_another_cohort
from scripts.cohort.datalist import SPLITS, assign_splits, read_assigned, read_cohort, write_datalist
from scripts.cohort.gradient_check import doubt_about_gradients
from scripts.cohort.layouts import RawScan, find_scans
from scripts.cohort.phase_encoding import phase_encoding
from scripts.cohort.prepared import IMAGE_SUFFIXES, NDIM, PreparedScan
from scripts.io.files import checksums_of, read_json, sweep_partials, whole_file, write_json, write_table
from scripts.io.gradients import read_scheme, write_gradients
from scripts.io.nifti import open_nifti, write_nifti, write_unit_range
from scripts.jobs import Outcome, run_jobs
from scripts.version import code_version
from transforms.diffusion.gradients import B0_MAX, unique_axes
from transforms.diffusion.scheme import SAME_AXIS_DEGREES
from transforms.diffusion.sh import MAX_SH_ORDER, USUAL_GAP_DEGREES, condition, largest_gap, sh_order
from transforms.errors import InputError, counted
from transforms.preprocessing import GridToInput, ScanToGrid

logger = logging.getLogger(__name__)

TABLE = "scans.tsv"
"""Table of the prepared scans."""

COLUMNS = (
    "scan",
    "participant",
    "split",
    "b0_volumes",
    "shell_volumes",
    "axes",
    "sh_order",
    "brain_mask",
    "brain_ml",
    "notes",
)

DEFAULT_SPLITS = {"bids": (15.0, 5.0, 8.0), "hcp": (45.0, 5.0, 0.0)}
"""Participants for training, validation and test in Weninger et al., BVM 2022: clinical and auxiliary cohort."""

SIZES_MM = (0.5, 10.0)
"""Voxel sizes in mm of a prepared scan: a head in finer ones does not fit a memory, and coarser ones show no brain."""

RAW_FILES = ("dwi", "bval", "bvec", "brain_mask", "t1w")
"""Files of a raw scan whose places a prepared scan keeps, for what is made of them later: attributes of RawScan."""


def prepare_scan(raw: RawScan, folder: Path, preparation: Preparation, check_gradients: bool = False) -> PreparedScan:
    """Prepare one scan, or find that it is prepared already.

    Args:
        raw: files of the raw scan.
        folder: of the prepared cohort, with ``scheme.bvec`` in it.
        preparation: how to do it.
        check_gradients: whether to look for flipped or exchanged axes of the directions.

    Raises:
        InputError: the scan cannot be used, with the reason.
    """
    # opening comes first: it is cheap, and its sentences are the most telling
    scan = raw.open(preparation.bvalue, preparation.b0_max)
    acquisition, unread = raw.acquisition()
    encoding, unknown = phase_encoding(acquisition, scan.affine)
    files = {**scan.files, **{f"sidecar{index}": path for index, path in enumerate(raw.sidecars)}}
    # relative to the cohort's folder, so that the two may be moved together
    places = {name: os.path.relpath(path, folder) for name in RAW_FILES if (path := getattr(raw, name))}
    made_from = {
        "SourceChecksums": checksums_of(files.values()),
        "Preparation": asdict(preparation),
        "Version": code_version(),
    }
    of_files = [*raw.notes, *unread]
    if prepared := _prepared_already(raw, folder, made_from, places, of_files, check_gradients):
        return prepared

    grid: Any = ScanToGrid(preparation.voxel_size, checksum=True)({"raw_scan": scan})
    described: dict[str, Any] = {"Volumes": {"b0": grid["b0_volumes"], "shell": len(grid["gradients"])}}
    described |= _describe_directions(grid["gradients"][:, :3])
    data: Any = GridToInput(read_scheme(folder / "scheme.bvec"))(grid)
    prepared = PreparedScan.planned(folder, raw.participant, raw.name, data["checksum"])
    notes = [*of_files, *filter(None, [unknown, data["notes"]])]
    if (gap := described["LargestGapDegrees"]) > USUAL_GAP_DEGREES:
        notes.append(f"the gradient axes leave a gap of {gap:.0f} degrees, where the attenuation is a guess")
    if check_gradients and (doubt := doubt_about_gradients(data)):
        notes.append(doubt)
    # notes on the signal and on the mask are in the log already
    for note in [note for note in notes if note != data["notes"]]:
        logger.warning("%s: %s", raw, note)
    prepared.sidecar.unlink(missing_ok=True)
    _write_images(prepared, data)
    write_json(
        prepared.sidecar,
        {
            "Description": "Signal of one shell divided by the mean b0, 0 to 1, on the directions of scheme.bvec.",
            "Sources": [str(path) for path in files.values()],
            "RawFiles": places,
            "VoxelChecksum": data["checksum"],
            **made_from,
            "GradientsChecked": check_gradients,
            **described,
            "BrainMask": "found" if scan.mask is None else "given",
            "BrainMilliliters": round(float(data["mask"].sum() * np.prod(data["mask"].pixdim.numpy()) / 1000), 1),
            **encoding,
            "Notes": notes,
        },
    )
    return prepared


def _prepared_already(
    raw: RawScan,
    folder: Path,
    made_from: Mapping[str, Any],
    places: Mapping[str, str],
    of_files: Sequence[str],
    check_gradients: bool,
) -> PreparedScan | None:
    """Return the scan that an earlier run prepared of the same files in the same way, and checked if asked, or None.

    Its sidecar is told where the files are now, and what is new to note of them.
    """
    prepared = PreparedScan.planned(folder, raw.participant, raw.name, "")
    # the sidecar is written last, so that where it stands everything does
    if not (prepared.sidecar.is_file() and all(prepared.path(key).is_file() for key in IMAGE_SUFFIXES)):
        return None
    try:
        known = read_json(prepared.sidecar)
    except InputError:
        return None
    if any(known.get(key) != value for key, value in made_from.items()) or not _is_whole(known):
        return None
    if check_gradients and not known.get("GradientsChecked"):
        return None
    if new := [note for note in of_files if note not in known["Notes"]]:
        logger.warning("%s: %s", raw, "; ".join(new))
    if new or known.get("RawFiles") != places:
        write_json(prepared.sidecar, known | {"RawFiles": places, "Notes": [*new, *known["Notes"]]})
    return PreparedScan.planned(folder, raw.participant, raw.name, known["VoxelChecksum"])


def _is_whole(known: Mapping[str, Any]) -> bool:
    """Whether a sidecar has what later steps read of it; people may have edited it."""
    with suppress(KeyError, TypeError):
        # what has no table line raises
        return isinstance(known["VoxelChecksum"], str) and isinstance(known["Notes"], list) and bool(_measures(known))
    return False


def _measures(known: Mapping[str, Any]) -> list[Any]:
    """Take from a scan's sidecar what stands in the table."""
    return [
        *(known["Volumes"][kind] for kind in ("b0", "shell")),
        known["DistinctAxes"],
        known["HighestSphericalHarmonicOrder"],
        known["BrainMask"],
        known["BrainMilliliters"],
        "; ".join(known["Notes"]),
    ]


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


def _describe_directions(directions: np.ndarray) -> dict[str, Any]:
    """Say in a sidecar what the directions ``(N, 3)`` of a shell determine."""
    order = sh_order(directions, MAX_SH_ORDER)
    return {
        "DistinctAxes": unique_axes(directions, SAME_AXIS_DEGREES),
        "HighestSphericalHarmonicOrder": order,
        "ConditionNumber": round(condition(directions, order), 2),
        "LargestGapDegrees": round(largest_gap(directions), 1),
    }


def _with_labels_that_fit(prepared: PreparedScan, earlier: PreparedScan) -> PreparedScan:
    """Take over labels that were made of the same voxels and gradients and lie on the grid of the present scan."""
    if earlier.checksum != prepared.checksum or not _made_of_the_same(earlier.labels.record, prepared.sidecar):
        return prepared
    mask = open_nifti(prepared.path("mask"), ndim=3)
    kept = {}
    for key, path in earlier.label_files().items():
        try:
            label = open_nifti(path, NDIM.get(key, 3))
        except InputError as error:
            logger.warning("%s: label left out: %s", prepared, error)
            continue
        if label.shape[:3] == mask.shape[:3] and np.allclose(label.affine, mask.affine):
            kept[key] = path
    return prepared.with_labels(kept)


def _made_of_the_same(record: Path, sidecar: Path) -> bool:
    """Whether the sources that labels and a prepared scan have in common are the same files; True without a record."""
    if not record.is_file():
        return True
    with suppress(InputError, AttributeError):
        first, second = (read_json(path).get("SourceChecksums", {}) for path in (record, sidecar))
        return all(first[name] == second[name] for name in first.keys() & second.keys())
    return False


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
    b0_max: float = B0_MAX,
    check_gradients: bool = False,
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
        b0_max: largest b-value in s/mm2 that counts as b0.
        check_gradients: whether to look for flipped or exchanged axes of the directions; costs time.

    Returns:
        the outcome of each scan: as it is prepared, or the reason why it was left out.

    Raises:
        InputError: no scans, an unusable argument, or a folder that holds something else.
    """
    weights = DEFAULT_SPLITS.get(layout, ()) if split is None else tuple(split)
    scans = find_scans(layout, root, derivatives)
    if len(weights) != 3 or not all(map(math.isfinite, weights)) or min(weights) < 0 or weights[0] <= 0:
        raise InputError(f"split: found {weights}, expected three shares of which the first is above 0, as 15,5,8.")
    if not SIZES_MM[0] <= voxel_size <= SIZES_MM[1]:
        raise InputError(f"voxel-size: found {voxel_size:g} mm, expected {SIZES_MM[0]:g} to {SIZES_MM[1]:g}.")
    if not 0 < bvalue < math.inf:
        raise InputError(f"bvalue: found {bvalue:g} s/mm2, expected a number above 0.")
    if not 0 <= b0_max < bvalue:
        raise InputError(f"b0-max: found {b0_max:g} s/mm2, expected 0 to less than the shell's {bvalue:g}.")
    refuse_another_cohort(out, root, scans)
    preparation = claim_folder(out, scheme, bvalue, voxel_size, b0_max)
    sweep_partials(out)
    if derivatives and (without := [scan for scan in scans if scan.brain_mask is None]):
        logger.warning("%s: no brain mask for %d of %s.", derivatives, len(without), counted(len(scans), "scan"))
    task = functools.partial(prepare_scan, folder=out, preparation=preparation, check_gradients=check_gradients)
    outcomes = run_jobs(task, scans, jobs, "preparing")
    prepared = {outcome.result.name: outcome.result for outcome in outcomes if outcome.result}
    _warn_of_copies(list(prepared.values()))
    known = read_assigned(out)
    if known:
        for earlier in (scan for listed in read_cohort(out).values() for scan in listed):
            if earlier.name in prepared:
                prepared[earlier.name] = _with_labels_that_fit(prepared[earlier.name], earlier)
    if prepared:
        participants = sorted({scan.participant for scan in prepared.values()})
        splits = assign_splits(participants, weights, seed, known)
        write_datalist(out, list(prepared.values()), splits)
        _write_scan_table(out / TABLE, list(prepared.values()), splits)
        for name, weight in zip(SPLITS, weights, strict=True):
            if weight > 0 and name not in splits.values():
                logger.warning("%s: no participant in %s; the cohort has %d.", out, name, len(participants))
    return outcomes


def _warn_of_copies(scans: Sequence[PreparedScan]) -> None:
    """Say which scans have the voxels of another; in two splits they are refused."""
    first: dict[str, PreparedScan] = {}
    for scan in scans:
        if (other := first.setdefault(scan.checksum, scan)) is not scan:
            logger.warning("%s: the same voxels as those of %s: one scan counts twice", scan, other)


def _write_scan_table(path: Path, scans: Sequence[PreparedScan], splits: Mapping[str, str]) -> None:
    """Write a line for each prepared scan: what it has, and what a reader should know of it."""
    rows = [
        [scan.name, scan.participant, splits[scan.participant], *_measures(read_json(scan.sidecar))]
        for scan in sorted(scans, key=lambda scan: scan.name)
    ]
    write_table(path, COLUMNS, rows)
