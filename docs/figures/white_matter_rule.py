"""Print how variants of the rule of white matter by FA and MD do: against a phantom's truth, else against the T1.

python docs/figures/white_matter_rule.py PREPARED [RAW]

RAW is the raw cohort of phantoms; without it, each scan needs a T1.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from shells import Opened, opened

from scripts.labels.t1_tissue import tissue_from_t1
from scripts.labels.tissue_sources import WHITE, dice
from scripts.phantom.truth import at_nearest_voxels
from transforms import white_matter as rule


def variants(found: Opened) -> Iterator[tuple[str, np.ndarray]]:
    """White matter of a scan by the rule, and by each of its variants."""
    fa, mask = found.tensor.fa, found.shell.mask

    def white(min_fa: float = rule.MIN_FA, max_md: float = rule.MAX_MD_RATIO) -> np.ndarray:
        usual = rule.MIN_FA, rule.MAX_MD_RATIO
        rule.MIN_FA, rule.MAX_MD_RATIO = min_fa, max_md
        try:
            return rule.white_matter(fa, found.tensor.md, mask, found.shell.voxel_ml)
        finally:
            rule.MIN_FA, rule.MAX_MD_RATIO = usual

    base = white()
    yield "the rule", base
    for limit in (0.15, 0.25, 0.3):
        yield f"FA above {limit}", white(min_fa=limit)
    for limit in (1.2, 1.3, 1.5):
        yield f"MD below {limit} of clear white matter", white(max_md=limit)
    parts, _ = ndimage.label(base)
    yield "largest part alone", parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    yield "opening", ndimage.binary_opening(base)
    yield "closing", ndimage.binary_closing(base) & mask
    around = ndimage.uniform_filter(np.where(mask, fa, 0), 3) / np.maximum(ndimage.uniform_filter(1.0 * mask, 3), 1e-6)
    yield "and mean FA of 27 voxels above 0.2", base & (around > rule.MIN_FA)
    for width in (2, 3):
        yield f"without {width} voxels of the rim", base & ndimage.binary_erosion(mask, iterations=width)


def main(prepared: Path, raw: Path | None = None) -> None:
    """Print a line for each scan and variant."""
    for found in opened(prepared):
        if raw is not None:
            name = found.scan.participant
            path = raw / f"derivatives/truth/{name}/dwi/{name}_desc-tissue_dseg.nii.gz"
            true = (at_nearest_voxels(path, nib.load(found.scan.path("mask"))) == WHITE) & found.shell.mask
        elif found.t1 is not None:
            true = tissue_from_t1(found.t1, found.mask).argmax(axis=0) == WHITE
        else:
            continue
        for name, white in variants(found):
            missed, false = (true & ~white).sum() / true.sum(), (white & ~true).sum() / white.sum()
            print(
                f"{found.scan}\t{name}\tDice {dice(white, true):.3f}\tmissed {missed:.3f}\tfalse {false:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
