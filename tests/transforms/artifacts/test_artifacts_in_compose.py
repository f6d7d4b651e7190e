"""The artifacts as MONAI's dictionary transforms: seeded by MONAI, metadata kept, equal to their parameters applied."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from artifact_scans import LINEAR, make_scan
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils import set_determinism

import transforms
from transforms.artifacts import ArtifactParams, ScanInfo
from transforms.errors import InputError

SINGLE = {
    "RandMotiond": {"degrees": (3.0, 9.0)},
    "RandEddyd": {"stretch": (0.8, 0.9), "axis": 0},
    "RandBiasFieldd": {"coefficients": (0.2, 0.5)},
    "RandGhostingd": {"num_ghosts": (3, 4)},
    "RandNoised": {"std": (0.1, 0.2)},
    "RandUndersamplingd": {"measured": (6, 6)},
}
PAGE = Path(__file__).parents[3] / "docs" / "artifacts.md"


@pytest.fixture
def data():
    image, scan = make_scan(LINEAR["oblique"])
    gradients = np.column_stack([scan.directions, np.full(len(image), 1000.0)])
    meta = {"filename_or_obj": "sub-01_dwi.nii.gz"}
    named = {"image": MetaTensor(image, affine=torch.tensor(scan.affine), meta=meta), "mask": MetaTensor(scan.mask)}
    return {**named, "b0": MetaTensor(scan.b0), "gradients": gradients, "scan": "sub-01"}


def known(data):
    directions = data["gradients"][:, :3]
    affine = data["image"].affine.numpy()
    return ScanInfo(affine, directions, data["b0"].as_tensor(), data["mask"].as_tensor())


def replayed(data, drawn):
    image = data["image"].as_tensor()
    for params in drawn:
        image = ArtifactParams.from_dict(json.loads(json.dumps(params.to_dict()))).apply(image, known(data))
    return image


def check(data, transform):
    """Return the result of a transform in a Compose, after comparing it with its parameters applied."""
    before = data["image"].clone()
    state = torch.get_rng_state()
    result = Compose([transform]).set_random_state(3)(data)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(data["image"], before)
    assert torch.equal(result["image"].as_tensor(), replayed(data, transform.params))
    assert torch.equal(result["image"].affine, data["image"].affine)
    assert result["image"].meta["filename_or_obj"] == "sub-01_dwi.nii.gz"
    assert all(result[key] is data[key] for key in data if key != "image")
    return result


@pytest.mark.parametrize("name", SINGLE)
def test_one_artifact_is_that_of_its_parameters(data, name):
    transform = getattr(transforms, name)("image", prob=1.0, **SINGLE[name])
    result = check(data, transform)
    assert [params.artifact for params in transform.params] == [transform.kind.name]
    assert not torch.allclose(result["image"], data["image"], atol=0.02)
    again = Compose([transform]).set_random_state(3)(data)
    assert torch.equal(again["image"], result["image"])
    other = Compose([transform]).set_random_state(4)(data)
    assert not torch.equal(other["image"], result["image"])


@pytest.mark.parametrize("preset", ["light", "normal", "paper", "strong", "physical"])
def test_a_preset_is_that_of_its_parameters(data, preset):
    transform = transforms.RandArtifactsd(keys="image", preset=preset)
    check(data, transform)
    names = {artifact.name for artifact in transforms.artifacts.preset(preset)}
    assert {params.artifact for params in transform.params} <= names


def test_determinism_of_monai_seeds_the_transform(data):
    results = []
    for seed in (5, 5, 6):
        set_determinism(seed)
        results.append(Compose([transforms.RandArtifactsd("image"), transforms.RandNoised("image", prob=1.0)])(data))
    set_determinism(None)
    first, same, other = (result["image"] for result in results)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_all_keys_get_the_same_artifacts(data):
    both = {**data, "clean": data["image"].clone()}
    result = transforms.RandArtifactsd(["image", "clean"]).set_random_state(2)(both)
    assert torch.equal(result["image"], result["clean"])


def test_an_array_of_numpy_becomes_one(data):
    transform = transforms.RandNoised("image", prob=1.0)
    of_array, of_tensor = (
        transform.set_random_state(2)({"image": image})["image"]
        for image in (data["image"].as_tensor().numpy(), data["image"].as_tensor())
    )
    assert isinstance(of_array, np.ndarray)
    np.testing.assert_array_equal(of_array, of_tensor.numpy())


def test_the_probability_is_that_of_an_image(data):
    never = transforms.RandNoised("image", prob=0.0)
    assert torch.equal(never(data)["image"], data["image"])
    sometimes = transforms.RandNoised("image", prob=0.3).set_random_state(0)
    small = {"image": torch.rand(2, 3, 4, 5)}
    drawn = sum(bool(sometimes(small) and sometimes.params) for _ in range(400))
    # four standard deviations of a binomial distribution
    assert abs(drawn - 120) < 37


def test_directions_may_be_given_in_place_of_gradients(data):
    directions = data.pop("gradients")[:, :3]
    transform = transforms.RandUndersamplingd("image", prob=1.0, directions=directions.tolist(), measured=(6, 8))
    result = transform.set_random_state(1)(data)
    assert torch.equal(
        result["image"].as_tensor(),
        transform.params[0].apply(data["image"].as_tensor(), ScanInfo(directions=directions)),
    )
    with pytest.raises(InputError, match="undersampling: found no directions"):
        transforms.RandUndersamplingd("image", prob=1.0, measured=(6, 8)).set_random_state(1)(data)


def test_wrong_values_are_named():
    with pytest.raises(InputError, match="preset: found 'none'"):
        transforms.RandArtifactsd("image", preset="none")
    with pytest.raises(InputError, match="prob: found 2"):
        transforms.RandNoised("image", prob=2)
    with pytest.raises(InputError, match="std: found"):
        transforms.RandNoised("image", std=(0.2, 0.1))


def test_the_example_of_the_page_runs(data, monkeypatch, tmp_path):
    (example,) = re.findall(r"```python\n(from monai\.transforms import Compose.*?)```", PAGE.read_text(), re.DOTALL)
    names = {"data": data}
    exec(example, names)
    drawn = names["pipeline"].transforms[0].params + names["pipeline"].transforms[1].params
    assert torch.equal(names["corrupted"]["image"].as_tensor(), replayed(data, drawn))
