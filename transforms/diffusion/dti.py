"""Diffusion tensor imaging (DTI): two fits of the tensor, fractional anisotropy and mean diffusivity.

Attenuations of a batch are fitted by torch on any device, by linear least squares; signals of a scan, b0 included, by
DIPY, by weighted least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from dipy.core.gradients import GradientTable, gradient_table
from dipy.reconst.dti import TensorModel

from transforms.diffusion.gradients import B0_MAX
from transforms.errors import SignalError

MIN_ATTENUATION = 1e-3
"""Attenuations below are set to it before the logarithm is taken."""


def fit_tensor_lls(attenuation: torch.Tensor, gradients: np.ndarray) -> torch.Tensor:
    """Fit one diffusion tensor to each voxel, ``ln A = -b g^T D g``, by linear least squares.

    Basser, Mattiello and LeBihan, J Magn Reson B 103:247-254, 1994.

    Args:
        attenuation: of ``C`` directions, shape ``(C, X, Y, Z)``.
        gradients: gradient table, shape ``(C, 4)``, unit vectors and b-values in s/mm2, all above 0.

    Returns:
        tensors in mm2/s in the frame of the gradients, float32, shape ``(3, 3, X, Y, Z)``.

    Raises:
        SignalError: the directions are fewer than six, or do not determine a tensor.
    """
    x, y, z, b = np.asarray(gradients, dtype=np.float64).T
    design = -b[:, None] * np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], axis=-1)
    if np.linalg.matrix_rank(design) < 6:
        raise SignalError(f"found {len(b)} gradients that do not determine a tensor, expected six or more axes.")
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


@dataclass(frozen=True)
class Tensor:
    """Measures of the diffusion tensor.

    Attributes:
        fa: fractional anisotropy, 0 to 1, shape ``(X, Y, Z)``; 0 outside the mask.
        md: mean diffusivity in mm2/s, shape ``(X, Y, Z)``.
        direction: main eigenvector in the frame of the gradients, shape ``(X, Y, Z, 3)``.
    """

    fa: np.ndarray
    md: np.ndarray
    direction: np.ndarray


def dipy_table(gradients: np.ndarray) -> GradientTable:
    """DIPY's form of a gradient table ``(N, 4)``."""
    return gradient_table(gradients[:, 3], bvecs=gradients[:, :3], b0_threshold=B0_MAX)


def fit_tensor_wls(signal: np.ndarray, gradients: np.ndarray, mask: np.ndarray) -> Tensor:
    """Fit one diffusion tensor to each voxel of a mask by weighted least squares.

    The weights are the squared signals (Chung, Lu and Henry, NeuroImage 33:531-541, 2006).

    Args:
        signal: of ``N`` volumes, b0 among them, in any unit, shape ``(N, X, Y, Z)``.
        gradients: gradient table, shape ``(N, 4)``.
        mask: where to fit, bool, shape ``(X, Y, Z)``.
    """
    fit = TensorModel(dipy_table(gradients), fit_method="WLS").fit(signal[:, mask].T.astype(np.float64))
    fa, md, direction = (np.zeros((*mask.shape, *end), dtype=np.float32) for end in ((), (), (3,)))
    fa[mask], md[mask] = np.nan_to_num(fit.fa), np.nan_to_num(fit.md)
    direction[mask] = np.nan_to_num(fit.evecs[..., 0])
    return Tensor(fa, md, direction)
