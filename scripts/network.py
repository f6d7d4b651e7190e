"""The network: a 3D U-Net that sees absolute attenuation, and nothing outside the brain.

A usual U-Net with instance normalisation is blind to a factor on its input, because the first normalisation cancels it,
and sees how much background there is, because the mean over the volume contains it. Attenuation is absolute, and the
amount of background differs between cohorts. So this network differs in these points:

- A linear projection of the directions comes first. It begins as the coefficients of spherical harmonics (SH) up to
  order 6, of about equal size. They go to the U-Net, and past it to the output layer: what a scan keeps needs no
  reconstruction. Without it, a network first learns what all directions have in common, and what differs between them
  last, because that is ten times smaller.
- On the way past it, each coefficient is multiplied by a gate from 0 to 2, which the U-Net sets in each voxel. So it
  can lower what is noise in a noisy scan and leave it in a clean one.
- The first convolution is not normalised: what passes its ReLU depends on absolute attenuation.
- All other features are normalised by their mean and variance in the brain, which is where the input is not zero.
- Features are zero outside the brain, after each layer and at each resolution. So zeros around a scan change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from transforms.diffusion.sh import fit_matrix, n_coefficients, sh_basis, sh_order

EPSILON = 1e-5
"""Added to a variance, as in instance normalisation."""

SH_ORDER = 6
"""Highest order of the projection: it has 28 coefficients, and attenuations at b = 1000 hold nothing beyond it but
noise (coefficients of order 6 have a root mean square of 0.001 in real and noise-free brains)."""

SH_FACTORS = {0: 0.7, 2: 10.0, 4: 20.0, 6: 20.0}
"""Factor of the coefficients of each order. Those of real and simulated brains have a root mean square of 1.4 to 1.5,
0.08 to 0.10, 0.01 to 0.03 and 0.001 to 0.01; noise has the same in all orders, and so the factors stay at 20."""


class BrainNorm(nn.Module):
    """Instance normalisation (Ulyanov et al., arXiv:1607.08022) over the voxels of the brain, then a scale and a shift.

    Args:
        channels: number of channels ``C``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        # TorchScript sees attributes, no global names
        self.epsilon = EPSILON

    def forward(self, features: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """Normalise features ``(B, C, X, Y, Z)`` in a brain of 0 and 1, ``(B, 1, X, Y, Z)``; outside they become 0."""
        inside = features.float() * brain
        voxels = brain.float().sum(dim=(2, 3, 4), keepdim=True).clamp(min=1.0)
        mean = inside.sum(dim=(2, 3, 4), keepdim=True) / voxels
        variance = (inside * inside).sum(dim=(2, 3, 4), keepdim=True) / voxels - mean * mean
        scale = (variance.clamp(min=0.0) + self.epsilon).rsqrt() * self.weight.view(1, -1, 1, 1, 1)
        shift = self.bias.view(1, -1, 1, 1, 1) - mean * scale
        return (inside * scale + shift) * brain


class BrainBias(nn.Module):
    """A shift of each channel in the brain, in place of a normalisation.

    Args:
        channels: number of channels ``C``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """Shift features ``(B, C, X, Y, Z)`` in a brain of 0 and 1, ``(B, 1, X, Y, Z)``; outside they become 0."""
        return (features + self.bias.view(1, -1, 1, 1, 1)) * brain


class Block(nn.Module):
    """Two 3x3x3 convolutions, each followed by normalisation and ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution.
        absolute: whether the first convolution is not normalised.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, absolute: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = BrainBias(out_channels) if absolute else BrainNorm(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = BrainNorm(out_channels)

    def forward(self, features: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """Return features on the grid of ``brain``."""
        features = functional.relu(self.norm1(self.conv1(features), brain))
        return functional.relu(self.norm2(self.conv2(features), brain))


class UpBlock(nn.Module):
    """Double the resolution by a transposed convolution, and join the features of the encoder.

    Args:
        in_channels: channels of the coarse features.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2, bias=False)
        self.block = Block(2 * out_channels, out_channels)

    def forward(self, coarse: torch.Tensor, encoded: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """Return features on the grid of ``encoded`` and ``brain``."""
        return self.block(torch.cat([self.up(coarse) * brain, encoded], dim=1), brain)


class BrainUNet(nn.Module):
    """3D U-Net from attenuations to attenuations, logits or dyads; see the module for what it sees.

    Its layout is that of the network of Weninger et al., BVM 2022, as their repository has it: one resolution per entry
    of ``filters``, each half of the one before.

    Args:
        in_channels: number of directions.
        out_channels: channels of the output.
        filters: channels of the features at each resolution, the finest first.
        projected: channels of the linear projection of the directions.
        skips: whether the decoder gets the encoder's features, and the output layer the projection. Otherwise they get
            zeros in their place, so that all that the output holds went through the coarsest features, and the tensors
            have the same shapes.

    Attributes:
        output_block: the output layer, a 1x1x1 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int] = (16, 32, 64, 128),
        projected: int = n_coefficients(SH_ORDER),
        skips: bool = True,
    ) -> None:
        super().__init__()
        self.skips = skips
        self.projection = nn.Conv3d(in_channels, projected, 1, bias=False)
        levels = list(pairwise(filters))
        first = Block(projected, filters[0], absolute=True)
        self.encoder = nn.ModuleList([first, *(Block(fine, coarse, stride=2) for fine, coarse in levels)])
        self.decoder = nn.ModuleList([UpBlock(coarse, fine) for fine, coarse in reversed(levels)])
        self.gate = nn.Conv3d(filters[0], projected, 1)
        self.output_block = nn.Conv3d(projected + filters[0], out_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        # all gates begin at 1
        for parameter in self.gate.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map attenuations.

        Args:
            image: attenuations, ``(B, in_channels, X, Y, Z)``, 0 outside the brain. X, Y and Z are multiples of
                ``2 ** (len(filters) - 1)``.

        Returns:
            ``(B, out_channels, X, Y, Z)``; outside the brain the same numbers in each voxel.
        """
        brain = (image != 0).any(dim=1, keepdim=True).to(image.dtype)
        projected = self.projection(image)
        features = projected
        brains: list[torch.Tensor] = []
        encoded: list[torch.Tensor] = []
        for level, block in enumerate(self.encoder):
            if level > 0:
                brain = functional.max_pool3d(brain, 2)
            features = block(features, brain)
            brains.append(brain)
            encoded.append(self._passed(features))
        for step, up in enumerate(self.decoder):
            level = len(encoded) - 2 - step
            features = up(features, encoded[level], brains[level])
        passed = self._passed(projected) * (2.0 * torch.sigmoid(self.gate(features)))
        return self.output_block(torch.cat([passed, features], dim=1))

    def _passed(self, features: torch.Tensor) -> torch.Tensor:
        return features if self.skips else torch.zeros_like(features)


def see_directions(network: nn.Module, directions: Sequence[Sequence[float]]) -> nn.Module:
    """Set the projection of a network to SH coefficients of its input, times ``SH_FACTORS``.

    Args:
        network: network that is changed; one without a projection stays as it is.
        directions: unit vectors of the channels in world RAS, ``(C, 3)``. Where they support a lower order alone, the
            other channels of the projection stay as they are.

    Returns:
        the network.
    """
    if isinstance(network, BrainUNet):
        _project(network, directions)
    return network


def start_as_copy(network: nn.Module, directions: Sequence[Sequence[float]]) -> nn.Module:
    """Let a network for restoration start by returning its input, up to ``SH_ORDER``; one without projection, zero.

    A random output layer returns random mixtures, which a training has to remove first (``docs/artifacts.md`` has the
    effect). Residual networks start in a similar way, with zeros in the last normalisation of each block (Goyal et al.,
    arXiv:1706.02677, section 5.1).

    Args:
        network: network that is changed: its projection, if there is one, and its output layer.
        directions: unit vectors of the channels in world RAS, ``(C, 3)``.

    Returns:
        the network.
    """
    for parameter in network.get_submodule("output_block").parameters():
        nn.init.zeros_(parameter)
    if isinstance(network, BrainUNet):
        synthesis = _project(network, directions)
        with torch.no_grad():
            network.output_block.weight[:, : synthesis.shape[1], 0, 0, 0] = synthesis.to(network.output_block.weight)
    return network


def _project(network: BrainUNet, directions: Sequence[Sequence[float]]) -> torch.Tensor:
    """Set the projection to scaled SH coefficients, and return the matrix back to attenuations, ``(C, K)``."""
    channels, axes = len(network.projection.weight), np.asarray(directions, dtype=np.float64)
    order = max(o for o in range(0, sh_order(axes, SH_ORDER) + 1, 2) if n_coefficients(o) <= channels)
    factors = np.concatenate([np.full(2 * degree + 1, SH_FACTORS[degree]) for degree in range(0, order + 1, 2)])
    analysis = torch.from_numpy(factors[:, None] * fit_matrix(axes, order, smoothing=0.0))
    with torch.no_grad():
        network.projection.weight[: len(analysis), :, 0, 0, 0] = analysis.to(network.projection.weight)
    return torch.from_numpy(sh_basis(axes, order) / factors)
