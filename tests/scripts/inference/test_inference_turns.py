"""Inference does not see how a scan is stored, and its results turn with the world."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from scripts.training.baselines import Voxelwise, direction_by_tensor
from scripts.training.metrics import angular_error
from tests.turns import TURNS, turned_copy
from transforms.diffusion.dti import fit_tensor_lls, fractional_anisotropy
from transforms.diffusion.scheme import default_scheme

GRADIENTS = np.column_stack([default_scheme(), np.full(64, 1000.0)])


def soft_classes(image):
    """Logits of four classes that change from voxel to voxel and by themselves do not turn."""
    mean, fa = image.mean(dim=0), fractional_anisotropy(fit_tensor_lls(image, GRADIENTS))
    return torch.stack([1 - 4 * mean, fa, 2 * mean, 1 - fa])


NETWORKS = {
    "direction": Voxelwise(lambda image: direction_by_tensor(image, GRADIENTS, "dyad")),
    "segmentation": Voxelwise(soft_classes),
}


def infer(task, raw, checkpoint, out, ending):
    """Run a config of inference with another network, and read what it wrote."""
    parser = ConfigParser()
    parser.read_config(f"bundle/configs/inference_{task}.json")
    given = {"dwi": str(raw / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"), "checkpoint": str(checkpoint)}
    parser.update({**given, "output_dir": str(out), "device": torch.device("cpu"), "network": NETWORKS[task]})
    parser.get_parsed_content("evaluator").run()
    image = nib.load(out / f"sub-01_desc-{ending}.nii.gz")
    return image.get_fdata(), image.affine


@pytest.fixture(scope="module")
def raw(heads, tmp_path_factory):
    """A RAS scan with other axes to the left than to the right; with its voxels flipped it is a LAS scan."""
    folder = tmp_path_factory.mktemp("turns") / "raw"
    heads.write_bids(folder, ["sub-01"], orientation="RAS", gradients=heads.table((0, 1), (1000, 32)), dtype=np.float32)
    return folder


@pytest.fixture(scope="module")
def original(raw, checkpoint, tmp_path_factory):
    """Peaks and probabilities of the scan as it is."""
    out = tmp_path_factory.mktemp("original")
    peaks, _ = infer("direction", raw, checkpoint, out, "peak_dwi")
    probabilities, _ = infer("segmentation", raw, checkpoint, out, "tissue_probseg")
    # there is something that could turn, and something that could move
    there = np.linalg.norm(peaks, axis=-1) > 0.5
    assert there.sum() > 500
    assert np.ptp(np.abs(peaks[there]), axis=0)[[0, 2]].min() > 0.5
    assert np.ptp(probabilities[there], axis=0).max() > 0.05
    return peaks, probabilities


@pytest.mark.parametrize("case", ["flipped", *TURNS])
def test_results_turn_with_the_world_and_do_not_see_how_voxels_are_stored(raw, original, checkpoint, tmp_path, case):
    """Voxel by voxel: the copy has the same array or its mirror image, in another place of the world."""
    rotation = np.array(TURNS.get(case, np.eye(3)), dtype=float)
    flip = 0 if case == "flipped" else None
    copy = turned_copy(raw, tmp_path / "raw", rotation, flip)
    peaks, affine = infer("direction", copy, checkpoint, tmp_path / "maps", "peak_dwi")
    probabilities, _ = infer("segmentation", copy, checkpoint, tmp_path / "maps", "tissue_probseg")
    np.testing.assert_allclose(affine, nib.load(copy / "sub-01" / "dwi" / "sub-01_dwi.nii.gz").affine)
    if flip is not None:
        peaks, probabilities = np.flip(peaks, flip), np.flip(probabilities, flip)
    # numbers from 0 to 1 are stored in steps of 1 / 65535; N4 works on another array, and a voxel of the mask's rim may
    # come out otherwise
    assert np.isclose(probabilities, original[1], atol=1e-3).all(axis=-1).mean() > 0.995
    white, also = (np.linalg.norm(axes, axis=-1) > 0.5 for axes in (original[0], peaks))
    assert (white == also).mean() > 0.995
    there = white & also
    found, before, expected = (
        torch.from_numpy(np.ascontiguousarray(axes[there].T)) for axes in (peaks, original[0], original[0] @ rotation.T)
    )
    assert angular_error(found, expected).max() < 0.1
    # axes that had stayed as they were would be far off
    if flip is None:
        assert angular_error(found, before).min() > 40
