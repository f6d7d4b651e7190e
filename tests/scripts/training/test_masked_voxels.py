"""Masked voxels: what is blanked, what counts, and that a seed decides it."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.training.losses import MaskedL1Loss
from scripts.training.masked_voxels import MIN_BLANK, MaskedVoxelsBatch
from transforms.errors import InputError

SHAPE = (40, 29, 51)


def make_batch(n=3, channels=4, shape=SHAPE):
    generator = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij"))
    mask = ((grid**2).sum(dim=0) < 0.9)[None]
    images = 0.1 + 0.8 * torch.rand((n, channels, *shape), generator=generator)
    return {
        "image": MetaTensor((images * mask).half()),
        "mask": MetaTensor(mask.expand(n, 1, *shape).to(torch.uint8)),
        "scan": [f"sub-{index}" for index in range(n)],
    }


def test_target_counts_masked_voxels_of_the_brain_and_the_rest_of_the_input_is_the_image():
    batch = make_batch()
    image, target = MaskedVoxelsBatch(seed=1)(batch, "cpu")
    clean, inside = batch["image"].as_tensor().float(), batch["mask"].as_tensor() > 0
    assert image.dtype == target.dtype == torch.float32
    counts = ~torch.isnan(target)
    # all directions of a voxel are masked together
    assert torch.equal(counts, counts[:, :1].expand_as(counts))
    assert not (counts & ~inside).any()
    assert torch.equal(target[counts], clean[counts])
    assert torch.equal(image[~counts], clean[~counts])
    assert not image[~inside.expand_as(image)].any()
    # nothing of what is to be found is left in the input, and a masked voxel is not taken for background
    for one, count, seen in zip(image, counts, clean * ~counts, strict=True):
        blanks = one[:, count[0]]
        assert torch.equal(blanks, blanks[:, :1].expand_as(blanks))
        expected = [channel[channel > 0].mean() for channel in seen]
        torch.testing.assert_close(blanks[:, 0], torch.stack(expected), atol=1e-4, rtol=0)
        assert (blanks > 0).all()


@pytest.mark.parametrize("block", [8, 5])
def test_blocks_are_masked_whole_in_the_share_that_was_drawn(block):
    batch = make_batch(n=40, channels=1)
    batch["image"], batch["mask"] = torch.full_like(batch["image"], 0.5), torch.ones_like(batch["mask"])
    masked = ~torch.isnan(MaskedVoxelsBatch(block=block, seed=3)(batch, "cpu")[1][:, 0]).numpy()
    shares = []
    for one in masked:
        starts = [range(0, side, block) for side in SHAPE]
        blocks = [
            one[x : x + block, y : y + block, z : z + block] for x in starts[0] for y in starts[1] for z in starts[2]
        ]
        assert all(part.all() or not part.any() for part in blocks)
        shares.append(np.mean([part.all() for part in blocks]))
    rounding = 0.5 / len(blocks)
    assert min(shares) >= 0.6 - rounding
    assert max(shares) <= 0.75 + rounding
    assert max(shares) - min(shares) > 0.06
    # every place is masked in some scan and seen in another
    assert masked.any(axis=0).all()
    assert not masked.all(axis=0).any()


def test_with_a_seed_a_scan_is_masked_alike_in_any_batch_and_without_one_anew():
    batch = make_batch()
    prepare = MaskedVoxelsBatch(seed=5)
    image, target = prepare(batch, "cpu")
    torch.rand(3)
    for index in (2, 0, 1):
        alone = {key: value[index : index + 1] for key, value in batch.items()}
        again = prepare(alone, "cpu")
        torch.testing.assert_close(again[0][0], image[index], atol=1e-6, rtol=0)
        assert torch.equal(torch.isnan(again[1][0]), torch.isnan(target[index]))
    counts = ~torch.isnan(target)
    assert not torch.equal(counts[0], counts[1])
    assert not torch.equal(~torch.isnan(MaskedVoxelsBatch(seed=6)(batch, "cpu")[1]), counts)

    def draw(seed):
        torch.manual_seed(seed)
        return torch.stack([~torch.isnan(MaskedVoxelsBatch()(batch, "cpu")[1]) for _ in range(2)])

    first, other = draw(1), draw(2)
    assert torch.equal(draw(1), first)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, other)


def test_what_is_masked_does_not_follow_the_gain():
    batch = make_batch(n=40, channels=1)
    prepare = MaskedVoxelsBatch(seed=5, gain=(0.5, 0.9))
    target = prepare(batch, "cpu")[1]
    gains = (target / batch["image"].as_tensor().float()).nanmean(dim=(1, 2, 3, 4))
    shares = (~torch.isnan(target)).float().mean(dim=(1, 2, 3, 4))
    # of 40 independent pairs, the correlation has a standard deviation of 0.16
    assert abs(np.corrcoef(gains, shares)[0, 1]) < 0.5


def test_the_loss_of_the_input_is_what_the_mean_of_the_seen_voxels_errs():
    batch = make_batch()
    image, target = MaskedVoxelsBatch(seed=2)(batch, "cpu")
    counts = ~torch.isnan(target)
    # uniform numbers from 0.1 to 0.9 are 0.2 from their mean on average
    assert float(MaskedL1Loss()(image, target)) == pytest.approx(0.2, abs=0.002)
    assert float(MaskedL1Loss()(torch.where(counts, target, 9.0), target)) == 0


def test_a_brain_that_is_masked_whole_has_a_blank_that_is_not_background():
    image, target = MaskedVoxelsBatch(share=(1, 1))(make_batch(n=1), "cpu")
    blanks = image[~torch.isnan(target)]
    assert len(blanks) > 1000
    torch.testing.assert_close(blanks, torch.full_like(blanks, MIN_BLANK))
    with pytest.raises(InputError, match=r"share: found .* expected a range"):
        MaskedVoxelsBatch(share=(0.5, 1.2))
    with pytest.raises(InputError, match="block: found 0, expected"):
        MaskedVoxelsBatch(block=0)
