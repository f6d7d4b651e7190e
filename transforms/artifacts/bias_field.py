"""Bias field: a smooth factor in space, such as the sensitivity of a receive coil."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from transforms.artifacts.base import Artifact, ArtifactParams, ScanInfo, check_integer, check_range, uniform
from transforms.artifacts.rows import on_device
from transforms.errors import InputError


def n_terms(order: int) -> int:
    """Return the number of terms of a polynomial of ``order`` in three variables."""
    return (order + 1) * (order + 2) * (order + 3) // 6


@dataclass(frozen=True)
class BiasFieldParams(ArtifactParams):
    """Drawn bias field.

    Attributes:
        order: order of the polynomial.
        coefficients: factors of ``x**i * y**j * z**k`` with ``i + j + k <= order``; k counts fastest and i slowest.
        keep_mean: whether the field is divided by a number, so that the image keeps its mean.
    """

    artifact = "bias field"

    order: int
    coefficients: list[float]
    keep_mean: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether the field is 1 everywhere."""
        return not any(self.coefficients)

    def _apply(self, rows: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
        if len(self.coefficients) != n_terms(self.order):
            raise InputError(
                f"BiasFieldParams: found {len(self.coefficients)} coefficients, expected {n_terms(self.order)} of a "
                f"polynomial of order {self.order}."
            )
        coordinates = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in rows.shape[:3]]
        powers = [on_device(np.vander(x, self.order + 1, increasing=True), rows) for x in coordinates]
        of_order = range(self.order + 1)
        known = [(i, j, k) for i in of_order for j in of_order for k in of_order if i + j + k <= self.order]
        cube = np.zeros([self.order + 1] * 3)
        for term, coefficient in zip(known, self.coefficients, strict=True):
            cube[term] = coefficient
        field = torch.einsum("ijk,xi,yj,zk->xyz", on_device(cube, rows), *powers).exp().unsqueeze(-1)
        return self.rescaled(rows * field, rows)

    def rescaled(self, result: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Give the result the mean of the image, if the field keeps it."""
        # an image of zeros stays one
        return result * (image.sum() / result.sum()).nan_to_num(1.0) if self.keep_mean else result


class BiasField(Artifact[BiasFieldParams]):
    """Smooth field that multiplies the image (Van Leemput et al., IEEE TMI 18:885-896, 1999).

    All directions share the field. It is the exponential of a polynomial in voxel coordinates, which run from -1 to 1
    between the outermost voxel centres.

    An attenuation is a ratio to b0. A field multiplies both alike, so what is left of it may vary in space, but a
    factor common to all voxels cancels. So by default the field keeps the mean of the image: a network that learned to
    undo factors would replace the mean attenuation of a scan by that of its training.

    Args:
        prob: probability of the artifact.
        coefficients: range of each coefficient, uniform.
        order: order of the polynomial; 3 has 20 coefficients.
        keep_mean: whether the image keeps its mean; if not, the polynomial's constant term changes it, as in TorchIO.

    Raises:
        InputError: an argument is out of its limits.

    Examples:
        >>> params = BiasField(order=1).sample(torch.Generator().manual_seed(0), (6, 16, 20, 12))
        >>> len(params.coefficients), params.apply(torch.ones(6, 16, 20, 12), ScanInfo()).std() > 0
        (4, tensor(True))
    """

    name = BiasFieldParams.artifact

    def __init__(
        self,
        *,
        prob: float = 0.5,
        coefficients: Sequence[float] = (-0.5, 0.5),
        order: int = 3,
        keep_mean: bool = True,
    ) -> None:
        super().__init__(prob)
        self.keep_mean = bool(keep_mean)
        self.coefficients = check_range("coefficients", coefficients)
        self.order = check_integer("order", order, 0)

    def sample(self, generator: torch.Generator, shape: Sequence[int]) -> BiasFieldParams:
        """Draw coefficients; they do not depend on the shape."""
        return BiasFieldParams(
            order=self.order,
            coefficients=uniform(generator, self.coefficients, n_terms(self.order)),
            keep_mean=self.keep_mean,
        )
