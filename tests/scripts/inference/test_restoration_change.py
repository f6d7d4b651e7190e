"""What a sidecar says of a restoration's change: known changes of attenuation, MD and FA, and the bound of training."""

import numpy as np
import pytest
import torch

from scripts.inference.restoration_change import describe_change, doubt, largest_change_in_training
from scripts.training.checkpoints import LARGEST
from transforms.diffusion.scheme import default_scheme

GRADIENTS = np.column_stack([default_scheme(), np.full(64, 1000.0)])
SHAPE = (3, 4, 5)


def attenuation(along, across, axis=(0.6, 0.0, 0.8)):
    values = np.exp(-1000 * (across + (along - across) * (GRADIENTS[:, :3] @ axis) ** 2))
    return torch.from_numpy(values).float()[:, None, None, None]


@pytest.fixture
def head():
    """White matter in the first plane, gray matter in the second, and no brain in the third."""
    image = torch.zeros(64, *SHAPE)
    image[:, 0], image[:, 1] = attenuation(1.6e-3, 0.3e-3)[:, 0], attenuation(0.8e-3, 0.8e-3)[:, 0]
    mask = torch.ones(1, *SHAPE)
    mask[:, 2] = 0
    return image, mask


def test_larger_diffusivity_is_found_in_white_matter_alone(head):
    image, mask = head
    # all diffusivities of white matter grow by 10 %, so its FA stays
    restored = image.clone()
    restored[:, 0] = image[:, 0] ** 1.1
    entries = describe_change(image, restored, mask, GRADIENTS)
    assert entries["WhiteMatterMDChangePercent"] == pytest.approx(10, abs=0.01)
    assert entries["WhiteMatterFAChangePercent"] == pytest.approx(0, abs=0.01)
    difference = (restored - image)[:, :2]
    assert entries["MeanAbsoluteChangeOfAttenuation"] == pytest.approx(float(difference.abs().mean()), rel=1e-4)
    expected = 100 * float(difference.mean() / image[:, :2].mean())
    assert entries["AttenuationChangePercent"] == pytest.approx(expected, rel=1e-4)
    # what happens to gray matter changes neither, and what happens outside of the brain changes nothing
    gray = restored.clone()
    gray[:, 1] = 0.9 * gray[:, 1]
    assert describe_change(image, gray, mask, GRADIENTS)["WhiteMatterMDChangePercent"] == pytest.approx(10, abs=0.01)
    outside = restored.clone()
    outside[:, 2] = 5.0
    assert describe_change(image, outside, mask, GRADIENTS) == entries


def test_a_gain_and_a_loss_of_anisotropy_have_their_sign(head):
    image, mask = head
    entries = describe_change(image, 0.83 * image, mask, GRADIENTS)
    assert entries["AttenuationChangePercent"] == pytest.approx(-17, abs=1e-3)
    # a factor adds the same to all diffusivities: -ln(0.83) / b, to a mean of 0.733e-3 mm2/s
    assert entries["WhiteMatterMDChangePercent"] == pytest.approx(100 * -np.log(0.83) / 1000 / (2.2e-3 / 3), rel=1e-3)
    rounder = image.clone()
    rounder[:, 0] = attenuation(1.4e-3, 0.4e-3)[:, 0]
    entries = describe_change(image, rounder, mask, GRADIENTS)
    assert entries["WhiteMatterMDChangePercent"] == pytest.approx(0, abs=0.01)

    def anisotropy(along, across):
        return (along - across) / np.sqrt(along**2 + 2 * across**2)

    expected = 100 * (anisotropy(1.4, 0.4) / anisotropy(1.6, 0.3) - 1)
    assert entries["WhiteMatterFAChangePercent"] == pytest.approx(expected, abs=0.01)


def test_nothing_changes_and_a_scan_without_white_matter_says_nothing_of_it(head):
    image, mask = head
    assert set(describe_change(image, image.clone(), mask, GRADIENTS).values()) == {0.0}
    gray = describe_change(image[:, 1:], image[:, 1:], mask[:, 1:], GRADIENTS)
    assert set(gray) == {"MeanAbsoluteChangeOfAttenuation", "AttenuationChangePercent"}


def test_the_bound_is_what_the_checkpoint_says(tmp_path):
    path = tmp_path / "model.pt"
    weights = {"w": torch.zeros(2)}
    torch.save({"network": weights, "origin": {LARGEST: {"val_loss_of_input": 0.125}}}, path)
    assert largest_change_in_training(path) == 0.125
    for content in (weights, {"network": weights, "origin": {"epoch": 3}}):
        torch.save(content, path)
        assert largest_change_in_training(path) is None
    assert doubt(0.125, 0.125) == ""
    assert doubt(0.13, 0.125) == (
        "the restoration changes the attenuation by 0.130 on average, the artifacts of the training's validation by "
        "0.125 at most: look at the result"
    )
    assert doubt(0.0, None) == "the checkpoint does not say by how much artifacts changed its training's scans"
