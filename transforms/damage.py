"""Damaged image files: what reading them raises, and how damage inside a compressed one is found."""

from __future__ import annotations

import zlib

import nibabel as nib

DAMAGE = (OSError, EOFError, ValueError, OverflowError, zlib.error)
"""What reading the voxels of a damaged file raises."""


def read_to_end(image: nib.nifti1.Nifti1Pair) -> None:
    """Read a compressed image to the end of its stream, where a checksum tells whether it was damaged inside.

    Raises:
        OSError: it was.
    """
    stream = image.file_map["image"].fileobj
    while stream is not None and stream.read(1 << 20):
        pass
