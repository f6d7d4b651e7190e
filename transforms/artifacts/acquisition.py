"""A simulated dMRI acquisition with all its artifacts, on the signal before it is divided by b0.

The artifacts follow each other in this order:

- The head has its own position in each volume. The anatomy turns, and so does the gradient's direction seen from the
  head.
- Eddy currents displace each volume, depending on its gradient.
- Some slices lose signal.
- Odd and even lines of k-space differ in phase, which gives an N/2 ghost.
- Both parts of the complex signal get noise, so that its magnitude is Rician.

Andersson and Sotiropoulos, NeuroImage 125:1063-1078, 2016, describe the artifacts that depend on the gradient. Graham,
Drobnjak and Zhang, NeuroImage 125:1079-1094, 2016, simulate the artifacts together.
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
from transforms.artifacts.noise import MAX_SEED, gaussian
from transforms.artifacts.rows import along_axis, as_rows, by_slabs, cut, from_rows, k_space_filter, on_device
from transforms.attenuation import Attenuation
from transforms.diffusion.sh import MIN_SH_ORDER, fit_matrix, sh_basis, sh_order
from transforms.errors import InputError

VOLUMES_AT_ONCE = 8
"""Number of volumes that are resampled together. Their coordinates take three times the memory of the volumes."""

MAX_CONDITION = 10.0
"""Largest condition number of an SH basis that is fitted without smoothing. The default scheme has 1.1."""


@dataclass(frozen=True)
class AcquisitionParams(ArtifactParams):
    """Drawn artifacts of one acquisition: a b0 with the head at rest, then one volume per direction.

    Attributes:
        axis: voxel axis of the phase encoding (PE), 0, 1 or 2; slices are along :func:`slice_axis`.
        degrees: rotations of the head in each volume around the axes of world RAS, ``(C, 3)``.
        translation: translations of the head in each volume in mm along the axes of world RAS, ``(C, 3)``.
        eddy_linear: coefficients per unit of the gradient's x, y and z in world RAS, ``(4, 3)``. Their rows are stretch
            minus 1, shift in voxels, and shear_x and shear_z in mm per mm (:class:`EddyParams`).
        eddy_quadratic: the same coefficients per unit of xx, yy, zz, xy, xz and yz, ``(4, 6)``.
        dropout: ``[direction, slice, factor]`` of each slice that lost signal.
        ghost_phase: phase between odd and even lines of k-space, degrees. The height of the ghost, relative to the
            image, is the tangent of half this phase.
        snr: mean b0 in the brain mask, divided by the standard deviation of the noise in each part of the complex
            signal; 0 for no noise.
        seed: seed of the noise.
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
        """Whether the acquisition has no artifact."""
        lists = self.degrees + self.translation + self.eddy_linear + self.eddy_quadratic
        no_dropout = all(factor == 1 for _, _, factor in self.dropout)
        return not any(map(any, lists)) and no_dropout and self.ghost_phase == 0 and self.snr == 0

    def eddy(self, directions: np.ndarray) -> EddyParams:
        """Compute the displacement of each direction: a linear plus a quadratic function of its gradient.

        The linear part is opposite for g and -g; the quadratic part is the same. The stretch is at least
        ``MIN_STRETCH``.

        Args:
            directions: unit vectors in world RAS, ``(C, 3)``.
        """
        x, y, z = directions.T
        products = np.stack([x * x, y * y, z * z, x * y, x * z, y * z])
        terms = np.array(self.eddy_linear) @ directions.T + np.array(self.eddy_quadratic) @ products
        return EddyParams(self.axis, np.maximum(1 + terms[0], MIN_STRETCH).tolist(), *terms[1:].tolist())

    def turned_signal(self, directions: np.ndarray) -> np.ndarray:
        """Return the matrix ``(C, C)`` from the signal of the head at rest to that of its turned positions.

        A head turned by R sees the gradient g as ``R^T g``. An SH series is fitted to the signal. The signal changes by
        the difference of this series between the two directions, so a volume without rotation keeps its own signal.
        The fit has no smoothing: smoothing would make the change too small, by a fifth where fibres cross.
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
        # the signal keeps one name, so that memory holds no more than two of its stages at once
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
        # without noise the deviation is 0, whatever the mean b0
        sigma = (b0 * as_rows(inside)).sum() / inside.sum().clamp(min=1) * (1 / self.snr if self.snr else 0.0)
        signal = self._magnitude(signal, sigma, self.seed)
        b0 = self._magnitude(b0, sigma, self.seed + 1)
        return as_rows(Attenuation()(from_rows(signal), from_rows(b0)))

    def _moved(self, signal: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
        """Resample each volume to the position of the head in it, a few volumes at once."""
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
        """Return the fraction of the signal that each slice keeps, in a shape that multiplies rows."""
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
        """Return the magnitude of the complex signal, with the ghost in its imaginary part and noise in both parts."""
        if self.ghost_phase == 0 and self.snr == 0:
            return signal
        half, n = math.radians(self.ghost_phase) / 2, signal.shape[self.axis]
        # alternating signs of the lines of k-space move the image by half the field of view
        alternate = on_device(k_space_filter([(-1.0) ** k for k in range(-(n // 2), n - n // 2)]), signal)
        noise = [gaussian(signal, 0.0, 1.0, 2 * seed + part) for part in (0, 1)] if self.snr else []
        across = 1 if self.axis == 0 else 0

        def slab(part: slice) -> torch.Tensor:
            here = cut(signal, across, part)
            complex_ = torch.stack([here * math.cos(half), along_axis(alternate, here, self.axis) * math.sin(half)])
            if noise:
                drawn = [cut(one, across, part) for one in noise]
                complex_ = complex_ + torch.stack(drawn) * sigma
            # unlike torch.hypot, vector_norm has a gradient where both parts are 0
            return torch.linalg.vector_norm(complex_, dim=0)

        # the result overwrites the real part of the noise: no slab of it is read twice
        return by_slabs(signal, across, slab, *noise[:1])


@functools.lru_cache(maxsize=8)
def _series(directions: bytes) -> tuple[int, np.ndarray, np.ndarray]:
    """Return SH order, basis ``(C, K)`` and fit ``(K, C)`` of directions ``(C, 3)``, given as bytes of float64.

    The order is the highest that the directions determine well (``MAX_CONDITION``). The results depend on the scheme
    alone, so they are cached.
    """
    vectors = np.frombuffer(directions).reshape(-1, 3)
    order = sh_order(vectors)
    while order > MIN_SH_ORDER and np.linalg.cond(sh_basis(vectors, order)) > MAX_CONDITION:
        order -= 2
    return order, sh_basis(vectors, order), fit_matrix(vectors, order, smoothing=0.0)


def slice_axis(phase_encoding: int) -> int:
    """Return the voxel axis of the slices of a 2D acquisition: the last one that is not the phase encoding."""
    return 2 if phase_encoding != 2 else 1


class Acquisition(Artifact[AcquisitionParams]):
    """Artifacts of a whole acquisition, on the raw signal with its b0.

    A receive bias field is not among them. It is the same in all volumes, so it cancels in the attenuation.

    Args:
        prob: probability of the artifact; each of its parts has its own range.
        axis: voxel axis of the phase encoding; 1 is anterior-posterior in a RAS image.
        rotation_step: range of a standard deviation, uniform, degrees: that of the change of each rotation angle from
            one volume to the next. The head makes a random walk from its position at b0.
        translation_step: the same range for each translation, mm.
        eddy_stretch: standard deviation of the stretch per unit of the gradient's x, y and z.
        eddy_shift: standard deviation of the shift in voxels.
        eddy_shear: standard deviation of both shears, mm per mm.
        eddy_quadratic: ratio of the quadratic terms' standard deviation to that of the linear terms.
        dropout: range of the probability, uniform, that a slice of a volume loses signal.
        dropout_factor: range of the fraction of the signal that such a slice keeps, uniform, 0 to 1.
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
        """Draw the artifacts of one acquisition of an image of ``shape``."""

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
            seed=whole_number(generator, 0, MAX_SEED),
        )
