"""Base classes of the artifacts, and checks of their arguments.

An :class:`Artifact` draws parameters. :class:`ArtifactParams` hold them, and apply the artifact to an image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from transforms.artifacts.rows import as_rows, from_rows
from transforms.errors import InputError


@dataclass(frozen=True, eq=False)
class ScanInfo:
    """What an artifact may need to know of a scan besides its image.

    Attributes:
        affine: from voxels to mm in world RAS, ``(4, 4)``; without one, voxels are 1 mm cubes along the axes of RAS.
        directions: unit vectors of the channels in world RAS, ``(C, 3)``.
        b0: mean b0 in any unit, ``(1, X, Y, Z)``, on the image's device.
        mask: brain mask, ``(1, X, Y, Z)``, on the image's device.
    """

    affine: np.ndarray | None = None
    directions: np.ndarray | None = None
    b0: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    @property
    def linear(self) -> np.ndarray:
        """Linear part of the affine: mm in world RAS per voxel, ``(3, 3)``."""
        return np.eye(3) if self.affine is None else np.asarray(self.affine, dtype=np.float64)[:3, :3]

    @property
    def voxel_size(self) -> np.ndarray:
        """Voxel size in mm, ``(3,)``."""
        return np.linalg.norm(self.linear, axis=0)


@dataclass(frozen=True)
class ArtifactParams(ABC):
    """One drawn artifact. Its fields are plain numbers and lists, so it can be stored as JSON and applied again."""

    artifact: ClassVar[str]
    """Name of the artifact, under which its parameters are stored."""

    known: ClassVar[dict[str, type[ArtifactParams]]] = {}
    """Classes of parameters, by the name of their artifact."""

    def __init_subclass__(cls) -> None:
        cls.known[cls.artifact] = cls

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the artifact's name, ready for ``json.dumps``."""
        return {"artifact": self.artifact, **asdict(self)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ArtifactParams:
        """Make parameters from what ``to_dict`` returned.

        Raises:
            InputError: the artifact is not known, or a field is missing or unknown.
        """
        content = dict(values)
        name = content.pop("artifact", None)
        if name not in ArtifactParams.known:
            raise InputError(f"artifact: found {name!r}, expected one of {', '.join(ArtifactParams.known)}.")
        cls = ArtifactParams.known[name]
        if set(content) != (expected := {field.name for field in fields(cls)}):
            raise InputError(f"{name}: found {sorted(content)}, expected {sorted(expected)}.")
        return cls(**content)

    @property
    @abstractmethod
    def is_identity(self) -> bool:
        """Whether the artifact has severity 0, so that applying it returns the image as it is."""

    @abstractmethod
    def _apply(self, rows: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
        """Apply to rows ``(X, Y, Z, C)`` without changing them; never called at severity 0."""

    def apply(self, image: torch.Tensor, scan: ScanInfo | None = None) -> torch.Tensor:
        """Apply to one image; deterministic, and differentiable in the image.

        Args:
            image: plain floating-point tensor ``(C, X, Y, Z)`` on any device, left unchanged.
            scan: what the artifact needs to know of the scan.

        Returns:
            tensor of the same shape, type and device, with its channels innermost in memory (``channels_last_3d``).
            At severity 0 the image itself.

        Raises:
            InputError: the image is not a floating-point tensor of four axes, or the parameters are for another number
                of channels.
        """
        if image.ndim != 4 or not image.is_floating_point():
            raise InputError(
                f"image: found {image.dtype} of shape {tuple(image.shape)}, expected floating-point (C, X, Y, Z)."
            )
        return image if self.is_identity else from_rows(self._apply(as_rows(image), scan or ScanInfo()))


P = TypeVar("P", bound=ArtifactParams)


class Artifact(ABC, Generic[P]):
    """Distribution of one artifact: how probable it is, and how its parameters are drawn.

    Args:
        prob: probability that an image gets the artifact.
    """

    name: ClassVar[str]
    """Name of the artifact, as in its parameters."""

    def __init__(self, prob: float) -> None:
        self.prob = check_probability("prob", prob)

    @abstractmethod
    def sample(self, generator: torch.Generator, shape: Sequence[int]) -> P:
        """Draw parameters for an image of ``shape`` ``(C, X, Y, Z)`` from a generator on the CPU."""


def uniform(generator: torch.Generator, limits: tuple[float, float], *shape: int) -> Any:
    """Draw uniformly from ``limits``: nested lists of numbers of ``shape``, or one plain number without a shape."""
    low, high = limits
    return (low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)).tolist()


def whole_number(generator: torch.Generator, low: int, high: int) -> int:
    """Draw a whole number uniformly, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_range(
    name: str, value: Sequence[float], minimum: float = -math.inf, maximum: float = math.inf
) -> tuple[float, float]:
    """Check a range ``[low, high]`` of a uniform distribution, and return it.

    Args:
        name: argument that the message of an error names.
        value: two numbers; equal ones mean a fixed value.
        minimum: smallest number that ``low`` may be.
        maximum: largest number that ``high`` may be.

    Raises:
        InputError: the value is not two finite numbers in ascending order within the limits.
    """
    is_pair = isinstance(value, Sequence | np.ndarray) and len(value) == 2 and all(_is_number(v) for v in value)
    if not is_pair or not minimum <= value[0] <= value[1] <= maximum:
        limits = "" if minimum == -math.inf and maximum == math.inf else f" from {minimum:g} to {maximum:g}"
        raise InputError(f"{name}: found {value!r}, expected a range [low, high] of two ascending numbers{limits}.")
    return float(value[0]), float(value[1])


def check_probability(name: str, value: float) -> float:
    """Check a probability, and return it.

    Raises:
        InputError: the value is not a number from 0 to 1; the message names the argument.
    """
    if not _is_number(value) or not 0 <= value <= 1:
        raise InputError(f"{name}: found {value!r}, expected a probability from 0 to 1.")
    return float(value)


def check_integer(name: str, value: int, minimum: int, maximum: float = math.inf) -> int:
    """Check a whole number, and return it.

    Raises:
        InputError: the value is not a whole number within the limits; the message names the argument.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise InputError(f"{name}: found {value!r}, expected a whole number from {minimum} to {maximum:g}.")
    return int(value)
