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

MOST_OUTSIDE = 0.5
"""Largest share of a mask or a label that may lie where nothing belongs to it. A tissue map of a T1 covers the head
where the brain mask of a cut-off scan ends; a map of another scan lies elsewhere."""


class Rule(NamedTuple):
    """What an image of a prepared scan holds.

    Attributes:
        expected: values, for messages.
        holds: whether each value is one of these.
    """

    expected: str
    holds: Callable[[torch.Tensor], torch.Tensor]


def _between(low: float, high: float, rounding: float = 0.0) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: (values >= low - rounding) & (values <= high + rounding)


def _whole(low: float, high: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: (values == torch.round(values)) & (values >= low) & (values <= high)


MASK = Rule("0 and 1", _whole(0, 1))

RULES = {
    "image": Rule("attenuations from 0 to 1", _between(0.0, 1.0, ROUNDING)),
    "b0": Rule("a signal of at least 0", _between(0.0, torch.inf)),
    "mask": MASK,
    "white_matter": MASK,
    "tissue": Rule(f"whole numbers from 0 to {len(TISSUES) - 1}", _whole(0, len(TISSUES) - 1)),
    "tissue_prob": Rule("probabilities from 0 to 1", _between(0.0, 1.0, ROUNDING)),
    "nufo": Rule("whole numbers of at least 0", _whole(0, torch.inf)),
    "peak": Rule("vectors", torch.isfinite),
}
"""Rule of each key. A peak may have any length: its direction counts."""


def count_not_finite(image: torch.Tensor) -> int:
    """Count the voxels of an image ``(C, X, Y, Z)`` that are not finite in a channel."""
    return int((~torch.isfinite(image)).any(dim=0).sum())


class RequireValuesd(MapTransform):
    """Refuse images of a prepared scan that hold other values than ``prepare`` and ``label`` write.

    All have to be finite, because one NaN makes all weights of a network NaN. Those of a key in ``RULES`` have to keep
    its rule and not be 0 everywhere. A brain mask has to lie where the image has a signal, and a label of tissue or
    white matter within the mask, each with at least half of its voxels.

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
        if "mask" in keys:
            inside = _somewhere(data["mask"])
            for key in ("white_matter", "tissue"):
                if key in keys:
                    _check_place(_name(data, key), _somewhere(data[key]), inside, "outside the brain mask")
            if "image" in keys:
                _check_place(_name(data, "mask"), inside, _somewhere(data["image"]), "where the scan has no signal")
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
        low, high = f"{float(wrong.min()):g}", f"{float(wrong.max()):g}"
        found = low if low == high else f"{low} to {high}"
        raise InputError(f"{name}: found {found} in {voxels}, expected {rule.expected}.")
    if not image.any():
        raise InputError(f"{name}: found 0 in all voxels, expected {rule.expected}.")


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
