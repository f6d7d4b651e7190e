"""Damaged image files: what reading them raises, and how damage inside a compressed one is found."""

from __future__ import annotations

import gzip
import zlib
from os import PathLike
from typing import Any

import nibabel as nib
from nibabel.fileholders import FileHolder

DAMAGE = (OSError, EOFError, ValueError, OverflowError, zlib.error)
"""What reading the voxels of a damaged file raises."""


def with_one_handle(image: Any, path: str | PathLike[str]) -> Any:
    """Give a compressed NIfTI image one open file: nibabel would open it for each read, and stop at its last voxel."""
    if not str(path).endswith(".gz") or not isinstance(image, nib.nifti1.Nifti1Image):
        return image
    stream = gzip.open(path)  # noqa: SIM115 (it stays open as long as the image)
    return type(image).from_file_map({"image": FileHolder(str(path), stream)})


def read_to_end(image: nib.nifti1.Nifti1Pair) -> None:
    """Read a compressed image to the end of its stream, where a checksum tells whether it was damaged inside.

    Raises:
        OSError: it was.
    """
    stream = image.file_map["image"].fileobj
    while stream is not None and stream.read(1 << 20):
        pass
