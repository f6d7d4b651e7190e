"""What holds for every artifact: replay, identity at severity 0, a batch equals its elements, gradients."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from artifact_scans import ARTIFACTS, NOTHING, SHAPE, generator, make_scan
from torch.utils._python_dispatch import TorchDispatchMode

from transforms.artifacts import (
    PRESETS,
    AcquisitionParams,
    ArtifactParams,
    BiasFieldParams,
    EddyParams,
    Motion,
    Noise,
    NoiseParams,
    ScanInfo,
    apply_artifacts,
    preset,
    sample_artifacts,
)
from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError

each_artifact = pytest.mark.parametrize("artifact", ARTIFACTS.values(), ids=ARTIFACTS)


def same_bytes(one, other):
    return one.numpy().tobytes() == other.numpy().tobytes()


@each_artifact
def test_replay_from_json_is_exact(artifact, scan):
    image, info = scan
    before = image.clone()
    params = artifact.sample(generator(1), SHAPE)
    result = params.apply(image, info)
    again = ArtifactParams.from_dict(json.loads(json.dumps(params.to_dict())))
    assert again == params
    assert torch.equal(again.apply(image, info), result)
    assert torch.equal(image, before)
    assert result.shape == image.shape
    assert result.dtype == image.dtype
    assert not torch.allclose(result, image, atol=1e-3)


@each_artifact
def test_the_seed_decides(artifact):
    drawn = [artifact.sample(generator(seed), SHAPE) for seed in (4, 4, 5)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@each_artifact
def test_global_generators_are_neither_used_nor_changed(artifact):
    def states():
        return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002

    image, info = make_scan()
    before = states()
    first = artifact.sample(generator(9), SHAPE).apply(image, info)
    assert states() == before
    torch.manual_seed(123)
    assert torch.equal(artifact.sample(generator(9), SHAPE).apply(image, info), first)


@pytest.mark.parametrize("artifact", NOTHING.values(), ids=NOTHING)
def test_severity_zero_is_the_identity_bit_for_bit(artifact):
    image, info = make_scan()
    image[0, 0, 0, 0], image[1, 2, 3, 4] = -0.0, float("nan")
    params = artifact.sample(generator(2), SHAPE)
    assert same_bytes(params.apply(image, info), image)


def test_an_acquisition_without_artifacts_is_the_identity_bit_for_bit():
    image, info = make_scan()
    at_rest = [[0.0] * 3] * SHAPE[0]
    nothing = AcquisitionParams(1, at_rest, at_rest, [[0.0] * 3] * 4, [[0.0] * 6] * 4, [], 0.0, 0.0, 1)
    assert same_bytes(nothing.apply(image, info), image)
    # each artifact alone changes the image
    for change in (
        {"degrees": [*at_rest[1:], [0.0, 5.0, 0.0]]},
        {"translation": [[1.0, 0.0, 0.0], *at_rest[1:]]},
        {"eddy_linear": [[0.0] * 3] * 3 + [[0.1, 0.0, 0.0]]},
        {"eddy_quadratic": [[0.0] * 6, [0.0] * 5 + [1.0], [0.0] * 6, [0.0] * 6]},
        {"dropout": [[2, 5, 0.3]]},
        {"ghost_phase": 10.0},
        {"snr": 20.0},
    ):
        assert not torch.allclose(replace(nothing, **change).apply(image, info), image, atol=1e-3), change


@each_artifact
@pytest.mark.parametrize("seed", [0, 1])
def test_a_batch_equals_its_elements_and_those_not_selected_stay_as_they_are(artifact, seed):
    elements = [make_scan(seed=seed + index) for index in range(3)]
    params = [[artifact.sample(generator(seed), SHAPE)], [], [artifact.sample(generator(seed + 7), SHAPE)]]
    batch = torch.stack([image for image, _ in elements])
    before = batch.clone()
    result = apply_artifacts(batch, params, [info for _, info in elements])
    assert torch.equal(batch, before)
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    assert same_bytes(result[1].contiguous(), batch[1])
    for index in (0, 2):
        image, info = elements[index]
        assert torch.equal(result[index], params[index][0].apply(image, info))
        alone = apply_artifacts(image[None], params[index : index + 1], [info])
        assert torch.equal(result[index], alone[0])


def test_artifacts_are_applied_in_order():
    image, info = make_scan()
    params = [ARTIFACTS[name].sample(generator(3), SHAPE) for name in ("motion", "eddy", "bias field", "ghosting")]
    expected = image
    for one in params:
        expected = one.apply(expected, info)
    assert torch.equal(apply_artifacts(image[None], [params], [info])[0], expected)
    assert not torch.allclose(apply_artifacts(image[None], [params[::-1]], [info])[0], expected, atol=1e-3)


@each_artifact
def test_the_layout_in_memory_makes_no_difference(artifact):
    image, info = make_scan()
    params = artifact.sample(generator(1), SHAPE)
    turned = image.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert torch.equal(params.apply(turned, info), params.apply(image, info))


@each_artifact
@pytest.mark.parametrize("shape", [(10, 8, 9, 1), (10, 1, 8, 7), (12, 5, 4, 6), (64, 4, 5, 3)])
def test_thin_and_small_images(artifact, shape):
    image, info = make_scan(shape=shape)
    result = artifact.sample(generator(1), image.shape).apply(image, info)
    assert result.shape == image.shape
    assert torch.isfinite(result).all()


@each_artifact
def test_gradient_in_the_image(artifact):
    # clipping of the attenuation to [0, 1] has kinks, and a signal of 0.1 to 0.9 mostly keeps away from them
    image, info = make_scan(shape=(10, 4, 5, 3), dtype=torch.float64)
    params = artifact.sample(generator(1), image.shape)
    if isinstance(params, AcquisitionParams):
        params = replace(params, snr=200.0)
        image = 0.3 + 0.2 * image
    assert torch.autograd.gradcheck(lambda x: params.apply(x, info), image.requires_grad_(), fast_mode=True)


@each_artifact
def test_precision_of_the_image_is_kept(artifact):
    image, info = make_scan(dtype=torch.float64)
    # the noise has other numbers in another precision
    params = artifact.sample(generator(1), SHAPE)
    if isinstance(params, NoiseParams | AcquisitionParams):
        params = replace(params, **({"std": 0.0} if isinstance(params, NoiseParams) else {"snr": 0.0}))
    double = params.apply(image, info)
    assert double.dtype == torch.float64
    torch.testing.assert_close(params.apply(image.float(), info).double(), double, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_corrupt_more_from_light_to_strong_and_store_as_json(name):
    shape = (64, 14, 16, 12)
    image, info = make_scan(shape=shape)
    params = sample_artifacts(preset(name, prob=1.0), generator(0), shape)
    assert len(params) == len(PRESETS[name])
    json.dumps([one.to_dict() for one in params])
    result = apply_artifacts(image[None], [params], [info])
    assert torch.isfinite(result).all()
    assert not torch.allclose(result[0], image, atol=1e-2)


def test_presets_are_ordered_by_severity():
    shape = (8, 14, 16, 12)
    image, info = make_scan(shape=shape)
    error = {
        name: np.mean(
            [
                float((one.sample(generator(seed), shape).apply(image, info) - image).abs().mean())
                for seed in range(6)
                for one in preset(name, prob=1.0)
            ]
        )
        for name in ("light", "normal", "strong")
    }
    assert error["light"] < error["normal"] < error["strong"]


def test_phase_encoding_of_a_preset_is_that_of_its_eddy_currents():
    for name in PRESETS:
        drawn = [one.sample(generator(0), SHAPE) for one in preset(name, phase_encoding=2)]
        axes = [one.axis for one in drawn if isinstance(one, EddyParams | AcquisitionParams)]
        assert axes == [2]
    with pytest.raises(
        InputError, match=r"preset: found 'heavy', expected one of light, normal, paper, strong, physical"
    ):
        preset("heavy")


def test_each_artifact_has_its_own_probability():
    artifacts = [Motion(prob=0.3), Noise(prob=0.8)]
    drawn = [sample_artifacts(artifacts, generator(seed), SHAPE) for seed in range(400)]
    shares = [np.mean([any(one.artifact == name for one in many) for many in drawn]) for name in ("motion", "noise")]
    assert 0.21 < shares[0] < 0.39  # four standard deviations
    assert 0.72 < shares[1] < 0.88
    assert not any(sample_artifacts(preset("normal", prob=0.0), generator(seed), SHAPE) for seed in range(20))


def test_unusable_input_is_named():
    image, info = make_scan()
    noise = NoiseParams(mean=0.0, std=0.1, seed=1)
    with pytest.raises(InputError, match=r"found torch.float32 of shape \(16, 19, 13\), expected .*\(C, X, Y, Z\)"):
        noise.apply(image[0])
    with pytest.raises(InputError, match=r"found torch.int64 of shape"):
        noise.apply(image.long())
    with pytest.raises(InputError, match=r"parameters for 1 images and 1 scans, expected"):
        apply_artifacts(torch.stack([image, image]), [[noise]], [info])
    with pytest.raises(InputError, match=r"noise: found \['mean'\], expected \['mean', 'seed', 'std'\]"):
        ArtifactParams.from_dict({"artifact": "noise", "mean": 0.0})
    with pytest.raises(InputError, match=r"artifact: found 'rain', expected one of .*motion"):
        ArtifactParams.from_dict({"artifact": "rain"})
    with pytest.raises(InputError, match="found 3 coefficients, expected 4"):
        BiasFieldParams(order=1, coefficients=[0.1] * 3).apply(image)


class CountedOperations(TorchDispatchMode):
    """Counts the operations that torch runs."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["normal", "strong"])
def test_more_directions_are_not_more_operations(name):
    """On a GPU each operation is a kernel that has to be launched."""
    counts = []
    for directions in (32, 64):
        image = torch.zeros(directions, 9, 10, 11)
        drawn = [artifact.sample(generator(1), image.shape) for artifact in preset(name)]
        with CountedOperations() as counted:
            apply_artifacts(image[None], [drawn], [ScanInfo(directions=default_scheme()[:directions])])
        counts.append(counted.number)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("name", ["normal", "strong"])
def test_no_artifact_reads_the_image_back(name):
    """Tensors without memory cannot be read; on a GPU, reading would wait for all that was asked of it so far."""
    image = torch.zeros(16, 9, 10, 11, device="meta")
    # noise comes from a generator of the device, and this one has none
    drawn = [artifact.sample(generator(1), image.shape) for artifact in preset(name) if artifact.name != "noise"]
    info = ScanInfo(directions=default_scheme()[:16])
    assert apply_artifacts(image[None], [drawn], [info]).shape == (1, *image.shape)
