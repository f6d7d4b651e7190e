"""Labels of all scans of a prepared cohort."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.cohort.datalist import LABELS, SPLITS, read_datalist, read_preparation, write_datalist
from scripts.cohort.label.quality import flag_outliers, write_table
from scripts.cohort.label.scan import label_scan
from scripts.files import tissue_table, whole_file
from scripts.jobs import Outcome, console, run_jobs
from transforms.errors import InputError

TABLE = "labels.tsv"


class _Named(dict):
    """An entry of a datalist that prints as its scan's name."""

    def __str__(self) -> str:
        return str(self["scan"])


def _with_what_is_there(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """An entry without labels that an earlier run took away and was cut off before it made new ones."""
    return {key: value for key, value in entry.items() if key not in LABELS or (folder / value).is_file()}


def label_cohort(
    folder: Path, tissue_derivatives: Path | None = None, jobs: int = 1, scheduler: str | None = None
) -> list[Outcome[dict[str, Any]]]:
    """Label a prepared cohort; scans that cannot be labelled keep what they had.

    Args:
        folder: of the prepared cohort.
        tissue_derivatives: BIDS derivatives with tissue segmentations in the scans' world space; None for tissue from
            T1-weighted images, and white matter from FA and MD where there is none.
        jobs: processes on this machine.
        scheduler: address of a Dask scheduler whose workers do it instead, on the same files.

    Returns:
        the outcome of each scan.

    Raises:
        InputError: no prepared cohort, no such folder of derivatives, or no such scheduler.
    """
    if tissue_derivatives is not None and not tissue_derivatives.is_dir():
        raise InputError(f"{tissue_derivatives}: no such folder, expected BIDS derivatives.")
    folder = folder.resolve()
    datalist = read_datalist(folder)
    preparation = read_preparation(str(folder))
    if "bvalue" not in preparation:
        raise InputError(f"{folder / 'dataset_description.json'}: found no Preparation, expected a prepared cohort.")
    splits = {entry["participant"]: split for split in SPLITS for entry in datalist[split]}
    entries = [_Named(entry) for split in SPLITS for entry in datalist[split]]
    derivatives = tissue_derivatives.resolve() if tissue_derivatives else None
    task = functools.partial(label_scan, folder=folder, derivatives=derivatives, bvalue=preparation["bvalue"])
    outcomes = run_jobs(task, entries, jobs, "labelling", scheduler)
    with whole_file(folder / "desc-tissue_dseg.tsv") as partial:
        partial.write_text(tissue_table())
    labelled = [
        outcome.result[0] if outcome.result else _with_what_is_there(outcome.item, folder) for outcome in outcomes
    ]
    write_datalist(folder, labelled, splits)
    rows = flag_outliers([outcome.result[1] for outcome in outcomes if outcome.result])
    write_table(folder / TABLE, sorted(rows, key=lambda row: row["scan"]))
    for row in rows:
        if row["flags"]:
            console.print(f"{row['scan']}: {row['flags']}", highlight=False, soft_wrap=True)
    return outcomes  # type: ignore[return-value]
