"""Errors per artifact: of networks whose answer is known."""

import csv

import numpy as np
import pytest
import torch
from torch import nn

from scripts.training.artifact_errors import artifact_errors
from transforms.artifacts import preset
from transforms.diffusion.scheme import default_scheme

SHAPE = (8, 9, 10, 11)
DIRECTIONS = default_scheme()[:8].tolist()


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


def measure(network, path, artifacts, seed=0):
    return artifact_errors(network, scans(), artifacts, DIRECTIONS, str(path), seed)


def test_a_network_that_changes_nothing_and_one_that_answers_a_constant(tmp_path):
    artifacts = preset("normal", prob=0.5)
    path = tmp_path / "new" / "artifacts.csv"
    means = measure(nn.Identity(), path, artifacts)
    assert list(means) == ["motion", "eddy", "bias field", "ghosting", "noise", "all", "none"]
    for name, (before, after) in means.items():
        assert before == after
        # alone, each is applied for certain, whatever its probability
        assert (before == 0) == (name == "none")
    assert [artifact.prob for artifact in artifacts] == [0.5] * 5

    class Constant(nn.Module):
        def forward(self, image):
            return torch.full_like(image, 0.4)

    expected = np.mean([float((scan["image"].float() - 0.4).abs().mean()) for scan in scans()])
    constant = measure(Constant(), path, artifacts)
    for name, (before, after) in constant.items():
        assert before == means[name][0]
        assert after == pytest.approx(expected, rel=1e-4)


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
