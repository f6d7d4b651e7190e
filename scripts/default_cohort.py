"""The embedded default: small phantom cohorts that are made once and kept, for a training without ``--dataset_dir``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from scripts.cohort.prepare import prepare_cohort
from scripts.io.files import write_json
from scripts.jobs import Outcome
from scripts.labels import label_cohort
from scripts.phantom import write_phantom
from scripts.version import code_version
from transforms.errors import InputError

logger = logging.getLogger(__name__)

SUBJECTS = {"auxiliary": 8, "clinical": 9}
"""Subjects of the default cohorts: 7 and 1 for training and validation; 5, 2 and 2 for training, validation, test."""

LAYOUTS = {"auxiliary": "hcp", "clinical": "bids"}

COMPLETE = "complete.json"
"""Stands in a default cohort that was finished."""


def make_cohort(kind: str, subjects: int, folder: Path, seed: int = 0, size: str = "small", jobs: int = 1) -> Path:
    """Simulate a cohort, prepare it and label it; what is there already is kept.

    Args:
        kind: ``auxiliary`` or ``clinical``.
        subjects: how many.
        folder: gets ``raw`` and ``prepared``.
        seed: of the phantoms and the split.
        size: of the phantoms.
        jobs: processes.

    Returns:
        folder of the prepared cohort.

    Raises:
        InputError: a scan could not be prepared or labelled.
    """
    raw, prepared = folder / "raw", folder / "prepared"
    write_phantom(kind, subjects, seed, raw, size, jobs)
    outcomes: list[Outcome[Any, Any]] = [*prepare_cohort(LAYOUTS[kind], raw, prepared, seed=seed, jobs=jobs)]
    if kind == "clinical":
        outcomes += label_cohort(prepared, raw / "derivatives" / "truth", jobs)
    for outcome in outcomes:
        if outcome.failure:
            raise InputError(f"{outcome.item}: {outcome.failure}")
    return prepared


def default_cohort(kind: str) -> str:
    """Return the folder of the default cohort of a kind; the first call makes it.

    It is kept in ``$XDG_CACHE_HOME/dmri-pretraining`` (by default ``~/.cache``), one for each version.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dmri-pretraining"
    folder = cache / f"{kind}-{code_version()}"
    if not (folder / COMPLETE).is_file():
        logger.warning("no --dataset_dir: making a phantom cohort once, in %s", folder)
        make_cohort(kind, SUBJECTS[kind], folder, jobs=min(2, os.cpu_count() or 1))
        write_json(folder / COMPLETE, {"kind": kind, "subjects": SUBJECTS[kind], "version": code_version()})
    return str(folder / "prepared")
