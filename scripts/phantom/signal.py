"""Signal of a phantom's tissue: relaxation, and diffusion in several compartments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre
from scipy.sparse import csr_array

AXIAL_DIFFUSIVITY = 1.7e-3
"""Diffusivity in mm2/s along fibres, inside and outside of axons (Zhang et al., NeuroImage 61:1000-1016, 2012)."""

STICK_FRACTION = (0.50, 0.60)
"""Range of the share of a population's signal from sticks: water inside axons, which diffuses along them only (sticks:
Behrens et al., Magn Reson Med 50:1077-1088, 2003; shares in coherent white matter: Zhang et al., 2012)."""

CONCENTRATION = (7.0, 12.0)
"""Range of the concentration of a population's fibres about its axis, in a Watson distribution: a root mean square of
some 17 to 23 degrees. With it, single populations have the anisotropy that studies measure in large bundles."""

LEGENDRE_ORDER = 16
"""Highest order of a population's response. At b = 3000 its error is 1 in 100,000 of the signal at b = 0."""

GRAY_DIFFUSIVITY = 0.8e-3
CSF_DIFFUSIVITY = 3.0e-3
"""Isotropic diffusivities in mm2/s (Pierpaoli et al., Radiology 201:637-648, 1996, for gray matter; free water at 37
degrees C for CSF, Mills, J Phys Chem 77:685-688, 1973)."""

WATER_CONTENT = np.array([0.82, 0.70, 1.0])
"""Water content of gray matter, white matter and CSF, relative to CSF (Neeb et al., NeuroImage 31:1156-1168, 2006)."""

T1 = np.array([1.820, 1.084, 4.300])
T2 = np.array([0.099, 0.069, 1.500])
"""Relaxation times in s of gray matter, white matter and CSF at 3 T (Stanisz et al., Magn Reson Med 54:507-512, 2005;
T1 of CSF: Rooney et al., Magn Reson Med 57:308-318, 2007). T2 of CSF is far above any echo time and hardly matters."""

WHITE_B0 = 600.0
"""Mean intensity of white matter at b = 0 in the stored integers. CSF stays within the 12 bits of a scanner."""

WHITE_T1W = 800.0
"""Mean intensity of white matter in the T1-weighted image."""

CONTRAST_VARIATION = 0.1
"""Largest relative deviation of a subject's tissue intensities."""

DIFFUSIVITY_VARIATION = 0.05
"""Largest relative deviation of a subject's diffusivities of gray and white matter."""


@dataclass(frozen=True)
class Contrast:
    """Intensities and diffusivities of a subject's tissues.

    Attributes:
        b0: intensities of GM, WM and CSF without diffusion weighting, shape ``(3,)``.
        t1w: intensities of GM, WM and CSF in the T1-weighted image, shape ``(3,)``.
        stick: share of a population's signal from inside axons.
        axial: diffusivity along fibres in mm2/s.
        concentration: concentration of a population's fibres about its axis; infinite for parallel fibres.
        gray: diffusivity of gray matter in mm2/s.
    """

    b0: np.ndarray
    t1w: np.ndarray
    stick: float
    axial: float
    concentration: float
    gray: float

    @property
    def radial(self) -> float:
        """Diffusivity in mm2/s across fibres, outside of axons.

        Tortuosity makes it ``axial (1 - stick)`` (Szafer et al., Magn Reson Med 33:697-712, 1995).
        """
        return self.axial * (1 - self.stick)


def spin_echo(echo_time: float, repetition_time: float) -> np.ndarray:
    """Intensities ``(3,)`` of GM, WM and CSF in a spin echo, ``rho exp(-TE/T2) (1 - exp(-TR/T1))``; times in s."""
    return np.asarray(WATER_CONTENT * np.exp(-echo_time / T2) * (1 - np.exp(-repetition_time / T1)))


def spoiled_gradient_echo(flip_angle: float, repetition_time: float) -> np.ndarray:
    """Intensities ``(3,)`` of GM, WM and CSF in a spoiled gradient echo, without its T2* weighting.

    They are ``rho sin(a) (1 - E) / (1 - E cos(a))`` with ``E = exp(-TR/T1)`` (Haase et al., J Magn Reson 67:258-266,
    1986).

    Args:
        flip_angle: flip angle in degrees.
        repetition_time: repetition time in s.
    """
    angle, decay = np.radians(flip_angle), np.exp(-repetition_time / T1)
    return np.asarray(WATER_CONTENT * np.sin(angle) * (1 - decay) / (1 - decay * np.cos(angle)))


def sample_contrast(generator: np.random.Generator, b0: np.ndarray, t1w: np.ndarray) -> Contrast:
    """Draw a subject's contrast about the tissues' mean intensities ``b0`` and ``t1w``, both ``(3,)``."""

    def vary(values: np.ndarray, white: float) -> np.ndarray:
        scaled = white * values / values[1]
        return np.asarray(scaled * generator.uniform(1 - CONTRAST_VARIATION, 1 + CONTRAST_VARIATION, 3))

    diffusivity = generator.uniform(1 - DIFFUSIVITY_VARIATION, 1 + DIFFUSIVITY_VARIATION)
    return Contrast(
        b0=vary(b0, WHITE_B0),
        # a scanner scales its T1-weighted images to the brightest tissue, here white matter
        t1w=vary(t1w, WHITE_T1W),
        stick=generator.uniform(*STICK_FRACTION),
        axial=AXIAL_DIFFUSIVITY * diffusivity,
        concentration=generator.uniform(*CONCENTRATION),
        gray=GRAY_DIFFUSIVITY * diffusivity,
    )


@lru_cache(maxsize=1)
def _quadrature() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points and weights of Gaussian quadrature, and the Legendre polynomials at the points, for all volumes."""
    cosine, weights = legendre.leggauss(8 * LEGENDRE_ORDER)
    return cosine, weights, legendre.legvander(cosine, LEGENDRE_ORDER)


def response(b: float, contrast: Contrast) -> np.ndarray:
    """Attenuation of one fibre population as a polynomial.

    A fibre is a stick and a zeppelin (Panagiotaki et al., NeuroImage 59:2241-2254, 2012). Its attenuation is
    ``A = s exp(-b a c^2) + (1 - s) exp(-b (r + (a - r) c^2))``, where ``c`` is the cosine of the angle to the gradient,
    ``a`` the axial diffusivity, ``r`` the radial diffusivity, and ``s`` the share of sticks.

    A population is the mean of its fibres over the Watson distribution ``exp(k cos^2)`` about the axis, as in NODDI
    (Zhang et al., NeuroImage 61:1000-1016, 2012). On the sphere this mean is a convolution, so the Legendre
    coefficients of fibre and distribution multiply.

    Args:
        b: b-value in s/mm2.
        contrast: contrast of the subject.

    Returns:
        coefficients of the powers 0, 1, ... of ``c^2``, where ``c`` is the cosine between gradient and axis, shape
        ``(LEGENDRE_ORDER / 2 + 1,)``.
    """
    cosine, weights, polynomials = _quadrature()
    along, across = contrast.axial * cosine**2, contrast.radial + (contrast.axial - contrast.radial) * cosine**2
    fibre = contrast.stick * np.exp(-b * along) + (1 - contrast.stick) * np.exp(-b * across)
    coefficients = (np.arange(LEGENDRE_ORDER + 1) + 0.5) * ((weights * fibre) @ polynomials)
    if np.isfinite(contrast.concentration):
        watson = weights * np.exp(contrast.concentration * (cosine**2 - 1))
        coefficients *= watson @ polynomials / watson.sum()
    return np.asarray(legendre.leg2poly(coefficients)[::2])


class TissueSignal:
    """Noise-free signal of ``N`` voxels for any gradient.

    The signal is ``S = sum_t f_t S0_t A_t``. The attenuation is ``A = exp(-b D)`` in gray matter and CSF. In each
    population of white matter it is that of :func:`response`.

    Args:
        tissue: fractions of gray matter, white matter and CSF, shape ``(3, N)``.
        rows: indices of the voxels with fibres among those ``N``, ascending, shape ``(M,)``.
        directions: unit vectors of their ``K`` populations, shape ``(M, K, 3)``.
        weights: fractions of the populations within the white matter of the voxel, sum 1, shape ``(M, K)``.
        contrast: contrast of the subject.
    """

    def __init__(
        self, tissue: np.ndarray, rows: np.ndarray, directions: np.ndarray, weights: np.ndarray, contrast: Contrast
    ) -> None:
        self._gray, white, self._csf = (contrast.b0[:, None] * tissue).astype(np.float32)
        self._contrast = contrast
        present = weights > 0
        self._axes = directions[present].astype(np.float32)
        shares = (weights * white[rows, None])[present].astype(np.float32)
        # a sparse matrix with a row per voxel and a column per population sums the populations of each voxel
        counts = np.zeros(tissue.shape[1], dtype=np.int64)
        counts[rows] = present.sum(axis=1)
        starts = np.concatenate([[0], counts.cumsum()])
        self._sum = csr_array((shares, np.arange(len(shares)), starts), shape=(tissue.shape[1], len(shares)))

    def at(self, gradient: np.ndarray) -> np.ndarray:
        """Signal for a row ``[gx, gy, gz, b]`` of a gradient table, float32, shape ``(N,)``."""
        contrast, b = self._contrast, float(gradient[3])
        # A b0 volume without a direction has the weighting across the fibres. At b = 5 this changes it by 2 in 1,000.
        square = (self._axes @ gradient[:3].astype(np.float32)) ** 2
        highest, *others = response(b, contrast)[::-1].astype(np.float32)
        fibres = np.full_like(square, highest)
        for coefficient in others:
            fibres *= square
            fibres += coefficient
        gray, csf = np.float32(np.exp(-b * contrast.gray)), np.float32(np.exp(-b * CSF_DIFFUSIVITY))
        return np.asarray(self._gray * gray + self._csf * csf + self._sum @ fibres)
