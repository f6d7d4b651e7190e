"""The artifacts by TorchIO 1.2.1, the reference for this project's own artifacts.

A training can use TorchIO's artifacts in place of this project's. TorchIO works on one image at a time on the CPU, so
it belongs in the processes of a data loader.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torchio as tio
from monai.config import KeysCollection
from scipy.spatial.transform import Rotation

from transforms.artifacts.base import Artifact, ArtifactParams, ScanInfo, check_probability
from transforms.artifacts.bias_field import BiasFieldParams
from transforms.artifacts.dictionary import Corruptd
from transforms.artifacts.eddy import EddyParams
from transforms.artifacts.ghosting import GhostingParams
from transforms.artifacts.motion import MotionParams, rotation_matrix
from transforms.artifacts.noise import NoiseParams
from transforms.artifacts.undersampling import UndersamplingParams
from transforms.errors import InputError

RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
"""Signs from world RAS to ITK's world, LPS: its first two axes point the other way."""

TAKEN = {
    kind.artifact
    for kind in (BiasFieldParams, EddyParams, GhostingParams, MotionParams, NoiseParams, UndersamplingParams)
}
"""Names of the artifacts that :func:`apply_by_torchio` takes."""


def apply_by_torchio(image: torch.Tensor, params: ArtifactParams, scan: ScanInfo | None = None) -> torch.Tensor:
    """Apply one artifact by TorchIO, with the same meaning of the parameters as ``params.apply``.

    The result differs from that of ``params.apply`` in three ways. Outside the image, TorchIO's motion finds the
    minimum of the channel instead of zero. Its ghosting with ``restore`` of less than two planes removes the central
    plane too. Its noise has other numbers.

    Args:
        image: plain tensor ``(C, X, Y, Z)``.
        params: parameters of any artifact but an acquisition. TorchIO has neither eddy currents nor undersampling;
            this project's own are used.
        scan: what the artifact needs to know of the scan.

    Raises:
        InputError: TorchIO does not have the artifact, or cannot move the head as the motion does.
    """
    scan = scan or ScanInfo()
    affine = np.eye(4)
    affine[:3, :3] = scan.linear
    transform: tio.IntensityTransform
    match params:
        case _ if params.is_identity:
            return image
        case EddyParams() | UndersamplingParams():
            return params.apply(image, scan)
        case MotionParams():
            # TorchIO splits k-space along the last axis
            order = [*(axis for axis in range(3) if axis != params.axis), params.axis]
            affine[:3, :3] = affine[:3, order]
            moved = _run(
                _motion(params, affine, [image.shape[1 + axis] for axis in order]), _permuted(image, order), affine
            )
            return _permuted(moved, np.argsort(order).tolist())
        case BiasFieldParams():
            field = tio.BiasField(coefficients=params.coefficients, order=params.order)
            return params.rescaled(_run(field, image, affine), image)
        case GhostingParams():
            transform = tio.Ghosting(
                num_ghosts=params.num_ghosts, axis=params.axis, intensity=params.intensity, restore=params.restore
            )
        case NoiseParams():
            transform = tio.Noise(mean=params.mean, std=params.std, seed=params.seed)
        case _:
            raise _unknown(params.artifact)
    return _run(transform, image, affine)


def _unknown(name: str) -> InputError:
    return InputError(f"found artifact {name!r}, expected one that TorchIO has.")


def _permuted(image: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    return image.permute(0, *(1 + axis for axis in order)).contiguous()


def _run(transform: tio.IntensityTransform, image: torch.Tensor, affine: np.ndarray) -> torch.Tensor:
    # not `transform(image)`: it draws from torch's global generator whether to apply the artifact
    subject = tio.Subject(image=tio.ScalarImage(tensor=image.cpu(), affine=affine))
    return transform.apply_transform(subject).get_image("image").data.to(image.device)


def _motion(params: MotionParams, affine: np.ndarray, size: Sequence[int]) -> tio.Motion:
    """Make the motion of TorchIO that moves the head as ``params`` says.

    TorchIO turns about the world's origin, in LPS. Its angles and translations do not move the head: they take a voxel
    of the result to the place where it is read. TorchIO takes the centre of k-space from the image as it is, and uses
    the movement that is due there for the first position instead.

    Raises:
        InputError: the head is not at rest in the centre of k-space.
    """
    at_centre = sum(time <= 0.5 for time in params.times)
    if not params.at_rest[at_centre]:
        raise InputError(
            "motion: found a movement in the centre of k-space, which TorchIO takes from the head at rest."
        )
    order = [0 if index == at_centre else index for index in range(1, len(params.degrees))]
    centre = affine[:3, :3] @ (np.array(size) - 1) / 2
    back = np.swapaxes(rotation_matrix(params.degrees), -1, -2)[order]
    read_at = [
        centre - turn @ (centre + shift) for turn, shift in zip(back, np.array(params.translation)[order], strict=True)
    ]
    z, x, y = Rotation.from_matrix(RAS_TO_LPS[:, None] * back * RAS_TO_LPS).as_euler("ZXY", degrees=True).T
    return tio.Motion(
        degrees=np.stack([x, y, z], axis=1),
        translation=np.array(read_at) * RAS_TO_LPS,
        times=np.array(params.times),
        image_interpolation="linear",
    )


class TorchIOArtifactsd(Corruptd):
    """Random artifacts by TorchIO on one image, for the preprocessing of a data loader.

    Args:
        keys: keys of the images, which all get the same artifacts.
        artifacts: in the order in which they are applied, as :func:`transforms.artifacts.preset` gives them.
        directions: see :class:`transforms.artifacts.dictionary.Corruptd`; undersampling needs them.
        clean_share: probability that an image gets no artifact, 0 to 1.

    Raises:
        InputError: TorchIO does not have one of the artifacts, or the share is none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        artifacts: Sequence[Artifact[Any]],
        directions: Sequence[Sequence[float]] | None = None,
        clean_share: float = 0.0,
    ) -> None:
        # checked here and not on use: in a process of the loader, the message would be lost in a traceback
        for artifact in artifacts:
            if artifact.name not in TAKEN:
                raise _unknown(artifact.name)
        super().__init__(keys, artifacts, directions, 1.0 - check_probability("clean_share", clean_share))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new dictionary with the corrupted images, in single precision."""
        # the cache holds half precision, which TorchIO's filters do not take
        return super().__call__({**data, **{key: data[key].float() for key in self.key_iterator(dict(data))}})

    def apply(self, image: torch.Tensor, params: ArtifactParams, scan: ScanInfo) -> torch.Tensor:
        """Apply one artifact by TorchIO to a plain image ``(C, X, Y, Z)``."""
        return apply_by_torchio(image, params, scan)
