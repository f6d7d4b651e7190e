"""Labels of phantoms from what they were made of, to score networks and methods against the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scripts.cohort.prepared import KEYS_ON_DISK, PreparedScan
from scripts.io.bids import sidecar
from scripts.io.files import write_json
from scripts.io.nifti import open_nifti, write_nifti
from scripts.labels.label_scan import LabelledScan
from scripts.labels.tissue_sources import WHITE
from scripts.phantom.truth import at_nearest_voxels
from scripts.version import code_version
from transforms.errors import InputError


def label_by_truth(scan: PreparedScan, truth: Path) -> LabelledScan:
    """Label one scan of a prepared phantom cohort by its truth, at the nearest voxels.

    Args:
        scan: of the cohort.
        truth: folder ``derivatives/truth`` of the raw phantoms.

    Raises:
        InputError: the truth of the scan is not there.
    """
    folder = truth / scan.participant / "dwi"
    files = {name: folder / f"{scan}_desc-{name}.nii.gz" for name in ("tissue_dseg", "npeaks_dseg", "peaks_dwi")}
    for path in files.values():
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected the truth of a clinical phantom.")
    mask = open_nifti(scan.path("mask"), ndim=3)
    tissue, nufo, peaks = (at_nearest_voxels(path, mask) for path in files.values())
    inside = np.asarray(mask.dataobj) > 0
    white = (tissue == WHITE) & inside
    made = {
        "tissue": (tissue * inside).astype(np.uint8),
        "white_matter": white.astype(np.uint8),
        "nufo": np.where(white, nufo, 0).astype(np.uint8),
        "peak": np.where(white[..., None], peaks[..., :3], 0).astype(np.float32),
    }
    how = {"Route": "truth", "Sources": [str(path) for path in files.values()], "Version": code_version()}
    labels = scan.labels
    labels.record.unlink(missing_ok=True)
    for key, voxels in made.items():
        write_nifti(labels.path(key), voxels, mask.affine)
        write_json(sidecar(labels.path(key)), how)
    measures = {"scan": scan.name, "route": "truth", "notes": []}
    write_json(labels.record, {"Labels": [KEYS_ON_DISK[key] for key in made], "Measures": measures, **how})
    return LabelledScan(scan.with_labels({key: labels.path(key) for key in made}), measures)
