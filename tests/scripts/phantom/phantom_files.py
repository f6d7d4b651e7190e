"""Files of a phantom cohort, read back with their truth: what tests of the cohorts share."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel

from scripts.io.gradients import read_gradients
from scripts.phantom import anatomy
from transforms.diffusion.gradients import b0_volumes, shell_volumes

SEED = 7
KINDS = ("auxiliary", "clinical")


class Scan:
    """The first subject of a cohort, read back from its files."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind = kind
        if kind == "auxiliary":
            folder, truth = root / "100001" / "T1w" / "Diffusion", root / "100001" / "truth"
            names, self.truth = ("data.nii.gz", "bvals", "bvecs"), f"{truth}/"
        else:
            folder, truth = root / "sub-01" / "dwi", root / "derivatives" / "truth" / "sub-01" / "dwi"
            names, self.truth = [f"sub-01_dwi.{end}" for end in ("nii.gz", "bval", "bvec")], f"{truth}/sub-01_desc-"
        image, bval, bvec = (folder / name for name in names)
        self.image = nib.load(image)
        self.data = np.asarray(self.image.dataobj)
        self.gradients = read_gradients(bval, bvec, self.image.affine, self.data.shape[3])
        self.record = json.loads(Path(f"{self.truth}artifacts.json").read_text())
        self.gray, self.white, self.csf = np.moveaxis(self.true("tissue_probseg"), -1, 0)
        self.peaks = self.true("peaks_dwi").reshape(*self.white.shape, 3, 3)
        self.fractions = self.true("fractions_dwi")
        self.nufo = self.true("npeaks_dseg")
        self.brain = self.true("brain_mask") > 0
        self.warp = anatomy.sample_warp(np.random.default_rng([SEED, KINDS.index(kind), 1]), 0.5)

    def true(self, name: str) -> np.ndarray:
        image = nib.load(f"{self.truth}{name}.nii.gz")
        np.testing.assert_array_equal(image.affine, self.image.affine)
        return np.asarray(image.dataobj)

    def tensor(self, where: np.ndarray, data: np.ndarray | None = None, limit: int = 1500):
        """Fit DIPY's tensor, in world RAS, to b0 and the shell of 1000 in up to ``limit`` voxels, and return both."""
        voxels = np.random.default_rng(0).permutation(np.argwhere(where))[:limit]
        volumes = np.concatenate([b0_volumes(self.gradients), shell_volumes(self.gradients, 1000)])
        table = gradient_table(
            self.gradients[volumes, 3], bvecs=self.gradients[volumes, :3], b0_threshold=50, atol=1e-3
        )
        index = tuple(voxels.T)
        data = self.data if data is None else data
        return TensorModel(table).fit(data[index][:, volumes].astype(float)), index

    def noisy_truth(self, snr: float) -> np.ndarray:
        """Signal without artifacts, with Rician noise."""
        truth = self.true("noisefree_dwi")
        sigma = self.record["TissueB0"]["WM"] / snr
        real, imaginary = np.random.default_rng(1).normal(0, sigma, (2, *truth.shape))
        return np.hypot(truth + real, imaginary)
