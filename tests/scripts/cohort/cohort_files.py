"""Prepared cohorts as tests look at them: files, images, sidecars and the table."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np

from scripts.io.files import read_json

VOXEL_SIZE = 4.0
GOOD = ("sub-01", "sub-02", "sub-03")


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of each file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def images(folder: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder)): nib.load(path).get_fdata() for path in sorted(folder.rglob("*.nii.gz"))}


def same_images(first: Path, second: Path) -> None:
    one, other = images(first), images(second)
    assert one.keys() == other.keys()
    assert one
    for name, voxels in one.items():
        np.testing.assert_array_equal(voxels, other[name], err_msg=name)


def stem_of(folder: Path, subject: str) -> str:
    return str(folder / subject / "dwi" / f"{subject}_desc-")


def rows(out: Path) -> dict[str, dict[str, str]]:
    """Lines of the table of scans, by the scan."""
    with (out / "scans.tsv").open(newline="", encoding="utf-8") as file:
        return {row["scan"]: row for row in csv.DictReader(file, delimiter="\t")}


def sidecar_of(out: Path, subject: str) -> dict:
    return read_json(Path(f"{stem_of(out, subject)}attenuation_dwi.json"))
