"""Tensor fit and its invariants, against DIPY and closed forms."""

import numpy as np
import pytest
import torch
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from scipy.spatial.transform import Rotation

from transforms.diffusion.dti import fit_tensor_lls, fractional_anisotropy, mean_diffusivity
from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError

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
    found = fit_tensor_lls(torch.from_numpy(attenuations(true, table())), table())
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
    found = fit_tensor_lls(torch.from_numpy(signal), table())
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
    with pytest.raises(InputError, match="found 64 gradients that do not determine a tensor"):
        fit_tensor_lls(torch.ones(64, *SHAPE), flat)


def test_dark_voxels_give_finite_numbers():
    found = fit_tensor_lls(torch.zeros(64, *SHAPE), table())
    assert torch.isfinite(fractional_anisotropy(found)).all()
