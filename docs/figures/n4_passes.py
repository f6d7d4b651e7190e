"""Print how well white matter by the T1 overlaps that by the diffusion tensor, by the number of passes of N4.

python -m scripts prepare --layout bids --input RAW --bvalue 2500 --out PREPARED
python docs/figures/n4_passes.py PREPARED
"""

import sys
from pathlib import Path

from scripts.cohort.datalist import read_cohort, read_preparation
from scripts.io.raw_scan import open_scan
from scripts.io.volume import as_volume, read_volume
from scripts.labels import t1_tissue
from scripts.labels.alignment import with_affine
from scripts.labels.shell_on_grid import load_shell
from scripts.labels.t1_registration import register_t1
from scripts.labels.tissue_sources import WHITE, dice
from transforms.diffusion.dti import fit_tensor_wls
from transforms.white_matter import white_matter

PASSES = (1, 2, 3)


def main(folder: Path) -> None:
    """Print a line for each scan that has a T1."""
    preparation = read_preparation(folder)
    for scan in (scan for listed in read_cohort(folder).values() for scan in listed):
        files = scan.raw_files()
        if "t1w" not in files:
            continue
        raw = open_scan(files["dwi"], files["bval"], files["bvec"], bvalue=preparation["bvalue"])
        mask = read_volume(scan.path("mask"))
        shell = load_shell(raw, mask, preparation["voxel_size"])
        tensor = fit_tensor_wls(shell.signal, shell.gradients, shell.usable)
        by_diffusion = white_matter(tensor.fa, tensor.md, shell.mask, shell.voxel_ml)
        t1 = t1_tissue.read_t1(files["t1w"])
        placed = with_affine(t1, register_t1(t1, as_volume(shell.mean_attenuation[None], shell.affine), mask).matrix)
        overlaps = []
        for t1_tissue.N4_PASSES in PASSES:
            fractions = t1_tissue.tissue_from_t1(placed, mask)
            overlaps.append(f"{dice(fractions.argmax(axis=0) == WHITE, by_diffusion):.2f}")
        print(f"{scan}: Dice after {', '.join(map(str, PASSES))} passes: {', '.join(overlaps)}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
