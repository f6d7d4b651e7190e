"""Segmentations of the small heads, and the labels that are made of them."""

import json

import nibabel as nib
import numpy as np

from scripts.cohort.datalist import DATALIST, SPLITS
from scripts.cohort.prepared import KEYS_ON_DISK
from scripts.io.bids import LABEL_SUFFIXES
from scripts.io.files import read_json

SUBJECTS = ("sub-01", "sub-02", "sub-03")
CENTRE = np.array([2.0, -5.0, 3.0])
VOXEL_SIZE = 3.0
GRAY, WHITE, FLUID = 1, 2, 3
FILES = {KEYS_ON_DISK[key]: suffix for key, suffix in LABEL_SUFFIXES.items()}
"""End of the name of each label's file, by its key in the datalist."""


def grid(size: float, flip: bool = True, shift: float = 0.0) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine and shape of a segmentation that covers the head: LAS, or RAS where ``flip`` is False."""
    shape = tuple(int(np.ceil(length / size)) for length in (70.0, 80.0, 62.0))
    affine = np.diag([-size if flip else size, size, size, 1.0])
    affine[:3, 3] = CENTRE + np.array([shift, 0, 0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


def place(world: np.ndarray) -> np.ndarray:
    """Fluid on the left; on the right gray matter in front and above, white matter elsewhere."""
    right, front, above = np.moveaxis(world > CENTRE, -1, 0)
    return np.where(~right, FLUID, np.where(front & above, GRAY, WHITE))


def write(path, affine, labels, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(dtype), affine), path)
    return path


def path_of(derivatives, subject, ending="desc-tissue_dseg"):
    return derivatives / subject / "dwi" / f"{subject}_{ending}.nii.gz"


def entries(cohort):
    datalist = read_json(cohort / DATALIST)
    return {entry["scan"]: entry for split in SPLITS for entry in datalist[split]}


def record(cohort, scan="sub-01"):
    return json.loads((cohort / f"{scan}/dwi/{scan}_desc-labels.json").read_text())


def failure_of(outcomes, scan="sub-01"):
    return {str(outcome.item): outcome.failure for outcome in outcomes}[scan]
