"""Timing of training steps of the network on a small phantom, and the time of the CPU in them."""

from __future__ import annotations

import statistics
import time
from functools import partial

import torch

from benchmarks.timing import report, side_by_side
from scripts.network import BrainUNet
from scripts.training.losses import MaskedCrossEntropyLoss

SHAPE = (40, 48, 40)
"""Grid of a small phantom in voxels of 2.4 mm."""

STEPS = 10
"""Steps of one timing: a GPU may still work on one while the CPU asks for the next."""

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Time steps in float32 and, on a GPU, bfloat16; then the same by the clock of the CPU."""
    network = BrainUNet(in_channels=64, out_channels=4).to(DEVICE)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_function = MaskedCrossEntropyLoss()
    image = torch.rand(1, 64, *SHAPE, device=DEVICE)
    target = torch.randint(0, 4, (1, 1, *SHAPE), device=DEVICE).float()

    def steps(precision: torch.dtype) -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            with torch.autocast(DEVICE.type, precision, enabled=precision != torch.float32):
                loss = loss_function(network(image), target)
            loss.backward()
            optimizer.step()
        loss.item()

    precisions = [torch.float32, *([torch.bfloat16] if DEVICE.type == "cuda" else [])]
    functions = {f"{STEPS} steps in {precision}": partial(steps, precision) for precision in precisions}
    seconds = side_by_side(functions)
    report("a scan of a small phantom", seconds)
    for name, values in side_by_side(functions, clock=time.process_time).items():
        share = statistics.median(values) / statistics.median(seconds[name])
        print(f"  {name}: a CPU works for {share:.2f} of the time")
