"""A whole dMRI acquisition with its faults, on the signal before it is divided by b0.

Each volume is measured with the head where it then is, so that both the anatomy and, seen from the head, the
gradient's direction turn; eddy currents follow each gradient; slices lose signal; odd and even lines of k-space
differ in phase (N/2 ghost); and the magnitude of a complex signal with noise in both parts is Rician. Faults that
depend on the gradient: Andersson and Sotiropoulos, NeuroImage 125:1063-1078, 2016; simulated together: Graham,
Drobnjak and Zhang, NeuroImage 125:1079-1094, 2016.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample

from transforms.artifacts.base import (
    Artifact,
    ArtifactParams,
    ScanInfo,
    check_integer,
    check_range,
    uniform,
    whole_number,
)
from transforms.artifacts.eddy import MIN_STRETCH, EddyParams
from transforms.artifacts.motion import read_positions, rotation_matrix
from transforms.artifacts.noise import SEEDS, gaussian
from transforms.artifacts.rows import along_axis, as_rows, by_slabs, cut, from_rows, k_space_filter, on_device
from transforms.attenuation import Attenuation
from transforms.diffusion.sh import MIN_SH_ORDER, fit_matrix, sh_basis, sh_order
from transforms.errors import InputError

VOLUMES_AT_ONCE = 8
"""Volumes that are resampled together: their coordinates take three times their memory."""

MAX_CONDITION = 10.0
"""Condition number of an SH basis up to which a fit without smoothing is taken; the default scheme has 1.1."""


@dataclass(frozen=True)
class AcquisitionParams(ArtifactParams):
    """Drawn faults of one acquisition: a b0 with the head in its place, then one volume per direction.

    Attributes:
        axis: voxel axis of the phase encoding (PE), 0, 1 or 2; slices are along :func:`slice_axis`.
        degrees: rotations of the head in each volume around the axes of world RAS, ``(C, 3)``.
        translation: its translations in mm along the axes of world RAS, ``(C, 3)``.
        eddy_linear: ``(4, 3)``: stretch less 1, shift in voxels, shear_x and shear_z in mm per mm (:class:`EddyParams`)
            per unit of the gradient's x, y and z in world RAS.
        eddy_quadratic: ``(4, 6)``: the same per unit of xx, yy, zz, xy, xz and yz.
        dropout: ``[direction, slice, factor]`` of each slice that lost signal.
        ghost_phase: phase by which odd lines of k-space differ from even ones, degrees; the ghost has the tangent of
            half of it as its height.
        snr: mean b0 in the brain mask by the standard deviation of the noise in each part of the complex signal; 0 for
            no noise.
        seed: of the noise.
    """

    artifact = "acquisition"

    axis: int
    degrees: list[list[float]]
    translation: list[list[float]]
    eddy_linear: list[list[float]]
    eddy_quadratic: list[list[float]]
    dropout: list[list[float]]
    ghost_phase: float
    snr: float
    seed: int

    @property
    def is_identity(self) -> bool:
        """Whether nothing is wrong with the acquisition."""
        lists = self.degrees + self.translation + self.eddy_linear + self.eddy_quadratic
        no_dropout = all(factor == 1 for _, _, factor in self.dropout)
        return not any(map(any, lists)) and no_dropout and self.ghost_phase == 0 and self.snr == 0

    def eddy(self, directions: np.ndarray) -> EddyParams:
        """Displacement of each direction: linear in the gradient, so that g and -g are opposite, plus quadratic.

        The stretch is at least ``MIN_STRETCH``.

        Args:
            directions: unit vectors in world RAS, ``(C, 3)``.
        """
        x, y, z = directions.T
        products = np.stack([x * x, y * y, z * z, x * y, x * z, y * z])
        terms = np.array(self.eddy_linear) @ directions.T + np.array(self.eddy_quadratic) @ products
        return EddyParams(self.axis, np.maximum(1 + terms[0], MIN_STRETCH).tolist(), *terms[1:].tolist())

    def turned_signal(self, directions: np.ndarray) -> np.ndarray:
        """Matrix ``(C, C)`` from the signals of the head at rest to those of its turned positions.

        A gradient g is ``R^T g`` for a head turned by R. The signal changes by the difference of the fitted SH series
        between the two, so that a volume without rotation keeps its own signal. The fit is not smoothed, which would
        make the change itself too small, by a fifth in crossings.
        """
        turned = np.einsum("cij,ci->cj", rotation_matrix(self.degrees), directions)
        order, at_rest, fit = _series(directions.tobytes())
        return np.eye(len(directions)) + (sh_basis(turned, order) - at_rest) @ fit

    def _apply(self, rows: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
        n_directions = rows.shape[3]
        if scan.directions is None or scan.b0 is None or scan.mask is None:
            raise InputError("acquisition: found no directions, b0 or mask, expected those of the scan.")
        if not len(scan.directions) == len(self.degrees) == len(self.translation) == n_directions:
            raise InputError(
                f"AcquisitionParams: found {len(self.degrees)} positions and {len(scan.directions)} directions, "
                f"expected {n_directions} as in the image."
            )
        directions = np.asarray(scan.directions, dtype=np.float64)
        b0 = as_rows(scan.b0).to(rows.dtype)
        # one name for the signal throughout, so that of its stages no more than two are in memory at once
        signal = rows
        if any(map(any, self.degrees)):
            # the matrix works on the channels of each row
            signal = signal @ on_device(self.turned_signal(directions), rows).T
        signal = signal * b0
        if any(map(any, self.degrees + self.translation)):
            signal = self._moved(signal, scan)
        eddy = self.eddy(directions)
        if not eddy.is_identity:
            signal = eddy._apply(signal, scan)
        if self.dropout:
            signal = signal * self._remaining(signal)
        inside = scan.mask.to(rows.dtype)
        # 0 where there is no noise, whatever the mean
        sigma = (b0 * as_rows(inside)).sum() / inside.sum().clamp(min=1) * (1 / self.snr if self.snr else 0.0)
        signal = self._magnitude(signal, sigma, self.seed)
        b0 = self._magnitude(b0, sigma, self.seed + 1)
        return as_rows(Attenuation()(from_rows(signal), from_rows(b0)))

    def _moved(self, signal: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
        """Read each volume where the head then was; a few volumes at once."""
        size = signal.shape[:3]
        positions = read_positions(self.degrees, self.translation, scan.linear)
        # torch's coordinates run from -1 to 1 between the outermost voxel centres, in the order z, y, x
        half = [max((n - 1) / 2, 0.5) for n in size]
        scaled = on_device(positions / np.reshape(half, (3, 1)), signal).flip(1)
        u = torch.cartesian_prod(
            *(torch.arange(n, dtype=signal.dtype, device=signal.device) - (n - 1) / 2 for n in size)
        )
        moved = torch.empty_like(signal)
        for start in range(0, signal.shape[3], VOLUMES_AT_ONCE):
            part = slice(start, start + VOLUMES_AT_ONCE)
            grid = (u @ scaled[part, :, :3].mT + scaled[part, None, :, 3]).reshape(-1, *size, 3)
            volumes = from_rows(signal[..., part]).unsqueeze(1)
            moved[..., part] = as_rows(grid_sample(volumes, grid, align_corners=True).squeeze(1))
        return moved

    def _remaining(self, signal: torch.Tensor) -> torch.Tensor:
        """Part of the signal that is left, shaped to multiply rows."""
        axis = slice_axis(self.axis)
        left = np.ones((signal.shape[axis], signal.shape[3]))
        for direction, slice_, factor in self.dropout:
            if not (direction < left.shape[1] and slice_ < left.shape[0]):
                raise InputError(
                    f"AcquisitionParams: found dropout in direction {direction}, slice {slice_}, expected less than "
                    f"{left.shape[1]} and {left.shape[0]}."
                )
            left[int(slice_), int(direction)] = factor
        shape = [len(left) if a == axis else 1 for a in range(3)]
        return on_device(left, signal).reshape(*shape, left.shape[1])

    def _magnitude(self, signal: torch.Tensor, sigma: torch.Tensor, seed: int) -> torch.Tensor:
        """Magnitude of the complex signal, with the ghost in its imaginary part and noise in both."""
        if self.ghost_phase == 0 and self.snr == 0:
            return signal
        half, n = math.radians(self.ghost_phase) / 2, signal.shape[self.axis]
        # lines of alternate sign: the image moved by half the field of view
        alternate = on_device(k_space_filter([(-1.0) ** k for k in range(-(n // 2), n - n // 2)]), signal)
        noise = [gaussian(signal, 0.0, 1.0, 2 * seed + part) for part in (0, 1)] if self.snr else []
        across = 1 if self.axis == 0 else 0

        def slab(part: slice) -> torch.Tensor:
            here = cut(signal, across, part)
            complex_ = torch.stack([here * math.cos(half), along_axis(alternate, here, self.axis) * math.sin(half)])
            if noise:
                drawn = [cut(one, across, part) for one in noise]
                complex_ = complex_ + torch.stack(drawn) * sigma
            # unlike torch.hypot it has a gradient where both are 0
            return torch.linalg.vector_norm(complex_, dim=0)

        # over the noise's real part, of which no slab is read twice
        return by_slabs(signal, across, slab, *noise[:1])


@functools.lru_cache(maxsize=8)
def _series(directions: bytes) -> tuple[int, np.ndarray, np.ndarray]:
    """SH order, basis ``(C, K)`` and fit ``(K, C)`` of directions ``(C, 3)``, float64: of one scheme always the same.

    The order is the highest that the directions determine well.
    """
    vectors = np.frombuffer(directions).reshape(-1, 3)
    order = sh_order(vectors)
    while order > MIN_SH_ORDER and np.linalg.cond(sh_basis(vectors, order)) > MAX_CONDITION:
        order -= 2
    return order, sh_basis(vectors, order), fit_matrix(vectors, order, smoothing=0.0)


def slice_axis(phase_encoding: int) -> int:
    """Voxel axis of the slices of a 2D acquisition: the last one that is not the phase encoding."""
    return 2 if phase_encoding != 2 else 1


class Acquisition(Artifact[AcquisitionParams]):
    """Faults of a whole acquisition, on the raw signal with its b0.

    A receive bias field is not among them: it is the same in all volumes of a scanner and cancels in the attenuation.

    Args:
        prob: probability of the artifact; each of its parts has its own range.
        axis: voxel axis of the phase encoding; 1 is anterior-posterior in a RAS image.
        rotation_step: range of the standard deviation, uniform, of the change of each rotation angle from one volume to
            the next, degrees: a random walk from the place at b0.
        translation_step: the same of each translation, mm.
        eddy_stretch: standard deviation of the stretch per unit of the gradient's x, y and z.
        eddy_shift: standard deviation of the shift in voxels.
        eddy_shear: standard deviation of both shears, mm per mm.
        eddy_quadratic: the quadratic terms' standard deviation by that of the linear ones.
        dropout: range of the probability, uniform, that a slice of a volume loses signal.
        dropout_factor: range of what such a slice keeps, uniform, 0 to 1.
        ghost_phase: range of the phase between odd and even lines, degrees, uniform.
        snr: range of the signal-to-noise ratio of the b0, uniform; above 0.

    Raises:
        InputError: an argument is out of its limits.
    """

    name = AcquisitionParams.artifact

    def __init__(
        self,
        *,
        prob: float = 1.0,
        axis: int = 1,
        rotation_step: Sequence[float] = (0.0, 0.3),
        translation_step: Sequence[float] = (0.0, 0.3),
        eddy_stretch: float = 0.03,
        eddy_shift: float = 1.0,
        eddy_shear: float = 0.03,
        eddy_quadratic: float = 0.0,
        dropout: Sequence[float] = (0.0, 0.02),
        dropout_factor: Sequence[float] = (0.0, 0.7),
        ghost_phase: Sequence[float] = (0.0, 12.0),
        snr: Sequence[float] = (15.0, 40.0),
    ) -> None:
        super().__init__(prob)
        self.axis = check_integer("axis", axis, 0, 2)
        self.rotation_step = check_range("rotation_step", rotation_step, 0)
        self.translation_step = check_range("translation_step", translation_step, 0)
        deviations = {"eddy_stretch": eddy_stretch, "eddy_shift": eddy_shift, "eddy_shear": eddy_shear}
        stretch, shift, shear = (check_range(name, [value] * 2, 0)[0] for name, value in deviations.items())
        self.eddy_deviations = torch.tensor([stretch, shift, shear, shear], dtype=torch.float64)[:, None]
        self.eddy_quadratic = check_range("eddy_quadratic", [eddy_quadratic] * 2, 0)[0]
        self.dropout = check_range("dropout", dropout, 0, 1)
        self.dropout_factor = check_range("dropout_factor", dropout_factor, 0, 1)
        self.ghost_phase = check_range("ghost_phase", ghost_phase)
        self.snr = check_range("snr", snr, 1e-3)

    def sample(self, generator: torch.Generator, shape: Sequence[int]) -> AcquisitionParams:
        """Draw the faults of one acquisition of an image of ``shape``."""

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        n_directions, n_slices = shape[0], shape[1 + slice_axis(self.axis)]
        lost = torch.rand(n_directions, n_slices, generator=generator) < uniform(generator, self.dropout)
        factors = uniform(generator, self.dropout_factor, int(lost.sum()))
        return AcquisitionParams(
            axis=self.axis,
            degrees=(normal(n_directions, 3).cumsum(0) * uniform(generator, self.rotation_step)).tolist(),
            translation=(normal(n_directions, 3).cumsum(0) * uniform(generator, self.translation_step)).tolist(),
            eddy_linear=(normal(4, 3) * self.eddy_deviations).tolist(),
            eddy_quadratic=(normal(4, 6) * self.eddy_deviations * self.eddy_quadratic).tolist(),
            dropout=[[*where, factor] for where, factor in zip(lost.nonzero().tolist(), factors, strict=True)],
            ghost_phase=uniform(generator, self.ghost_phase),
            snr=uniform(generator, self.snr),
            seed=whole_number(generator, 0, SEEDS),
        )
