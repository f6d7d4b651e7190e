"""The artifacts as random dictionary transforms of MONAI, for pipelines of others."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from transforms.artifacts.base import Artifact, ArtifactParams, ScanInfo, check_probability
from transforms.artifacts.bias_field import BiasField
from transforms.artifacts.corruption import preset as preset_artifacts
from transforms.artifacts.corruption import sample_artifacts
from transforms.artifacts.eddy import Eddy
from transforms.artifacts.ghosting import Ghosting
from transforms.artifacts.motion import Motion
from transforms.artifacts.noise import MAX_SEED, Noise
from transforms.artifacts.undersampling import Undersampling

OF_SCAN = ("gradients", "b0", "mask")
"""Keys under which :class:`transforms.ScanToInput` leaves what an artifact may need to know of a scan."""


class Corruptd(RandomizableTransform, MapTransform):
    """Draw artifacts once and apply them to the images of all keys.

    Args:
        keys: keys of the images, each floating-point ``(C, X, Y, Z)``.
        artifacts: in the order in which they are applied; each has its own probability.
        directions: unit vectors of the channels in world RAS, ``(C, 3)``; without them those of ``gradients`` in the
            data, ``(C, 4)``. Undersampling and acquisitions need them.
        prob: probability that an image gets artifacts at all, 0 to 1.
        allow_missing_keys: whether an image may be missing.

    Attributes:
        params: artifacts that the last call applied; their ``to_dict`` is ready for JSON.

    Raises:
        InputError: the probability is none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        artifacts: Sequence[Artifact[Any]],
        directions: Sequence[Sequence[float]] | None = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, check_probability("prob", prob))
        self.artifacts = list(artifacts)
        self.directions = None if directions is None else np.asarray(directions, dtype=np.float64)
        self.params: list[ArtifactParams] = []

    def randomize(self, image: torch.Tensor) -> None:
        """Draw from ``self.R`` the artifacts that an image ``(C, X, Y, Z)`` gets."""
        super().randomize(None)
        self.params = []
        if self._do_transform:
            generator = torch.Generator().manual_seed(int(self.R.randint(MAX_SEED)))
            self.params = sample_artifacts(self.artifacts, generator, image.shape)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new dictionary with the corrupted images; type, device, affine and metadata are kept."""
        result = dict(data)
        for index, key in enumerate(self.key_iterator(result)):
            given = result[key]
            image: Any = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
            if index == 0:
                self.randomize(image)
            is_meta = isinstance(image, MetaTensor)
            plain = image.as_tensor() if is_meta else image
            scan = self._scan(image.affine.cpu().numpy() if is_meta else None, data)
            for params in self.params:
                plain = self.apply(plain, params, scan)
            plain = MetaTensor(plain).copy_meta_from(image) if is_meta else plain
            result[key] = plain.numpy() if isinstance(given, np.ndarray) else plain
        return result

    def apply(self, image: torch.Tensor, params: ArtifactParams, scan: ScanInfo) -> torch.Tensor:
        """Apply one artifact to a plain image ``(C, X, Y, Z)``."""
        return params.apply(image, scan)

    def _scan(self, affine: np.ndarray | None, data: Mapping[Hashable, Any]) -> ScanInfo:
        gradients, b0, mask = (torch.as_tensor(data[key]) if key in data else None for key in OF_SCAN)
        directions = self.directions
        if directions is None and gradients is not None:
            directions = gradients[:, :3].numpy().astype(np.float64)
        b0, mask = (one.as_tensor() if isinstance(one, MetaTensor) else one for one in (b0, mask))
        return ScanInfo(affine, directions, b0, mask)


class RandArtifactsd(Corruptd):
    """Apply random artifacts of a preset to images of attenuation.

    Args:
        keys: keys of the images, each floating-point ``(C, X, Y, Z)``; all get the same artifacts.
        preset: see :func:`transforms.artifacts.preset`. ``strong`` needs directions; ``physical`` needs directions and,
            in the data, ``b0`` and ``mask``.
        phase_encoding: voxel axis of the phase encoding; 1 is anterior-posterior in a RAS image.
        directions: see :class:`Corruptd`.
        prob: probability that an image gets artifacts at all; each artifact then has that of the preset.
        allow_missing_keys: whether an image may be missing.

    Raises:
        InputError: there is no such preset, or the probability is none.

    Examples:
        >>> corrupt = RandArtifactsd("image", preset="light").set_random_state(seed=6)
        >>> data = corrupt({"image": MetaTensor(torch.rand(6, 16, 20, 12))})
        >>> data["image"].shape, sorted(params.artifact for params in corrupt.params)
        (torch.Size([6, 16, 20, 12]), ['bias field', 'eddy', 'ghosting'])
    """

    def __init__(
        self,
        keys: KeysCollection,
        preset: str = "normal",
        phase_encoding: int = 1,
        directions: Sequence[Sequence[float]] | None = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, preset_artifacts(preset, phase_encoding), directions, prob, allow_missing_keys)


class RandArtifactd(Corruptd):
    """Apply one random artifact; each subclass has its kind.

    Args:
        keys: keys of the images, each floating-point ``(C, X, Y, Z)``; all get the same artifact.
        prob: probability that an image gets the artifact.
        directions: see :class:`Corruptd`.
        allow_missing_keys: whether an image may be missing.
        values: of the artifact's distribution, those of its ``kind``.

    Raises:
        InputError: a value is out of its limits.

    Examples:
        >>> noise = RandNoised("image", prob=1.0, std=(0.1, 0.1)).set_random_state(seed=0)
        >>> round(noise({"image": torch.zeros(6, 16, 20, 12)})["image"].std().item(), 2)
        0.1
    """

    kind: ClassVar[type[Artifact[Any]]]
    """Class that says what the values mean."""

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.5,
        directions: Sequence[Sequence[float]] | None = None,
        allow_missing_keys: bool = False,
        **values: Any,
    ) -> None:
        super().__init__(keys, [self.kind(**values, prob=1.0)], directions, prob, allow_missing_keys)


class RandMotiond(RandArtifactd):
    """Movements of the head; values as in :class:`transforms.artifacts.Motion`.

    Examples:
        >>> move = RandMotiond("image", prob=1.0, degrees=(-5, 5), translation=(-3, 3)).set_random_state(seed=0)
        >>> image = move({"image": torch.rand(6, 16, 20, 12)})["image"]
        >>> [len(positions) for positions in (move.params[0].degrees, move.params[0].times)]
        [3, 2]
    """

    kind = Motion


class RandEddyd(RandArtifactd):
    """Distortions by eddy currents; values as in :class:`transforms.artifacts.Eddy`.

    Examples:
        >>> stretch = RandEddyd("image", prob=1.0, stretch=(0.95, 1.05)).set_random_state(seed=0)
        >>> image = stretch({"image": torch.rand(6, 16, 20, 12)})["image"]
        >>> len(stretch.params[0].stretch), all(0.95 <= factor <= 1.05 for factor in stretch.params[0].stretch)
        (6, True)
    """

    kind = Eddy


class RandBiasFieldd(RandArtifactd):
    """A smooth factor; values as in :class:`transforms.artifacts.BiasField`.

    Examples:
        >>> field = RandBiasFieldd("image", prob=1.0, order=1).set_random_state(seed=0)
        >>> image = field({"image": torch.ones(6, 16, 20, 12)})["image"]
        >>> torch.equal(image[0], image[5]), round(image.mean().item(), 4)
        (True, 1.0)
    """

    kind = BiasField


class RandGhostingd(RandArtifactd):
    """Ghosts along an axis; values as in :class:`transforms.artifacts.Ghosting`.

    Examples:
        >>> ghosts = RandGhostingd("image", prob=1.0, axes=(1,), intensity=(0.5, 0.5)).set_random_state(seed=0)
        >>> image = torch.zeros(1, 8, 20, 8)
        >>> image[0, 4, 5, 4] = 1.0
        >>> ghosts({"image": image})["image"][0, 4, :, 4].abs().topk(2).indices.tolist()
        [5, 15]
    """

    kind = Ghosting


class RandNoised(RandArtifactd):
    """Gaussian noise; values as in :class:`transforms.artifacts.Noise`.

    Examples:
        >>> noise = RandNoised("image", prob=1.0).set_random_state(seed=3)
        >>> first = noise({"image": torch.zeros(6, 16, 20, 12)})["image"]
        >>> again = noise.set_random_state(seed=3)({"image": torch.zeros(6, 16, 20, 12)})["image"]
        >>> torch.equal(first, again)
        True
    """

    kind = Noise


class RandUndersamplingd(RandArtifactd):
    """Fewer directions; values as in :class:`transforms.artifacts.Undersampling`. It needs directions.

    Examples:
        >>> fewer = RandUndersamplingd("image", prob=1.0, directions=default_scheme(), measured=(12, 12))
        >>> fewer.set_random_state(seed=0)({"image": torch.rand(64, 8, 10, 6)})["image"].shape
        torch.Size([64, 8, 10, 6])
        >>> len(fewer.params[0].kept(default_scheme()))
        12
    """

    kind = Undersampling
