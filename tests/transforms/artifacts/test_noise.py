"""Gaussian noise: moments, independence, and numbers that do not depend on threads."""

import numpy as np
import pytest
import torch
from artifact_scans import assert_uniform, generator
from scipy import stats

from transforms.artifacts import Noise, NoiseParams
from transforms.errors import InputError


def test_has_the_drawn_mean_and_deviation():
    image = torch.full((6, 30, 31, 29), 0.5)
    added = NoiseParams(mean=0.02, std=0.1, seed=5).apply(image) - image
    assert float(added.mean()) == pytest.approx(0.02, abs=0.001)
    assert float(added.std()) == pytest.approx(0.1, rel=0.01)
    # no correlation between directions, between neighbours, or between the slabs, which are drawn separately
    for axis in range(4):
        lines = added.movedim(axis, 0).reshape(added.shape[axis], -1).numpy()
        correlation = np.corrcoef(lines) - np.eye(len(lines))
        assert abs(correlation).max() < 5 / np.sqrt(lines.shape[1])


def test_is_normal():
    added = NoiseParams(mean=0.0, std=1.0, seed=6).apply(torch.zeros(5, 20, 21, 19))
    assert stats.kstest(added.flatten().numpy(), "norm").pvalue > 0.001


def test_numbers_do_not_depend_on_the_number_of_threads():
    params, image, threads = NoiseParams(mean=0.0, std=1.0, seed=6), torch.zeros(5, 20, 21, 19), torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(params.apply(image))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_draws_follow_the_ranges():
    noise, source = Noise(mean=[-1, 1]), generator(17)
    drawn = [noise.sample(source, (5, 4, 4, 4)) for _ in range(2000)]
    assert_uniform([p.std for p in drawn], 0, 0.25)
    assert_uniform([p.mean for p in drawn], -1, 1)
    assert len({p.seed for p in drawn}) == 2000


@pytest.mark.parametrize(("argument", "value"), [("std", [-0.1, 0.2]), ("mean", "0"), ("prob", None)])
def test_unusable_arguments_are_named(argument, value):
    with pytest.raises(InputError, match=f"^{argument}: found .* expected"):
        Noise(**{argument: value})
