"""Fibre orientations by constrained spherical deconvolution (CSD): number of peaks, and the largest one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from dipy.core.sphere import HemiSphere, Sphere
from dipy.data import get_sphere
from dipy.direction.peaks import peak_directions
from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel, response_from_mask_ssst
from dipy.reconst.shm import real_sh_descoteaux

from scripts.cohort.label.diffusion import NoFibresError, Tensor, table_of, voxels_of
from scripts.cohort.label.raw import Shell
from transforms.qspace import MAX_SH_ORDER, SAME_AXIS_DEGREES, sh_order, unique_axes

RELATIVE_THRESHOLD = 0.5
"""Of the largest peak, above the smallest value of the orientation distribution."""

SEPARATION_DEGREES = 25.0
MOST_PEAKS = 3
"""Weninger et al., BVM 2022: peaks of half the largest one's height, 25 degrees apart, at most three."""

RESPONSE_FA = tuple(np.arange(0.75, 0.34, -0.05).round(2).tolist())
"""Fractional anisotropy above which voxels make the response; the first with enough voxels is taken."""

RESPONSE_VOXELS = 300
"""The least number of voxels of a response, as DIPY and MRtrix recommend."""

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
class Fibres:
    """Peaks of the fibre orientation distributions in white matter.

    Attributes:
        n_peaks: 0 to 3, uint8, shape ``(X, Y, Z)``; 0 outside white matter.
        peak: unit vector of the largest peak in world RAS, float32, shape ``(X, Y, Z, 3)``; 0 where there is none.
        response: what was deconvolved with.
        order: of the spherical harmonics.
        axes: distinct gradient axes of the shell.
    """

    n_peaks: np.ndarray
    peak: np.ndarray
    response: Response
    order: int
    axes: int


def estimate_response(shell: Shell, tensor: Tensor, white: np.ndarray) -> Response:
    """Average the tensors of the most anisotropic white matter, anywhere in the brain.

    Raises:
        NoFibresError: not even the lowest FA has enough voxels.
    """
    for threshold in RESPONSE_FA:
        chosen = white & (tensor.fa > threshold)
        if chosen.sum() >= RESPONSE_VOXELS:
            # DIPY takes a mask on a volume; here a list of voxels stands for it
            signals = voxels_of(shell, chosen)[:, None, None]
            (evals, b0), _ = response_from_mask_ssst(table_of(shell), signals, np.ones(signals.shape[:3]))
            first, second, third = (float(value) for value in evals)
            return Response((first, second, third), float(b0), threshold, int(chosen.sum()))
    raise NoFibresError(
        f"found {int((white & (tensor.fa > RESPONSE_FA[-1])).sum())} voxels of white matter with FA above "
        f"{RESPONSE_FA[-1]:g}, expected at least {RESPONSE_VOXELS} to estimate the response of a fibre bundle."
    )


def find_fibres(shell: Shell, tensor: Tensor, white: np.ndarray, clear: np.ndarray | None = None) -> Fibres:
    """Deconvolve the signals of white matter and find the peaks (Tournier et al., NeuroImage 35:1459-1472, 2007).

    Args:
        shell: with the scan's own directions; the order is the highest that they determine, at most 8.
        tensor: of the same scan.
        white: mask of white matter, shape ``(X, Y, Z)``.
        clear: the part of it in which the response is looked for, by default all.

    Raises:
        NoFibresError: no response can be estimated.
    """
    white = white & shell.mask & (shell.b0 > 0)
    response = estimate_response(shell, tensor, white if clear is None else white & clear)
    directions = shell.gradients[:, :3]
    order = sh_order(directions, MAX_SH_ORDER)
    # DIPY warns of its basis, which is used here by its own functions alone, and of voxels in which noise kept the
    # deconvolution from an end; the latter still have their best estimate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts, peaks = _peaks(shell, white, response, order)
    n_peaks = np.zeros(white.shape, dtype=np.uint8)
    peak = np.zeros((*white.shape, 3), dtype=np.float32)
    n_peaks[white], peak[white] = counts, peaks
    return Fibres(n_peaks, peak, response, order, unique_axes(directions, SAME_AXIS_DEGREES))


def _peaks(shell: Shell, white: np.ndarray, response: Response, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of peaks ``(n,)`` and the largest one ``(n, 3)`` of the voxels of white matter."""
    model = ConstrainedSphericalDeconvModel(
        table_of(shell), (np.array(response.eigenvalues), response.b0), sh_order_max=order
    )
    sphere = HemiSphere.from_sphere(get_sphere(name="repulsion724"))
    basis = model.sampling_matrix(sphere)
    signals = voxels_of(shell, white)
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
                min_separation_angle=SEPARATION_DEGREES,
            )
            if values.max() > 0 and len(found):
                counts[start + index] = min(len(found), MOST_PEAKS)
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
