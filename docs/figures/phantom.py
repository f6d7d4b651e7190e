"""Figures and tables of docs/phantom.md: pictures of a phantom subject, and its statistics beside those of a real scan.

    python docs/figures/phantom.py SCAN_dwi.nii.gz

This command makes clinical phantom subjects of life size in a temporary folder. It compares them with a raw scan of
b = 1000, whose .bval and .bvec stand beside it. The same measures apply to all scans: DIPY's brain mask and tensor, and
tissue by diffusivity and anisotropy.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from dipy.segment.mask import median_otsu

from scripts.io.gradients import read_gradients
from scripts.io.nifti import open_nifti
from scripts.phantom import write_phantom
from transforms.diffusion.gradients import b0_volumes, shell_volumes

FOLDER = Path(__file__).parent
TISSUES = ("gray matter", "white matter", "CSF")


@dataclass
class Measured:
    """A scan, its tensor fit and its tissue.

    Arrays are ``(X, Y, Z)``; lists have gray matter, white matter and CSF.
    """

    name: str
    b0: np.ndarray
    attenuation: np.ndarray
    fa: np.ndarray
    md: np.ndarray
    directions: np.ndarray
    mask: np.ndarray
    snr: float

    @property
    def tissue(self) -> list[np.ndarray]:
        """Masks of gray matter, white matter and CSF by diffusion alone."""
        brain = self.mask & (self.md < 1.1e-3)
        return [brain & (self.fa < 0.2), brain & (self.fa > 0.35), self.mask & (self.md > 2e-3)]


def measure(name: str, dwi: Path, directions: int | None = None) -> Measured:
    """Fit DIPY's tensor to b0 and to the shell of 1000, or to a number of its ``directions``."""
    stem = str(dwi).removesuffix(".nii.gz")
    image = nib.as_closest_canonical(nib.load(dwi))
    gradients = read_gradients(f"{stem}.bval", f"{stem}.bvec", open_nifti(dwi, ndim=4).affine)
    shell = shell_volumes(gradients, 1000)
    shell = shell[np.linspace(0, len(shell) - 1, directions or len(shell)).round().astype(int)]
    volumes = np.concatenate([b0_volumes(gradients), shell])
    n_b0 = len(b0_volumes(gradients))
    data = np.asarray(image.dataobj, dtype=np.float32)[..., volumes]
    b0 = data[..., :n_b0].mean(axis=-1)
    _, mask = median_otsu(b0, median_radius=2, numpass=1)
    mask &= b0 > 0
    table = gradient_table(gradients[volumes, 3], bvecs=gradients[volumes, :3], b0_threshold=50, atol=0.05)
    fit = TensorModel(table).fit(data, mask=mask)
    # Where one tensor describes the signal, the residual is noise. The b0 alone takes up one of the measurements.
    single = mask & (fit.fa > 0.6) & (fit.md < 1.1e-3)
    residual = data[single] - fit.predict(table, S0=b0)[single]
    sigma = 1.4826 * np.median(np.abs(residual[:, n_b0:])) * np.sqrt(len(volumes) / (len(volumes) - 7))
    attenuation = data[..., n_b0:] / np.maximum(b0, 1e-6)[..., None]
    return Measured(
        name, b0, attenuation, fit.fa, fit.md, fit.directions[..., 0, :], mask, float(np.median(b0[single]) / sigma)
    )


def picture(phantom: Measured, root: Path) -> None:
    """Draw slices of the phantom: scans, directions found and true, and NuFO."""
    truth = root / "derivatives" / "truth" / "sub-01" / "dwi" / "sub-01_desc-"

    def true(name: str) -> np.ndarray:
        return np.asarray(nib.as_closest_canonical(nib.load(f"{truth}{name}.nii.gz")).dataobj)

    t1w = nib.as_closest_canonical(nib.load(root / "sub-01" / "anat" / "sub-01_T1w.nii.gz"))
    white = true("tissue_probseg")[..., 1:2]
    colour = np.clip(1.3 * phantom.fa[..., None] * np.abs(phantom.directions) * phantom.mask[..., None], 0, 1)
    columns: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("T1-weighted", np.asarray(t1w.dataobj), {"cmap": "gray"}),
        ("b0", phantom.b0, {"cmap": "gray", "vmax": 1800}),
        ("b = 1000, one direction", phantom.attenuation[..., 20] * phantom.b0, {"cmap": "gray", "vmax": 700}),
        ("directions of a tensor", colour, {}),
        ("true directions", np.abs(true("peaks_dwi")[..., :3]) * white, {}),
        ("NuFO", true("npeaks_dseg") * (white[..., 0] > 0.5), {"vmin": 0, "vmax": 3}),
    ]
    figure, axes = plt.subplots(3, len(columns), figsize=(15, 7), layout="constrained")
    for column, (title, volume, options) in zip(axes.T, columns, strict=True):
        column[0].set_title(title, fontsize=10)
        for axis, place, row in zip((2, 1, 0), (0.6, 0.5, 0.485), column, strict=True):
            image = np.take(volume, round(place * volume.shape[axis]), axis=axis)
            # views from above, from the front and from the left, with left on the left
            row.imshow(np.swapaxes(image, 0, 1)[::-1], interpolation="nearest", **options)
            row.axis("off")
    figure.savefig(FOLDER / "phantom.png", dpi=80)


def comparison(scans: list[Measured]) -> None:
    """Draw histograms of anisotropy and attenuation side by side, and print the table."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.4), layout="constrained")
    print("| | " + " | ".join(scan.name for scan in scans) + " |")
    for scan in scans:
        axes[0].hist(scan.fa[scan.mask & (scan.md < 1.5e-3)], np.linspace(0, 1, 51), density=True, histtype="step")
        for panel, tissue in zip(axes[1:], scan.tissue, strict=True):
            panel.hist(scan.attenuation[tissue].ravel(), np.linspace(0, 1, 51), density=True, histtype="step")
    axes[0].set(title="brain without CSF", xlabel="fractional anisotropy")
    axes[0].legend([scan.name for scan in scans])
    for panel, name in zip(axes[1:], TISSUES, strict=True):
        panel.set(title=name, xlabel="attenuation at b = 1000")
    figure.savefig(FOLDER / "phantom-real.png", dpi=80)

    rows = {"SNR of white matter at b = 0": [f"{scan.snr:.0f}" for scan in scans]}
    for index, name in enumerate(TISSUES):
        rows[f"FA, {name}"] = [f"{np.median(scan.fa[scan.tissue[index]]):.2f}" for scan in scans]
        rows[f"MD, {name}"] = [f"{1e3 * np.median(scan.md[scan.tissue[index]]):.2f}" for scan in scans]
        rows[f"attenuation, {name}"] = [f"{np.median(scan.attenuation[scan.tissue[index]]):.2f}" for scan in scans]
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(values) + " |")


def by_truth(phantom: Measured, root: Path) -> None:
    """Print FA and MD of the phantom's pure voxels, and the shares of NuFO in white matter."""
    truth = root / "derivatives" / "truth" / "sub-01" / "dwi" / "sub-01_desc-"
    parts = [
        np.asarray(nib.as_closest_canonical(nib.load(f"{truth}{name}.nii.gz")).dataobj)
        for name in ("tissue_probseg", "npeaks_dseg", "tissue_dseg")
    ]
    tissue, nufo, labels = parts
    places = {f"{name}, pure": tissue[..., index] > 0.95 for index, name in enumerate(TISSUES)}
    for count in (1, 2, 3):
        places[f"white matter, NuFO {count}"] = (tissue[..., 1] > 0.95) & (nufo == count)
    for name, place in places.items():
        fa, md = (np.median(values[place & phantom.mask]) for values in (phantom.fa, phantom.md))
        print(f"| {name} | {fa:.2f} | {1e3 * md:.2f} |")
    shares = [(nufo[labels == 2] == count).mean() for count in (1, 2, 3)]
    print("shares of NuFO 1, 2, 3 in white matter:", *(f"{share:.3f}" for share in shares))


def main(real: Path) -> None:
    """Make both figures and print the tables."""
    subject = Path("sub-01") / "dwi" / "sub-01_dwi.nii.gz"
    with tempfile.TemporaryDirectory() as folder:
        root = write_phantom("clinical", 1, 0, Path(folder) / "usual", "standard")
        phantom = measure("phantom", root / subject)
        picture(phantom, root)
        by_truth(phantom, root)

        # anisotropy depends on noise and on the number of directions, so both are those of the real scan
        scan = measure("real scan", real)
        root = write_phantom("clinical", 1, 0, Path(folder) / "noisy", "standard", snr=round(scan.snr))
        comparison([measure("phantom", root / subject, scan.attenuation.shape[-1]), scan])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
