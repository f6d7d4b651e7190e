"""Print how well white matter by the T1 overlaps that by the diffusion tensor, by the number of passes of N4.

python -m scripts prepare --layout bids --input RAW --bvalue 2500 --out PREPARED
python docs/figures/n4_passes.py PREPARED
"""

import sys
from pathlib import Path

from shells import opened

from scripts.labels import t1_tissue
from scripts.labels.tissue_sources import WHITE, dice
from transforms.white_matter import white_matter

PASSES = (1, 2, 3)


def main(folder: Path) -> None:
    """Print a line for each scan that has a T1."""
    for found in opened(folder):
        if found.t1 is None:
            continue
        by_diffusion = white_matter(found.tensor.fa, found.tensor.md, found.shell.mask, found.shell.voxel_ml)
        overlaps = []
        for t1_tissue.N4_PASSES in PASSES:
            fractions = t1_tissue.tissue_from_t1(found.t1, found.mask)
            overlaps.append(f"{dice(fractions.argmax(axis=0) == WHITE, by_diffusion):.2f}")
        print(f"{found.scan}: Dice after {', '.join(map(str, PASSES))} passes: {', '.join(overlaps)}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
