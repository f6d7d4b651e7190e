"""Q-space: the volumes of one shell, on any directions, interpolated to the reference scheme."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from transforms.diffusion.scheme import default_scheme
from transforms.diffusion.sh import MAX_SH_ORDER, SMOOTHING, sh_interpolation_matrix

Scheme = Sequence[Sequence[float]] | np.ndarray | None
"""Unit vectors in world RAS, ``(M, 3)``, or None for the 64 directions that ship with the bundle."""


class InterpolateQSpace(Transform):
    """Interpolate the volumes of one shell to a reference scheme.

    Args:
        scheme: unit vectors in world RAS, shape ``(M, 3)``, or None for the 64 directions that ship with the bundle.
        max_order: highest SH order.
        smoothing: Laplace-Beltrami regularisation.

    Examples:
        >>> measured = default_scheme()[:32]
        >>> table = np.column_stack([measured, np.full(32, 1000.0)])
        >>> attenuation, on_scheme = InterpolateQSpace()(torch.full((32, 4, 5, 3), 0.4), table)
        >>> attenuation.shape, on_scheme.shape
        (torch.Size([64, 4, 5, 3]), (64, 4))
        >>> torch.allclose(attenuation, torch.tensor(0.4), atol=1e-3)
        True
    """

    def __init__(self, scheme: Scheme = None, max_order: int = MAX_SH_ORDER, smoothing: float = SMOOTHING) -> None:
        self.scheme = default_scheme() if scheme is None else np.asarray(scheme, dtype=np.float64)
        self.max_order = max_order
        self.smoothing = smoothing

    def __call__(
        self, image: torch.Tensor, gradients: np.ndarray, name: str = "scan"
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Interpolate.

        Args:
            image: attenuations of one shell, shape ``(N, X, Y, Z)``.
            gradients: gradient table of these volumes, shape ``(N, 4)``.
            name: what the log calls the scan.

        Returns:
            attenuations on the scheme, shape ``(M, X, Y, Z)``, and their gradient table, shape ``(M, 4)``.
        """
        matrix = sh_interpolation_matrix(gradients[:, :3], self.scheme, self.max_order, self.smoothing, name)
        table = np.column_stack([self.scheme, np.full(len(self.scheme), np.median(gradients[:, 3]))])
        return apply_to_channels(image, matrix), table


class InterpolateQSpaced(MapTransform):
    """Dictionary form of :class:`InterpolateQSpace`; the table under ``gradients_key`` becomes that of the scheme.

    Args:
        keys: attenuations of one shell; all share the one table.
        scheme: unit vectors in world RAS, shape ``(M, 3)``, or None for the 64 directions that ship with the bundle.
        max_order: highest SH order.
        smoothing: Laplace-Beltrami regularisation.
        gradients_key: where the gradient table stands.

    Examples:
        >>> table = np.column_stack([default_scheme(), np.full(64, 1000.0)])
        >>> data = {"image": torch.full((64, 4, 5, 3), 0.4), "gradients": table}
        >>> InterpolateQSpaced("image", scheme=[[1, 0, 0], [0, 1, 0]])(data)["image"].shape
        torch.Size([2, 4, 5, 3])
    """

    def __init__(
        self,
        keys: KeysCollection,
        scheme: Scheme = None,
        max_order: int = MAX_SH_ORDER,
        smoothing: float = SMOOTHING,
        gradients_key: str = "gradients",
    ) -> None:
        super().__init__(keys)
        self.interpolate = InterpolateQSpace(scheme, max_order, smoothing)
        self.gradients_key = gradients_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Interpolate each key of ``data``."""
        result = dict(data)
        name = str(data.get("raw_scan", "scan"))
        for key in self.key_iterator(data):
            result[key], result[self.gradients_key] = self.interpolate(data[key], data[self.gradients_key], name)
        return result


def apply_to_channels(image: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """Multiply the channels of ``image`` ``(N, X, Y, Z)`` by ``matrix`` ``(M, N)``; affine and metadata are kept."""
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    product = torch.einsum("mn,nxyz->mxyz", torch.as_tensor(matrix, dtype=plain.dtype, device=plain.device), plain)
    return MetaTensor(product, meta=image.meta) if isinstance(image, MetaTensor) else product
