"""The five artifacts, one at a time, beside a training step of the network, on one sample of 64 x 64 x 80 x 56."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from benchmarks.timing import report, side_by_side
from scripts.training.losses import MaskedL1Loss
from transforms import artifacts

SHAPE = (64, 64, 80, 56)


def main() -> None:
    """Time a training step first, then each artifact."""
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    config = json.loads(Path("bundle/configs/pretrain.json").read_text())
    network = ConfigParser(config).get_parsed_content("network_def")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_function = MaskedL1Loss()

    def step() -> None:
        optimizer.zero_grad()
        loss_function(network(image[None]), image[None]).backward()
        optimizer.step()

    functions: dict[str, Callable[[], object]] = {"training step": step}
    for name in ("RandMotion", "RandEddy", "RandBiasField", "RandGhosting", "RandNoise"):
        artifact = getattr(artifacts, name)(prob=1.0).set_random_state(seed=0)
        functions[name] = functools.partial(artifact, image)
    report(f"one sample of {'x'.join(map(str, SHAPE))}", side_by_side(functions, repeats=3))
