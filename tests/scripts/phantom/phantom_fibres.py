"""Fibres of phantoms at places of the template: what tests of bundles and of populations share."""

import numpy as np
from nilearn.datasets import load_mni152_wm_template
from scipy import ndimage

from scripts.phantom.populations import MIN_ANGLE, MIN_FRACTION, fibre_populations

LEFT = np.array([-1.0, 1.0, 1.0])
"""Factors that mirror a place to the other side."""


class WhiteMatter:
    """White matter of the template at places in MNI mm."""

    def __init__(self) -> None:
        image = load_mni152_wm_template(resolution=1)
        self.map = image.get_fdata(dtype=np.float32)
        self.tolerant = ndimage.maximum_filter(self.map, 3)
        self.origin = image.affine[:3, 3]

    def at(self, points, tolerant=False) -> np.ndarray:
        return ndimage.map_coordinates(self.tolerant if tolerant else self.map, (points - self.origin).T, order=1)

    def grid(self, spacing, threshold) -> np.ndarray:
        """Points ``spacing`` mm apart in white matter, ``(N, 3)``."""
        axes = [np.arange(low, high, spacing) for low, high in ((-75, 75), (-107, 75), (-72, 85))]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return points[self.at(points) > threshold]


def populations(points, bundles) -> tuple[np.ndarray, np.ndarray]:
    """Fibre populations in template space."""
    points = np.atleast_2d(np.asarray(points, dtype=float))
    return fibre_populations(points, np.broadcast_to(np.eye(3), (len(points), 3, 3)), bundles)


def angles(first, second) -> np.ndarray:
    """Angles in degrees between axes ``(..., 3)``."""
    cosine = np.abs(np.sum(first.astype(np.float64) * second, axis=-1))
    return np.degrees(np.arccos(np.minimum(cosine, 1)))


def assert_stated_truth(directions, fractions) -> None:
    """Assert that populations are apart, that none is too small, and that the largest is first."""
    there = fractions > 0
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), there, atol=1e-5)
    np.testing.assert_allclose(fractions.sum(axis=1), there.any(axis=1), atol=1e-5)
    assert (np.diff(fractions, axis=1) <= 0).all()
    assert fractions[there].min() >= MIN_FRACTION
    for first, second in ((0, 1), (0, 2), (1, 2)):
        both = there[:, first] & there[:, second]
        assert angles(directions[both, first], directions[both, second]).min(initial=90) > MIN_ANGLE - 0.01
