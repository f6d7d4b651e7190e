"""The folder of a prepared cohort: it belongs to one raw cohort, prepared in one way."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from scripts.cohort.datalist import DATALIST, read_cohort
from scripts.cohort.layouts import RawScan
from scripts.io.bids import DESCRIPTION, describe_dataset, generated_by
from scripts.io.files import read_json, sha256, whole_file
from scripts.io.gradients import read_scheme, write_scheme
from transforms.diffusion.gradients import B0_MAX
from transforms.diffusion.sh import SMOOTHING
from transforms.errors import InputError


@dataclass(frozen=True)
class Preparation:
    """How scans are prepared; one cohort is prepared in one way.

    Attributes:
        bvalue: b-value of the shell in s/mm2.
        voxel_size: in mm.
        scheme: SHA-256 of the scheme file.
        b0_max: largest b-value in s/mm2 that counts as b0.
        smoothing: Laplace-Beltrami regularisation of the interpolation in q-space.
    """

    bvalue: float
    voxel_size: float
    scheme: str
    b0_max: float = B0_MAX
    smoothing: float = SMOOTHING


def claim_folder(folder: Path, scheme: Path | None, bvalue: float, voxel_size: float, b0_max: float) -> Preparation:
    """Write what all scans of a cohort share, or check that a folder made earlier was made in the same way.

    Args:
        folder: of the prepared cohort, made where it does not exist.
        scheme: file of the reference scheme, or None for the default.
        bvalue: see :class:`Preparation`.
        voxel_size: likewise.
        b0_max: likewise.

    Raises:
        InputError: the folder holds something else, or a cohort that was prepared in another way.
    """
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{place}: found a file, expected a folder or a new name.")
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
    preparation = asdict(claimed := Preparation(bvalue, voxel_size, sha256(bvec), b0_max))
    known = read_json(folder / DESCRIPTION) if (folder / DESCRIPTION).is_file() else {}
    if known and known.get("Preparation") != preparation:
        raise InputError(f"{folder}: found a cohort prepared with {known.get('Preparation')}, expected {preparation}.")
    # another version prepares all scans again
    if known.get("GeneratedBy") != generated_by():
        describe_dataset(folder, "Diffusion MRI prepared for pretraining", content={"Preparation": preparation})
    return claimed


def refuse_another_cohort(folder: Path, root: Path, scans: Sequence[RawScan]) -> None:
    """Refuse a folder whose scans are of another raw cohort.

    A raw cohort is the same where a scan lies where one of the prepared scans came from, or, if it was moved, where
    the file of a scan is one of those.

    Args:
        folder: of the prepared cohort.
        root: of the raw cohort, for messages.
        scans: all scans of the raw cohort.

    Raises:
        InputError: not one of the scans is known.
    """
    if not (folder / DATALIST).is_file():
        return
    places, checksums = set(), set()
    for prepared in (scan for listed in read_cohort(folder).values() for scan in listed):
        # a scan whose sidecar is gone or damaged is prepared again
        with suppress(InputError, KeyError, TypeError, AttributeError):
            known = read_json(prepared.sidecar)
            places.add((folder / known["RawFiles"]["dwi"]).resolve())
            checksums.update(known["SourceChecksums"].values())
    if not places or any(scan.dwi.resolve() in places for scan in scans):
        return
    if not any(scan.dwi.is_file() and sha256(scan.dwi) in checksums for scan in scans):
        raise InputError(
            f"{folder}: found a cohort of other scans, as {min(places)}, expected that of {root}; use a new folder."
        )
