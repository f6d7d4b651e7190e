"""Atlas: what position in the head alone says of a label, as a baseline without training.

The labels of the training scans are averaged where the heads lie on each other. The heads are aligned by the brain
masks alone: by their centres, their longest axes and their extents. This is robust, and as rough as it is simple: an
atlas by nonlinear registration would be sharper.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from scripts.training.batch import affines
from transforms.errors import InputError
from transforms.targets import CHANNELS, decode_direction, encode_direction

REACH = 2.6
"""Extent of the atlas to each side of the brain's centre, in standard deviations of the mask along an axis. A full
ellipsoid ends at the square root of 5."""

NODES = 72
"""Nodes of the atlas along each axis: they lie about 3 mm apart."""

MIN_EXTENT = 1.0
"""Smallest standard deviation of a mask along an axis in mm that divides coordinates: a single slice has 0."""

MIN_PROBABILITY = 1e-6
"""Probability of a class that no training scan has at a place."""


@dataclass(frozen=True)
class HeadFrame:
    """Position, orientation and size of a brain.

    Attributes:
        voxel_to_head: from voxels to the frame, ``(4, 4)``: the mask's centre is the origin, the mask's longest axis is
            the second one, and units are standard deviations of the mask along each axis.
        rotation: from world RAS to the axes of the frame, ``(3, 3)``.
    """

    voxel_to_head: np.ndarray
    rotation: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, affine: np.ndarray) -> HeadFrame:
        """Find the frame of a brain.

        The longest axis of a brain runs from back to front. It corrects a nod and a turn of the head. A tilt to the
        side stays, because a brain is about as wide as it is high, and so its two shorter axes are not determined.

        Args:
            mask: brain mask, bool, ``(X, Y, Z)``.
            affine: from voxels to mm in world RAS, ``(4, 4)``.

        Raises:
            InputError: the mask is empty.
        """
        voxels = np.argwhere(mask)
        if not len(voxels):
            raise InputError("found a scan without a brain, expected voxels that are not 0.")
        world = voxels @ affine[:3, :3].T + affine[:3, 3]
        centre = world.mean(axis=0)
        longest = np.linalg.eigh((world - centre).T @ (world - centre))[1][:, -1]
        rotation = _turn_to_front(longest)
        extent = np.maximum(((world - centre) @ rotation.T).std(axis=0), MIN_EXTENT)
        to_head = np.eye(4)
        to_head[:3, :3] = rotation / extent[:, None]
        to_head[:3, 3] = -to_head[:3, :3] @ centre
        return cls(to_head @ affine, rotation)


def _turn_to_front(axis: np.ndarray) -> np.ndarray:
    """Return the smallest rotation ``(3, 3)`` that turns an axis to +y; none if it is over 45 degrees away from it.

    A brain whose longest axis does not run to the front is cut off by the field of view, and its axes mean nothing.
    """
    x, y, z = axis * np.sign(axis[1])
    if not y > np.sqrt(0.5):
        return np.eye(3)
    # I + [v] + [v]^2 / (1 + cos) with v = axis x (0, 1, 0)
    cross = np.array([[0, -x, 0], [x, 0, z], [0, -z, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + y)


class Atlas(nn.Module):
    """Mean label of the training scans at each place of the head, in the form of a network.

    The brain is where the input is not 0. Directions are in world RAS, so a scan's grid does not matter to them. If the
    frame of a head is turned, its directions turn with it.

    Args:
        scans: training scans with ``image``, ``(C, X, Y, Z)``, and ``label``, ``(1, X, Y, Z)`` classes or
            ``(K, X, Y, Z)`` encoded axes, NaN where a voxel does not count; MetaTensors.
        output_channels: channels of a network for the task: the number of classes, or those of an encoding.
        encoding: encoding of directions, None for classes.
    """

    def __init__(self, scans: Iterable[Mapping[str, Any]], output_channels: int, encoding: str | None = None) -> None:
        super().__init__()
        self.encoding = encoding
        channels = output_channels if encoding is None else CHANNELS["dyad"]
        self.total = np.zeros((channels + 1, NODES, NODES, NODES), dtype=np.float32)
        """Sum over scans of the class indicators or dyads that count, and last the number of scans that do."""
        line = np.linspace(-REACH, REACH, NODES)
        nodes = np.stack([*np.meshgrid(line, line, line, indexing="ij"), np.ones([NODES] * 3)])
        for scan in scans:
            image, label = scan["image"], scan["label"].as_tensor().float()
            inside = _brain(image.as_tensor())
            frame = HeadFrame.of(inside, image.affine.cpu().numpy())
            summands = self._summands(label, inside, frame.rotation, channels)
            places = np.tensordot(np.linalg.inv(frame.voxel_to_head)[:3], nodes, axes=1)
            self.total += [map_coordinates(values, places, order=1) for values in summands]

    def _summands(self, label: torch.Tensor, inside: np.ndarray, rotation: np.ndarray, channels: int) -> np.ndarray:
        counts = torch.from_numpy(inside) & ~torch.isnan(label).any(dim=0)
        values = torch.zeros(channels + 1, *counts.shape)
        values[-1] = counts
        if self.encoding is None:
            values[:-1, counts] = nn.functional.one_hot(label[0, counts].long(), channels).T.float()
        else:
            axes = torch.from_numpy(rotation).float() @ decode_direction(label[:, counts], self.encoding).float()
            values[:-1, counts] = encode_direction(axes, "dyad")
        return values.numpy()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits or encoded axes ``(B, K, X, Y, Z)`` for a batch ``(B, C, X, Y, Z)`` with affines."""
        return torch.stack(
            [
                self._answer(image, np.eye(4) if affine is None else affine)
                for image, affine in zip(images, affines(images), strict=True)
            ]
        )

    def _answer(self, image: torch.Tensor, affine: np.ndarray) -> torch.Tensor:
        inside = _brain(image)
        frame = HeadFrame.of(inside, affine)
        voxels = np.argwhere(inside)
        places = voxels @ frame.voxel_to_head[:3, :3].T + frame.voxel_to_head[:3, 3]
        nodes = ((places + REACH) / (2 * REACH) * (NODES - 1)).T
        found = np.stack([map_coordinates(values, nodes, order=1) for values in self.total])
        # where no training scan has a label, the mean over the whole head answers
        overall = self.total.sum(axis=(1, 2, 3))[:, None]
        mean = torch.from_numpy(
            np.where(found[-1] > 0, found[:-1] / np.maximum(found[-1], 1e-9), overall[:-1] / overall[-1])
        )
        if self.encoding is None:
            values = mean.clamp(min=MIN_PROBABILITY).log()
        else:
            axes = torch.from_numpy(frame.rotation.T) @ decode_direction(mean, "dyad").double()
            values = encode_direction(axes, self.encoding)
        answer = torch.zeros(len(values), *inside.shape, device=image.device)
        answer[:, torch.from_numpy(inside)] = values.to(answer)
        return answer


def _brain(image: torch.Tensor) -> np.ndarray:
    """Where an input ``(C, X, Y, Z)`` is not 0, ``(X, Y, Z)``."""
    return (image != 0).any(dim=0).cpu().numpy()
