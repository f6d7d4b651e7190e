"""Flipped and exchanged axes of directions are named, where fibres in known places tell; right ones raise no doubt."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from scripts.cohort.gradient_check import doubt_about_gradients
from transforms.diffusion.gradients import fsl_to_world, world_to_fsl
from transforms.diffusion.scheme import default_scheme

SIZE = 2.4
SHAPE = (30, 34, 28)
AFFINE = np.array([[SIZE, 0, 0, -31], [0, SIZE, 0, -50], [0, 0, SIZE, -12], [0, 0, 0, 1]])
"""RAS, as the network's input always is."""

WAYS = {
    "-x": np.diag([-1.0, 1.0, 1.0]),
    "-y": np.diag([1.0, -1.0, 1.0]),
    "-z": np.diag([1.0, 1.0, -1.0]),
    "+y+x+z": np.eye(3)[[1, 0, 2]],
    "+z+y+x": np.eye(3)[[2, 1, 0]],
    "+y+z+x": np.eye(3)[[1, 2, 0]],
    "-y+x-z": np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, -1]]),
}
"""What spoils the columns of a b-vector file."""


@pytest.fixture(scope="module")
def bundles() -> torch.Tensor:
    """Attenuation of thin straight bundles of six directions in matter without one, SNR 50; ``(64, X, Y, Z)``."""
    world = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1) * SIZE
    generator = np.random.default_rng(2)
    fibre = np.zeros((*SHAPE, 3))
    for way in Rotation.random(6, random_state=4).apply([1.0, 0.0, 0.0]):
        offset = world - world.reshape(-1, 3).mean(axis=0) - generator.uniform(-10, 10, 3)
        across = offset - (offset @ way)[..., None] * way
        fibre[np.linalg.norm(across, axis=-1) < 5] = way
    along = np.einsum("ni,xyzi->nxyz", default_scheme(), fibre) ** 2
    clean = np.where(fibre.any(axis=-1), np.exp(-0.4 - 1.2 * along), np.exp(-0.8))
    return torch.from_numpy(clean + generator.normal(0, 0.02, clean.shape)).float()


def prepared(image, directions):
    affine = torch.from_numpy(AFFINE)
    return {
        "image": MetaTensor(image, affine=affine),
        "gradients": np.column_stack([directions, np.full(len(directions), 1000.0)]),
        "mask": MetaTensor(torch.ones(1, *SHAPE), affine=affine),
    }


def matrix_of(label: str) -> np.ndarray:
    """Signed permutation of a label as ``-y+x+z``: the new x is minus the old y, and so on."""
    rows = [
        np.eye(3)["xyz".index(axis)] * (-1 if sign == "-" else 1) for sign, axis in zip(*[iter(label)] * 2, strict=True)
    ]
    return np.array(rows)


def test_right_directions_raise_no_doubt(bundles):
    assert doubt_about_gradients(prepared(bundles, default_scheme())) is None
    assert doubt_about_gradients(prepared(bundles, -default_scheme())) is None


@pytest.mark.parametrize("way", WAYS)
def test_flipped_and_exchanged_axes_are_named_with_what_undoes_them(bundles, way):
    spoilt = world_to_fsl(default_scheme(), AFFINE) @ WAYS[way].T
    data = prepared(bundles, fsl_to_world(spoilt, AFFINE))
    before = data["gradients"].copy()
    doubt = doubt_about_gradients(data)
    assert doubt.startswith("fibres are more coherent (")
    assert doubt.endswith("are the scan's b-vectors flipped or exchanged?")
    found = matrix_of(doubt.split("axes ")[1].split()[0]) @ WAYS[way]
    # the sign of all three together means nothing
    np.testing.assert_array_equal(found * np.sign(found[0, 0]), np.eye(3))
    best, own = (float(word) for word in (doubt.split("(")[1].split(")")[0], doubt.split("(")[2].split(")")[0]))
    assert 1 >= best > 1.02 * own > 0
    np.testing.assert_array_equal(data["gradients"], before), "nothing is repaired"


def test_an_image_without_white_matter_is_not_checked():
    image = torch.full((64, *SHAPE), 0.45)
    doubt = doubt_about_gradients(prepared(image, default_scheme()))
    assert doubt == "the gradients were not checked: no white matter was found"
