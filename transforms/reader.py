"""Reader of prepared images. It is apart from ``damage``, which commands use that do without MONAI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data.image_reader import NibabelReader
from monai.utils import ensure_tuple

from transforms.damage import DAMAGE, read_to_end, with_one_handle
from transforms.errors import InputError


class WholeFileReader(NibabelReader):
    """Reader for MONAI's ``LoadImage`` that finds damage inside a compressed NIfTI image.

    The reader of MONAI returns wrong voxels without a word where a bit of the file has changed.
    """

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
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
