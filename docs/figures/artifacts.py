"""Figure of docs/artifacts.md: one direction of a phantom subject, clean, with each artifact, and the difference.

    python docs/figures/artifacts.py

Drawn by the presets ``normal`` and ``physical``, and by undersampling to 12 directions, with a fixed seed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from scripts.io.raw_scan import open_scan
from scripts.phantom import write_phantom
from transforms import ScanToInput
from transforms.artifacts import ScanInfo, Undersampling, preset

FOLDER = Path(__file__).parent
DIRECTION, SEED = 40, 4


def main() -> None:
    """Make the figure."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_phantom("clinical", 1, 0, Path(folder) / "raw", "standard")
        stem = root / "sub-01" / "dwi" / "sub-01_dwi"
        scan = ScanToInput()({"raw_scan": open_scan(f"{stem}.nii.gz")})
    image, b0, mask = (scan[key].as_tensor().float() for key in ("image", "b0", "mask"))
    info = ScanInfo(np.asarray(scan["image"].affine), scan["gradients"][:, :3], b0, mask)
    artifacts = [*preset("normal", prob=1.0), Undersampling(measured=(12, 12)), *preset("physical")]
    figure, axes = plt.subplots(len(artifacts), 6, figsize=(13, 2.4 * len(artifacts)), layout="constrained")
    for row, artifact in zip(axes, artifacts, strict=True):
        params = artifact.sample(torch.Generator().manual_seed(SEED), image.shape)
        # as the network gets it
        corrupted = params.apply(image, info).clamp(0, 1)[DIRECTION] * mask[0]
        clean = image[DIRECTION] * mask[0]
        for column, axis in enumerate((2, 0)):
            middle = clean.shape[axis] // 2
            for panel, (title, volume, options) in zip(
                row[3 * column : 3 * column + 3],
                (
                    ("clean", clean, {"cmap": "gray", "vmin": 0, "vmax": 0.9}),
                    (artifact.name, corrupted, {"cmap": "gray", "vmin": 0, "vmax": 0.9}),
                    ("difference", corrupted - clean, {"cmap": "RdBu_r", "vmin": -0.5, "vmax": 0.5}),
                ),
                strict=True,
            ):
                # left on the left, anterior and superior up; seen from the left, anterior on the right
                panel.imshow(volume.select(axis, middle).T.flip(0), interpolation="nearest", **options)
                panel.set_title(title, fontsize=9)
                panel.axis("off")
    figure.savefig(FOLDER / "artifacts.png", dpi=70)


if __name__ == "__main__":
    main()
