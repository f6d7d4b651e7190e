"""Folds of a cohort: copies of its list in which every participant is tested once; the images stay where they are."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from scripts.cohort.datalist import DATALIST, SPLITS, read_cohort, write_datalist
from transforms.errors import InputError


def make_folds(cohort: Path, folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Make a prepared cohort for each fold, whose images are links to those of the whole one.

    The test participants of the folds are disjoint and together all. As many validate as in the cohort itself, and the
    others train.

    Args:
        cohort: prepared cohort.
        folder: gets a folder for each fold.
        count: number of folds; with 1, the cohort's own splits are used as they are.
        seed: of the order in which participants are drawn.

    Raises:
        InputError: there are too few participants for so many folds.
    """
    listed = read_cohort(cohort)
    if count == 1:
        return [cohort]
    scans = [scan for split in SPLITS for scan in listed[split]]
    names = sorted({scan.participant for scan in scans})
    validating = len({scan.participant for scan in listed["validation"]})
    if not 2 <= count <= len(names) or len(names) - -(-len(names) // count) <= validating:
        raise InputError(
            f"--folds: found {count} for {len(names)} participants of whom {validating} validate, "
            "expected some left to train in each fold."
        )
    random.Random(seed).shuffle(names)
    folds = []
    for index, test in enumerate(np.array_split(names, count)):
        fold = folder / f"{index + 1}-of-{count}"
        fold.mkdir(parents=True, exist_ok=True)
        others = [name for name in names if name not in test]
        splits = {
            **dict.fromkeys(map(str, test), "test"),
            **dict.fromkeys(others[:validating], "validation"),
            **dict.fromkeys(others[validating:], "training"),
        }
        for path in cohort.resolve().iterdir():
            link = fold / path.name
            if path.name == DATALIST or (link.is_symlink() and link.readlink() == path):
                continue
            # an earlier comparison in this folder may have been one of another cohort
            link.unlink(missing_ok=True)
            link.symlink_to(path)
        write_datalist(fold, scans, splits)
        folds.append(fold)
    return folds
