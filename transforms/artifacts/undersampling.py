"""Undersampling in q-space: few directions are measured, and the others are interpolated from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from transforms.artifacts.base import Artifact, ArtifactParams, ScanInfo, check_integer, check_range, whole_number
from transforms.artifacts.rows import on_device
from transforms.diffusion.gradients import angles_between_axes
from transforms.diffusion.scheme import MIN_AXES
from transforms.diffusion.sh import SMOOTHING, fit_matrix, sh_basis, sh_order
from transforms.errors import InputError, SignalError


@dataclass(frozen=True)
class UndersamplingParams(ArtifactParams):
    """Drawn undersampling.

    Attributes:
        measured: number of directions that are measured.
        order: all channels in a random order, in which :meth:`kept` looks for well spread ones.
    """

    artifact = "undersampling"

    measured: int
    order: list[int]

    @property
    def is_identity(self) -> bool:
        """Whether all directions are measured, so that there is nothing to interpolate."""
        return self.measured >= len(self.order)

    def kept(self, directions: np.ndarray) -> list[int]:
        """Choose the channels that are measured, as spread as those of an acquisition.

        The first channel of ``order`` is kept. Each further one is, among the next half of those left, the one furthest
        from all that are kept (Mitchell, SIGGRAPH 1991, "best candidate"). If the channels do not determine SH of order
        2 by the rule for scans (:func:`sh_order`), further ones follow until they do.

        Args:
            directions: unit vectors of the channels in world RAS, ``(C, 3)``.

        Returns:
            indices of channels, in ascending order.
        """
        angles = angles_between_axes(directions, directions)
        kept, left = self.order[:1], self.order[1:]
        while left and (len(kept) < self.measured or not _determined(directions[kept])):
            candidates = left[: math.ceil(len(left) / 2)]
            furthest = candidates[int(angles[np.ix_(kept, candidates)].min(axis=0).argmax())]
            kept.append(furthest)
            left.remove(furthest)
        return sorted(kept)

    def matrix(self, directions: np.ndarray, smoothing: float = SMOOTHING) -> np.ndarray:
        """Return the matrix ``(C, C)`` from the signal on all directions to that interpolated from the kept ones.

        It is what :func:`sh_interpolation_matrix` does to a scan that has the kept directions alone; the columns of the
        others are 0.

        Args:
            directions: unit vectors of the channels in world RAS, ``(C, 3)``.
            smoothing: Laplace-Beltrami regularisation.
        """
        kept = self.kept(directions)
        if len(kept) == len(directions):
            return np.eye(len(directions))
        order = sh_order(directions[kept])
        matrix = np.zeros([len(directions)] * 2)
        matrix[:, kept] = sh_basis(directions, order) @ fit_matrix(directions[kept], order, smoothing)
        return matrix

    def _apply(self, rows: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
        if scan.directions is None:
            raise InputError("undersampling: found no directions, expected those of the scan.")
        if not len(scan.directions) == len(self.order) == rows.shape[3]:
            raise InputError(
                f"UndersamplingParams: found an order of {len(self.order)} and {len(scan.directions)} directions, "
                f"expected {rows.shape[3]} as in the image."
            )
        # the matrix works on the channels of each row
        return rows @ on_device(self.matrix(np.asarray(scan.directions, dtype=np.float64)), rows).T


def _determined(directions: np.ndarray) -> bool:
    """Whether unit vectors ``(N, 3)`` determine SH of order 2."""
    try:
        sh_order(directions)
    except SignalError:
        return False
    return True


class Undersampling(Artifact[UndersamplingParams]):
    """Fewer directions: some channels are measured, and spherical harmonics (SH) interpolate all channels from them.

    Clinical scans often have 6 to 30 directions. Before a network sees such a scan, it is interpolated to the scheme,
    and what it lacks then is angular detail: the fit has a lower order, and the noise of few volumes spreads over all.
    This artifact does the same to a scan of the scheme, with the same fit. Artifacts and noise of a scanner are in the
    volumes before they are interpolated, so undersampling is applied after them.

    A protocol spreads its directions, and a purely random choice does not. Of 100 random choices of 6, 8 and 10 of the
    default 64 directions, the rule for scans (condition number and largest gap, :func:`sh_order`) refuses 94, 67 and
    47. :meth:`UndersamplingParams.kept` spreads them: of 100 such choices of 6, 8 and 10, the rule refuses 56, 4 and
    none, and these are enlarged, mostly by one direction.

    Args:
        prob: probability of the artifact.
        measured: range of the number of measured directions, uniform whole numbers, at least 6. An image with fewer
            directions keeps all that it has.

    Raises:
        InputError: an argument is out of its limits.

    Examples:
        >>> params = Undersampling(measured=(12, 12)).sample(torch.Generator().manual_seed(0), (64, 8, 10, 6))
        >>> known = ScanInfo(directions=default_scheme())
        >>> constant = params.apply(torch.full((64, 8, 10, 6), 0.4), known)
        >>> torch.allclose(constant, torch.tensor(0.4), atol=1e-3)
        True
    """

    name = UndersamplingParams.artifact

    def __init__(self, *, prob: float = 0.5, measured: Sequence[int] = (6, 63)) -> None:
        super().__init__(prob)
        check_range("measured", measured, minimum=MIN_AXES)
        low, high = (check_integer("measured", number, MIN_AXES) for number in measured)
        self.measured = low, high

    def sample(self, generator: torch.Generator, shape: Sequence[int]) -> UndersamplingParams:
        """Draw the number of measured directions, and an order of the ``shape[0]`` channels."""
        low, high = (min(number, shape[0]) for number in self.measured)
        return UndersamplingParams(
            measured=whole_number(generator, low, high), order=torch.randperm(shape[0], generator=generator).tolist()
        )
