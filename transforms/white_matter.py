"""White matter by diffusion alone: anisotropic voxels that are not mixed with free water."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from scipy import ndimage

from transforms.diffusion.dti import fit_tensor_lls, fractional_anisotropy, mean_diffusivity
from transforms.errors import InputError, SignalError

MIN_FA = 0.2
"""Fractional anisotropy (FA) of white matter: the usual threshold of tractography."""

CLEAR_FA = 0.4
"""FA above which a voxel is white matter without doubt; the mean diffusivity of such voxels is the measure of the
others."""

MAX_MD_RATIO = 1.4
"""Mean diffusivity (MD) of white matter, over the median MD of what is white matter without doubt."""

DIFFUSION_LIMITS = (
    "White matter was found by FA and MD alone: it takes in parts of thalamus and deep gray matter, and misses "
    "crossings of low anisotropy."
)
"""What a reader of maps in such white matter should know."""

MIN_PART_ML = 0.5
"""Smaller parts of a white-matter mask are noise."""


def white_matter(fa: np.ndarray, md: np.ndarray, mask: np.ndarray, voxel_ml: float) -> np.ndarray:
    """White matter by FA and MD: anisotropic, and not mixed with free water.

    Args:
        fa: fractional anisotropy, shape ``(X, Y, Z)``.
        md: mean diffusivity in mm2/s, shape ``(X, Y, Z)``.
        mask: brain mask, bool, shape ``(X, Y, Z)``.
        voxel_ml: volume of a voxel in ml.

    Returns:
        bool, shape ``(X, Y, Z)``.

    Raises:
        SignalError: nothing in the brain is anisotropic.
    """
    clear = mask & (fa > CLEAR_FA) & (md > 0)
    if not clear.any():
        raise SignalError(f"found no voxel of FA above {CLEAR_FA:g} in the brain, expected white matter.")
    # movement makes the brain's rim anisotropic, and the mask takes in some of what lies around the brain
    core = ndimage.binary_erosion(mask)
    limit = MAX_MD_RATIO * np.median(md[clear & core] if (clear & core).any() else md[clear])
    parts, count = ndimage.label(core & (fa > MIN_FA) & (md < limit))
    large = np.flatnonzero(np.bincount(parts.ravel(), minlength=count + 1) >= MIN_PART_ML / voxel_ml)
    return np.isin(parts, large[large > 0])


class WhiteMatterd(Transform):
    """Make ``white_matter``, by the diffusion alone; see :func:`white_matter`.

    Args:
        image_key: where the attenuations stand, ``(C, X, Y, Z)``.
        gradients_key: where their gradient table stands, ``(C, 4)``.
        mask_key: where the brain mask stands, ``(1, X, Y, Z)``.
        white_matter_key: where the mask goes, ``(1, X, Y, Z)``, 0 or 1.

    Examples:
        >>> data = WhiteMatterd()(ScanToInput()({"raw_scan": scan}))
        >>> bool((data["white_matter"].sum() > 0.8 * data["mask"].sum()))
        True
    """

    def __init__(
        self,
        image_key: str = "image",
        gradients_key: str = "gradients",
        mask_key: str = "mask",
        white_matter_key: str = "white_matter",
    ) -> None:
        self.image_key = image_key
        self.gradients_key = gradients_key
        self.mask_key = mask_key
        self.white_matter_key = white_matter_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask to ``data``.

        Raises:
            InputError: nothing in the brain is anisotropic; the sentence names the scan.
        """
        image, mask = data[self.image_key], data[self.mask_key]
        tensor = fit_tensor_lls(torch.as_tensor(image), np.asarray(data[self.gradients_key]))
        fa, md = fractional_anisotropy(tensor).numpy(), mean_diffusivity(tensor).numpy()
        voxel_ml = abs(float(torch.linalg.det(image.affine[:3, :3]))) / 1000
        try:
            white = white_matter(fa, md, np.asarray(mask[0] > 0.5), voxel_ml)
        except SignalError as error:
            raise InputError(f"{data.get('dwi', 'scan')}: {error}") from None
        # like the brain mask in type and place
        return {**data, self.white_matter_key: mask * torch.from_numpy(white)[None]}
