"""Motion, bias field, ghosting and noise of TorchIO as MONAI transforms that draw from their own random state.

The distributions are those of TorchIO 1.2.1, with the values of Weninger et al., BVM 2022 as defaults; the images are
those of ``tio.Motion``, ``tio.BiasField``, ``tio.Ghosting`` and ``tio.Noise`` with the drawn parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchio as tio

from transforms.artifacts.base import ArtifactParams, RandArtifact, RandArtifactd, check_integer, check_range
from transforms.errors import InputError

MOVEMENT_JITTER = 0.3
"""Half width of the uniform jitter of each time of movement, in parts of the mean interval between two (TorchIO)."""


def _run(transform: tio.IntensityTransform, image: torch.Tensor, affine: np.ndarray) -> torch.Tensor:
    # not `transform(image)`, which draws from torch's global generator whether to apply
    subject = tio.Subject(image=tio.ScalarImage(tensor=image.cpu(), affine=affine))
    return transform.apply_transform(subject).get_image("image").data.to(image.device)


@dataclass(frozen=True)
class MotionParams(ArtifactParams):
    """Drawn movements of the head.

    Attributes:
        degrees: rotations around the three world axes, one triple per movement.
        translation: translations in mm along the three world axes, one triple per movement.
        times: when the movements happen, ascending, in parts of the acquisition from 0 to 1.
    """

    degrees: list[list[float]]
    translation: list[list[float]]
    times: list[float]

    @property
    def is_identity(self) -> bool:
        """Whether the head never moves."""
        return not any(value for triple in self.degrees + self.translation for value in triple)


class RandMotion(RandArtifact[MotionParams]):
    """Random motion between parts of the k-space acquisition (Shaw et al., MIDL 2019), shared by all directions.

    The position of the head is piecewise constant in time; k-space is put together from the spectra of the image in
    each position. Rotations and translations are relative to the image as it is, in world LPS, and in mm by its affine.

    In TorchIO 1.2.1

    - k-space is split along the last voxel axis, whatever the phase encoding is;
    - the segment at its centre comes from the image as it is, and the movement due there is the first instead;
    - rotations are around the world origin, not the image centre: where the two are far apart (a plain tensor has its
      origin in the corner voxel), a rotation also shifts;
    - what comes from outside the image has the minimum of its channel.

    Args:
        prob: probability that the artifact is applied.
        degrees: range of each rotation angle, uniform.
        translation: range of each translation in mm, uniform.
        num_transforms: number of movements. They are evenly spaced but for a uniform jitter (``MOVEMENT_JITTER``).

    Raises:
        InputError: an argument is out of its limits.
    """

    def __init__(
        self,
        *,
        prob: float = 0.5,
        degrees: Sequence[float] = (-10.0, 10.0),
        translation: Sequence[float] = (-10.0, 10.0),
        num_transforms: int = 2,
    ) -> None:
        super().__init__(prob)
        self.degrees = check_range("degrees", degrees)
        self.translation = check_range("translation", translation)
        self.num_transforms = check_integer("num_transforms", num_transforms, 1)

    def sample(self, n_directions: int) -> MotionParams:
        """Draw movements from ``self.R``; they do not depend on the number of directions."""
        step = 1 / (self.num_transforms + 1)
        jitter = self.R.uniform(-step * MOVEMENT_JITTER, step * MOVEMENT_JITTER, self.num_transforms)
        return MotionParams(
            degrees=self.R.uniform(*self.degrees, (self.num_transforms, 3)).tolist(),
            translation=self.R.uniform(*self.translation, (self.num_transforms, 3)).tolist(),
            times=(step * np.arange(1, self.num_transforms + 1) + jitter).tolist(),
        )

    @staticmethod
    def _apply(image: torch.Tensor, affine: np.ndarray, params: MotionParams) -> torch.Tensor:
        motion = tio.Motion(
            degrees=np.array(params.degrees),
            translation=np.array(params.translation),
            times=np.array(params.times),
            image_interpolation="linear",
        )
        return _run(motion, image, affine)


class RandMotiond(RandArtifactd):
    """Dictionary form of :class:`RandMotion`."""

    array_form = RandMotion


@dataclass(frozen=True)
class BiasFieldParams(ArtifactParams):
    """Drawn bias field.

    Attributes:
        order: order of the polynomial.
        coefficients: of ``x**i * y**j * z**k`` with ``i + j + k <= order``, k counting fastest and i slowest.
    """

    order: int
    coefficients: list[float]

    @property
    def is_identity(self) -> bool:
        """Whether the field is 1 everywhere."""
        return not any(self.coefficients)


class RandBiasField(RandArtifact[BiasFieldParams]):
    """Random smooth field that multiplies the image (Van Leemput et al., IEEE TMI 18:885-896, 1999).

    The field is the exponential of a polynomial in voxel coordinates that run from -1 to 1 between the outermost voxel
    centres, and is shared by all directions. The polynomial has a constant term: mean brightness changes as well.

    Args:
        prob: probability that the artifact is applied.
        coefficients: range of each coefficient, uniform.
        order: order of the polynomial; 3 has 20 coefficients.

    Raises:
        InputError: an argument is out of its limits.
    """

    def __init__(self, *, prob: float = 0.5, coefficients: Sequence[float] = (-0.5, 0.5), order: int = 3) -> None:
        super().__init__(prob)
        self.coefficients = check_range("coefficients", coefficients)
        self.order = check_integer("order", order, 0)

    def sample(self, n_directions: int) -> BiasFieldParams:
        """Draw coefficients from ``self.R``; they do not depend on the number of directions."""
        count = (self.order + 1) * (self.order + 2) * (self.order + 3) // 6
        return BiasFieldParams(order=self.order, coefficients=self.R.uniform(*self.coefficients, count).tolist())

    @staticmethod
    def _apply(image: torch.Tensor, affine: np.ndarray, params: BiasFieldParams) -> torch.Tensor:
        return _run(tio.BiasField(coefficients=params.coefficients, order=params.order), image, affine)


class RandBiasFieldd(RandArtifactd):
    """Dictionary form of :class:`RandBiasField`."""

    array_form = RandBiasField


@dataclass(frozen=True)
class GhostingParams(ArtifactParams):
    """Drawn ghosting.

    Attributes:
        num_ghosts: distance in planes between those that are weakened; 0 for none.
        axis: voxel axis of the ghosts.
        intensity: 0 for none, 1 where the weakened planes are removed.
        restore: part of k-space around its centre that is kept, or ``None`` for the central plane alone.
    """

    num_ghosts: int
    axis: int
    intensity: float
    restore: float | None

    @property
    def is_identity(self) -> bool:
        """Whether no plane is weakened."""
        return self.num_ghosts == 0 or self.intensity == 0


class RandGhosting(RandArtifact[GhostingParams]):
    """Random ghosting: every n-th plane of k-space is weakened, the same for all directions.

    The image gets copies shifted by 1/n of the field of view along the axis, so that n = 2 shows one ghost beside it.

    In TorchIO 1.2.1

    - planes count from the edge of k-space: with n = 2 the central plane is one of them (and restored) where half the
      number of voxels, rounded down, is even; its two neighbours are where it is odd;
    - ``restore`` of 0 does not even restore the central plane, as ``None`` does;
    - the result may be negative.

    Args:
        prob: probability that the artifact is applied.
        num_ghosts: range of n, whole numbers, uniform, both ends included. 0 applies nothing.
        axes: voxel axes, one of which is drawn; in a 2D acquisition only the phase encoding is physical.
        intensity: range of the weakening, 0 to 1, uniform; planes are multiplied by ``1 - intensity``.
        restore: range of the part of k-space that is kept around its centre, 0 to 1, uniform, or ``None``.

    Raises:
        InputError: an argument is out of its limits.
    """

    def __init__(
        self,
        *,
        prob: float = 0.5,
        num_ghosts: Sequence[int] = (2, 2),
        axes: Sequence[int] = (0, 1, 2),
        intensity: Sequence[float] = (0.5, 1.0),
        restore: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prob)
        low, high = check_range("num_ghosts", num_ghosts, minimum=0)
        if not low.is_integer() or not high.is_integer():
            raise InputError(f"num_ghosts: found {num_ghosts!r}, expected a range [low, high] of whole numbers.")
        self.num_ghosts = int(low), int(high)
        if not isinstance(axes, Sequence) or not axes:
            raise InputError(f"axes: found {axes!r}, expected a list of voxel axes, such as [0, 1, 2].")
        self.axes = tuple(check_integer("axes", axis, 0, 2) for axis in axes)
        self.intensity = check_range("intensity", intensity, 0, 1)
        self.restore = None if restore is None else check_range("restore", restore, 0, 1)

    def sample(self, n_directions: int) -> GhostingParams:
        """Draw ghosting from ``self.R``; it does not depend on the number of directions."""
        low, high = self.num_ghosts
        return GhostingParams(
            num_ghosts=int(self.R.randint(low, high + 1)),
            axis=self.axes[self.R.randint(len(self.axes))],
            intensity=float(self.R.uniform(*self.intensity)),
            restore=None if self.restore is None else float(self.R.uniform(*self.restore)),
        )

    @staticmethod
    def _apply(image: torch.Tensor, affine: np.ndarray, params: GhostingParams) -> torch.Tensor:
        ghosting = tio.Ghosting(
            num_ghosts=params.num_ghosts, axis=params.axis, intensity=params.intensity, restore=params.restore
        )
        return _run(ghosting, image, affine)


class RandGhostingd(RandArtifactd):
    """Dictionary form of :class:`RandGhosting`."""

    array_form = RandGhosting


@dataclass(frozen=True)
class NoiseParams(ArtifactParams):
    """Drawn noise.

    Attributes:
        mean: mean, in the unit of the image.
        std: standard deviation, in the unit of the image.
        seed: seed of the generator of the noise itself.
    """

    mean: float
    std: float
    seed: int

    @property
    def is_identity(self) -> bool:
        """Whether nothing is added."""
        return self.mean == 0 and self.std == 0


class RandNoise(RandArtifact[NoiseParams]):
    """Random Gaussian noise: mean and standard deviation shared by all directions, the noise independent in each voxel.

    Keys of one shape get the same noise. The result may be negative.

    Args:
        prob: probability that the artifact is applied.
        mean: range of the mean, uniform, in the unit of the image (the attenuation is in [0, 1]).
        std: range of the standard deviation, uniform, in the unit of the image.

    Raises:
        InputError: an argument is out of its limits.
    """

    def __init__(
        self, *, prob: float = 0.5, mean: Sequence[float] = (0.0, 0.0), std: Sequence[float] = (0.0, 0.25)
    ) -> None:
        super().__init__(prob)
        self.mean = check_range("mean", mean)
        self.std = check_range("std", std, minimum=0)

    def sample(self, n_directions: int) -> NoiseParams:
        """Draw mean, standard deviation and seed from ``self.R``; they do not depend on the number of directions."""
        return NoiseParams(
            mean=float(self.R.uniform(*self.mean)),
            std=float(self.R.uniform(*self.std)),
            seed=int(self.R.randint(2**31 - 1)),
        )

    @staticmethod
    def _apply(image: torch.Tensor, affine: np.ndarray, params: NoiseParams) -> torch.Tensor:
        # the numbers of tio.Noise, but from a generator of its own: tio.Noise reseeds those of all GPUs for good
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(params.seed))
        return image + (noise * params.std + params.mean).to(image.device)


class RandNoised(RandArtifactd):
    """Dictionary form of :class:`RandNoise`."""

    array_form = RandNoise
