"""Fibre orientations by constrained spherical deconvolution (CSD): their number (NuFO), and the largest peak."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
from dipy.core.sphere import HemiSphere, Sphere
from dipy.data import get_sphere
from dipy.direction.peaks import peak_directions
from dipy.reconst import csdeconv
from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel, response_from_mask_ssst
from dipy.reconst.shm import real_sh_descoteaux

from transforms.diffusion.dti import dipy_table
from transforms.diffusion.gradients import B0_MAX, unique_axes
from transforms.diffusion.scheme import SAME_AXIS_DEGREES
from transforms.diffusion.sh import MAX_SH_ORDER, sh_order
from transforms.errors import SignalError, counted
from transforms.label_classes import MAX_NUFO

RELATIVE_THRESHOLD = 0.5
"""Of the largest peak, above the smallest value of the orientation distribution."""

MIN_SEPARATION_DEGREES = 25.0
"""Weninger et al., BVM 2022: peaks of half the largest one's height, 25 degrees apart, at most ``MAX_NUFO``."""

RESPONSE_FA = tuple(np.arange(0.75, 0.34, -0.05).round(2).tolist())
"""Fractional anisotropy above which voxels make the response; the first with enough voxels is taken."""

SHARP_EIGENVALUES = (1.7e-3, 0.2e-3, 0.2e-3)
"""Diffusivities in mm2/s of a bundle without dispersion: deconvolution with it finds more crossings, where dispersed
fibres make the estimated response blunt."""

MIN_RESPONSE_VOXELS = 300
"""The smallest number of voxels of a response, as DIPY and MRtrix recommend."""

REFINEMENT_DEGREES = 2.0
"""Distance of the points around a vertex of the sphere through which a parabola is laid to find the peak."""

CHUNK = 5000
"""Voxels whose orientation distributions are in memory at once."""


@dataclass(frozen=True)
class Response:
    """Signal of a single bundle of fibres.

    Attributes:
        eigenvalues: of its prolate tensor, largest first, in mm2/s.
        b0: its signal without diffusion weighting.
        fa_above: the FA that its voxels exceed.
        voxels: their number.
    """

    eigenvalues: tuple[float, float, float]
    b0: float
    fa_above: float
    voxels: int

    @property
    def fa(self) -> float:
        """Fractional anisotropy of the response."""
        first, _, last = self.eigenvalues
        return float((first - last) / np.sqrt(first**2 + 2 * last**2))


@dataclass(frozen=True)
class Peaks:
    """Peaks of the fibre orientation distributions (fODF).

    Attributes:
        nufo: number of fibre orientations, 0 to ``MAX_NUFO``, uint8, shape ``(X, Y, Z)``; 0 outside the mask.
        peak: unit vector of the largest peak in the frame of the gradients, float32, shape ``(X, Y, Z, 3)``; 0 where
            there is none.
        response: what was deconvolved with.
        order: of the spherical harmonics.
        axes: distinct gradient axes of the shell.
    """

    nufo: np.ndarray
    peak: np.ndarray
    response: Response
    order: int
    axes: int


def estimate_response(signal: np.ndarray, gradients: np.ndarray, mask: np.ndarray, fa: np.ndarray) -> Response:
    """Average the tensors of the most anisotropic voxels, anywhere in the brain.

    Args:
        signal: of ``N`` volumes, b0 among them, in any unit, shape ``(N, X, Y, Z)``.
        gradients: gradient table, shape ``(N, 4)``.
        mask: white matter, bool, shape ``(X, Y, Z)``.
        fa: fractional anisotropy, shape ``(X, Y, Z)``.

    Raises:
        SignalError: not even the lowest FA of ``RESPONSE_FA`` has enough voxels.
    """
    for threshold in RESPONSE_FA:
        chosen = mask & (fa > threshold)
        if chosen.sum() >= MIN_RESPONSE_VOXELS:
            # DIPY takes a mask on a volume; here a list of voxels stands for it
            signals = _voxels(signal, chosen)[:, None, None]
            (evals, b0), _ = response_from_mask_ssst(dipy_table(gradients), signals, np.ones(signals.shape[:3]))
            first, second, third = (float(value) for value in evals)
            return Response((first, second, third), float(b0), threshold, int(chosen.sum()))
    raise SignalError(
        f"found {counted(int((mask & (fa > RESPONSE_FA[-1])).sum()), 'voxel')} of white matter with FA above "
        f"{RESPONSE_FA[-1]:g}, expected at least {MIN_RESPONSE_VOXELS} to estimate the response of a fibre bundle."
    )


def find_peaks(
    signal: np.ndarray,
    gradients: np.ndarray,
    mask: np.ndarray,
    fa: np.ndarray,
    response_mask: np.ndarray | None = None,
    sharp: bool = False,
) -> Peaks:
    """Deconvolve the signals of white matter and find the peaks (Tournier et al., NeuroImage 35:1459-1472, 2007).

    Args:
        signal: of ``N`` volumes, b0 among them, in any unit, shape ``(N, X, Y, Z)``.
        gradients: gradient table, shape ``(N, 4)``; the SH order is the highest that the directions of its one shell
            determine, at most 8.
        mask: white matter, bool, shape ``(X, Y, Z)``.
        fa: fractional anisotropy, shape ``(X, Y, Z)``.
        response_mask: the part of the mask in which the response is looked for, by default all.
        sharp: whether to take ``SHARP_EIGENVALUES`` in place of those of the scan.

    Raises:
        SignalError: no response can be estimated.
    """
    response = estimate_response(signal, gradients, mask if response_mask is None else mask & response_mask, fa)
    if sharp:
        response = replace(response, eigenvalues=SHARP_EIGENVALUES)
    directions = gradients[gradients[:, 3] > B0_MAX, :3]
    order = sh_order(directions, MAX_SH_ORDER)
    # DIPY warns of its basis, which is used here by its own functions alone, and of voxels in which noise kept the
    # deconvolution from an end; the latter still have their best estimate. It also checks in each voxel how its own
    # function is called, which takes a third of the time of all the rest
    unchecked = mock.patch.object(csdeconv, "csdeconv", inspect.unwrap(csdeconv.csdeconv))
    with warnings.catch_warnings(), unchecked:
        warnings.simplefilter("ignore")
        counts, peaks = _peaks_of_voxels(_voxels(signal, mask), gradients, response, order)
    nufo = np.zeros(mask.shape, dtype=np.uint8)
    peak = np.zeros((*mask.shape, 3), dtype=np.float32)
    nufo[mask], peak[mask] = counts, peaks
    return Peaks(nufo, peak, response, order, unique_axes(directions, SAME_AXIS_DEGREES))


def _voxels(signal: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Signals ``(n, N)`` of the voxels of a mask."""
    return signal[:, mask].T.astype(np.float64)


def _peaks_of_voxels(
    signals: np.ndarray, gradients: np.ndarray, response: Response, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """NuFO ``(n,)`` and largest peak ``(n, 3)`` of voxels with signals ``(n, N)``."""
    model = ConstrainedSphericalDeconvModel(
        dipy_table(gradients), (np.array(response.eigenvalues), response.b0), sh_order_max=order
    )
    sphere = HemiSphere.from_sphere(get_sphere(name="repulsion724"))
    basis = model.sampling_matrix(sphere)
    counts = np.zeros(len(signals), dtype=np.uint8)
    peaks = np.zeros((len(signals), 3), dtype=np.float32)
    for start in range(0, len(signals), CHUNK):
        part = slice(start, start + CHUNK)
        coefficients = np.nan_to_num(model.fit(signals[part]).shm_coeff)
        largest = np.zeros((len(coefficients), 3))
        for index, values in enumerate(coefficients @ basis.T):
            found, _, _ = peak_directions(
                values,
                sphere,
                relative_peak_threshold=RELATIVE_THRESHOLD,
                min_separation_angle=MIN_SEPARATION_DEGREES,
            )
            if values.max() > 0 and len(found):
                counts[start + index] = min(len(found), MAX_NUFO)
                largest[index] = found[0]
        peaks[part] = refine(largest, coefficients, model)
    return counts, peaks


def refine(directions: np.ndarray, coefficients: np.ndarray, model: ConstrainedSphericalDeconvModel) -> np.ndarray:
    """Move each peak from a vertex of the sphere to the top of a parabola through its surroundings.

    Args:
        directions: unit vectors, shape ``(n, 3)``; rows of zeros stay.
        coefficients: of the orientation distributions, shape ``(n, K)``.
        model: whose basis they belong to.

    Returns:
        unit vectors, shape ``(n, 3)``, at most ``2 REFINEMENT_DEGREES`` from the given ones.
    """
    found = np.linalg.norm(directions, axis=1) > 0.5
    result = np.array(directions, dtype=np.float64)
    if not found.any():
        return result
    axis = result[found]
    helper = np.eye(3)[np.abs(axis).argmin(axis=1)]
    first = np.cross(axis, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(axis, first)
    step = np.tan(np.radians(REFINEMENT_DEGREES))
    steps = [(u, v) for u in (-1, 0, 1) for v in (-1, 0, 1)]
    points = np.stack([axis + step * (u * first + v * second) for u, v in steps], axis=1)
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    sphere = Sphere(xyz=points.reshape(-1, 3))
    # not the model's own method, which keeps every matrix that it made
    basis = real_sh_descoteaux(model.sh_order_max, sphere.theta, sphere.phi)[0].reshape(len(axis), len(steps), -1)
    values = np.einsum("npk,nk->np", basis, coefficients[found])
    # least squares of a + b u + c v + d u^2 + e u v + f v^2 on the nine points
    design = np.array([[1, u, v, u * u, u * v, v * v] for u, v in steps], dtype=float)
    _, b, c, d, e, f = np.linalg.pinv(design) @ values.T
    curvature = 4 * d * f - e**2
    peaked = (curvature > 0) & (d < 0)
    safe = np.where(peaked, curvature, 1.0)
    offset = np.column_stack([(e * c - 2 * f * b) / safe, (e * b - 2 * d * c) / safe])
    offset = np.where(peaked[:, None], offset.clip(-1.4, 1.4), 0.0) * step
    moved = axis + offset[:, :1] * first + offset[:, 1:] * second
    result[found] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return result
