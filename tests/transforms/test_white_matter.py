"""White matter by diffusion alone, on blocks of known tensors."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError
from transforms.white_matter import WhiteMatterd


def table(b: float = 1000.0) -> np.ndarray:
    return np.column_stack([default_scheme(), np.full(64, b)])


def attenuations(tensor: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    directions, b = gradients[:, :3], gradients[:, 3]
    return np.exp(-b[:, None, None, None] * np.einsum("ci,ij...,cj->c...", directions, tensor, directions))


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
