"""Print how right the labels of a phantom cohort are, inside the brain mask.

python -m scripts phantom --kind clinical --size standard --subjects 2 --seed 101 --out RAW
python -m scripts prepare --layout bids --input RAW --out PREPARED
python -m scripts label --prepared PREPARED
python docs/figures/labels.py RAW PREPARED
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from scripts.cohort.datalist import read_cohort
from scripts.cohort.prepared import PreparedScan
from scripts.io.files import read_json
from scripts.labels.tissue_sources import dice
from scripts.phantom.truth import at_nearest_voxels
from scripts.training.metrics import angular_error

PAPER_RULE = 0.5
"""Weninger et al., BVM 2022: a peak counts from half of the largest one's height on."""

KEYS = ("tissue", "tissue_prob", "nufo", "peak")


def dice_of_tissues(found: np.ndarray, tissue: np.ndarray) -> str:
    """Dice of each tissue and their mean, in words."""
    overlap = [dice(found == index, tissue == index) for index in (1, 2, 3)]
    return f"Dice of GM, WM, CSF: {np.round(overlap, 3)} macro: {np.mean(overlap):.3f}"


def score(stem: str, scan: PreparedScan) -> None:
    """Print the Dice of each tissue, what background in the mask does to it, and errors of peaks by NuFO."""
    mask = nib.load(scan.path("mask"))
    inside = np.asarray(mask.dataobj) > 0

    def truth(name: str) -> np.ndarray:
        return at_nearest_voxels(Path(f"{stem}{name}.nii.gz"), mask)[inside]

    found = {key: np.asarray(nib.load(scan.path(key)).dataobj)[inside] for key in KEYS if key in scan}
    tissue, nufo, peak = truth("tissue_dseg"), truth("npeaks_dseg"), truth("peaks_dwi")[:, :3]
    print(scan, "labels by", read_json(scan.labels.record)["Route"])
    if "tissue" in found:
        empty = found["tissue"] == 0
        filled = found["tissue_prob"][:, 1:].argmax(axis=1) + 1
        print(f"  {dice_of_tissues(found['tissue'], tissue)}")
        print(
            f"  background: {empty.mean():.1%} of the mask, of which {(tissue[empty] == 0).mean():.0%} rightly, "
            f"in truth {(tissue == 0).mean():.1%}; were it filled with the most probable tissue, "
            f"{dice_of_tissues(filled, tissue)}"
        )
    error = angular_error(*(torch.from_numpy(axes.T.astype(np.float64)) for axes in (found["peak"], peak))).numpy()
    fractions = truth("fractions_dwi")
    relative = (fractions >= PAPER_RULE * fractions.max(axis=1, keepdims=True)) & (fractions > 0)
    for rule, true in (("populations of 0.15 and more", nufo), ("half of the largest", relative.sum(axis=1))):
        print(f"  NuFO of the truth: {rule}")
        for n in (1, 2, 3):
            here = (true == n) & (found["nufo"] > 0)
            right, more = (found["nufo"][here] == n).mean(), (found["nufo"][here] > n).mean()
            median = np.median(error[here])
            print(f"    {n}: median error {median:.1f} degrees, counted right {right:.0%}, as more {more:.0%}")


if __name__ == "__main__":
    raw, prepared = map(Path, sys.argv[1:])
    for scan in (scan for listed in read_cohort(prepared).values() for scan in listed):
        name = scan.participant
        score(f"{raw}/derivatives/truth/{name}/dwi/{name}_desc-", scan)
