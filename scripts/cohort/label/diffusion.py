"""Diffusion tensor, and white matter by its anisotropy and mean diffusivity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dipy.core.gradients import GradientTable, gradient_table
from dipy.reconst.dti import TensorModel

from scripts.cohort.label.raw import Shell
from transforms.errors import InputError
from transforms.gradients import B0_MAX
from transforms.tensor import white_matter as tensor_white_matter


class NoFibresError(InputError):
    """A scan has no white matter to speak of; the sentence goes on after the scan's name."""


@dataclass(frozen=True)
class Tensor:
    """Measures of the diffusion tensor.

    Attributes:
        fa: fractional anisotropy, 0 to 1, shape ``(X, Y, Z)``; 0 outside the brain.
        md: mean diffusivity in mm2/s.
        direction: main eigenvector in world RAS, shape ``(X, Y, Z, 3)``.
    """

    fa: np.ndarray
    md: np.ndarray
    direction: np.ndarray


def table_of(shell: Shell) -> GradientTable:
    """DIPY's gradient table of the mean b0 and the volumes of a shell, directions in world RAS."""
    directions = np.vstack([np.zeros(3), shell.gradients[:, :3]])
    return gradient_table(np.concatenate([[0.0], shell.gradients[:, 3]]), bvecs=directions, b0_threshold=B0_MAX)


def voxels_of(shell: Shell, where: np.ndarray) -> np.ndarray:
    """Signals ``(n, 1 + N)``, b0 first, of the voxels of a mask."""
    return np.column_stack([shell.b0[where], shell.signal[:, where].T]).astype(np.float64)


def fit_tensor(shell: Shell) -> Tensor:
    """Fit a tensor by weighted least squares in each voxel of the brain."""
    inside = shell.mask & (shell.b0 > 0)
    fit = TensorModel(table_of(shell), fit_method="WLS").fit(voxels_of(shell, inside))
    fa, md, direction = (np.zeros((*inside.shape, *end), dtype=np.float32) for end in ((), (), (3,)))
    fa[inside], md[inside] = np.nan_to_num(fit.fa), np.nan_to_num(fit.md)
    direction[inside] = np.nan_to_num(fit.evecs[..., 0])
    return Tensor(fa, md, direction)


def white_matter(tensor: Tensor, shell: Shell) -> np.ndarray:
    """White matter by FA and MD, bool, shape ``(X, Y, Z)``: anisotropic, and not mixed with free water.

    Raises:
        NoFibresError: nothing in the scan is anisotropic.
    """
    try:
        return tensor_white_matter(tensor.fa, tensor.md, shell.mask, abs(np.linalg.det(shell.affine[:3, :3])) / 1000)
    except InputError as error:
        raise NoFibresError(str(error)) from None
