"""The same parameters give the image that TorchIO gives, and TorchIO can take the place of this project's own."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchio as tio
from artifact_scans import LINEAR, generator
from monai.data import MetaTensor

from transforms.artifacts import (
    BiasField,
    Eddy,
    Ghosting,
    GhostingParams,
    Motion,
    MotionParams,
    Noise,
    ScanInfo,
    Undersampling,
    preset,
)
from transforms.artifacts.torchio import TorchIOArtifactsd, apply_by_torchio
from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError

SHAPES = [(3, 24, 31, 19), (2, 20, 17, 26), (4, 17, 22, 16)]
LIMIT = 1e-4
"""Largest difference between the two images, as a fraction of the image's maximum."""

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
each_grid = pytest.mark.parametrize("linear", [LINEAR["cubes"], LINEAR["oblique"]], ids=["cubes", "oblique"])


def info(linear):
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = (-21.0, 30.0, 7.0)
    return ScanInfo(affine)


def surrounded_by_zero(shape, seed=0):
    """Random voxels in the middle: TorchIO's minimum, which it puts outside the image, is then zero too."""
    image = torch.zeros(shape)
    middle = (slice(None), *(slice(n // 3, n - n // 3) for n in shape[1:]))
    image[middle] = torch.rand(image[middle].shape, generator=generator(seed)) + 0.1
    return image


def assert_parity(image, params, scan):
    own, reference = params.apply(image, scan), apply_by_torchio(image, params, scan)
    assert float((reference - image).abs().max() / image.max()) > 0.05
    assert float((own - reference).abs().max() / image.max()) < LIMIT


@each_shape
@each_grid
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_motion(shape, linear, axis):
    image, scan = surrounded_by_zero(shape), info(linear)
    for seed, movements in ((0, 2), (1, 1), (2, 5)):
        motion = Motion(axis=axis, degrees=(-20, 20), translation=(-6, 6), num_transforms=movements)
        assert_parity(image, motion.sample(generator(seed), shape), scan)


def test_motion_along_the_last_axis_is_what_torchio_itself_does_about_the_worlds_origin():
    """The image's centre is the world's origin, and one small turn is about z, whose sign LPS keeps."""
    image = surrounded_by_zero((2, 21, 23, 19))
    affine = np.eye(4)
    affine[:3, 3] = (-10.0, -11.0, -9.0)
    direct = tio.Motion(np.array([[0.0, 0, -8]]), np.zeros((1, 3)), np.array([0.3]), image_interpolation="linear")
    expected = direct(tio.ScalarImage(tensor=image, affine=affine)).data
    params = MotionParams([[0.0, 0, 8], [0.0] * 3], [[0.0] * 3] * 2, [0.3], 2)
    torch.testing.assert_close(params.apply(image, ScanInfo(affine)), expected, atol=1e-5, rtol=0)


@each_shape
@each_grid
def test_bias_field(shape, linear):
    image = torch.rand(shape, generator=generator(1)) + 0.1
    for seed, order in ((0, 3), (1, 1), (2, 4)):
        assert_parity(image, BiasField(order=order).sample(generator(seed), shape), info(linear))


@each_shape
@each_grid
@pytest.mark.parametrize("num_ghosts", [2, 3, 4])
def test_ghosting(shape, linear, num_ghosts):
    image = torch.rand(shape, generator=generator(1)) + 0.1
    for seed, restore in ((0, None), (1, (0.2, 0.4)), (2, None)):
        ghosting = Ghosting(num_ghosts=(num_ghosts, num_ghosts), restore=restore, axes=[seed])
        assert_parity(image, ghosting.sample(generator(seed), shape), info(linear))


def test_ghosting_that_restores_nothing_differs():
    """TorchIO removes zero frequency, and with it the mean; this project never does."""
    image, params = torch.rand(1, 16, 16, 16, generator=generator(0)) + 1, GhostingParams(2, 0, 1.0, 0.0)
    assert float(apply_by_torchio(image, params).mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(params.apply(image).mean()) == pytest.approx(float(image.mean()), rel=1e-5)


@each_shape
def test_noise_in_mean_and_deviation(shape):
    image = torch.rand(shape, generator=generator(1))
    params = Noise(mean=(0.1, 0.2), std=(0.1, 0.2)).sample(generator(0), shape)
    own, reference = ((apply(image) - image) for apply in (params.apply, lambda x: apply_by_torchio(x, params)))
    assert float(own.mean()) == pytest.approx(float(reference.mean()), abs=0.005)
    assert float(own.std()) == pytest.approx(float(reference.std()), rel=0.03)


@pytest.mark.parametrize("artifact", [Eddy(), Undersampling(measured=(6, 8))], ids=["eddy", "undersampling"])
def test_eddy_currents_and_undersampling_are_this_projects_own(artifact):
    image, scan = torch.rand((10, 9, 8, 11), generator=generator(1)), info(LINEAR["RAS"])
    scan = replace(scan, directions=default_scheme()[:10])
    params = artifact.sample(generator(0), image.shape)
    assert torch.equal(apply_by_torchio(image, params, scan), params.apply(image, scan))


def test_the_transform_undersamples_by_the_directions_that_it_was_given():
    image, directions = torch.rand((10, 5, 6, 4), generator=generator(1)), default_scheme()[:10]
    transform = TorchIOArtifactsd("image", [Undersampling(prob=1.0, measured=(6, 8))], directions.tolist())
    result = transform.set_random_state(1)({"image": image})["image"]
    assert torch.equal(result, transform.params[0].apply(image, ScanInfo(directions=directions)))
    assert not torch.allclose(result, image, atol=1e-2)


def test_what_torchio_cannot_do_is_named():
    image = torch.rand(1, 6, 7, 8)
    with pytest.raises(InputError, match="motion: found a movement in the centre of k-space"):
        apply_by_torchio(image, MotionParams([[1.0, 0, 0]] * 2, [[0.0] * 3] * 2, [0.4], 2))
    (physical,) = preset("physical")
    with pytest.raises(InputError, match="found artifact 'acquisition', expected one that TorchIO has"):
        apply_by_torchio(image, physical.sample(generator(0), (1, 6, 7, 8)))
    with pytest.raises(InputError, match="found artifact 'acquisition', expected one that TorchIO has"):
        TorchIOArtifactsd("image", [physical])


def loader_transform(seed, prob=None):
    transform = TorchIOArtifactsd(["image"], preset("normal", prob=prob))
    transform.set_random_state(seed)
    return transform


def test_the_transform_draws_from_its_own_state_and_keeps_metadata():
    affine = torch.tensor(info(LINEAR["oblique"]).affine)
    voxels = torch.rand(SHAPES[1], generator=generator(1)).half()
    image = MetaTensor(voxels, affine=affine, meta={"filename_or_obj": "sub-01_dwi.nii.gz"})
    before, state = image.clone(), torch.get_rng_state()
    transform = loader_transform(4, prob=1.0)
    first = transform({"image": image, "scan": "sub-01"})
    assert torch.equal(torch.get_rng_state(), state)
    assert [one.artifact for one in transform.params] == ["motion", "eddy", "bias field", "ghosting", "noise"]
    json.dumps([one.to_dict() for one in transform.params])
    result = first["image"]
    assert torch.equal(image, before)
    assert first["scan"] == "sub-01"
    assert result.dtype == torch.float32
    assert torch.equal(result.affine, image.affine)
    assert result.meta["filename_or_obj"] == "sub-01_dwi.nii.gz"
    assert torch.equal(loader_transform(4, prob=1.0)({"image": image})["image"], result)
    assert not torch.equal(loader_transform(5, prob=1.0)({"image": image})["image"], result)
    assert torch.equal(loader_transform(4, prob=0.0)({"image": image})["image"], image.float())
    clean = TorchIOArtifactsd(["image"], preset("normal", prob=1.0), clean_share=1.0)
    assert torch.equal(clean({"image": image})["image"], image.float())


def test_the_transform_applies_what_it_drew_to_every_key():
    data = {key: torch.rand(SHAPES[1], generator=generator(1)) for key in ("image", "clean")}
    transform = TorchIOArtifactsd(["image", "clean"], preset("normal"))
    result = transform.set_random_state(4)(data)
    assert torch.equal(result["image"], result["clean"])
