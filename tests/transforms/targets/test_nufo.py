"""Targets of crossings: counts in white matter, nothing said elsewhere."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from transforms import DecodeNuFOd, EncodeNuFOd

SHAPE = (5, 7, 4)


@pytest.fixture
def data(affine):
    generator = torch.Generator().manual_seed(5)
    arrays = {
        "nufo": torch.randint(0, 6, (1, *SHAPE), generator=generator, dtype=torch.uint8),
        "white_matter": (torch.rand((1, *SHAPE), generator=generator) > 0.4).to(torch.uint8),
        "mask": (torch.rand((1, *SHAPE), generator=generator) > 0.2).float(),
        "pred": 4 * torch.randn((4, *SHAPE), generator=generator),
    }
    return {key: MetaTensor(array, affine=torch.tensor(affine)) for key, array in arrays.items()}


def test_the_target_is_the_count_in_white_matter_up_to_three_and_nan_elsewhere(data, affine):
    result = EncodeNuFOd()(data)
    label = result["label"].as_tensor()
    assert label.dtype == torch.float32
    inside = data["white_matter"].numpy() > 0
    expected = np.where(inside, np.minimum(data["nufo"].numpy(), 3), np.nan)
    np.testing.assert_array_equal(label.numpy(), expected)
    np.testing.assert_array_equal(result["label"].affine, affine)
    assert "label" not in data


def test_the_outputs_are_probabilities_inside_and_no_fibre_outside(data, affine):
    found = DecodeNuFOd("pred")(data)["pred"]
    np.testing.assert_array_equal(found.affine, affine)
    inside = data["mask"][0].numpy() > 0
    logits, found = data["pred"].numpy().astype(float), found.numpy()
    np.testing.assert_allclose(found[:, inside], (np.exp(logits) / np.exp(logits).sum(axis=0))[:, inside], atol=1e-6)
    assert (found[:, ~inside] == np.array([[1], [0], [0], [0]])).all()


def test_the_mask_can_be_another_one_and_logits_in_half_precision(data):
    data["pred"] = data["pred"].to(torch.bfloat16)
    found = DecodeNuFOd("pred", mask_key="white_matter")(data)["pred"].as_tensor()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=0), torch.ones(SHAPE))
    outside = data["white_matter"][0].as_tensor() == 0
    assert (found[0, outside] == 1).all()


def test_decoding_undoes_encoding(data):
    label = EncodeNuFOd()(data)["label"].as_tensor()[0]
    counts = ~label.isnan()
    data["pred"] = 9.0 * torch.nn.functional.one_hot(torch.nan_to_num(label).long(), 4).movedim(-1, 0)
    decoded = DecodeNuFOd("pred", mask_key="white_matter")(data)["pred"].argmax(dim=0)
    assert torch.equal(decoded[counts].float(), label[counts])
