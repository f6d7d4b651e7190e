"""Diffusion tensor of attenuations, its invariants, and white matter by them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from scipy import ndimage

from transforms.errors import InputError

MIN_ATTENUATION = 1e-3
"""Attenuations below are set to it before the logarithm is taken."""

LEAST_FA = 0.2
"""Fractional anisotropy (FA) of white matter: the usual threshold of tractography."""

CLEAR_FA = 0.4
"""FA above which a voxel is white matter without doubt, whose mean diffusivity is the measure of the others."""

MOST_MD = 1.4
"""Mean diffusivity (MD) of white matter, over the median MD of what is white matter without doubt."""

LEAST_PART_ML = 0.5
"""Smaller parts of a white-matter mask are noise."""


def fit_tensor(attenuation: torch.Tensor, gradients: np.ndarray) -> torch.Tensor:
    """Fit one diffusion tensor to each voxel, ``ln A = -b g^T D g``, by linear least squares.

    Basser, Mattiello and LeBihan, J Magn Reson B 103:247-254, 1994.

    Args:
        attenuation: of ``C`` directions, shape ``(C, X, Y, Z)``.
        gradients: gradient table, shape ``(C, 4)``, unit vectors and b-values in s/mm2, all above 0.

    Returns:
        tensors in mm2/s in the frame of the gradients, float32, shape ``(3, 3, X, Y, Z)``.

    Raises:
        InputError: the directions are fewer than six, or do not determine a tensor.
    """
    x, y, z, b = np.asarray(gradients, dtype=np.float64).T
    design = -b[:, None] * np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], axis=-1)
    if np.linalg.matrix_rank(design) < 6:
        raise InputError(f"gradients: found {len(b)} that do not determine a tensor, expected six or more axes.")
    inverse = torch.from_numpy(np.linalg.pinv(design)).to(attenuation.device, torch.float32)
    logarithm = attenuation.float().clamp(min=MIN_ATTENUATION).log()
    elements = torch.tensordot(inverse, logarithm, dims=1)
    return elements[[0, 3, 4, 3, 1, 5, 4, 5, 2]].unflatten(0, (3, 3))


def mean_diffusivity(tensor: torch.Tensor) -> torch.Tensor:
    """Mean diffusivity ``(X, Y, Z)`` in mm2/s of tensors ``(3, 3, X, Y, Z)``."""
    return (tensor[0, 0] + tensor[1, 1] + tensor[2, 2]) / 3


def fractional_anisotropy(tensor: torch.Tensor) -> torch.Tensor:
    """Fractional anisotropy ``(X, Y, Z)``, at most 1, of tensors ``(3, 3, X, Y, Z)``; 0 for no diffusion.

    ``sqrt(3/2) |D - MD| / |D|`` with Frobenius norms (Basser and Pierpaoli, J Magn Reson B 111:209-219, 1996). Noise
    can make an eigenvalue negative, and the ratio larger than 1.
    """
    square = tensor.square().sum(dim=(0, 1))
    isotropic = 3 * mean_diffusivity(tensor).square()
    ratio = 1.5 * (square - isotropic).clamp(min=0) / square.clamp(min=torch.finfo(torch.float32).tiny)
    return ratio.sqrt().clamp(max=1)


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
        InputError: nothing in the brain is anisotropic.
    """
    clear = mask & (fa > CLEAR_FA) & (md > 0)
    if not clear.any():
        raise InputError(f"found no voxel of FA above {CLEAR_FA:g} in the brain, expected white matter.")
    # the brain's rim is anisotropic by movement and by what the mask has too much
    core = ndimage.binary_erosion(mask)
    limit = MOST_MD * np.median(md[clear & core] if (clear & core).any() else md[clear])
    parts, count = ndimage.label(core & (fa > LEAST_FA) & (md < limit))
    large = np.flatnonzero(np.bincount(parts.ravel(), minlength=count + 1) >= LEAST_PART_ML / voxel_ml)
    return np.isin(parts, large[large > 0])


class WhiteMatterd(Transform):
    """Make ``white_matter``, by the diffusion alone; see :func:`white_matter`.

    Args:
        image_key: where the attenuations stand, ``(C, X, Y, Z)``.
        gradients_key: where their gradient table stands, ``(C, 4)``.
        mask_key: where the brain mask stands, ``(1, X, Y, Z)``.
        white_matter_key: where the mask goes, ``(1, X, Y, Z)``, 0 or 1.
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
        tensor = fit_tensor(torch.as_tensor(image), np.asarray(data[self.gradients_key]))
        fa, md = fractional_anisotropy(tensor).numpy(), mean_diffusivity(tensor).numpy()
        voxel_ml = abs(float(torch.linalg.det(image.affine[:3, :3]))) / 1000
        try:
            white = white_matter(fa, md, np.asarray(mask[0] > 0.5), voxel_ml)
        except InputError as error:
            raise InputError(f"{data.get('dwi', 'scan')}: {error}") from None
        # like the brain mask in type and place
        return {**data, self.white_matter_key: mask * torch.from_numpy(white)[None]}
