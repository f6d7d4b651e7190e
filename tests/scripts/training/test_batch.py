"""Batches of a pretraining: what the network sees, what counts, and that a seed decides it."""

import zlib

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, pad_list_data_collate

from scripts.training.batch import SelfSupervisedBatch
from transforms.artifacts import PRESETS, Noise, ScanInfo, preset
from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError


@pytest.mark.parametrize("wrap", [torch.as_tensor, MetaTensor])
def test_the_batch_is_clipped_masked_and_the_target_is_nan_outside(wrap):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 4, 5, 6)
    image = 3 * torch.rand(shape, generator=generator) - 1
    label = torch.rand(shape, generator=generator)
    mask = (torch.rand((2, 1, *shape[2:]), generator=generator) > 0.4).float()
    given_image = image.clone()
    batch = {"image": wrap(image), "label": wrap(label), "mask": wrap(mask)}
    corrupted, target = SelfSupervisedBatch()(batch, torch.device("cpu"), non_blocking=False, extra=1)
    assert type(corrupted) is torch.Tensor
    assert type(target) is torch.Tensor
    inside = np.broadcast_to(mask.numpy() > 0.5, shape)
    np.testing.assert_array_equal(corrupted.numpy(), np.where(inside, np.clip(image.numpy(), 0, 1), 0))
    np.testing.assert_array_equal(target.numpy(), np.where(inside, label.numpy(), np.nan))
    assert torch.equal(image, given_image)


def clean_batch(names, seed=0):
    """Batch as a loader gives it: half precision, with affines of different voxel sizes."""
    shape = (10, 9, 10, 8)
    items = []
    for name in names:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
        affine = torch.diag(torch.tensor([2.0, 1.5 + len(name) / 4, 3.0, 1.0], dtype=torch.float64))
        image = torch.rand(shape, generator=generator).half()
        b0 = 100 + torch.rand((1, *shape[1:]), generator=generator)
        images = {"image": image, "mask": torch.ones_like(b0).to(torch.uint8), "b0": b0}
        items.append({"scan": name, **{key: MetaTensor(value, affine=affine) for key, value in images.items()}})
    return pad_list_data_collate(items)


DIRECTIONS = default_scheme()[:10].tolist()


@pytest.mark.parametrize("name", PRESETS)
def test_the_batch_is_corrupted_scan_by_scan_and_the_clean_one_is_the_target(name):
    batch = clean_batch(["sub-1", "sub-02", "sub-003"])
    before = batch["image"].clone()
    prepare = SelfSupervisedBatch(preset(name, prob=1.0), DIRECTIONS, seed=5)
    corrupted, target = prepare(batch, "cpu")
    assert torch.equal(batch["image"], before)
    assert corrupted.dtype == target.dtype == torch.float32
    np.testing.assert_array_equal(target.numpy(), before.float().numpy())
    for index in range(3):
        plain = {key: batch[key][index].as_tensor() for key in ("image", "b0", "mask")}
        info = ScanInfo(batch["image"].affine[index].numpy(), np.array(DIRECTIONS), plain["b0"], plain["mask"])
        expected = plain["image"].float()
        for params in prepare.params[index]:
            expected = params.apply(expected, info)
        torch.testing.assert_close(corrupted[index], expected.clamp(0, 1))
    assert len({float(image.mean()) for image in corrupted - target}) == 3


def test_with_a_seed_a_scan_gets_the_same_artifacts_in_any_batch():
    prepare = SelfSupervisedBatch(preset("normal"), DIRECTIONS, seed=5)
    names = [f"sub-{index}" for index in range(9)]
    together = prepare(clean_batch(names), "cpu")[0]
    torch.rand(5)
    assert any(prepare.params)
    alone = [prepare(clean_batch([name]), "cpu")[0][0] for name in names[::-1]]
    assert torch.equal(torch.stack(alone[::-1]), together)
    other = SelfSupervisedBatch(preset("normal"), DIRECTIONS, seed=6)(clean_batch(names), "cpu")[0]
    assert not torch.equal(other, together)


@pytest.mark.parametrize("artifacts", [[], preset("light", prob=1.0)], ids=["autoencoder", "artifacts"])
def test_a_gain_multiplies_the_scan_and_its_target_alike_and_is_another_for_each_scan(artifacts):
    names = [f"sub-{index}" for index in range(6)]
    batch = clean_batch(names)
    prepare = SelfSupervisedBatch(artifacts, DIRECTIONS, seed=5, gain=(0.5, 0.8))
    corrupted, target = prepare(batch, "cpu")
    ratio = target / batch["image"].as_tensor().float()
    gains = ratio.nanmean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(
        ratio.nan_to_num(1.0), gains[:, None, None, None, None].expand_as(ratio), rtol=1e-4, atol=0
    )
    assert ((gains > 0.5) & (gains < 0.8)).all()
    assert len(set(gains.tolist())) == 6
    if not artifacts:
        torch.testing.assert_close(corrupted, target.clamp(0, 1))
    assert torch.equal(prepare(clean_batch(names[:1]), "cpu")[1], target[:1])


def test_a_share_of_the_scans_stays_clean():
    batch = clean_batch([f"sub-{index}" for index in range(400)])
    prepare = SelfSupervisedBatch([Noise(prob=1.0)], DIRECTIONS, seed=2, clean_share=0.25)
    corrupted, target = prepare(batch, "cpu")
    clean = [torch.equal(image, label) for image, label in zip(corrupted, target, strict=True)]
    assert clean == [not params for params in prepare.params]
    # within four standard deviations
    assert 0.16 < np.mean(clean) < 0.34
    assert SelfSupervisedBatch([Noise(prob=1.0)], DIRECTIONS, seed=2)(batch, "cpu")[0].ne(target).any(dim=1).all()
    with pytest.raises(InputError, match=r"clean_share: found 1\.5, expected a probability from 0 to 1"):
        SelfSupervisedBatch(clean_share=1.5)


def test_without_a_seed_artifacts_follow_the_seed_of_the_epoch():
    prepare, batch = SelfSupervisedBatch(preset("normal"), DIRECTIONS), clean_batch(["sub-1", "sub-2", "sub-3"])

    def draw(seed):
        torch.manual_seed(seed)
        return [prepare(batch, "cpu")[0] for _ in range(2)]

    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
