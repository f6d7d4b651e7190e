"""Prepared images and labels whose values cannot be, as after an edit by hand: no network may learn from them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from transforms.errors import InputError, counted
from transforms.label_classes import TISSUES

ROUNDING = 1e-3
"""How far beyond their limits attenuations may lie, which other programs store as scaled whole numbers."""

MAX_PEAKS = 10
"""Largest number of fibre orientations in a label: methods tell fewer apart. ``crossings`` counts more than 3 as 3."""

LONGEST = 1e6
"""Longest component of a peak, so that its length does not overflow."""

MOST_OUTSIDE = 0.5
"""Largest share of a mask or a label that may lie where nothing belongs to it. A tissue map of a T1 covers the head
where the brain mask of a cut-off scan ends; a map of another scan lies elsewhere."""


class Rule(NamedTuple):
    """What an image of a prepared scan holds.

    Attributes:
        expected: values, for messages.
        holds: whether each value is one of these.
        every_volume: whether none of its volumes may be 0 everywhere, and not only the image as a whole.
    """

    expected: str
    holds: Callable[[torch.Tensor], torch.Tensor]
    every_volume: bool = False


def _between(low: float, high: float, rounding: float = 0.0) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: (values >= low - rounding) & (values <= high + rounding)


def _whole(low: float, high: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: (values == torch.round(values)) & (values >= low) & (values <= high)


MASK = Rule("0 and 1", _whole(0, 1))

RULES = {
    "image": Rule("attenuations from 0 to 1", _between(0.0, 1.0, ROUNDING), every_volume=True),
    "b0": Rule("a signal of at least 0", _between(0.0, torch.inf)),
    "mask": MASK,
    "white_matter": MASK,
    "tissue": Rule(f"whole numbers from 0 to {len(TISSUES) - 1}", _whole(0, len(TISSUES) - 1)),
    "tissue_prob": Rule("probabilities from 0 to 1", _between(0.0, 1.0, ROUNDING)),
    "nufo": Rule(f"whole numbers from 0 to {MAX_PEAKS}", _whole(0, MAX_PEAKS)),
    "peak": Rule(f"vectors of components from -{LONGEST:g} to {LONGEST:g}", _between(-LONGEST, LONGEST)),
}
"""Rule of each key. A peak may have any length: its direction counts."""

PLACES = (
    ("mask", "image", "where the scan has no signal"),
    ("mask", "b0", "where the b0 has no signal"),
    ("tissue", "mask", "outside the brain mask"),
    ("white_matter", "mask", "outside the brain mask"),
    ("white_matter", "peak", "where there is no peak"),
)
"""Key of an image, key of the one within which it lies, and what is said of it elsewhere."""


def count_not_finite(image: torch.Tensor) -> int:
    """Count the voxels of an image ``(C, X, Y, Z)`` that are not finite in a channel."""
    return int((~torch.isfinite(image)).any(dim=0).sum())


class RequireValuesd(MapTransform):
    """Refuse images of a prepared scan that hold other values than ``prepare`` and ``label`` write.

    All have to be finite, because one NaN makes all weights of a network NaN. Those of a key in ``RULES`` have to keep
    its rule and not be 0 everywhere, nor may a volume of the image be. A brain mask has to lie where the image and the
    b0 have a signal, a label of tissue or white matter within the mask, and white matter where there are peaks, each
    with at least half of its voxels.

    Args:
        keys: images, ``(C, X, Y, Z)``.

    Examples:
        >>> RequireValuesd("image")({"image": torch.tensor([1.0, torch.nan]).reshape(1, 2, 1, 1)})
        Traceback (most recent call last):
        transforms.errors.InputError: image: found NaN or infinity in 1 voxel, expected numbers.
        >>> RequireValuesd("tissue")({"tissue": torch.tensor([0.0, 1.5]).reshape(1, 2, 1, 1)})
        Traceback (most recent call last):
        transforms.errors.InputError: tissue: found 1.5 in 1 voxel, expected whole numbers from 0 to 3.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check each key of ``data``.

        Raises:
            InputError: names the file, the number of voxels and what was expected.
        """
        keys = list(self.key_iterator(data))
        for key in keys:
            _check_values(_name(data, key), torch.as_tensor(data[key]), RULES.get(str(key)))
        for key, other, place in PLACES:
            if key in keys and other in keys:
                _check_place(_name(data, key), _somewhere(data[key]), _somewhere(data[other]), place)
        return dict(data)


def _check_values(name: str, image: torch.Tensor, rule: Rule | None) -> None:
    if broken := count_not_finite(image):
        raise InputError(f"{name}: found NaN or infinity in {counted(broken, 'voxel')}, expected numbers.")
    if rule is None:
        return
    holds = rule.holds(image)
    if not holds.all():
        wrong = image[~holds]
        voxels = counted(int((~holds).any(dim=0).sum()), "voxel")
        # digits enough to tell 0.9999997 from 1
        low, high = f"{float(wrong.min()):.8g}", f"{float(wrong.max()):.8g}"
        found = low if low == high else f"{low} to {high}"
        raise InputError(f"{name}: found {found} in {voxels}, expected {rule.expected}.")
    empty = ~image.flatten(1).any(dim=1)
    if empty.all() or (rule.every_volume and empty.any()):
        place = "" if empty.all() else f" of {counted(int(empty.sum()), 'volume')}"
        raise InputError(f"{name}: found 0 in all voxels{place}, expected {rule.expected}.")


def _check_place(name: str, found: torch.Tensor, where: torch.Tensor, place: str) -> None:
    share = float((found & ~where).sum() / found.sum())
    if share > MOST_OUTSIDE:
        raise InputError(
            f"{name}: found {100 * share:.0f}% of it {place}, expected at most {100 * MOST_OUTSIDE:.0f}%: "
            "is it of another scan?"
        )


def _somewhere(image: torch.Tensor) -> torch.Tensor:
    return (torch.as_tensor(image) != 0).any(dim=0)


def _name(data: Mapping[Hashable, Any], key: Hashable) -> str:
    image = data[key]
    return str(image.meta.get("filename_or_obj", key) if hasattr(image, "meta") else key)
