"""Errors per artifact: of networks whose answer is known."""

import csv

import numpy as np
import pytest
import torch
from torch import nn

from scripts.training.artifact_errors import artifact_errors, without_gain
from transforms.artifacts import BiasField, preset
from transforms.diffusion.scheme import default_scheme

SHAPE = (8, 9, 10, 11)
DIRECTIONS = default_scheme()[:8].tolist()
WITHOUT_GAIN = "bias field without gain"


def scans(n=3):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "scan": f"sub-{index}",
            "image": 0.2 + 0.5 * torch.rand(SHAPE, generator=generator).half(),
            "mask": torch.ones(1, *SHAPE[1:], dtype=torch.uint8),
            "b0": torch.full((1, *SHAPE[1:]), 100.0),
        }
        for index in range(n)
    ]


class Gain(nn.Module):
    """Network that multiplies by one factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, image):
        return self.factor * image


def measure(network, path, artifacts, seed=0):
    return artifact_errors(network, scans(), artifacts, DIRECTIONS, str(path), seed)


def test_a_network_that_changes_nothing_and_one_that_answers_a_constant(tmp_path):
    artifacts = preset("normal", prob=0.5)
    path = tmp_path / "new" / "artifacts.csv"
    means = measure(nn.Identity(), path, artifacts)
    assert list(means) == ["motion", "eddy", "bias field", WITHOUT_GAIN, "ghosting", "noise", "all", "none"]
    for name, (before, after) in means.items():
        assert before == after
        # alone, each is applied for certain, whatever its probability
        assert (before == 0) == (name == "none")
    assert [artifact.prob for artifact in artifacts] == [0.5] * 5

    class Constant(nn.Module):
        def forward(self, image):
            return torch.full_like(image, 0.4)

    expected = np.mean([float((scan["image"].float() - 0.4).abs().mean()) for scan in scans()])
    # the best factor turns a constant into the scan's mean
    mean_of = np.mean([float((scan["image"].float() - scan["image"].float().mean()).abs().mean()) for scan in scans()])
    constant = measure(Constant(), path, artifacts)
    for name, (before, after) in constant.items():
        assert before == means[name][0]
        assert after == pytest.approx(mean_of if name == WITHOUT_GAIN else expected, rel=1e-4)


def test_the_part_of_a_bias_field_that_is_a_mere_gain_is_reported_apart(tmp_path):
    path = tmp_path / "artifacts.csv"
    # of order 0, the field is the same everywhere; below 1, nothing is clipped
    darker = measure(Gain(1.2), path, [BiasField(order=0, coefficients=(-0.4, -0.3), keep_mean=False)])
    assert min(darker["bias field"]) > 0.05
    assert max(darker[WITHOUT_GAIN]) < 1e-5
    # a network that scales takes away a gain, and nothing of what varies in space
    varying = [BiasField(order=1, coefficients=(-0.4, -0.2), keep_mean=False)]
    same, scaled = measure(nn.Identity(), path, varying), measure(Gain(1.3), path, varying)
    assert scaled["bias field"][1] < 0.95 * scaled["bias field"][0]
    assert scaled[WITHOUT_GAIN][1] == pytest.approx(same[WITHOUT_GAIN][0], rel=1e-4)
    assert 0.02 < same[WITHOUT_GAIN][0] < same["bias field"][0]
    with open(path, newline="") as file:
        written = [line for line in csv.DictReader(file) if line["artifact"] == WITHOUT_GAIN]
    assert len(written) == 3
    assert np.mean([float(line["error_after"]) for line in written]) == pytest.approx(scaled[WITHOUT_GAIN][1], abs=1e-6)


def test_voxels_that_do_not_count_do_not_decide_the_factor():
    clean = torch.rand(1, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    image = 0.8 * clean
    image[..., 3:] = 7.0
    hidden = clean.clone()
    hidden[..., 3:] = torch.nan
    torch.testing.assert_close(without_gain(image, hidden)[..., :3], clean[..., :3])
    assert not without_gain(torch.zeros_like(clean), clean).any()


def test_every_scan_is_written_and_the_seed_decides(tmp_path):
    path = tmp_path / "artifacts.csv"
    means = measure(nn.Identity(), path, preset("physical"))
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["artifact"], line["scan"]) for line in lines] == [
        (name, f"sub-{index}") for name in ("acquisition", "all", "none") for index in range(3)
    ]
    found = np.mean([float(line["error_before"]) for line in lines[:3]])
    assert found == pytest.approx(means["acquisition"][0], abs=1e-6)
    assert measure(nn.Identity(), path, preset("physical")) == means
    assert measure(nn.Identity(), path, preset("physical"), seed=1)["all"] != means["all"]


def test_several_draws_are_averaged(tmp_path):
    def errors(draws):
        means = artifact_errors(
            nn.Identity(), scans(1), preset("normal"), DIRECTIONS, str(tmp_path / "artifacts.csv"), draws=draws
        )
        return np.array([before for before, _ in means.values()])

    first, *more = (errors(draws) * draws for draws in (1, 2, 3))
    # each draw adds an error of its own
    second, third = np.diff([first, *more], axis=0)
    assert not np.isclose(first, second)[:5].any()
    assert not np.isclose(second, third)[:5].any()
    assert (second[:5] > 0).all()
    assert first[-1] == second[-1] == 0
