"""Damaged image files: what reading them raises, and how damage inside a compressed one is found."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from os import PathLike
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import PathLike as MonaiPath
from monai.data.image_reader import NibabelReader
from monai.utils import ensure_tuple
from nibabel.fileholders import FileHolder

from transforms.errors import InputError

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


class WholeFileReader(NibabelReader):
    """Reader for MONAI's ``LoadImage`` that finds damage inside a compressed NIfTI image.

    The reader of MONAI returns wrong voxels without a word where a bit of the file has changed.
    """

    def read(self, data: Sequence[MonaiPath] | MonaiPath, **kwargs: Any) -> Any:
        """Open images as :class:`monai.data.NibabelReader` does."""
        images = ensure_tuple(super().read(data, **kwargs))
        opened = [with_one_handle(image, name) for image, name in zip(images, ensure_tuple(data), strict=True)]
        return opened if len(opened) > 1 else opened[0]

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Return voxels and metadata.

        Raises:
            InputError: a file is damaged.
        """
        try:
            found = super().get_data(img)
            for image in ensure_tuple(img):
                read_to_end(image)
        except DAMAGE as error:
            # not the reader's own list, which threads share
            names = ", ".join(str(image.get_filename()) for image in ensure_tuple(img))
            raise InputError(f"{names}: found a damaged file ({error}), expected a whole NIfTI image.") from None
        return found
