"""What all artifacts share: array and dictionary forms around ``sample`` and ``apply``, and checks of arguments."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from transforms.errors import InputError


@dataclass(frozen=True)
class ArtifactParams(ABC):
    """One drawn artifact. Fields are plain numbers and lists: ``json.dumps(dataclasses.asdict(params))`` works."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of ``dataclasses.asdict``.

        Raises:
            InputError: a field is missing or unknown.
        """
        if set(values) != set(cls.__dataclass_fields__):
            raise InputError(f"{cls.__name__}: found {sorted(values)}, expected {sorted(cls.__dataclass_fields__)}.")
        return cls(**values)

    @property
    @abstractmethod
    def is_identity(self) -> bool:
        """Whether the artifact has severity 0, so that applying it returns the image as it is."""


P = TypeVar("P", bound=ArtifactParams)


class RandArtifact(RandomizableTransform, Generic[P]):
    """Random artifact on one image: draws its parameters, then applies them.

    ``sample`` draws from ``self.R`` only; ``apply`` is deterministic, so that applying the same parameters again, or
    those read back from JSON, gives the same bytes. Neither touches a global random generator.

    Attributes:
        params: what the last call applied, ``None`` where it applied nothing. With ``randomize=False`` a call applies
            ``params`` as they stand.
    """

    per_direction: bool = False
    """Whether every channel gets parameters of its own, so that they fit images of one number of channels only."""

    def __init__(self, prob: float) -> None:
        if not _is_number(prob) or not 0 <= prob <= 1:
            raise InputError(f"prob: found {prob!r}, expected a probability from 0 to 1.")
        super().__init__(prob)
        self.params: P | None = None

    @abstractmethod
    def sample(self, n_directions: int) -> P:
        """Draw parameters for an image of ``n_directions`` channels from ``self.R``."""

    @staticmethod
    @abstractmethod
    def _apply(image: torch.Tensor, affine: np.ndarray, params: P) -> torch.Tensor:
        """Apply to a plain float32 tensor ``(C, X, Y, Z)`` without changing it; never called at severity 0."""

    @classmethod
    def apply(cls, image: torch.Tensor | np.ndarray, params: P) -> torch.Tensor:
        """Apply drawn parameters.

        Args:
            image: shape ``(C, X, Y, Z)``, left unchanged. Plain tensors and arrays have the identity as affine.
            params: from ``sample``.

        Returns:
            float32 tensor of the same shape on the same device; for a MetaTensor one with its affine, its other
            metadata and its applied operations. At severity 0 the image itself, bit for bit.

        Raises:
            InputError: the image has not four axes, or the parameters are for another number of channels.
        """
        image = as_image(image)
        if params.is_identity:
            return image
        if not isinstance(image, MetaTensor):
            return cls._apply(image, np.eye(4), params)
        affine = np.asarray(image.affine.cpu(), dtype=np.float64)
        return MetaTensor(cls._apply(image.as_tensor(), affine, params)).copy_meta_from(image)

    def randomize(self, data: torch.Tensor) -> None:
        """Draw whether to apply, and the parameters, for an image ``(C, X, Y, Z)``."""
        super().randomize(None)
        self.params = self.sample(data.shape[0]) if self._do_transform else None

    def __call__(self, image: torch.Tensor | np.ndarray, randomize: bool = True) -> torch.Tensor:
        """Draw parameters for ``image`` ``(C, X, Y, Z)`` unless ``randomize`` is false, and apply them."""
        image = as_image(image)
        if randomize:
            self.randomize(image)
        return image if self.params is None else self.apply(image, self.params)


class RandArtifactd(RandomizableTransform, MapTransform):
    """Dictionary form of a :class:`RandArtifact`: one draw per call, applied alike to the images of all keys.

    With the same random state it gives what the array form gives.

    Args:
        keys: keys of the images.
        allow_missing_keys: leave out keys that are not in the data, instead of raising ``KeyError``.
        arguments: those of the array form.

    Raises:
        InputError: an argument of the array form is not usable; on a call: an image has not four axes, or the images
            differ in their number of channels while the parameters are per direction.
    """

    array_form: ClassVar[type[RandArtifact[Any]]]

    def __init__(self, keys: KeysCollection, *, allow_missing_keys: bool = False, **arguments: Any) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.artifact = self.array_form(**arguments)
        RandomizableTransform.__init__(self, self.artifact.prob)

    @property
    def params(self) -> ArtifactParams | None:
        """What the last call applied, ``None`` where it applied nothing."""
        return self.artifact.params

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Self:
        """Set the random state, shared with the array form; see :class:`monai.transforms.Randomizable`."""
        super().set_random_state(seed, state)
        self.artifact.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw once and apply to the images of all keys; returns a new dictionary."""
        result = dict(data)
        images = {key: as_image(result[key], str(key)) for key in self.key_iterator(result)}
        channels = {key: image.shape[0] for key, image in images.items()}
        if self.artifact.per_direction and len(set(channels.values())) > 1:
            raise InputError(
                f"{type(self).__name__}: found images of {channels} channels, expected one number of channels in all "
                "keys, because parameters are drawn per direction."
            )
        if images:
            self.artifact.randomize(next(iter(images.values())))
        for key, image in images.items():
            result[key] = self.artifact(image, randomize=False)
        return result


def as_image(image: torch.Tensor | np.ndarray, name: str = "image") -> torch.Tensor:
    """Check the axes ``(C, X, Y, Z)`` and convert to a float32 tensor; a MetaTensor stays one."""
    if not isinstance(image, torch.Tensor):
        image = torch.from_numpy(np.array(image, dtype=np.float32))
    if image.ndim != 4:
        raise InputError(f"{name}: found shape {tuple(image.shape)}, expected four axes (C, X, Y, Z).")
    return image if image.dtype == torch.float32 else image.to(torch.float32)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_range(
    name: str, value: Sequence[float], minimum: float = -math.inf, maximum: float = math.inf
) -> tuple[float, float]:
    """Read a range ``[low, high]`` of a uniform distribution.

    Args:
        name: argument that the message of an error names.
        value: two numbers; equal ones mean a fixed value.
        minimum: smallest number that ``low`` may be.
        maximum: largest number that ``high`` may be.

    Raises:
        InputError: not two finite numbers in ascending order within the limits.
    """
    is_pair = isinstance(value, Sequence | np.ndarray) and len(value) == 2 and all(_is_number(v) for v in value)
    if not is_pair or not minimum <= value[0] <= value[1] <= maximum:
        limits = "" if minimum == -math.inf and maximum == math.inf else f" from {minimum:g} to {maximum:g}"
        raise InputError(f"{name}: found {value!r}, expected a range [low, high] of two ascending numbers{limits}.")
    return float(value[0]), float(value[1])


def check_integer(name: str, value: int, minimum: int, maximum: float = math.inf) -> int:
    """Read a whole number; ``InputError`` naming the argument where it is not one within the limits."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise InputError(f"{name}: found {value!r}, expected a whole number from {minimum} to {maximum:g}.")
    return int(value)
