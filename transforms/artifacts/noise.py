"""Gaussian noise."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from transforms.artifacts.base import Artifact, ArtifactParams, ScanInfo, check_range, uniform, whole_number
from transforms.artifacts.rows import slabs

MAX_SEED = 2**31 - 1
"""Largest seed that is drawn."""


def gaussian(like: torch.Tensor, mean: float, std: float, seed: int) -> torch.Tensor:
    """Draw independent Gaussian numbers; on one kind of device, a seed always gives the same numbers.

    Args:
        like: tensor whose shape, type and device the numbers get; on a CPU it is cut into slabs along its first axis.
        mean: mean of the numbers.
        std: standard deviation of the numbers.
        seed: seed of the generator.
    """
    noise = torch.empty_like(like)
    if noise.device.type != "cpu":
        return noise.normal_(mean, std, generator=torch.Generator(like.device).manual_seed(seed))
    # torch draws with one thread; each slab has its own generator, so the numbers do not depend on the threads
    parts = list(slabs(len(noise)))
    seeds = torch.randint(MAX_SEED, (len(parts),), generator=torch.Generator().manual_seed(seed)).tolist()

    def draw(part: slice, seed_of_part: int) -> None:
        noise[part].normal_(mean, std, generator=torch.Generator().manual_seed(seed_of_part))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(draw, parts, seeds))
    return noise


@dataclass(frozen=True)
class NoiseParams(ArtifactParams):
    """Drawn noise.

    Attributes:
        mean: mean, in the unit of the image.
        std: standard deviation, in the unit of the image.
        seed: seed of the noise itself.
    """

    artifact = "noise"

    mean: float
    std: float
    seed: int

    @property
    def is_identity(self) -> bool:
        """Whether the noise adds nothing."""
        return self.mean == 0 and self.std == 0

    def _apply(self, rows: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
        return gaussian(rows, self.mean, self.std, self.seed).add_(rows)


class Noise(Artifact[NoiseParams]):
    """Gaussian noise, independent in each voxel and direction.

    All directions share its mean and standard deviation. The result may be negative.

    Args:
        prob: probability of the artifact.
        mean: range of the mean, uniform, in the unit of the image (the attenuation is in [0, 1]).
        std: range of the standard deviation, uniform, in the unit of the image.

    Raises:
        InputError: an argument is out of its limits.

    Examples:
        >>> params = Noise(std=(0.1, 0.1)).sample(torch.Generator().manual_seed(0), (6, 16, 20, 12))
        >>> noisy = params.apply(torch.zeros(6, 16, 20, 12), ScanInfo())
        >>> torch.equal(noisy, params.apply(torch.zeros(6, 16, 20, 12), ScanInfo()))
        True
    """

    name = NoiseParams.artifact

    def __init__(
        self, *, prob: float = 0.5, mean: Sequence[float] = (0.0, 0.0), std: Sequence[float] = (0.0, 0.25)
    ) -> None:
        super().__init__(prob)
        self.mean = check_range("mean", mean)
        self.std = check_range("std", std, minimum=0)

    def sample(self, generator: torch.Generator, shape: Sequence[int]) -> NoiseParams:
        """Draw mean, standard deviation and seed; they do not depend on the shape."""
        return NoiseParams(
            mean=uniform(generator, self.mean),
            std=uniform(generator, self.std),
            seed=whole_number(generator, 0, MAX_SEED),
        )
