"""Bias field: the exponential of a polynomial."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from artifact_scans import assert_uniform, generator

from transforms.artifacts import BiasField, BiasFieldParams
from transforms.errors import InputError


@pytest.mark.parametrize("shape", [(3, 18, 23, 15), (2, 5, 8, 6), (1, 1, 7, 4)])
def test_is_the_exponential_of_the_polynomial(shape):
    params = BiasFieldParams(order=1, coefficients=[0.1, 0.2, -0.3, 0.4])  # 1, z, y, x
    image = torch.rand(shape, generator=generator(0), dtype=torch.float64) + 0.1
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape[1:]), indexing="ij")
    field = (params.apply(image) / image).numpy()
    np.testing.assert_allclose(field, np.broadcast_to(np.exp(0.1 + 0.2 * z - 0.3 * y + 0.4 * x), shape), rtol=1e-10)


def test_the_order_of_the_terms():
    image = torch.ones(1, 5, 6, 7, dtype=torch.float64)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (5, 6, 7)), indexing="ij")
    powers = [(i, j, k) for i in range(4) for j in range(4 - i) for k in range(4 - i - j)]
    for index, (i, j, k) in enumerate(powers):
        one = BiasFieldParams(order=3, coefficients=[0.5 if n == index else 0.0 for n in range(20)])
        np.testing.assert_allclose(one.apply(image)[0].numpy(), np.exp(0.5 * x**i * y**j * z**k), rtol=1e-10)


def test_draws_follow_the_ranges():
    source = generator(17)
    drawn = [BiasField().sample(source, (5, 4, 4, 4)) for _ in range(500)]
    assert {len(p.coefficients) for p in drawn} == {20}
    assert_uniform([p.coefficients for p in drawn], -0.5, 0.5)


@pytest.mark.parametrize(("argument", "value"), [("coefficients", [0.5]), ("order", -1), ("order", 1.5)])
def test_unusable_arguments_are_named(argument, value):
    with pytest.raises(InputError, match=f"^{argument}: found .* expected"):
        BiasField(**{argument: value})


def test_by_default_a_field_keeps_the_mean_and_its_shape():
    image = torch.rand(3, 5, 7, 4, generator=generator(4)) + 0.1
    drawn = BiasField().sample(generator(5), image.shape)
    assert drawn.keep_mean
    kept, changed = drawn.apply(image), replace(drawn, keep_mean=False).apply(image)
    assert kept.mean() == pytest.approx(float(image.mean()), rel=1e-5)
    assert abs(float(changed.mean() / image.mean()) - 1) > 0.05
    ratio = kept / changed
    assert float(ratio.max() - ratio.min()) < 1e-5
    assert not BiasField().sample(generator(5), image.shape).apply(torch.zeros_like(image)).any()
