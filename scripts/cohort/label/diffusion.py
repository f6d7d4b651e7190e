"""Diffusion tensor, and white matter by its anisotropy and mean diffusivity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dipy.core.gradients import GradientTable, gradient_table
from dipy.reconst.dti import TensorModel
from scipy import ndimage

from scripts.cohort.label.raw import Shell
from transforms.errors import InputError
from transforms.gradients import B0_MAX

LEAST_FA = 0.2
"""Fractional anisotropy (FA) of white matter where there is no T1: the usual threshold of tractography."""

CLEAR_FA = 0.4
"""FA above which a voxel is white matter without doubt, whose mean diffusivity is the measure of the others."""

MOST_MD = 1.4
"""Mean diffusivity (MD) of white matter, over the median MD of what is white matter without doubt."""

LEAST_PART_ML = 0.5
"""Smaller parts of a white-matter mask are noise."""


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
    clear = shell.mask & (tensor.fa > CLEAR_FA) & (tensor.md > 0)
    if not clear.any():
        raise NoFibresError(f"found no voxel of FA above {CLEAR_FA:g} in the brain, expected white matter.")
    # the brain's rim is anisotropic by movement and by what the mask has too much
    core = ndimage.binary_erosion(shell.mask)
    limit = MOST_MD * np.median(tensor.md[clear & core] if (clear & core).any() else tensor.md[clear])
    found = core & (tensor.fa > LEAST_FA) & (tensor.md < limit)
    parts, count = ndimage.label(found)
    least = LEAST_PART_ML * 1000 / abs(np.linalg.det(shell.affine[:3, :3]))
    large = np.flatnonzero(np.bincount(parts.ravel(), minlength=count + 1) >= least)
    return np.isin(parts, large[large > 0])
