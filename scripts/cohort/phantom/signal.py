"""Signal of a phantom scan: gradient schemes, multi-compartment diffusion, and the faults of a scanner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from dipy.core.sphere import HemiSphere, disperse_charges
from scipy import ndimage

from transforms.qspace import default_scheme

WHITE_PARALLEL = 1.7e-3
WHITE_PERPENDICULAR = 0.3e-3
"""Diffusivities in mm2/s of one coherent fibre population (human corpus callosum and pyramidal tract: about 1.7
along and 0.1 to 0.3 across, Pierpaoli et al., Radiology 201:637-648, 1996)."""

GRAY_DIFFUSIVITY = 0.8e-3
CSF_DIFFUSIVITY = 3.0e-3
"""Isotropic diffusivities in mm2/s (Pierpaoli et al., 1996, for gray matter; free water at 37 degrees C for CSF, Mills,
J Phys Chem 77:685-688, 1973)."""

WATER_CONTENT = np.array([0.82, 0.70, 1.0])
"""Of gray matter, white matter and CSF, relative to CSF (Neeb et al., NeuroImage 31:1156-1168, 2006)."""

T1 = np.array([1.820, 1.084, 4.300])
T2 = np.array([0.099, 0.069, 1.500])
"""Relaxation times in s of gray matter, white matter and CSF at 3 T (Stanisz et al., Magn Reson Med 54:507-512, 2005;
T1 of CSF: Rooney et al., Magn Reson Med 57:308-318, 2007; its T2 is far above any echo time and hardly matters)."""

WHITE_B0 = 600.0
"""Mean intensity of white matter at b = 0 in the stored integers: CSF then stays within the 12 bits of a scanner."""

CONTRAST_VARIATION = 0.1
"""Largest relative deviation of a subject's tissue intensities."""

DIFFUSIVITY_VARIATION = 0.05
"""Largest relative deviation of a subject's diffusivities of gray and white matter."""

HCP_B0 = 5.0
"""b-value in s/mm2 of the b0 volumes in the files of the HCP."""

SCHEME_SEED = 1
"""Start of the dispersion of the auxiliary directions: every subject of a cohort has the same scheme."""


@dataclass(frozen=True)
class Contrast:
    """What a subject's tissues look like: b0 intensities ``(3,)`` of GM, WM, CSF, and a factor of the diffusivities."""

    b0: np.ndarray
    diffusivity: float


@dataclass(frozen=True)
class Faults:
    """Faults of a scan.

    Attributes:
        sigma: standard deviation of the noise in each of the two receiver channels.
        bias: multiplicative receive field, shape ``(X, Y, Z)``, mean 1 in the brain; None for none.
        stretch: relative stretch along the second voxel axis (phase encoding), one per volume, shape ``(N,)``.
    """

    sigma: float
    bias: np.ndarray | None
    stretch: np.ndarray


@lru_cache(maxsize=4)
def dispersed_directions(count: int) -> np.ndarray:
    """Unit vectors ``(count, 3)`` of a hemisphere, spread by electrostatic repulsion of their axes."""
    start = np.random.default_rng([SCHEME_SEED, count]).standard_normal((count, 3))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    sphere, _ = disperse_charges(HemiSphere(xyz=start), iters=400)
    return sphere.vertices


def auxiliary_gradients(
    generator: np.random.Generator, shells: dict[float, int], b0_volumes: int, rotation: np.ndarray
) -> np.ndarray:
    """Gradient table in the manner of the HCP: shells mixed, b0 volumes at even distances, b-values off by up to 5.

    Args:
        generator: source of the b-values' deviations.
        shells: number of directions of each b-value in s/mm2.
        b0_volumes: number of b0 volumes.
        rotation: of the head in the scanner, ``(3, 3)``. The HCP turns scan and directions into the axes of the head,
            so the directions of its subjects differ by how they lay; here the same scheme is turned the same way.

    Returns:
        gradient table in world RAS, shape ``(N, 4)``.
    """
    rows = np.concatenate([np.column_stack([dispersed_directions(n), np.full(n, b)]) for b, n in shells.items()])
    rows = np.random.default_rng(SCHEME_SEED).permutation(rows)
    rows[:, 3] += generator.choice([-5.0, 0.0, 5.0], len(rows))
    rows[:, :3] = rows[:, :3] @ rotation.T
    b0 = np.array([[0, 0, 0, HCP_B0]])
    return np.concatenate([part for block in np.array_split(rows, b0_volumes) for part in (b0, block)])


def clinical_gradients() -> np.ndarray:
    """Gradient table of the clinical scan in world RAS: one b0, then 64 directions at b = 1000, shape ``(65, 4)``."""
    scheme = default_scheme()
    return np.concatenate([np.zeros((1, 4)), np.column_stack([scheme, np.full(len(scheme), 1000.0)])])


def sample_contrast(generator: np.random.Generator, echo_time: float, repetition_time: float) -> Contrast:
    """Draw a subject's contrast: spin-echo b0 intensities of the tissues, each within ``CONTRAST_VARIATION``."""
    b0 = WATER_CONTENT * np.exp(-echo_time / T2) * (1 - np.exp(-repetition_time / T1))
    b0 = WHITE_B0 * b0 / b0[1] * generator.uniform(1 - CONTRAST_VARIATION, 1 + CONTRAST_VARIATION, 3)
    return Contrast(b0, generator.uniform(1 - DIFFUSIVITY_VARIATION, 1 + DIFFUSIVITY_VARIATION))


def noise_free_signal(
    tissue: np.ndarray, directions: np.ndarray, fractions: np.ndarray, contrast: Contrast, gradients: np.ndarray
) -> Iterator[np.ndarray]:
    """Signal of ``N`` voxels, one volume of the gradient table after the other.

    ``S = sum_t f_t S0_t exp(-b D_t)``; in white matter each population is an axially symmetric tensor, ``b D = b
    (D_perpendicular + (D_parallel - D_perpendicular) (g.v)^2)`` (Basser et al., Biophys J 66:259-267, 1994).

    Args:
        tissue: fractions of gray matter, white matter and CSF, shape ``(3, N)``.
        directions: unit vectors of the populations, shape ``(N, 3, 3)``.
        fractions: of the populations within white matter, shape ``(N, 3)``.
        contrast: of the subject.
        gradients: gradient table, shape ``(V, 4)``.

    Yields:
        signal, float32, shape ``(N,)``.
    """
    weighted = (contrast.b0[:, None] * tissue).astype(np.float32)
    has_fibres = tissue[1] > 0
    fibres = directions[has_fibres].astype(np.float32)
    shares = (weighted[1, has_fibres, None] * fractions[has_fibres]).astype(np.float32)
    parallel, perpendicular, gray = np.array([WHITE_PARALLEL, WHITE_PERPENDICULAR, GRAY_DIFFUSIVITY]) * (
        contrast.diffusivity
    )
    for *direction, b in gradients:
        signal = weighted[0] * np.float32(np.exp(-b * gray)) + weighted[2] * np.float32(np.exp(-b * CSF_DIFFUSIVITY))
        # a b0 volume without a direction is weighted as if across the fibres: at b = 5 that is a change of 1 in 1,000
        cosine = fibres @ np.array(direction, dtype=np.float32)
        diffusivity = np.float32(perpendicular) + np.float32(parallel - perpendicular) * cosine**2
        signal[has_fibres] += np.sum(shares * np.exp(np.float32(-b) * diffusivity), axis=1)
        yield signal


def bias_field(generator: np.random.Generator, brain: np.ndarray, strength: float) -> np.ndarray:
    """Smooth positive field ``exp(polynomial of degree 2)``.

    Args:
        generator: source of the coefficients.
        brain: mask, shape ``(X, Y, Z)``.
        strength: largest absolute logarithm of the field in the brain before its mean is set to 1.

    Returns:
        float32, shape ``(X, Y, Z)``, mean 1 in the brain.
    """
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in brain.shape), indexing="ij", sparse=True)
    terms = (x, y, z, x * y, x * z, y * z, x**2, y**2, z**2)
    logarithm = sum((c * term for c, term in zip(generator.standard_normal(9), terms, strict=True)), np.zeros(1))
    logarithm = logarithm - logarithm[brain].mean()
    field = np.exp(strength * logarithm / np.abs(logarithm[brain]).max())
    return (field / field[brain].mean()).astype(np.float32)


def stretch_matrix(length: int, stretch: float) -> np.ndarray:
    """Matrix ``(length, length)`` that stretches a line of voxels about its middle and conserves its sum.

    What was at distance ``y`` from the middle lands at ``(1 + stretch) y``, with its intensity divided by ``1 +
    stretch``, as an eddy current does along the phase-encoding axis; between voxels by cubic splines.
    """
    middle, scale = (length - 1) / 2, 1 + stretch
    where = middle + (np.arange(length) - middle) / scale
    rows, columns = np.meshgrid(where, np.arange(length), indexing="ij")
    return (ndimage.map_coordinates(np.eye(length), [rows, columns], order=3) / scale).astype(np.float32)


def add_faults(volume: np.ndarray, faults: Faults, index: int, generator: np.random.Generator) -> np.ndarray:
    """Volume ``index`` of a scan as the scanner stores it: stretched, weighted by the receive field, with Rician noise.

    Args:
        volume: noise-free signal, float32, shape ``(X, Y, Z)``.
        faults: of the scan.
        index: number of the volume.
        generator: source of the noise.

    Returns:
        shape ``(X, Y, Z)``, int16.
    """
    if faults.stretch[index]:
        matrix = stretch_matrix(volume.shape[1], faults.stretch[index])
        volume = np.einsum("ij,xjz->xiz", matrix, volume, optimize=True)
    if faults.bias is not None:
        volume = volume * faults.bias
    real, imaginary = generator.standard_normal((2, *volume.shape), dtype=np.float32) * np.float32(faults.sigma)
    return np.rint(np.hypot(volume + real, imaginary)).astype(np.int16)
