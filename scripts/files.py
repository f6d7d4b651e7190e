"""Files that appear whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from transforms.errors import InputError
from transforms.tissues import TISSUE_ABBREVIATIONS, TISSUES


def code_version() -> str:
    """Version of the installed package, or ``"unknown"`` where the sources are used without installing them."""
    try:
        return version("dmri-pretraining")
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, which takes its name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the ending decides how NIfTI files are compressed, so it stays the ending
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as indented JSON."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected JSON.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: found text that is not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a JSON {type(content).__name__}, expected an object.")
    return content


def write_nifti(
    path: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    slope: float | None = None,
    header: nib.nifti1.Nifti1Header | None = None,
) -> None:
    """Write a NIfTI image in the type of ``voxels``.

    Args:
        path: ends in ``.nii.gz``.
        voxels: shape ``(X, Y, Z)`` or ``(X, Y, Z, N)``.
        affine: voxel to world RAS, in mm.
        slope: what a stored integer is multiplied with; 1 where not given.
        header: of the image that this one goes on from, for its space and repetition time.
    """
    image = nib.nifti1.Nifti1Image(voxels, affine, header)
    image.set_data_dtype(voxels.dtype)
    if header is None:
        image.header.set_xyzt_units("mm", "sec")
    if slope is not None:
        image.header.set_slope_inter(slope, 0.0)
    with whole_file(path) as partial:
        nib.save(image, partial)


def tissue_table() -> str:
    """Lookup table of the tissue classes in BIDS' form, to stand beside a ``dseg`` image."""
    rows = [f"{index}\t{name}\t{TISSUE_ABBREVIATIONS[index]}" for index, name in enumerate(TISSUES)]
    return "\n".join(["index\tname\tabbreviation", *rows]) + "\n"


def sha256(*paths: Path) -> str:
    """SHA-256 over the contents of some files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
