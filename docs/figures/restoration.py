"""Print what a network for restoration does to the scans of prepared cohorts as they are, for docs/artifacts.md.

python docs/figures/restoration.py CHECKPOINT COHORT [COHORT ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, DivisiblePadd, LoadImaged

from scripts.cohort.datalist import SPLITS, describe_input, load_entries, read_cohort
from scripts.inference.restoration_change import describe_change
from scripts.training.weights import load_network

CONFIG = Path("bundle/configs/inference_restoration.json")
KEYS = ("image", "mask")


@torch.no_grad()
def main(checkpoint: str, *cohorts: str) -> None:
    """Print a line per scan."""
    parser = ConfigParser()
    parser.read_config(CONFIG)
    network = load_network(parser.get_parsed_content("network_def"), checkpoint).eval()
    load = Compose([LoadImaged(KEYS, image_only=True, ensure_channel_first=True), DivisiblePadd(KEYS, k=8)])
    print("| cohort | scan | mean change | signal % | MD % | FA % |\n|---|---|---|---|---|---|")
    for cohort in cohorts:
        described = describe_input(cohort)
        gradients = np.column_stack([described["scheme"], np.full(len(described["scheme"]), described["bvalue"])])
        filled = [split for split in SPLITS if read_cohort(Path(cohort))[split]]
        for entry in (entry for split in filled for entry in load_entries(cohort, split, KEYS)):
            data = load(entry)
            image, mask = (data[key].as_tensor() for key in KEYS)
            restored = network(image[None])[0].clamp(0.0, 1.0) * mask
            change, *percent = describe_change(image, restored, mask, gradients).values()
            figures = " | ".join(f"{value:+.1f}" for value in percent)
            print(f"| {cohort} | {entry['scan']} | {change:.4f} | {figures} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
