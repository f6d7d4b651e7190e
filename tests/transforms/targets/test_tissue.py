"""Targets of segmentation: what is outside the brain mask is background, and decoding undoes encoding."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from transforms.label_classes import TISSUE_ABBREVIATIONS, TISSUES
from transforms.targets import DecodeTissued, EncodeTissued

SHAPE = (5, 7, 4)


@pytest.fixture
def data(affine):
    generator = torch.Generator().manual_seed(2)
    tissue = torch.randint(0, 4, (1, *SHAPE), generator=generator)
    mask = (torch.rand((1, *SHAPE), generator=generator) > 0.4).float()
    logits = 4 * torch.randn((4, *SHAPE), generator=generator)
    frame = {"affine": torch.tensor(affine)}
    return {
        "tissue": MetaTensor(tissue, **frame),
        "mask": MetaTensor(mask, **frame),
        "pred": MetaTensor(logits, **frame),
    }


def test_indices_are_those_of_bids():
    """https://bids-specification.readthedocs.io, common image-derived labels: 1 gray, 2 white matter, 3 CSF."""
    assert TISSUES[:4] == ("background", "gray matter", "white matter", "cerebrospinal fluid")
    assert TISSUE_ABBREVIATIONS == ("BG", "GM", "WM", "CSF")


def test_the_label_is_the_tissue_inside_the_mask(data, affine):
    result = EncodeTissued()(data)
    label, mask = result["label"].as_tensor(), data["mask"].as_tensor() > 0
    assert label.dtype == torch.float32
    assert label.shape == (1, *SHAPE)
    assert torch.equal(label[mask], data["tissue"].as_tensor()[mask].float())
    assert label[~mask].isnan().all()
    assert {0.0, 1.0, 2.0, 3.0} == set(label[mask].unique().tolist())
    np.testing.assert_array_equal(result["label"].affine, affine)
    assert "label" not in data


def test_a_resampled_mask_counts_from_one_half():
    tissue = torch.full((1, 1, 1, 4), 2)
    mask = torch.tensor([0.2, 0.49, 0.51, 1.0]).reshape(1, 1, 1, 4)
    result = EncodeTissued("seg", "brain", "target")({"seg": tissue, "brain": mask})
    assert result["target"].flatten().tolist() == pytest.approx([np.nan, np.nan, 2, 2], nan_ok=True)


def test_probabilities_are_softmax_inside_and_background_outside(data, affine):
    found = DecodeTissued("pred")(data)["pred"]
    mask = data["mask"][0].as_tensor() > 0
    voxels, logits = found.as_tensor(), data["pred"].as_tensor().double()
    torch.testing.assert_close(
        voxels[:, mask].double(), (logits.exp() / logits.exp().sum(0, keepdim=True))[:, mask], atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(voxels.sum(dim=0), torch.ones(SHAPE))
    assert (voxels[0, ~mask] == 1).all()
    assert not voxels[1:, ~mask].any()
    np.testing.assert_array_equal(found.affine, affine)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_probabilities_that_add_up(data, dtype):
    data["pred"] = data["pred"].to(dtype)
    found = DecodeTissued("pred")(data)["pred"].as_tensor()
    torch.testing.assert_close(found.float().sum(dim=0), torch.ones(SHAPE), atol=1e-5, rtol=0)


def test_large_logits_do_not_overflow():
    logits = torch.tensor([1e4, -1e4, 9990.0, 0.0]).reshape(4, 1, 1, 1)
    found = DecodeTissued("pred")({"pred": logits, "mask": torch.ones(1, 1, 1, 1)})["pred"].flatten()
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 4.5398e-5, 0.0]), atol=1e-7, rtol=1e-3)


def test_decoding_undoes_encoding(data):
    encoded = EncodeTissued()(data)
    label = torch.nan_to_num(encoded["label"].as_tensor()[0])
    encoded["pred"] = 10.0 * torch.nn.functional.one_hot(label.long(), 4).movedim(-1, 0)
    decoded = DecodeTissued("pred")(encoded)["pred"].argmax(dim=0)
    assert torch.equal(decoded.float(), label)


def test_an_untrained_network_cannot_put_tissue_outside_the_brain(data):
    """The mask, not the logits, decides there."""
    data["pred"] = torch.zeros((4, *SHAPE)) + torch.tensor([-9.0, 9, 0, 0]).reshape(4, 1, 1, 1)
    decoded = DecodeTissued("pred")(data)["pred"].argmax(dim=0)
    assert torch.equal(decoded, (data["mask"][0].as_tensor() > 0).long())
