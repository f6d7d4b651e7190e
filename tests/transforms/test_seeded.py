"""Seeded by scan: a scan's draw depends on its name and the seed, and on nothing that happened before."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, Randomizable, RandomizableTrait, Transform

from transforms.seeded import SeededByScand

SCANS = [f"sub-{number:02d}" for number in range(1, 9)]


def noise(seed=11, **kwargs):
    return SeededByScand([RandGaussianNoised("image", prob=1.0, std=1.0, sample_std=False)], seed=seed, **kwargs)


def draw(transform, scan):
    return transform({"image": torch.zeros(2, 3, 4, 5), "scan": scan})["image"]


def test_a_scan_has_one_draw_whatever_the_order():
    first = {scan: draw(noise(), scan) for scan in SCANS}
    transform = noise()
    for scan in [*reversed(SCANS), *SCANS]:
        assert torch.equal(draw(transform, scan), first[scan])
    assert all(values.std() > 0.5 for values in first.values())


def test_the_global_random_state_plays_no_part():
    torch.manual_seed(1)
    first = draw(noise(), "sub-01")
    torch.manual_seed(2)
    assert torch.equal(draw(noise(), "sub-01"), first)


def test_the_global_random_state_is_left_alone():
    transform = noise()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    draw(transform, "sub-01")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("one_then_other", [(("sub-01", 11), ("sub-02", 11)), (("sub-01", 11), ("sub-01", 12))])
def test_another_scan_or_seed_has_an_independent_draw(one_then_other):
    a, b = (draw(noise(seed), scan).flatten() for scan, seed in one_then_other)
    # 120 values: the correlation of independent draws has a standard deviation of 0.09
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.4


def test_two_transforms_of_one_scan_draw_independently():
    pair = SeededByScand([RandGaussianNoised(key, prob=1.0, std=1.0, sample_std=False) for key in ("a", "b")], seed=11)
    result = pair({"a": torch.zeros(1, 5, 6, 7), "b": torch.zeros(1, 5, 6, 7), "scan": "sub-01"})
    assert abs(torch.corrcoef(torch.stack([result["a"].flatten(), result["b"].flatten()]))[0, 1]) < 0.3


def test_chance_is_drawn_per_scan():
    """An artifact with probability one half is there in some scans and not in others, each time in the same."""
    flip = SeededByScand([RandFlipd("image", prob=0.5, spatial_axis=0)], seed=3)
    image = torch.arange(5.0).reshape(1, 5, 1, 1)
    runs = [
        [bool(flip({"image": image, "scan": f"{i}"})["image"].flatten()[0] == 4) for i in range(100)] for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert 30 < sum(runs[0]) < 70


def test_the_name_stands_where_it_is_said_and_is_kept():
    transform = noise(name_key="subject")
    data = {"image": torch.zeros(2, 3, 4, 5), "subject": "sub-01", "scan": "another"}
    result = transform(data)
    assert torch.equal(result["image"], draw(noise(), "sub-01"))
    assert (result["subject"], result["scan"]) == ("sub-01", "another")
    assert not data["image"].any()


def test_caching_datasets_keep_the_result():
    """MONAI stops caching at the first random transform; this one counts its calls instead."""
    calls = []

    class Count(Transform):
        def __call__(self, data):
            calls.append(data["scan"])
            return data

    transform = SeededByScand([Count(), RandGaussianNoised("image", prob=1.0)], seed=1)
    assert isinstance(transform, Transform)
    assert not isinstance(transform, Randomizable | RandomizableTrait)
    items = [{"image": torch.zeros(1, 2, 3, 4), "scan": scan} for scan in SCANS[:3]]
    dataset = CacheDataset(items, Compose([transform]), num_workers=None, progress=False)
    cached = sorted(calls)
    assert cached == SCANS[:3]
    first = [dataset[i]["image"] for i in range(3)]
    again = [dataset[i]["image"] for i in range(3)]
    assert sorted(calls) == cached
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


class SlowNoise(Randomizable, Transform):
    """Noise whose draw comes some time after its seed, as it does behind slow transforms."""

    def __call__(self, data):
        time.sleep(0.02)
        return {**data, "image": torch.from_numpy(self.R.standard_normal(20))}


def test_threads_do_not_mix_the_draws_of_scans():
    """``CacheDataset`` fills its cache with as many threads as it has workers."""
    alone = SeededByScand([SlowNoise()], seed=5)
    expected = [alone({"scan": scan})["image"] for scan in SCANS]
    shared = SeededByScand([SlowNoise()], seed=5)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda scan: shared({"scan": scan})["image"], SCANS))
    assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * len(SCANS)
