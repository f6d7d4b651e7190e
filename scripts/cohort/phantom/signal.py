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
"""Range of the share of a population's signal from inside axons, the sticks, in which water diffuses along them only
(sticks: Behrens et al., Magn Reson Med 50:1077-1088, 2003; shares in coherent white matter: Zhang et al., 2012)."""

CONCENTRATION = (7.0, 12.0)
"""Range of the concentration of the Watson distribution of a population's fibres about its axis, some 17 to 23 degrees
in the root mean square. With it the anisotropy of single populations is that measured in large bundles."""

LEGENDRE_ORDER = 16
"""Highest order of a population's response; enough for b = 3000 to 1 in 100,000 of its signal at b = 0."""

GRAY_DIFFUSIVITY = 0.8e-3
CSF_DIFFUSIVITY = 3.0e-3
"""Isotropic diffusivities in mm2/s (Pierpaoli et al., Radiology 201:637-648, 1996, for gray matter; free water at 37
degrees C for CSF, Mills, J Phys Chem 77:685-688, 1973)."""

WATER_CONTENT = np.array([0.82, 0.70, 1.0])
"""Of gray matter, white matter and CSF, relative to CSF (Neeb et al., NeuroImage 31:1156-1168, 2006)."""

T1 = np.array([1.820, 1.084, 4.300])
T2 = np.array([0.099, 0.069, 1.500])
"""Relaxation times in s of gray matter, white matter and CSF at 3 T (Stanisz et al., Magn Reson Med 54:507-512, 2005;
T1 of CSF: Rooney et al., Magn Reson Med 57:308-318, 2007; its T2 is far above any echo time and hardly matters)."""

WHITE_B0 = 600.0
"""Mean intensity of white matter at b = 0 in the stored integers: CSF then stays within the 12 bits of a scanner."""

WHITE_T1W = 800.0
"""Mean intensity of white matter in the T1-weighted image."""

CONTRAST_VARIATION = 0.1
"""Largest relative deviation of a subject's tissue intensities."""

DIFFUSIVITY_VARIATION = 0.05
"""Largest relative deviation of a subject's diffusivities of gray and white matter."""


@dataclass(frozen=True)
class Contrast:
    """What a subject's tissues look like.

    Attributes:
        b0: intensities of GM, WM and CSF without diffusion weighting, shape ``(3,)``.
        t1w: intensities of GM, WM and CSF in the T1-weighted image, shape ``(3,)``.
        stick: share of a population's signal from inside axons.
        axial: diffusivity along fibres in mm2/s.
        concentration: of a population's fibres about its axis; infinite where all are along it.
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
        """Diffusivity in mm2/s across fibres outside of axons, by tortuosity: ``axial (1 - stick)`` (Szafer et al.,
        Magn Reson Med 33:697-712, 1995)."""
        return self.axial * (1 - self.stick)


def spin_echo(echo_time: float, repetition_time: float) -> np.ndarray:
    """Intensities ``(3,)`` of GM, WM and CSF in a spin echo, ``rho exp(-TE/T2) (1 - exp(-TR/T1))``; times in s."""
    return np.asarray(WATER_CONTENT * np.exp(-echo_time / T2) * (1 - np.exp(-repetition_time / T1)))


def spoiled_gradient_echo(flip_angle: float, repetition_time: float) -> np.ndarray:
    """Intensities ``(3,)`` of GM, WM and CSF in a spoiled gradient echo, whose T2* weighting is left out.

    ``rho sin(a) (1 - E) / (1 - E cos(a))`` with ``E = exp(-TR/T1)`` (Haase et al., J Magn Reson 67:258-266, 1986).

    Args:
        flip_angle: in degrees.
        repetition_time: in s.
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
        # a scanner scales its T1-weighted images to the brightest tissue, which stays white matter
        t1w=vary(t1w, WHITE_T1W),
        stick=generator.uniform(*STICK_FRACTION),
        axial=AXIAL_DIFFUSIVITY * diffusivity,
        concentration=generator.uniform(*CONCENTRATION),
        gray=GRAY_DIFFUSIVITY * diffusivity,
    )


@lru_cache(maxsize=1)
def _quadrature() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss's points and weights, and the Legendre polynomials there: they are found once, not for each volume."""
    cosine, weights = legendre.leggauss(8 * LEGENDRE_ORDER)
    return cosine, weights, legendre.legvander(cosine, LEGENDRE_ORDER)


def response(b: float, contrast: Contrast) -> np.ndarray:
    """Attenuation of one fibre population as a polynomial.

    A fibre is a stick and a zeppelin (Panagiotaki et al., NeuroImage 59:2241-2254, 2012): with ``c`` the cosine of the
    angle to the gradient, ``A = s exp(-b a c^2) + (1 - s) exp(-b (r + (a - r) c^2))``, axial diffusivity ``a``, radial
    one ``r``, share of sticks ``s``. A population is its mean over the Watson distribution ``exp(k cos^2)`` about the
    axis, as in NODDI (Zhang et al., NeuroImage 61:1000-1016, 2012): on the sphere that is a convolution, a product of
    Legendre coefficients.

    Args:
        b: in s/mm2.
        contrast: of the subject.

    Returns:
        coefficients of the powers 0, 1, ... of ``c^2``, ``c`` now the cosine between gradient and axis, shape
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

    ``S = sum_t f_t S0_t A_t``, with ``A = exp(-b D)`` in gray matter and CSF, and that of :func:`response` in each
    population of white matter.

    Args:
        tissue: fractions of gray matter, white matter and CSF, shape ``(3, N)``.
        rows: the voxels, of those ``N``, with fibres, ascending, shape ``(M,)``.
        directions: unit vectors of their ``K`` populations, shape ``(M, K, 3)``.
        weights: of the populations within the white matter of the voxel, sum 1, shape ``(M, K)``.
        contrast: of the subject.
    """

    def __init__(
        self, tissue: np.ndarray, rows: np.ndarray, directions: np.ndarray, weights: np.ndarray, contrast: Contrast
    ) -> None:
        self._gray, white, self._csf = (contrast.b0[:, None] * tissue).astype(np.float32)
        self._contrast = contrast
        present = weights > 0
        self._axes = directions[present].astype(np.float32)
        shares = (weights * white[rows, None])[present].astype(np.float32)
        # one row of a sparse matrix per voxel, one column per population: their sum is a product
        counts = np.zeros(tissue.shape[1], dtype=np.int64)
        counts[rows] = present.sum(axis=1)
        starts = np.concatenate([[0], counts.cumsum()])
        self._sum = csr_array((shares, np.arange(len(shares)), starts), shape=(tissue.shape[1], len(shares)))

    def at(self, gradient: np.ndarray) -> np.ndarray:
        """Signal, float32, shape ``(N,)``, for a row ``[gx, gy, gz, b]`` of a gradient table."""
        contrast, b = self._contrast, float(gradient[3])
        # a b0 volume without a direction is weighted as if across the fibres: at b = 5 that is a change of 2 in 1,000
        square = (self._axes @ gradient[:3].astype(np.float32)) ** 2
        highest, *others = response(b, contrast)[::-1].astype(np.float32)
        fibres = np.full_like(square, highest)
        for coefficient in others:
            fibres *= square
            fibres += coefficient
        gray, csf = np.float32(np.exp(-b * contrast.gray)), np.float32(np.exp(-b * CSF_DIFFUSIVITY))
        return np.asarray(self._gray * gray + self._csf * csf + self._sum @ fibres)
