"""Whether the directions of a scan have flipped or exchanged axes: fibres are coherent along the right ones only."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradlint
import numpy as np

from scripts.io.gradients import write_gradients
from scripts.io.nifti import write_nifti
from transforms.errors import InputError
from transforms.white_matter import WhiteMatterd

FLAGGED = "FLAG"
"""How gradlint says that another way is more coherent by 2 percent or more."""


def doubt_about_gradients(data: Mapping[Hashable, Any]) -> str | None:
    """Compare the ways of flipping and exchanging axes by the coherence of neighbouring fibres (gradlint).

    Nothing is repaired: which of the ways is right is for a person to say.

    Args:
        data: the network's input, as :class:`transforms.ScanToInput` makes it: ``image``, ``gradients`` and ``mask``.

    Returns:
        a sentence without a full stop where another way is more coherent by a clear margin, else None.
    """
    try:
        white = WhiteMatterd()(data)["white_matter"]
    except InputError:
        return "the gradients were not checked: no white matter was found"
    affine = np.asarray(data["image"].affine, dtype=np.float64)
    # the attenuation of a b0 volume is 1
    image = data["image"].numpy()
    signal = np.moveaxis(np.concatenate([np.ones_like(image[:1]), image]), 0, -1).astype(np.float32)
    with TemporaryDirectory() as folder:
        dwi, bval, bvec, mask = (Path(folder) / name for name in ("dwi.nii.gz", "bval", "bvec", "mask.nii.gz"))
        write_nifti(dwi, signal, affine)
        write_nifti(mask, white[0].numpy().astype(np.uint8), affine)
        write_gradients(bval, bvec, np.vstack([np.zeros(4), data["gradients"]]), affine)
        try:
            flip = gradlint.detect_flip(str(dwi), str(bvec), str(bval), mask=str(mask), threads=1).flip
        except Exception as error:  # a check that cannot be made costs no scan
            return f"the gradients were not checked: {error}"
    if flip is None:
        return "the gradients were not checked: gradlint gave no answer"
    if flip.decision != FLAGGED:
        return None
    return (
        f"fibres are more coherent ({flip.best.coherence:.3f}) with the axes {flip.recommended_label} of the prepared "
        f".bvec than as they are ({flip.identity_coherence:.3f}): are the scan's b-vectors flipped or exchanged?"
    )
