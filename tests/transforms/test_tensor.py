"""Tensor fit and its invariants, against DIPY and closed forms."""

import numpy as np
import pytest
import torch
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from transforms.errors import InputError
from transforms.scheme import default_scheme
from transforms.tensor import WhiteMatterd, fit_tensor, fractional_anisotropy, mean_diffusivity

SHAPE = (3, 4, 5)


def table(b: float = 1000.0) -> np.ndarray:
    return np.column_stack([default_scheme(), np.full(64, b)])


def tensors(generator: np.random.Generator) -> np.ndarray:
    eigenvalues = generator.uniform(0.1e-3, 2e-3, (*SHAPE, 3))
    turns = Rotation.random(np.prod(SHAPE), random_state=1).as_matrix().reshape(*SHAPE, 3, 3)
    return np.einsum("...ij,...j,...kj->ik...", turns, eigenvalues, turns)


def attenuations(tensor: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    directions, b = gradients[:, :3], gradients[:, 3]
    return np.exp(-b[:, None, None, None] * np.einsum("ci,ij...,cj->c...", directions, tensor, directions))


def test_a_tensor_is_found_again():
    true = tensors(np.random.default_rng(0))
    found = fit_tensor(torch.from_numpy(attenuations(true, table())), table())
    np.testing.assert_allclose(found.numpy(), true, atol=2e-8)


def test_invariants_are_dipys():
    generator = np.random.default_rng(2)
    signal = attenuations(tensors(generator), table()) * generator.uniform(0.95, 1.05, (64, *SHAPE))
    # DIPY fits the signal at b = 0 too, which attenuations do not leave open: a volume of ones fixes it all but wholly
    weight = 400
    gradients = np.concatenate([np.tile([0.0, 0, 0, 0], (weight, 1)), table()])
    model = TensorModel(gradient_table(gradients[:, 3], bvecs=gradients[:, :3], b0_threshold=50), fit_method="OLS")
    data = np.concatenate([np.ones((*SHAPE, weight)), np.moveaxis(signal, 0, -1)], axis=-1)
    expected = model.fit(data)
    found = fit_tensor(torch.from_numpy(signal), table())
    np.testing.assert_allclose(fractional_anisotropy(found).numpy(), expected.fa, atol=0.01)
    np.testing.assert_allclose(mean_diffusivity(found).numpy(), expected.md, atol=1e-5)


def test_anisotropy_of_known_tensors():
    cases = {(1.0, 1.0, 1.0): 0.0, (1.0, 0.0, 0.0): 1.0, (1.0, 1.0, 0.0): np.sqrt(0.5), (0.0, 0.0, 0.0): 0.0}
    for eigenvalues, expected in cases.items():
        tensor = torch.diag(torch.tensor(eigenvalues) * 1e-3)[..., None, None, None]
        assert fractional_anisotropy(tensor).item() == pytest.approx(expected, abs=1e-3)
        assert mean_diffusivity(tensor).item() == pytest.approx(sum(eigenvalues) / 3e3)


def test_directions_that_fix_no_tensor_are_refused():
    flat = table()
    flat[:, 2] = 0
    with pytest.raises(InputError, match="found 64 that do not determine a tensor"):
        fit_tensor(torch.ones(64, *SHAPE), flat)


def test_dark_voxels_give_finite_numbers():
    found = fit_tensor(torch.zeros(64, *SHAPE), table())
    assert torch.isfinite(fractional_anisotropy(found)).all()


def block(affine: float = 3.0):
    """From left to right: single fibres, gray matter, fluid with some anisotropy, single fibres beyond the brain."""
    materials = [
        np.diag([1.6e-3, 0.4e-3, 0.4e-3]),
        np.eye(3) * 0.8e-3,
        np.diag([3.2e-3, 1.5e-3, 1.5e-3]),
        np.diag([1.6e-3, 0.4e-3, 0.4e-3]),
    ]
    true = np.stack([materials[x // 6] for x in range(24)], axis=-1)[..., None, None]
    true = np.broadcast_to(true, (3, 3, 24, 10, 9))
    image = MetaTensor(torch.from_numpy(attenuations(true, table())).float(), affine=torch.eye(4) * affine)
    mask = torch.zeros(1, 24, 10, 9)
    mask[:, :18] = 1
    return {"image": image, "gradients": table(), "mask": mask}


def test_white_matter_is_anisotropic_slow_and_inside_the_brain():
    found = WhiteMatterd()(block())["white_matter"]
    assert found.shape == (1, 24, 10, 9)
    expected = torch.zeros(1, 24, 10, 9)
    expected[:, 1:6, 1:-1, 1:-1] = 1  # the mask's outermost voxels are not trusted
    assert torch.equal(found, expected)


def test_small_parts_of_white_matter_are_noise():
    """5 x 8 x 7 voxels are 7.6 ml at 3 mm, and 0.28 ml at 1 mm."""
    assert WhiteMatterd()(block(3.0))["white_matter"].any()
    assert not WhiteMatterd()(block(1.0))["white_matter"].any()


def test_a_brain_without_anisotropy_is_refused():
    data = block()
    data["image"] = torch.full_like(data["image"], 0.45)
    with pytest.raises(InputError, match=r"^sub-01_dwi\.nii\.gz: found no voxel of FA above 0\.4"):
        WhiteMatterd()({**data, "dwi": "sub-01_dwi.nii.gz"})
