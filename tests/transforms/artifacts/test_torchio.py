"""TorchIO wrappers: random state, replay, equality with TorchIO, metadata, and the numbers of each artifact."""

import json
import random
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torchio as tio
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

from transforms import artifacts
from transforms.artifacts import (
    BiasFieldParams,
    GhostingParams,
    MotionParams,
    NoiseParams,
    RandBiasField,
    RandEddy,
    RandGhosting,
    RandGhostingd,
    RandMotion,
    RandMotiond,
    RandNoise,
    RandNoised,
)
from transforms.errors import InputError

ALL = [RandMotion, RandEddy, RandBiasField, RandGhosting, RandNoise]
NOTHING = {
    RandMotion: {"degrees": [0, 0], "translation": [0, 0]},
    RandEddy: {"stretch": [1, 1]},
    RandBiasField: {"coefficients": [0, 0]},
    RandGhosting: {"intensity": [0, 0]},
    RandNoise: {"std": [0, 0]},
}
DIRECT = {
    RandMotion: lambda p: tio.Motion(
        np.array(p.degrees), np.array(p.translation), np.array(p.times), image_interpolation="linear"
    ),
    RandBiasField: lambda p: tio.BiasField(p.coefficients, p.order),
    RandGhosting: lambda p: tio.Ghosting(p.num_ghosts, p.axis, p.intensity, p.restore),
    RandNoise: lambda p: tio.Noise(p.mean, p.std, p.seed),
}

each_artifact = pytest.mark.parametrize("form", ALL, ids=lambda form: form.__name__)


def dictionary_form(form):
    return getattr(artifacts, form.__name__ + "d")


def affine_of(image):
    return np.asarray(image.affine) if isinstance(image, MetaTensor) else np.eye(4)


def random_states():
    return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002


@pytest.mark.parametrize("form", DIRECT, ids=lambda form: form.__name__)
def test_equals_torchio_called_directly(form, image):
    artifact = form(prob=1.0).set_random_state(11)
    result = artifact(image)
    scalar = tio.ScalarImage(tensor=torch.tensor(np.asarray(image)), affine=affine_of(image))
    assert torch.equal(torch.as_tensor(np.asarray(result)), DIRECT[form](artifact.params)(scalar).data)


@each_artifact
def test_seed_decides_the_image(form, image):
    first, again, other = (form(prob=1.0).set_random_state(seed)(image) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, image)


@each_artifact
def test_replay_from_json_is_exact(form, image):
    artifact = form(prob=1.0).set_random_state(6)
    result = artifact(image)
    drawn = type(artifact.params).from_dict(json.loads(json.dumps(asdict(artifact.params))))
    assert drawn == artifact.params
    assert torch.equal(form.apply(image, drawn), result)
    assert torch.equal(artifact(image, randomize=False), result)


@each_artifact
def test_metadata_stay_and_the_input_is_unchanged(form, image):
    before = np.array(image)
    result = form(prob=1.0).set_random_state(1)(image)
    np.testing.assert_array_equal(np.asarray(image), before)
    assert type(result) is type(image)
    assert result.dtype == torch.float32
    if isinstance(image, MetaTensor):
        assert torch.equal(result.affine, image.affine)
        assert result.meta["filename_or_obj"] == "sub-01_dwi.nii.gz"
        assert result.meta.keys() == image.meta.keys()
        assert result.applied_operations == [{"class": "Spacing"}]


@each_artifact
def test_severity_zero_is_the_identity_bit_for_bit(form, image):
    image[0, 0, 0, 0] = -0.0
    artifact = form(prob=1.0, **NOTHING[form]).set_random_state(2)
    result = artifact(image)
    assert artifact.params is not None
    assert np.asarray(result).tobytes() == np.asarray(image).tobytes()


@each_artifact
def test_global_random_states_are_neither_used_nor_changed(form, image):
    artifact = form(prob=1.0).set_random_state(9)
    before = random_states()
    first = artifact(image)
    assert random_states() == before
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    assert torch.equal(form(prob=1.0).set_random_state(9)(image), first)


@each_artifact
def test_probability_zero_leaves_the_values(form, image):
    artifact = form(prob=0.0).set_random_state(0)
    assert torch.equal(artifact(image), image)
    assert artifact.params is None


@each_artifact
def test_probability_is_met(form):
    image, artifact = torch.ones(1, 3, 4, 3), form(prob=0.3, **NOTHING[form]).set_random_state(0)
    applied = []
    for _ in range(400):
        artifact(image)
        applied.append(artifact.params is not None)
    assert 0.21 < np.mean(applied) < 0.39  # four standard deviations


@each_artifact
def test_dictionary_form_shares_one_draw_whatever_the_order_of_keys(form, image):
    data = {"image": image, "clean": image + 1, "name": "sub-01"}
    forward = dictionary_form(form)(["image", "clean"], prob=1.0).set_random_state(8)
    backward = dictionary_form(form)(["clean", "image"], prob=1.0).set_random_state(8)
    first, second = forward(data), backward(data)
    assert forward.params == backward.params
    for key in ("image", "clean"):
        assert torch.equal(first[key], second[key])
        assert torch.equal(first[key], form.apply(data[key], forward.params))
    assert torch.equal(first["image"], form(prob=1.0).set_random_state(8)(image))
    assert first["name"] == "sub-01"
    assert data["image"] is image


@each_artifact
def test_missing_keys(form):
    data = {"image": torch.rand(2, 4, 5, 3)}
    assert set(dictionary_form(form)(["image", "b0"], prob=1.0, allow_missing_keys=True)(data)) == {"image"}
    with pytest.raises(KeyError, match="b0"):
        dictionary_form(form)(["image", "b0"], prob=1.0)(data)


@each_artifact
def test_arrays_are_accepted_and_other_axes_refused(form, image):
    array = np.array(image, dtype=np.float64)
    plain = torch.tensor(array, dtype=torch.float32)
    assert torch.equal(form(prob=1.0).set_random_state(1)(array), form(prob=1.0).set_random_state(1)(plain))
    with pytest.raises(InputError, match=r"found shape \(4, 5, 3\), expected four axes"):
        form()(torch.rand(4, 5, 3))


def test_config_builds_a_chain_that_a_seed_reproduces(image):
    names = ["RandMotiond", "RandEddyd", "RandBiasFieldd", "RandGhostingd", "RandNoised"]
    steps = [{"_target_": f"transforms.artifacts.{name}", "keys": ["image"], "prob": 0.7} for name in names]
    steps[1] |= {"stretch": [0.9, 1.1], "axis": 1}
    steps[4] |= {"std": [0, 0.25]}

    def run(seed):
        parser = ConfigParser({"chain": {"_target_": "Compose", "transforms": json.loads(json.dumps(steps))}})
        chain = parser.get_parsed_content("chain")
        assert isinstance(chain, Compose)
        chain.set_random_state(seed)
        results = [chain({"image": image})["image"] for _ in range(3)]
        return torch.stack([torch.as_tensor(np.asarray(result)) for result in results])

    assert torch.equal(run(42), run(42))
    assert not torch.equal(run(42), run(43))
    assert not torch.equal(run(42)[0], run(42)[1])


def assert_uniform(numbers, low, high):
    counts, _ = np.histogram(numbers, bins=10, range=(low, high))
    assert counts.sum() == np.size(numbers)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 27.9  # chi2 of 9 degrees of freedom, p = 0.001


def draws(artifact, n=2000):
    artifact.set_random_state(17)
    return [artifact.sample(5) for _ in range(n)]


def test_motion_draws_follow_the_ranges():
    drawn = draws(RandMotion(degrees=[-10, 10], translation=[-5, 8]))
    assert_uniform([p.degrees for p in drawn], -10, 10)
    assert_uniform([p.translation for p in drawn], -5, 8)
    assert_uniform([p.times[0] for p in drawn], 1 / 3 - 0.1, 1 / 3 + 0.1)
    assert_uniform([p.times[1] for p in drawn], 2 / 3 - 0.1, 2 / 3 + 0.1)
    assert np.shape(RandMotion(num_transforms=6).sample(5).degrees) == (6, 3)


def test_other_draws_follow_the_ranges():
    bias = draws(RandBiasField())
    assert {len(p.coefficients) for p in bias} == {20}
    assert_uniform([p.coefficients for p in bias], -0.5, 0.5)
    ghosting = draws(RandGhosting(num_ghosts=[2, 5], axes=[0, 2], restore=[0.1, 0.3]))
    assert_uniform([p.intensity for p in ghosting], 0.5, 1)
    assert_uniform([p.restore for p in ghosting], 0.1, 0.3)
    for numbers, values in (([p.num_ghosts for p in ghosting], [2, 3, 4, 5]), ([p.axis for p in ghosting], [0, 2])):
        found, counts = np.unique(numbers, return_counts=True)
        assert found.tolist() == values
        assert counts.min() > 0.85 * 2000 / len(values)
    assert {p.num_ghosts for p in draws(RandGhosting(), 50)} == {2}
    noise = draws(RandNoise(mean=[-1, 1]))
    assert_uniform([p.std for p in noise], 0, 0.25)
    assert_uniform([p.mean for p in noise], -1, 1)
    assert len({p.seed for p in noise}) == 2000


@pytest.mark.parametrize("form", [RandMotion, RandBiasField, RandGhosting], ids=lambda form: form.__name__)
def test_directions_share_one_draw(form, image):
    together = form(prob=1.0).set_random_state(3)
    result = together(image)
    for c in range(5):
        assert torch.equal(form.apply(image[c : c + 1], together.params), result[c : c + 1])


def test_motion_without_movement_passes_k_space_through(image):
    params = MotionParams(degrees=[[0.0] * 3] * 2, translation=[[1e-7] * 3] * 2, times=[0.3, 0.6])
    torch.testing.assert_close(RandMotion.apply(image, params), image, atol=1e-5, rtol=0)


def test_motion_translation_is_in_mm():
    # one movement before the centre of k-space: the moved position fills the planes up to it, the image the others
    voxels = torch.zeros(1, 20, 22, 18)
    voxels[0, 8, 9, 7] = 1.0
    small, large = (MetaTensor(voxels, affine=torch.diag(torch.tensor([s, s, s, 1.0]))) for s in (1.0, 2.0))
    params = [MotionParams([[0.0] * 3], [[mm, 0.0, 0.0]], [0.45]) for mm in (3.0, 6.0)]
    by_voxels = RandMotion.apply(small, params[0]), RandMotion.apply(large, params[1])
    torch.testing.assert_close(by_voxels[0].as_tensor(), by_voxels[1].as_tensor(), atol=1e-5, rtol=0)
    moved = by_voxels[0].as_tensor()[0].abs().amax((1, 2)).argsort(descending=True)[:2]
    assert set(moved.tolist()) == {8, 11}  # each voxel is read from +3 mm in LPS, -3 in RAS


def test_motion_rotates_around_the_world_origin():
    grid = np.meshgrid(np.arange(20) - 8, np.arange(22) - 9, np.arange(18) - 10, indexing="ij")
    # a disc across the axis of rotation, thin along the axis of k-space so that its planes are alike
    disc = torch.tensor(np.exp(-(grid[0] ** 2 + grid[1] ** 2) / 8) * (grid[2] == 0), dtype=torch.float32)[None]
    affine = np.eye(4)
    affine[:3, 3] = (-8, -9, -10)
    params = MotionParams([[0.0, 0.0, 10.0]], [[0.0] * 3], [0.45])
    around_its_centre = RandMotion.apply(MetaTensor(disc, affine=torch.tensor(affine)), params)
    around_the_corner = RandMotion.apply(disc, params)
    torch.testing.assert_close(around_its_centre.as_tensor(), disc, atol=0.02, rtol=0)
    assert float((around_the_corner - disc).abs().max()) > 0.2


def test_bias_field_is_the_exponential_of_the_polynomial(image):
    params = BiasFieldParams(order=1, coefficients=[0.1, 0.2, -0.3, 0.4])  # 1, z, y, x
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape[1:]), indexing="ij")
    field = np.asarray(RandBiasField.apply(image, params)) / np.asarray(image)
    np.testing.assert_allclose(field, np.exp(0.1 + 0.2 * z - 0.3 * y + 0.4 * x)[None].repeat(5, 0), rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("n", "sign", "restored"), [(16, -1, 0.8 / 16), (18, 1, 0.0)])
def test_two_ghosts_are_one_copy_half_a_field_of_view_away(axis, n, sign, restored):
    position, shape = (3, 5, 4), [12, 12, 12]
    shape[axis] = n
    point, expected = torch.zeros(1, *shape), torch.zeros(1, *shape)
    point[(0, *position)] = 1.0
    result = RandGhosting.apply(point, GhostingParams(num_ghosts=2, axis=axis, intensity=0.8, restore=None))
    profile = torch.full((n,), restored)  # the central plane, where it is one of those weakened, spread over the line
    profile[position[axis]] += 0.6
    profile[position[axis] + n // 2] += sign * 0.4
    line = [slice(None) if a == axis else position[a] for a in range(3)]
    expected[(0, *line)] = profile
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_noise_has_the_drawn_mean_and_deviation():
    image = torch.full((6, 30, 31, 29), 0.5)
    added = RandNoise.apply(image, NoiseParams(mean=0.02, std=0.1, seed=5)) - image
    assert float(added.mean()) == pytest.approx(0.02, abs=0.001)
    assert float(added.std()) == pytest.approx(0.1, rel=0.01)
    correlation = np.corrcoef(added.reshape(6, -1).numpy()) - np.eye(6)
    assert abs(correlation).max() < 0.03


@pytest.mark.parametrize(
    ("form", "argument", "value"),
    [
        (RandMotion, "degrees", 10),
        (RandMotion, "translation", [5, -5]),
        (RandMotion, "num_transforms", 0),
        (RandMotion, "num_transforms", 2.0),
        (RandBiasField, "coefficients", [0.5]),
        (RandBiasField, "order", -1),
        (RandGhosting, "num_ghosts", [1.5, 2]),
        (RandGhosting, "num_ghosts", [-1, 2]),
        (RandGhosting, "axes", []),
        (RandGhosting, "axes", [0, 3]),
        (RandGhosting, "axes", 1),
        (RandGhosting, "intensity", [0.5, 1.5]),
        (RandGhosting, "restore", 0.3),
        (RandNoise, "std", [-0.1, 0.2]),
        (RandNoise, "mean", "0"),
        (RandNoise, "prob", None),
    ],
)
def test_unusable_arguments_are_named(form, argument, value):
    with pytest.raises(InputError, match=f"^{argument}: found .* expected"):
        form(**{argument: value})


def test_unusable_parameters_are_named():
    with pytest.raises(InputError, match=r"NoiseParams: found \['mean'\], expected \['mean', 'seed', 'std'\]"):
        NoiseParams.from_dict({"mean": 0.0})


@pytest.mark.parametrize("form", [RandMotiond, RandGhostingd, RandNoised], ids=lambda form: form.__name__)
def test_images_of_different_shape_share_parameters(form):
    data = {"image": torch.rand(3, 8, 9, 7), "b0": torch.rand(1, 8, 10, 6)}
    artifact = form(["image", "b0"], prob=1.0).set_random_state(1)
    result = artifact(data)
    for key, image in data.items():
        assert torch.equal(result[key], artifact.artifact.apply(image, artifact.params))
