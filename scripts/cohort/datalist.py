"""The list of a prepared cohort: its scans, their split by participant, and its checksum."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.cohort.prepared import KEYS_ON_DISK, PreparedScan
from scripts.io.bids import DESCRIPTION, LABEL_SUFFIXES
from scripts.io.files import read_json, sha256, write_json
from scripts.io.gradients import read_scheme
from transforms.errors import InputError, counted

logger = logging.getLogger(__name__)

SPLITS = ("training", "validation", "test")
"""Keys of a MONAI datalist."""

DATALIST = "datalist.json"

ASSIGNED = "splits"
"""Key of the split of each participant that the cohort ever had."""


def split_sizes(n: int, weights: Sequence[float]) -> list[int]:
    """Share ``n`` participants out by ``weights`` (largest remainder), training and then validation first.

    Every split with a weight above 0 gets a participant before another gets its second, in the order of ``SPLITS``.
    """
    exact = [n * weight / sum(weights) for weight in weights]
    sizes = [int(share) for share in exact]
    for index in sorted(range(len(weights)), key=lambda i: sizes[i] - exact[i])[: n - sum(sizes)]:
        sizes[index] += 1
    for index, weight in enumerate(weights):
        if weight > 0 and sizes[index] == 0:
            donors = [i for i in range(len(sizes)) if sizes[i] > (1 if i < index else 0)]
            if donors:
                sizes[max(donors, key=lambda i: sizes[i] - exact[i])] -= 1
                sizes[index] += 1
    return sizes


def assign_splits(
    participants: Sequence[str], weights: Sequence[float], seed: int, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Assign each participant to a split.

    Args:
        participants: labels, each once.
        weights: shares of training, validation and test, e.g. ``(15, 5, 8)``.
        seed: of the order in which participants are drawn.
        known: earlier assignments, which stay: nobody moves from test to training when a cohort grows.
    """
    known = {name: split for name, split in (known or {}).items() if name in set(participants)}
    new = sorted(set(participants) - set(known))
    random.Random(seed).shuffle(new)
    sizes = split_sizes(len(set(participants)), weights)
    counts = Counter(known.values())
    missing = {split: size - counts[split] for split, size in zip(SPLITS, sizes, strict=True)}
    assigned = dict(known)
    for name in new:
        split = max(SPLITS, key=lambda candidate: missing[candidate])
        assigned[name] = split
        missing[split] -= 1
    return assigned


def check_splits(cohort: Mapping[str, Sequence[PreparedScan]]) -> None:
    """Refuse a cohort in which a scan or a participant stands in two splits, or two entries name one image.

    Raises:
        InputError: names the two.
    """
    for key, what in (("checksum", "the same scan"), ("participant", "the same participant")):
        seen: dict[str, tuple[str, str]] = {}
        for split in SPLITS:
            for scan in cohort.get(split, []):
                other_split, other = seen.setdefault(getattr(scan, key), (split, scan.name))
                if other_split != split:
                    raise InputError(
                        f"found {what} in two splits ({other} in {other_split}, {scan} in {split}), "
                        "expected each in one."
                    )
    listed: dict[Path, PreparedScan] = {}
    for entry in (scan for split in SPLITS for scan in cohort.get(split, [])):
        if (first := listed.setdefault(entry.path("image"), entry)) is not entry:
            raise InputError(f"{entry.path('image')}: found it listed for {first} and for {entry}, expected once.")


def write_datalist(folder: Path, scans: Sequence[PreparedScan], splits: Mapping[str, str]) -> None:
    """Write ``datalist.json``, with a checksum that any change of scans, preparation, splits, masks or labels changes.

    Args:
        folder: of the cohort.
        scans: all that are prepared.
        splits: split of each participant.
    """
    scans = sorted(scans, key=_by_name)
    cohort = {split: [scan for scan in scans if splits[scan.participant] == split] for split in SPLITS}
    check_splits(cohort)
    datalist: dict[str, Any] = {split: [dict(scan.entry) for scan in cohort[split]] for split in SPLITS}
    # of those, too, whose scans could not be used this time: when they come back, they come back to their split
    datalist[ASSIGNED] = {**read_assigned(folder), **splits}
    datalist["checksum"] = _checksum(folder, cohort)
    write_json(folder / DATALIST, datalist)


def _by_name(scan: PreparedScan) -> str:
    return scan.name


def _checksum(folder: Path, cohort: Mapping[str, Sequence[PreparedScan]]) -> str:
    """SHA-256 of the lists, in any order, of the way of preparation, and of masks and labels."""
    listed = {split: [dict(scan.entry) for scan in sorted(cohort[split], key=_by_name)] for split in SPLITS}
    scans = sorted((scan for split in SPLITS for scan in cohort[split]), key=_by_name)
    # masks and labels are small enough to be read; images follow from the scans and the way of preparation
    small = [scan.path(key) for scan in scans for key in ("mask", *LABEL_SUFFIXES) if key in scan]
    content = json.dumps([listed, read_preparation(folder), sha256(*filter(Path.is_file, small))], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def read_assigned(folder: Path) -> dict[str, str]:
    """Split of each participant that a cohort ever had; empty where there is no cohort.

    The lists count, which people may have edited. What is remembered beside them is for those who are not listed.

    Raises:
        InputError: the datalist does not hold splits by participant.
    """
    path = folder / DATALIST
    if not path.is_file():
        return {}
    listed = {scan.participant: split for split, scans in read_cohort(folder).items() for scan in scans}
    assigned = read_json(path).get(ASSIGNED, {})
    if not isinstance(assigned, dict) or not set(map(str, assigned.values())) <= set(SPLITS):
        raise InputError(f"{path}: found {ASSIGNED} that names no splits, expected {', '.join(SPLITS)} by participant.")
    for name, split in listed.items():
        if assigned.get(name, split) != split:
            logger.warning(
                "%s: %s stays in %s, where it is listed; %s says %s", path, name, split, ASSIGNED, assigned[name]
            )
    return assigned | listed


def read_cohort(folder: Path) -> dict[str, list[PreparedScan]]:
    """Read the scans of a prepared cohort, by split.

    Raises:
        InputError: there is no cohort, a scan's entry is not what it should be, or a participant stands in two splits.
    """
    if not (folder / DATALIST).is_file():
        raise InputError(f"{folder}: found no {DATALIST}, expected a cohort made by 'python -m scripts prepare'.")
    datalist = read_json(folder / DATALIST)
    cohort = {}
    for split in SPLITS:
        if not isinstance(listed := datalist.get(split), list):
            raise InputError(f"{folder / DATALIST}: found {split} = {listed!r}, expected a list of scans.")
        cohort[split] = [PreparedScan.read(folder, entry, f"{folder / DATALIST}: {split}") for entry in listed]
    check_splits(cohort)
    return cohort


def cohort_checksum(dataset_dir: str) -> str:
    """Checksum of a prepared cohort as it is now, or an empty text where there is none.

    The datalist states that of the cohort as ``prepare`` or ``label`` left it. If people have edited the lists, masks
    or labels since, the two differ, and the log says so.

    Raises:
        InputError: the datalist is not what it should be.
    """
    folder = Path(dataset_dir)
    if not (folder / DATALIST).is_file():
        return ""
    checksum = _checksum(folder, read_cohort(folder))
    if read_json(folder / DATALIST).get("checksum") != checksum:
        logger.warning(
            "%s: the lists, masks or labels were edited after 'prepare' or 'label': the checksum is %s now",
            folder / DATALIST,
            checksum,
        )
    return checksum


def read_preparation(folder: Path) -> dict[str, Any]:
    """How the scans of a cohort were prepared, as its ``dataset_description.json`` says; empty where it does not."""
    path = folder / DESCRIPTION
    preparation = read_json(path).get("Preparation", {}) if path.is_file() else {}
    if not isinstance(preparation, dict):
        raise InputError(f"{path}: found Preparation = {preparation!r}, expected an object.")
    return preparation


def describe_input(folder: str) -> dict[str, Any]:
    """What a network that is trained on a cohort expects as its input.

    Args:
        folder: of the prepared cohort.

    Returns:
        plain values: ``bvalue``, ``voxel_size``, ``smoothing`` (None where the cohort does not state it), ``version``
        of the code that prepared it, and ``scheme``, a list of unit vectors in world RAS.

    Raises:
        InputError: the folder does not say how its scans were prepared.
    """
    preparation = read_preparation(Path(folder))
    for key in ("bvalue", "voxel_size"):
        if not isinstance(found := preparation.get(key), (int, float)):
            raise InputError(
                f"{folder}/{DESCRIPTION}: found no Preparation of a prepared cohort ({key} = {found!r}), expected one."
            )
    made_by = read_json(Path(folder) / DESCRIPTION).get("GeneratedBy")
    first = made_by[0] if isinstance(made_by, list) and made_by else None
    return {
        "bvalue": preparation["bvalue"],
        "voxel_size": preparation["voxel_size"],
        "smoothing": preparation.get("smoothing"),
        "version": first.get("Version", "unknown") if isinstance(first, dict) else "unknown",
        "scheme": read_scheme(Path(folder) / "scheme.bvec").tolist(),
    }


def load_entries(
    dataset_dir: str,
    split: str,
    keys: Sequence[str] = ("image", "mask"),
    directions: int | None = None,
    participants: int | None = None,
) -> list[dict[str, Any]]:
    """List the scans of one split of a prepared cohort for a MONAI dataset.

    Args:
        dataset_dir: folder of the cohort.
        split: one of ``SPLITS``.
        keys: images that are needed, keys of ``KEYS_ON_DISK``; scans without one are left out with a warning.
        directions: channels that a network expects; checked against the cohort's scheme where given.
        participants: number of participants whose scans are listed, the first ones that have all images; None for all.

    Returns:
        entries with absolute paths under ``keys``, and ``scan`` and ``participant``, their names.

    Raises:
        InputError: no cohort, another number of directions, an image on another grid than the others of its scan, or
            no scan in the split that has all images.
    """
    folder = Path(dataset_dir)
    listed = read_cohort(folder)[split]
    if directions is not None and (found := len(read_scheme(folder / "scheme.bvec"))) != directions:
        raise InputError(
            f"{folder / 'scheme.bvec'}: found {counted(found, 'direction')}, expected {directions} as the network."
        )
    entries = []
    for scan in listed:
        if missing := [key for key in keys if key not in scan]:
            names = ", ".join(KEYS_ON_DISK[key] for key in missing)
            logger.warning("%s: left out of %s, it has no %s", scan, split, names)
            continue
        for key in keys:
            if not scan.path(key).is_file():
                raise InputError(f"{scan.path(key)}: no such file, expected as {DATALIST} names it.")
        scan.check_grids(keys)
        entries.append(
            {"scan": scan.name, "participant": scan.participant, **{key: str(scan.path(key)) for key in keys}}
        )
    if listed and not entries:
        names = " and ".join(KEYS_ON_DISK[key] for key in keys)
        raise InputError(
            f"{folder / DATALIST}: found no scan in {split} with {names}, "
            "expected labels made by 'python -m scripts label'."
        )
    if not entries:
        raise InputError(f"{folder / DATALIST}: found no scan in {split}, expected at least one participant.")
    return entries if participants is None else _of_first(participants, entries, f"{folder / DATALIST}: {split}")


def _of_first(count: int, entries: Sequence[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """List the entries of the first ``count`` participants."""
    names = list(dict.fromkeys(entry["participant"] for entry in entries))
    if not 1 <= count <= len(names):
        found = counted(len(names), "participant")
        raise InputError(f"{where}: found {found}, expected {count} as asked for, and at least 1.")
    return [entry for entry in entries if entry["participant"] in names[:count]]
