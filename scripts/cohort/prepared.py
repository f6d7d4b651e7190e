"""A scan of a prepared cohort: where its files lie, and by which keys ``datalist.json`` names them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scripts.io.bids import LABEL_SUFFIXES, is_label, session_of, sidecar
from scripts.io.files import read_json
from scripts.io.nifti import describe_grid, open_nifti
from transforms.errors import InputError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = {"image": "desc-attenuation_dwi", "b0": "desc-b0_dwi", "mask": "desc-brain_mask"}
"""What the name of a prepared image ends in, by its key."""

KEYS_ON_DISK = {key: key for key in (*IMAGE_SUFFIXES, *LABEL_SUFFIXES)} | {"nufo": "n_peaks"}
"""Key of each file in ``datalist.json``, by its key in the code and in the configs."""

NDIM = {"image": 4, "tissue_prob": 4, "peak": 4}
"""Dimensions of the images that have several volumes; the others have 3."""


@dataclass(frozen=True)
class Labels:
    """Files of the labels of one prepared scan.

    Attributes:
        stem: path of the files without what their names end in, ``<folder>/sub-01/dwi/sub-01``.
    """

    stem: Path

    def path(self, key: str) -> Path:
        """Image of a label, a key of ``LABEL_SUFFIXES``."""
        return _with_suffix(self.stem, f"{LABEL_SUFFIXES[key]}.nii.gz")

    @property
    def record(self) -> Path:
        """JSON that says how all of them were made; it is written last."""
        return _with_suffix(self.stem, "desc-labels.json")

    @property
    def picture(self) -> Path:
        """Picture for a quick look."""
        return _with_suffix(self.stem, "desc-labels.png")


@dataclass(frozen=True)
class PreparedScan:
    """A scan of a prepared cohort.

    Attributes:
        folder: of the cohort.
        entry: of the scan in ``datalist.json``.
    """

    folder: Path
    entry: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, entry: object, place: str) -> PreparedScan:
        """Take an entry of a datalist, which people may have edited.

        Args:
            folder: of the cohort.
            entry: as it was read.
            place: where it stands, for messages.

        Raises:
            InputError: it lacks what every scan has, or names a file outside of the cohort.
        """
        if not isinstance(entry, dict):
            raise InputError(f"{place}: found {entry!r}, expected an object for each scan.")
        needed = ("participant", "scan", "checksum", "image", "mask")
        for key in (*needed, *(name for name in KEYS_ON_DISK.values() if name in entry and name not in needed)):
            if not isinstance(value := entry.get(key), str):
                raise InputError(f"{place}: found {key} = {value!r} of {entry.get('scan', 'a scan')}, expected a text.")
        for key in ("participant", "scan"):
            if not is_label(entry[key]):
                raise InputError(f"{place}: found {key} = {entry[key]!r}, expected a name without a folder.")
        scan = cls(folder, entry)
        for key, name in KEYS_ON_DISK.items():
            if key in scan and (Path(entry[name]).is_absolute() or ".." in Path(entry[name]).parts):
                raise InputError(f"{place}: found {entry[name]!r}, expected a path within the cohort.")
        return scan

    @classmethod
    def planned(cls, folder: Path, participant: str, name: str, checksum: str) -> PreparedScan:
        """Make the entry of a scan that is about to be prepared.

        Args:
            folder: of the cohort.
            participant: BIDS label with its prefix.
            name: BIDS entities that name the scan.
            checksum: of the raw scan's voxels.
        """
        scan = cls(folder, {"participant": participant, "scan": name})
        files = {key: _with_suffix(scan.stem, f"{suffix}.nii.gz") for key, suffix in IMAGE_SUFFIXES.items()}
        return cls(folder, {**scan.entry, "checksum": checksum, **scan._relative(files)})

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """BIDS entities that name the scan, ``sub-01_ses-2_dir-AP``."""
        return str(self.entry["scan"])

    @property
    def participant(self) -> str:
        """BIDS label with its prefix, ``sub-01``."""
        return str(self.entry["participant"])

    @property
    def checksum(self) -> str:
        """SHA-256 of the raw scan's voxels."""
        return str(self.entry["checksum"])

    @property
    def stem(self) -> Path:
        """Path of the scan's files without what their names end in."""
        session = session_of(self.name)
        return self.folder.joinpath(self.participant, *([session] if session else []), "dwi", self.name)

    @property
    def labels(self) -> Labels:
        """Where the scan's labels lie or will lie."""
        return Labels(self.stem)

    @property
    def sidecar(self) -> Path:
        """JSON that says how the scan was prepared; it is written last."""
        return sidecar(self.path("image"))

    def __contains__(self, key: str) -> bool:
        return KEYS_ON_DISK[key] in self.entry

    def path(self, key: str) -> Path:
        """File of a key of ``KEYS_ON_DISK`` that the entry has."""
        return self.folder / str(self.entry[KEYS_ON_DISK[key]])

    def gradient_file(self, ending: str) -> Path:
        """Gradient file of the attenuations, ``bval`` or ``bvec``."""
        return _with_suffix(self.stem, f"{IMAGE_SUFFIXES['image']}.{ending}")

    def check_grids(self, keys: Collection[str]) -> None:
        """Refuse images of the scan that do not lie on one grid.

        Raises:
            InputError: names the image that differs from the first.
        """
        first, *others = [(self.path(key), open_nifti(self.path(key), NDIM.get(key, 3))) for key in keys]
        for path, image in others:
            shape, expected = image.shape[:3], first[1].shape[:3]
            if shape != expected or not np.allclose(image.affine, first[1].affine, atol=1e-3):
                raise InputError(
                    f"{path}: found another grid ({describe_grid(shape, expected)}) than that of {first[0].name} "
                    f"({'x'.join(map(str, expected))}), expected one for all images of a scan."
                )

    def with_labels(self, files: Mapping[str, Path]) -> PreparedScan:
        """Return the scan with these labels and no others; ``files`` by key, within the folder."""
        labels = {KEYS_ON_DISK[key] for key in LABEL_SUFFIXES}
        kept = {key: value for key, value in self.entry.items() if key not in labels}
        return PreparedScan(self.folder, kept | self._relative(files))

    def label_files(self, keys: Collection[str] = tuple(LABEL_SUFFIXES)) -> dict[str, Path]:
        """Return the labels that the entry names and that are there, by key."""
        return {key: self.path(key) for key in keys if key in self and self.path(key).is_file()}

    def raw_files(self) -> dict[str, Path]:
        """Find the raw files of the scan by its JSON, which names them relative to the cohort: both may be moved.

        Returns:
            ``dwi``, ``bval``, ``bvec`` and, where there still is one, ``t1w``.

        Raises:
            InputError: the JSON does not name them, or one is not there any more.
        """
        known = read_json(self.sidecar).get("RawFiles")
        if not isinstance(known, dict) or not all(isinstance(known.get(name), str) for name in ("dwi", "bval", "bvec")):
            raise InputError(
                f"{self.sidecar}: found RawFiles = {known!r}, expected the places of the raw scan; "
                "run 'python -m scripts prepare' on this cohort again, which adds them."
            )
        files = {name: (self.folder / str(path)).resolve() for name, path in known.items() if name != "brain_mask"}
        # without its T1 a scan has labels by its diffusion
        if "t1w" in files and not files["t1w"].is_file():
            logger.warning("%s: T1 not used: %s: no such file", self, files.pop("t1w"))
        for name, path in files.items():
            if not path.is_file():
                raise InputError(
                    f"{path}: no such file, expected the raw {name} of {self} as {self.sidecar.name} says; "
                    "if the raw cohort was moved, run 'python -m scripts prepare' again with its new folder."
                )
        return files

    def _relative(self, files: Mapping[str, Path]) -> dict[str, str]:
        return {KEYS_ON_DISK[key]: str(path.relative_to(self.folder)) for key, path in files.items()}


def label_records(folder: Path) -> list[dict[str, Any]]:
    """Read the records of how the labels of a prepared cohort were made."""
    # folders of participants may be links, which ** alone does not follow
    return [read_json(path) for path in sorted(folder.glob("*/**/*_desc-labels.json"))]


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}_{suffix}")
