"""Labels of phantoms from what they were made of, to score networks and methods against the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scripts.cohort.prepared import PreparedScan
from scripts.io.files import checksums_of
from scripts.io.nifti import open_nifti, read_voxels
from scripts.labels.label_scan import LabelledScan, MadeLabels, labelled_already, write_labels
from scripts.labels.quality import picture
from scripts.labels.tissue_sources import WHITE
from scripts.phantom.truth import at_nearest_voxels
from scripts.version import code_version
from transforms.errors import InputError

FILES = ("tissue_dseg", "tissue_probseg", "npeaks_dseg", "peaks_dwi")
"""What the names of the truth's files end in, after ``desc-``."""


def label_by_truth(scan: PreparedScan, truth: Path) -> LabelledScan:
    """Label one scan of a prepared phantom cohort by its truth, at the nearest voxels, unless that is done already.

    Args:
        scan: of the cohort.
        truth: folder ``derivatives/truth`` of the raw phantoms.

    Raises:
        InputError: the truth of the scan is not there, or is that of another phantom.
    """
    folder = truth / scan.participant / "dwi"
    paths = [folder / f"{scan}_desc-{name}.nii.gz" for name in FILES]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected the truth of a clinical phantom.")
    inputs = [scan.path("mask"), *paths]
    made_from = {"Route": "truth", "SourceChecksums": checksums_of(inputs), "Version": code_version()}
    if known := labelled_already(scan, made_from):
        return known
    # each phantom lies in the scanner in its own way
    dwi = scan.raw_files()["dwi"]
    raw, true = open_nifti(dwi, ndim=4), open_nifti(paths[0], ndim=3)
    if raw.shape[:3] != true.shape or not np.allclose(raw.affine, true.affine, atol=1e-3):
        raise InputError(
            f"{paths[0]}: found another grid than that of {dwi}, expected one; is it the truth of another phantom?"
        )
    mask = open_nifti(scan.path("mask"), ndim=3)
    inside = np.asarray(mask.dataobj) > 0
    tissue, fractions, nufo, peaks = (at_nearest_voxels(path, mask) for path in paths)
    white = (tissue == WHITE) & inside
    fractions = fractions * inside[..., None]
    # what is no tissue is background
    background = np.maximum(1 - fractions.sum(axis=-1, keepdims=True), 0)
    labels = {
        "tissue": (tissue * inside).astype(np.uint8),
        "tissue_prob": np.concatenate([background, fractions], axis=-1).astype(np.float32),
        "white_matter": white.astype(np.uint8),
        "nufo": np.where(white, nufo, 0).astype(np.uint8),
        "peak": np.where(white[..., None], peaks[..., :3], 0).astype(np.float32),
    }
    measures = {"scan": scan.name, "route": "truth", "notes": []}
    b0 = read_voxels(scan.path("b0"))[0]
    figure = picture(b0, inside, labels["tissue"], labels["nufo"], labels["peak"], f"{scan}: truth of the phantom")
    how = {"Sources": [str(path) for path in inputs], **made_from}
    return write_labels(scan, MadeLabels(labels, measures, how, figure))
