"""Ensembles of networks: the mean of the members' outputs, and their disagreement."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Transform
from torch import nn

from scripts.training.metrics import angular_error
from scripts.training.weights import load_network
from transforms.targets import decode_direction, encode_direction


def axis_dyads(axes: torch.Tensor) -> torch.Tensor:
    """Return dyads ``(6, ...)`` of axes ``(3, ...)``; zeros where the axis is a zero vector."""
    return torch.where((axes == 0).all(dim=0), 0.0, encode_direction(axes, "dyad"))


def main_axes(dyads: torch.Tensor) -> torch.Tensor:
    """Return main axes ``(3, ...)`` of dyads ``(6, ...)``; zero vectors where the dyad is zero, NaN where it is NaN."""
    nothing = (dyads == 0).all(dim=0)
    # decode_direction skips NaN, so zero dyads cost no eigendecomposition
    return torch.where(nothing, 0.0, decode_direction(torch.where(nothing, torch.nan, dyads), "dyad"))


class Ensemble(nn.Module):
    """Networks with one input; their outputs are joined along the channels.

    Args:
        networks: the members, each from ``(B, C, X, Y, Z)`` to ``(B, K, X, Y, Z)``.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return ``(B, M * K, X, Y, Z)``, one member after the other."""
        return torch.cat([network(image) for network in self.networks], dim=1)


def load_networks(
    network: nn.Module,
    checkpoints: str | Sequence[str],
    preparation: Mapping[str, Any] | None = None,
    task: str | None = None,
) -> nn.Module:
    """Load a trained network, or several of one architecture as an ensemble.

    Args:
        network: network that receives the weights of one checkpoint; several checkpoints load into copies of it.
        checkpoints: one checkpoint, or several of trainings for the same task.
        preparation: see :func:`scripts.training.weights.load_network`.
        task: see :func:`scripts.training.weights.load_network`.

    Returns:
        the network, or the :class:`Ensemble`.

    Raises:
        InputError: a checkpoint does not fit; the message says which and why.
    """
    paths = [checkpoints] if isinstance(checkpoints, str) else checkpoints
    if len(paths) == 1:
        return load_network(network, paths[0], preparation, task)
    return Ensemble([load_network(copy.deepcopy(network), path, preparation, task) for path in paths])


class _MeanOfMembers(Transform):
    """Decode the output of each member of an ensemble; ``pred`` becomes their mean.

    The output of a single network is only decoded.

    Args:
        decode: transform that decodes ``pred`` of one member.
        members: number of networks.
    """

    def __init__(self, decode: Callable[[Mapping[Hashable, Any]], Mapping[Hashable, Any]], members: int) -> None:
        self.decode = decode
        self.members = members

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Decode ``pred``, ``(M * K, X, Y, Z)``, and for several members add ``disagreement``, ``(1, X, Y, Z)``."""
        decoded = [self.decode({**data, "pred": output})["pred"] for output in data["pred"].chunk(self.members)]
        if self.members == 1:
            return {**data, "pred": decoded[0]}
        mean, disagreement = self.mean(torch.stack(decoded))
        return {**data, "pred": mean, "disagreement": disagreement[None]}

    @staticmethod
    def mean(decoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean ``(K, X, Y, Z)`` and disagreement ``(X, Y, Z)`` of ``(M, K, X, Y, Z)``."""
        raise NotImplementedError


class MeanProbabilitiesd(_MeanOfMembers):
    """Mean of the probabilities; the disagreement is the members' mean total variation distance from it, 0 to 1."""

    @staticmethod
    def mean(decoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean ``(K, X, Y, Z)`` and disagreement ``(X, Y, Z)`` of ``(M, K, X, Y, Z)``."""
        mean = decoded.mean(dim=0)
        return mean, 0.5 * (decoded - mean).abs().sum(dim=1).mean(dim=0)


class MeanAxesd(_MeanOfMembers):
    """Main axis of the mean dyad; the disagreement is the members' mean angle from it in degrees.

    Where all members have a zero vector, the mean is a zero vector and the disagreement is 0.
    """

    @staticmethod
    def mean(decoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean ``(3, X, Y, Z)`` and disagreement ``(X, Y, Z)`` of unit vectors ``(M, 3, X, Y, Z)``."""
        mean = main_axes(torch.stack([axis_dyads(axes) for axes in decoded]).mean(dim=0))
        apart = torch.stack([angular_error(axes, mean) for axes in decoded]).mean(dim=0)
        return mean, torch.where((mean == 0).all(dim=0), 0.0, apart).to(decoded.dtype)
