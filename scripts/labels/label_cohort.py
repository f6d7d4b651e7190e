"""Labels of all scans of a prepared cohort."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from scripts.cohort.datalist import read_cohort, read_preparation, write_datalist
from scripts.cohort.prepared import PreparedScan
from scripts.io.bids import DESCRIPTION, write_tissue_table
from scripts.io.files import sweep_partials
from scripts.jobs import Outcome, console, run_jobs
from scripts.labels.label_scan import LabelledScan, label_scan
from scripts.labels.phantom_truth import label_by_truth
from scripts.labels.quality import flag_outliers, write_measures
from transforms.errors import InputError

TABLE = "labels.tsv"


def label_cohort(
    folder: Path,
    tissue_derivatives: Path | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    sharp: bool = False,
    truth: Path | None = None,
) -> list[Outcome[PreparedScan, LabelledScan]]:
    """Label a prepared cohort; scans that cannot be labelled keep the labels that they had.

    Args:
        folder: folder of the prepared cohort.
        tissue_derivatives: BIDS derivatives with tissue segmentations in the scans' world space; None for tissue from
            T1-weighted images, and white matter from FA and MD for scans without one.
        jobs: number of processes on this machine.
        scheduler: address of a Dask scheduler whose workers do the work instead, on the same files.
        sharp: see :func:`transforms.diffusion.csd.find_peaks`.
        truth: folder ``derivatives/truth`` of phantoms, to label them by what they were made of.

    Returns:
        the outcome of each scan.

    Raises:
        InputError: there is no prepared cohort, no such folder of derivatives, or no such scheduler.
    """
    for given in (tissue_derivatives, truth):
        if given is not None and not given.is_dir():
            raise InputError(f"{given}: no such folder, expected BIDS derivatives.")
    folder = folder.resolve()
    cohort = read_cohort(folder)
    preparation = read_preparation(folder)
    if not {"bvalue", "voxel_size", "b0_max"} <= preparation.keys():
        raise InputError(f"{folder / DESCRIPTION}: found no Preparation of this version, expected a prepared cohort.")
    task: Callable[[PreparedScan], LabelledScan]
    if truth is not None:
        task = functools.partial(label_by_truth, truth=truth.resolve())
    else:
        task = functools.partial(
            label_scan,
            derivatives=tissue_derivatives.resolve() if tissue_derivatives else None,
            bvalue=preparation["bvalue"],
            voxel_size=preparation["voxel_size"],
            b0_max=preparation["b0_max"],
            sharp=sharp,
        )
    sweep_partials(folder)
    scans = [scan for listed in cohort.values() for scan in listed]
    outcomes = run_jobs(task, scans, jobs, "labelling", scheduler)
    write_tissue_table(folder)
    labelled = [outcome.result for outcome in outcomes if outcome.result]
    # an earlier run that was cut off may have removed labels that the list still names
    others = [outcome.item.with_labels(outcome.item.label_files()) for outcome in outcomes if not outcome.result]
    splits = {scan.participant: split for split, listed in cohort.items() for scan in listed}
    write_datalist(folder, [*(found.scan for found in labelled), *others], splits)
    rows = flag_outliers([found.measures for found in labelled])
    write_measures(folder / TABLE, sorted(rows, key=lambda row: row["scan"]))
    for row in rows:
        if row["flags"]:
            console.print(f"{row['scan']}: {row['flags']}", highlight=False, markup=False, soft_wrap=True)
    return outcomes
