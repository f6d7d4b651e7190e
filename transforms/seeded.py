"""Random transforms that give each scan the same draw every time, as a validation needs."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from monai.transforms import Compose, Transform


class SeededByScand(Transform):
    """Apply random transforms with a seed that depends on the scan's name alone.

    It is not random itself, so that MONAI's caching datasets keep its result.

    Args:
        transforms: dictionary transforms, applied in order.
        seed: of all scans; another one gives all of them another draw.
        name_key: where the scan's name stands.
    """

    def __init__(self, transforms: Sequence[Callable], seed: int, name_key: str = "scan") -> None:
        self.transforms = list(transforms)
        self.seed = seed
        self.name_key = name_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply the transforms to ``data``."""
        # caching datasets call this from several threads; each call draws from transforms of its own
        seeded = Compose(copy.deepcopy(self.transforms))
        seeded.set_random_state(seed=zlib.crc32(f"{self.seed} {data[self.name_key]}".encode()))
        return dict(seeded(data))
