"""Attenuation: the ratio where there is signal, 0 where there is none, and never NaN."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import MetaTensor

from transforms.attenuation import Attenuation, Attenuationd, has_b0_signal

SHAPE = (5, 6, 7)


def scan(seed=0):
    generator = torch.Generator().manual_seed(seed)
    b0 = 500 + 1000 * torch.rand((1, *SHAPE), generator=generator)
    return b0 * (0.05 + 0.9 * torch.rand((4, *SHAPE), generator=generator)), b0


def test_signal_is_b0_times_exp_of_minus_b_times_diffusivity():
    diffusivity = torch.rand((4, *SHAPE), generator=torch.Generator().manual_seed(1)) * 3e-3
    _, b0 = scan()
    found = Attenuation()(b0 * torch.exp(-1000 * diffusivity), b0)
    torch.testing.assert_close(-torch.log(found) / 1000, diffusivity, rtol=1e-4, atol=1e-8)


def test_noise_beyond_the_limits_is_clipped():
    b0 = torch.full((1, *SHAPE), 200.0)
    image = torch.stack([torch.full(SHAPE, value) for value in (-30.0, 0.0, 50.0, 200.0, 260.0)])
    assert Attenuation()(image, b0)[:, 2, 3, 4].tolist() == [0.0, 0.0, 0.25, 1.0, 1.0]


def test_no_signal_is_zero():
    """Air has a b0 of a fraction of a thousandth of the head's, and any ratio to it would be noise."""
    image, b0 = scan()
    b0[0, 0] = torch.tensor([0.0, -4.0, 1e-3, 0.4, 0.0, 1e-20])[:, None]
    image[:, 0] = 300.0
    found = Attenuation()(image, b0)
    assert not found[:, 0].any()
    torch.testing.assert_close(found[:, 1:], image[:, 1:] / b0[:, 1:])
    assert not Attenuation()(image, torch.zeros_like(b0)).any()


def test_one_voxel_of_artifact_does_not_hide_the_head():
    image, b0 = scan()
    expected = Attenuation()(image, b0)
    b0[0, 2, 2, 2] = 1e9
    found = Attenuation()(image, b0)
    others = torch.ones(SHAPE, dtype=torch.bool)
    others[2, 2, 2] = False
    torch.testing.assert_close(found[:, others], expected[:, others])


def test_a_head_in_few_voxels_has_signal():
    """Less than a hundredth of a large field of view."""
    b0 = torch.zeros((1, 30, 20, 10))
    b0[0, 3, 4, 5] = 700.0
    assert has_b0_signal(b0).nonzero().tolist() == [[0, 3, 4, 5]]


def test_a_b0_that_is_not_positive_is_no_signal():
    """Also where all of it is negative, as after a wrong rescaling, so that the percentile is no floor."""
    b0 = torch.full((1, *SHAPE), -1.0)
    b0[0, 1, 2] = torch.tensor([0.0, -1e-5, -1e-9, -2.0, 0.0, -1e-3, -1.0])
    assert not has_b0_signal(b0).any()
    assert not Attenuation()(b0 / 2, b0).any()


@pytest.mark.parametrize("unit", [1e-3, 1e6, 2.0**-30])
def test_the_unit_of_the_signal_does_not_matter(unit):
    image, b0 = scan()
    b0[0, 0] *= 1e-5
    found = Attenuation()(image * unit, b0 * unit)
    torch.testing.assert_close(found, Attenuation()(image, b0), atol=1e-6, rtol=1e-5)
    assert not found[:, 0].any()
    assert found[:, 1:].all()


@given(
    values=hnp.arrays(np.float32, (4, 2, 3, 2), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
)
@settings(deadline=None, max_examples=150)
def test_whatever_is_in_the_file_the_result_is_in_the_unit_interval(values):
    image, b0 = torch.from_numpy(values[1:]), torch.from_numpy(values[:1])
    found = Attenuation()(image, b0)
    assert torch.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1
    unusable = ~torch.isfinite(image) | ~torch.isfinite(b0) | (b0 <= 0)
    assert not found[unusable].any()


def test_a_broken_voxel_leaves_the_others_as_they_are():
    image, b0 = scan()
    expected = Attenuation()(image, b0)
    b0[0, 0, 0, 0], b0[0, 0, 0, 1] = torch.nan, torch.inf
    image[0, 0, 0, 2], image[2, 0, 0, 2], image[3, 0, 0, 3] = torch.inf, torch.nan, -torch.inf
    expected[:, 0, 0, :2] = 0
    expected[0, 0, 0, 2] = expected[2, 0, 0, 2] = expected[3, 0, 0, 3] = 0
    assert torch.equal(Attenuation()(image, b0), expected)


def test_dictionary_form_keeps_the_affine_and_its_input(affine):
    image, b0 = scan()
    data = {
        "image": MetaTensor(image.clone(), affine=torch.tensor(affine)),
        "mean_b0": MetaTensor(b0, affine=torch.tensor(affine)),
        "other": 3,
    }
    result = Attenuationd("image", b0_key="mean_b0")(data)
    assert torch.equal(result["image"].as_tensor(), image / b0)
    np.testing.assert_array_equal(result["image"].affine, affine)
    assert torch.equal(data["image"].as_tensor(), image)
    assert result["other"] == 3
    assert torch.equal(result["mean_b0"].as_tensor(), b0)
